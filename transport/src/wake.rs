//! Waking a thread that sleeps in [`Transport::wait`](crate::Transport::wait).

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Ends a sleep from any thread.
///
/// A wake is remembered: one that comes while nobody sleeps ends the next sleep at once. Several wakes before a sleep
/// may count as one. It may cost a system call, so callers wake only a thread that has said it is going to sleep.
pub trait Wake: Send + Sync {
    /// Wakes the sleeper, or the next one.
    fn wake(&self);
}

/// A [`Wake`] without any operating system handle: for transports that live in memory.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    /// Sleeps until a wake or for `timeout`, whichever comes first, and consumes the wake. Returns whether there was one.
    pub fn wait(&self, timeout: Duration) -> bool {
        let raised = self.lock();
        let (mut raised, _) = self
            .changed
            .wait_timeout_while(raised, timeout, |raised| !*raised)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *raised)
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        // A flag is whole at every moment, so a panic elsewhere leaves nothing half done.
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Signal {
    fn wake(&self) {
        *self.lock() = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_before_the_sleep_is_remembered_once() {
        let signal = Signal::default();
        signal.wake();
        signal.wake();
        assert!(signal.wait(Duration::from_secs(60)));
        assert!(!signal.wait(Duration::ZERO));
    }
}
