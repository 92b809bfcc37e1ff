//! Long frames: what the two ends of a link say about them, and what waits for them to be there.
//!
//! ```text
//! sender                                       receiver
//!   opens a window over the frame, for this
//!   queue pair alone, and says where it is
//!   Offer { address, key, len }        ->      in its place among the packets, which wait behind it
//!                                      <-      READ, into a buffer of its own
//!                                      <-      Taken { count }
//!   closes the window: the key is worth
//!   nothing from then on; then the buffer
//!   is free
//! ```
//! Words are packets shorter than any frame. A peer has at most [`OFFERS_MAX`] offers that are not taken, so that what waits is bounded.

use crate::options::{BULK_LEN, RECEIVE_LEN};
use epicserver_transport::{FRAME_ALIGN, HEADER_LEN, ReceiveBlock};
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What one end tells the other about long frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Offer(Offer),
    /// So many more offers were taken, the oldest first.
    Taken(u32),
}

/// Where a long frame lies, and the key to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) address: u64,
    pub(crate) key: u32,
    pub(crate) len: u32,
}

/// A [`Word`] as it goes over the wire.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WordBytes {
    magic: [u8; 4],
    /// Length of the frame, or how many were taken.
    number: U32,
    address: U64,
    key: U32,
    zero: U32,
}

impl Word {
    pub(crate) fn to_bytes(self) -> [u8; WORD_LEN] {
        let (magic, number, address, key) = match self {
            Self::Offer(Offer { address, key, len }) => (OFFER, len, address, key),
            Self::Taken(count) => (TAKEN, count, 0, 0),
        };
        let (number, zero) = (U32::new(number), U32::ZERO);
        zerocopy::transmute!(WordBytes {
            magic,
            number,
            address: U64::new(address),
            key: U32::new(key),
            zero
        })
    }

    /// Reads a packet that is none of frames. `None`: it is not a word either.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let found = WordBytes::read_from_bytes(packet).ok()?;
        match found.magic {
            OFFER => {
                let (address, key) = (found.address.get(), found.key.get());
                Some(Self::Offer(Offer { address, key, len: found.number.get() }))
            }
            TAKEN => Some(Self::Taken(found.number.get())),
            _ => None,
        }
    }
}

/// What came and is not given out, in the order in which it came: from the oldest offer on that is not read.
#[derive(Debug)]
pub(crate) struct Incoming {
    waiting: VecDeque<Waiting>,
    /// Offers that are not read.
    offered: usize,
    /// Reads that are under way.
    reading: usize,
    reads_max: usize,
}

#[derive(Debug)]
enum Waiting {
    Packet(ReceiveBlock),
    Offered(Offer),
    Reading,
    Read(ReceiveBlock),
}

/// The peer offers what it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadOffer {
    /// Too many at a time.
    TooMany,
    /// Not the length of a long frame.
    Length,
}

impl Incoming {
    /// Nothing waits, and so many reads may be under way.
    pub(crate) fn new(reads_max: usize) -> Self {
        Self { waiting: VecDeque::new(), offered: 0, reading: 0, reads_max }
    }

    /// Takes a packet of frames; gives it back if nothing is before it.
    pub(crate) fn push(&mut self, packet: ReceiveBlock) -> Option<ReceiveBlock> {
        if self.waiting.is_empty() {
            return Some(packet);
        }
        self.waiting.push_back(Waiting::Packet(packet));
        None
    }

    /// Takes an offer in its place.
    pub(crate) fn offer(&mut self, offer: Offer) -> Result<(), BadOffer> {
        if self.offered + self.reading >= OFFERS_MAX || self.reads_max == 0 {
            return Err(BadOffer::TooMany);
        }
        if !LENS.contains(&(offer.len as usize)) || !(offer.len as usize).is_multiple_of(FRAME_ALIGN) {
            return Err(BadOffer::Length);
        }
        self.offered += 1;
        self.waiting.push_back(Waiting::Offered(offer));
        Ok(())
    }

    /// The offer to read next, if a read may begin.
    pub(crate) fn next_to_read(&self) -> Option<Offer> {
        if self.offered == 0 || self.reading >= self.reads_max {
            return None;
        }
        self.waiting.iter().find_map(|waiting| match waiting {
            Waiting::Offered(offer) => Some(*offer),
            _ => None,
        })
    }

    /// The read of that offer has begun.
    pub(crate) fn begin_read(&mut self) {
        let next = self.waiting.iter_mut().find(|waiting| matches!(waiting, Waiting::Offered(_)));
        if let Some(waiting) = next {
            *waiting = Waiting::Reading;
            (self.offered, self.reading) = (self.offered - 1, self.reading + 1);
        }
    }

