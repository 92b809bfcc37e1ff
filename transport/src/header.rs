//! The fixed header that every frame opens with, and the arithmetic of a frame's parts.
//!
//! A frame is `header (32 bytes) | extension | payload | zero padding to 16`. This file knows where the parts are and
//! refuses what cannot be a frame. It does not know what an extension or a payload means: that is the session's.
//! Start at [`FrameHeader::parse`].

use thiserror::Error;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first 32 bytes of a frame, little-endian, readable at any address.
///
/// The fields are what the wire holds; use [`FrameHeader::parse`] to get one from foreign bytes, because it is the only
/// place that checks them.
///
/// ```
/// use epicserver_transport::{FrameHeader, FrameKind};
/// let mut header = FrameHeader::new(FrameKind::Request);
/// header.payload_len.set(5);
/// header.ext_len.set(1);
/// assert_eq!(header.total_len(), 32 + 16 + 16);
/// let mut frame = header.to_bytes().to_vec();
/// frame.extend_from_slice(&[0; 32]);
/// assert_eq!(FrameHeader::parse(&frame)?.kind(), FrameKind::Request);
/// assert_eq!(FrameHeader::payload_bytes(&frame).map(<[u8]>::len), Some(5));
/// # Ok::<(), epicserver_transport::HeaderError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FrameHeader {
    /// Exact payload length in bytes, without padding.
    pub payload_len: U32,
    /// Extension length in units of 16 bytes.
    pub ext_len: U16,
    /// A [`FrameKind`] as its number.
    pub kind_number: u8,
    /// Bits, see [`flags`].
    pub flags: u8,
    /// Payload format; 0 is rkyv.
    pub codec: u8,
    /// Core of the sender that the answer goes to.
    pub source_core: u8,
    /// Core of the receiver that the frame is for.
    pub target_core: u8,
    /// Always zero.
    pub zero: u8,
    /// Interned object handle; 0 means that the key is in the extension.
    pub handle: U32,
    /// Correlation: index of the caller's call record.
    pub slot: U32,
    /// Correlation: which use of that record.
    pub generation: U32,
    /// Method id.
    pub method: U32,
    /// Low half of the layout hash of arguments or result.
    pub layout: U32,
}

impl FrameHeader {
    /// A header of this kind with every other field zero.
    #[must_use]
    pub const fn new(kind: FrameKind) -> Self {
        const ZERO: U32 = U32::ZERO;
        Self {
            payload_len: ZERO,
            ext_len: U16::ZERO,
            kind_number: kind as u8,
            flags: 0,
            codec: 0,
            source_core: 0,
            target_core: 0,
            zero: 0,
            handle: ZERO,
            slot: ZERO,
            generation: ZERO,
            method: ZERO,
            layout: ZERO,
        }
    }

    /// Reads the header at the start of `bytes` and checks everything that does not depend on a limit: there are 32
    /// bytes, the kind is known, the zero byte is zero.
    ///
    /// # Errors
    /// [`HeaderError`] names the first thing that is wrong.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<&Self, HeaderError> {
        let (header, _) =
            Self::ref_from_prefix(bytes).map_err(|_| HeaderError::Short { len: bytes.len() })?;
        if !FrameKind::is_known(header.kind_number) {
            return Err(HeaderError::UnknownKind { kind_number: header.kind_number });
        }
        if header.zero != 0 {
            return Err(HeaderError::ZeroByteSet { found: header.zero });
        }
        Ok(header)
    }

    /// As [`FrameHeader::parse`], and the announced frame is no longer than `frame_len_max` bytes. Call this before
    /// anything is kept or allocated for a frame.
    ///
    /// # Errors
    /// [`HeaderError`] names the first thing that is wrong.
    #[inline]
    pub fn parse_bounded(bytes: &[u8], frame_len_max: usize) -> Result<&Self, HeaderError> {
        let header = Self::parse(bytes)?;
        let len = header.total_len();
        if len > frame_len_max as u64 {
            return Err(HeaderError::TooLong { len, frame_len_max });
        }
        Ok(header)
    }

    /// As [`FrameHeader::parse`], for bytes that claim to be exactly one frame: the announced length is the length of
    /// `frame`. Transports call this on what they are given to send.
    ///
    /// # Errors
    /// [`HeaderError`] names the first thing that is wrong.
    #[inline]
    pub fn parse_frame(frame: &[u8]) -> Result<&Self, HeaderError> {
        let header = Self::parse(frame)?;
        let announced = header.total_len();
        if announced != frame.len() as u64 {
            return Err(HeaderError::LengthMismatch { announced, len: frame.len() });
        }
        Ok(header)
    }

    /// The kind. A header that did not come from `parse` and holds an unknown number reads as [`FrameKind::Close`],
    /// the one kind that asks for nothing.
    #[must_use]
    #[inline]
    pub fn kind(&self) -> FrameKind {
        FrameKind::from_u8(self.kind_number).unwrap_or(FrameKind::Close)
    }

    /// Length of the whole frame in bytes: header, extension and payload, padded to [`FRAME_ALIGN`].
    #[must_use]
    #[inline]
    pub fn total_len(&self) -> u64 {
        let unpadded = HEADER_LEN as u64 + self.ext_len_bytes() + u64::from(self.payload_len.get());
        unpadded.next_multiple_of(FRAME_ALIGN as u64)
    }

    /// Length of the extension in bytes.
    #[must_use]
    #[inline]
    pub fn ext_len_bytes(&self) -> u64 {
        u64::from(self.ext_len.get()) * FRAME_ALIGN as u64
    }

    /// The wire form.
    #[must_use]
    #[inline]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        zerocopy::transmute!(*self)
    }

    /// Writes the header over the first 32 bytes of `frame`. Returns `false`, and writes nothing, if there are fewer.
    #[must_use]
    #[inline]
    pub fn write_to(&self, frame: &mut [u8]) -> bool {
        self.write_to_prefix(frame).is_ok()
    }

    /// The extension of `frame`; `None` if `frame` has no valid header or ends before its extension does.
    #[must_use]
    #[inline]
    pub fn ext_bytes(frame: &[u8]) -> Option<&[u8]> {
        let header = Self::parse(frame).ok()?;
        let ext_end = HEADER_LEN.checked_add(usize::try_from(header.ext_len_bytes()).ok()?)?;
        frame.get(HEADER_LEN..ext_end)
    }

    /// The payload of `frame` without padding; it starts at a multiple of 16. `None` if `frame` has no valid header or
    /// ends before its payload does.
    #[must_use]
    #[inline]
    pub fn payload_bytes(frame: &[u8]) -> Option<&[u8]> {
        let header = Self::parse(frame).ok()?;
        let start = HEADER_LEN.checked_add(usize::try_from(header.ext_len_bytes()).ok()?)?;
        let end = start.checked_add(usize::try_from(header.payload_len.get()).ok()?)?;
        frame.get(start..end)
    }
}

