//! The demo: a game of barrels on three processes that find each other, one that joins, one that is killed, one that leaves.
//!
//! Every player shoots at its own barrels, level after level, while processes come and go. Barrels live in memory only, players
//! are durable. The books are kept here, outside of the cluster, from what was acknowledged: every answer is checked against
//! them, and in the end every score.

mod game;
mod ledger;
mod live;
mod play;
pub(crate) mod processes;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use epicserver::cluster::{View, partition_of};
use epicserver::settings::{Settings, TransportKind};
use epicserver::{Node, launch};

use self::game::{Barrel, Player};
use self::live::{Live, Totals};
use self::play::{Game, Outcome, player_key, retrying};
use self::processes::{Folder, Process};

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
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                result = demo(options) => result,
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

/// The processes of the demo, and the game on them.
struct Demo<'a> {
    options: &'a Options,
    folder: Folder,
    /// A member without objects: it calls those of the others, and looks at the cluster.
    client: Arc<Node>,
    live: Live,
    game: Game,
}

#[expect(clippy::disallowed_methods, reason = "the demo measures real time")]
async fn demo(options: &Options) -> Result<Summary, Failure> {
    let folder = Folder::new()?;
    eprintln!("three processes start on {}", folder.path().display());
    // The first founds the cluster and keeps its data; it stays to the end.
    let first = Process::start(&folder, options).await?;
    let (second, third) =
        tokio::try_join!(Process::start(&folder, options), Process::start(&folder, options))?;
    let (transport, log) = (options.transport, options.log);
    let settings = Settings { cores: Some(1), transport, log, ..Settings::in_folder(folder.path()) };
    let client = launch::start::<()>(&settings).await.map_err(|error| error.to_string())?;
    let client = Arc::new(client);
    let live = Live::start(client.clone());
    live.phase("they share out the objects");
    shared_out(&client, &[&first, &second, &third]).await?;

    let start = Instant::now();
    let game = Game::start(client.pool(), options.players as usize, options.barrels_each());
    let demo = Demo { options, folder, client, live, game };
    demo.play("three processes play").await?;

    let fourth = demo.join(&[&first, &second, &third]).await?;
    demo.play("four processes play").await?;

    let takeover = demo.kill(second).await?;
    demo.play("three play on after a kill -9").await?;

    demo.leave(third, &[&first, &fourth]).await?;
    demo.play("two play on after a SIGTERM").await?;

    if options.plant_a_loss {
        demo.plant_a_loss().await?;
        demo.play("a loss was planted").await?;
    }
    demo.live.phase("every score is checked");
    let totals = demo.live.look().await;
    let seconds = start.elapsed().as_secs_f64();
    let outcome = demo.game.end().await;
    drop(demo.live);
    for process in [fourth, first] {
        process.stop().await?;
    }
    Ok(Summary { totals, outcome, seconds, takeover, transport, cores: options.cores })
}

impl Options {
    fn barrels_each(&self) -> usize {
        (self.barrels / self.players) as usize
    }
}

