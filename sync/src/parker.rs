//! The PARKED protocol: a thread that finds nothing to do sleeps; a producer pays for a system call only if it does.
//!
//! ```text
//!   consumer                                   producer
//!   prepare(): state = PARKED, fence           publish work (ring, inbox, flag)        once per batch:
//!   look at every input once more              unpark_if_parked(): fence, state == PARKED?
//!     something: cancel()                        no: nothing
//!     nothing:   park(timeout)                   yes: state = NOTIFIED, wake system call
//! ```
//! The two fences make it impossible that the consumer misses the work *and* the producer misses PARKED. A check made before
//! `prepare` proves nothing. Not a lock or a condition variable: no data passes here, and one parker is one thread. A thread that
//! sleeps here at times and elsewhere at others says so by `commit`, and is woken where it is.
//!
//! | field | written by | read by | ordering |
//! |---|---|---|---|
//! | `state` RUNNING -> PARKED | the parker's thread | unparkers | then fence(SeqCst) |
//! | `state` PARKED -> AWAY | the parker's thread, in `commit` | unparkers | AcqRel |
//! | `state` PARKED or AWAY -> NOTIFIED | the one unparker whose exchange succeeds: it makes the system call | the sleeper | AcqRel |
//! | `state` any -> NOTIFIED | `unpark` | the sleeper | AcqRel |
//! | `state` any -> RUNNING | the parker's thread, after the sleep or in `cancel` | unparkers | AcqRel |

use std::fmt;

use crate::padded::Padded;
use crate::shim::{Arc, AtomicU32, Ordering, fence};

/// The sleeping side; belongs to one thread at a time.
pub struct Parker {
    shared: Arc<Shared>,
}

impl Parker {
    /// A parker whose thread sleeps in [`Self::park`].
    pub fn new() -> Self {
        Self::over(Sleep::Futex(futex::Futex::new()))
    }

    /// A parker whose thread sleeps elsewhere, such as in epoll: between [`Self::prepare`] and [`Self::cancel`], not in
    /// [`Self::park`]. `wake` ends that sleep, also one that is about to begin (an eventfd does); any thread may call it.
    pub fn with_waker(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self::over(Sleep::Elsewhere(Box::new(wake)))
    }

    /// A parker whose thread sleeps in [`Self::park`], or, after [`Self::commit`], elsewhere as with [`with_waker`](Self::with_waker).
    pub fn with_either(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self::over(Sleep::Either(futex::Futex::new(), Box::new(wake)))
    }

    fn over(sleep: Sleep) -> Self {
        Self { shared: Arc::new(Shared { state: Padded(AtomicU32::new(RUNNING)), sleep }) }
    }

    /// A handle that wakes this parker's thread.
    pub fn unparker(&self) -> Unparker {
        Unparker { shared: Arc::clone(&self.shared) }
    }

    /// Announces the intention to sleep. Look at every input once more, then call [`Self::park`] or [`Self::cancel`].
    pub fn prepare(&mut self) {
        // An unpark that came since the last sleep stays: `park` will return at once.
        let _ = self.shared.state.compare_exchange(RUNNING, PARKED, Ordering::AcqRel, Ordering::Acquire);
        fence(Ordering::SeqCst);
    }

    /// Sleeps until an unpark or for `timeout_ns` nanoseconds; `None` means for ever. Returns whether an unpark came.
    ///
    /// It may return early with `false` (a signal): the caller runs its loop and decides anew. Without
    /// [`Self::prepare`] before it, it does not sleep.
    pub fn park(&mut self, timeout_ns: Option<u64>) -> bool {
        match &self.shared.sleep {
            Sleep::Futex(futex) | Sleep::Either(futex, _) => {
                futex.wait_while_parked(&self.shared.state, timeout_ns);
            }
            Sleep::Elsewhere(_) => debug_assert!(false, "this parker's thread sleeps elsewhere"),
        }
        self.cancel()
    }

