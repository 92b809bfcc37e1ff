//! Wakers of tasks: a slot's address and nothing else, so that cloning and dropping one costs nothing.
//!
//! A waker may outlive its task. Slots are never freed, so it then reads a valid header, and at worst a stranger's future
//! is polled once for nothing, which every future must allow.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::core::CoreState;
use crate::slot::SlotPtr;

/// A waker of the task in this slot.
#[inline]
pub(crate) fn of(slot: SlotPtr) -> Waker {
    // SAFETY: the table's functions accept a slot's address, on any thread, at any time, and own nothing.
    unsafe { Waker::from_raw(RawWaker::new(slot.as_raw(), &VTABLE)) }
}

/// As `clone`, without the indirect call for the wakers of this module.
#[inline]
pub(crate) fn copy(waker: &Waker) -> Waker {
    match slot_of(waker) {
        Some(slot) => of(slot),
        None => waker.clone(),
    }
}

/// As `wake`, for tasks of `core` without the detour over the table and the current core.
#[inline]
pub(crate) fn wake_on(core: &CoreState, waker: Waker) {
    match slot_of(&waker) {
        Some(slot) if slot.home() == core.number() => {
            // Owns nothing.
            std::mem::forget(waker);
            core.wake(slot);
        }
        _ => wake(waker),
    }
}

/// As `wake`. One that user code made may panic, which is not the core's to suffer.
#[inline]
pub(crate) fn wake(waker: Waker) {
    match slot_of(&waker) {
        Some(_) => waker.wake(),
        None => guard(|| waker.wake()),
    }
}

/// As `drop`, likewise.
pub(crate) fn discard(waker: Option<Waker>) {
    match waker {
        Some(waker) if slot_of(&waker).is_none() => guard(|| drop(waker)),
        // Owns nothing.
        waker => drop(waker),
    }
}

#[cold]
fn guard(use_it: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(use_it)).is_err() {
        tracing::warn!("a waker that user code made panicked");
    }
}

/// The task, if the waker is one of this module.
#[inline]
fn slot_of(waker: &Waker) -> Option<SlotPtr> {
    // SAFETY: wakers with this table carry a slot's address, which `of` put there.
    std::ptr::eq(waker.vtable(), &VTABLE).then(|| unsafe { SlotPtr::from_raw(waker.data()) })
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, wake_slot, wake_slot, |_| {});

fn clone(data: *const ()) -> RawWaker {
    RawWaker::new(data, &VTABLE)
}

fn wake_slot(data: *const ()) {
    // SAFETY: `of` put a slot's address there.
    let slot = unsafe { SlotPtr::from_raw(data) };
    let core = slot.home();
    let here = crate::current::with(|current| {
        let here = current.number() == core;
        if here {
            current.wake(slot);
        }
        here
    });
    if here != Some(true) {
        crate::registry::wake_from_outside(core, slot);
    }
}
