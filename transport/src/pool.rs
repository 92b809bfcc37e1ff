//! Bounded pools of frame buffers. Memory itself and its rules are in [`frame`](crate::frame).

use crate::frame::{
    CAPACITY_MAX, FrameBuf, FreeBlock, FreeChain, FreeStack, Keeper, Slab, block_span, take_kept,
};
use crate::wake::Wake;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A bounded set of reusable buffers in a few sizes. Clones are handles to the same buffers.
///
/// Allocating takes a lock that is contended only if several threads allocate from one pool; giving a buffer back, from
/// any thread, takes none.
///
/// ```
/// use epicserver_transport::{BufferPool, SizeClass};
/// let pool = BufferPool::new(&[SizeClass { buffer_len: 4096, buffers_max: 2 }]);
/// let first = pool.alloc(100).expect("two are free").freeze();
/// let second = first.clone();
/// drop(first);
/// assert_eq!(pool.outstanding(), 1);
/// drop(second);
/// assert_eq!(pool.outstanding(), 0);
/// ```
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<PoolShared>,
}

/// One size of buffer in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeClass {
    /// Length of each buffer in bytes.
    pub buffer_len: usize,
    /// Bound on how many there are.
    pub buffers_max: usize,
}

impl BufferPool {
    /// A pool whose buffers are allocated at first use and kept from then on.
    ///
    /// # Panics
    /// If there is no class, a class is not longer than the one before it, or one is 4 GiB or more.
    #[must_use]
    pub fn new(classes: &[SizeClass]) -> Self {
        check(classes);
        let chains = classes.iter().map(|_| (FreeChain::new(), 0));
        Self::from_parts(classes, chains, None)
    }

    /// A pool whose buffers all exist from the start in one region, which a device can register.
    ///
    /// # Panics
    /// As [`BufferPool::new`].
    #[must_use]
    pub fn contiguous(classes: &[SizeClass]) -> Self {
        check(classes);
        let cuts: Vec<_> = classes.iter().map(|class| (class.buffer_len, class.buffers_max)).collect();
        let (slab, chains) = Slab::cut(&cuts);
        let chains = chains.into_iter().zip(classes).map(|(chain, class)| (chain, class.buffers_max));
        Self::from_parts(classes, chains, Some(slab))
    }

    /// As [`BufferPool::contiguous`], for buffers that a device may show others to their end: whatever it was used for before, in a
    /// buffer that [`alloc`](Self::alloc) gives nothing is left behind the length that was asked for.
    ///
    /// # Panics
    /// As [`BufferPool::new`].
    #[must_use]
    pub fn shown(classes: &[SizeClass]) -> Self {
        let mut pool = Self::contiguous(classes);
        Arc::get_mut(&mut pool.shared).expect("just made").clears_rest = true;
        pool
    }

    /// A buffer of `len` bytes and unspecified content from the smallest class that has one; `None` if there is none free
    /// that is long enough: wait, this is back-pressure.
    #[must_use]
    #[inline]
    pub fn alloc(&self, len: usize) -> Option<FrameBuf> {
        take_kept(&self.shared, len).or_else(|| self.alloc_shared(len))
    }

    fn alloc_shared(&self, len: usize) -> Option<FrameBuf> {
        let mut fitting = self.shared.classes.iter().filter(|class| class.options.buffer_len >= len);
        let block = fitting.find_map(Class::take)?;
        let mut buffer = FrameBuf::from_free(block, Arc::clone(&self.shared), len);
        if self.shared.clears_rest {
            buffer.set_len(buffer.capacity());
            buffer[len..].fill(0);
            buffer.set_len(len);
        }
        Some(buffer)
    }

