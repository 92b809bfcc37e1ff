//! The suite of saving: what a call costs that changes an object which is saved, with the data directory of a real program.
//!
//! ```text
//!   durable        application -> Pool -> object -> batch -> SQLite, synced -> answer       beside  raw-append-sync
//!   durable-from-three   the same, from the applications of three other processes over TCP
//!   never, behind  object -> object of its core; nobody waits for the disk                  beside  call, which changes nothing
//!   activate       object -> object that is stored and not in memory
//! ```
//! Every call is one of another object. What waits for the disk is called by the application, as answers between objects do not
//! wait; the others by an object on their core. Ours and what is beside it take turns in one run.
//!
//! Start at [`run`]. Not here: the rows' columns (`row.rs`), the callers within a core (`lanes.rs`), those outside of the node
//! (`save/application.rs`) and in other processes (`save/processes.rs`).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use epicserver::settings::Settings;
use epicserver::{Node, launch};
use serde::Serialize;

use self::application::{Application, Part};
use self::callees::{Behind, Bystander, Caller, Durable, Never, Which};
use self::processes::Processes;
use crate::folder::Folder;
use crate::lanes::VISITORS;
use crate::options::{Placement, Suite, Threads, Transport, WaitMode};
use crate::row::{Row, Setting, table};
use crate::suite::Failure;
use crate::ticks;

mod application;
pub(crate) mod callees;
pub(crate) mod processes;

/// The options of the suite.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Where to make the data directory, which is removed again: on the disk that is to be measured
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    folder: PathBuf,
    /// How threads wait for work
    #[arg(long, default_value_t = WaitMode::Park)]
    wait: WaitMode,
    /// How long each row is measured
    #[arg(long, default_value_t = 5.0, value_parser = crate::options::seconds)]
    seconds: f64,
    /// A short look: half a second, and fewer objects
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
    /// One JSON object a line on standard output, and nothing else
    #[arg(long)]
    json: bool,
    /// Fail unless the project's bars hold: 50,000 durable calls a second with 256 under way, from one process and from three, one alone at most twice raw, behind and
    /// never within 10 % of calls that change nothing, 100,000 activations a second. Only with nothing else running on the machine
    #[arg(long)]
    check: bool,
}

impl Options {
    fn time(&self) -> Duration {
        Duration::from_secs_f64(if self.quick { QUICK_SECONDS } else { self.seconds })
    }

    fn objects(&self) -> u64 {
        if self.quick { OBJECTS_QUICK } else { OBJECTS }
    }

    fn command(&self) -> String {
        let time = if self.quick { "--quick".to_owned() } else { format!("--seconds {}", self.seconds) };
        format!("bench-harness save --folder {} --wait {} {time}", self.folder.display(), self.wait)
    }
}

/// A row, and what of it concerns saving.
#[derive(Debug, Serialize)]
struct SaveRow {
    #[serde(flatten)]
    row: Row,
    /// What a crash may lose of the called objects; `None`: nothing is called.
    policy: Option<&'static str>,
    /// Commits that the store made meanwhile.
    batches: u64,
    /// The median of single calls by that of the raw row beside it, or the mean by that of calls that change nothing.
    ratio: Option<f64>,
}

/// Measures all rows and prints them.
pub(crate) async fn run(options: &Options) -> Result<(), Failure> {
    let folder = Folder::make(&options.folder)?;
    let mut run = Run { options, folder: folder.path(), rows: Vec::new() };
    run.durable().await?;
    run.durable_from_three().await?;
    run.beside_calls().await?;
    run.activations().await?;
    let rows = run.rows;
    if !options.json {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        println!("closed loop, {processors} processors, made by:\n  {}\n", options.command());
        print!("{}", table(&rows.iter().map(|row| row.row.clone()).collect::<Vec<_>>()));
        for row in &rows {
            let (case, batches) = (&row.row.case, row.batches);
            let ratio =
                row.ratio.map_or_else(String::new, |ratio| format!(", {ratio:.2} times what is beside it"));
            println!("{case}, {} under way: {batches} commits{ratio}", row.row.outstanding);
        }
    }
    if options.check { bars_hold(&rows) } else { Ok(()) }
}

