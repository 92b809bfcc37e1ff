//! Looks at the cluster while the demo plays: a line for people, and the totals of all processes, gone ones included.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epicserver::{Node, Stats};

/// Looks at the cluster now and then until it is stopped.
pub(crate) struct Live {
    seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

/// What was seen.
struct Seen {
    client: Arc<Node>,
    /// The last word of each process by its node, for those that are gone too.
    stats: Mutex<BTreeMap<u64, Stats>>,
    phase: Mutex<String>,
}

/// Sums over all processes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    pub(crate) remote_calls: u64,
    pub(crate) objects: u64,
}

impl Live {
    pub(crate) fn start(client: Arc<Node>) -> Self {
        let seen = Arc::new(Seen { client, stats: Mutex::default(), phase: Mutex::default() });
        let task = tokio::spawn(show(seen.clone()));
        Self { seen, task }
    }

    /// Says what goes on from here.
    pub(crate) fn phase(&self, what: impl Into<String>) {
        *self.seen.phase.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }

    /// Looks once more, and gives the sums.
    pub(crate) async fn look(&self) -> Totals {
        self.seen.look().await
    }

    /// Forgets the objects of a process that is gone; what it did stays counted.
    pub(crate) fn gone(&self, node: u64) {
        let mut stats = self.seen.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.entry(node).or_default().objects = 0;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.abort();
        if std::io::stderr().is_terminal() {
            eprintln!();
        }
    }
}

impl Seen {
    async fn look(&self) -> Totals {
        let report = self.client.inspect(PATIENCE).await;
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        for node in report.nodes {
            if let Some(newest) = node.stats {
                stats.insert(node.node.id, newest);
            }
        }
        stats.values().fold(Totals::default(), |totals, stats| Totals {
            calls: totals.calls + stats.calls,
            remote_calls: totals.remote_calls + stats.remote_calls,
            objects: totals.objects + stats.objects,
        })
    }
}

async fn show(seen: Arc<Seen>) {
    let terminal = std::io::stderr().is_terminal();
    let mut before = 0;
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tick.tick().await;
        let totals = seen.look().await;
        let per_second = totals.calls.saturating_sub(before) as f64 / INTERVAL.as_secs_f64();
        before = totals.calls;
        let phase = seen.phase.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let line = format!(
            "{:>9} calls, {per_second:>8.0} a second, {:>6} objects in memory: {phase}",
            totals.calls, totals.objects
        );
        // A terminal that cannot be written to must not end the game.
        let _ = if terminal {
            write!(std::io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }
}

const INTERVAL: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_millis(400);
