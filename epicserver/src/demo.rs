//! The demo: a game of barrels on three processes that find each other, one that joins, one that is killed, one that leaves.
//!
//! Every player shoots at its own barrels, level after level, while processes come and go. Barrels live in memory only, players
//! are durable. The books are kept here, outside of the cluster, from what was acknowledged: every answer is checked against
//! them, and in the end every score.

pub(crate) mod game;
mod ledger;
pub(crate) mod live;
pub(crate) mod network;
pub(crate) mod play;
pub(crate) mod processes;
pub(crate) mod stage;
pub(crate) mod times;

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use epicserver::launch;
use epicserver::settings::TransportKind;
use rustix::process::Signal;

use self::game::Barrel;
use self::live::Totals;
use self::play::{Outcome, retrying};
use self::processes::{Folder, Home, Launch, Process};
use self::stage::{Stage, ZombieSaves};
use self::times::Times;

/// What the demo is told.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Print one JSON object at the end, and nothing else, on standard output
    #[arg(long)]
    json: bool,
    /// Players, at least 4
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    players: u32,
    /// Barrels; a multiple of the players
    #[arg(long, default_value_t = 100_000)]
    barrels: u32,
    /// How many levels every player plays on average between two events
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    levels: u32,
    /// Cores of each process
    #[arg(long, default_value_t = 1)]
    cores: u16,
    /// What carries calls between the processes: tcp, tipc or rdma
    #[arg(long, default_value_t = TransportKind::Tcp)]
    transport: TransportKind,
    /// How much to log: error, warn, info, debug or trace
    #[arg(long, default_value = "error")]
    log: tracing::Level,
    /// Makes one barrel forget its hits though nothing happened to it: the demo must fail then
    #[arg(long, hide = true)]
    plant_a_loss: bool,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    launch::init_log(options.log);
    if options.barrels == 0 || !options.barrels.is_multiple_of(options.players) {
        eprintln!("error: --barrels {} must be a multiple of --players {}", options.barrels, options.players);
        return ExitCode::FAILURE;
    }
    match to_the_end(demo(options)) {
        Ok(summary) => summary.print(options.json),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs something until it ends or the process is told to stop.
fn to_the_end<T>(scenario: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    runtime()?.block_on(async {
        tokio::select! {
            result = scenario => result,
            () = launch::stop_signal() => Err(STOPPED.into()),
        }
    })
}

/// What a game runs on outside of the nodes.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Why a game ends early.
pub(crate) const STOPPED: &str = "stopped by a signal";

/// What goes wrong, in words for the user.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn demo(options: &Options) -> Result<Summary, Failure> {
    let launch = Launch {
        cores: options.cores,
        transport: options.transport,
        log: options.log,
        chases: false,
        network: None,
    };
    let folder = Folder::new("demo")?;
    eprintln!("three processes start on {}", folder.path().display());
    // The first founds the cluster and keeps its data.
    let first = launch.start(&folder, Home::Shared).await?;
    let (second, third) =
        tokio::try_join!(launch.start(&folder, Home::Shared), launch.start(&folder, Home::Shared))?;
    let mut processes = vec![first, second, third];
    let players = options.players as usize;
    let stage = Stage::open(launch, folder, &processes, players, options.barrels_each()).await?;
    Demo { options, stage, report: Report::default() }.run(&mut processes).await
}

impl Options {
    fn barrels_each(&self) -> usize {
        (self.barrels / self.players) as usize
    }
}

/// The game, and what has been done to it.
struct Demo<'a> {
    options: &'a Options,
    stage: Stage,
    report: Report,
}

/// What was done to the processes, and how long they took to get over it.
#[derive(Debug, Default)]
struct Report {
    started: u32,
    joined: u32,
    killed: u32,
    stopped: u32,
    takeovers: Times,
    /// From the kill of a process that is not the data node.
    takeover: Duration,
    /// From the kill of the data node.
    keeper_takeover: Duration,
    /// From there until a change was saved again.
    keeper_pause: Duration,
    /// From the kill of all processes.
    restart: Duration,
    zombie_saves: ZombieSaves,
}