    /// Says that the sleep is elsewhere, of a parker that leaves the choice. `false`: an unpark came since [`Self::prepare`], so do not
    /// sleep.
    pub fn commit(&mut self) -> bool {
        self.shared.state.compare_exchange(PARKED, AWAY, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes [`Self::prepare`] back, or ends a sleep elsewhere. Returns whether an unpark came meanwhile.
    pub fn cancel(&mut self) -> bool {
        self.shared.state.swap(RUNNING, Ordering::AcqRel) == NOTIFIED
    }
}

impl Default for Parker {
    fn default() -> Self {
        Self::new()
    }
}

/// Wakes one parker's thread. Clones are equal and may live on any thread.
#[derive(Clone)]
pub struct Unparker {
    shared: Arc<Shared>,
}

impl Unparker {
    /// Wakes the thread if it is asleep or about to sleep; to be called once after publishing a batch of work. Returns
    /// whether this call made the wake system call.
    #[inline]
    pub fn unpark_if_parked(&self) -> bool {
        fence(Ordering::SeqCst);
        matches!(self.shared.state.load(Ordering::Relaxed), PARKED | AWAY) && self.notify_parked()
    }

    /// Wakes the thread, or lets its next [`Parker::park`] return at once. For control: it does not depend on anything the
    /// thread would find when it looks again.
    pub fn unpark(&self) {
        self.shared.wake_from(self.shared.state.swap(NOTIFIED, Ordering::AcqRel));
    }

    #[cold]
    fn notify_parked(&self) -> bool {
        let is_asleep = |state| matches!(state, PARKED | AWAY).then_some(NOTIFIED);
        let asleep = self.shared.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, is_asleep);
        asleep.is_ok_and(|state| self.shared.wake_from(state))
    }
}

struct Shared {
    state: Padded<AtomicU32>,
    sleep: Sleep,
}

impl Shared {
    /// Wakes the thread if it was asleep by this state; gives whether it was.
    fn wake_from(&self, state: u32) -> bool {
        match (&self.sleep, state) {
            (_, RUNNING | NOTIFIED) => return false,
            (Sleep::Futex(futex), _) | (Sleep::Either(futex, _), PARKED) => futex.wake(&self.state),
            (Sleep::Elsewhere(wake) | Sleep::Either(_, wake), _) => wake(),
        }
        true
    }
}

enum Sleep {
    Futex(futex::Futex),
    Elsewhere(Box<dyn Fn() + Send + Sync>),
    Either(futex::Futex, Box<dyn Fn() + Send + Sync>),
}

const RUNNING: u32 = 0;
const PARKED: u32 = 1;
const NOTIFIED: u32 = 2;
const AWAY: u32 = 3;

impl fmt::Debug for Parker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Parker").finish_non_exhaustive()
    }
}

impl fmt::Debug for Unparker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Unparker").finish_non_exhaustive()
    }
}

#[cfg(not(loom))]
mod futex {
    use std::sync::atomic::AtomicU32;

    use super::PARKED;

    /// The kernel's wait queue at the address of the state word.
    pub(super) struct Futex;

    impl Futex {
        pub(super) fn new() -> Self {
            Self
        }

        /// Sleeps unless `state` is no longer PARKED. Every outcome (woken, changed, timed out, signal) reads the same to
        /// the caller, which looks at `state` itself.
        pub(super) fn wait_while_parked(&self, state: &AtomicU32, timeout_ns: Option<u64>) {
            let timeout = timeout_ns.map(|timeout_ns| libc::timespec {
                tv_sec: (timeout_ns / NS_PER_S) as libc::time_t,
                tv_nsec: (timeout_ns % NS_PER_S) as libc::c_long,
            });
            let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: `state` is an aligned 32-bit word that outlives the call, and `timeout` is null or points to a
            // timespec that does. The kernel only reads both.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    state.as_ptr(),
                    libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                    PARKED,
                    timeout,
                );
            }
        }

        pub(super) fn wake(&self, state: &AtomicU32) {
            // SAFETY: the kernel uses the address only as a key of its wait queues; `state` is alive besides.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    state.as_ptr(),
                    libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                    1_i32,
                );
            }
        }
    }

    const NS_PER_S: u64 = 1_000_000_000;
}

#[cfg(loom)]
mod futex {
    use loom::sync::atomic::{AtomicU32, Ordering};
    use loom::sync::{Condvar, Mutex};

