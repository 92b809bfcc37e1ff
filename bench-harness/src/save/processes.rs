//! Processes that call what the measuring one keeps, all at the same time.
//!
//! Each has a node that joins by the data directory and has no objects of its own.
//!
//! ```text
//!   <- ready                      its node has joined, and each of its objects has answered
//!   -> 256 5000                   so many calls under way, for so many milliseconds
//!   <- CALLS TOOK_NS 1200:3 ..    what it called, and how often which latency was met
//! ```

use std::ffi::OsStr;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use epicserver::launch;
use epicserver::settings::Settings;

use super::application::{Application, Part};
use super::{BUDGET, PATIENCE};
use crate::child::{Child, say};
use crate::options::WaitMode;
use crate::suite::Failure;

/// What a calling process is told when it starts.
#[derive(Args, Clone, Debug)]
pub(crate) struct CallStored {
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    wait: WaitMode,
    #[arg(long)]
    first: u64,
    #[arg(long)]
    objects: u64,
}

/// The calling processes.
pub(crate) struct Processes(Vec<Child>);

impl Processes {
    /// Starts them, each with its share of the objects.
    pub(crate) async fn start(data: &Path, wait: WaitMode, objects: u64) -> Result<Self, Failure> {
        let share = objects / u64::from(PROCESSES);
        let mut processes = Vec::new();
        for number in 0..u64::from(PROCESSES) {
            let (wait, first, objects) = (wait.to_string(), (number * share).to_string(), share.to_string());
            let to_call = ["--wait", &wait, "--first", &first, "--objects", &objects].map(OsStr::new);
            let arguments = ["call-stored", "--data"].map(OsStr::new).into_iter().chain([data.as_os_str()]);
            processes.push(Child::start(&arguments.chain(to_call).collect::<Vec<_>>())?);
        }
        for process in &mut processes {
            let said = process.hear(BUDGET).await?;
            if said != READY {
                return Err(format!("a calling process did not start: {said:?}").into());
            }
        }
        Ok(Self(processes))
    }

    /// Has all of them call for so long, each with so many calls under way; gives what they did together.
    pub(crate) async fn call(&mut self, outstanding: u32, time: Duration) -> Result<Part, Failure> {
        let order = format!("{outstanding} {}", time.as_millis());
        for process in &mut self.0 {
            process.tell(&order).await?;
        }
        let mut all = Part::new();
        let (mut calls, mut took_ns) = (0, 0);
        for process in &mut self.0 {
            let said = process.hear(BUDGET).await?;
            let report = Report::parse(&said).ok_or_else(|| format!("a calling process says {said:?}"))?;
            calls += report.calls;
            took_ns = took_ns.max(report.took_ns);
            for (latency_ns, count) in report.latencies {
                all.latencies.saturating_record_n(latency_ns, count);
            }
        }
        all.add(calls, Duration::from_nanos(took_ns));
        Ok(all)
    }

    /// Ends them in order.
    pub(crate) async fn finish(self) -> Result<(), Failure> {
        for process in self.0 {
            process.finish(BUDGET).await?;
        }
        Ok(())
    }
}

/// What a process has done.
struct Report {
    calls: u64,
    took_ns: u64,
    latencies: Vec<(u64, u64)>,
}

impl Report {
    fn of(part: &Part) -> Self {
        let latencies = part.latencies.iter_recorded();
        Self {
            calls: part.calls,
            took_ns: (part.mean_ns() * part.calls as f64) as u64,
            latencies: latencies.map(|step| (step.value_iterated_to(), step.count_at_value())).collect(),
        }
    }

    fn line(&self) -> String {
        let mut line = format!("{} {}", self.calls, self.took_ns);
        self.latencies.iter().for_each(|(ns, count)| line.push_str(&format!(" {ns}:{count}")));
        line
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (calls, took_ns) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let latency = |word: &str| {
            let (ns, count) = word.split_once(':')?;
            Some((ns.parse().ok()?, count.parse().ok()?))
        };
        Some(Self { calls, took_ns, latencies: words.map(latency).collect::<Option<_>>()? })
    }
}

/// A calling process.
pub(crate) async fn call_stored(options: &CallStored) -> Result<(), Failure> {
    let settings =
        Settings { cores: Some(1), wait: options.wait.into(), ..Settings::in_folder(&options.data) };
    let node = launch::start::<()>(&settings).await.map_err(|error| error.to_string())?;
    let objects = options.first..options.first + options.objects;
    let mut application = Application::new(node.pool(), objects);
    // All in memory and on their way known, so that no call is a first one.
    application.call_all().await?;
    say(READY)?;
    for order in std::io::stdin().lock().lines() {
        let order = order?;
        let (outstanding, ms) = order.split_once(' ').ok_or("an order without a time")?;
        let mut part = Part::new();
        application.call(outstanding.parse()?, Duration::from_millis(ms.parse()?), &mut part).await?;
        say(&Report::of(&part).line())?;
    }
    node.shutdown(PATIENCE).await;
    Ok(())
}

/// How many call at the same time.
pub(crate) const PROCESSES: u32 = 3;
const READY: &str = "ready";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_back_as_it_went() {
        let mut part = Part::new();
        part.add(3, Duration::from_nanos(3_000));
        for ns in [1_000, 1_000, 70_000] {
            part.latencies.saturating_record(ns);
        }
        let report = Report::parse(&Report::of(&part).line()).expect("a line of our own");
        assert_eq!((report.calls, report.took_ns), (3, 3_000));
        assert_eq!(report.latencies.iter().map(|(_, count)| count).sum::<u64>(), 3);
        assert_eq!(report.latencies[0], (1_000, 2));
        for wrong in ["", "3", "3 x", "3 4 5", "3 4 5:", "thread panicked"] {
            assert!(Report::parse(wrong).is_none(), "{wrong}");
        }
    }
}
