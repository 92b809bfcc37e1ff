//! The tape of a world: every choice in it is read from there, byte after byte.
//!
//! A seed is a tape without an end. [`Edits`] simplify it: it may end early, after which all bytes are zero, and stretches of it may be
//! zeroed. So that this makes a world simpler, zero bytes are the simplest choice everywhere: the smallest number, the first of a list,
//! `false`, no fault. A choice reads as few bytes as its range needs.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Bound, Range, RangeBounds};
use std::rc::Rc;
use std::str::FromStr;

/// See the module's documentation. Clones read on where the others are.
#[derive(Clone, Debug)]
pub(crate) struct Tape(Rc<RefCell<Reel>>);

#[derive(Debug)]
struct Reel {
    source: fastrand::Rng,
    /// Bytes that were made and not read: the lowest `ready_len` ones, the highest of them first.
    ready: u128,
    ready_len: u32,
    /// Bytes that were read.
    at: u64,
    /// Up to here nothing is edited, from where it is.
    plain_until: u64,
    edits: Edits,
}

impl Tape {
    /// The tape of a seed, with these edits.
    pub(crate) fn new(seed: u64, edits: Edits) -> Self {
        let source = fastrand::Rng::with_seed(seed);
        let plain_until = edits.next_after(0);
        let reel = Reel { source, ready: 0, ready_len: 0, at: 0, plain_until, edits };
        Self(Rc::new(RefCell::new(reel)))
    }

    /// How many bytes were read.
    pub(crate) fn read_len(&self) -> u64 {
        self.0.borrow().at
    }

    /// Goes on at this byte, so that what was read before may be shorter or longer and changes nothing behind it.
    pub(crate) fn wind_to(&self, at: u64) {
        let mut reel = self.0.borrow_mut();
        assert!(reel.at <= at, "{} bytes were read, more than {at}", reel.at);
        while reel.at < at {
            reel.take(1);
        }
    }

    /// A choice between two.
    pub(crate) fn bool(&self) -> bool {
        self.up_to(1) == 1
    }

    /// Whether something happens that happens in one of so many cases.
    pub(crate) fn one_in(&self, count: u32) -> bool {
        self.up_to(u64::from(count) - 1) == u64::from(count) - 1
    }

    /// Whether something happens that happens so often in a thousand cases.
    pub(crate) fn per_mille(&self, chance: u16) -> bool {
        self.up_to(999) + u64::from(chance) >= 1000
    }

    /// One of these.
    pub(crate) fn one_of<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.usize(..choices.len())]
    }

    /// How many of so many things come now: all of them, or some.
    pub(crate) fn some_of(&self, len: usize) -> usize {
        if self.bool() { self.usize(..=len) } else { len }
    }

    /// Puts them into another order; zero bytes leave them as they are.
    pub(crate) fn shuffle<T>(&self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, last - self.usize(..=last));
        }
    }

    /// A number from 0 to this one: as often one as the other, but for a sixteenth.
    fn up_to(&self, max: u64) -> u64 {
        let len = match max {
            0 => return 0,
            1..0x10 => 1,
            0x10..0x1000 => 2,
            0x1000..0x1000_0000 => 4,
            _ => 8,
        };
        let bytes = u128::from(self.0.borrow_mut().take(len));
        ((bytes * (u128::from(max) + 1)) >> (8 * len)) as u64
    }
}

macro_rules! numbers {
    ($($name:ident),*) => {
        impl Tape {$(
            /// A number of this range.
            pub(crate) fn $name(&self, range: impl RangeBounds<$name>) -> $name {
                let first = match range.start_bound() {
                    Bound::Included(first) => *first,
                    Bound::Excluded(before) => *before + 1,
                    Bound::Unbounded => 0,
                };
                let last = match range.end_bound() {
                    Bound::Included(last) => Some(*last),
                    Bound::Excluded(end) => end.checked_sub(1),
                    Bound::Unbounded => Some($name::MAX),
                };
                let span = last.and_then(|last| last.checked_sub(first)).expect("a range has a number");
                first + self.up_to(span as u64) as $name
            }
        )*}
    };
}

numbers!(u8, u16, u32, u64, usize);

impl Reel {
    /// The next bytes, 1 to 8 of them, the first one highest.
    fn take(&mut self, len: u32) -> u64 {
        if self.ready_len < len {
            self.ready = self.ready << 64 | u128::from(self.source.u64(..));
            self.ready_len += 8;
        }
        self.ready_len -= len;
        let mask = u64::MAX >> (64 - 8 * len);
        let bytes = (self.ready >> (8 * self.ready_len)) as u64 & mask;
        let from = self.at;
        self.at += u64::from(len);
        if self.at <= self.plain_until { bytes } else { self.edit(from, len, bytes) }
    }

