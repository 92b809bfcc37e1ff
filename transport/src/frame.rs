//! Frames and the blocks they live in. With [`memory`](crate::memory) the only module of this crate with `unsafe` code.
//!
//! ```text
//! BufferPool::alloc -> FrameBuf (one owner, writable) --freeze--> Frame (counted, read only) --last drop--> pool
//! BufferPool::alloc_receive -> ReceiveBlock (one writer at the tail) --frame(range)--> Frames over what is filled
//! ```
//! A *block* is one allocation: a [`BlockHead`] with the reference count, then the data at offset 64. Who may touch what:
//!
//! | field of the head | while free (one `FreeBlock`) | while in use |
//! |---|---|---|
//! | `references` | not used | atomic, any holder |
//! | `next` | owner of the chain it is in | nobody; the thread that keeps it |
//! | `pool` | the owner, `None` | set before it is shared, taken by who drops the last reference, unless its thread keeps the block |
//! | `capacity`, `class`, `origin` | constant | constant |
//! | data | nobody | `FrameBuf`: its owner. `Frame`: read only. `ReceiveBlock`: writer beyond `filled`, all read below it |
//!
//! What must never be here: what the bytes mean, and when memory is given out (that is [`pool`](crate::pool)).
#![allow(unsafe_code)]

use crate::header::FRAME_ALIGN;
use crate::long;
use crate::memory::{self, Region};
use crate::pool::PoolShared;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering, fence};

/// Immutable bytes that start at a multiple of 16 in memory: a cheap clone, and the last drop returns the buffer to its
/// pool from whatever thread it happens on.
///
/// A transport gives out frames that hold exactly one wire frame; nothing here depends on that.
pub struct Frame {
    block: BlockRef,
    range: Part,
}

/// Which part of a block a frame is: where it starts, and its length in the upper half. One number, so that a frame is two words,
/// which travel in registers: what is written in smaller parts and copied as a whole makes the processor wait.
#[derive(Clone, Copy)]
struct Part(u64);

impl Part {
    #[inline]
    fn new(start: u32, len: u32) -> Self {
        Self(u64::from(start) | u64::from(len) << 32)
    }

    #[inline]
    fn start(self) -> usize {
        self.0 as u32 as usize
    }

    #[inline]
    fn len(self) -> usize {
        (self.0 >> 32) as usize
    }
}

impl Frame {
    /// A frame of its own memory, outside any pool, with a copy of `bytes`.
    ///
    /// # Panics
    /// If `bytes` are 4 GiB or more.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut buffer = FrameBuf::unpooled(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer.freeze()
    }

    /// The same memory, narrowed to `range`.
    ///
    /// # Panics
    /// If `range` is not inside the frame or does not start at a multiple of 16: use [`Frame::try_slice`] where the
    /// range comes from a peer.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let len = self.len();
        self.try_slice(range.clone())
            .unwrap_or_else(|| panic!("no aligned slice {range:?} in a frame of {len}"))
    }

    /// The same memory, narrowed to `range`; `None` if that is not inside the frame or does not start at a multiple of 16.
    #[must_use]
    pub fn try_slice(&self, range: Range<usize>) -> Option<Self> {
        let len = range.end.checked_sub(range.start)?;
        if range.end > self.len() || !range.start.is_multiple_of(FRAME_ALIGN) {
            return None;
        }
        // Both fit: they are within the frame, whose end fits.
        let range = Part::new((self.range.start() + range.start) as u32, len as u32);
        Some(Self { block: self.block.clone(), range })
    }

    /// As a clone, at less cost while this is the only frame of its buffer: then nobody else can count meanwhile.
    #[must_use]
    #[inline]
    pub fn share(&mut self) -> Self {
        Self { block: self.block.share(), range: self.range }
    }

    /// A number that two frames share exactly if they share a buffer, so that dropping one of them alone returns nothing.
    /// It means nothing once the buffer is back in its pool.
    #[must_use]
    pub fn buffer_id(&self) -> usize {
        self.block.head.addr().get()
    }
}

impl Deref for Frame {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: start and len lie within the capacity (checked where a Frame is made), all of it was initialised when
        // the block was allocated, and nobody writes to a range that a Frame covers: a FrameBuf is consumed by `freeze`,
        // a ReceiveBlock writes only beyond `filled`, which never falls while another reference exists.
        unsafe { std::slice::from_raw_parts(self.block.data().add(self.range.start()), self.range.len()) }
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Clone for Frame {
    #[inline]
    fn clone(&self) -> Self {
        Self { block: self.block.clone(), range: self.range }
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Frame {}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.len())
    }
}