/// What a frame is for. The numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A call that wants an answer.
    Request = 1,
    /// The result of a call.
    Reply = 2,
    /// A call that wants no answer.
    OneWay = 3,
    /// The failure of a call.
    Error = 4,
    /// The caller no longer wants the answer.
    Cancel = 5,
    /// The object is not here; says where it is.
    Moved = 6,
    /// Room for more frames, with the count of received ones.
    Credit = 7,
    /// Opens a link session.
    Hello = 8,
    /// Answers a hello.
    HelloReply = 9,
    /// Proves the cluster secret.
    HelloProof = 10,
    /// Asks whether the peer is alive.
    Ping = 11,
    /// Answers a ping.
    Pong = 12,
    /// A part of a frame that is longer than the link carries.
    Fragment = 13,
    /// Binds a handle to an object key.
    Intern = 14,
    /// Ends a link session, with the reason.
    Close = 15,
    /// Between nodes: coordinator, store, membership.
    Control = 16,
    /// Looks for a circle of calls that wait for each other. May be lost.
    Probe = 17,
}

impl FrameKind {
    /// Every kind, in the order of the wire numbers.
    pub const ALL: [Self; 17] = [
        Self::Request,
        Self::Reply,
        Self::OneWay,
        Self::Error,
        Self::Cancel,
        Self::Moved,
        Self::Credit,
        Self::Hello,
        Self::HelloReply,
        Self::HelloProof,
        Self::Ping,
        Self::Pong,
        Self::Fragment,
        Self::Intern,
        Self::Close,
        Self::Control,
        Self::Probe,
    ];

    /// Whether a kind has this wire number.
    #[inline]
    const fn is_known(kind_number: u8) -> bool {
        kind_number.wrapping_sub(1) < Self::ALL.len() as u8
    }

    /// The kind with this wire number, if there is one.
    #[must_use]
    #[inline]
    pub fn from_u8(kind_number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(kind_number).checked_sub(1)?).copied()
    }
}

/// Bits of [`FrameHeader::flags`]. Unknown bits are ignored by who does not know them.
pub mod flags {
    /// Of a [`FrameKind::Fragment`](super::FrameKind::Fragment): the last part.
    pub const LAST_FRAGMENT: u8 = 1 << 0;
    /// Of a fragment: the first part, which carries the extension of the whole.
    pub const FIRST_FRAGMENT: u8 = 1 << 1;
    /// A request that a node passed on for another one; the origin in the extension is to be answered.
    pub const FORWARDED: u8 = 1 << 2;
    /// A request that is sent again after a reconnect.
    pub const RESENT: u8 = 1 << 3;
    /// The extension carries a trace id that wants to be recorded.
    pub const TRACED: u8 = 1 << 4;
}

