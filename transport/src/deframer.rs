//! Cuts a byte stream into frames without copying them.
//!
//! Pure: it reads from nothing. A stream transport (or a layer of encryption above it) writes into
//! [`Deframer::space`], says how much with [`Deframer::filled`], and takes frames with [`Deframer::next_frame`].
//!
//! ```text
//! block:  | frames given out | whole frames | part of a frame | space |
//!         0                 start                          filled   capacity
//! ```
//! Frames are multiples of 16 long and a block begins where a frame begins, so the offset in the block is congruent to
//! the offset in the stream modulo 16, and every frame is aligned where it was read. The one thing ever copied is the part of
//! a frame that a block ends with, when the rest does not fit: at most one part a block.

use crate::frame::{Frame, ReceiveBlock};
use crate::header::{FRAME_ALIGN, FrameHeader, HEADER_LEN, HeaderError};
use crate::pool::BufferPool;

/// Bytes in, frames out, with at most one block held besides those that frames in use hold.
#[derive(Debug)]
pub struct Deframer {
    pool: BufferPool,
    frame_len_max: usize,
    /// Space that is shorter than this is not given out.
    space_len_min: usize,
    block: Option<ReceiveBlock>,
    /// Where in the block the next frame starts.
    start: usize,
    /// The stream is not made of frames; there is no way back from that.
    broken: Option<HeaderError>,
}

impl Deframer {
    /// A deframer at the start of a stream, which takes blocks of the longest size from `pool`.
    ///
    /// # Panics
    /// If a block cannot hold a frame of `frame_len_max` bytes, or a frame cannot hold its header.
    #[must_use]
    pub fn new(pool: BufferPool, frame_len_max: usize) -> Self {
        assert!(frame_len_max <= pool.buffer_len_max(), "frames longer than a block of the pool");
        assert!(frame_len_max >= HEADER_LEN && frame_len_max.is_multiple_of(FRAME_ALIGN));
        Self { pool, frame_len_max, space_len_min: 1, block: None, start: 0, broken: None }
    }

    /// The same for a network of packets of up to that many bytes: there is always space for a whole one between frames.
    ///
    /// # Panics
    /// If a block cannot hold such a packet.
    #[must_use]
    pub fn with_space_len_min(self, space_len_min: usize) -> Self {
        assert!(space_len_min <= self.pool.buffer_len_max(), "packets longer than a block of the pool");
        Self { space_len_min, ..self }
    }

    /// Where to write the next bytes of the stream: never empty. `None` if the pool has no block: do not read until frames
    /// were dropped. Only after [`Deframer::next_frame`] returned `Ok(None)`.
    pub fn space(&mut self) -> Option<&mut [u8]> {
        // A look that found nothing is followed by many more: a block without a byte in it is all space.
        let is_fresh = self.block.as_ref().is_some_and(|block| block.filled().is_empty());
        if !is_fresh {
            if self.partial_len() == 0 {
                // The start of the block is what the processor's cache still knows.
                self.rewind();
            }
            if !self.has_useful_space() {
                self.move_to_space()?;
            }
        }
        self.block.as_mut().map(ReceiveBlock::tail_mut)
    }

    /// Says that `len` bytes of the stream were written at the start of the space.
    ///
    /// # Panics
    /// If the space was shorter.
    pub fn filled(&mut self, len: usize) {
        if len > 0 {
            self.block.as_mut().expect("bytes are written only into space that was given").advance(len);
        }
    }

