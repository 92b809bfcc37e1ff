//! Frames of one link that wait for the socket to take them, and the batching of what it is given.

use crate::frame::Frame;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

/// A bounded queue of frames, written many at a time.
pub(super) struct Outbox {
    frames: VecDeque<Frame>,
    /// Most bytes of one write of several frames.
    write_len_max: usize,
    /// Bytes in `frames` that the socket has not taken.
    unsent_len: usize,
    /// Bytes of the first frame that the socket has taken.
    head_sent_len: usize,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing is left.
    All,
    /// The socket takes no more for now.
    Blocked,
}

impl Outbox {
    /// An empty outbox for a socket that takes up to that many bytes in one write, and all of them or none if that is less than
    /// everything.
    pub(super) fn new(write_len_max: usize) -> Self {
        Self { frames: VecDeque::new(), write_len_max, unsent_len: 0, head_sent_len: 0 }
    }

    pub(super) fn push(&mut self, frame: Frame) {
        self.unsent_len += frame.len();
        self.frames.push_back(frame);
    }

    pub(super) fn unsent_len(&self) -> usize {
        self.unsent_len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.write_len_max);
    }

    /// Writes until nothing is left or the socket is full. `scratch` is memory for joining short frames.
    ///
    /// # Errors
    /// The socket's; what it took before is gone from the outbox.
    pub(super) fn write_to(&mut self, socket: &mut impl Write, scratch: &mut Vec<u8>) -> io::Result<Written> {
        while !self.is_empty() {
            match self.write_once(socket, scratch) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.drop_sent(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Written::All)
    }

    /// Writes a frame when no other waits; what the socket does not take of it waits.
    ///
    /// # Errors
    /// As of [`write_to`](Self::write_to).
    #[inline]
    pub(super) fn write_alone(
        &mut self,
        frame: Frame,
        socket: &mut impl Write,
        scratch: &mut Vec<u8>,
    ) -> io::Result<Written> {
        debug_assert!(self.is_empty(), "those before it would be overtaken");
        match socket.write(&frame) {
            Ok(len) if len == frame.len() => Ok(Written::All),
            outcome => {
                self.push(frame);
                match outcome {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(len) => self.drop_sent(len),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Blocked),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
                self.write_to(socket, scratch)
            }
        }
    }

    fn write_once(&self, socket: &mut impl Write, scratch: &mut Vec<u8>) -> io::Result<usize> {
        if self.frames.len() == 1 {
            return socket.write(&self.frames[0][self.head_sent_len..]);
        }
        let (count, are_joined) = self.gather(scratch);
        if are_joined {
            return socket.write(scratch);
        }
        let mut parts: [_; PARTS_MAX] = std::array::from_fn(|_| IoSlice::new(&[]));
        let (mut filled, mut joined) = (0, 0..0);
        for (frame, skip) in self.unsent().take(count) {
            if is_joined(frame) {
                joined.end += frame.len() - skip;
                continue;
            }
            for part in [&scratch[joined.clone()], &frame[skip..]].into_iter().filter(|part| !part.is_empty())
            {
                parts[filled] = IoSlice::new(part);
                filled += 1;
            }
            joined.start = joined.end;
        }
        if !joined.is_empty() {
            parts[filled] = IoSlice::new(&scratch[joined]);
            filled += 1;
        }
        socket.write_vectored(&parts[..filled])
    }

    /// Copies the short ones of the frames for the next write into `scratch`, one after the other, since the kernel's work for each part
    /// of a write costs more than that; gives how many frames it is to have, short ones and long ones, and whether all of them are short.
    fn gather(&self, scratch: &mut Vec<u8>) -> (usize, bool) {
        scratch.clear();
        let (mut count, mut len, mut parts) = (0, 0, 0);
        let (mut was_joined, mut are_joined) = (false, true);
        for (frame, skip) in self.unsent() {
            let bytes = &frame[skip..];
            len += bytes.len();
            let is_joined = is_joined(frame);
            parts += usize::from(!(is_joined && was_joined));
            let is_over = len > self.write_len_max || parts > PARTS_MAX;
            if count > 0 && (is_over || is_joined && scratch.len() + bytes.len() > SCRATCH_LEN_MAX) {
                break;
            }
            if is_joined {
                scratch.extend_from_slice(bytes);
            }
            was_joined = is_joined;
            are_joined &= is_joined;
            count += 1;
        }
        (count, are_joined)
    }

    /// The frames, with how much of each the socket has taken.
    fn unsent(&self) -> impl Iterator<Item = (&Frame, usize)> {
        let skips = std::iter::once(self.head_sent_len).chain(std::iter::repeat(0));
        self.frames.iter().zip(skips)
    }

    fn drop_sent(&mut self, sent_len: usize) {
        self.unsent_len -= sent_len;
        self.head_sent_len += sent_len;
        while let Some(first) = self.frames.front()
            && self.head_sent_len >= first.len()
        {
            self.head_sent_len -= first.len();
            self.frames.pop_front();
        }
    }
}

