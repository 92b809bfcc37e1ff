//! The demo: the game of barrels at scale, first on all cores of one process, then on two processes over TCP.
//!
//! In each round every player shoots at a block of barrels; blocks change hands from round to round, so that each barrel
//! is hit exactly once a round. From the third hit on a barrel counts, so the score of every player after every round is
//! known beforehand, and every answer is checked against it.

mod game;
mod live;
pub(crate) mod peer;
mod play;

use std::process::ExitCode;
use std::time::Instant;

use epicserver::{Node, Wait, launch};

use self::game::{Barrel, Player};
use self::live::Live;
use self::play::{Plan, Tally};

/// What the demo is told.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Print one JSON object at the end, and nothing else, on standard output
    #[arg(long)]
    json: bool,
    /// How often every barrel is hit in each phase
    #[arg(long, default_value_t = 12)]
    rounds: u64,
    /// Players
    #[arg(long, default_value_t = 1_000)]
    players: u64,
    /// Barrels; a multiple of the players
    #[arg(long, default_value_t = 100_000)]
    barrels: u64,
    /// Cores of each process [default: one for each processor]
    #[arg(long)]
    cores: Option<u16>,
    /// How much to log: error, warn, info, debug or trace
    #[arg(long, default_value = "warn")]
    log: tracing::Level,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    launch::init_log(options.log);
    if options.players == 0 || options.barrels == 0 || !options.barrels.is_multiple_of(options.players) {
        eprintln!("error: --barrels {} must be a multiple of --players {}", options.barrels, options.players);
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                result = both_phases(options) => result,
                () = launch::stop_signal() => Err("stopped by a signal".into()),
            }
        })
    });
    match result {
        Ok(summary) => summary.print(options.json),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn both_phases(options: &Options) -> Result<Summary, Failure> {
    let mut summary = Summary::default();
    let one = one_process(options).await?;
    summary.add("one process", &one);
    let two = two_processes(options).await?;
    summary.add("two processes over tcp", &two);
    summary.nodes = 2;
    Ok(summary)
}

/// What a phase came to.
struct Phase {
    tally: Tally,
    seconds: f64,
    objects: u64,
    cores: u16,
    remote_calls: u64,
}

async fn one_process(options: &Options) -> Result<Phase, Failure> {
    let cores = cores(options);
    let node = Node::builder().bind::<(Player, Barrel)>().cores(cores).wait(Wait::Auto).start()?;
    let plan = Plan::new(options.players, options.barrels, options.rounds, "solo");
    let (tally, seconds) = timed(&node, &plan, "one process").await;
    let stats = node.stats();
    if !node.shutdown(launch::PATIENCE).await {
        tracing::warn!("the node did not come to rest in time");
    }
    Ok(Phase { tally, seconds, objects: stats.objects, cores, remote_calls: stats.remote_calls })
}

async fn two_processes(options: &Options) -> Result<Phase, Failure> {
    let cores = cores(options).div_ceil(2);
    let pair = peer::Pair::start(cores, options.log).await?;
    let plan = Plan::new(options.players, options.barrels, options.rounds, "pair");
    let (tally, seconds) = timed(&pair.node, &plan, "two processes over tcp").await;
    let mine = pair.node.stats();
    let theirs = pair.finish().await?;
    Ok(Phase {
        tally,
        seconds,
        objects: mine.objects + theirs.objects,
        cores: cores * 2,
        remote_calls: mine.remote_calls + theirs.remote_calls,
    })
}

#[expect(clippy::disallowed_methods, reason = "the demo measures real time")]
async fn timed(node: &Node, plan: &Plan, name: &str) -> (Tally, f64) {
    let live = Live::start(name, node.pool());
    let start = Instant::now();
    let tally = play::play(&node.pool(), plan).await;
    let seconds = start.elapsed().as_secs_f64();
    live.stop();
    (tally, seconds)
}

fn cores(options: &Options) -> u16 {
    let processors = std::thread::available_parallelism().map_or(1, |processors| processors.get() as u16);
    options.cores.unwrap_or(processors)
}

/// The totals over both phases.
#[derive(Default)]
struct Summary {
    nodes: u64,
    cores: u16,
    objects: u64,
    remote_calls: u64,
    seconds: f64,
    tally: Tally,
    lines: Vec<String>,
}

impl Summary {
    fn add(&mut self, name: &str, phase: &Phase) {
        self.tally.add(&phase.tally);
        self.cores = self.cores.max(phase.cores);
        self.objects += phase.objects;
        self.remote_calls += phase.remote_calls;
        self.seconds += phase.seconds;
        self.lines.push(format!(
            "{name}: {} calls in {:.2} s ({} per second), {} from node to node, {} objects in memory",
            phase.tally.calls,
            phase.seconds,
            per_second(phase.tally.calls, phase.seconds),
            phase.remote_calls,
            phase.objects,
        ));
    }

    fn print(&self, json: bool) -> ExitCode {
        if json {
            println!("{}", self.json());
        } else {
            for line in &self.lines {
                println!("{line}");
            }
            let Tally { failed, unknown, wrong, answers, .. } = self.tally;
            println!(
                "{answers} scores checked: {wrong} wrong; {failed} calls failed, {unknown} with unknown outcome"
            );
        }
        let good = self.tally.wrong == 0 && self.tally.failed == 0 && self.tally.unknown == 0;
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "transport": "tcp",
            "nodes": self.nodes,
            "cores": self.cores,
            "objects": self.objects,
            "calls": self.tally.calls,
            "remote_calls": self.remote_calls,
            "calls_per_s": per_second(self.tally.calls, self.seconds),
            "failed_calls": self.tally.failed,
            "unknown_outcomes": self.tally.unknown,
            "checked_answers": self.tally.answers,
            "wrong_answers": self.tally.wrong,
        })
    }
}

fn per_second(calls: u64, seconds: f64) -> u64 {
    if seconds > 0.0 { (calls as f64 / seconds) as u64 } else { 0 }
}
