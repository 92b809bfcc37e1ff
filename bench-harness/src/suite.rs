//! The suites: a node, or a pair of them, for each way of waiting, placing and driving, and one measurement after the other on it.

use std::time::Duration;

use epicserver::Node;

use crate::callees::{Account, Still};
use crate::device_counters::{all_found_receives_since, receivers_not_ready};
use crate::driver::{Case, Driver, Plan};
use crate::options::{Options, Placement, Suite, Threads, Transport, WaitMode};
use crate::pair::Pair;
use crate::processors::Halves;
use crate::row::{Row, Setting, ThreadsColumn, table};

/// Why a run failed.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Measures what was asked for and prints it.
pub(crate) async fn run(suite: Suite, options: &Options) -> Result<(), Failure> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let not_ready_before = receivers_not_ready();
    let mut run = Run { suite, options, halves: Halves::of_this_thread()?, rows: Vec::new() };
    for placement in options.placements() {
        for wait in options.waits() {
            match placement {
                Placement::SameCore | Placement::CrossCore => run.in_one_process(placement, wait).await?,
                Placement::CrossProcess => {
                    for &transport in options.transport.measured() {
                        run.in_two_processes(transport, wait).await?;
                    }
                }
            }
        }
    }
    let Run { rows, .. } = run;
    if !options.json {
        println!("closed loop, {processors} processors, made by:\n  {}\n", options.command(suite));
        print!("{}", table(&rows));
    }
    if options.transport.measured().contains(&Transport::Rdma) {
        all_found_receives_since(not_ready_before)?;
    }
    no_allocations(&rows)?;
    if options.check { bars_hold(&rows) } else { Ok(()) }
}

/// A suite while it is measured.
struct Run<'a> {
    suite: Suite,
    options: &'a Options,
    /// The processors of two processes; this one is kept to its half once there are two.
    halves: Halves,
    rows: Vec<Row>,
}

impl Run<'_> {
    async fn in_one_process(&mut self, placement: Placement, wait: WaitMode) -> Result<(), Failure> {
        let builder = Node::builder().bind::<(Driver, Still, Account)>();
        let node = builder.cores(placement.cores()).wait(wait.into()).start()?;
        self.on(&node, Transport::Loopback, placement, wait, None).await?;
        node.shutdown(PATIENCE).await;
        Ok(())
    }

    async fn in_two_processes(&mut self, transport: Transport, wait: WaitMode) -> Result<(), Failure> {
        let halves = self.halves.clone();
        for threads in self.options.threads() {
            let pair = Pair::start(transport, wait, threads, &halves).await?;
            self.on(&pair.node, transport, Placement::CrossProcess, wait, Some(threads)).await?;
            pair.finish().await?;
        }
        Ok(())
    }

    /// Every case with every payload and so many calls under way, on one node.
    async fn on(
        &mut self,
        node: &Node,
        transport: Transport,
        placement: Placement,
        wait: WaitMode,
        threads: Option<Threads>,
    ) -> Result<(), Failure> {
        let Self { suite, options, .. } = *self;
        for case in options.cases(placement) {
            for &payload in &options.payload {
                for outstanding in options.outstanding(suite) {
                    let mut setting = Setting {
                        suite,
                        transport,
                        placement,
                        wait,
                        threads,
                        payload,
                        outstanding,
                        objects: objects(case, options.quick),
                        command: String::new(),
                    };
                    setting.command = options.only(&setting, case).command(suite);
                    self.measure(node, case, &setting).await?;
                }
            }
        }
        Ok(())
    }

    async fn measure(&mut self, node: &Node, case: Case, setting: &Setting) -> Result<(), Failure> {
        let Options { quick, rounds, seconds, json, raw_extra, .. } = *self.options;
        let (rounds, seconds) = if quick { (QUICK_ROUNDS, QUICK_SECONDS) } else { (rounds, seconds) };
        let plan = Plan {
            case,
            payload: setting.payload,
            raw_extra,
            outstanding: setting.outstanding,
            objects: setting.objects,
            placement: setting.placement,
            transport: setting.transport,
            park: setting.wait == WaitMode::Park,
            rounds,
            time_ns: (seconds * 1e9) as u64,
            batch_ns: batch_ns(self.suite, quick),
        };
        let pool = node.pool();
        let mut key = 0;
        while !pool.get::<Driver>(key).place().await?.is(Placement::SameCore) {
            key += 1;
        }
        let measured = pool.get::<Driver>(key).measure(plan).within(BUDGET).await?;
        for row in measured.into_iter().map(|measured| Row::new(setting, measured)) {
            if json {
                println!("{}", row.json());
            }
            self.rows.push(row);
        }
        Ok(())
    }
}

fn batch_ns(suite: Suite, quick: bool) -> u64 {
    match suite {
        Suite::Throughput if !quick => THROUGHPUT_BATCH_NS,
        _ => BATCH_NS,
    }
}

