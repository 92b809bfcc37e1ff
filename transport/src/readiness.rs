//! For transports that sleep in the kernel: the two objects that the standard library does not have, epoll and eventfd.
#![allow(unsafe_code)]

use crate::transport::Sleeper;
use crate::wake::Wake;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A set of descriptors watched for edges.
#[derive(Debug)]
pub struct Epoll {
    fd: Arc<OwnedFd>,
    buffer: Vec<libc::epoll_event>,
    /// The kernel is older than 5.11 and knows only whole milliseconds.
    is_coarse: bool,
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
    /// The system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: just made, nobody else closes it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd: Arc::new(fd), buffer: Vec::with_capacity(EVENTS_PER_WAIT_MAX), is_coarse: false })
    }

    /// The same set, for another thread.
    fn share(&self) -> Self {
        let buffer = Vec::with_capacity(EVENTS_PER_WAIT_MAX);
        Self { fd: Arc::clone(&self.fd), buffer, is_coarse: self.is_coarse }
    }

    /// Watches for edges of reading, writing and hanging up; what is there already counts as an edge. Closing the
    /// descriptor ends it.
    ///
    /// # Errors
    /// The descriptor cannot be watched, or is watched already.
    pub fn add(&self, fd: &impl AsRawFd, token: u64) -> io::Result<()> {
        let events = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` lives through the call, and the kernel checks the descriptors.
        checked(unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)
        })?;
        Ok(())
    }

    /// Watches a descriptor no longer, until it is [added](Self::add) again.
    ///
    /// # Errors
    /// It was not watched.
    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        // SAFETY: no event is read for this, and the kernel checks the descriptors.
        checked(unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), ptr::null_mut())
        })?;
        Ok(())
    }

    /// Waits for edges, at most `timeout`, and appends them. A signal counts as nothing happened.
    ///
    /// # Errors
    /// What the system reports; with a set of our own none is expected.
    pub fn wait(&mut self, timeout: Duration, readiness: &mut Vec<Readiness>) -> io::Result<()> {
        self.buffer.clear();
        let count = match self.wait_raw(timeout.min(TIMEOUT_MAX)) {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        // SAFETY: the kernel has written `count` events, not more than there is room for.
        unsafe { self.buffer.set_len(count) };
        readiness.extend(self.buffer.iter().map(|event| {
            let has = |bits: i32| event.events & bits as u32 != 0;
            let hangup = has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR);
            let (readable, writable) = (has(libc::EPOLLIN) || hangup, has(libc::EPOLLOUT) || hangup);
            Readiness { token: event.u64, readable, writable, hangup }
        }));
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

    /// Fills the buffer and returns the number of events.
    fn wait_raw(&mut self, timeout: Duration) -> io::Result<i32> {
        let (fd, buffer, count_max) =
            (self.fd.as_raw_fd(), self.buffer.as_mut_ptr(), EVENTS_PER_WAIT_MAX as i32);
        if !timeout.is_zero() && !self.is_coarse {
            let wanted =
                libc::timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
            let no_signals = ptr::null::<libc::sigset_t>();
            // By number, because older C libraries do not have the function.
            // SAFETY: the buffer has room for that many events, `wanted` lives through the call, and without a signal set
            // its size is not used.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    fd,
                    buffer,
                    count_max,
                    &raw const wanted,
                    no_signals,
                    0usize,
                )
            };
            match checked(result as i32) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => self.is_coarse = true,
                result => return result,
            }
        }
        // Up to the next millisecond: too early would be a busy loop in front of every deadline.
        let timeout_ms = timeout.as_nanos().div_ceil(1_000_000) as i32;
        // SAFETY: the buffer has room for that many events.
        checked(unsafe { libc::epoll_wait(fd, buffer, count_max, timeout_ms) })
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
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
        Box::new(EpollSleeper { epoll: epoll.share(), waker, asleep: self.clone() })
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
        // SAFETY: no pointers.
        let fd = checked(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: just made, nobody else closes it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }
}

impl Wake for EventFd {
    fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // The result does not matter: the one failure there is, a full counter, takes 2^64 wakes.
        // SAFETY: eight bytes that live through the call, to a descriptor that is open.
        unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

const EVENTS_PER_WAIT_MAX: usize = 256;
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

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
        for is_coarse in [false, true, false] {
            epoll.is_coarse = is_coarse;
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
