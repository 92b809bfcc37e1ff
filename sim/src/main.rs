//! `epicserver-sim`: runs worlds, seed after seed, and says which broke a law.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use epicserver_sim::planted::Planted;
use epicserver_sim::world::{self, Report, WorldConfig};
use epicserver_sim::{ALL_CHECKS, Checks};
use serde_json::json;

/// Run simulated worlds of two cores a node, each from one seed, and check the laws in them.
///
/// Exits with 1 if a law was broken, or if a check was never made over many seeds. The same seed gives the same trace.
#[derive(Parser)]
#[command(name = "epicserver-sim", version)]
struct Options {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// Run this seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "start"])]
    seed: Option<u64>,
    /// Print every event.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Have a bug, to see that it is found.
    #[arg(long, value_name = "BUG", value_parser = planted)]
    planted: Option<Planted>,
}

fn planted(name: &str) -> Result<Planted, String> {
    let names: Vec<&str> = Planted::ALL.iter().map(|(name, _)| *name).collect();
    Planted::named(name).ok_or_else(|| format!("the bugs are: {}", names.join(", ")))
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seeds = match options.seed {
        Some(seed) => seed..seed.saturating_add(1),
        None => options.start..options.start.saturating_add(options.seeds),
    };
    let mut totals = Totals::default();
    let watched = std::io::stderr().is_terminal() && !options.json && !options.trace;
    for seed in seeds {
        let config = WorldConfig { seed, planted: options.planted, verbose: options.trace };
        let report = world::run(config);
        totals.add(&report);
        if report.violation.is_some() {
            tell_failure(&report, &options);
        } else if options.seed.is_some() {
            println!("seed {seed}: {} events, trace {:016x}", report.events, report.trace_hash);
        }
        if watched && seed % PROGRESS_SEEDS == 0 {
            eprint!("\r{} seeds, {} calls, {} failed ", totals.seeds, totals.calls, totals.failed.len());
        }
    }
    if watched {
        eprintln!();
    }
    totals.tell(&options)
}

fn tell_failure(report: &Report, options: &Options) {
    let Some(violation) = &report.violation else { return };
    let bug = options.planted.and_then(|bug| Planted::ALL.iter().find(|(_, known)| *known == bug));
    let bug = bug.map(|(name, _)| format!(" --planted {name}")).unwrap_or_default();
    let replay = format!("cargo run --release -p epicserver-sim -- --seed {} --trace{bug}", report.seed);
    if options.json {
        let line = json!({
            "seed": report.seed, "law": violation.law, "what": violation.what, "replay": replay,
            "last_events": report.last_events,
        });
        println!("{line}");
        return;
    }
    println!("seed {} breaks {violation}", report.seed);
    if !options.trace {
        report.last_events.iter().for_each(|line| println!("  {line}"));
    }
    println!("replay: {replay}\n");
}

/// What all seeds together gave.
#[derive(Default)]
struct Totals {
    seeds: u64,
    calls: u64,
    remote_calls: u64,
    events: u64,
    world_ns: u64,
    failed: Vec<u64>,
    checks: Checks,
    faults: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.calls += report.calls;
        self.remote_calls += report.remote_calls;
        self.events += report.events;
        self.world_ns += report.world_ns;
        self.failed.extend(report.violation.as_ref().map(|_| report.seed));
        for (check, count) in &report.checks {
            *self.checks.entry(*check).or_default() += count;
        }
        for (kind, count) in &report.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }

    /// Checks that were never made, where there were enough seeds to make each.
    fn idle_checks(&self) -> Vec<&'static str> {
        let missing = ALL_CHECKS.iter().filter(|check| !self.checks.contains_key(check));
        if self.seeds < SEEDS_FOR_ALL { Vec::new() } else { missing.map(|(_, name)| *name).collect() }
    }

    fn tell(&self, options: &Options) -> ExitCode {
        let idle = self.idle_checks();
        if options.json {
            println!("{}", self.as_json(&idle));
        } else {
            self.print(&idle);
        }
        let good = self.failed.is_empty() && idle.is_empty();
        // A reader that went away does not change the outcome.
        let _ = std::io::stdout().flush();
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn as_json(&self, idle: &[&str]) -> serde_json::Value {
        let checks: serde_json::Map<_, _> = self
            .checks
            .iter()
            .map(|((law, name), count)| (format!("law {law}: {name}"), json!(count)))
            .collect();
        json!({
            "seeds": self.seeds, "failed": self.failed, "calls": self.calls, "remote_calls": self.remote_calls, "events": self.events,
            "world_s": self.world_ns as f64 / 1e9, "checks": checks, "checks_never_made": idle, "faults": self.faults,
        })
    }

    fn print(&self, idle: &[&str]) {
        println!(
            "{} seeds, {} calls and {} between nodes, {} events, {:.1} s of world time, {} failed",
            self.seeds,
            self.calls,
            self.remote_calls,
            self.events,
            self.world_ns as f64 / 1e9,
            self.failed.len()
        );
        for ((law, name), count) in &self.checks {
            println!("  law {law}: {name}: checked {count} times");
        }
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        println!("  faults: {}", faults.join(", "));
        idle.iter().for_each(|name| println!("  NEVER CHECKED: {name}"));
        if !self.failed.is_empty() {
            println!("  failed seeds: {:?}", self.failed);
        }
    }
}

/// Seeds after which every check must have been made.
const SEEDS_FOR_ALL: u64 = 100;
const PROGRESS_SEEDS: u64 = 10;
