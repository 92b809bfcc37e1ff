//! For transports that sleep in the kernel: the two objects that the standard library does not have, epoll and eventfd.

use crate::transport::Sleeper;
use crate::wake::Wake;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A set of descriptors watched for edges, unless one is to be [reported while it is readable](Self::watch_readable).
#[derive(Debug)]
pub struct Epoll {
    set: Arc<Set>,
}

/// What the handles of a set have in common.
///
/// Sleeps are ended by one timer, which is a descriptor of the set. It is set only for a sleep that has to end before it goes off, and one that
/// goes off too early is set again. Were the time-out given to each wait instead, the kernel would start and stop a timer for each: 2 % of a
/// round trip over TIPC, asleep, where the processor is emulated.
#[derive(Debug)]
struct Set {
    fd: OwnedFd,
    timer: OwnedFd,
    /// When it goes off, in nanoseconds of its clock. The set has an edge then. `NEVER`: it is not set.
    goes_off_ns: AtomicU64,
}

/// What became of one descriptor since it was last reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The number it was added under.
    pub token: u64,
    /// There is something to read, or reading tells why there never will be.
    pub readable: bool,
    /// There is room to write, or writing tells why there never will be.
    pub writable: bool,
    /// The peer sends no more, or there is an error: reading will tell.
    pub hangup: bool,
}

impl Epoll {
    /// A set that watches nothing yet.
    ///
    /// # Errors
    /// The system has no descriptor left: two are needed.
    pub fn new() -> io::Result<Self> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&fd, &timer, epoll::EventData::new_u64(TIMER_TOKEN), edges())?;
        let set = Set { fd, timer, goes_off_ns: AtomicU64::new(NEVER) };
        Ok(Self { set: Arc::new(set) })
    }

    /// Watches for edges of reading, writing and hanging up; what is there already counts as an edge. Closing the
    /// descriptor ends it. Tokens go up to [`TOKEN_MAX`].
    ///
    /// # Errors
    /// The descriptor cannot be watched, or is watched already.
    pub fn add(&self, fd: &impl AsFd, token: u64) -> io::Result<()> {
        debug_assert!(token <= TOKEN_MAX, "the token of the set itself");
        Ok(epoll::add(&self.set.fd, fd, epoll::EventData::new_u64(token), edges())?)
    }

    /// As [`add`](Self::add), for one that is watched already.
    ///
    /// # Errors
    /// It was not watched.
    pub fn watch_edges(&self, fd: &impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::modify(&self.set.fd, fd, epoll::EventData::new_u64(token), edges())?)
    }

    /// Has a descriptor that is watched reported in each wait while there is something to read or it is hung up, and nothing else.
    ///
    /// # Errors
    /// It was not watched.
    pub fn watch_readable(&self, fd: &impl AsFd, token: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        Ok(epoll::modify(&self.set.fd, fd, epoll::EventData::new_u64(token), flags)?)
    }

    /// Watches a descriptor no longer, until it is [added](Self::add) again.
    ///
    /// # Errors
    /// It was not watched.
    pub fn remove(&self, fd: &impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.set.fd, fd)?)
    }

    /// Waits for edges, at most `timeout`, and appends them. A signal ends nothing. Of the handles of a set one
    /// may wait at a time.
    ///
    /// # Errors
    /// What the system reports; with a set of our own none is expected.
    pub fn wait(&mut self, timeout: Duration, readiness: &mut Vec<Readiness>) -> io::Result<()> {
        if timeout.is_zero() {
            return self.take_edges(Some(&Timespec::default()), readiness);
        }
        let before = readiness.len();
        let end_ns = monotonic_ns() + timeout.min(TIMEOUT_MAX).as_nanos() as u64;
        loop {
            self.set.end_sleep_by(end_ns)?;
            self.take_edges(None, readiness)?;
            // Else it was a signal, or the timer, which may have been set for an earlier sleep.
            if readiness.len() > before || monotonic_ns() >= end_ns {
                return Ok(());
            }
        }
    }

    /// Appends what there is, after a sleep that edges or a signal end if there is no time-out.
    fn take_edges(&self, timeout: Option<&Timespec>, readiness: &mut Vec<Readiness>) -> io::Result<()> {
        let mut room = [MaybeUninit::uninit(); EVENTS_PER_WAIT_MAX];
        let events = match epoll::wait(&self.set.fd, &mut room, timeout) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in events {
            // Copied out, since the fields of the kernel's structure are not aligned.
            let (flags, token) = (event.flags, { event.data }.u64());
            if token == TIMER_TOKEN {
                self.set.goes_off_ns.store(NEVER, Ordering::Relaxed);
                continue;
            }
            let ends = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            let hangup = flags.intersects(ends);
            let readable = hangup || flags.contains(epoll::EventFlags::IN);
            let writable = hangup || flags.contains(epoll::EventFlags::OUT);
            readiness.push(Readiness { token, readable, writable, hangup });
        }
        Ok(())
    }

    /// As [`wait`](Self::wait), for a driver that has nothing else to do. Gives whether anything happened; of `waker`, which only ends the
    /// sleep, nothing is left. What the system reports is logged, and counts as nothing.
    pub fn sleep(&mut self, timeout: Duration, waker: u64, readiness: &mut Vec<Readiness>) -> bool {
        if let Err(error) = self.wait(timeout, readiness) {
            tracing::error!(%error, "cannot wait for events");
        }
        let count = readiness.len();
        readiness.retain(|edge| edge.token != waker || !edge.readable);
        count > 0
    }
}

