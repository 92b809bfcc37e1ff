//! Long buffers outside any pool: they hold a message that is too long for a frame of a link, and are kept for the next such message.
//!
//! Without that each of them costs a page fault for every page, zeros that are written over at once, and the way back to the kernel: a quarter
//! of what a message of 1 MiB takes over TCP. What is kept is bounded, and for the whole process, since who drops a buffer is seldom
//! the thread that makes the next.

use crate::frame::{FreeBlock, FreeChain};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Buffers that nobody uses, by the powers of two that their memory takes.
struct Depot {
    classes: [FreeChain; CLASSES],
    /// Bytes of memory in all of them.
    kept_len: usize,
}

static DEPOT: Mutex<Depot> =
    Mutex::new(Depot { classes: [const { FreeChain::new() }; CLASSES], kept_len: 0 });

/// Bytes of memory to take for a long block of that length, its head included: so many that it serves for others too, up to a length that
/// is kept.
pub(crate) fn span(len: usize) -> usize {
    if len <= SPAN_MAX { len.next_power_of_two() } else { len }
}

/// A block that was kept, of that span exactly.
pub(crate) fn take(span: usize) -> Option<FreeBlock> {
    let mut depot = lock();
    let block = depot.classes.get_mut(class(span)?)?.pop()?;
    depot.kept_len -= span;
    Some(block)
}

/// Keeps a block of that span, or gives it back if there is no room for it.
pub(crate) fn keep(block: FreeBlock, span: usize) -> Result<(), FreeBlock> {
    let mut depot = lock();
    let room = KEPT_LEN_MAX - depot.kept_len;
    match class(span).filter(|_| span <= room).and_then(|class| depot.classes.get_mut(class)) {
        Some(chain) => chain.push(block),
        None => return Err(block),
    }
    depot.kept_len += span;
    Ok(())
}

fn class(span: usize) -> Option<usize> {
    let class = span.ilog2().checked_sub(LEN_MIN.ilog2())?;
    span.is_power_of_two().then_some(class as usize)
}

/// Not contended on any path of short messages; of a long one the bytes take a hundred times as long.
fn lock() -> MutexGuard<'static, Depot> {
    // It is whole wherever a panic could be.
    DEPOT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocks from this length on, head included, are long.
pub(crate) const LEN_MIN: usize = 64 << 10;
/// The longest message is 16 MiB, and has a head and a header before it.
const SPAN_MAX: usize = 32 << 20;
const CLASSES: usize = (SPAN_MAX / LEN_MIN).ilog2() as usize + 1;
/// Bytes that are kept at most: of two of the longest.
const KEPT_LEN_MAX: usize = 2 * SPAN_MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameBuf;

    /// Tests share the depot; nobody else has blocks as long as these.
    #[test]
    fn a_long_buffer_is_kept_for_the_next_one_and_shorter_ones_of_its_class() {
        let mut first = FrameBuf::unpooled(9 << 20);
        let address = first.as_ptr();
        first[..4].copy_from_slice(b"left");
        let frame = first.freeze();
        let other = FrameBuf::unpooled(9 << 20);
        assert_ne!(other.as_ptr(), address);
        drop(frame.clone());
        drop(frame);
        let second = FrameBuf::unpooled((8 << 20) + 1);
        assert_eq!((second.as_ptr(), &second[..4], second.len()), (address, &b"left"[..], (8 << 20) + 1));
        assert!(second.capacity() >= 9 << 20);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let buffers: Vec<_> = (0..10).map(|_| FrameBuf::unpooled(20 << 20)).collect();
        drop(buffers);
        assert!(lock().kept_len <= KEPT_LEN_MAX);
        // Longer than any that is kept.
        drop(FrameBuf::unpooled(SPAN_MAX));
        assert!(
            lock().kept_len <= KEPT_LEN_MAX
                && class(SPAN_MAX + 64).is_none()
                && class(2 * SPAN_MAX).is_some_and(|class| class == CLASSES)
        );
    }

    #[test]
    fn an_announced_length_takes_no_memory() {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").expect("it is there on Linux");
            statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number")
                * 4096
        };
        let before = resident();
        let buffers: Vec<_> = (0..64).map(|_| FrameBuf::unpooled(17 << 20)).collect();
        assert!(resident() - before < 64 << 20, "of {} MiB", 64 * 17);
        drop(buffers);
    }
}