    /// What is left of bytes that may be edited.
    fn edit(&mut self, from: u64, len: u32, bytes: u64) -> u64 {
        self.plain_until = self.edits.next_after(self.at);
        let is_zero = |nth: &u32| self.edits.is_zero(from + u64::from(len - 1 - nth));
        (0..len).filter(is_zero).fold(bytes, |bytes, nth| bytes & !(0xff << (8 * nth)))
    }
}

/// How a tape differs from that of its seed: it ends early, or stretches of it are zero.
///
/// As text, which the commands take: `END:FROM-TO,FROM-TO`, where END and the stretches may be missing.
///
/// ```
/// use epicserver_sim::Edits;
///
/// let edits: Edits = "800:0-8,64-128".parse()?;
/// assert_eq!((edits.end(), edits.zeros()), (Some(800), &[0..8, 64..128][..]));
/// assert_eq!(edits.to_string(), "800:0-8,64-128");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    end: Option<u64>,
    /// In order and apart, each of them before the end.
    zeros: Vec<Range<u64>>,
}

impl Edits {
    /// The byte from which on all are zero, and stretches before it that are.
    pub fn new(end: Option<u64>, zeros: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut sorted: Vec<Range<u64>> = zeros.into_iter().collect();
        sorted.sort_by_key(|zero| zero.start);
        let mut edits = Self { end, zeros: Vec::new() };
        for zero in sorted {
            let zero = zero.start..end.map_or(zero.end, |end| zero.end.min(end));
            match edits.zeros.last_mut() {
                _ if zero.is_empty() => {}
                Some(last) if zero.start <= last.end => last.end = last.end.max(zero.end),
                _ => edits.zeros.push(zero),
            }
        }
        // What is zero up to the end ends before that.
        if let Some(last) = edits.zeros.pop_if(|zero| Some(zero.end) == end) {
            edits.end = Some(last.start);
        }
        edits
    }

    /// From which byte on all are zero, if from any.
    pub fn end(&self) -> Option<u64> {
        self.end
    }

    /// Stretches that are zero besides.
    pub fn zeros(&self) -> &[Range<u64>] {
        &self.zeros
    }

    /// How many bytes of a tape are left of which so many are read.
    pub fn left_of(&self, read_len: u64) -> u64 {
        let end = self.end.map_or(read_len, |end| end.min(read_len));
        let len = |zero: &Range<u64>| zero.end.min(end).saturating_sub(zero.start);
        end - self.zeros.iter().map(len).sum::<u64>()
    }

    /// With this stretch zeroed too.
    #[must_use]
    pub fn zeroed(&self, stretch: Range<u64>) -> Self {
        Self::new(self.end, self.zeros.iter().cloned().chain([stretch]))
    }

    /// Cut off here, if it is longer.
    #[must_use]
    pub fn cut(&self, end: u64) -> Self {
        Self::new(Some(self.end.map_or(end, |now| now.min(end))), self.zeros.iter().cloned())
    }

    /// Whether this byte is zeroed.
    pub(crate) fn is_zero(&self, at: u64) -> bool {
        let next = self.zeros.partition_point(|zero| zero.end <= at);
        self.end.is_some_and(|end| end <= at) || self.zeros.get(next).is_some_and(|zero| zero.start <= at)
    }

    /// The first byte from here on that is edited.
    fn next_after(&self, at: u64) -> u64 {
        let next = self.zeros.get(self.zeros.partition_point(|zero| zero.end <= at));
        let end = self.end.unwrap_or(u64::MAX);
        next.map_or(end, |zero| zero.start).max(at)
    }
}

impl fmt::Display for Edits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.end.map(|end| end.to_string()).unwrap_or_default();
        let zeros: Vec<String> =
            self.zeros.iter().map(|zero| format!("{}-{}", zero.start, zero.end)).collect();
        write!(f, "{end}:{}", zeros.join(","))
    }
}

