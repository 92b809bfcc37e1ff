//! The suite `rtt`: a node for each way of waiting and placing, one measurement after the other on it.

use std::time::Duration;

use epicserver::{Node, Wait};

use crate::callees::{Account, Still};
use crate::driver::{Case, Driver, Plan};
use crate::options::{Placement, Rtt, WaitMode, or_all};
use crate::row::{Row, Setting, table};

/// Why a run failed.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Measures what was asked for and prints it.
pub(crate) async fn run(options: &Rtt) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for placement in or_all(&options.placement) {
        for wait in or_all(&options.wait) {
            on_one_node(options, placement, wait, &mut rows).await?;
        }
    }
    if !options.json {
        print_table(options, &rows);
    }
    no_allocations(&rows)?;
    if options.check { bars_hold(&rows) } else { Ok(()) }
}

async fn on_one_node(
    options: &Rtt,
    placement: Placement,
    wait: WaitMode,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let how = match wait {
        WaitMode::Spin => Wait::Spin,
        WaitMode::Park => Wait::Park,
    };
    let cores = placement.cores();
    let node = Node::builder().bind::<(Driver, Still, Account)>().cores(cores).wait(how).start()?;
    for case in or_all(&options.case) {
        if case.is_million() && placement != Placement::SameCore {
            continue;
        }
        for &outstanding in &options.outstanding {
            let setting = Setting {
                transport: options.transport,
                placement,
                wait,
                payload: options.payload,
                outstanding,
                objects: objects(case, options.quick),
                command: options.only(placement, wait, outstanding, case).command(),
            };
            for row in measure(options, &node, case, &setting).await? {
                if options.json {
                    println!("{}", row.json());
                }
                rows.push(row);
            }
        }
    }
    node.shutdown(PATIENCE).await;
    Ok(())
}

async fn measure(options: &Rtt, node: &Node, case: Case, setting: &Setting) -> Result<Vec<Row>, Failure> {
    let (rounds, seconds) =
        if options.quick { (QUICK_ROUNDS, QUICK_SECONDS) } else { (options.rounds, options.seconds) };
    let plan = Plan {
        case,
        payload: setting.payload,
        outstanding: setting.outstanding,
        objects: setting.objects,
        cores: setting.placement.cores(),
        park: setting.wait == WaitMode::Park,
        rounds,
        time_ns: (seconds * 1e9) as u64,
    };
    let pool = node.pool();
    let mut key = 0;
    while pool.get::<Driver>(key).core().await? != 0 {
        key += 1;
    }
    let measured = pool.get::<Driver>(key).measure(plan).within(BUDGET).await?;
    Ok(measured.into_iter().map(|measured| Row::new(setting, measured)).collect())
}

fn objects(case: Case, quick: bool) -> u64 {
    match (case.is_million(), quick) {
        (false, _) => OBJECTS,
        (true, false) => OBJECTS_MANY,
        (true, true) => OBJECTS_QUICK,
    }
}

fn print_table(options: &Rtt, rows: &[Row]) {
    println!("closed loop, {} processors, made by:\n  {}\n", processors(), options.command());
    print!("{}", table(rows));
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A call between objects of one core allocates nothing. Not asked of arguments that are too large for recycled memory, and
/// not where a million objects change: the buffers of their images may still be growing.
fn no_allocations(rows: &[Row]) -> Result<(), Failure> {
    let ours = rows.iter().filter(|row| !row.raw && row.placement == Placement::SameCore);
    for row in ours.filter(|row| row.objects == OBJECTS && row.payload <= PAYLOAD_RECYCLED_MAX) {
        if row.allocations > 0.0 {
            let Row { case, allocations, command, .. } = row;
            return Err(format!("{case} makes {allocations} allocations a call ({command})").into());
        }
    }
    Ok(())
}

/// The bars of the project's first figures.
fn bars_hold(rows: &[Row]) -> Result<(), Failure> {
    let mut missed = Vec::new();
    for row in rows.iter().filter(|row| !row.raw && row.outstanding == 1) {
        let Some(bar) = bar(row, rows) else { continue };
        if row.mean_ns > bar {
            let Row { case, mean_ns, command, .. } = row;
            missed.push(format!("{case} takes {mean_ns} ns, more than {bar:.1} ns ({command})"));
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("\n").into()) }
}

fn bar(row: &Row, rows: &[Row]) -> Option<f64> {
    match (row.placement, row.case.as_str(), row.wait) {
        (Placement::SameCore, "call", _) => Some(SAME_CORE_NS_MAX),
        (Placement::SameCore, "call-durable", _) => Some(DURABLE_NS_MAX),
        (Placement::CrossCore, "call", WaitMode::Spin) => {
            let raw = rows.iter().find(|other| other.raw && other.is_beside(row))?;
            Some(raw.mean_ns * CROSS_CORE_RATIO_MAX)
        }
        _ => None,
    }
}

const OBJECTS: u64 = 1_000;
const OBJECTS_MANY: u64 = 1_000_000;
const OBJECTS_QUICK: u64 = 20_000;
const QUICK_ROUNDS: u32 = 9;
const QUICK_SECONDS: f64 = 1.0;
/// The largest argument that is held to allocate nothing, in bytes.
const PAYLOAD_RECYCLED_MAX: u32 = 1024;
const SAME_CORE_NS_MAX: f64 = 40.0;
const DURABLE_NS_MAX: f64 = 90.0;
const CROSS_CORE_RATIO_MAX: f64 = 2.0;
/// For one measurement, its raw rounds included.
const BUDGET: Duration = Duration::from_secs(4 * 3600);
const PATIENCE: Duration = Duration::from_secs(5);
