//! The line that shows what goes on while the demo plays.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use epicserver::Pool;

/// Writes a line to standard error now and then until it is stopped.
pub(crate) struct Live {
    task: tokio::task::JoinHandle<()>,
    terminal: bool,
}

impl Live {
    pub(crate) fn start(name: &str, pool: Pool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let name = name.to_owned();
        let task = tokio::spawn(async move {
            let mut before = pool.stats().calls;
            let mut tick = tokio::time::interval(INTERVAL);
            tick.tick().await;
            loop {
                tick.tick().await;
                let stats = pool.stats();
                let per_second = (stats.calls - before) as f64 / INTERVAL.as_secs_f64();
                before = stats.calls;
                let line = format!(
                    "{name}: {:>9} calls here, {per_second:>9.0} a second, {:>6} objects in memory",
                    stats.calls, stats.objects
                );
                // A terminal that cannot be written to must not end the game.
                let _ = if terminal {
                    write!(std::io::stderr(), "\r{line}")
                } else {
                    writeln!(std::io::stderr(), "{line}")
                };
            }
        });
        Self { task, terminal }
    }

    pub(crate) fn stop(self) {
        self.task.abort();
        if self.terminal {
            eprintln!();
        }
    }
}

const INTERVAL: Duration = Duration::from_millis(500);
