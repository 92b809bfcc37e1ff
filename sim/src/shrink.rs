//! Makes a run that fails smaller: simplifies its tape for as long as it fails in the same way.
//!
//! First the tape's end is cut off, as far as halving finds out, then ever smaller stretches are zeroed, first of what the world is like
//! and then of what happens in it, and so on until nothing more can go. A run that becomes longer by that is not taken.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::tape::Edits;

/// A run that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failing {
    /// In what way: what has the same words here fails in the same way.
    pub(crate) kind: String,
    pub(crate) what: String,
    pub(crate) tape_len: u64,
    pub(crate) trace_hash: u64,
    pub(crate) events: u64,
    pub(crate) last_events: Vec<String>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
}

/// The smallest run that was found to fail as a seed does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// How the seed's tape is simplified.
    pub edits: Edits,
    /// Bytes of the tape that the seed's run reads, and those of them that are left.
    pub tape_len: (u64, u64),
    /// How many events happen in the seed's run, and in the smallest one.
    pub events: (u64, u64),
    /// What is wrong there.
    pub what: String,
    /// One number for the smallest run.
    pub trace_hash: u64,
    /// Its last events, a line each.
    pub last_events: Vec<String>,
    /// What went wrong on purpose there, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// How many runs it took to find it.
    pub runs: u32,
}

/// Looks for a smaller run than this one in so many runs. `play` runs a world with edits for so many events at most, and gives it if it
/// fails.
pub(crate) fn shrink(
    first: Failing,
    runs_max: u32,
    play: impl FnMut(&Edits, u64) -> Option<Failing>,
) -> Shrunk {
    let (tape_len, events) = (first.tape_len, first.events);
    let edits = Edits::new(Some(tape_len), []);
    let mut search = Search { best: first, edits, runs: 0, runs_max, play };
    search.run();
    let Search { best, edits, runs, .. } = search;
    let Failing { what, trace_hash, last_events, faults, .. } = best;
    Shrunk {
        tape_len: (tape_len, edits.left_of(u64::MAX)),
        events: (events, best.events),
        edits,
        what,
        trace_hash,
        last_events,
        faults,
        runs,
    }
}

struct Search<P> {
    best: Failing,
    edits: Edits,
    runs: u32,
    runs_max: u32,
    play: P,
}

impl<P: FnMut(&Edits, u64) -> Option<Failing>> Search<P> {
    fn run(&mut self) {
        loop {
            let before = self.edits.clone();
            self.cut();
            self.zero(|end| 0..end.min(PROFILE_LEN), PROFILE_PARTS);
            self.zero(|end| end.min(PROFILE_LEN)..end, PARTS);
            if self.edits == before || self.runs == self.runs_max {
                return;
            }
        }
    }

    fn end(&self) -> u64 {
        self.edits.end().unwrap_or(self.best.tape_len)
    }

    /// Cuts the end off.
    fn cut(&mut self) {
        if self.attempt(self.edits.cut(0)) {
            return;
        }
        let mut passes = 0;
        while self.end() - passes > 1 + self.end() / PARTS {
            let middle = passes + (self.end() - passes) / 2;
            if !self.attempt(self.edits.cut(middle)) {
                passes = middle;
            }
        }
    }

    /// Zeroes halves, quarters and so on of a stretch.
    fn zero(&mut self, stretch: impl Fn(u64) -> Range<u64>, parts_max: u64) {
        let mut parts = 1;
        while parts <= parts_max {
            for nth in (0..parts).rev() {
                let Range { start, end } = stretch(self.end());
                let len = (end - start).div_ceil(parts);
                let (from, to) = (start + nth * len, start + (nth + 1) * len);
                self.attempt(self.edits.zeroed(from..to.min(end)));
            }
            parts *= 2;
        }
    }

    /// Takes these edits if it still fails with them.
    fn attempt(&mut self, edits: Edits) -> bool {
        if edits == self.edits || self.runs == self.runs_max {
            return false;
        }
        self.runs += 1;
        let failing = (self.play)(&edits, self.best.events);
        let is_as_before = |failing: &Failing| failing.kind == self.best.kind;
        let Some(failing) =
            failing.filter(|failing| failing.events <= self.best.events && is_as_before(failing))
        else {
            return false;
        };
        // What is not read need not be there.
        self.edits = edits.cut(failing.tape_len);
        self.best = failing;
        true
    }
}

/// Bytes at the beginning of a tape that say what a world is like: to change some of them changes nothing of what is read behind.
pub(crate) const PROFILE_LEN: u64 = 256;
/// Runs after which the search ends, unless something else is said.
pub const SHRINK_RUNS: u32 = 200;
/// In how many parts a stretch is zeroed at last.
const PROFILE_PARTS: u64 = 16;
const PARTS: u64 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that reads 1,000 bytes and fails if those that matter are not zeroed; each byte is an event.
    fn failing(edits: &Edits, matter: &[u64], events_max: u64) -> Option<Failing> {
        let events = edits.left_of(1000);
        let fails = events <= events_max && matter.iter().all(|at| !edits.is_zero(*at));
        fails.then(|| Failing {
            kind: "it".to_owned(),
            what: "it fails".to_owned(),
            tape_len: 1000,
            trace_hash: events,
            events,
            last_events: Vec::new(),
            faults: BTreeMap::new(),
        })
    }

    fn shrunk(matter: &[u64], runs_max: u32) -> (Shrunk, u32) {
        let mut runs = 0;
        let first = failing(&Edits::default(), matter, u64::MAX).expect("it fails");
        let shrunk = shrink(first, runs_max, |edits, events_max| {
            runs += 1;
            failing(edits, matter, events_max)
        });
        assert_eq!(shrunk.runs, runs);
        (shrunk, runs)
    }

    #[test]
    fn what_matters_is_all_that_is_left() {
        for matter in [&[][..], &[0], &[3, 700], &[260, 261, 999], &[10, 100, 300, 500, 900]] {
            let (shrunk, runs) = shrunk(matter, 400);
            assert!(matter.iter().all(|at| !shrunk.edits.is_zero(*at)), "{matter:?}: {shrunk:?}");
            let left = shrunk.tape_len.1;
            assert!(left <= 30 * matter.len() as u64, "{left} bytes are left of {matter:?}: {shrunk:?}");
            assert_eq!((shrunk.tape_len.0, shrunk.events), (1000, (1000, left)), "{shrunk:?}");
            assert!(runs < 400, "{runs} runs for {matter:?}");
        }
    }

    #[test]
    fn the_search_ends_after_so_many_runs() {
        for runs_max in [0, 1, 20] {
            let (shrunk, runs) = shrunk(&[10, 500, 900], runs_max);
            assert_eq!(runs, runs_max);
            assert!(shrunk.tape_len.1 <= 1000);
        }
    }

    #[test]
    fn what_fails_in_another_way_or_takes_longer_is_not_taken() {
        let first = failing(&Edits::default(), &[], u64::MAX).expect("it fails");
        let spoils: [fn(&mut Failing); 2] =
            [|failing| failing.kind.push('x'), |failing| failing.events += 1001];
        for spoil in spoils {
            let shrunk = shrink(first.clone(), 100, |edits, _| {
                let mut failing = failing(edits, &[], u64::MAX)?;
                spoil(&mut failing);
                Some(failing)
            });
            assert_eq!((shrunk.tape_len, shrunk.events), ((1000, 1000), (1000, 1000)));
        }
    }
}