impl Demo<'_> {
    #[expect(clippy::disallowed_methods, reason = "the demo measures real time")]
    async fn run(mut self, processes: &mut Vec<Process>) -> Result<Summary, Failure> {
        let start = Instant::now();
        self.report.started = processes.len() as u32;
        self.play("three processes play").await?;

        self.join(processes).await?;
        self.play("four processes play").await?;

        self.kill_one(processes).await?;
        self.play("four play on after a kill -9").await?;

        self.kill_keeper(processes).await?;
        self.play("four play on after the data node was killed").await?;

        self.stand_still(processes).await?;
        self.play("three play on after one stood still").await?;

        self.kill_all(processes).await?;
        self.play("three play on after all were killed").await?;

        self.leave(processes).await?;
        self.play("two play on after a SIGTERM").await?;

        if self.options.plant_a_loss {
            self.plant_a_loss().await?;
            self.play("a loss was planted").await?;
        }
        let Self { options, stage, report } = self;
        stage.live.phase("every score is checked");
        let totals = stage.live.look().await;
        let seconds = start.elapsed().as_secs_f64();
        let outcome = stage.end(std::mem::take(processes)).await?;
        Ok(Summary { totals, outcome, seconds, report, transport: options.transport, cores: options.cores })
    }

    /// Plays for a while.
    async fn play(&self, phase: &str) -> Result<(), Failure> {
        let levels = u64::from(self.options.levels) * u64::from(self.options.players);
        self.stage.play(levels, phase).await
    }

    /// Lets a process join under load that behaves like one of another machine, and waits until it has its share.
    async fn join(&mut self, processes: &mut Vec<Process>) -> Result<(), Failure> {
        self.stage.live.phase("a fourth process joins");
        let seeds: Vec<&str> = processes.iter().map(|process| process.address.as_str()).collect();
        processes.push(self.stage.start(Home::Elsewhere(&seeds.join(","))).await?);
        (self.report.started, self.report.joined) = (self.report.started + 1, 1);
        self.stage.shared_out(processes).await
    }

    /// Kills a process that is not the data node; another one starts for it.
    async fn kill_one(&mut self, processes: &mut Vec<Process>) -> Result<(), Failure> {
        self.stage.live.phase("one is killed");
        let second = processes.remove(1);
        let takeover = self.stage.kill(second).await?;
        self.report.takeover = takeover.answered.ok_or("no player lives there")?;
        self.killed(self.report.takeover);
        self.start_another(processes).await
    }

    /// Kills the data node; another process starts for it.
    async fn kill_keeper(&mut self, processes: &mut Vec<Process>) -> Result<(), Failure> {
        self.stage.live.phase("the data node is killed");
        let takeover = self.stage.kill(processes.remove(0)).await?;
        self.report.keeper_takeover = takeover.answered.ok_or("no player lives there")?;
        self.report.keeper_pause = takeover.saved;
        self.killed(self.report.keeper_takeover);
        self.start_another(processes).await
    }

    async fn start_another(&mut self, processes: &mut Vec<Process>) -> Result<(), Failure> {
        processes.push(self.stage.start(Home::Shared).await?);
        self.report.started += 1;
        self.stage.shared_out(processes).await
    }

    /// Makes a process stand still that waits for the data node to save, until others have its objects: what it saves when it
    /// comes back is refused. The data node is killed meanwhile, so that it does not save after all.
    async fn stand_still(&mut self, processes: &mut Vec<Process>) -> Result<(), Failure> {
        self.stage.live.phase("one stands still");
        let keeper = self.stage.keeper(processes).await?;
        let keeper = processes.remove(keeper);
        keeper.signal(Signal::STOP)?;
        self.stage.stands_still().await?;
        let zombie = processes.iter().find(|process| process.is_elsewhere).ok_or("a process is gone")?;
        self.stage.excuse(&[zombie]);
        let incarnation = self.stage.incarnation(zombie.id);
        zombie.signal(Signal::STOP)?;
        self.stage.kill(keeper).await?;
        self.report.killed += 1;
        self.stage.owns_nothing(zombie.id).await?;
        zombie.signal(Signal::CONT)?;
        self.stage.joins_again(zombie.id, incarnation).await?;
        self.stage.shared_out(processes).await?;
        self.report.zombie_saves = self.stage.zombie_saves().await;
        Ok(())
    }

    /// Kills all processes at once.
    async fn kill_all(&mut self, processes: &mut Vec<Process>) -> Result<(), Failure> {
        self.stage.live.phase("all are killed");
        let count = processes.len() as u32;
        (*processes, self.report.restart) = self.stage.kill_all(std::mem::take(processes)).await?;
        self.report.killed += count;
        self.report.started += count;
        self.stage.shared_out(processes).await
    }

    fn killed(&mut self, takeover: Duration) {
        self.report.killed += 1;
        self.report.takeovers.add(takeover);
    }

    /// Lets a process leave under load that does not keep the data, and waits until others have its objects and it has ended well.
    async fn leave(&mut self, processes: &mut Vec<Process>) -> Result<(), Failure> {
        self.stage.live.phase("one is told to stop");
        let elsewhere = processes.pop().ok_or("no process is left")?;
        self.stage.stop(elsewhere).await?;
        self.report.stopped = 1;
        self.stage.shared_out(processes).await
    }

    /// Makes a barrel forget that lives on no process that was killed.
    async fn plant_a_loss(&self) -> Result<(), Failure> {
        let barrel = (0..self.options.barrels).find(|barrel| !self.stage.game.is_excused(*barrel as usize));
        let barrel = u64::from(barrel.ok_or("every barrel was on a killed process")?);
        let barrel = self.stage.client().pool().get::<Barrel>(barrel);
        Ok(retrying(&AtomicU64::new(0), || barrel.lose_all_hits()).await?)
    }
}