    /// Lets this thread keep buffers that are dropped on it, and use them again, without telling other threads, until what this
    /// returns is dropped: for a thread that both allocates and drops the most. They count as in use, and their return wakes nobody.
    /// A thread keeps buffers of one pool at a time: for a second one nothing changes.
    pub fn keep_here(&self) -> Keeper {
        let room = |class: &Class| {
            let SizeClass { buffer_len, buffers_max } = class.options;
            let kept_max = KEPT_MAX.min(KEPT_LEN_MAX / buffer_len.max(1)).min(buffers_max / KEPT_PART);
            // What is shown is cleared where it is allocated of all threads' buffers.
            (buffer_len, if self.shared.clears_rest { 0 } else { kept_max })
        };
        Keeper::new(Arc::clone(&self.shared), self.shared.classes.iter().map(room))
    }

    /// Buffers in use now. Exact when no other thread allocates or drops at the same time.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.shared.classes.iter().map(Class::outstanding).sum()
    }

    /// Longest buffer in bytes.
    #[must_use]
    pub fn buffer_len_max(&self) -> usize {
        self.shared.classes.last().map_or(0, |class| class.options.buffer_len)
    }

    /// The sizes and bounds that the pool was made with.
    pub fn classes(&self) -> impl Iterator<Item = SizeClass> + '_ {
        self.shared.classes.iter().map(|class| class.options)
    }

    /// Address and length in bytes of the one region that holds every buffer, for a [`contiguous`](Self::contiguous)
    /// pool. It stays in place while any handle or buffer of the pool exists.
    #[must_use]
    pub fn region(&self) -> Option<(*const u8, usize)> {
        self.shared.slab.as_ref().map(Slab::region)
    }

    /// Whether all of `bytes` lies in the region of a [`contiguous`](Self::contiguous) pool.
    #[must_use]
    pub fn holds(&self, bytes: &[u8]) -> bool {
        self.region().is_some_and(|(start, len)| {
            let offset = bytes.as_ptr().addr().checked_sub(start.addr());
            offset.is_some_and(|offset| offset + bytes.len() <= len)
        })
    }

    /// Address and length in bytes of each buffer of a [`contiguous`](Self::contiguous) pool.
    pub fn spans(&self) -> impl Iterator<Item = (*const u8, usize)> + '_ {
        let (start, _) = self.region().unwrap_or((std::ptr::null(), 0));
        let is_there = self.shared.slab.is_some();
        let lens = self.classes().filter(move |_| is_there);
        let lens = lens.flat_map(|class| std::iter::repeat_n(class.buffer_len, class.buffers_max));
        lens.scan(0, move |offset, len| {
            let (at, size) = block_span(len);
            let data = start.wrapping_add(*offset + at);
            *offset += size;
            Some((data, len))
        })
    }

    /// Who is woken when a buffer comes back after [`BufferPool::arm_return`]. The first call wins.
    pub fn wake_on_return(&self, wake: Arc<dyn Wake>) {
        // The first one stays: there is one transport behind a pool.
        let _ = self.shared.wake.set(wake);
    }

    /// Asks for one wake at the next return of a buffer. Try to allocate again after this and before sleeping: a buffer may
    /// have come back in between.
    pub fn arm_return(&self) {
        self.shared.return_armed.store(true, Ordering::SeqCst);
    }

    fn from_parts(
        options: &[SizeClass],
        made: impl Iterator<Item = (FreeChain, usize)>,
        slab: Option<Slab>,
    ) -> Self {
        let classes = options.iter().zip(made).enumerate();
        let classes = classes.map(|(index, (&options, (free, created)))| Class {
            options,
            index: index as u32,
            local: Mutex::new(ClassLocal { free, created }),
            returned: FreeStack::new(),
        });
        let classes = classes.collect();
        let shared = PoolShared {
            classes,
            return_armed: AtomicBool::new(false),
            wake: OnceLock::new(),
            clears_rest: false,
            slab,
        };
        Self { shared: Arc::new(shared) }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool").field("outstanding", &self.outstanding()).finish_non_exhaustive()
    }
}

/// What the handles and the buffers in use of a pool share. Buffers in use keep it alive, so when it is dropped every
/// block is in a chain or stack, and the slab, its last field, outlives them.
pub(crate) struct PoolShared {
    classes: Box<[Class]>,
    return_armed: AtomicBool,
    wake: OnceLock<Arc<dyn Wake>>,
    /// Buffers are given out with nothing behind their length.
    clears_rest: bool,
    slab: Option<Slab>,
}

