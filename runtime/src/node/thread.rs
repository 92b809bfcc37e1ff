//! A thread of a node: it is waited for when the node stops, and left behind when it does not end.

use std::fmt;
use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

/// A thread that can be waited for with a deadline, which a join does not have.
pub(crate) struct NodeThread<T> {
    handle: JoinHandle<T>,
    /// Disconnected when the thread ends.
    ended: Receiver<()>,
}

impl<T> fmt::Debug for NodeThread<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeThread").field("name", &self.handle.thread().name()).finish_non_exhaustive()
    }
}

/// How a thread ended that was to.
pub(crate) enum ThreadEnd<T> {
    Ended(T),
    Panicked,
    /// It runs on. What it holds nobody else needs; it ends when what it waits for returns, or with the process.
    LeftBehind,
}

impl<T: Send + 'static> NodeThread<T> {
    /// Starts it.
    ///
    /// # Errors
    /// If the system has no room for another thread.
    pub(crate) fn start(name: &str, run: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (ends, ended) = bounded(0);
        let run = move || {
            // Also when it panics.
            let _ends = ends;
            run()
        };
        Ok(Self { handle: spawn(name, run)?, ended })
    }

    /// Waits for its end, and not for longer than this.
    pub(crate) fn end_within(self, patience: Duration) -> ThreadEnd<T> {
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            return ThreadEnd::LeftBehind;
        }
        self.handle.join().map_or(ThreadEnd::Panicked, ThreadEnd::Ended)
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver starts the node's threads")]
fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// How long a node that stops waits for a thread of its own.
pub(crate) const THREAD_PATIENCE: Duration =
    if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(10) };