impl Set {
    /// Sees to it that the timer goes off then, at the latest.
    fn end_sleep_by(&self, end_ns: u64) -> io::Result<()> {
        // Whoever waits is alone, and who waits next was told so by other means.
        if self.goes_off_ns.load(Ordering::Relaxed) <= end_ns {
            return Ok(());
        }
        let it_value = Duration::from_nanos(end_ns).try_into().expect("some hundred years of seconds");
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        self.goes_off_ns.store(end_ns, Ordering::Relaxed);
        Ok(())
    }
}

fn edges() -> epoll::EventFlags {
    epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET
}

/// The clock of the timers.
fn monotonic_ns() -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
    // It starts with the machine, at zero.
    tv_sec as u64 * 1_000_000_000 + tv_nsec as u64
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.set.fd.as_raw_fd()
    }
}

/// Edges that ended a sleep in a set while its transport was in other hands.
#[derive(Clone, Debug, Default)]
pub struct Asleep {
    edges: Arc<Mutex<Vec<Readiness>>>,
}

impl Asleep {
    /// Who sleeps in this set; `waker` as for [`Epoll::sleep`].
    #[must_use]
    pub fn sleeper(&self, epoll: &Epoll, waker: u64) -> Box<dyn Sleeper> {
        Box::new(EpollSleeper { epoll: Epoll { set: Arc::clone(&epoll.set) }, waker, asleep: self.clone() })
    }

    /// Appends them to those that were there.
    pub fn take_into(&self, readiness: &mut Vec<Readiness>) {
        readiness.append(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Readiness>> {
        // Edges are appended as a whole, so a panic elsewhere leaves nothing half done.
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct EpollSleeper {
    epoll: Epoll,
    waker: u64,
    asleep: Asleep,
}

impl Sleeper for EpollSleeper {
    fn sleep(&mut self, timeout: Duration) -> bool {
        // They are asked for only when this has ended.
        self.epoll.sleep(timeout, self.waker, &mut self.asleep.lock())
    }
}

/// A counter of the kernel that a watcher of edges sees every addition to; nobody needs to read it.
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    /// A counter at zero.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }
}

impl Wake for EventFd {
    fn wake(&self) {
        // The result does not matter: the one failure there is, a full counter, takes 2^64 wakes.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const EVENTS_PER_WAIT_MAX: usize = 256;
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
const TIMER_TOKEN: u64 = u64::MAX;
/// The greatest number that a descriptor may have in an [`Epoll`]; the set itself has the one above.
pub const TOKEN_MAX: u64 = TIMER_TOKEN - 1;
const NEVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wake_is_an_edge_and_none_is_seen_twice() {
        let mut epoll = Epoll::new().expect("epoll");
        let event_fd = EventFd::new().expect("eventfd");
        epoll.add(&event_fd, 7).expect("added");
        let mut seen = Vec::new();
        // It can be written to at once.
        epoll.wait(Duration::ZERO, &mut seen).expect("waited");
        assert!(seen.drain(..).all(|edge| edge.token == 7 && !edge.readable));
        for _ in 0..2 {
            epoll.wait(Duration::from_micros(10), &mut seen).expect("waited");
            assert_eq!(seen, []);
            event_fd.wake();
            epoll.wait(Duration::from_secs(60), &mut seen).expect("waited");
            assert!(seen.drain(..).any(|edge| edge.readable));
            epoll.wait(Duration::ZERO, &mut seen).expect("waited");
            assert_eq!(seen, []);
        }
    }
}