impl PoolShared {
    /// Takes back a block from whatever thread dropped its last reference.
    pub(crate) fn give_back(&self, block: FreeBlock) {
        let class = &self.classes[block.class() as usize];
        // In one order with `arm_return`, as is the look behind it: one of the two sees the other.
        class.returned.push(block);
        // The plain load first: nobody is starved as a rule, and the line stays shared.
        if self.return_armed.load(Ordering::SeqCst)
            && self.return_armed.swap(false, Ordering::SeqCst)
            && let Some(wake) = self.wake.get()
        {
            wake.wake();
        }
    }
}

/// The buffers of one size.
struct Class {
    options: SizeClass,
    index: u32,
    local: Mutex<ClassLocal>,
    returned: FreeStack,
}

/// The part of a class behind its lock.
struct ClassLocal {
    free: FreeChain,
    created: usize,
}

impl Class {
    fn take(&self) -> Option<FreeBlock> {
        let mut local = self.lock();
        let block = local.free.pop().or_else(|| {
            local.free = self.returned.take_all();
            local.free.pop()
        });
        let block = match block {
            Some(block) => block,
            None if local.created < self.options.buffers_max => {
                local.created += 1;
                FreeBlock::allocate(self.options.buffer_len, self.index)
            }
            None => return None,
        };
        Some(block)
    }

    fn outstanding(&self) -> usize {
        let mut local = self.lock();
        let mut returned = self.returned.take_all();
        while let Some(block) = returned.pop() {
            local.free.push(block);
        }
        local.created - local.free.len()
    }