/// Why bytes are not a frame. All of them end the link they came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Fewer bytes than a header.
    #[error("{len} bytes are too few for a frame header of {HEADER_LEN}")]
    Short {
        /// Bytes there were.
        len: usize,
    },
    /// The kind is none of [`FrameKind`].
    #[error("no frame kind has the number {kind_number}")]
    UnknownKind {
        /// What the kind byte held.
        kind_number: u8,
    },
    /// The byte that is always zero is not.
    #[error("the zero byte of a frame header holds {found}")]
    ZeroByteSet {
        /// What it held.
        found: u8,
    },
    /// The announced length is over the limit.
    #[error("a frame of {len} bytes was announced, at most {frame_len_max} are allowed")]
    TooLong {
        /// Announced length of the whole frame in bytes.
        len: u64,
        /// The limit in bytes.
        frame_len_max: usize,
    },
    /// The bytes are not as many as the header announces.
    #[error("a frame announces {announced} bytes and has {len}")]
    LengthMismatch {
        /// Announced length of the whole frame in bytes.
        announced: u64,
        /// Bytes there are.
        len: usize,
    },
}

/// Length of a [`FrameHeader`] in bytes.
pub const HEADER_LEN: usize = 32;

/// Frames start at, and are padded to, multiples of this many bytes.
pub const FRAME_ALIGN: usize = 16;

const _: () = assert!(size_of::<FrameHeader>() == HEADER_LEN && HEADER_LEN.is_multiple_of(FRAME_ALIGN));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_sit_where_the_protocol_says() {
        let header = FrameHeader {
            payload_len: U32::new(0x0403_0201),
            ext_len: U16::new(0x0605),
            kind_number: 7,
            flags: 8,
            codec: 9,
            source_core: 10,
            target_core: 11,
            zero: 0,
            handle: U32::new(0x100f_0e0d),
            slot: U32::new(0x1413_1211),
            generation: U32::new(0x1817_1615),
            method: U32::new(0x1c1b_1a19),
            layout: U32::new(0x201f_1e1d),
        };
        let mut expected: [u8; HEADER_LEN] = std::array::from_fn(|i| i as u8 + 1);
        expected[11] = 0;
        assert_eq!(header.to_bytes(), expected);
        assert_eq!(FrameHeader::parse(&expected), Ok(&header));
    }

    #[test]
    fn kinds_are_their_wire_numbers() {
        for (index, kind) in FrameKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index + 1);
            assert_eq!(FrameKind::from_u8(kind as u8), Some(kind));
        }
        for number in [0, 18, 255] {
            assert_eq!(FrameKind::from_u8(number), None);
        }
    }

    #[test]
    fn each_defect_is_named() {
        let good = FrameHeader::new(FrameKind::Ping).to_bytes();
        assert_eq!(FrameHeader::parse(&good[..31]), Err(HeaderError::Short { len: 31 }));
        let mut bad = good;
        bad[6] = 18;
        assert_eq!(FrameHeader::parse(&bad), Err(HeaderError::UnknownKind { kind_number: 18 }));
        bad = good;
        bad[11] = 1;
        assert_eq!(FrameHeader::parse(&bad), Err(HeaderError::ZeroByteSet { found: 1 }));
        bad = good;
        bad[..4].fill(0xff);
        let announced = 32 + (1 << 32);
        let too_long = HeaderError::TooLong { len: announced, frame_len_max: 8192 };
        assert_eq!(FrameHeader::parse_bounded(&bad, 8192), Err(too_long));
        let mismatch = HeaderError::LengthMismatch { announced, len: 32 };
        assert_eq!(FrameHeader::parse_frame(&bad), Err(mismatch));
        assert_eq!(FrameHeader::parse_bounded(&good, 32).map(|h| h.kind()), Ok(FrameKind::Ping));
        assert!(FrameHeader::parse_bounded(&good, 31).is_err());
    }

    proptest! {
        #[test]
        fn parts_never_leave_the_frame(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let ext = FrameHeader::ext_bytes(&bytes);
            let payload = FrameHeader::payload_bytes(&bytes);
            if let (Some(ext), Some(payload)) = (ext, payload) {
                prop_assert!(HEADER_LEN + ext.len() + payload.len() <= bytes.len());
            }
        }

        #[test]
        fn parts_tile_a_whole_frame(ext_units in 0u16..5, payload_len in 0u32..100) {
            let mut header = FrameHeader::new(FrameKind::Reply);
            header.ext_len.set(ext_units);
            header.payload_len.set(payload_len);
            let mut frame = vec![0xee; header.total_len() as usize];
            prop_assert!(header.write_to(&mut frame));
            prop_assert_eq!(FrameHeader::parse_frame(&frame), Ok(&header));
            let ext = FrameHeader::ext_bytes(&frame).unwrap();
            let payload = FrameHeader::payload_bytes(&frame).unwrap();
            prop_assert_eq!(ext.len(), usize::from(ext_units) * 16);
            prop_assert_eq!(payload.len(), payload_len as usize);
            let padding = frame.len() - HEADER_LEN - ext.len() - payload.len();
            prop_assert!(padding < FRAME_ALIGN && frame.len().is_multiple_of(FRAME_ALIGN));
        }
    }
}