/// What the demo came to.
struct Summary {
    totals: Totals,
    outcome: Outcome,
    seconds: f64,
    report: Report,
    transport: TransportKind,
    cores: u16,
}

impl Summary {
    fn is_good(&self) -> bool {
        self.outcome.is_good() && self.report.zombie_saves.accepted == 0
    }

    fn print(&self, json: bool) -> ExitCode {
        if json {
            println!("{}", self.json());
        } else {
            self.print_text();
        }
        if self.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn calls_per_s(&self) -> u64 {
        (self.totals.calls as f64 / self.seconds.max(f64::MIN_POSITIVE)) as u64
    }

    fn print_text(&self) {
        let (Totals { calls, remote_calls, .. }, Outcome { findings, failed, retried }) =
            (self.totals, self.outcome);
        println!(
            "{calls} calls in {:.1} s ({} per second), {remote_calls} of them from process to process",
            self.seconds,
            self.calls_per_s()
        );
        let Report { takeover, keeper_takeover, restart, zombie_saves, .. } = self.report;
        println!(
            "a fourth process joined; one was killed, its objects answered again after {} ms; then the data node, {} ms; \
             then all, {} ms; one left",
            takeover.as_millis(),
            keeper_takeover.as_millis(),
            restart.as_millis()
        );
        println!(
            "a process that others had taken for dead tried to save {} times, {} times with success",
            zombie_saves.tried, zombie_saves.accepted
        );
        println!(
            "{} answers checked: {} wrong; {failed} calls failed, {} with unknown outcome, {retried} made again",
            findings.checked, findings.wrong, findings.unknown
        );
        println!(
            "{} acknowledged saves, {} lost; {} barrels of killed processes began again, of {} that may",
            findings.acknowledged_saves, findings.lost_saves, findings.forgotten, findings.forgotten_allowed
        );
    }

    fn json(&self) -> serde_json::Value {
        let Outcome { findings, failed, retried } = self.outcome;
        let report = &self.report;
        serde_json::json!({
            "transport": self.transport.to_string(),
            "nodes": self.report.started,
            "cores": self.cores,
            "objects": self.totals.objects,
            "calls": self.totals.calls,
            "remote_calls": self.totals.remote_calls,
            "calls_per_s": self.calls_per_s(),
            "failed_calls": failed,
            "retried_calls": retried,
            "unknown_outcomes": findings.unknown,
            "checked_answers": findings.checked,
            "wrong_answers": findings.wrong,
            "joined": report.joined,
            "killed": report.killed,
            "stopped": report.stopped,
            "takeover_ms": milliseconds(report.takeover),
            "keeper_takeover_ms": milliseconds(report.keeper_takeover),
            "keeper_pause_ms": milliseconds(report.keeper_pause),
            "restart_ms": milliseconds(report.restart),
            "takeover_ms_p50": report.takeovers.percentile_ms(50),
            "takeover_ms_p99": report.takeovers.percentile_ms(99),
            "zombie_saves_tried": report.zombie_saves.tried,
            "zombie_saves_accepted": report.zombie_saves.accepted,
            "acknowledged_saves": findings.acknowledged_saves,
            "lost_saves": findings.lost_saves,
            "forgotten_objects": findings.forgotten,
            "forgotten_allowed": findings.forgotten_allowed,
        })
    }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
