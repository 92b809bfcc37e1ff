//! Which core the running thread is stepping, so that plain `async` code can reach it without being handed anything.
//!
//! Set by [`Core`](crate::core::Core) for the length of a step, in production and in simulation alike; `None`
//! everywhere else.

use std::cell::Cell;
use std::ptr;

use crate::core::CoreState;

thread_local! {
    static CURRENT: Cell<*const CoreState> = const { Cell::new(ptr::null()) };
}

/// Runs `with` on the core this thread is stepping, if it is stepping one.
#[inline]
pub(crate) fn with<R>(run: impl FnOnce(&CoreState) -> R) -> Option<R> {
    let core = CURRENT.get();
    // SAFETY: the pointer is set by `Entered` from a reference that outlives it and is taken back when it is dropped;
    // it never leaves its thread.
    unsafe { core.as_ref() }.map(run)
}

/// Notes that the running turn changed a `Field`.
#[inline]
pub(crate) fn mark_touched() {
    with(|core| core.touched.set(true));
}

/// Makes a core the current one until dropped; then the one before it is current again.
pub(crate) struct Entered<'a> {
    before: *const CoreState,
    _core: &'a CoreState,
}

impl<'a> Entered<'a> {
    pub(crate) fn new(core: &'a CoreState) -> Self {
        Self { before: CURRENT.replace(core), _core: core }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}
