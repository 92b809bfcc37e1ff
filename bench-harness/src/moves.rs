//! The suite of moves: how long the calls of a partition wait while it moves to another process.
//!
//! ```text
//!   callers of this process ──TCP──> objects of the one process, or of the other
//!   planned-move   the longest call of each partition that moved, from the start of the other process until all has moved, and
//!                  from its SIGTERM-like end until all is back
//!   no-move        the longest call of each partition in as long a time after it, in which nothing moves
//! ```
//! A call that meets a move waits until the partition is served again, so that the longest call is the pause and what a call takes
//! anyway. The callers call without a break, each partition many times in the time that a pause may have.
//!
//! Start at [`run`].

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use epicserver::cluster::{NodeId, partition_of};
use epicserver::prelude::*;
use epicserver::settings::Settings;
use epicserver::{Node, launch};
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::child::{Child, say};
use crate::driver::Measured;
use crate::folder::Folder;
use crate::lanes::{Latencies, latencies};
use crate::options::{Placement, Suite, Threads, Transport, WaitMode};
use crate::row::{Row, Setting, table};
use crate::suite::Failure;
use crate::ticks;

/// The options of the suite.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Where to make the data directory, which is removed again
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    folder: PathBuf,
    /// How threads wait for work
    #[arg(long, default_value_t = WaitMode::Park)]
    wait: WaitMode,
    /// Partitions that are called; half of them move at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(2..=1024))]
    partitions: u64,
    /// Objects of each that are in memory, as the called ones are
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    objects: u64,
    /// Calls under way at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    outstanding: u32,
    /// How often the other process comes and goes
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// A short look: one round, 8 partitions of 50 objects
    #[arg(long, conflicts_with_all = ["partitions", "objects", "rounds"])]
    quick: bool,
    /// One JSON object a line on standard output, and nothing else
    #[arg(long)]
    json: bool,
    /// Fail unless the project's bar holds: a pause of at most 100 ms in 99 of 100 moves. Only with nothing else running on the
    /// machine
    #[arg(long)]
    check: bool,
}

impl Options {
    /// As they are without `--quick`.
    fn spelled_out(&self) -> Self {
        if self.quick { Self { rounds: 1, partitions: 8, objects: 50, ..self.clone() } } else { self.clone() }
    }

    fn command(&self) -> String {
        let Self { folder, wait, partitions, objects, outstanding, rounds, .. } = self;
        format!(
            "bench-harness move --folder {} --wait {wait} --partitions {partitions} --objects {objects} \
             --outstanding {outstanding} --rounds {rounds}",
            folder.display()
        )
    }
}

/// What the process is told that objects live in.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeHomes {
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    wait: WaitMode,
}

/// A durable object that lives with the others of its house, in one partition.
#[entity(name = "bench.move.Inhabitant", partition_by = house_of)]
#[derive(Default)]
pub(crate) struct Inhabitant {
    visits: u64,
    belongings: [u64; 7],
}

#[methods]
impl Inhabitant {
    async fn visit(&mut self) -> u64 {
        self.visits += 1;
        self.belongings[0] = self.visits;
        self.visits
    }
}

fn house_of(key: &u64) -> u64 {
    key / HOUSE
}

/// A row, and what of it concerns moves.
#[derive(Debug, Serialize)]
struct MoveRow {
    #[serde(flatten)]
    row: Row,
    /// Calls of the whole run.
    calls: u64,
    /// Those that came to nothing.
    failed_calls: u64,
    /// Those that nobody knows of.
    unknown_outcomes: u64,
    /// Changes that were acknowledged and are not there, or that are there twice.
    wrong_answers: u64,
}

/// Measures both rows and prints them.
pub(crate) async fn run(given: &Options) -> Result<(), Failure> {
    let options = given.spelled_out();
    let folder = Folder::make(&options.folder)?;
    let data = folder.path().join("data");
    let home = Home::start(&data, options.wait).await?;
    let settings = Settings { cores: Some(1), wait: options.wait.into(), ..Settings::in_folder(&data) };
    let node = launch::start::<()>(&settings).await.map_err(|error| error.to_string())?;
    let houses = houses(options.partitions);
    let callers = Callers::start(&node, &houses, &options);
    callers.all_at_home(&options).await?;
    let (mut moved, mut stayed) = (latencies(), latencies());
    let start = ticks::now();
    for _ in 0..options.rounds {
        let other = callers
            .while_it_moves(&node, &mut moved, &mut stayed, async { Home::start(&data, options.wait).await });
        let other = other.await?;
        let back = callers.while_it_moves(&node, &mut moved, &mut stayed, async { other.leave().await });
        back.await?;
    }
    let took = start.elapsed();
    let books = callers.end().await?;
    node.shutdown(PATIENCE).await;
    home.leave().await?;
    let rows = [("planned-move", moved), ("no-move", stayed)]
        .map(|(case, longest)| row(case, &longest, took, &books, &options));
    for row in rows.iter().filter(|_| options.json) {
        println!("{}", serde_json::to_string(row)?);
    }
    if !options.json {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        println!("closed loop, {processors} processors, made by:\n  {}\n", options.command());
        print!("{}", table(&rows.iter().map(|row| row.row.clone()).collect::<Vec<_>>()));
        let Books { calls, failed, unknown, wrong, .. } = books;
        println!("{calls} calls, {failed} failed, {unknown} with unknown outcome, {wrong} wrong answers");
    }
    let [moves, _] = &rows;
    if books.failed + books.unknown + books.wrong > 0 {
        return Err("calls failed while partitions moved".into());
    }
    match options.check && moves.row.p99_ns > PAUSE_NS_MAX {
        true => {
            Err(format!("the pause is {} ns in 99 of 100 moves, and not 100 ms", moves.row.p99_ns).into())
        }
        false => Ok(()),
    }
}

