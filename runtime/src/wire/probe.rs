//! The payload of a probe: a search for a circle of waiting calls that goes on at another node.
//!
//! ```text
//! initiator u128 │ round u64 │ hops u8 │ way, UTF-8, at most 1 KiB, to the end of the payload
//! ```
//! The header of its frame names the call to go on at, as that of a cancel does: a request of the sender. It is a writer
//! and a parser; what a search does is in `core/cycle.rs`. Start with [`ProbeWord`].

use zerocopy::little_endian::{U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::id::CallId;

/// A search on its way to another node. Borrows the text from the frame, or from whoever writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeWord<'a> {
    /// The queued call that looks for itself.
    pub initiator: CallId,
    /// Tells this search from the initiator's others.
    pub round: u64,
    /// How often the search went on at another core or node; below [`HOPS_MAX`].
    pub hops: u8,
    /// The calls on the way, for the text of the error.
    pub way: &'a str,
}

/// Why bytes are no probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Shorter than the fixed fields, or longer than [`PROBE_LEN_MAX`].
    #[error("a probe of {0} bytes")]
    Length(usize),
    /// It went on more often than a search may.
    #[error("a probe of {0} hops")]
    Hops(u8),
    /// The way is not UTF-8.
    #[error("the way of a probe is not UTF-8")]
    Way,
}

impl<'a> ProbeWord<'a> {
    /// Reads the whole payload of a probe frame.
    ///
    /// # Errors
    /// [`ProbeError`] says what is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<ProbeWord<'a>, ProbeError> {
        if bytes.len() > PROBE_LEN_MAX {
            return Err(ProbeError::Length(bytes.len()));
        }
        let (head, way) = Head::read_from_prefix(bytes).map_err(|_| ProbeError::Length(bytes.len()))?;
        if head.hops >= HOPS_MAX {
            return Err(ProbeError::Hops(head.hops));
        }
        let way = str::from_utf8(way).map_err(|_| ProbeError::Way)?;
        Ok(Self { initiator: CallId(head.initiator.get()), round: head.round.get(), hops: head.hops, way })
    }

    /// The wire form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = Head { initiator: self.initiator.0.into(), round: self.round.into(), hops: self.hops };
        [head.as_bytes(), self.way.as_bytes()].concat()
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    initiator: U128,
    round: U64,
    hops: u8,
}

/// A search that went on so often at other cores and nodes ends.
pub const HOPS_MAX: u8 = 32;
/// Longest text of a way, in bytes.
pub const WAY_LEN_MAX: usize = 1024;
/// Longest payload of a probe, in bytes.
pub const PROBE_LEN_MAX: usize = size_of::<Head>() + WAY_LEN_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn word(hops: u8, way: &str) -> ProbeWord<'_> {
        ProbeWord { initiator: CallId(0x0102), round: 3, hops, way }
    }

    #[test]
    fn a_probe_comes_back_out_of_its_bytes() {
        let longest = "x".repeat(WAY_LEN_MAX);
        for way in ["", "a -> b", &longest] {
            let bytes = word(31, way).to_bytes();
            assert_eq!(ProbeWord::parse(&bytes), Ok(word(31, way)));
        }
        assert_eq!(word(5, "w").to_bytes()[..3], [2, 1, 0]);
        assert_eq!(word(5, "w").to_bytes()[24..], [5, b'w']);
    }

    #[test]
    fn each_defect_is_named() {
        let good = word(0, "").to_bytes();
        assert_eq!(ProbeWord::parse(&good[1..]), Err(ProbeError::Length(24)));
        assert_eq!(ProbeWord::parse(&word(HOPS_MAX, "").to_bytes()), Err(ProbeError::Hops(32)));
        let long = word(0, &"x".repeat(WAY_LEN_MAX + 1)).to_bytes();
        assert_eq!(ProbeWord::parse(&long), Err(ProbeError::Length(PROBE_LEN_MAX + 1)));
        let broken = [&good[..], &[0xff]].concat();
        assert_eq!(ProbeWord::parse(&broken), Err(ProbeError::Way));
    }
}
