//! The node's clock: nanoseconds since the node started, and when that was.

use std::time::{Duration, Instant, SystemTime};

/// A clock that starts at zero with its node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    epoch: Duration,
}

impl Clock {
    /// A clock that reads zero now.
    #[expect(clippy::disallowed_methods, reason = "this is the driver's clock")]
    pub(crate) fn start() -> Self {
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), epoch }
    }

    /// Nanoseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Milliseconds since 1970 at the start.
    pub(crate) fn epoch_ms(&self) -> u64 {
        u64::try_from(self.epoch.as_millis()).unwrap_or(0)
    }
}
