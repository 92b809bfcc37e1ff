//! Frames longer than a link carries: cut into fragment frames, and put together again.
//!
//! A fragment's header says where its bytes belong: `slot` is the offset, `generation` the length of the whole frame,
//! `method` the lane; the payload is that part of the whole frame, header and extension included. The fragments of a
//! frame follow each other in their lane, so that one frame at most is in pieces per lane.

use epicserver_transport::{FRAME_ALIGN, Frame, FrameBuf, FrameHeader, FrameKind, HEADER_LEN, flags};

use crate::session::lane::Lane;
use crate::wire::assembly::assemble_bare_in;

/// The fragment with the bytes from `offset` of `frame` that fit into this buffer.
pub(crate) fn fragment(lane: Lane, frame: &Frame, offset: usize, room: FrameBuf) -> Frame {
    let len = (frame.len() - offset).min(room.len() - HEADER_LEN);
    let mut header = FrameHeader::new(FrameKind::Fragment);
    header.slot = (offset as u32).into();
    header.generation = (frame.len() as u32).into();
    header.method = lane.number().into();
    if offset == 0 {
        header.flags |= flags::FIRST_FRAGMENT;
    }
    if offset + len == frame.len() {
        header.flags |= flags::LAST_FRAGMENT;
    }
    assemble_bare_in(room, header, &frame[offset..offset + len])
}

/// The frame of one lane that arrives in pieces.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    buffer: FrameBuf,
    filled: usize,
    total: usize,
}

impl Reassembly {
    /// Takes the next piece; gives the frame when it was the last.
    ///
    /// # Errors
    /// What breaks the order or the limit; then the link is to end.
    pub(crate) fn take(
        &mut self,
        header: &FrameHeader,
        piece: &[u8],
        frame_len_max: usize,
    ) -> Result<Option<Frame>, FragmentError> {
        let (offset, total) = (header.slot.get() as usize, header.generation.get() as usize);
        let is_first = header.flags & flags::FIRST_FRAGMENT != 0;
        let is_last = header.flags & flags::LAST_FRAGMENT != 0;
        if total > frame_len_max {
            return Err(FragmentError::TooLong { len: total, frame_len_max });
        }
        if is_first != self.partial.is_none() || is_first != (offset == 0) {
            return Err(FragmentError::Order);
        }
        let partial = self.partial.get_or_insert_with(|| Partial::new(total));
        if partial.filled != offset || partial.total != total || piece.is_empty() {
            return Err(FragmentError::Order);
        }
        partial.append(piece)?;
        if is_last != (partial.filled == total) {
            return Err(FragmentError::Order);
        }
        Ok(if is_last { self.partial.take().map(|partial| partial.buffer.freeze()) } else { None })
    }

    /// Forgets the pieces: their link is gone, and the peer starts the frame over.
    pub(crate) fn clear(&mut self) {
        self.partial = None;
    }

    /// Whether a frame has begun and not ended.
    pub(crate) fn is_partial(&self) -> bool {
        self.partial.is_some()
    }
}

impl Partial {
    fn new(total: usize) -> Self {
        Self { buffer: FrameBuf::unpooled(total.min(ALLOCATE_AT_ONCE_MAX)), filled: 0, total }
    }

    fn append(&mut self, piece: &[u8]) -> Result<(), FragmentError> {
        let end = self.filled + piece.len();
        if end > self.total {
            return Err(FragmentError::Order);
        }
        if end > self.buffer.len() {
            // Memory follows the bytes that came, not the length that was announced.
            let mut longer = FrameBuf::unpooled(end.next_power_of_two().min(self.total));
            longer[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
            self.buffer = longer;
        }
        self.buffer[self.filled..end].copy_from_slice(piece);
        self.filled = end;
        Ok(())
    }
}

/// How fragments broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// A piece that is not the next one of the frame that was begun.
    #[error("a fragment is out of order")]
    Order,
    /// The whole is over the limit.
    #[error("a frame of {len} bytes comes in fragments, at most {frame_len_max} are allowed")]
    TooLong {
        /// Announced length in bytes.
        len: usize,
        /// The limit in bytes.
        frame_len_max: usize,
    },
}

/// Up to this length a buffer is made for the announced length at once.
const ALLOCATE_AT_ONCE_MAX: usize = 64 << 10;
const _: () = assert!(ALLOCATE_AT_ONCE_MAX.is_multiple_of(FRAME_ALIGN));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::assembly::{assemble_bare, frame_len};

    #[test]
    fn a_long_frame_comes_back_whole() {
        let payload: Vec<u8> = (0..500_000u32).map(|at| (at / 7) as u8).collect();
        let frame = assemble_bare(None, FrameHeader::new(FrameKind::Request), &payload);
        let mut reassembly = Reassembly::default();
        let mut whole = None;
        for offset in (0..frame.len()).step_by(8_160) {
            let len = (frame.len() - offset).min(8_160);
            let piece = fragment(Lane::Calls, &frame, offset, FrameBuf::unpooled(frame_len(0, len)));
            let header = FrameHeader::parse_frame(&piece).unwrap();
            let bytes = FrameHeader::payload_bytes(&piece).unwrap();
            assert!(whole.is_none() && reassembly.is_partial() == (offset > 0));
            whole = reassembly.take(header, bytes, frame.len()).unwrap();
        }
        assert_eq!(whole, Some(frame));
        assert!(!reassembly.is_partial());
    }

    #[test]
    fn memory_follows_what_came_and_not_what_was_announced() {
        let mut header = FrameHeader::new(FrameKind::Fragment);
        header.generation = (16 << 20).into();
        header.flags = flags::FIRST_FRAGMENT;
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.take(&header, &[1; 1_000], 16 << 20), Ok(None));
        let held = |reassembly: &Reassembly| reassembly.partial.as_ref().unwrap().buffer.len();
        assert_eq!(held(&reassembly), ALLOCATE_AT_ONCE_MAX);
        header.flags = 0;
        header.slot = 1_000.into();
        assert_eq!(reassembly.take(&header, &[1; 70_000], 16 << 20), Ok(None));
        assert!(held(&reassembly) <= 2 * 71_000);
        reassembly.clear();
        assert!(!reassembly.is_partial());
    }
}
