//! What the two ends of a link tell each other over the control connection before the first packet.
//!
//! ```text
//! connector                         acceptor
//!   Greeting           ->             makes its queue pair, connects it
//!   connects its own   <-             Greeting
//!   READY              ->             the link is up
//! ```
//! A connector that is up when it has sent `READY` may send at once, because the acceptor's queue pair was there before
//! its greeting was. After `READY` neither side says anything more: the end of the connection is the end of the link. Whoever can
//! reach the port can begin a link; who it is, the session asks over the link.

use crate::bulk::READS_MAX;
use crate::credits::RESERVE;
use crate::options::{RECEIVE_LEN, RECEIVES_MIN};
use crate::sys::{Destination, Remote};
use thiserror::Error;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One end, as it goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Greeting {
    magic: [u8; 8],
    version: U16,
    /// Within a subnet of InfiniBand; zero where the address is `gid`.
    lid: U16,
    /// Number of the queue pair, 24 bits.
    number: U32,
    /// Sequence number of the first packet, 24 bits.
    first_packet: U32,
    /// Receives that are posted before the first packet.
    receives: U16,
    /// Largest payload of a network packet, in the numbering of verbs.
    mtu: u8,
    /// Reads by the other end that the device serves at a time.
    reads: u8,
    /// Length of each receive in bytes.
    receive_len: U32,
    reserved_too: U32,
    gid: [u8; 16],
}

/// What a side says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Introduction {
    pub(crate) number: u32,
    pub(crate) first_packet: u32,
    pub(crate) receives: u16,
    pub(crate) mtu: u8,
    /// Reads of its memory that its device serves at a time.
    pub(crate) reads: u8,
    /// `None` within a subnet of InfiniBand.
    pub(crate) gid: Option<[u8; 16]>,
    pub(crate) lid: u16,
}

/// Why a greeting was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum GreetingError {
    #[error("what was sent is no greeting")]
    NotOne,
    #[error("the other end speaks version {0}, this one {VERSION}")]
    OtherVersion(u16),
    #[error("the other end has a {0} of {1}, which cannot be")]
    Impossible(&'static str, u32),
    #[error("one end is within a subnet of InfiniBand, the other is not")]
    OtherNetwork,
}

impl Greeting {
    pub(crate) fn new(own: &Introduction) -> Self {
        Self {
            magic: *MAGIC,
            version: U16::new(VERSION),
            lid: U16::new(if own.gid.is_some() { 0 } else { own.lid }),
            number: U32::new(own.number),
            first_packet: U32::new(own.first_packet),
            receives: U16::new(own.receives),
            mtu: own.mtu,
            reads: own.reads,
            receive_len: U32::new(RECEIVE_LEN as u32),
            reserved_too: U32::new(0),
            gid: own.gid.unwrap_or_default(),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; GREETING_LEN] {
        zerocopy::transmute!(self)
    }

    /// Reads what the other end says, which may be anything.
    pub(crate) fn parse(bytes: &[u8; GREETING_LEN]) -> Result<Introduction, GreetingError> {
        let found: Self = zerocopy::transmute!(*bytes);
        if found.magic != *MAGIC {
            return Err(GreetingError::NotOne);
        }
        if found.version.get() != VERSION {
            return Err(GreetingError::OtherVersion(found.version.get()));
        }
        let within = |name, value: u32, range: std::ops::RangeInclusive<u32>| {
            if range.contains(&value) { Ok(value) } else { Err(GreetingError::Impossible(name, value)) }
        };
        within("length of receives", found.receive_len.get(), RECEIVE_LEN as u32..=RECEIVE_LEN as u32)?;
        Ok(Introduction {
            number: within("queue pair number", found.number.get(), 1..=MAX_24_BITS)?,
            first_packet: within("packet number", found.first_packet.get(), 0..=MAX_24_BITS)?,
            receives: within(
                "number of receives",
                found.receives.get().into(),
                RECEIVES_MIN as u32..=RECEIVES_MAX,
            )? as u16,
            mtu: within("packet size", found.mtu.into(), 1..=5)? as u8,
            reads: within("number of reads", found.reads.into(), 1..=READS_MAX as u32)? as u8,
            gid: (found.gid != [0; 16]).then_some(found.gid),
            lid: found.lid.get(),
        })
    }
}

impl Introduction {
    /// How to reach who said this, for who sends from the address table's entry `source_index`; `None` within a subnet.
    pub(crate) fn remote(&self, source_index: Option<u8>) -> Result<Remote, GreetingError> {
        let destination = match (self.gid, source_index) {
            (Some(gid), Some(source_index)) => Destination::Gid { gid, source_index },
            (None, None) if self.lid != 0 => Destination::Lid(self.lid),
            _ => return Err(GreetingError::OtherNetwork),
        };
        Ok(Remote { number: self.number, first_packet: self.first_packet, destination })
    }
}

/// Length of a [`Greeting`] in bytes.
pub(crate) const GREETING_LEN: usize = 48;
/// Said by the connector when its end is connected.
pub(crate) const READY: u8 = 0x52;
/// Packet and queue pair numbers have 24 bits.
pub(crate) const MAX_24_BITS: u32 = (1 << 24) - 1;
/// More receives than this no side announces.
pub(crate) const RECEIVES_MAX: u32 = 1 << 14;

const MAGIC: &[u8; 8] = b"EPICRDMA";
const VERSION: u16 = 2;

const _: () = assert!(size_of::<Greeting>() == GREETING_LEN);
const _: () = assert!(RECEIVES_MIN as u32 > RESERVE);

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Introduction {
        Introduction {
            number: 17,
            first_packet: 0x00ab_cdef,
            receives: 64,
            mtu: 5,
            reads: 2,
            gid: Some([9; 16]),
            lid: 0,
        }
    }

    #[test]
    fn a_greeting_says_what_was_meant() {
        for own in [own(), Introduction { gid: None, lid: 3, ..own() }] {
            assert_eq!(Greeting::parse(&Greeting::new(&own).to_bytes()), Ok(own));
        }
    }

    #[test]
    fn no_byte_may_be_anything() {
        // Every byte set to every value: refused, or something within bounds.
        let good = Greeting::new(&own()).to_bytes();
        let mut refused = 0;
        for at in 0..GREETING_LEN {
            for value in 0..=u8::MAX {
                let mut bytes = good;
                bytes[at] = value;
                match Greeting::parse(&bytes) {
                    Ok(found) => {
                        assert!(found.number <= MAX_24_BITS && found.first_packet <= MAX_24_BITS);
                        assert!((1..=5).contains(&found.mtu) && usize::from(found.receives) >= RECEIVES_MIN);
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        // All others of magic, version and receive length; most high bytes of the numbers.
        assert!(refused > 14 * 255, "{refused}");
    }

    #[test]
    fn ends_on_different_networks_do_not_meet() {
        let on_ethernet = own();
        let in_subnet = Introduction { gid: None, lid: 3, ..own() };
        assert_eq!(on_ethernet.remote(None), Err(GreetingError::OtherNetwork));
        assert_eq!(in_subnet.remote(Some(1)), Err(GreetingError::OtherNetwork));
        let remote = in_subnet.remote(None).expect("the same network");
        assert_eq!(remote.destination, Destination::Lid(3));
    }
}
