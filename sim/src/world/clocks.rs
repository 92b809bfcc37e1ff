//! The clocks of nodes: each goes at its own rate and began at its own time, as far apart as leases allow for.

use std::collections::BTreeMap;

use crate::tape::Tape;

/// Which clock each node has. One that has none of its own has the world's.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    clocks: BTreeMap<u16, Clock>,
}

/// A clock that is straight, and not right.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// What it showed when the world began, in nanoseconds.
    start: u64,
    /// How many of its nanoseconds go by in a million of the world's.
    rate: u64,
}

impl Clocks {
    /// Gives a node a clock that is fast or slow by so many parts in a million at most, if it has none; gives whether it did.
    pub(super) fn draw(&mut self, index: u16, drift_ppm_max: u64, tape: &Tape) -> bool {
        if drift_ppm_max == 0 || self.clocks.contains_key(&index) {
            return false;
        }
        let drift = if tape.bool() { drift_ppm_max } else { tape.u64(0..=drift_ppm_max) };
        let rate = if tape.bool() { PARTS + drift } else { PARTS - drift };
        self.clocks.insert(index, Clock { start: tape.u64(..START_NS_MAX), rate });
        true
    }

    /// What the node's clock shows at this time of the world.
    pub(super) fn local(&self, index: u16, now: u64) -> u64 {
        self.clocks.get(&index).map_or(now, |clock| clock.start + scale(now, clock.rate, PARTS))
    }

    /// The first time of the world at which the node's clock shows at least this.
    pub(super) fn time_of(&self, index: u16, local: u64) -> u64 {
        let Some(clock) = self.clocks.get(&index) else { return local };
        let since = local.saturating_sub(clock.start);
        let mut time = scale(since, PARTS, clock.rate);
        while time < u64::MAX && scale(time, clock.rate, PARTS) < since {
            time += 1;
        }
        time
    }
}

/// Saturates, as some deadlines are at the end of time.
fn scale(ns: u64, by: u64, of: u64) -> u64 {
    u64::try_from(u128::from(ns) * u128::from(by) / u128::from(of)).unwrap_or(u64::MAX)
}

/// What rates and drifts are parts of.
const PARTS: u64 = 1_000_000;
/// When clocks began before the world, at most.
const START_NS_MAX: u64 = 1_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::Edits;

    #[test]
    fn a_node_wakes_at_the_first_time_when_its_clock_shows_what_it_waits_for() {
        let tape = Tape::new(1, Edits::default());
        for _ in 0..1000 {
            let mut clocks = Clocks::default();
            assert!(clocks.draw(3, 10_000, &tape) && !clocks.draw(3, 10_000, &tape));
            let local = clocks.local(3, 0) + tape.u64(1..100_000_000_000);
            let time = clocks.time_of(3, local);
            assert!(clocks.local(3, time) >= local && clocks.local(3, time - 1) < local);
            let (shown, later) = (clocks.local(3, time), clocks.local(3, time + 1_000_000));
            assert!((990_000..=1_010_000).contains(&(later - shown)), "{shown} {later}");
            assert_eq!((clocks.local(4, time), clocks.time_of(4, local)), (time, local));
        }
    }
}