    /// The oldest read is done, and this is what it got.
    pub(crate) fn end_read(&mut self, frame: ReceiveBlock) {
        let oldest = self.waiting.iter_mut().find(|waiting| matches!(waiting, Waiting::Reading));
        if let Some(waiting) = oldest {
            *waiting = Waiting::Read(frame);
            self.reading -= 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What may be given out now.
    pub(crate) fn pop(&mut self) -> Option<ReceiveBlock> {
        match self.waiting.front()? {
            Waiting::Offered(_) | Waiting::Reading => None,
            Waiting::Packet(_) | Waiting::Read(_) => match self.waiting.pop_front()? {
                Waiting::Packet(block) | Waiting::Read(block) => Some(block),
                Waiting::Offered(_) | Waiting::Reading => None,
            },
        }
    }
}

/// Length of a word, which is shorter than a frame.
pub(crate) const WORD_LEN: usize = 24;
/// Offers of one end of a link that are not taken.
pub(crate) const OFFERS_MAX: usize = 4;
/// Reads of one end of a link that are under way, each with a buffer: one more than is given out at a time.
pub(crate) const READS_MAX: usize = 2;
/// Lengths of frames that are offered.
const LENS: RangeInclusive<usize> = RECEIVE_LEN + FRAME_ALIGN..=BULK_LEN;
const OFFER: [u8; 4] = *b"OFFR";
const TAKEN: [u8; 4] = *b"TOOK";
const _: () = assert!(size_of::<WordBytes>() == WORD_LEN && WORD_LEN < HEADER_LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_transport::FrameBuf;

    fn block(byte: u8) -> ReceiveBlock {
        let mut block = ReceiveBlock::from(FrameBuf::unpooled(1));
        block.tail_mut()[0] = byte;
        block.advance(1);
        block
    }

    fn offer(len: usize) -> Offer {
        Offer { address: 4096, key: 7, len: len as u32 }
    }

    fn popped(incoming: &mut Incoming) -> Vec<u8> {
        std::iter::from_fn(|| incoming.pop()).map(|block| block.filled()[0]).collect()
    }

    #[test]
    fn words_say_what_was_meant_and_nothing_else_is_one() {
        for word in [Word::Offer(offer(9000)), Word::Taken(3)] {
            assert_eq!(Word::parse(&word.to_bytes()), Some(word));
        }
        let mut other = Word::Taken(1).to_bytes();
        other[0] ^= 1;
        assert_eq!(Word::parse(&other), None);
        assert_eq!(Word::parse(&Word::Taken(1).to_bytes()[..WORD_LEN - 1]), None);
        assert_eq!(Word::parse(&[0; WORD_LEN + 1]), None);
    }

    #[test]
    fn everything_is_given_out_in_the_order_in_which_it_came() {
        let mut incoming = Incoming::new(2);
        assert!(incoming.push(block(0)).is_some(), "nothing is before it");
        for number in [1, 3, 5] {
            incoming.offer(offer(BULK_LEN)).expect("within bounds");
            assert!(incoming.push(block(number + 1)).is_none());
        }
        for _ in 0..2 {
            assert!(incoming.next_to_read().is_some());
            incoming.begin_read();
        }
        assert_eq!(incoming.next_to_read(), None, "two at a time");
        assert_eq!(popped(&mut incoming), []);
        incoming.end_read(block(1));
        assert_eq!(popped(&mut incoming), [1, 2]);
        incoming.begin_read();
        incoming.end_read(block(3));
        incoming.end_read(block(5));
        assert_eq!(popped(&mut incoming), [3, 4, 5, 6]);
        assert!(incoming.push(block(7)).is_some(), "nothing waits any more");
    }

    #[test]
    fn offers_are_bounded_in_count_and_length() {
        let mut incoming = Incoming::new(1);
        for len in [0, 1, RECEIVE_LEN, RECEIVE_LEN + 8, BULK_LEN + FRAME_ALIGN, u32::MAX as usize] {
            assert_eq!(incoming.offer(offer(len)), Err(BadOffer::Length), "{len}");
        }
        for _ in 0..OFFERS_MAX {
            incoming.offer(offer(RECEIVE_LEN + FRAME_ALIGN)).expect("within bounds");
        }
        assert_eq!(incoming.offer(offer(BULK_LEN)), Err(BadOffer::TooMany));
        incoming.begin_read();
        assert_eq!(incoming.offer(offer(BULK_LEN)), Err(BadOffer::TooMany));
        incoming.end_read(block(1));
        assert_eq!(incoming.offer(offer(BULK_LEN)), Ok(()));
        assert_eq!(Incoming::new(0).offer(offer(BULK_LEN)), Err(BadOffer::TooMany));
    }
}
