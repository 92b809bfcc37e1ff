//! The gate: what leaves the node waits until what it depends on is durable, and not for ever.
//!
//! ```text
//!   act_gated, poll_gate -> durable? --yes--> leaves
//!                            | no
//!                            v
//!                          waits --batch durable--> leaves
//!                            |----batch failed----> `SaveFailed`: the store denied it, and nothing is left of it
//!                            `----its time over---> who asked for what ran: `OutcomeUnknown(Timeout)`
//!                                                   a request or work that did not leave: `Rejected(Expired)`
//! ```
//! The time of everything is that of the call it belongs to, as nobody waits for it any longer than that. So a store that hangs
//! holds nobody beyond his deadline. Its batches may still become durable; so nobody is told that they failed, and what
//! depends on them stays in memory. When the store is lost for good, nothing starts here any more and nothing leaves: as past
//! the end of a lease (`lease.rs`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::Waker;

use epicserver_storage::NodeId;
use epicserver_transport::Frame;

use super::{Action, CoreState, Timer};
use crate::call::BUDGET_DEFAULT;
use crate::error::{CallError, Loss, Rejection};
use crate::remote::PeerFrame;
use crate::slot::{SlotPtr, State};
use crate::timer::TimerKey;

/// What waits for batches to be durable, in order.
#[derive(Default)]
pub(super) struct Gate {
    waiting: RefCell<VecDeque<Gated>>,
    /// The timer for the first whose time is over, or for one that has left meanwhile.
    timer: Cell<Option<(u64, TimerKey)>>,
}

struct Gated {
    number: u64,
    /// When its time is over.
    until: u64,
    what: Held,
}

enum Held {
    Wake(Waker),
    Action(Action),
}

impl Gate {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Takes out the action that this is true of.
    pub(super) fn take_action(&self, is_it: impl Fn(&Action) -> bool) -> Option<Action> {
        let mut waiting = self.waiting.borrow_mut();
        let place =
            waiting.iter().position(|gated| matches!(&gated.what, Held::Action(action) if is_it(action)))?;
        match waiting.remove(place)?.what {
            Held::Action(action) => Some(action),
            Held::Wake(_) => None,
        }
    }

    /// Takes out all actions that this is true of, in order.
    pub(super) fn take_actions(&self, is_it: impl Fn(&Action) -> bool) -> Vec<Action> {
        let taken = self.take(|gated| matches!(&gated.what, Held::Action(action) if is_it(action)));
        let action = |held| match held {
            Held::Action(action) => Some(action),
            Held::Wake(_) => None,
        };
        taken.into_iter().filter_map(action).collect()
    }

    /// Takes out those that this is true of, in order.
    fn take(&self, is_over: impl Fn(&Gated) -> bool) -> Vec<Held> {
        let mut waiting = self.waiting.borrow_mut();
        let (over, still): (VecDeque<Gated>, VecDeque<Gated>) =
            std::mem::take(&mut *waiting).into_iter().partition(is_over);
        *waiting = still;
        over.into_iter().map(|gated| gated.what).collect()
    }
}

impl CoreState {
    /// Runs `action` when batch `number` is durable, in order with what waits already; at `until` its time is over.
    pub(super) fn act_gated(&self, number: u64, until: u64, action: Action) {
        if self.lease.is_over() {
            return self.withhold(action);
        }
        if self.saving.is_durable(number) {
            return self.act(action);
        }
        self.hold_back(Gated { number, until, what: Held::Action(action) });
    }

    /// As [`act_gated`](Self::act_gated) for a frame, which mostly leaves at once.
    #[inline]
    pub(super) fn send_gated(&self, number: u64, until: u64, peer: NodeId, frame: Frame) {
        if self.lease.is_over() || !self.saving.is_durable(number) {
            return self.act_gated(number, until, Action::Frame(PeerFrame::new(peer, frame)));
        }
        self.send_frame(peer, frame);
    }

    /// Whether what the running task has seen may leave the node; otherwise it is woken when that is known, or at `until`.
    pub(crate) fn poll_gate(&self, waker: &Waker, until: u64) -> Option<Result<(), CallError>> {
        let number = self.dependence();
        let passed = self.passed_gate(number, until);
        if passed.is_none() {
            self.wake_at_gate(number, until, waker);
        }
        passed
    }

    /// What the gate says of this batch, if it says anything yet.
    pub(super) fn passed_gate(&self, number: u64, until: u64) -> Option<Result<(), CallError>> {
        if self.saving.is_failed(number) {
            return Some(Err(CallError::SaveFailed));
        }
        if self.lease.is_over() {
            return Some(Err(super::lease::lost()));
        }
        if self.saving.is_durable(number) {
            return Some(Ok(()));
        }
        (until <= self.now.get()).then(|| Err(untold()))
    }

    /// Has this waker used when the gate says what becomes of a batch.
    pub(super) fn wake_at_gate(&self, number: u64, until: u64, waker: &Waker) {
        self.hold_back(Gated { number, until, what: Held::Wake(waker.clone()) });
    }

    /// How much waits.
    #[cfg(test)]
    pub(crate) fn gated(&self) -> usize {
        self.saving.gate.waiting.borrow().len()
    }