    use super::PARKED;
    use crate::shim::lock;

    /// What a futex promises: the state is compared and the sleep begun in one step as seen by wakers. Timeouts never pass
    /// in the model, so a lost wake-up is a deadlock that loom reports.
    pub(super) struct Futex {
        queue: Mutex<()>,
        woken: Condvar,
    }

    impl Futex {
        pub(super) fn new() -> Self {
            Self { queue: Mutex::new(()), woken: Condvar::new() }
        }

        pub(super) fn wait_while_parked(&self, state: &AtomicU32, _timeout_ns: Option<u64>) {
            let mut queue = lock(&self.queue);
            while state.load(Ordering::Acquire) == PARKED {
                queue = self.woken.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
        }

        pub(super) fn wake(&self, _state: &AtomicU32) {
            let _queue = lock(&self.queue);
            self.woken.notify_one();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn running_thread_costs_no_wake_call() {
        let mut parker = Parker::new();
        let unparker = parker.unparker();
        assert!(!unparker.unpark_if_parked());
        parker.prepare();
        assert!(unparker.unpark_if_parked());
        assert!(!unparker.unpark_if_parked(), "one wake per sleep");
        assert!(parker.cancel());
        assert!(!unparker.unpark_if_parked());
    }

    #[test]
    fn unpark_before_the_sleep_is_kept() {
        let mut parker = Parker::new();
        parker.unparker().unpark();
        parker.prepare();
        assert!(parker.park(None));
    }

    #[test]
    fn unpark_between_prepare_and_park_is_kept() {
        let mut parker = Parker::new();
        parker.prepare();
        assert!(parker.unparker().unpark_if_parked());
        assert!(parker.park(None));
    }

    #[test]
    fn park_ends_at_its_timeout_and_without_prepare_at_once() {
        let mut parker = Parker::new();
        assert!(!parker.park(None));
        parker.prepare();
        assert!(!parker.park(Some(1_000_000)));
        assert!(!parker.unparker().unpark_if_parked(), "the sleep is over");
    }

    #[test]
    fn thread_that_sleeps_elsewhere_is_woken_by_its_own_means() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let mut parker = Parker::with_waker(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let unparker = parker.unparker();
        unparker.unpark_if_parked();
        assert_eq!(wakes.load(Ordering::Relaxed), 0);
        parker.prepare();
        unparker.unpark_if_parked();
        unparker.clone().unpark();
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        assert!(parker.cancel());
    }

    #[test]
    fn thread_that_has_the_choice_is_woken_where_it_sleeps() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let mut parker = Parker::with_either(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let unparker = parker.unparker();
        parker.prepare();
        assert!(parker.commit() && unparker.unpark_if_parked() && !unparker.unpark_if_parked());
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        assert!(parker.cancel());
        parker.prepare();
        assert!(unparker.unpark_if_parked() && !parker.commit(), "it was told before it slept");
        assert!(parker.cancel());
        parker.prepare();
        thread::scope(|scope| {
            scope.spawn(|| unparker.unpark());
            assert!(parker.park(None));
        });
        assert_eq!(wakes.load(Ordering::Relaxed), 1, "it slept here");
    }

    /// Two threads take turns, each asleep while the other works: one lost wake-up and the test hangs.
    #[test]
    fn two_threads_alternate_without_losing_a_wake() {
        const TURNS: u64 = 5_000;
        let turn = AtomicU64::new(0);
        let mut parkers = [Parker::new(), Parker::new()];
        let unparkers = [parkers[1].unparker(), parkers[0].unparker()];
        thread::scope(|scope| {
            for ((mine, parker), other) in parkers.iter_mut().enumerate().zip(unparkers) {
                let turn = &turn;
                scope.spawn(move || {
                    for next in (mine as u64..TURNS).step_by(2) {
                        while turn.load(Ordering::Acquire) != next {
                            parker.prepare();
                            if turn.load(Ordering::Relaxed) == next {
                                parker.cancel();
                            } else {
                                parker.park(None);
                            }
                        }
                        turn.store(next + 1, Ordering::Release);
                        other.unpark_if_parked();
                    }
                });
            }
        });
        assert_eq!(turn.into_inner(), TURNS);
    }
}
