//! The ends of waiting: cancelled calls, passed deadlines, methods that outlive their grace.

use super::{CoreMessage, CoreState, Timer};
use crate::call::Early;
use crate::error::{CallError, Loss, Rejection};
use crate::slot::{Away, Content, Hold, ReplyTo, SlotPtr, State, TaskRef};

/// How long a cancelled exclusive method may still run.
const GRACE_NS: u64 = 5_000_000_000;

/// How long a hook may run before it is told to stop.
const HOOK_NS: u64 = 60_000_000_000;

impl CoreState {
    /// The `Call` of this slot was dropped. Gives whether the slot is this core's.
    pub(crate) fn abandon(&self, slot: SlotPtr) -> bool {
        if slot.caller.done.get() {
            self.drop_safely(slot, Content::Reply);
            self.release(slot);
            return true;
        }
        slot.caller.gone.set(true);
        crate::waker::discard(slot.caller.waker.take());
        if let Some(key) = slot.caller.timer.take() {
            self.cancel_timer(key);
        }
        match slot.caller.away.get() {
            Away::Here => self.cancel_here(slot),
            Away::Core(core) => self.tell(core, CoreMessage::cancel(slot.task())),
            Away::Node(place) => self.cancel_remote(slot, place),
        }
        true
    }

    /// Nobody waits for this call any more, and the slot is on this core.
    pub(super) fn cancel_here(&self, slot: SlotPtr) {
        if slot.cancelled.replace(true) {
            return;
        }
        let vtable = slot.vtable.get();
        match (slot.state.get(), vtable.hold) {
            (State::Waiting, _) => {
                if let Some(object) = slot.object.get() {
                    self.dequeue(slot, object);
                    self.discard(slot);
                    // It held nothing, so that no hook ends with it, nor the object.
                    self.grant_waiting(object);
                }
            }
            (State::Parked, _) => {
                self.take_parked(slot);
                self.discard(slot);
            }
            (State::Running, Hold::Exclusive) => {
                if let Some(waker) = slot.cancel_waker.take() {
                    crate::waker::wake(waker);
                }
                slot.timer.set(Some(self.set_timer(self.now.get() + GRACE_NS, Timer::Grace(slot.task()))));
            }
            (State::Running, _) if !vtable.shield => self.schedule(slot),
            // A message in the outbox and a granted call see the mark when their turn comes; a reply is dropped at home.
            _ => {}
        }
    }

    /// A cancelled task has its turn: a shared method ends here, at its await. Gives whether it ended.
    pub(super) fn stop_cancelled(&self, slot: SlotPtr) -> bool {
        let vtable = slot.vtable.get();
        if vtable.shield || vtable.hold == Hold::Exclusive || !vtable.holds {
            return false;
        }
        let Some(object) = slot.object.get() else { return false };
        self.touched.set(false);
        let whole = self.drop_future(slot);
        self.drop_hold(object, slot);
        slot.fail_in_place(None, CallError::OutcomeUnknown(Loss::Timeout));
        slot.depends_on.set(0);
        self.reply(slot);
        // Destructors may have changed fields, as a turn does, or have left the state half changed.
        if whole && !(self.touched.get() && self.take_image(object).is_err()) {
            self.released(object);
        } else {
            self.kill(object, &CallError::OutcomeUnknown(Loss::OwnerLost));
        }
        true
    }

    pub(super) fn deadline_passed(&self, task: TaskRef) {
        let Some(slot) = task.at_home() else { return };
        slot.caller.timer.set(None);
        if slot.caller.done.get() || slot.caller.gone.get() {
            return;
        }
        let waiting = slot.caller.away.get() == Away::Here && slot.state.get() == State::Waiting;
        if waiting {
            return self.expire_waiting(slot);
        }
        if slot.caller.away.get() == Away::Here && slot.state.get() == State::Parked {
            return self.expire_kept(task);
        }
        if let Away::Node(place) = slot.caller.away.get()
            && self.withdraw(place)
        {
            return;
        }
        let queued = slot.caller.away.get() == Away::Here
            && matches!(slot.state.get(), State::Message | State::Granted);
        slot.caller.early.set(Some(if queued { Early::Expired } else { Early::Timeout }));
        if let Some(waker) = slot.caller.waker.take() {
            crate::waker::wake(waker);
        }
    }

    fn expire_waiting(&self, slot: SlotPtr) {
        let Some(object) = slot.object.get() else { return };
        self.dequeue(slot, object);
        self.refuse(slot, CallError::Rejected(Rejection::Expired));
        self.grant_waiting(object);
    }

    /// A call has waited for its object for a while: it expires, or a probe looks whether it waits for itself.
    pub(super) fn still_queued(&self, task: TaskRef) {
        let Some(slot) = task.live().filter(|slot| slot.state.get() == State::Waiting) else { return };
        slot.timer.set(None);
        if slot.deadline.get() <= self.now.get() {
            return self.expire_waiting(slot);
        }
        // When many wait, they take turns: a probe looks at every call of the core.
        let may_probe = self.may_probe();
        let wait = if may_probe { super::admission::PROBE_INTERVAL_NS } else { crate::timer::TICK_NS };
        let again = slot.deadline.get().min(self.now.get() + wait);
        slot.timer.set(Some(self.set_timer(again, Timer::Queued(task))));
        if may_probe {
            self.start_probe(slot);
        }
    }

    /// Sets the timer that ends a method which nobody on this node waits for: a hook, a one-way call, a call of another
    /// node. Without it one that hangs would hold its object for ever.
    pub(super) fn arm_overdue(&self, slot: SlotPtr) {
        if slot.is_awaited() || slot.timer.get().is_some() || slot.cancelled.get() {
            return;
        }
        let hook = self.now.get().saturating_add(HOOK_NS);
        let at = if slot.deadline.get() == u64::MAX { hook } else { slot.deadline.get() };
        slot.timer.set(Some(self.set_timer(at, Timer::Overdue(slot.task()))));
    }

    pub(super) fn overdue(&self, task: TaskRef) {
        let Some(slot) = task.live().filter(|slot| slot.state.get() == State::Running) else { return };
        slot.timer.set(None);
        self.cancel_here(slot);
    }

    /// A cancelled exclusive method did not end in its time: its activation goes, with what it changed.
    pub(super) fn grace_over(&self, task: TaskRef) {
        let Some(slot) = task.live().filter(|slot| slot.state.get() == State::Running) else { return };
        slot.timer.set(None);
        let Some(object) = slot.object.get() else { return };
        tracing::warn!(
            object = object.label(),
            method = slot.vtable.get().name,
            "a cancelled method ran beyond its grace"
        );
        self.kill(object, &CallError::OutcomeUnknown(Loss::OwnerLost));
    }

    /// Whether the method whose turn it is was cancelled; if not, it is woken when it is.
    pub(crate) fn poll_cancelled(&self, waker: &std::task::Waker) -> bool {
        let Some(slot) = self.running.get() else { return false };
        if !slot.cancelled.get() {
            slot.cancel_waker.set(Some(waker.clone()));
        }
        slot.cancelled.get() || slot.reply_to.get() == ReplyTo::Caller && slot.caller.gone.get()
    }
}