/// The suite while it is measured.
struct Run<'a> {
    options: &'a Options,
    folder: &'a Path,
    rows: Vec<SaveRow>,
}

impl Run<'_> {
    async fn node(&self) -> Result<Node, Failure> {
        let folder = self.folder.join("data");
        let settings =
            Settings { cores: Some(1), wait: self.options.wait.into(), ..Settings::in_folder(&folder) };
        launch::start::<(Caller, Durable, Behind, Never, Bystander)>(&settings)
            .await
            .map_err(|error| error.to_string().into())
    }

    /// Calls of the application: one alone in turns with the raw append, then many.
    async fn durable(&mut self) -> Result<(), Failure> {
        let node = self.node().await?;
        let mut application = Application::new(node.pool(), 0..self.options.objects());
        // All in memory and stored, so that no call is a first one.
        application.call_all().await?;
        let mut raw = RawAppend::open(&self.folder.join("raw"))?;
        let (mut ours, mut theirs) = (Part::new(), Part::new());
        let before = committed(&node).await;
        let start = ticks::now();
        while start.elapsed() < self.options.time() * 2 {
            application.call(1, ROUND, &mut ours).await?;
            raw.append(ROUND, &mut theirs)?;
        }
        let batches = committed(&node).await - before;
        let ratio =
            ours.latencies.value_at_quantile(0.5) as f64 / theirs.latencies.value_at_quantile(0.5) as f64;
        self.push("durable", Some("durable"), 1, ours, batches, Some(ratio));
        self.push("raw-append-sync", None, 1, theirs, 0, None);
        for outstanding in [OUTSTANDING, OUTSTANDING_MORE] {
            let mut many = Part::new();
            let before = committed(&node).await;
            application.call(outstanding, self.options.time(), &mut many).await?;
            let batches = committed(&node).await - before;
            self.push("durable", Some("durable"), outstanding, many, batches, None);
        }
        node.shutdown(PATIENCE).await;
        Ok(())
    }

    /// Calls of the applications of other processes, which have no objects of their own.
    async fn durable_from_three(&mut self) -> Result<(), Failure> {
        let node = self.node().await?;
        let objects = self.options.objects();
        let data = self.folder.join("data");
        let mut processes = Processes::start(&data, self.options.wait, objects).await?;
        for outstanding in [OUTSTANDING, OUTSTANDING_MORE] {
            let before = committed(&node).await;
            let many = processes.call(outstanding, self.options.time()).await?;
            let batches = committed(&node).await - before;
            let outstanding = outstanding * processes::PROCESSES;
            self.push(FROM_THREE, Some("durable"), outstanding, many, batches, None);
        }
        processes.finish().await?;
        node.shutdown(PATIENCE).await;
        Ok(())
    }

    /// Calls from object to object of one core, of which nobody waits for the disk.
    async fn beside_calls(&mut self) -> Result<(), Failure> {
        let node = self.node().await?;
        let caller = node.pool().get::<Caller>(0);
        let all = [(Which::Bystander, "call", None), (Which::Never, "never", Some("never"))];
        let all = all.into_iter().chain([(Which::Behind, "behind", Some("behind(\"50ms\")"))]);
        let mut parts: Vec<_> = all.map(|names| (names, Part::new(), 0)).collect();
        for (names, ..) in &parts {
            caller.call_for(names.0, LONG_ROUND.as_nanos() as u64).within(BUDGET).await?;
        }
        let rounds = (self.options.time().as_secs_f64() / LONG_ROUND.as_secs_f64()).ceil() as u64;
        for _ in 0..rounds {
            for (names, part, batches) in &mut parts {
                let before = committed(&node).await;
                let answer = caller.call_for(names.0, LONG_ROUND.as_nanos() as u64).within(BUDGET).await?;
                *batches += committed(&node).await - before;
                part.add(answer.calls, Duration::from_nanos(answer.took_ns));
            }
        }
        let plain = parts[0].1.mean_ns();
        for ((_, case, policy), part, batches) in parts {
            let ratio = policy.map(|_| part.mean_ns() / plain);
            self.push(case, policy, 1, part, batches, ratio);
        }
        node.shutdown(PATIENCE).await;
        Ok(())
    }

    /// Calls of stored objects in a fresh process' memory.
    async fn activations(&mut self) -> Result<(), Failure> {
        let node = self.node().await?;
        let caller = node.pool().get::<Caller>(0);
        let answer = caller.visit_stored(self.options.objects()).within(BUDGET).await?;
        let mut part = Part::new();
        part.add(answer.calls, Duration::from_nanos(answer.took_ns));
        self.push("activate", Some("durable"), VISITORS as u32, part, 0, None);
        node.shutdown(PATIENCE).await;
        Ok(())
    }

    fn push(
        &mut self,
        case: &str,
        policy: Option<&'static str>,
        outstanding: u32,
        part: Part,
        batches: u64,
        ratio: Option<f64>,
    ) {
        let raw = policy.is_none() && outstanding == 1 && case.starts_with("raw");
        let (transport, placement, threads) = match case {
            FROM_THREE => (Transport::Tcp, Placement::CrossProcess, Some(Threads::Auto)),
            _ => (Transport::Loopback, Placement::SameCore, None),
        };
        let setting = Setting {
            suite: Suite::Save,
            transport,
            placement,
            wait: self.options.wait,
            threads,
            payload: if raw { RAW_LEN as u32 } else { 64 },
            outstanding,
            objects: if policy == Some("durable") { self.options.objects() } else { callees::BESIDE },
            command: self.options.command(),
        };
        let row = SaveRow {
            row: Row::new(&setting, part.into_measured(case, raw)),
            policy,
            batches,
            ratio: ratio.map(|ratio| (ratio * 1000.0).round() / 1000.0),
        };
        if self.options.json {
            println!("{}", serde_json::to_string(&row).expect("a row is plain data"));
        }
        self.rows.push(row);
    }
}

