//! The clock of single calls. On x86-64 it is the time stamp counter, which takes about 10 ns to read where the system's
//! clock takes 25; elsewhere it is the system's clock. Not for batches: those are timed by [`now`].

use std::time::Instant;

/// The system's clock.
#[expect(clippy::disallowed_methods, reason = "a harness measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Turns ticks into nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    ns_per_tick: f64,
}

impl Ticks {
    /// Measures how long a tick is; takes two milliseconds.
    pub(crate) fn calibrate() -> Self {
        let (start, first) = (now(), ticks());
        while start.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        let (took_ns, passed) = (start.elapsed().as_nanos(), ticks() - first);
        Self { ns_per_tick: took_ns as f64 / passed.max(1) as f64 }
    }

    /// The nanoseconds since `earlier`, which [`ticks`] gave on this thread.
    #[inline]
    pub(crate) fn ns_since(&self, earlier: u64) -> u64 {
        (ticks().saturating_sub(earlier) as f64 * self.ns_per_tick) as u64
    }
}

/// The counter now.
#[cfg(target_arch = "x86_64")]
#[inline]
#[expect(unsafe_code, reason = "the counter has no safe interface")]
pub(crate) fn ticks() -> u64 {
    // SAFETY: no precondition; every x86-64 processor has the instruction, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// The counter now.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn ticks() -> u64 {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(now).elapsed().as_nanos() as u64
}

const CALIBRATION: std::time::Duration = std::time::Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds() {
        let clock = Ticks::calibrate();
        let (start, first) = (now(), ticks());
        while start.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        // The counter was read before the two milliseconds began to count, or at once after.
        assert!(clock.ns_since(first) >= CALIBRATION.as_nanos() as u64 / 2);
    }
}