/// A writable buffer with one owner, starting at a multiple of 64 in memory.
///
/// Its bytes are what an earlier use left there: write every byte of `len`, padding included, before it is sent, or a
/// peer reads what was meant for another.
pub struct FrameBuf {
    block: BlockRef,
    len: u32,
}

impl FrameBuf {
    /// A buffer outside any pool. One of 64 KiB or more is kept for the next such one when its last frame is dropped, up to 64 MiB in a
    /// process; pages of a fresh one take no memory before they are written to.
    ///
    /// # Panics
    /// If `len` is 4 GiB or more.
    #[must_use]
    pub fn unpooled(len: usize) -> Self {
        let mut buffer = Self { block: FreeBlock::unpooled(len).into_use(None), len: 0 };
        buffer.set_len(len);
        buffer
    }

    /// The bytes, for writing.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self
    }

    /// Bytes that the buffer has room for; at least what was asked for.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> usize {
        self.block.capacity()
    }

    /// Sets the length, up or down. Bytes that become visible are initialised but of unspecified content.
    ///
    /// # Panics
    /// If `len` is over the capacity.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "{len} bytes in a buffer of {}", self.capacity());
        self.len = len as u32;
    }

    /// Shortens to `len` bytes; no effect if it is not longer.
    pub fn truncate(&mut self, len: usize) {
        self.set_len(len.min(self.len()));
    }

    /// Ends writing: from here on the bytes never change.
    #[must_use]
    #[inline]
    pub fn freeze(self) -> Frame {
        Frame { block: self.block, range: Part::new(0, self.len) }
    }

    #[inline]
    pub(crate) fn from_free(block: FreeBlock, pool: Arc<PoolShared>, len: usize) -> Self {
        let mut buffer = Self { block: block.into_use(Some(pool)), len: 0 };
        buffer.set_len(len);
        buffer
    }
}

impl Deref for FrameBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: len is within the capacity, all of it is initialised, and a FrameBuf holds the only reference.
        unsafe { std::slice::from_raw_parts(self.block.data(), self.len as usize) }
    }
}

impl DerefMut for FrameBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the reference is exclusive, so `&mut self` is exclusive access to the data.
        unsafe { std::slice::from_raw_parts_mut(self.block.data(), self.len as usize) }
    }
}

impl fmt::Debug for FrameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameBuf({} of {} bytes)", self.len, self.capacity())
    }
}

/// Storage that a stream is read into: one writer appends at the tail while frames cut from the front are in use elsewhere.
pub struct ReceiveBlock {
    block: BlockRef,
    filled: u32,
    /// References that are counted already, for frames to come: one atomic operation serves many.
    spare: u32,
}

impl ReceiveBlock {
    /// Bytes received so far, from the start of the block.
    #[must_use]
    #[inline]
    pub fn filled(&self) -> &[u8] {
        // SAFETY: below `filled` nobody writes, see `tail_mut` and `rewind`; it is within the capacity.
        unsafe { std::slice::from_raw_parts(self.block.data(), self.filled as usize) }
    }

    /// The rest of the block, to read into; then say how much with [`ReceiveBlock::advance`].
    pub fn tail_mut(&mut self) -> &mut [u8] {
        let tail_len = self.capacity() - self.filled as usize;
        // SAFETY: frames cover only what is below `filled`, and there is one ReceiveBlock per block, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.block.data().add(self.filled as usize), tail_len) }
    }

    /// Says that `len` bytes were written at the start of the tail.
    ///
    /// # Panics
    /// If the tail is shorter.
    pub fn advance(&mut self, len: usize) {
        let tail_len = self.capacity() - self.filled as usize;
        assert!(len <= tail_len, "{len} bytes in a tail of {tail_len}");
        self.filled += len as u32;
    }

