//! Fuzz targets as plain functions: they take any bytes and panic if an invariant breaks. A fuzzer calls them, and so do
//! the tests of this crate, with the corpus in `fuzz/corpus` and a seeded generator.

use crate::deframer::Deframer;
use crate::frame::Frame;
use crate::header::{FRAME_ALIGN, FrameHeader, HeaderError};
use crate::pool::{BufferPool, SizeClass};

/// Cuts `input` into frames as it comes in chunks, and compares with a naive reading of the whole.
///
/// The first byte seeds the lengths of the chunks and which frames are held; the rest is the stream. Checked: the same
/// frames and the same error as the reference, alignment, held frames that never change, no more blocks than the
/// bound, every block back at the end.
pub fn fuzz_deframer(input: &[u8]) {
    let (&seed, stream) = input.split_first().unwrap_or((&0, &[]));
    let mut random = fastrand::Rng::with_seed(u64::from(seed));
    let (expected, expected_error) = reference(stream);
    let pool = BufferPool::new(&[SizeClass { buffer_len: BLOCK_LEN, buffers_max: BLOCKS_MAX }]);
    let mut run = Run { deframer: Deframer::new(pool.clone(), FRAME_LEN_MAX), held: Vec::new(), frames: 0 };
    let mut rest = stream;
    let mut error = run.take_frames(&expected, &mut random);
    while !rest.is_empty() && error.is_none() {
        let chunk_len = chunk_len(&mut random).min(rest.len());
        let Some(space) = run.deframer.space() else {
            assert_eq!(pool.outstanding(), BLOCKS_MAX, "refused space with blocks left");
            assert!(!run.held.is_empty(), "all blocks in use and no frame held");
            run.held.clear();
            continue;
        };
        let chunk_len = chunk_len.min(space.len());
        assert!(chunk_len > 0, "empty space");
        let (chunk, behind) = rest.split_at(chunk_len);
        space[..chunk_len].copy_from_slice(chunk);
        run.deframer.filled(chunk_len);
        rest = behind;
        error = run.take_frames(&expected, &mut random);
    }
    assert_eq!(error, expected_error);
    assert_eq!(run.frames, expected.len());
    if error.is_none() {
        let whole: usize = expected.iter().map(|frame| frame.len()).sum();
        assert_eq!(run.deframer.partial_len(), stream.len() - whole);
    }
    drop(run);
    assert_eq!(pool.outstanding(), 0, "a block did not return");
}

/// A deframer at work and the frames that somebody still holds, with what they must be.
struct Run<'a> {
    deframer: Deframer,
    held: Vec<(Frame, &'a [u8])>,
    frames: usize,
}

impl<'a> Run<'a> {
    fn take_frames(&mut self, expected: &[&'a [u8]], random: &mut fastrand::Rng) -> Option<HeaderError> {
        loop {
            let frame = match self.deframer.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return None,
                Err(error) => {
                    assert_eq!(self.deframer.next_frame(), Err(error), "a broken stream heals");
                    return Some(error);
                }
            };
            let wanted = *expected.get(self.frames).expect("a frame that the reference does not have");
            assert_eq!(*frame, *wanted);
            assert!(frame.as_ptr().addr().is_multiple_of(FRAME_ALIGN), "a frame that is not aligned");
            self.frames += 1;
            if random.u8(..) < 32 {
                self.held.push((frame, wanted));
            }
            if random.u8(..) < 8 && !self.held.is_empty() {
                let (frame, wanted) = self.held.swap_remove(random.usize(..self.held.len()));
                assert_eq!(*frame, *wanted, "a held frame changed");
            }
        }
    }
}

/// The frames of `stream` and what ends it, by reading the whole.
fn reference(stream: &[u8]) -> (Vec<&[u8]>, Option<HeaderError>) {
    let mut frames = Vec::new();
    let mut rest = stream;
    loop {
        let header = match FrameHeader::parse_bounded(rest, FRAME_LEN_MAX) {
            Ok(header) => header,
            Err(HeaderError::Short { .. }) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        };
        let Some((frame, behind)) = rest.split_at_checked(header.total_len() as usize) else {
            return (frames, None);
        };
        frames.push(frame);
        rest = behind;
    }
}

/// Mostly short, sometimes more than a block.
fn chunk_len(random: &mut fastrand::Rng) -> usize {
    match random.u8(..4) {
        0 => 1,
        1 => random.usize(1..64),
        2 => random.usize(1..1024),
        _ => random.usize(1..2 * BLOCK_LEN),
    }
}

const FRAME_LEN_MAX: usize = 1024;
const BLOCK_LEN: usize = 2048;
const BLOCKS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::{FrameKind, HEADER_LEN};
    use std::path::Path;

    #[test]
    fn corpus() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/deframer");
        let mut files: Vec<_> =
            std::fs::read_dir(folder).expect("the corpus").map(|file| file.expect("a file").path()).collect();
        files.sort();
        assert!(files.len() >= 8, "the corpus is not here");
        for file in files {
            fuzz_deframer(&std::fs::read(file).expect("a readable file"));
        }
    }

    #[test]
    fn generated_streams() {
        for seed in 0..4_000 {
            let input = stream(&mut fastrand::Rng::with_seed(seed));
            if let Err(panic) = std::panic::catch_unwind(|| fuzz_deframer(&input)) {
                eprintln!("stream of seed {seed} breaks an invariant");
                std::panic::resume_unwind(panic);
            }
        }
    }

    #[test]
    fn the_reference_finds_frames_and_errors() {
        let frame = frame(&mut fastrand::Rng::with_seed(1), 100);
        let mut two = [frame.clone(), frame.clone()].concat();
        assert_eq!(reference(&two), (vec![&frame[..], &frame[..]], None));
        two[frame.len() + 6] = 99;
        assert_eq!(reference(&two), (vec![&frame[..]], Some(HeaderError::UnknownKind { kind_number: 99 })));
    }

    /// Valid frames, then sometimes a flipped byte, a cut end, or plain noise.
    fn stream(random: &mut fastrand::Rng) -> Vec<u8> {
        let mut input = vec![random.u8(..)];
        for _ in 0..random.usize(..60) {
            let payload_len_max = if random.bool() { 64 } else { FRAME_LEN_MAX - HEADER_LEN };
            input.extend(frame(random, payload_len_max));
        }
        match random.u8(..8) {
            0 => input.extend((0..100).map(|_| random.u8(..))),
            1 => input.truncate(random.usize(1..=input.len())),
            2 | 3 => {
                let at = random.usize(..input.len());
                input[at] ^= 1 << random.u8(..8);
            }
            _ => {}
        }
        input
    }

    fn frame(random: &mut fastrand::Rng, payload_len_max: usize) -> Vec<u8> {
        let mut header = FrameHeader::new(FrameKind::ALL[random.usize(..FrameKind::ALL.len())]);
        header.payload_len.set(random.usize(..=payload_len_max) as u32);
        header.slot.set(random.u32(..));
        let mut frame = vec![0; header.total_len() as usize];
        random.fill(&mut frame[HEADER_LEN..]);
        assert!(header.write_to(&mut frame));
        frame
    }
}