impl Demo<'_> {
    /// Plays for a while.
    async fn play(&self, phase: &str) -> Result<(), Failure> {
        self.live.phase(phase);
        let levels = u64::from(self.options.levels) * u64::from(self.options.players);
        let played = tokio::time::timeout(PLAY_PATIENCE, self.game.play_on(levels)).await;
        Ok(played.map_err(|_| format!("the game does not go on, while {phase}"))?)
    }

    /// Lets a process join under load, and waits until it has its share.
    async fn join(&self, others: &[&Process]) -> Result<Process, Failure> {
        self.live.phase("a fourth process joins");
        let process = Process::start(&self.folder, self.options).await?;
        let all: Vec<&Process> = others.iter().copied().chain([&process]).collect();
        shared_out(&self.client, &all).await?;
        Ok(process)
    }

    /// Kills a process under load; gives the time until one of its durable objects answered again.
    #[expect(clippy::disallowed_methods, reason = "the demo measures real time")]
    async fn kill(&self, process: Process) -> Result<Duration, Failure> {
        self.live.phase("one is killed");
        self.live.look().await;
        let (id, view) = (process.id, self.client.view());
        let of_it = |number: &usize| {
            view.owner(partition_of::<Player>(player_key(*number).as_str()))
                .is_some_and(|owner| owner.id == id)
        };
        let player =
            (0..self.options.players as usize).find(of_it).ok_or("no player lives on that process")?;
        let player = self.client.pool().get::<Player>(&player_key(player));
        self.game.excuse(&view, id);
        let start = Instant::now();
        process.kill().await?;
        self.live.gone(id);
        retrying(&AtomicU64::new(0), || player.score()).await?;
        Ok(start.elapsed())
    }

    /// Lets a process leave under load, and waits until others have its objects and it has ended well.
    async fn leave(&self, process: Process, others: &[&Process]) -> Result<(), Failure> {
        self.live.phase("one is told to stop");
        self.live.look().await;
        let id = process.id;
        let status = process.stop().await?;
        self.live.gone(id);
        if !status.success() {
            return Err(format!("the process that was told to stop ended with {status}").into());
        }
        shared_out(&self.client, others).await
    }

    /// Makes a barrel forget that lives on no process that was killed.
    async fn plant_a_loss(&self) -> Result<(), Failure> {
        let barrel = (0..self.options.barrels).find(|barrel| !self.game.is_excused(*barrel as usize));
        let barrel = u64::from(barrel.ok_or("the killed process had all barrels")?);
        let barrel = self.client.pool().get::<Barrel>(barrel);
        Ok(retrying(&AtomicU64::new(0), || barrel.lose_all_hits()).await?)
    }
}

/// Waits until each of these processes owns its share of the objects, no other owns any, and none is under way.
async fn shared_out(client: &Node, processes: &[&Process]) -> Result<(), Failure> {
    let wait = async {
        while !is_shared_out(&client.view(), processes) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let shared = tokio::time::timeout(SHARE_PATIENCE, wait).await;
    Ok(shared.map_err(|_| "the processes did not share out the objects in time")?)
}

fn is_shared_out(view: &View, processes: &[&Process]) -> bool {
    let is_at_rest = view.partitions.iter().all(|state| state.moving_to.is_none());
    let share = view.partitions.len() / processes.len();
    let of = |id: u64| {
        view.partitions.iter().filter(|state| state.owner.is_some_and(|owner| owner.id == id)).count()
    };
    let counts = processes.iter().map(|process| of(process.id));
    is_at_rest
        && counts.clone().all(|count| count * 10 >= share * 9)
        && counts.sum::<usize>() == view.partitions.len()
}

/// What the demo came to.
struct Summary {
    totals: Totals,
    outcome: Outcome,
    seconds: f64,
    takeover: Duration,
    transport: TransportKind,
    cores: u16,
}

impl Summary {
    fn is_good(&self) -> bool {
        let Outcome { findings, failed, .. } = self.outcome;
        findings.wrong == 0
            && findings.lost_saves == 0
            && failed == 0
            && findings.forgotten <= findings.forgotten_allowed
            && findings.acknowledged_saves > 0
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
        println!(
            "a fourth process joined, one was killed (its objects answered again after {} ms), one left",
            self.takeover.as_millis()
        );
        println!(
            "{} answers checked: {} wrong; {failed} calls failed, {} with unknown outcome, {retried} made again",
            findings.checked, findings.wrong, findings.unknown
        );
        println!(
            "{} acknowledged saves, {} lost; {} barrels of the killed process began again, of {} that may",
            findings.acknowledged_saves, findings.lost_saves, findings.forgotten, findings.forgotten_allowed
        );
    }

    fn json(&self) -> serde_json::Value {
        let Outcome { findings, failed, retried } = self.outcome;
        serde_json::json!({
            "transport": self.transport.to_string(),
            "nodes": 4,
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
            "joined": 1,
            "killed": 1,
            "stopped": 1,
            "takeover_ms": self.takeover.as_secs_f64() * 1e3,
            "acknowledged_saves": findings.acknowledged_saves,
            "lost_saves": findings.lost_saves,
            "forgotten_objects": findings.forgotten,
            "forgotten_allowed": findings.forgotten_allowed,
        })
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(20);
const PLAY_PATIENCE: Duration = Duration::from_secs(120);
const SHARE_PATIENCE: Duration = Duration::from_secs(60);