    /// The next whole frame, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// The stream cannot be frames. The length is checked as soon as a header is there, before anything is kept for it.
    /// Every later call returns the same error.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame>, HeaderError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let total_len = match self.announced_len() {
            Ok(Some(total_len)) => total_len,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.broken = Some(error);
                self.block = None;
                self.start = 0;
                return Err(error);
            }
        };
        let end = self.start + total_len;
        let frame = self.block.as_mut().and_then(|block| block.frame(self.start..end));
        if frame.is_some() {
            self.start = end;
        }
        Ok(frame)
    }

    /// Bytes of a frame that is not complete. At the end of a stream, more than zero means that it was cut off.
    #[must_use]
    pub fn partial_len(&self) -> usize {
        self.block.as_ref().map_or(0, |block| block.filled().len() - self.start)
    }

    /// What is wrong with a packet that ends here, in the middle of a frame; `None` between frames.
    #[must_use]
    pub fn cut_off(&self) -> Option<HeaderError> {
        let len = self.partial_len();
        match self.announced_len() {
            _ if len == 0 => None,
            Ok(Some(announced)) => Some(HeaderError::LengthMismatch { announced: announced as u64, len }),
            Ok(None) => Some(HeaderError::Short { len }),
            Err(error) => Some(error),
        }
    }

    /// Length of the frame at `start`, if its header is complete.
    #[inline]
    fn announced_len(&self) -> Result<Option<usize>, HeaderError> {
        let filled = self.block.as_ref().map_or(&[][..], ReceiveBlock::filled);
        let rest = &filled[self.start..];
        if rest.len() < HEADER_LEN {
            return Ok(None);
        }
        let header = FrameHeader::parse_bounded(rest, self.frame_len_max)?;
        // Not over `frame_len_max`, which is a usize.
        Ok(Some(header.total_len() as usize))
    }

    /// Whether the frame under way fits behind `start`, and a read there is worth its system call.
    fn has_useful_space(&self) -> bool {
        let Some(block) = &self.block else { return false };
        let needed = self.announced_len().ok().flatten().unwrap_or(HEADER_LEN);
        let tail_len = block.capacity() - block.filled().len();
        // A read into a short tail costs more than moving the part once; at the start there is nothing to win by moving.
        let worth_a_read = self.start == 0 || tail_len >= block.capacity() / 8;
        self.start + needed <= block.capacity() && tail_len >= self.space_len_min && worth_a_read
    }

    /// Makes space behind the part of a frame that is there: in the same block if nobody uses it, else in a new one.
    fn move_to_space(&mut self) -> Option<()> {
        if self.rewind() {
            return Some(());
        }
        let mut fresh = ReceiveBlock::from(self.pool.alloc(self.pool.buffer_len_max())?);
        if let Some(block) = &self.block {
            let part = &block.filled()[self.start..];
            fresh.tail_mut()[..part.len()].copy_from_slice(part);
            fresh.advance(part.len());
        }
        self.block = Some(fresh);
        self.start = 0;
        Some(())
    }

    /// Moves what is not given out to the start of the block, if no frame of it is in use.
    fn rewind(&mut self) -> bool {
        let start = self.start;
        let rewound = self.block.as_mut().is_some_and(|block| block.rewind(start));
        if rewound {
            self.start = 0;
        }
        rewound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::FrameKind;
    use crate::pool::SizeClass;

    fn deframer(blocks: usize) -> (Deframer, BufferPool) {
        let pool = BufferPool::new(&[SizeClass { buffer_len: 256, buffers_max: blocks }]);
        (Deframer::new(pool.clone(), 128), pool)
    }

    fn frame(payload_len: u32) -> Vec<u8> {
        let mut header = FrameHeader::new(FrameKind::Ping);
        header.payload_len.set(payload_len);
        let mut frame = vec![payload_len as u8; header.total_len() as usize];
        assert!(header.write_to(&mut frame));
        frame
    }

    /// Writes as much of `bytes` as there is space for, and returns the rest.
    fn write<'a>(deframer: &mut Deframer, bytes: &'a [u8]) -> &'a [u8] {
        let space = deframer.space().expect("a block");
        let (now, rest) = bytes.split_at(bytes.len().min(space.len()));
        space[..now.len()].copy_from_slice(now);
        deframer.filled(now.len());
        rest
    }

    #[test]
    fn frames_of_one_read_are_where_they_were_read() {
        let (mut deframer, _) = deframer(1);
        let at = deframer.space().expect("a block").as_ptr().addr();
        assert!(write(&mut deframer, &[frame(0), frame(16), frame(5)].concat()).is_empty());
        let frames: Vec<_> = std::iter::from_fn(|| deframer.next_frame().expect("frames")).collect();
        let starts: Vec<_> = frames.iter().map(|frame| frame.as_ptr().addr() - at).collect();
        assert_eq!(starts, [0, 32, 80]);
    }

    #[test]
    fn a_block_that_nobody_uses_is_used_again_from_its_start() {
        let (mut deframer, pool) = deframer(1);
        let at = deframer.space().expect("a block").as_ptr();
        for _ in 0..20 {
            assert_eq!(deframer.space().expect("the same block").as_ptr(), at);
            assert!(write(&mut deframer, &frame(96)).is_empty());
            assert!(deframer.next_frame().expect("a frame").is_some());
        }
        assert_eq!(pool.outstanding(), 1);
    }

    #[test]
    fn between_packets_there_is_space_for_a_whole_one() {
        let (deframer, pool) = deframer(2);
        let mut deframer = deframer.with_space_len_min(200);
        let mut held = Vec::new();
        for _ in 0..2 {
            assert!(deframer.space().expect("a block").len() >= 200);
            assert!(write(&mut deframer, &frame(96)).is_empty());
            held.push(deframer.next_frame().expect("frames"));
            assert_eq!((deframer.next_frame(), deframer.cut_off()), (Ok(None), None));
        }
        assert_eq!((deframer.space(), pool.outstanding()), (None, 2));
        held.clear();
        write(&mut deframer, &frame(96)[..40]);
        assert_eq!(deframer.next_frame(), Ok(None));
        assert_eq!(deframer.cut_off(), Some(HeaderError::LengthMismatch { announced: 128, len: 40 }));
    }

    #[test]
    fn without_a_block_there_is_no_space_until_frames_are_dropped() {
        let (mut deframer, pool) = deframer(2);
        let mut held = Vec::new();
        let stream = frame(96).repeat(8);
        let mut rest = &stream[..];
        while !rest.is_empty() && deframer.space().is_some() {
            rest = write(&mut deframer, rest);
            held.extend(std::iter::from_fn(|| deframer.next_frame().expect("frames")));
        }
        assert_eq!((held.len(), pool.outstanding()), (4, 2), "two frames fill a block of this size");
        held.truncate(2);
        rest = write(&mut deframer, rest);
        assert!(rest.len() < stream.len() / 2, "no space although a block came back");
    }

    #[test]
    fn a_length_beyond_the_limit_is_known_before_anything_is_kept() {
        let (mut deframer, pool) = deframer(1);
        let mut header = FrameHeader::new(FrameKind::Ping);
        header.payload_len.set(u32::MAX);
        write(&mut deframer, &header.to_bytes());
        let error = HeaderError::TooLong { len: header.total_len(), frame_len_max: 128 };
        assert_eq!(deframer.next_frame(), Err(error));
        assert_eq!((deframer.next_frame(), pool.outstanding()), (Err(error), 0));
    }
}
