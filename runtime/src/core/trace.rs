//! A span for each call, for who logs at debug level: which object, which method.
//!
//! The level is looked at once a turn; while it is lower nothing else is done. While it is not, no call runs in place, so that
//! every turn of a method passes [`CoreState::poll_in_span`].

use std::cell::RefCell;
use std::collections::BTreeMap;

use tracing::Span;
use tracing::level_filters::LevelFilter;

use super::CoreState;
use crate::slot::SlotPtr;

/// Spans of the calls that run, by their slots.
#[derive(Default)]
pub(super) struct Spans(RefCell<BTreeMap<usize, Open>>);

/// A span and the call that it is of: a slot is used again.
struct Open {
    generation: u32,
    span: Span,
}

/// Whether anybody listens to spans of calls.
#[inline]
pub(super) fn is_traced() -> bool {
    LevelFilter::current() >= LevelFilter::DEBUG
}

impl CoreState {
    /// A turn of a method, in the span of its call. `poll` says whether the method has ended.
    #[cold]
    pub(super) fn poll_in_span<R>(
        &self,
        slot: SlotPtr,
        poll: impl FnOnce() -> R,
        ends: impl Fn(&R) -> bool,
    ) -> R {
        let Some(object) = slot.object.get().filter(|_| slot.vtable.get().holds) else { return poll() };
        let (number, generation) = (slot.as_raw() as usize, slot.generation.get());
        let span = {
            let mut spans = self.spans.0.borrow_mut();
            let fresh = || {
                let span =
                    tracing::debug_span!("call", object = %object.label(), method = slot.vtable.get().name);
                Open { generation, span }
            };
            let open = spans.entry(number).or_insert_with(fresh);
            if open.generation != generation {
                *open = fresh();
            }
            open.span.clone()
        };
        let polled = span.in_scope(poll);
        if ends(&polled) {
            self.spans.0.borrow_mut().remove(&number);
        }
        polled
    }
}