    /// When the time of what the running task wants is over; what has no deadline itself gets as much as a call.
    pub(crate) fn time_over(&self) -> u64 {
        let deadline = self.running.get().map_or(u64::MAX, |task| task.deadline.get());
        if deadline == u64::MAX { self.now.get() + BUDGET_DEFAULT.as_nanos() as u64 } else { deadline }
    }

    pub(crate) fn is_over(&self, until: u64) -> bool {
        until <= self.now.get()
    }

    fn hold_back(&self, gated: Gated) {
        let until = gated.until;
        self.saving.gate.waiting.borrow_mut().push_back(gated);
        self.arm_gate(until);
    }

    /// There is one timer: most that wait leave long before they are late, and those that come later end later.
    fn arm_gate(&self, until: u64) {
        let timer = &self.saving.gate.timer;
        if until == u64::MAX || timer.get().is_some_and(|(at, _)| at <= until) {
            return;
        }
        if let Some((_, key)) = timer.get() {
            self.cancel_timer(key);
        }
        timer.set(Some((until, self.set_timer(until, Timer::Gate))));
    }

    /// The timer has fired: what is late ends.
    pub(super) fn end_late(&self) {
        self.saving.gate.timer.set(None);
        let now = self.now.get();
        for held in self.saving.gate.take(|gated| gated.until <= now) {
            match held {
                Held::Wake(waker) => crate::waker::wake(waker),
                Held::Action(Action::Frame(frame)) if super::remote::says_unrun(&frame) => {
                    self.act(Action::Frame(frame));
                }
                Held::Action(action) => self.fail_action(action, &untold(), unsent()),
            }
        }
        let next = self.saving.gate.waiting.borrow().iter().map(|gated| gated.until).min();
        self.arm_gate(next.unwrap_or(u64::MAX));
    }

    /// More is durable, or failed.
    pub(super) fn open_gate(&self) {
        let mut waiting = std::mem::take(&mut *self.saving.gate.waiting.borrow_mut());
        let mut still = VecDeque::with_capacity(0);
        for gated in waiting.drain(..) {
            let failed = self.saving.is_failed(gated.number);
            if !failed && !self.saving.is_durable(gated.number) {
                still.push_back(gated);
                continue;
            }
            match gated.what {
                Held::Wake(waker) => crate::waker::wake(waker),
                Held::Action(action) if failed => {
                    self.fail_action(action, &CallError::SaveFailed, CallError::SaveFailed);
                }
                Held::Action(action) => self.act(action),
            }
        }
        let mut gated = self.saving.gate.waiting.borrow_mut();
        if still.is_empty() && gated.is_empty() {
            // Keeps the room of the queue for the next time.
            *gated = waiting;
        } else {
            still.extend(gated.drain(..));
            *gated = still;
        }
    }

    /// Nothing may leave any more: whoever waits for what was to is told.
    pub(super) fn empty_gate(&self) {
        for held in self.saving.gate.take(|_| true) {
            match held {
                Held::Wake(waker) => crate::waker::wake(waker),
                Held::Action(action) => self.withhold(action),
            }
        }
    }

    /// So much waits to be saved that no turns run: what is late ends all the same, here and in a while again.
    pub(super) fn end_late_turns(&self) {
        self.saving.is_bound_noted.set(false);
        let is_late = |slot: &SlotPtr| slot.deadline.get() <= self.admits_after.get();
        let fresh: Vec<SlotPtr> = self.outbox.iter().filter(is_late).collect();
        for slot in fresh {
            self.outbox.remove(slot);
            self.refuse_late(slot);
        }
        let granted = |slot: &SlotPtr| slot.state.get() == State::Granted && is_late(slot);
        let unstarted: Vec<SlotPtr> = self.ready.iter().filter(granted).collect();
        for slot in unstarted {
            if let Some(object) = slot.object.get() {
                self.unschedule(slot);
                object.unstarted.set(object.unstarted.get() - 1);
                if !self.ends_unstarted(slot, object) {
                    self.schedule_granted(slot, object);
                }
            }
        }
        self.note_save_bound();
    }

    /// Sees to it that what is late ends while no turns run.
    pub(super) fn note_save_bound(&self) {
        if self.is_save_bound() && !self.saving.is_bound_noted.replace(true) {
            self.set_timer(self.now.get() + BOUND_LOOK_NS, Timer::SaveBound);
        }
    }

    /// The next task that may run while so much waits to be saved: one that waits for a call from outside changes nothing.
    pub(super) fn next_outside(&self) -> Option<SlotPtr> {
        let slot = self.ready.iter().find(|slot| is_outside(*slot))?;
        self.unschedule(slot);
        Some(slot)
    }

    pub(super) fn has_outside(&self) -> bool {
        self.ready.iter().any(is_outside)
    }
}

fn is_outside(slot: SlotPtr) -> bool {
    !slot.vtable.get().holds && slot.object.get().is_none()
}

/// What the caller of something gets that ran, and may become durable or not.
fn untold() -> CallError {
    CallError::OutcomeUnknown(Loss::Timeout)
}

/// What a call gets whose request did not leave in time.
pub(super) fn unsent() -> CallError {
    CallError::Rejected(Rejection::Expired)
}

/// The time between two looks at what is late while no turns run.
const BOUND_LOOK_NS: u64 = 50_000_000;