    fn lock(&self) -> MutexGuard<'_, ClassLocal> {
        // The state is whole between any two statements, so a panic elsewhere leaves nothing half done.
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Buffers of each size that a thread keeps at most: as many as a burst of calls takes, in number, in bytes, and as one part in so
/// many of all there are.
const KEPT_MAX: usize = 512;
const KEPT_LEN_MAX: usize = 256 << 10;
const KEPT_PART: usize = 4;

fn check(classes: &[SizeClass]) {
    assert!(!classes.is_empty(), "a pool without size classes");
    assert!(
        classes.iter().all(|class| class.buffer_len <= CAPACITY_MAX),
        "buffers must be shorter than 4 GiB"
    );
    assert!(
        classes.is_sorted_by(|a, b| a.buffer_len < b.buffer_len),
        "size classes must be in increasing order"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, ReceiveBlock};
    use crate::wake::Signal;
    use std::time::Duration;

    fn pool(buffers_max: usize) -> BufferPool {
        BufferPool::new(&[SizeClass { buffer_len: 256, buffers_max }])
    }

    #[test]
    fn the_bound_holds_and_every_buffer_returns() {
        for pool in [pool(3), BufferPool::contiguous(&[SizeClass { buffer_len: 256, buffers_max: 3 }])] {
            for _ in 0..5 {
                let all: Vec<_> = (0..3).map(|_| pool.alloc(256).expect("free")).collect();
                assert!(pool.alloc(1).is_none());
                assert_eq!(pool.outstanding(), 3);
                let frames: Vec<_> = all.into_iter().map(FrameBuf::freeze).collect();
                let copies = frames.clone();
                drop(frames);
                assert_eq!(pool.outstanding(), 3);
                drop(copies);
                assert_eq!(pool.outstanding(), 0);
            }
            assert!(pool.alloc(257).is_none());
        }
    }

    #[test]
    fn the_smallest_class_with_room_serves() {
        let classes =
            [(64, 1), (1024, 1)].map(|(buffer_len, buffers_max)| SizeClass { buffer_len, buffers_max });
        let pool = BufferPool::new(&classes);
        let small = pool.alloc(10).expect("free");
        let spilled = pool.alloc(10).expect("free");
        assert_eq!((small.capacity(), spilled.capacity()), (64, 1024));
        assert!(pool.alloc(10).is_none());
        assert_eq!(pool.buffer_len_max(), 1024);
    }

    #[test]
    fn buffers_outlive_the_handles() {
        for pool in [pool(2), BufferPool::contiguous(&[SizeClass { buffer_len: 256, buffers_max: 2 }])] {
            let mut buffer = pool.alloc(16).expect("free");
            buffer.fill(7);
            let frame = buffer.freeze();
            drop(pool);
            assert_eq!(*frame, [7; 16]);
        }
    }

    #[test]
    fn a_contiguous_pool_lies_in_its_region() {
        let pool = BufferPool::contiguous(&[SizeClass { buffer_len: 8192, buffers_max: 4 }]);
        let (start, len) = pool.region().expect("contiguous");
        let region = start as usize..start as usize + len;
        for buffer in (0..4).map(|_| pool.alloc(8192).expect("free")).collect::<Vec<_>>() {
            let at = buffer.as_ptr() as usize;
            assert!(region.contains(&at) && region.contains(&(at + 8191)));
            assert!(at.is_multiple_of(64));
        }
    }

    #[test]
    fn the_spans_of_a_pool_are_where_its_buffers_lie() {
        let classes =
            [(100, 2), (8192, 3)].map(|(buffer_len, buffers_max)| SizeClass { buffer_len, buffers_max });
        let pool = BufferPool::contiguous(&classes);
        let spans: Vec<_> = pool.spans().map(|(start, len)| (start.addr(), len)).collect();
        let buffers: Vec<_> = [100, 100, 8192, 8192, 8192].map(|len| pool.alloc(len).expect("free")).into();
        let mut found: Vec<_> =
            buffers.iter().map(|buffer| (buffer.as_ptr().addr(), buffer.capacity())).collect();
        found.sort_unstable();
        assert_eq!(spans, found);
        assert_eq!(BufferPool::new(&classes).spans().count(), 0);
    }

    #[test]
    fn a_buffer_that_is_shown_has_nothing_of_its_last_use_behind_its_length() {
        let pool = BufferPool::shown(&[SizeClass { buffer_len: 256, buffers_max: 1 }]);
        pool.alloc(256).expect("free").fill(7);
        let mut buffer = pool.alloc(100).expect("free");
        assert_eq!(buffer.len(), 100);
        buffer.set_len(256);
        assert!(buffer[100..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_large_contiguous_pool_is_made_of_large_pages_where_there_are() {
        let pool = BufferPool::contiguous(&[SizeClass { buffer_len: 8192, buffers_max: 600 }]);
        let (start, len) = pool.region().expect("contiguous");
        assert!(len > 4 << 20 && start.addr().is_multiple_of(2 << 20));
        // What the kernel was asked for; whether it has such pages free is its own affair.
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return;
        }
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux");
        let (mut is_here, mut is_asked) = (false, false);
        for line in maps.lines() {
            let range = line.split_whitespace().next().and_then(|word| word.split_once('-'));
            let hex = |digits| usize::from_str_radix(digits, 16);
            if let Some((Ok(from), Ok(to))) = range.map(|(from, to)| (hex(from), hex(to))) {
                is_here = (from..to).contains(&start.addr());
            }
            is_asked |= is_here && line.starts_with("VmFlags:") && line.contains(" hg");
        }
        assert!(is_asked, "no large pages at {start:?}");
    }

    #[test]
    fn a_return_wakes_once_when_armed() {
        let pool = pool(1);
        let signal = Arc::new(Signal::default());
        pool.wake_on_return(signal.clone());
        drop(pool.alloc(1));
        assert!(!signal.wait(Duration::ZERO));
        let held = pool.alloc(1);
        pool.arm_return();
        drop(held);
        assert!(signal.wait(Duration::ZERO));
        drop(pool.alloc(1));
        assert!(!signal.wait(Duration::ZERO));
    }

    #[test]
    fn slices_share_the_buffer_and_keep_alignment() {
        let pool = pool(1);
        let mut buffer = pool.alloc(100).expect("free");
        buffer.as_mut_slice().iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
        let frame = buffer.freeze();
        let slice = frame.slice(32..50);
        assert_eq!(*slice, *(32..50).collect::<Vec<u8>>());
        assert_eq!(slice.buffer_id(), frame.buffer_id());
        assert_eq!(*slice.slice(16..18), [48, 49]);
        let inverted = std::ops::Range { start: 32, end: 16 };
        for range in [1..2, 0..101, inverted, 16..usize::MAX] {
            assert_eq!(frame.try_slice(range), None);
        }
        drop(frame);
        assert_eq!(pool.outstanding(), 1);
        drop(slice);
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn copies_live_outside_pools() {
        let frame = Frame::copy_from(b"twelve bytes");
        assert_eq!(&*frame, b"twelve bytes");
        assert!(frame.as_ptr().addr().is_multiple_of(16));
        assert!(Frame::copy_from(&[]).is_empty());
    }

    #[test]
    fn a_receive_block_is_written_behind_lent_frames() {
        let pool = pool(1);
        let mut block = ReceiveBlock::from(pool.alloc(0).expect("free"));
        block.tail_mut()[..40].fill(1);
        block.advance(40);
        let first = block.frame(0..32).expect("filled");
        assert_eq!(block.frame(0..41), None);
        block.tail_mut().fill(2);
        block.advance(216);
        assert_eq!(*first, [1; 32]);
        assert!(!block.rewind(32), "a frame is lent");
        drop(first);
        assert!(block.rewind(32));
        assert_eq!(block.filled()[..9], [1, 1, 1, 1, 1, 1, 1, 1, 2]);
        assert_eq!(block.tail_mut().len(), 32);
        drop(block);
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn a_thread_that_keeps_buffers_gives_them_back() {
        let (pool, other) = (pool(8), pool(8));
        let keeper = pool.keep_here();
        let first = pool.alloc(10).expect("free");
        let at = first.as_ptr();
        drop(first.freeze());
        assert_eq!(pool.outstanding(), 1, "not kept");
        let again = pool.alloc(20).expect("kept");
        assert_eq!((again.as_ptr(), again.len(), pool.outstanding()), (at, 20, 1));
        // Those of another pool are not kept, nor are more than a part of all.
        drop(other.keep_here());
        drop(other.alloc(10));
        assert_eq!(other.outstanding(), 0);
        let all: Vec<_> = (0..7).map(|_| pool.alloc(256).expect("free")).collect();
        drop((again, all));
        assert_eq!(pool.outstanding(), 2);
        // Dropped where nobody keeps any.
        let frame = pool.alloc(1).expect("kept").freeze();
        let copy = frame.clone();
        std::thread::scope(|scope| drop(scope.spawn(move || drop(frame))));
        drop(copy);
        assert_eq!(pool.outstanding(), 2);
        drop(keeper);
        assert_eq!(pool.outstanding(), 0);
        drop(pool.alloc(1));
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn what_is_shared_is_counted() {
        let pool = pool(1);
        let mut first = pool.alloc(16).expect("free").freeze();
        let (second, third) = (first.share(), first.share());
        drop((first, third));
        assert_eq!((pool.outstanding(), second.len()), (1, 16));
        drop(second);
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn buffers_return_from_other_threads() {
        let pool = pool(8);
        let (to_dropper, frames) = std::sync::mpsc::sync_channel::<Frame>(8);
        std::thread::scope(|scope| {
            scope.spawn(move || frames.into_iter().for_each(drop));
            for sent in 0..10_000u32 {
                let mut buffer = loop {
                    match pool.alloc(4) {
                        Some(buffer) => break buffer,
                        None => std::thread::yield_now(),
                    }
                };
                buffer.copy_from_slice(&sent.to_le_bytes());
                let frame = buffer.freeze();
                to_dropper.send(frame.clone()).expect("the dropper lives");
                assert_eq!(*frame, sent.to_le_bytes());
            }
            drop(to_dropper);
        });
        assert_eq!(pool.outstanding(), 0);
    }
}