/// So many houses, no two of them in one partition.
fn houses(count: u64) -> Vec<u64> {
    let mut partitions = std::collections::BTreeSet::new();
    (0..)
        .filter(|house| partitions.insert(partition_of::<Inhabitant>(house * HOUSE)))
        .take(count as usize)
        .collect()
}

fn row(case: &str, longest: &Latencies, took: Duration, books: &Books, options: &Options) -> MoveRow {
    let at = |quantile| longest.value_at_quantile(quantile);
    let measured = Measured {
        case: case.to_owned(),
        raw: false,
        calls: longest.len(),
        mean_ns: longest.mean(),
        allocations: None,
        p50_ns: at(0.5),
        p99_ns: at(0.99),
        p999_ns: at(0.999),
        max_ns: longest.max(),
    };
    let setting = Setting {
        suite: Suite::Move,
        transport: Transport::Tcp,
        placement: Placement::CrossProcess,
        wait: options.wait,
        threads: Some(Threads::Auto),
        payload: 0,
        outstanding: options.outstanding,
        objects: options.partitions * options.objects,
        command: options.command(),
    };
    let msgs_per_s = (books.calls as f64 / took.as_secs_f64()) as u64;
    MoveRow {
        row: Row { msgs_per_s, ..Row::new(&setting, measured) },
        calls: books.calls,
        failed_calls: books.failed,
        unknown_outcomes: books.unknown,
        wrong_answers: books.wrong,
    }
}

/// A process that objects live in.
struct Home(Child);

impl Home {
    async fn start(data: &Path, wait: WaitMode) -> Result<Self, Failure> {
        let wait = wait.to_string();
        let arguments = ["serve-homes", "--wait", &wait, "--data"].map(OsStr::new);
        let mut child = Child::start(&arguments.into_iter().chain([data.as_os_str()]).collect::<Vec<_>>())?;
        match child.hear(PATIENCE).await?.as_str() {
            READY => Ok(Self(child)),
            said => Err(format!("a process does not serve: {said:?}").into()),
        }
    }

    /// Ends it in order: it gives away what lives there.
    async fn leave(self) -> Result<(), Failure> {
        self.0.finish(PATIENCE).await
    }
}

/// The process: objects live in it until its standard input ends.
pub(crate) fn serve_homes(options: &ServeHomes) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let settings =
        Settings { cores: Some(1), wait: options.wait.into(), ..Settings::in_folder(&options.data) };
    let node =
        runtime.block_on(launch::start::<(Inhabitant,)>(&settings)).map_err(|error| error.to_string())?;
    say(READY)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    match runtime.block_on(node.shutdown(launch::PATIENCE)) {
        true => Ok(()),
        false => Err("what lives here could not be given away in time".into()),
    }
}

/// Tasks that call, each one object after the other.
struct Callers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Books>>,
}

struct Shared {
    houses: Vec<House>,
    ends: AtomicBool,
}

struct House {
    number: u64,
    /// The longest call of it since that was last asked for.
    longest_ns: AtomicU64,
    calls: AtomicU64,
}

/// What a caller has met.
#[derive(Clone, Copy, Debug, Default)]
struct Books {
    calls: u64,
    failed: u64,
    unknown: u64,
    wrong: u64,
}

impl Callers {
    fn start(node: &Node, houses: &[u64], options: &Options) -> Self {
        let house =
            |number: &u64| House { number: *number, longest_ns: AtomicU64::new(0), calls: AtomicU64::new(0) };
        let shared =
            Arc::new(Shared { houses: houses.iter().map(house).collect(), ends: AtomicBool::new(false) });
        let callers = u64::from(options.outstanding);
        let tasks = (0..callers).map(|caller| {
            // Each has inhabitants of its own in every house, so that it knows how often each was visited.
            let own = (caller..options.objects.max(callers)).step_by(options.outstanding as usize).collect();
            tokio::spawn(call(node.pool(), shared.clone(), own))
        });
        let tasks = tasks.collect();
        Self { shared, tasks }
    }

