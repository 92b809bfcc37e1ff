//! `epicserver-sim`: runs worlds, seed after seed, and says which broke a law.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use clap::Parser;
use epicserver_sim::planted::Planted;
use epicserver_sim::world::{self, Report, WorldConfig, WorldKind};
use epicserver_sim::{ALL_CHECKS, CALLS_ONCE, CHECKS_OF_MOVES, Checks, Edits, SHRINK_RUNS, Shrunk};
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
    /// How many worlds run side by side [default: one for each processor].
    #[arg(long, conflicts_with = "seed")]
    jobs: Option<NonZeroUsize>,
    /// Run worlds of this kind alone: of nodes that are there for ever, that come and go, or that do so
    /// over a network that parts them.
    #[arg(long, value_name = "KIND", value_parser = kind)]
    world: Option<WorldKind>,
    /// Simplify the tape of the seed, as a failure says: it ends at a byte, and stretches of it are zero.
    #[arg(long, value_name = "END:FROM-TO,..", requires = "seed", default_value_t = Edits::default())]
    tape: Edits,
    /// Do not look for a smaller run that fails like the first seed that does.
    #[arg(long)]
    no_shrink: bool,
    /// Print every event.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Have a bug, to see that it is found; without a name each of them, in as many seeds as it takes.
    #[arg(long, value_name = "BUG", value_parser = planted, num_args = 0..=1, default_missing_value = "all")]
    planted: Option<Bugs>,
}

/// Which bugs to plant.
#[derive(Clone, Copy)]
enum Bugs {
    All,
    One(Planted),
}

fn kind(name: &str) -> Result<WorldKind, String> {
    WorldKind::named(name).ok_or_else(|| "the kinds are: fixed, moving, parted".to_owned())
}

fn planted(name: &str) -> Result<Bugs, String> {
    if name == "all" {
        return Ok(Bugs::All);
    }
    let names: Vec<&str> = Planted::ALL.iter().map(|(name, _)| *name).collect();
    Planted::named(name).map(Bugs::One).ok_or_else(|| format!("the bugs are: {}", names.join(", ")))
}

fn main() -> ExitCode {
    let options = Options::parse();
    let planted = match options.planted {
        Some(Bugs::All) => return find_all(&options),
        Some(Bugs::One(planted)) => Some(planted),
        None => None,
    };
    let seeds = match options.seed {
        Some(seed) => seed..seed.saturating_add(1),
        None => options.start..options.start.saturating_add(options.seeds),
    };
    let mut totals = Totals { seeds: seeds.end - seeds.start, ..Totals::default() };
    let since = now();
    let mut shrinking = Duration::ZERO;
    let watched = std::io::stderr().is_terminal() && !options.json && !options.trace;
    for_each_report(&options, planted, seeds, |config, report| {
        totals.add(report);
        if report.violation.is_some() {
            let since = now();
            let shrunk = shrink(config, report, &options, totals.failed.len());
            shrinking += since.elapsed();
            tell_failure(config, report, shrunk.as_ref(), &options);
        }
        let Report { seed, kind, events, trace_hash, .. } = report;
        if options.seed.is_some() {
            println!("seed {seed} {}: {events} events, trace {trace_hash:016x}", kind.name());
        }
        if watched && totals.worlds.is_multiple_of(PROGRESS_WORLDS) {
            eprint!("\r{} worlds, {} calls, {} failed ", totals.worlds, totals.calls, totals.failed.len());
        }
    });
    if watched {
        eprintln!();
    }
    totals.tell(since.elapsed() - shrinking, &options)
}

/// Runs the worlds of these seeds, some side by side, and hands over what came of each, as they end.
fn for_each_report(
    options: &Options,
    planted: Option<Planted>,
    seeds: Range<u64>,
    mut handle: impl FnMut(&WorldConfig, &Report),
) {
    let jobs = match options.seed {
        Some(_) => NonZeroUsize::MIN,
        None => options.jobs.unwrap_or_else(processors),
    };
    let next = AtomicU64::new(seeds.start);
    let (reports, reported) = sync_channel(jobs.get());
    std::thread::scope(|scope| {
        for _ in 0..jobs.get() {
            let (next, seeds, reports) = (&next, &seeds, reports.clone());
            scope.spawn(move || run_seeds(options, planted, || next_of(next, seeds), &reports));
        }
        drop(reports);
        for (config, report) in reported {
            handle(&config, &report);
        }
    });
}