fn objects(case: Case, quick: bool) -> u64 {
    match (case, case.is_million(), quick) {
        (Case::Echo | Case::EchoVec, _, true) => OBJECTS_FAR_QUICK,
        (_, false, _) => OBJECTS,
        (_, true, false) => OBJECTS_MANY,
        (_, true, true) => OBJECTS_QUICK,
    }
}

/// A call between objects of one core allocates nothing. Not asked of arguments that are too large for recycled memory, and
/// not where a million objects change: the buffers of their images may still be growing.
fn no_allocations(rows: &[Row]) -> Result<(), Failure> {
    let ours = rows.iter().filter(|row| !row.raw && row.placement == Placement::SameCore);
    for row in ours.filter(|row| row.objects == OBJECTS && row.payload <= PAYLOAD_RECYCLED_MAX) {
        // Not counted is as bad as any.
        let allocations = row.allocations.unwrap_or(f64::NAN);
        if allocations != 0.0 {
            let Row { case, command, .. } = row;
            return Err(format!("{case} makes {allocations} allocations a call ({command})").into());
        }
    }
    Ok(())
}

/// The bars of the project.
fn bars_hold(rows: &[Row]) -> Result<(), Failure> {
    let mut missed = Vec::new();
    for row in rows.iter().filter(|row| !row.raw) {
        let Some(bar) = bar(row, rows) else { continue };
        if row.mean_ns > bar {
            let Row { case, mean_ns, command, .. } = row;
            missed.push(format!("{case} takes {mean_ns} ns, more than {bar:.1} ns ({command})"));
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("\n").into()) }
}

/// What a call may take, in nanoseconds.
fn bar(row: &Row, rows: &[Row]) -> Option<f64> {
    let raw = || Some(rows.iter().find(|other| other.raw && other.is_beside(row))?.mean_ns);
    if row.transport == Transport::Rdma {
        let is_barred = (row.wait, row.outstanding, row.payload) == (WaitMode::Spin, 1, 64);
        return if is_barred { Some(raw()? * RDMA_RATIO_MAX) } else { None };
    }
    if row.transport == Transport::Tipc && row.outstanding > 1 {
        return if row.outstanding == 256 { Some(raw()? * TIPC_PIPELINED_RATIO_MAX) } else { None };
    }
    match (row.placement, row.case.as_str(), row.wait, row.outstanding) {
        (Placement::SameCore, "call", _, 1) => Some(SAME_CORE_NS_MAX),
        (Placement::SameCore, "call-durable", _, 1) => Some(DURABLE_NS_MAX),
        (Placement::CrossCore, "call", WaitMode::Spin, 1) => Some(raw()? * CROSS_CORE_RATIO_MAX),
        (Placement::CrossProcess, _, wait, 1) => match (row.threads, wait) {
            (ThreadsColumn::Links(Threads::Dedicated), WaitMode::Spin) => None,
            (ThreadsColumn::Links(Threads::Dedicated), WaitMode::Park) => Some(raw()? * DEDICATED_RATIO_MAX),
            _ => Some(raw()? * INLINE_RATIO_MAX),
        },
        (Placement::CrossProcess, _, _, 256) if row.payload != 64 => None,
        (Placement::CrossProcess, _, WaitMode::Spin, 256) => Some(1e9 / SPINNING_PER_S_MIN),
        (Placement::CrossProcess, _, WaitMode::Park, 256) => Some(1e9 / PARKED_PER_S_MIN),
        _ => None,
    }
}

const OBJECTS: u64 = 1_000;
const OBJECTS_MANY: u64 = 1_000_000;
const OBJECTS_QUICK: u64 = 20_000;
const OBJECTS_FAR_QUICK: u64 = 50;
const QUICK_ROUNDS: u32 = 9;
const QUICK_SECONDS: f64 = 1.0;
/// The largest argument that is held to allocate nothing, in bytes.
const PAYLOAD_RECYCLED_MAX: u32 = 1024;
const SAME_CORE_NS_MAX: f64 = 40.0;
const DURABLE_NS_MAX: f64 = 90.0;
const CROSS_CORE_RATIO_MAX: f64 = 2.0;
const INLINE_RATIO_MAX: f64 = 1.15;
const DEDICATED_RATIO_MAX: f64 = 1.35;
/// 80 % of what raw packets get through.
const TIPC_PIPELINED_RATIO_MAX: f64 = 1.25;
const RDMA_RATIO_MAX: f64 = 1.25;
const SPINNING_PER_S_MIN: f64 = 2.5e6;
const PARKED_PER_S_MIN: f64 = 1.5e6;
/// Short enough that most batches are over before another process takes the processor away: a median is then undisturbed.
const BATCH_NS: u64 = 200_000;
/// Long enough that what happens now and then, such as credits and wake-ups, is in every batch.
const THROUGHPUT_BATCH_NS: u64 = 20_000_000;
/// For one measurement, its raw rounds included.
const BUDGET: Duration = Duration::from_secs(4 * 3600);
const PATIENCE: Duration = Duration::from_secs(5);