    /// A frame over a range of the filled part, without a copy; `None` if it is not inside that or does not start at a
    /// multiple of 16.
    #[must_use]
    #[inline]
    pub fn frame(&mut self, range: Range<usize>) -> Option<Frame> {
        let len = range.end.checked_sub(range.start)?;
        if range.end > self.filled as usize || !range.start.is_multiple_of(FRAME_ALIGN) {
            return None;
        }
        if self.spare == 0 {
            self.block.add_references(SPARE_REFERENCES);
            self.spare = SPARE_REFERENCES;
        }
        self.spare -= 1;
        // One of the spare ones.
        let block = BlockRef { head: self.block.head };
        Some(Frame { block, range: Part::new(range.start as u32, len as u32) })
    }

    /// If no frame of this block is in use any more: keeps the filled bytes from `keep_from` on, moves them to the start,
    /// and returns `true`. Otherwise changes nothing.
    pub fn rewind(&mut self, keep_from: usize) -> bool {
        let filled = self.filled as usize;
        if keep_from > filled || !self.block.has_references(1 + self.spare) {
            return false;
        }
        let data = self.block.data();
        // SAFETY: the reference is unique and borrowed exclusively, so no frame sees the data; both ranges are filled.
        unsafe { ptr::copy(data.add(keep_from), data, filled - keep_from) };
        self.filled = (filled - keep_from) as u32;
        true
    }

    /// Length of the block in bytes.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> usize {
        self.block.capacity()
    }
}

impl From<FrameBuf> for ReceiveBlock {
    /// Empty storage of the buffer's whole capacity.
    fn from(buffer: FrameBuf) -> Self {
        Self { block: buffer.block, filled: 0, spare: 0 }
    }
}

impl Drop for ReceiveBlock {
    fn drop(&mut self) {
        // What is left then is the block's own one, at least.
        self.block.drop_references(self.spare);
    }
}

impl fmt::Debug for ReceiveBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiveBlock({} of {} bytes)", self.filled, self.capacity())
    }
}

/// A counted reference to a block in use.
struct BlockRef {
    head: NonNull<BlockHead>,
}

// SAFETY: the count is atomic, the head's other fields follow the table of the module, the data is plain bytes, and the
// pool that the last reference returns to is Send and Sync.
unsafe impl Send for BlockRef {}
// SAFETY: as above; through `&BlockRef` only the atomic count and constants are reached.
unsafe impl Sync for BlockRef {}

impl BlockRef {
    #[inline]
    fn head(&self) -> &BlockHead {
        // SAFETY: a block lives until its last reference is dropped; while in use nobody makes a `&mut` to the head.
        unsafe { self.head.as_ref() }
    }

    fn capacity(&self) -> usize {
        self.head().capacity
    }

    #[inline]
    fn data(&self) -> *mut u8 {
        // SAFETY: the allocation is one head followed by `capacity` bytes of data.
        unsafe { self.head.as_ptr().add(1).cast() }
    }

    #[inline]
    fn is_unique(&self) -> bool {
        self.has_references(1)
    }

    /// Whether there are exactly these, all of them in the caller's hands.
    #[inline]
    fn has_references(&self, count: u32) -> bool {
        // Acquire: what other holders read happened before they let go.
        self.head().references.load(Ordering::Acquire) == count
    }

    /// Counts references that the caller is about to make.
    #[inline]
    fn add_references(&self, count: u32) {
        let before = self.head().references.fetch_add(count, Ordering::Relaxed);
        // Only a leak in a loop gets here; going on would end in a use after free.
        assert!(before < REFERENCES_MAX, "more than {REFERENCES_MAX} references to one buffer");
    }

    /// Another reference, counted without an atomic operation if this is the only one.
    #[inline]
    fn share(&mut self) -> Self {
        if self.is_unique() {
            // Nobody else has a reference to make another one of, and this one is borrowed exclusively.
            self.head().references.store(2, Ordering::Relaxed);
        } else {
            self.add_references(1);
        }
        Self { head: self.head }
    }

    /// Takes back references that were counted and not made; this one stays.
    fn drop_references(&self, count: u32) {
        if count > 0 {
            self.head().references.fetch_sub(count, Ordering::Release);
        }
    }
}

impl Clone for BlockRef {
    #[inline]
    fn clone(&self) -> Self {
        self.add_references(1);
        Self { head: self.head }
    }
}

impl Drop for BlockRef {
    #[inline]
    fn drop(&mut self) {
        // The only reference: nobody else can make another one of it, and to look costs less than to count.
        if !self.is_unique() {
            if self.head().references.fetch_sub(1, Ordering::Release) != 1 {
                return;
            }
            fence(Ordering::Acquire);
        }
        if keep(self.head) {
            return;
        }
        let mut block = FreeBlock { head: self.head };
        match block.head_mut().pool.take() {
            Some(pool) => pool.give_back(block),
            None => block.retire(),
        }
    }
}