    /// Waits until every object was called.
    async fn all_at_home(&self, options: &Options) -> Result<(), Failure> {
        let objects = options.objects.max(options.outstanding.into());
        let is_so = || self.shared.houses.iter().all(|house| house.calls.load(Ordering::Relaxed) >= objects);
        until("every object was called", is_so).await
    }

    /// Does something that makes partitions move, and waits until they have; then waits as long once more. Puts the longest call of each
    /// that has moved, and of each afterwards, where they belong.
    async fn while_it_moves<T>(
        &self,
        node: &Node,
        moved: &mut Latencies,
        stayed: &mut Latencies,
        what: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let before = self.owners(node);
        self.take_longest();
        let start = ticks::now();
        let done = what.await?;
        let settled = || {
            let view = node.view();
            let owners = self.owners(node);
            owners.iter().all(Option::is_some)
                && owners != before
                && view.partitions.iter().all(|state| state.moving_to.is_none())
        };
        until("all has moved", settled).await?;
        // Calls that waited have their answers by then.
        tokio::time::sleep(SETTLE).await;
        let took = start.elapsed();
        let after = self.owners(node);
        let longest = self.take_longest();
        let has_moved = before.iter().zip(&after).map(|(before, after)| before != after);
        for (longest_ns, _) in longest.into_iter().zip(has_moved).filter(|(_, has_moved)| *has_moved) {
            moved.saturating_record(longest_ns);
        }
        tokio::time::sleep(took).await;
        self.take_longest().into_iter().for_each(|longest_ns| stayed.saturating_record(longest_ns));
        Ok(done)
    }

    /// Who owns each house.
    fn owners(&self, node: &Node) -> Vec<Option<NodeId>> {
        let view = node.view();
        let owner = |house: &House| view.partition(partition_of::<Inhabitant>(house.number * HOUSE)).owner;
        self.shared.houses.iter().map(owner).collect()
    }

    fn take_longest(&self) -> Vec<u64> {
        self.shared.houses.iter().map(|house| house.longest_ns.swap(0, Ordering::Relaxed)).collect()
    }

    async fn end(self) -> Result<Books, Failure> {
        self.shared.ends.store(true, Ordering::Relaxed);
        let mut all = Books::default();
        for task in self.tasks {
            let Books { calls, failed, unknown, wrong } = task.await?;
            all.calls += calls;
            all.failed += failed;
            all.unknown += unknown;
            all.wrong += wrong;
        }
        Ok(all)
    }
}

/// A caller: visits its inhabitants in all houses in turn.
async fn call(pool: Pool, shared: Arc<Shared>, own: Vec<u64>) -> Books {
    let mut books = Books::default();
    let mut visits = vec![0; own.len() * shared.houses.len()];
    let places =
        (0..own.len()).flat_map(|inhabitant| (0..shared.houses.len()).map(move |house| (inhabitant, house)));
    for (inhabitant, place) in places.cycle() {
        if shared.ends.load(Ordering::Relaxed) {
            break;
        }
        let house = &shared.houses[place];
        let object = pool.get::<Inhabitant>(house.number * HOUSE + own[inhabitant]);
        let sent = ticks::now();
        let answer = object.visit().await;
        house.longest_ns.fetch_max(sent.elapsed().as_nanos() as u64, Ordering::Relaxed);
        house.calls.fetch_add(1, Ordering::Relaxed);
        books.calls += 1;
        let known: &mut u64 = &mut visits[inhabitant * shared.houses.len() + place];
        match answer {
            Ok(visits) => {
                *known += 1;
                books.wrong += u64::from(visits != *known);
                *known = visits;
            }
            Err(error) if error.retry_safe() => books.failed += 1,
            Err(_) => books.unknown += 1,
        }
    }
    books
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), Failure> {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    Ok(tokio::time::timeout(PATIENCE, wait).await.map_err(|_| format!("not in time: {what}"))?)
}

/// The keys of a house: more than it has inhabitants.
const HOUSE: u64 = 1 << 20;
/// The bar of the project.
const PAUSE_NS_MAX: u64 = 100_000_000;
const READY: &str = "ready";
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const SETTLE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);

/// What the rows and the columns beside those of rtt mean.
pub(crate) const ROWS: &str = "\
Rows:
  planned-move  the longest call of each partition that moved: while another process came, or went, under load
  no-move       the longest call of each partition in as long a time right after that

Columns of --json beside those of rtt:
  n                 longest calls, one a partition and a time
  msgs_per_s        calls answered in a second of the whole run, moves included
  calls             of the whole run
  failed_calls      those that did not happen
  unknown_outcomes  those that nobody knows of
  wrong_answers     changes that were acknowledged and are not there, or are there twice";
