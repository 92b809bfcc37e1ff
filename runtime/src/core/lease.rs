//! The node's lease: past its end nothing starts here, and nothing leaves that others could act on.
//!
//! Whether it holds is decided once a step. The path of calls within a core looks at one number only,
//! [`CoreState::admits_after`], which is the time while the lease holds and the end of time past it: a call whose deadline
//! is not beyond it does not start.
//!
//! Methods that run go on, in memory; what they bring about stays here. Who asked for something hears at once that it did
//! not run, or that its outcome is unknown. A lease that is renewed later opens the node again.

use std::cell::Cell;

use super::{Action, CoreState, Event};
use crate::activation::ObjectPtr;
use crate::error::{CallError, Executed, Loss, Rejection};
use crate::slot::SlotPtr;

/// What a core knows of its node's lease.
pub(super) struct Lease {
    until: Cell<u64>,
    is_over: Cell<bool>,
    /// The first one has not come yet.
    is_awaited: Cell<bool>,
    /// The store is lost, which no renewal mends.
    is_store_lost: Cell<bool>,
}

impl Default for Lease {
    /// One that never ends.
    fn default() -> Self {
        Self {
            until: Cell::new(u64::MAX),
            is_over: Cell::new(false),
            is_awaited: Cell::new(false),
            is_store_lost: Cell::new(false),
        }
    }
}

impl Lease {
    /// Past its end nothing starts and nothing leaves.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// Whether it is over because the first one has not come yet. It may be on its way: whoever calls an object here has a view that
    /// was made when this node had it, and what comes from links may be looked at before what comes from the cluster.
    pub(super) fn is_awaited(&self) -> bool {
        self.is_awaited.get()
    }

    /// What a call gets that does not start.
    pub(super) fn refusal(&self) -> CallError {
        let text = if self.is_store_lost.get() { STORE_LOST } else { "the lease of this node is over" };
        CallError::Unavailable(text.to_owned())
    }

    /// When the core wants to be told that it is over.
    pub(super) fn end(&self) -> Option<u64> {
        let until = self.until.get();
        (until != u64::MAX && !self.is_over.get()).then_some(until)
    }
}

impl CoreState {
    /// Learns of a renewal. Before the lease is looked at: one that was on its way when the lease before it ended is as good as
    /// one that came in time.
    #[inline]
    pub(super) fn note_lease(&self, event: &Event) {
        if let Event::Lease(until) = event {
            let is_first = self.lease.until.replace(*until) == u64::MAX;
            self.lease.is_awaited.set(*until == 0 && (is_first || self.lease.is_awaited.get()));
        }
        if matches!(event, Event::StoreLost) {
            self.lease.is_store_lost.set(true);
        }
    }

    /// Decides for this step whether calls may start.
    #[inline]
    pub(super) fn look_at_lease(&self) {
        let now = self.now.get();
        if now < self.lease.until.get() && !self.lease.is_store_lost.get() {
            self.admits_after.set(now);
            self.lease.is_over.set(false);
        } else {
            self.past_lease();
        }
    }

    #[cold]
    fn past_lease(&self) {
        self.admits_after.set(u64::MAX);
        if self.lease.is_over.replace(true) {
            return;
        }
        let refusal = self.lease.refusal();
        if self.lease.until.get() == 0 {
            tracing::debug!(
                core = self.config.index,
                "nothing starts here: this node is no member, or about to go"
            );
        } else {
            tracing::warn!(core = self.config.index, reason = %refusal, "nothing starts here any more");
        }
        for object in self.objects() {
            self.refuse_waiting(object, &refusal);
        }
        self.refuse_unsent(&refusal);
        self.refuse_kept(|_| true, &refusal);
        self.empty_gate();
    }

    /// Ends a call that came too late to be started: for its caller, or for this node.
    #[cold]
    pub(super) fn refuse_late(&self, slot: SlotPtr) {
        let is_expired = slot.deadline.get() <= self.now.get();
        let error = if is_expired { CallError::Rejected(Rejection::Expired) } else { self.lease.refusal() };
        self.refuse(slot, error);
    }

    /// A call has its turn that was granted its object: ends it if there is no use in it any more. Gives whether it did.
    #[cold]
    pub(super) fn ends_unstarted(&self, slot: SlotPtr, object: ObjectPtr) -> bool {
        // An object's hook has no caller: an object that became live without it would stay so when the lease is renewed.
        if !slot.cancelled.get() && super::objects::is_hook(slot, object) {
            return false;
        }
        self.drop_hold(object, slot);
        if slot.cancelled.get() {
            self.discard(slot);
        } else {
            self.refuse_late(slot);
        }
        self.released(object);
        true
    }

    /// An action that was to leave past the lease: whoever waits for it is told instead.
    #[cold]
    pub(super) fn withhold(&self, action: Action) {
        match action {
            Action::Frame(frame) if super::remote::says_unrun(&frame) => self.act(Action::Frame(frame)),
            _ => self.fail_action(action, &lost(), self.lease.refusal()),
        }
    }
}

/// What the caller of something gets that ran, and whose outcome may not leave.
pub(super) fn lost() -> CallError {
    CallError::OutcomeUnknown(Loss::OwnerLost)
}

const STORE_LOST: &str = "the store of this node failed for good";

/// What leaves for the application, past a gate that gave `passed`.
pub(crate) fn released<V>(
    passed: Result<(), CallError>,
    reply: Result<V, CallError>,
) -> Result<V, CallError> {
    match (passed, reply) {
        // It says nothing of what happened here.
        (Err(CallError::OutcomeUnknown(_)), Err(error)) if error.executed() == Executed::No => Err(error),
        (passed, reply) => passed.and(reply),
    }
}