thread_local! {
    /// What this thread keeps; set by a `Keeper` and taken back by it.
    static KEPT: Cell<*const Kept> = const { Cell::new(ptr::null()) };
}

/// While it lives, buffers of one pool that were dropped on this thread stay with the thread, up to a bound, and are its next ones:
/// no atomic operation is needed for that. For the pool they are in use.
#[derive(Debug)]
#[must_use = "the thread keeps buffers while this lives"]
pub struct Keeper {
    /// None: the thread has a keeper already.
    kept: Option<Box<Kept>>,
    _of_this_thread: PhantomData<*const ()>,
}

/// Blocks that are as those in use are, but that nobody has a reference to.
struct Kept {
    pool: Arc<PoolShared>,
    classes: Box<[KeptClass]>,
}

struct KeptClass {
    capacity: usize,
    /// How many more may be kept.
    room: Cell<usize>,
    /// Linked through `next`.
    top: Cell<*mut BlockHead>,
}

impl Keeper {
    /// Keeps up to so many blocks of each class, which have this capacity.
    pub(crate) fn new(pool: Arc<PoolShared>, classes: impl Iterator<Item = (usize, usize)>) -> Self {
        if !KEPT.get().is_null() {
            return Self { kept: None, _of_this_thread: PhantomData };
        }
        let class =
            |(capacity, room)| KeptClass { capacity, room: Cell::new(room), top: Cell::new(ptr::null_mut()) };
        let kept = Box::new(Kept { pool, classes: classes.map(class).collect() });
        KEPT.set(&raw const *kept);
        Self { kept: Some(kept), _of_this_thread: PhantomData }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        KEPT.set(ptr::null());
        for class in &kept.classes {
            while let Some(head) = class.pop() {
                // The last reference of it, as far as the pool knows: this gives it back.
                drop(BlockRef { head });
            }
        }
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("classes", &self.classes.len()).finish_non_exhaustive()
    }
}

impl KeptClass {
    #[inline]
    fn pop(&self) -> Option<NonNull<BlockHead>> {
        let head = NonNull::new(self.top.get())?;
        // SAFETY: kept blocks are live and this thread's own, and each `next` is the rest of the list.
        let block = unsafe { head.as_ref() };
        self.top.set(block.next);
        fetch_ahead(block.next);
        // Whoever dropped it did not always count down.
        block.references.store(1, Ordering::Relaxed);
        self.room.set(self.room.get() + 1);
        Some(head)
    }
}