impl FromStr for Edits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not of the form END:FROM-TO,FROM-TO");
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (end, zeros) = text.split_once(':').ok_or_else(wrong)?;
        let end = if end.is_empty() { None } else { Some(number(end)?) };
        let zeros = zeros.split(',').filter(|zero| !zero.is_empty()).map(|zero| {
            let (from, to) = zero.split_once('-').ok_or_else(wrong)?;
            Ok(number(from)?..number(to)?)
        });
        Ok(Self::new(end, zeros.collect::<Result<Vec<_>, String>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(seed: u64) -> Tape {
        Tape::new(seed, Edits::default())
    }

    fn bytes(edits: Edits) -> Vec<u64> {
        let tape = Tape::new(3, edits);
        (0..64).map(|_| tape.0.borrow_mut().take(1)).collect()
    }

    #[test]
    fn zero_bytes_are_the_simplest_choice() {
        let tape = Tape::new(1, Edits::new(Some(0), []));
        assert_eq!((tape.u8(3..9), tape.u16(..1000), tape.u32(7..=7), tape.u64(1..)), (3, 0, 7, 1));
        assert_eq!((tape.bool(), tape.one_in(2), tape.per_mille(999)), (false, false, false));
        assert_eq!((tape.one_of(&[5, 6]), tape.some_of(9)), (5, 9));
        let mut values = [1, 2, 3, 4];
        tape.shuffle(&mut values);
        assert_eq!(values, [1, 2, 3, 4]);
    }

    #[test]
    fn every_number_of_a_range_comes_about_as_often_as_the_others() {
        for max in [1, 2, 9, 15, 16, 19, 255, 300] {
            let (tape, rounds) = (plain(max), 400);
            let mut counts = vec![0; max as usize + 1];
            (0..rounds * (max + 1)).for_each(|_| counts[tape.u64(..=max) as usize] += 1);
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(
                least > Some(&(rounds * 7 / 10)) && most < Some(&(rounds * 13 / 10)),
                "{max}: {counts:?}"
            );
        }
    }

    #[test]
    fn what_happens_seldom_happens_so_often() {
        let tape = plain(1);
        let count = |happens: &dyn Fn() -> bool| (0..20_000).filter(|_| happens()).count();
        assert!((1_000..1_500).contains(&count(&|| tape.one_in(16))));
        assert!((500..700).contains(&count(&|| tape.per_mille(30))));
        assert_eq!((count(&|| tape.one_in(1)), count(&|| tape.per_mille(0))), (20_000, 0));
    }

    #[test]
    fn bytes_are_the_same_however_many_are_read_at_once() {
        let tape = plain(3);
        let mut read = Vec::new();
        for len in [1, 8, 2, 4, 8, 8, 1, 4, 8] {
            let taken = tape.0.borrow_mut().take(len).to_be_bytes();
            read.extend(taken[8 - len as usize..].iter().map(|byte| u64::from(*byte)));
        }
        assert_eq!(read, bytes(Edits::default())[..read.len()]);
        assert_eq!(tape.read_len(), read.len() as u64);
    }

    #[test]
    fn a_tape_is_zero_where_it_is_edited_and_itself_elsewhere() {
        let whole = bytes(Edits::default());
        let edited = bytes(Edits::new(Some(40), [3..5, 20..29]));
        for (at, (before, after)) in whole.iter().zip(&edited).enumerate() {
            let is_zero = (3..5).contains(&at) || (20..29).contains(&at) || at >= 40;
            assert_eq!(*after, if is_zero { 0 } else { *before }, "{at}");
        }
        // In the middle of a number too.
        let tape = Tape::new(3, Edits::default().zeroed(1..2));
        assert_eq!(tape.u64(..).to_be_bytes()[..3], [whole[0] as u8, 0, whole[2] as u8]);
    }

    #[test]
    fn what_comes_behind_a_place_is_the_same_whatever_was_read_before_it() {
        let read = |count: u32| {
            let tape = plain(5);
            (0..count).for_each(|_| assert!(tape.u8(..3) < 3));
            tape.wind_to(32);
            tape.u64(..)
        };
        assert_eq!(read(0), read(7));
    }

    #[test]
    fn edits_are_put_in_order_and_joined() {
        let edits = Edits::new(Some(100), [60..70, 10..20, 15..30, 90..120, 5..5, 30..31]);
        assert_eq!(edits.to_string(), "90:10-31,60-70");
        assert_eq!(edits.to_string().parse(), Ok(edits.clone()));
        assert_eq!(edits.zeroed(70..90).to_string(), "60:10-31");
        assert_eq!(edits.cut(65).to_string(), "60:10-31");
        assert_eq!((edits.left_of(1000), edits.left_of(65), edits.left_of(12)), (59, 39, 10));
        assert_eq!(":".parse(), Ok(Edits::default()));
        for wrong in ["", "8", "x:", "8:1", "8:1-x"] {
            assert!(wrong.parse::<Edits>().is_err(), "{wrong}");
        }
    }
}