fn next_of(next: &AtomicU64, seeds: &Range<u64>) -> Option<u64> {
    let seed = next.fetch_add(1, Ordering::Relaxed);
    seeds.contains(&seed).then_some(seed)
}

/// A world runs in one thread, and shares nothing with those of others that it could see.
fn run_seeds(
    options: &Options,
    planted: Option<Planted>,
    next: impl Fn() -> Option<u64>,
    reports: &SyncSender<(WorldConfig, Report)>,
) {
    while let Some(seed) = next() {
        for kind in WorldKind::ALL.into_iter().filter(|kind| options.world.is_none_or(|only| only == *kind)) {
            let edits = options.tape.clone();
            let config = WorldConfig { seed, kind, edits, planted, verbose: options.trace };
            let report = world::run(&config);
            if reports.send((config, report)).is_err() {
                return;
            }
        }
    }
}

fn processors() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Plants one bug after the other, and looks for the first seed that finds it.
fn find_all(options: &Options) -> ExitCode {
    let mut all_found = true;
    for (name, planted) in Planted::ALL {
        let finds = |seed: &u64| {
            let config = WorldConfig {
                seed: *seed,
                kind: planted.world(),
                planted: Some(*planted),
                ..WorldConfig::default()
            };
            world::run(&config).violation.is_some()
        };
        let found = (0..options.seeds).position(|nth| finds(&(options.start + nth)));
        all_found &= found.is_some();
        let seeds = found.map_or(options.seeds, |nth| nth as u64 + 1);
        if options.json {
            println!("{}", json!({ "bug": name, "found": found.is_some(), "seeds": seeds }));
        } else {
            let outcome = if found.is_some() { "found" } else { "NOT FOUND" };
            println!("{name}: {outcome} in {seeds} seeds");
        }
    }
    if all_found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A smaller run that fails like the first seed that does; the others are told as they are.
fn shrink(config: &WorldConfig, report: &Report, options: &Options, failed: usize) -> Option<Shrunk> {
    let is_as_the_seed = config.edits == Edits::default();
    if options.no_shrink || options.trace || !is_as_the_seed || failed != 1 {
        return None;
    }
    eprintln!("seed {} fails; looking for a smaller run, in {SHRINK_RUNS} runs at most", report.seed);
    world::shrink(config, report, SHRINK_RUNS)
}

fn tell_failure(config: &WorldConfig, report: &Report, shrunk: Option<&Shrunk>, options: &Options) {
    let Some(violation) = &report.violation else { return };
    let (seed, world) = (report.seed, report.kind.name());
    let replay = replay_of(config, shrunk.map_or(&config.edits, |shrunk| &shrunk.edits));
    let last_events = shrunk.map_or(&report.last_events, |shrunk| &shrunk.last_events);
    if options.json {
        let line = json!({
            "seed": seed, "world": world, "law": violation.law, "what": violation.what,
            "events": report.events, "tape_len": report.tape_len, "trace": format!("{:016x}", report.trace_hash),
            "shrunk": shrunk.map(shrunk_as_json), "last_events": last_events, "replay": replay,
        });
        println!("{line}");
        return;
    }
    println!("seed {seed} of a {world} world breaks {violation}");
    if let Some(Shrunk { what, runs, tape_len, events, trace_hash, .. }) = shrunk {
        println!("smaller after {runs} runs: {what}");
        println!("  {} bytes of its tape are left of {}", tape_len.1, tape_len.0);
        println!("  {} events of {}, trace {trace_hash:016x}", events.1, events.0);
    }
    if !options.trace {
        last_events.iter().for_each(|line| println!("  {line}"));
    }
    println!("replay: {replay}\n");
}

/// The command that shows every event of a run.
fn replay_of(config: &WorldConfig, edits: &Edits) -> String {
    let (seed, world) = (config.seed, config.kind.name());
    let bug = config.planted.map(|bug| format!(" --planted {}", bug.name())).unwrap_or_default();
    let is_as_the_seed = *edits == Edits::default();
    let tape = if is_as_the_seed { String::new() } else { format!(" --tape {edits}") };
    format!("cargo run --release -p epicserver-sim -- --seed {seed} --world {world} --trace{bug}{tape}")
}

fn shrunk_as_json(shrunk: &Shrunk) -> serde_json::Value {
    json!({
        "what": shrunk.what, "runs": shrunk.runs, "tape": shrunk.edits.to_string(),
        "tape_len_before": shrunk.tape_len.0, "tape_len": shrunk.tape_len.1,
        "events_before": shrunk.events.0, "events": shrunk.events.1,
        "trace": format!("{:016x}", shrunk.trace_hash), "faults": shrunk.faults,
    })
}

/// What all seeds together gave.
#[derive(Default)]
struct Totals {
    seeds: u64,
    worlds: u64,
    calls: u64,
    remote_calls: u64,
    activations: u64,
    events: u64,
    world_ns: u64,
    failed: Vec<u64>,
    checks: Checks,
    faults: BTreeMap<&'static str, u64>,
    deeds: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.worlds += 1;
        self.calls += report.calls;
        self.remote_calls += report.remote_calls;
        self.activations += report.activations;
        self.events += report.events;
        self.world_ns += report.world_ns;
        self.failed.extend(report.violation.as_ref().map(|_| report.seed));
        for (check, count) in &report.checks {
            *self.checks.entry(*check).or_default() += count;
        }
        for (kind, count) in &report.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (kind, count) in &report.deeds {
            *self.deeds.entry(kind).or_default() += count;
        }
    }

    /// Checks that were never made, where there were enough seeds of their worlds to make each.
    fn idle_checks(&self, options: &Options) -> Vec<&'static str> {
        let is_made_there = |check: &&(u8, &str)| match options.world {
            None => true,
            Some(WorldKind::Fixed) => !CHECKS_OF_MOVES.contains(check),
            Some(WorldKind::Moving) => CHECKS_OF_MOVES.contains(check),
            // Where anything may go wrong calls may fail.
            Some(WorldKind::Parted) => CHECKS_OF_MOVES.contains(check) && check.0 != 6,
        };
        let missing =
            ALL_CHECKS.iter().filter(is_made_there).filter(|check| !self.checks.contains_key(check));
        if self.seeds < SEEDS_FOR_ALL { Vec::new() } else { missing.map(|(_, name)| *name).collect() }
    }

    fn tell(&mut self, took: Duration, options: &Options) -> ExitCode {
        self.failed.sort_unstable();
        let idle = self.idle_checks(options);
        if options.json {
            println!("{}", self.as_json(took, &idle));
        } else {
            self.print(&idle);
        }
        let good = self.failed.is_empty() && idle.is_empty();
        // A reader that went away does not change the outcome.
        let _ = std::io::stdout().flush();
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn as_json(&self, took: Duration, idle: &[&str]) -> serde_json::Value {
        let checks: serde_json::Map<_, _> = self
            .checks
            .iter()
            .map(|((law, name), count)| (format!("law {law}: {name}"), json!(count)))
            .collect();
        let per_s = |count: f64| (count / took.as_secs_f64() * 10.0).round() / 10.0;
        let world_s = self.world_ns as f64 / 1e9;
        json!({
            "seeds": self.seeds, "seeds_per_s": per_s(self.seeds as f64), "simulated_s_per_s": per_s(world_s),
            "calls": self.calls, "remote_calls": self.remote_calls, "activations": self.activations,
            "calls_checked": self.checks.get(&CALLS_CHECKED).copied().unwrap_or(0), "events": self.events, "world_s": world_s,
            "faults": self.faults, "cluster": self.deeds, "checks": checks, "checks_never_made": idle,
            "violations": self.failed.len(), "failed": self.failed,
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
        let deeds: Vec<String> = self.deeds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        println!("  cluster: {}", deeds.join(", "));
        idle.iter().for_each(|name| println!("  NEVER CHECKED: {name}"));
        if !self.failed.is_empty() {
            println!("  failed seeds: {:?}", self.failed);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "how fast the worlds are is no part of them")]
fn now() -> Instant {
    Instant::now()
}

/// Whose count is that of the calls which were checked.
const CALLS_CHECKED: (u8, &str) = (5, CALLS_ONCE);
/// Seeds after which every check must have been made.
const SEEDS_FOR_ALL: u64 = 100;
const PROGRESS_WORLDS: u64 = 30;
