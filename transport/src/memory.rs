//! Where the memory of blocks comes from, zeroed: regions that many blocks are cut from, and mappings for long ones. With
//! [`frame`](crate::frame) the only module of this crate with `unsafe` code.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::{self, NonNull};

/// Contiguous memory that begins at a page, zeroed; pages that nobody writes to stay with the kernel.
#[derive(Debug)]
pub(crate) struct Region {
    memory: NonNull<u8>,
    len: usize,
    /// What was allocated: some more, to begin at a page, or at a large one.
    allocated: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory; only who was given the address touches it.
unsafe impl Send for Region {}
// SAFETY: as above; `&Region` gives only the address.
unsafe impl Sync for Region {}

impl Region {
    /// A region of so many bytes.
    pub(crate) fn new(len: usize) -> Self {
        let len = len.max(1);
        // Asked for pages, the allocator writes the zeros itself; for less, it takes what the kernel has zeroed, and memory that is not
        // used yet stays with the kernel.
        let align = if len < HUGE_PAGE_LEN { PAGE_LEN } else { HUGE_PAGE_LEN };
        let layout = Layout::from_size_align(len + align, 16).expect("a region within the address space");
        // SAFETY: the layout is not empty.
        let allocated = unsafe { alloc_zeroed(layout) };
        let Some(allocated) = NonNull::new(allocated) else { handle_alloc_error(layout) };
        let address = allocated.addr().get();
        // SAFETY: less than `align` bytes on, so that `len` are left of the same allocation.
        let memory = unsafe { allocated.add(address.next_multiple_of(align) - address) };
        if align == HUGE_PAGE_LEN {
            // Large pages for as much of it as fills such pages, where the system has them to give; else it says so, and gives small ones.
            // SAFETY: whole pages within the allocation, which this changes nothing of but the size of its pages.
            unsafe { libc::madvise(memory.as_ptr().cast(), len - len % HUGE_PAGE_LEN, libc::MADV_HUGEPAGE) };
        }
        Self { memory, len, allocated, layout }
    }

    /// Where it begins, for writing: whoever does so must be alone there, and be done before the region goes.
    pub(crate) fn memory(&self) -> NonNull<u8> {
        self.memory
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `new` made it with this layout; whoever used it is done, see `memory`.
        unsafe { dealloc(self.allocated.as_ptr(), self.layout) };
    }
}

/// Memory of its own from the kernel, which begins at a page and is zeroed. A page of it takes no memory before it is written to.
pub(crate) fn map(len: usize) -> NonNull<u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping where the kernel likes, which takes the place of no other.
    let memory = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
    match NonNull::new(memory) {
        Some(memory) if memory.as_ptr() != libc::MAP_FAILED => memory.cast(),
        _ => handle_alloc_error(Layout::from_size_align(len, PAGE_LEN).expect("a length that was asked for")),
    }
}

/// Gives a mapping back.
///
/// # Safety
/// [`map`] gave it for that length, and nobody uses it any more.
pub(crate) unsafe fn unmap(memory: NonNull<u8>, len: usize) {
    // SAFETY: the caller's. It cannot fail for a mapping as a whole.
    unsafe { libc::munmap(memory.as_ptr().cast(), len) };
}

const PAGE_LEN: usize = 4096;
/// A region of this length or more begins at such a page: processor and device then look up fewer of them.
const HUGE_PAGE_LEN: usize = 2 << 20;
