//! The clocks of nodes: each goes at its own rate and began at its own time, as far apart as leases allow for. Now and then one jumps
//! ahead, and one of a new life begins anew; none goes back or stands still, as the clock of boot time does not.

use std::collections::BTreeMap;

use crate::tape::Tape;

/// Which clock each node has. One that has none of its own has the world's.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    clocks: BTreeMap<u16, Clock>,
}

/// A clock that is straight since some time, and not right.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// What it showed at `since`, in nanoseconds.
    shown: u64,
    /// Nanoseconds of the world.
    since: u64,
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
        self.clocks.insert(index, Clock { shown: tape.u64(..START_NS_MAX), since: 0, rate });
        true
    }

    /// From now on the node's clock is ahead by so much more.
    pub(super) fn leap(&mut self, index: u16, now: u64, by_ns: u64) {
        let shown = self.local(index, now) + by_ns;
        self.set(index, now, shown);
    }

    /// The node's clock shows this now, as that of a new life does.
    pub(super) fn set(&mut self, index: u16, now: u64, shown: u64) {
        let rate = self.clocks.get(&index).map_or(PARTS, |clock| clock.rate);
        self.clocks.insert(index, Clock { shown, since: now, rate });
    }

    /// What the node's clock shows at this time of the world.
    pub(super) fn local(&self, index: u16, now: u64) -> u64 {
        self.clocks
            .get(&index)
            .map_or(now, |clock| clock.shown + scale(now.saturating_sub(clock.since), clock.rate, PARTS))
    }

    /// The first time of the world at which the node's clock shows at least this.
    pub(super) fn time_of(&self, index: u16, local: u64) -> u64 {
        let Some(clock) = self.clocks.get(&index) else { return local };
        let shown = local.saturating_sub(clock.shown);
        let mut time = scale(shown, PARTS, clock.rate);
        while time < u64::MAX && scale(time, clock.rate, PARTS) < shown {
            time += 1;
        }
        time.saturating_add(clock.since)
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
    #[test]
    fn a_clock_that_jumps_goes_on_at_its_rate() {
        let tape = Tape::new(1, Edits::default());
        let mut clocks = Clocks::default();
        clocks.draw(3, 10_000, &tape);
        for index in [3, 4] {
            let before = clocks.local(index, 1_000_000);
            let passed = clocks.local(index, 2_000_000) - before;
            clocks.leap(index, 1_000_000, 77);
            assert_eq!(clocks.local(index, 1_000_000), before + 77);
            assert_eq!(clocks.local(index, 2_000_000), before + 77 + passed);
            clocks.set(index, 5_000_000, 0);
            assert_eq!((clocks.local(index, 5_000_000), clocks.local(index, 6_000_000)), (0, passed));
            let time = clocks.time_of(index, 500);
            assert!(clocks.local(index, time) >= 500 && clocks.local(index, time - 1) < 500);
        }
        assert_eq!(clocks.local(5, 9), 9);
    }
}