/// Has the processor fetch the beginning of a block, which is the next that somebody will want.
#[inline]
fn fetch_ahead(head: *const BlockHead) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..3 {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has it, and it may be given any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(head.wrapping_byte_add(line * 64).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = head;
}

/// A buffer that this thread has kept of this pool, of the smallest class that is long enough.
#[inline]
pub(crate) fn take_kept(pool: &Arc<PoolShared>, len: usize) -> Option<FrameBuf> {
    let kept = KEPT.get();
    // SAFETY: set from a box that lives until its keeper takes the pointer back, on this thread.
    let kept = unsafe { kept.as_ref() }.filter(|kept| Arc::ptr_eq(&kept.pool, pool))?;
    let class = kept.classes.iter().find(|class| class.capacity >= len)?;
    let block = BlockRef { head: class.pop()? };
    Some(FrameBuf { block, len: len as u32 })
}

/// Whether this thread keeps the block, of which the last reference goes.
#[inline]
fn keep(mut head: NonNull<BlockHead>) -> bool {
    // SAFETY: as in `take_kept`.
    let Some(kept) = (unsafe { KEPT.get().as_ref() }) else { return false };
    // SAFETY: the last reference to a live block is the caller's.
    let block = unsafe { head.as_mut() };
    let is_its = block.pool.as_ref().is_some_and(|pool| Arc::ptr_eq(&kept.pool, pool));
    let Some(class) = kept.classes.get(block.class as usize).filter(|class| is_its && class.room.get() > 0)
    else {
        return false;
    };
    block.next = class.top.replace(head.as_ptr());
    class.room.set(class.room.get() - 1);
    true
}

/// A block that nobody uses: the only pointer to it.
pub(crate) struct FreeBlock {
    head: NonNull<BlockHead>,
}

// SAFETY: it is the only pointer to the block, and what is in it is Send.
unsafe impl Send for FreeBlock {}

impl FreeBlock {
    /// A block for a buffer outside any pool.
    fn unpooled(capacity: usize) -> Self {
        let span = block_layout(capacity).size();
        if span < long::LEN_MIN {
            return Self::allocate(capacity, 0);
        }
        let span = long::span(span);
        if let Some(kept) = long::take(span) {
            return kept;
        }
        // SAFETY: fresh memory of that length, at the beginning of a page.
        unsafe { Self::place(memory::map(span), span - size_of::<BlockHead>(), 0, Origin::Mapped) }
    }

    /// What becomes of a block that was outside any pool, and that nobody uses any more.
    #[cold]
    fn retire(mut self) {
        if self.head_mut().origin == Origin::Mapped {
            let span = block_layout(self.head_mut().capacity).size();
            // One that is not kept goes back to the kernel.
            let _ = long::keep(self, span);
        }
    }

    /// A block of its own allocation.
    pub(crate) fn allocate(capacity: usize, class: u32) -> Self {
        let layout = block_layout(capacity);
        // SAFETY: the layout is not empty, as it holds a head.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        // SAFETY: fresh memory of that layout.
        unsafe { Self::place(memory, capacity, class, Origin::Heap) }
    }

    pub(crate) fn class(&self) -> u32 {
        // SAFETY: the only pointer to a live block.
        unsafe { self.head.as_ref() }.class
    }

    fn head_mut(&mut self) -> &mut BlockHead {
        // SAFETY: the only pointer to a live block, borrowed exclusively.
        unsafe { self.head.as_mut() }
    }

    #[inline]
    fn into_use(mut self, pool: Option<Arc<PoolShared>>) -> BlockRef {
        let head = self.head_mut();
        head.pool = pool;
        *head.references.get_mut() = 1;
        let head = self.head;
        std::mem::forget(self);
        BlockRef { head }
    }

    /// # Safety
    /// `memory` is aligned to 64, has room for `block_layout(capacity)`, is zeroed, and belongs to the new block alone.
    unsafe fn place(memory: NonNull<u8>, capacity: usize, class: u32, origin: Origin) -> Self {
        let head = memory.cast::<BlockHead>();
        let next = ptr::null_mut();
        let value = BlockHead { references: AtomicU32::new(0), class, capacity, origin, next, pool: None };
        // SAFETY: the caller gives memory that fits and is not shared.
        unsafe { head.write(value) };
        Self { head }
    }
}

impl Drop for FreeBlock {
    fn drop(&mut self) {
        let (capacity, origin) = (self.head_mut().capacity, self.head_mut().origin);
        // SAFETY: the only pointer; nothing uses the head after this.
        unsafe { ptr::drop_in_place(self.head.as_ptr()) };
        let (layout, memory) = (block_layout(capacity), self.head.cast::<u8>());
        match origin {
            // SAFETY: `allocate` made it with this layout.
            Origin::Heap => unsafe { dealloc(memory.as_ptr(), layout) },
            // SAFETY: `unpooled` mapped it, with as much memory as head and capacity take.
            Origin::Mapped => unsafe { memory::unmap(memory, layout.size()) },
            Origin::Slab => {}
        }
    }
}

/// Free blocks in one owner's hands, linked through their heads.
pub(crate) struct FreeChain {
    top: *mut BlockHead,
}

// SAFETY: the chain is the only way to its blocks.
unsafe impl Send for FreeChain {}

impl FreeChain {
    pub(crate) const fn new() -> Self {
        Self { top: ptr::null_mut() }
    }

    pub(crate) fn push(&mut self, mut block: FreeBlock) {
        block.head_mut().next = self.top;
        self.top = block.head.as_ptr();
        std::mem::forget(block);
    }

    /// How many blocks there are; counts them.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: the chain owns its blocks, and each `next` is the rest of the chain.
        let next = |head: &NonNull<BlockHead>| NonNull::new(unsafe { head.as_ref() }.next);
        std::iter::successors(NonNull::new(self.top), next).count()
    }

    pub(crate) fn pop(&mut self) -> Option<FreeBlock> {
        let head = NonNull::new(self.top)?;
        // SAFETY: the chain owns its blocks, and each `next` is the rest of the chain.
        self.top = unsafe { head.as_ref() }.next;
        Some(FreeBlock { head })
    }
}