/// Save batches that the node has committed.
async fn committed(node: &Node) -> u64 {
    node.inspect(PATIENCE).await.nodes.iter().map(|node| node.counters.batches).sum()
}

/// What every durable store does at least: bytes at the end of a file, and a sync.
struct RawAppend(File);

impl RawAppend {
    fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self(File::create(path)?))
    }

    fn append(&mut self, time: Duration, part: &mut Part) -> Result<(), Failure> {
        let (start, mut calls) = (ticks::now(), 0);
        while start.elapsed() < time {
            let sent = ticks::now();
            self.0.write_all(&[7; RAW_LEN])?;
            self.0.sync_data()?;
            part.latencies.saturating_record(sent.elapsed().as_nanos() as u64);
            calls += 1;
        }
        part.add(calls, start.elapsed());
        Ok(())
    }
}

/// The bars of the project.
fn bars_hold(rows: &[SaveRow]) -> Result<(), Failure> {
    let missed: Vec<String> = rows.iter().filter_map(missed_bar).collect();
    if missed.is_empty() { Ok(()) } else { Err(missed.join("\n").into()) }
}

fn missed_bar(row: &SaveRow) -> Option<String> {
    let Row { case, msgs_per_s, outstanding, .. } = &row.row;
    let (per_s_min, ratio_max) = match (case.as_str(), *outstanding) {
        ("durable", 1) => (0, DURABLE_RATIO_MAX),
        ("durable", OUTSTANDING) | (FROM_THREE, OUTSTANDING_OF_THREE) => (DURABLE_PER_S_MIN, f64::MAX),
        ("never" | "behind", _) => (0, BESIDE_RATIO_MAX),
        ("durable", _) => return None,
        ("activate", _) => (ACTIVATE_PER_S_MIN, f64::MAX),
        _ => return None,
    };
    let ratio = row.ratio.unwrap_or_default();
    let text = || {
        format!("{case} with {outstanding} under way: {msgs_per_s} a second, {ratio} times what is beside it")
    };
    (*msgs_per_s < per_s_min || ratio > ratio_max).then(text)
}

