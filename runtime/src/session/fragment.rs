//! Frames longer than a link carries: cut into fragment frames, and put together again.
//!
//! A fragment's header says where its bytes belong: `slot` is the offset, `generation` the length of the whole frame,
//! `method` the lane; the payload is that part of the whole frame, header and extension included. The fragments of a
//! frame follow each other in their lane, so that one frame at most is in pieces per lane.

use epicserver_transport::{Frame, FrameBuf, FrameHeader, FrameKind, HEADER_LEN, flags};

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
        // All of it at once: a buffer that is longer than a frame of any link takes memory as it is written to, so that it follows the bytes
        // that came and not the length that was announced.
        let partial = self.partial.get_or_insert_with(|| Partial {
            buffer: FrameBuf::unpooled(total),
            filled: 0,
            total,
        });
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
    fn append(&mut self, piece: &[u8]) -> Result<(), FragmentError> {
        let end = self.filled + piece.len();
        if end > self.total {
            return Err(FragmentError::Order);
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
        let before = resident_len();
        let mut announced: Vec<_> = (0..64).map(|_| Reassembly::default()).collect();
        for reassembly in &mut announced {
            assert_eq!(reassembly.take(&header, &[1; 70_000], 16 << 20), Ok(None));
        }
        let grown = resident_len() - before;
        assert!((64 * 70_000..64 * 2 * 71_000).contains(&grown), "{grown} bytes");
        for reassembly in &mut announced {
            reassembly.clear();
            assert!(!reassembly.is_partial());
        }
    }

    /// Bytes of this process that lie in memory.
    fn resident_len() -> usize {
        let status = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
        let pages = status.split_whitespace().nth(1).expect("the second field");
        pages.parse::<usize>().expect("a number") * 4096
    }
}
