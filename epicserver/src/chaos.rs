//! Chaos: the game of the demo on processes that are killed, stopped and restarted at random, for minutes, with the same books.
//!
//! Some processes share the data directory and keep the data in turns; some behave like those of another machine. What is done to
//! whom comes from a seed; when it happens to calls under way does not.

use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use epicserver::launch;
use epicserver::settings::TransportKind;
use rustix::process::Signal;

use crate::demo::live::Totals;
use crate::demo::network::{self, Hindrance, Network};
use crate::demo::play::Outcome;
use crate::demo::processes::{Folder, Home, Launch, Process};
use crate::demo::stage::{Stage, Takeover, ZombieSaves};
use crate::demo::times::Times;
use crate::demo::{Failure, STOPPED, runtime};

/// What chaos is told.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Print one JSON object at the end, and nothing else, on standard output
    #[arg(long)]
    json: bool,
    /// How long it goes on [default: 1, or, with --kills, until so many are killed]
    #[arg(long)]
    minutes: Option<f64>,
    /// End as soon as so many processes have been killed
    #[arg(long, value_name = "N")]
    kills: Option<u32>,
    /// What is done to whom [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Only these faults, separated by commas, by their names in the JSON object
    #[arg(long, value_name = "FAULTS", value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Players, each with four barrels
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(4..=10_000))]
    players: u32,
    /// Cores of each process
    #[arg(long, default_value_t = 1)]
    cores: u16,
    /// What carries calls between the processes: tcp, tipc or rdma
    #[arg(long, default_value_t = TransportKind::Tcp)]
    transport: TransportKind,
    /// Whether the network is cut too, which needs root: auto (if it can be), on or off
    #[arg(long, default_value = "auto")]
    network: Cutting,
    /// Says that this process is in a network namespace of its own.
    #[arg(long = NETWORK_FLAG, hide = true)]
    has_own_network: bool,
    /// How much to log: error, warn, info, debug or trace
    #[arg(long, default_value = "error")]
    log: tracing::Level,
}

/// Whether the network is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Cutting {
    Auto,
    On,
    Off,
}

impl Options {
    /// The faults that are drawn from.
    fn possible(&self, has_network: bool) -> Result<Vec<Fault>, Failure> {
        if let Some(fault) = self.faults.iter().find(|fault| fault.is_of_network() && !has_network) {
            return Err(format!("{} needs a network that can be cut: try --network on", fault.name()).into());
        }
        let mut possible = Vec::new();
        for (fault, _) in FAULTS {
            let is_asked_for = self.faults.contains(&fault);
            if !(is_asked_for || self.faults.is_empty()) || (fault.is_of_network() && !has_network) {
                continue;
            }
            match fault.what_is_missing() {
                None => possible.push(fault),
                Some(missing) if is_asked_for => return Err(missing.into()),
                Some(missing) => eprintln!("{missing}"),
            }
        }
        if self.time()?.is_none() && !possible.iter().any(|fault| fault.kills()) {
            return Err(
                "--kills never ends with these faults, as none of them kills: say --minutes too".into()
            );
        }
        Ok(possible)
    }

    /// How long it goes on; `None`: until enough processes have been killed.
    fn time(&self) -> Result<Option<Duration>, Failure> {
        let minutes = self.minutes.or(self.kills.is_none().then_some(MINUTES));
        Ok(minutes.map(|minutes| Duration::try_from_secs_f64(minutes * 60.0)).transpose()?)
    }

    /// Gets this process a network of its own, where one is wanted and can be had; what hinders it, where it is demanded.
    fn enter_network(&self) -> Result<(), Failure> {
        if self.has_own_network || self.network == Cutting::Off {
            return Ok(());
        }
        let missing = match self.transport {
            TransportKind::Tcp => network::what_is_missing(),
            other => Some(format!("cutting the network is not built for {other}")),
        };
        match missing {
            None => Err(network::enter(&format!("--{NETWORK_FLAG}"))),
            Some(missing) if self.network == Cutting::On => Err(missing.into()),
            Some(missing) => {
                eprintln!("the network is left alone: {missing}");
                Ok(())
            }
        }
    }
}

