//! Leases: how long a node may serve after it last renewed.
//!
//! One lease per node. With T = [`LEASE_NS`] and a clock drift of at most one in a hundred:
//!
//! ```text
//! the holder stops serving at    (renewal sent) + 0.99 T - TURN_NS_MAX     on its own clock
//! others act on its absence at   (renewal seen) + 1.01 T                   on theirs
//! ```
//! A renewal is sent before it is seen, so the first moment comes before the second, by whichever clock. The clocks count
//! nanoseconds and go on through suspend (boot time); readings of two machines, or of two boots, are never compared.
//!
//! Only the arithmetic is here. Who reads clocks, renews and takes over is the runtime's fabric.

use crate::id::NodeId;

/// How long a renewal is good for, in nanoseconds.
pub const LEASE_NS: u64 = 6_000_000_000;

/// How often a holder renews, in nanoseconds.
pub const RENEW_INTERVAL_NS: u64 = 2_000_000_000;

/// The longest turn that the formula allows for, in nanoseconds.
pub const TURN_NS_MAX: u64 = 100_000_000;

/// A node's lease as the coordinator knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The holder, a member of the current view.
    pub node: NodeId,
    /// How often it was renewed in this coordinator's life. An observer with another clock notes when it first saw this number, and
    /// counts from there.
    pub renewals: u64,
    /// When the coordinator last saw a renewal, on the clock of whoever calls [`crate::Coordinator::renew_lease`]; `None` if it has
    /// seen none yet, as after a restart: then count from when you first saw that.
    pub renewed_at_ns: Option<u64>,
}

/// Until when a holder may serve that *sent* its last successful renewal at this time on its own clock.
pub const fn holder_deadline_ns(renewal_sent_ns: u64) -> u64 {
    renewal_sent_ns.saturating_add(LEASE_NS - LEASE_NS / 100 - TURN_NS_MAX)
}

/// From when on others may act as if the holder were gone that *saw* its last renewal at this time on their own clock.
pub const fn takeover_ns(renewal_seen_ns: u64) -> u64 {
    renewal_seen_ns.saturating_add(LEASE_NS + LEASE_NS / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_stops_before_others_act_even_with_drifting_clocks() {
        assert_eq!(holder_deadline_ns(10), 10 + 5_840_000_000);
        assert_eq!(takeover_ns(10), 10 + 6_060_000_000);
        // The holder's clock is slow by one in a hundred, the observer's fast by as much; the renewal took no time.
        let holder_stops = holder_deadline_ns(0) * 100 / 99 + TURN_NS_MAX;
        let others_act = takeover_ns(0) * 100 / 101;
        assert!(holder_stops <= others_act, "{holder_stops} {others_act}");
        assert_eq!(takeover_ns(u64::MAX), u64::MAX);
    }
}
