//! The node's clock: nanoseconds since the node started, and when that was.
//!
//! It goes on while the machine sleeps (`CLOCK_BOOTTIME`), since leases do: a node that wakes up must not believe that it still
//! owns what others were given meanwhile.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// A clock that starts at zero with its node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Nanoseconds since the machine was started, when the node was.
    start: u64,
    epoch: Duration,
}

impl Clock {
    /// A clock that reads zero now.
    #[expect(clippy::disallowed_methods, reason = "this is the driver's clock")]
    pub(crate) fn start() -> Self {
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { start: since_boot(), epoch }
    }

    /// Nanoseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        since_boot().saturating_sub(self.start)
    }

    /// Milliseconds since 1970 at the start.
    pub(crate) fn epoch_ms(&self) -> u64 {
        u64::try_from(self.epoch.as_millis()).unwrap_or(0)
    }

    /// Seconds since 1970 now, until 2106. Not after a clock that was set meanwhile.
    pub(crate) fn epoch_s(&self) -> u32 {
        let now = self.epoch + Duration::from_nanos(self.now());
        u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
    }
}

/// Nanoseconds since the machine was started, its sleep included. No system call: the kernel shares this clock in memory.
fn since_boot() -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
    (tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_at_zero_and_goes_on() {
        let clock = Clock::start();
        let early = clock.now();
        #[expect(clippy::disallowed_methods, reason = "a test of the clock")]
        std::thread::sleep(Duration::from_millis(2));
        let late = clock.now();
        assert!(late >= early + 2_000_000, "{early} {late}");
    }

    #[test]
    fn it_counts_the_time_since_the_machine_was_started() {
        let uptime = std::fs::read_to_string("/proc/uptime").expect("this is Linux");
        let seconds: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
        // The file tells hundredths, rounded down, and was read first.
        assert!(since_boot() as f64 / 1e9 >= seconds - 0.01, "{uptime}");
    }
}