pub(crate) fn run(options: &Options) -> ExitCode {
    launch::init_log(options.log);
    if let Err(error) = options.enter_network() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed {seed}: --seed {seed} does the same to the same processes again");
    match to_the_end(options, seed) {
        Ok(summary) => summary.print(options.json),
        Err(error) => {
            eprintln!("error: with seed {seed}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until the time is over or the process is told to stop: after the fault that is under way. At a second signal it ends at once.
fn to_the_end(options: &Options, seed: u64) -> Result<Summary, Failure> {
    let is_told_to_stop = AtomicBool::new(false);
    let twice = async {
        launch::stop_signal().await;
        eprintln!("told to stop: what is under way ends first; a second signal ends it at once");
        is_told_to_stop.store(true, Ordering::Relaxed);
        launch::stop_signal().await;
    };
    runtime()?.block_on(async {
        tokio::select! {
            result = chaos(options, seed, &is_told_to_stop) => result,
            () = twice => Err(STOPPED.into()),
        }
    })
}

/// What can be done to processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A process that shares the folder is killed: it is proven dead at once.
    KillOne,
    /// The data node is killed.
    KillKeeper,
    /// A process like one of another machine is killed: others wait for the end of its lease.
    KillElsewhere,
    /// All are killed, and started again.
    KillAll,
    /// The data node stands still for a moment, in the middle of what it does.
    PauseKeeper,
    /// A process that shares the folder stands still, until one who waits for its objects ends it after its lease.
    StopOne,
    /// A process like one of another machine waits for the data node to save, and stands still; that data node is killed, others get the
    /// objects, and it comes back.
    Zombie,
    /// Each process is told to stop, one after the other, and another one starts for it.
    RollingRestart,
    /// Two processes do not hear each other for a while.
    Part,
    /// A process does not hear another one for a while, which hears it.
    PartOneWay,
    /// A process hears nobody for a while.
    Isolate,
    /// Some of the packets that come to a process are lost.
    Lose,
    /// The packets that a process sends take long, and overtake each other.
    Delay,
    /// Little of what a process sends gets through in a second.
    Throttle,
}

/// Each fault, and how often it comes among all of them.
const FAULTS: [(Fault, u32); 14] = [
    (Fault::KillOne, 40),
    (Fault::KillKeeper, 30),
    (Fault::PauseKeeper, 8),
    (Fault::KillAll, 2),
    (Fault::KillElsewhere, 2),
    (Fault::StopOne, 2),
    (Fault::Zombie, 3),
    (Fault::RollingRestart, 2),
    (Fault::Part, 3),
    (Fault::PartOneWay, 3),
    (Fault::Isolate, 2),
    (Fault::Lose, 3),
    (Fault::Delay, 3),
    (Fault::Throttle, 3),
];

impl Fault {
    /// One of these.
    fn draw(random: &mut fastrand::Rng, possible: &[Self]) -> Self {
        let possible = FAULTS.iter().filter(|(fault, _)| possible.contains(fault));
        let sum: u32 = possible.clone().map(|(_, weight)| weight).sum();
        let mut left = random.u32(0..sum);
        for (fault, weight) in possible {
            if left < *weight {
                return *fault;
            }
            left -= weight;
        }
        Self::KillOne
    }

    fn is_of_network(self) -> bool {
        matches!(
            self,
            Self::Part | Self::PartOneWay | Self::Isolate | Self::Lose | Self::Delay | Self::Throttle
        )
    }

    /// Whether a process is killed by it whatever happens.
    fn kills(self) -> bool {
        matches!(
            self,
            Self::KillOne
                | Self::KillKeeper
                | Self::KillElsewhere
                | Self::KillAll
                | Self::StopOne
                | Self::Zombie
        )
    }

    /// Why it cannot be done here though the network can be cut, if that is so.
    fn what_is_missing(self) -> Option<String> {
        match self {
            Self::Delay => network::why_no_delay(),
            Self::Throttle => network::why_no_throttle(),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::KillOne => "kill",
            Self::KillKeeper => "kill_keeper",
            Self::KillElsewhere => "kill_elsewhere",
            Self::KillAll => "kill_all",
            Self::PauseKeeper => "pause_keeper",
            Self::StopOne => "stop",
            Self::Zombie => "zombie",
            Self::RollingRestart => "rolling_restart",
            Self::Part => "part",
            Self::PartOneWay => "part_one_way",
            Self::Isolate => "isolate",
            Self::Lose => "lose_packets",
            Self::Delay => "delay",
            Self::Throttle => "throttle",
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let fault = FAULTS.iter().map(|(fault, _)| *fault).find(|fault| fault.name() == name);
        let names: Vec<&str> = FAULTS.iter().map(|(fault, _)| fault.name()).collect();
        fault.ok_or_else(|| format!("there are {}", names.join(", ")))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KillOne => "one is killed",
            Self::KillKeeper => "the data node is killed",
            Self::KillElsewhere => "one of another machine is killed",
            Self::KillAll => "all are killed",
            Self::PauseKeeper => "the data node stands still for a moment",
            Self::StopOne => "one stands still until it is ended",
            Self::Zombie => "one stands still until others have its objects, and comes back",
            Self::RollingRestart => "all are restarted, one after the other",
            Self::Part => "two do not hear each other",
            Self::PartOneWay => "one does not hear another",
            Self::Isolate => "one hears nobody",
            Self::Lose => "one loses packets",
            Self::Delay => "what one sends takes long",
            Self::Throttle => "one can send little",
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "chaos goes on for real time")]
async fn chaos(options: &Options, seed: u64, is_told_to_stop: &AtomicBool) -> Result<Summary, Failure> {
    let network = if options.has_own_network { Some(Arc::new(Network::new().await?)) } else { None };
    let possible = options.possible(network.is_some())?;
    let launch = Launch {
        cores: options.cores,
        transport: options.transport,
        log: options.log,
        chases: true,
        network,
    };
    let folder = Folder::new("chaos")?;
    eprintln!("{SHARED} processes start on {}, and {ELSEWHERE} elsewhere", folder.path().display());
    let mut processes = Vec::new();
    for _ in 0..SHARED {
        processes.push(launch.start(&folder, Home::Shared).await?);
    }
    for _ in 0..ELSEWHERE {
        let seeds = seeds_of(&processes);
        processes.push(launch.start(&folder, Home::Elsewhere(&seeds)).await?);
    }
    let stage = Stage::open(launch, folder, &processes, options.players as usize, BARRELS_EACH).await?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut first = possible.clone();
    random.shuffle(&mut first);
    let mut chaos =
        Chaos { stage, random, processes, possible, first, mended: None, report: Report::default() };
    let start = Instant::now();
    let time = options.time()?;
    while !is_told_to_stop.load(Ordering::Relaxed)
        && time.is_none_or(|time| start.elapsed() < time)
        && options.kills.is_none_or(|kills| chaos.report.killed < kills)
    {
        chaos.one_fault().await?;
    }
    let Chaos { stage, processes, report, .. } = chaos;
    stage.live.phase("every score is checked");
    let seconds = start.elapsed().as_secs_f64();
    let totals = stage.live.look().await;
    let outcome = stage.end(processes).await?;
    Ok(Summary { seed, seconds, totals, outcome, report, transport: options.transport })
}

/// The game, and what is done to it.
struct Chaos {
    stage: Stage,
    random: fastrand::Rng,
    processes: Vec<Process>,
    possible: Vec<Fault>,
    /// Each fault comes once before any comes by its frequency, so that short runs have all of them.
    first: Vec<Fault>,
    /// When the network was mended last, if leases can have been at their end then that nobody has waited for.
    mended: Option<Instant>,
    report: Report,
}

/// What was done, and what came of it.
#[derive(Debug, Default)]
struct Report {
    /// How often each fault came, in the order of [`FAULTS`].
    faults: [u64; FAULTS.len()],
    killed: u32,
    /// From the kill of a process to the first answer of one of its objects, where its death could be proven.
    takeovers: Times,
    /// From the kill of the data node to the first change that was saved again.
    keeper_pauses: Times,
    zombie_saves: ZombieSaves,
    /// Of rolling restarts only.
    restart_failed: u64,
    restart_unknown: u64,
}

impl Chaos {
    async fn one_fault(&mut self) -> Result<(), Failure> {
        let levels = self.random.u64(LEVELS);
        self.stage.play(levels, "the game goes on").await?;
        self.replace_killed().await?;
        let fault = self.first.pop().unwrap_or_else(|| Fault::draw(&mut self.random, &self.possible));
        self.stage.live.phase(fault.to_string());
        if let Some(place) = FAULTS.iter().position(|(other, _)| *other == fault) {
            self.report.faults[place] += 1;
        }
        let result = match fault {
            Fault::KillOne => self.kill_one().await,
            Fault::KillKeeper => self.kill_keeper().await,
            Fault::KillElsewhere => self.kill_elsewhere().await,
            Fault::KillAll => self.kill_all().await,
            Fault::PauseKeeper => self.pause_keeper().await,
            Fault::StopOne => self.stop_one().await,
            Fault::Zombie => self.zombie().await,
            Fault::RollingRestart => self.rolling_restart().await,
            Fault::Part => self.part(true).await,
            Fault::PartOneWay => self.part(false).await,
            Fault::Isolate => self.deafen(100).await,
            Fault::Lose => {
                let percent = self.random.u8(LOSS_PERCENT);
                self.deafen(percent).await
            }
            Fault::Delay => {
                let delay = Hindrance::Delay(self.random.u32(DELAY_MS));
                self.hinder(delay).await
            }
            Fault::Throttle => {
                let throttle = Hindrance::Throttle(1 << self.random.u32(THROTTLE_BITS));
                self.hinder(throttle).await
            }
        };
        result.map_err(|error| format!("while {fault}: {error}").into())
    }

    async fn kill_one(&mut self) -> Result<(), Failure> {
        let keeper = self.stage.keeper(&self.processes).await?;
        let victim = self.pick(|place, process| !process.is_elsewhere && place != keeper)?;
        if let Some(takeover) = self.kill(victim).await?.answered {
            self.report.takeovers.add(takeover);
        }
        self.start_shared().await
    }

    async fn kill_keeper(&mut self) -> Result<(), Failure> {
        let keeper = self.stage.keeper(&self.processes).await?;
        let takeover = self.kill(keeper).await?;
        self.report.keeper_pauses.add(takeover.saved);
        if let Some(takeover) = takeover.answered {
            self.report.takeovers.add(takeover);
        }
        self.start_shared().await
    }

    async fn kill_elsewhere(&mut self) -> Result<(), Failure> {
        let victim = self.pick(|_, process| process.is_elsewhere)?;
        self.kill(victim).await?;
        self.start_elsewhere().await
    }

    async fn kill_all(&mut self) -> Result<(), Failure> {
        self.report.killed += self.processes.len() as u32;
        let processes = std::mem::take(&mut self.processes);
        (self.processes, _) = self.stage.kill_all(processes).await?;
        Ok(())
    }

    async fn pause_keeper(&mut self) -> Result<(), Failure> {
        let keeper = self.stage.keeper(&self.processes).await?;
        let pause = Duration::from_millis(self.random.u64(PAUSE_MS));
        self.processes[keeper].signal(Signal::STOP)?;
        tokio::time::sleep(pause).await;
        self.processes[keeper].signal(Signal::CONT)
    }

    async fn stop_one(&mut self) -> Result<(), Failure> {
        let keeper = self.stage.keeper(&self.processes).await?;
        let victim = self.pick(|place, process| !process.is_elsewhere && place != keeper)?;
        let mut victim = self.processes.remove(victim);
        self.stage.excuse(&[&victim]);
        victim.signal(Signal::STOP)?;
        self.stage.owns_nothing(victim.id).await?;
        victim.has_ended().await?;
        self.report.killed += 1;
        self.start_shared().await
    }

    async fn zombie(&mut self) -> Result<(), Failure> {
        self.leases_are_sure().await?;
        self.stage.shared_out(&self.processes).await?;
        let zombie = self.pick(|_, process| process.is_elsewhere)?;
        let keeper = self.stage.keeper(&self.processes).await?;
        let before = self.stage.zombie_saves().await.tried;
        self.processes[keeper].signal(Signal::STOP)?;
        // Some wait for it by now; the others soon have nothing to do.
        tokio::time::sleep(Duration::from_millis(self.random.u64(WAIT_MS))).await;
        let (id, incarnation) =
            (self.processes[zombie].id, self.stage.incarnation(self.processes[zombie].id));
        self.stage.excuse(&[&self.processes[zombie]]);
        self.processes[zombie].signal(Signal::STOP)?;
        self.kill(keeper).await?;
        self.stage.owns_nothing(id).await?;
        if let Some(zombie) = self.processes.iter().find(|process| process.id == id) {
            zombie.signal(Signal::CONT)?;
        }
        self.stage.joins_again(id, incarnation).await?;
        let after = self.stage.zombie_saves().await;
        self.report.zombie_saves.tried += after.tried.saturating_sub(before);
        // By the data node that followed the killed one.
        self.report.zombie_saves.accepted += after.accepted;
        self.start_shared().await
    }

    async fn rolling_restart(&mut self) -> Result<(), Failure> {
        self.leases_are_sure().await?;
        // What a kill has made unknown is not to be counted here.
        self.stage.all_play_on().await?;
        let before = self.stage.game.so_far();
        for _ in 0..self.processes.len() {
            let process = self.processes.remove(0);
            let is_elsewhere = process.is_elsewhere;
            self.stage.stop(process).await?;
            if is_elsewhere { self.start_elsewhere().await? } else { self.start_shared().await? }
        }
        let after = self.stage.game.so_far();
        self.report.restart_failed += after.failed - before.failed;
        self.report.restart_unknown += after.findings.unknown - before.findings.unknown;
        Ok(())
    }

    async fn part(&mut self, both_ways: bool) -> Result<(), Failure> {
        let one = self.pick(|_, _| true)?;
        let other = self.pick(|place, _| place != one)?;
        let time = Duration::from_millis(self.random.u64(CUT_MS));
        let (one, other) = (&self.processes[one], &self.processes[other]);
        // Who does not hear the data node for long loses its lease, and with it what it has in memory only.
        self.stage.excuse(&[one, other]);
        one.drop_packets(Some(other), 100).await?;
        let mut cut = vec![one.id];
        if both_ways {
            other.drop_packets(Some(one), 100).await?;
            cut.push(other.id);
        }
        tokio::time::sleep(time).await;
        self.mend(&cut).await
    }

    async fn deafen(&mut self, percent: u8) -> Result<(), Failure> {
        let one = self.pick(|_, _| true)?;
        let time = Duration::from_millis(self.random.u64(CUT_MS));
        // If it is the data node, all others may lose their leases.
        self.stage.excuse(&self.processes.iter().collect::<Vec<_>>());
        let one = &self.processes[one];
        one.drop_packets(None, percent).await?;
        let cut = [one.id];
        tokio::time::sleep(time).await;
        self.mend(&cut).await
    }

    async fn hinder(&mut self, hindrance: Hindrance) -> Result<(), Failure> {
        let one = self.pick(|_, _| true)?;
        let time = Duration::from_millis(self.random.u64(CUT_MS));
        // As when it hears nobody: what renews leases may come too late.
        self.stage.excuse(&self.processes.iter().collect::<Vec<_>>());
        let one = &self.processes[one];
        one.hinder(hindrance).await?;
        let hindered = [one.id];
        tokio::time::sleep(time).await;
        self.mend(&hindered).await
    }

    /// Mends the network of these.
    #[expect(clippy::disallowed_methods, reason = "leases run out in real time")]
    async fn mend(&mut self, cut: &[u64]) -> Result<(), Failure> {
        for process in self.processes.iter().filter(|process| cut.contains(&process.id)) {
            process.mend().await?;
        }
        self.mended = Some(Instant::now());
        // Only then: whoever is started joins at the data node, which may have been cut off.
        self.replace_killed().await
    }

    /// Starts others for those that were killed meanwhile: a process of the data node's machine whose lease is over is killed before
    /// others get its objects. What has cut it off may be mended by then.
    async fn replace_killed(&mut self) -> Result<(), Failure> {
        let (mut killed, mut living) = (0, Vec::new());
        for mut process in std::mem::take(&mut self.processes) {
            if process.was_killed()? {
                killed += 1;
            } else {
                living.push(process);
            }
        }
        self.processes = living;
        for _ in 0..killed {
            self.report.killed += 1;
            self.start_shared().await?;
        }
        Ok(())
    }

    /// Waits until none is killed any more for what was mended.
    async fn leases_are_sure(&mut self) -> Result<(), Failure> {
        if let Some(mended) = self.mended.take() {
            tokio::time::sleep(LEASE_PATIENCE.saturating_sub(mended.elapsed())).await;
            self.replace_killed().await?;
        }
        Ok(())
    }

    /// One of the processes that can be meant.
    fn pick(&mut self, can_be: impl Fn(usize, &Process) -> bool) -> Result<usize, Failure> {
        let all: Vec<usize> =
            (0..self.processes.len()).filter(|place| can_be(*place, &self.processes[*place])).collect();
        let picked = self.random.choice(all);
        Ok(picked.ok_or("no process of that kind is left")?)
    }

    async fn kill(&mut self, place: usize) -> Result<Takeover, Failure> {
        self.report.killed += 1;
        let victim = self.processes.remove(place);
        self.stage.kill(victim).await
    }

    async fn start_shared(&mut self) -> Result<(), Failure> {
        self.processes.push(self.stage.start(Home::Shared).await?);
        Ok(())
    }

    async fn start_elsewhere(&mut self) -> Result<(), Failure> {
        let seeds = seeds_of(&self.processes);
        self.processes.push(self.stage.start(Home::Elsewhere(&seeds)).await?);
        Ok(())
    }
}

fn seeds_of(processes: &[Process]) -> String {
    let addresses: Vec<&str> = processes.iter().map(|process| process.address.as_str()).collect();
    addresses.join(",")
}

/// What chaos came to.
struct Summary {
    seed: u64,
    seconds: f64,
    totals: Totals,
    outcome: Outcome,
    report: Report,
    transport: TransportKind,
}

impl Summary {
    fn is_good(&self) -> bool {
        self.outcome.is_good() && self.report.restart_unknown == 0 && self.report.zombie_saves.accepted == 0
    }

    fn print(&self, json: bool) -> ExitCode {
        if json {
            println!("{}", self.json());
        } else {
            self.print_text();
        }
        if self.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn print_text(&self) {
        let (Report { faults, killed, takeovers, keeper_pauses, .. }, Outcome { findings, failed, retried }) =
            (&self.report, self.outcome);
        println!(
            "seed {}, {:.0} s, {} calls, {killed} processes killed",
            self.seed, self.seconds, self.totals.calls
        );
        for ((fault, _), count) in FAULTS.iter().zip(faults) {
            println!("{count:>6} times {fault}");
        }
        for (what, times) in [("takeover of its objects", takeovers), ("pause of saving", keeper_pauses)] {
            if let (Some(p50), Some(p99)) = (times.percentile_ms(50), times.percentile_ms(99)) {
                println!(
                    "{what} after a kill: {p50:.0} ms in half, {p99:.0} ms in 99 of 100, of {}",
                    times.len()
                );
            }
        }
        println!(
            "{} answers checked: {} wrong; {failed} calls failed, {} with unknown outcome, {retried} made again",
            findings.checked, findings.wrong, findings.unknown
        );
        println!(
            "rolling restarts: {} calls failed, {} with unknown outcome",
            self.report.restart_failed, self.report.restart_unknown
        );
        println!(
            "{} acknowledged saves, {} lost; processes that others had taken for dead tried to save {} times, {} times with success",
            findings.acknowledged_saves,
            findings.lost_saves,
            self.report.zombie_saves.tried,
            self.report.zombie_saves.accepted
        );
    }

    fn json(&self) -> serde_json::Value {
        let Outcome { findings, failed, retried } = self.outcome;
        let report = &self.report;
        let faults: serde_json::Map<_, _> = FAULTS
            .iter()
            .zip(report.faults)
            .map(|((fault, _), count)| (fault.name().to_owned(), count.into()))
            .collect();
        serde_json::json!({
            "seed": self.seed,
            "transport": self.transport.to_string(),
            "seconds": self.seconds,
            "calls": self.totals.calls,
            "calls_checked": findings.checked,
            "wrong_answers": findings.wrong,
            "failed_calls": failed,
            "retried_calls": retried,
            "unknown_outcomes": findings.unknown,
            "faults": faults,
            "killed": report.killed,
            "acknowledged_saves": findings.acknowledged_saves,
            "lost_saves": findings.lost_saves,
            "forgotten_objects": findings.forgotten,
            "forgotten_allowed": findings.forgotten_allowed,
            "zombie_saves_tried": report.zombie_saves.tried,
            "zombie_saves_accepted": report.zombie_saves.accepted,
            "takeovers": report.takeovers.len(),
            "takeover_ms_p50": report.takeovers.percentile_ms(50),
            "takeover_ms_p99": report.takeovers.percentile_ms(99),
            "keeper_pauses": report.keeper_pauses.len(),
            "keeper_pause_ms_p50": report.keeper_pauses.percentile_ms(50),
            "keeper_pause_ms_p99": report.keeper_pauses.percentile_ms(99),
            "restart_failed_calls": report.restart_failed,
            "restart_unknown_outcomes": report.restart_unknown,
        })
    }
}

/// How long chaos goes on if nothing is said of its end.
const MINUTES: f64 = 1.0;
const NETWORK_FLAG: &str = "has-own-network";
const SHARED: usize = 3;
const ELSEWHERE: usize = 1;
const BARRELS_EACH: usize = 4;
/// Levels between two faults.
const LEVELS: std::ops::Range<u64> = 20..600;
/// How long a network is cut: in half of the cases for longer than a lease, of 6 s.
const CUT_MS: std::ops::Range<u64> = 100..12_000;
/// How long after the network is mended a process may still be killed for what was: a lease, of 6 s, and until the data node sees its end.
const LEASE_PATIENCE: Duration = Duration::from_secs(8);
/// How long what a process sends takes: up to where a ping and its answer take as long as a lease may.
const DELAY_MS: std::ops::Range<u32> = 1..2_000;
/// Of kilobits in a second, by powers of two: from far too few for the calls of the game to enough for all of them.
const THROTTLE_BITS: std::ops::Range<u32> = 5..15;
const LOSS_PERCENT: std::ops::Range<u8> = 1..30;
/// How long the data node stands still: shorter than the lease of 6 s, and long enough to be missed.
const PAUSE_MS: std::ops::Range<u64> = 20..2_000;
/// How long the game goes on without a data node before a process becomes a zombie.
const WAIT_MS: std::ops::Range<u64> = 50..1_000;