impl Drop for FreeChain {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// Free blocks given back by any thread; taken all at once, so that no block can leave and come back in between.
pub(crate) struct FreeStack {
    top: AtomicPtr<BlockHead>,
}

impl FreeStack {
    pub(crate) const fn new() -> Self {
        Self { top: AtomicPtr::new(ptr::null_mut()) }
    }

    pub(crate) fn push(&self, mut block: FreeBlock) {
        let mut top = self.top.load(Ordering::Relaxed);
        loop {
            block.head_mut().next = top;
            // Release: who takes the block sees its `next` and that nobody uses it. In one order with the wakes that are asked for.
            match self.top.compare_exchange_weak(
                top,
                block.head.as_ptr(),
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => top = now,
            }
        }
        std::mem::forget(block);
    }

    pub(crate) fn take_all(&self) -> FreeChain {
        // A load first keeps the line shared while there is nothing to take. In one order with `push`, as a wake is asked for before.
        if self.top.load(Ordering::SeqCst).is_null() {
            return FreeChain::new();
        }
        FreeChain { top: self.top.swap(ptr::null_mut(), Ordering::Acquire) }
    }
}

impl Drop for FreeStack {
    fn drop(&mut self) {
        drop(self.take_all());
    }
}

/// One contiguous region that many blocks are cut from, for devices that register memory. Lives longer than its blocks:
/// it is the last field of what holds them.
pub(crate) struct Slab {
    region: Region,
}

impl Slab {
    /// Cuts `(capacity, count)` blocks for each class, in order, out of one new region.
    pub(crate) fn cut(classes: &[(usize, usize)]) -> (Self, Vec<FreeChain>) {
        let span = |capacity| block_layout(capacity).size();
        let region = Region::new(classes.iter().map(|&(capacity, count)| span(capacity) * count).sum());
        let mut offset = 0;
        let mut chains = Vec::new();
        for (class, &(capacity, count)) in classes.iter().enumerate() {
            let mut chain = FreeChain::new();
            for _ in 0..count {
                // SAFETY: offsets advance by whole block layouts, so blocks are aligned, apart and inside the region, which is as long.
                let block = unsafe {
                    FreeBlock::place(region.memory().add(offset), capacity, class as u32, Origin::Slab)
                };
                chain.push(block);
                offset += span(capacity);
            }
            chains.push(chain);
        }
        (Self { region }, chains)
    }

    /// Address and length in bytes.
    pub(crate) fn region(&self) -> (*const u8, usize) {
        (self.region.memory().as_ptr(), self.region.len())
    }
}

/// Whose memory a block is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// An allocation of its own.
    Heap,
    /// The slab of its pool.
    Slab,
    /// A mapping of its own, which is kept for the next long buffer.
    Mapped,
}

/// What a block opens with; the data follows at its end.
#[repr(C, align(64))]
struct BlockHead {
    references: AtomicU32,
    class: u32,
    capacity: usize,
    origin: Origin,
    next: *mut BlockHead,
    pool: Option<Arc<PoolShared>>,
}

/// Layout of a block: head and data, in whole cache lines.
fn block_layout(capacity: usize) -> Layout {
    assert!(capacity <= CAPACITY_MAX, "a buffer of {capacity} bytes");
    let len = (size_of::<BlockHead>() + capacity).next_multiple_of(align_of::<BlockHead>());
    Layout::from_size_align(len, align_of::<BlockHead>()).expect("at most 4 GiB, a power of two")
}

/// Where the data of a block of a slab begins in it, and how far it is to the next one.
pub(crate) fn block_span(capacity: usize) -> (usize, usize) {
    (size_of::<BlockHead>(), block_layout(capacity).size())
}

/// Longest buffer in bytes: offsets in it are 32 bits.
pub(crate) const CAPACITY_MAX: usize = (u32::MAX - 128) as usize;
const REFERENCES_MAX: u32 = u32::MAX / 2;
/// References to a receive block that are counted at a time.
const SPARE_REFERENCES: u32 = 64;
const _: () = assert!(size_of::<BlockHead>() == 64 && size_of::<Frame>() == 16);