/// Whether a frame is copied together with others.
fn is_joined(frame: &Frame) -> bool {
    frame.len() <= JOINED_FRAME_LEN_MAX
}

/// Frames up to this length are joined by copying.
const JOINED_FRAME_LEN_MAX: usize = 2048;
/// Bound on the memory for joining.
pub(super) const SCRATCH_LEN_MAX: usize = 64 << 10;
/// Bound on the parts of one vectored write.
const PARTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time, and sometimes none.
    struct Narrow {
        taken: Vec<u8>,
        take_max: usize,
        calls: usize,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(5) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let mut room = self.take_max;
            for part in parts {
                let len = part.len().min(room);
                self.taken.extend_from_slice(&part[..len]);
                room -= len;
            }
            Ok(self.take_max - room)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn any_socket_gets_every_byte_once_and_in_order() {
        for take_max in [1, 7, 100, 5_000, 1 << 20] {
            let mut outbox = Outbox::new(usize::MAX);
            let mut expected = Vec::new();
            for number in 0..if take_max < 100 { 30u32 } else { 300 } {
                let len = if number % 7 == 0 { 3_000 } else { 16 + number as usize % 900 };
                let bytes: Vec<u8> = (0..len).map(|at| (number as usize * 31 + at) as u8).collect();
                expected.extend_from_slice(&bytes);
                outbox.push(Frame::copy_from(&bytes));
            }
            let mut socket = Narrow { taken: Vec::new(), take_max, calls: 0 };
            let mut scratch = Vec::new();
            while outbox.write_to(&mut socket, &mut scratch).expect("no error") == Written::Blocked {
                assert_eq!(outbox.unsent_len(), expected.len() - socket.taken.len());
            }
            assert!(socket.taken == expected, "bytes differ at most {take_max} at a time");
            assert!(outbox.is_empty() && outbox.unsent_len() == 0 && scratch.len() <= SCRATCH_LEN_MAX);
        }
    }

    #[test]
    fn a_thousand_short_frames_are_one_write() {
        let mut outbox = Outbox::new(usize::MAX);
        (0..1000).for_each(|_| outbox.push(Frame::copy_from(&[1; 64])));
        let mut socket = Narrow { taken: Vec::new(), take_max: 1 << 20, calls: 0 };
        assert_eq!(outbox.write_to(&mut socket, &mut Vec::new()).expect("no error"), Written::All);
        assert_eq!((socket.calls, socket.taken.len()), (1, 64_000));
    }

    #[test]
    fn short_and_long_frames_are_one_write() {
        let mut outbox = Outbox::new(usize::MAX);
        let lens = [64, 64, 3_000, 3_000, 64, 3_000, 64, 2_048];
        // The second time as many parts as a write can have, and one more.
        for (lens, calls) in
            [(lens.to_vec(), 1), ([3_000, 64].repeat(PARTS_MAX / 2), 1), ([64, 3_000].repeat(33), 2)]
        {
            for (number, len) in (1..).zip(&lens) {
                outbox.push(Frame::copy_from(&vec![number; *len]));
            }
            let mut socket = Narrow { taken: Vec::new(), take_max: 1 << 20, calls: 0 };
            assert_eq!(outbox.write_to(&mut socket, &mut Vec::new()).expect("no error"), Written::All);
            let expected: Vec<u8> = (1..).zip(&lens).flat_map(|(number, len)| vec![number; *len]).collect();
            assert!(socket.calls == calls && socket.taken == expected, "{} calls", socket.calls);
        }
    }

    #[test]
    fn a_packet_has_whole_frames_and_is_not_too_long() {
        struct Packets(Vec<usize>);
        impl Write for Packets {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(bytes.len());
                Ok(bytes.len())
            }

            fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
                let len = parts.iter().map(|part| part.len()).sum();
                self.0.push(len);
                Ok(len)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut outbox = Outbox::new(10_000);
        for len in [4_000, 4_000, 4_000, 9_984, 32, 2_000, 2_000, 2_000, 2_000, 2_000] {
            outbox.push(Frame::copy_from(&vec![1; len]));
        }
        let mut packets = Packets(Vec::new());
        assert_eq!(outbox.write_to(&mut packets, &mut Vec::new()).expect("no error"), Written::All);
        assert_eq!(packets.0, [8_000, 4_000, 9_984, 8_032, 2_000]);
    }

    #[test]
    fn a_socket_that_takes_nothing_is_an_error() {
        let mut outbox = Outbox::new(usize::MAX);
        outbox.push(Frame::copy_from(&[1; 64]));
        let mut socket = Narrow { taken: Vec::new(), take_max: 0, calls: 0 };
        let error = outbox.write_to(&mut socket, &mut Vec::new()).expect_err("nothing was taken");
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