/// Calls under way where there are many.
const OUTSTANDING: u32 = 256;
const OUTSTANDING_OF_THREE: u32 = OUTSTANDING * processes::PROCESSES;
/// Beyond that it shows what one batch can hold.
const OUTSTANDING_MORE: u32 = 2048;
/// The bytes of the raw append.
const RAW_LEN: usize = 512;
/// The case of calls from other processes.
const FROM_THREE: &str = "durable-from-three";
const OBJECTS: u64 = 200_000;
const OBJECTS_QUICK: u64 = 20_000;
const QUICK_SECONDS: f64 = 0.5;
/// How long calls that wait for the disk take turns with the raw append.
const ROUND: Duration = Duration::from_millis(20);
/// Several times as long as changes wait where they are saved behind.
const LONG_ROUND: Duration = Duration::from_millis(250);
const DURABLE_PER_S_MIN: u64 = 50_000;
const DURABLE_RATIO_MAX: f64 = 2.0;
const BESIDE_RATIO_MAX: f64 = 1.1;
const ACTIVATE_PER_S_MIN: u64 = 100_000;
const BUDGET: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(5);

/// What the rows and the columns beside those of rtt mean.
pub(crate) const ROWS: &str = "\
Rows:
  durable           the application calls objects of 64 bytes, each call another one, and the answer waits for the disk
  durable-from-three  the same from three other processes over TCP, all their calls; outstanding is the sum of theirs
  raw-append-sync   512 bytes at the end of a file beside the data directory, and fdatasync; in turns with durable, one under way
  call              an object calls others of its core, by a method that changes nothing
  never, behind     the same, by a method that changes them; in turns with call
  activate          an object calls others of its core that are stored and not in memory

Columns of --json beside those of rtt:
  policy    what a crash may lose of the called objects
  batches   commits of the store meanwhile, those of what was changed just before included
  ratio     durable: the median of single calls by that of raw-append-sync; never and behind: the mean by that of call";

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, outstanding: u32, ns: f64, ratio: Option<f64>) -> SaveRow {
        let mut part = Part::new();
        part.took_ns = vec![ns];
        let setting = Setting {
            suite: Suite::Save,
            transport: Transport::Loopback,
            placement: Placement::SameCore,
            wait: WaitMode::Park,
            threads: None,
            payload: 64,
            outstanding,
            objects: 1,
            command: String::new(),
        };
        let row = Row::new(&setting, part.into_measured(case, false));
        SaveRow { row, policy: None, batches: 0, ratio }
    }

    #[test]
    fn bars_are_held_against_their_rows_alone() {
        for (case, outstanding, good, bad) in [
            ("durable", 1, (1e6, 1.9), (1e6, 2.1)),
            ("durable", OUTSTANDING, (19_000.0, 0.0), (21_000.0, 0.0)),
            (FROM_THREE, 768, (19_000.0, 0.0), (21_000.0, 0.0)),
            ("behind", 1, (1e6, 1.09), (1e6, 1.11)),
            ("never", 1, (1e6, 1.09), (1e6, 1.11)),
            ("activate", 64, (9_900.0, 0.0), (10_100.0, 0.0)),
        ] {
            let missed = |(ns, ratio)| missed_bar(&row(case, outstanding, ns, Some(ratio)));
            assert_eq!(missed(good), None);
            assert!(missed(bad).is_some_and(|text| text.contains(case)), "{case}");
        }
        assert_eq!(missed_bar(&row("raw-append-sync", 1, 1e9, None)), None);
    }

    #[test]
    fn a_row_is_one_object_with_the_columns_of_rtt_and_its_own() {
        let text = serde_json::to_string(&row("durable", 1, 1e6, Some(1.5))).expect("plain data");
        for part in
            ["\"suite\":\"save\"", "\"msgs_per_s\":1000", "\"raw\":false", "\"ratio\":1.5", "\"batches\":0"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
