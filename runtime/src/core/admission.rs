//! Who may run on an object: holds, the wait queue, and the refusal of calls that would wait for their own callers.

use std::sync::Arc;

use super::{CoreState, Timer};
use crate::activation::{ObjectPtr, Status};
use crate::error::{CallError, Rejection};
use crate::path::{PathNode, conflict};
use crate::slot::{Away, Hold, ReplyTo, SlotPtr, State};

/// How long a call waits in a queue before a probe looks for a cycle, and between two probes.
pub(super) const PROBE_INTERVAL_NS: u64 = 50_000_000;

impl CoreState {
    /// A message has reached its object: it runs, waits, or is refused.
    #[inline(always)]
    pub(super) fn admit(&self, slot: SlotPtr, object: ObjectPtr) {
        slot.object.set(Some(object));
        if object.waiting.is_empty() && object.status.get() == Status::Live && may_hold(object, slot) {
            self.grant(object, slot);
            self.run_or_queue(slot, object);
        } else {
            self.admit_contended(slot, object);
        }
    }

    #[cold]
    #[inline(never)]
    fn admit_contended(&self, slot: SlotPtr, object: ObjectPtr) {
        match self.held_by_ancestor(slot, object) {
            Some(Ancestor::Excludes(path)) => self.refuse(slot, CallError::Deadlock(path)),
            // Waiting would be waiting for itself: the ancestor cannot let go before this call has returned.
            Some(Ancestor::Shares) if may_hold(object, slot) => {
                self.grant(object, slot);
                self.run_or_queue(slot, object);
            }
            _ if object.waiting_len.get() >= self.config.waiting_max => {
                self.refuse(slot, CallError::Rejected(Rejection::Overloaded));
            }
            // Only another serial call is in its way; whoever waits before it may be waiting for its ancestor.
            Some(Ancestor::Shares) => {
                object.waiting.push_front(slot);
                self.enqueued(slot, object);
            }
            None => {
                object.waiting.push_back(slot);
                self.enqueued(slot, object);
            }
        }
    }

    /// A call has joined its object's wait queue.
    fn enqueued(&self, slot: SlotPtr, object: ObjectPtr) {
        slot.state.set(State::Waiting);
        object.waiting_len.set(object.waiting_len.get() + 1);
        self.arm_deadline(slot);
        let look_at = slot.deadline.get().min(self.now.get() + PROBE_INTERVAL_NS);
        slot.timer.set(Some(self.set_timer(look_at, Timer::Queued(slot.task()))));
    }

    /// Takes a call out of its object's wait queue.
    pub(super) fn dequeue(&self, slot: SlotPtr, object: ObjectPtr) {
        object.waiting.remove(slot);
        object.waiting_len.set(object.waiting_len.get() - 1);
        slot.state.set(State::Message);
        if let Some(key) = slot.timer.take() {
            self.cancel_timer(key);
        }
    }

    #[inline]
    pub(super) fn grant(&self, object: ObjectPtr, slot: SlotPtr) {
        let lock = object.lock.get();
        object.lock.set(if slot.vtable.get().hold == Hold::Exclusive { -1 } else { lock + 1 });
        object.running.push_back(slot);
        object.depends_on.set(object.depends_on.get().max(slot.depends_on.get()));
        slot.state.set(State::Granted);
    }

    /// The call no longer holds its object. Whoever waits is not granted it yet.
    #[inline]
    pub(super) fn drop_hold(&self, object: ObjectPtr, slot: SlotPtr) {
        object.running.remove(slot);
        let lock = object.lock.get();
        object.lock.set(if slot.vtable.get().hold == Hold::Exclusive { 0 } else { lock - 1 });
    }

    /// Grants the object to those at the head of its queue, in order, as long as they go together.
    #[inline]
    pub(super) fn grant_waiting(&self, object: ObjectPtr) {
        if object.forget.get() || !object.waiting.is_empty() {
            self.grant_those_waiting(object);
        }
    }

    fn grant_those_waiting(&self, object: ObjectPtr) {
        if object.status.get() != Status::Live {
            return;
        }
        if object.forget.get() && object.lock.get() == 0 && !self.forget_now(object) {
            return;
        }
        while let Some(slot) = object.waiting.head.get() {
            if object.status.get() != Status::Live || !may_hold(object, slot) {
                return;
            }
            self.dequeue(slot, object);
            self.grant(object, slot);
            self.schedule_granted(slot, object);
        }
    }

    /// A call is sent away: the chain of its callers' slots becomes a path that can travel.
    pub(super) fn detach_from_parent(&self, slot: SlotPtr) {
        if let Some(parent) = slot.parent.take()
            && let Some(parent) = parent.live()
        {
            slot.path.set(self.own_path(parent));
        }
    }

    /// The task itself as an ancestor, followed by its own.
    pub(super) fn own_path(&self, task: SlotPtr) -> Option<Arc<PathNode>> {
        if let Some(path) = peek(&task.own_path) {
            return Some(path);
        }
        let above = task.path_above().or_else(|| self.own_path(task.parent.get()?.live()?));
        let Some(object) = task.object.get().filter(|_| task.vtable.get().holds) else { return above };
        let node = Arc::new(PathNode {
            object: object.hash(),
            call: self.call_id(task),
            hold: task.vtable.get().hold,
            method: task.vtable.get().id,
            partition: object.partition.get(),
            label: label(object, task),
            parent: above,
        });
        task.own_path.set(Some(node.clone()));
        Some(node)
    }

    /// Whether an ancestor of the call holds the object, and whether the two holds exclude each other.
    fn held_by_ancestor(&self, slot: SlotPtr, object: ObjectPtr) -> Option<Ancestor> {
        let mine = (slot.vtable.get().hold, slot.vtable.get().id);
        let mut shares = None;
        for holder in self.holding_ancestors(slot, object) {
            let vtable = holder.vtable.get();
            if conflict(mine, (vtable.hold, vtable.id)) {
                return Some(Ancestor::Excludes(self.path_text(slot, object)));
            }
            shares = Some(Ancestor::Shares);
        }
        shares
    }

    /// Those among the holders of `object` that are ancestors of the call.
    fn holding_ancestors(&self, slot: SlotPtr, object: ObjectPtr) -> Vec<SlotPtr> {
        let mut holders = Vec::new();
        let mut at = slot;
        while let Some(parent) = at.parent.get().and_then(crate::slot::TaskRef::live) {
            // A method that was ended with its activation still names the place, where the object may live anew.
            let runs = parent.state.get() == State::Running && parent.vtable.get().holds;
            if runs && parent.object.get() == Some(object) {
                holders.push(parent);
            }
            at = parent;
        }
        if let Some(path) = at.path_above() {
            let hash = object.hash();
            for node in path.chain().filter(|node| node.object == hash) {
                holders.extend(object.running.iter().find(|holder| self.call_id(*holder) == node.call));
            }
        }
        holders
    }

    /// The callers of a call and the call itself, outermost first.
    pub(super) fn path_text(&self, slot: SlotPtr, object: ObjectPtr) -> String {
        let mut steps = vec![label(object, slot)];
        let mut at = slot;
        while let Some(parent) = at.parent.get().and_then(crate::slot::TaskRef::live) {
            steps.extend(parent.object.get().map(|object| label(object, parent)));
            at = parent;
        }
        if let Some(path) = at.path_above() {
            steps.extend(path.chain().map(ToString::to_string));
        }
        steps.reverse();
        steps.join(" -> ")
    }

    /// Sets the timer that ends the caller's wait at the deadline, once.
    #[inline]
    pub(super) fn arm_deadline(&self, slot: SlotPtr) {
        let wanted = slot.reply_to.get() == ReplyTo::Caller && slot.deadline.get() != u64::MAX;
        if wanted && slot.caller.timer.get().is_none() {
            let timer = self.set_timer(slot.deadline.get(), Timer::Deadline(slot.task()));
            slot.caller.timer.set(Some(timer));
        }
    }

    /// As [`arm_deadline`](Self::arm_deadline), for a call that leaves the core: most come back long before, so that a
    /// timer is set only for those that are still away after a while.
    #[inline]
    pub(super) fn arm_deadline_later(&self, slot: SlotPtr) {
        if slot.reply_to.get() != ReplyTo::Caller {
            return;
        }
        if !slot.caller.unarmed.get() || slot.deadline.get() < self.arm_at.get() {
            self.note_unarmed(slot);
        }
    }

    #[cold]
    fn note_unarmed(&self, slot: SlotPtr) {
        if !slot.caller.unarmed.replace(true) {
            self.unarmed.borrow_mut().push(slot);
        }
        let soon = slot.deadline.get().min(self.now.get() + ARM_AFTER_NS);
        self.arm_at.set(self.arm_at.get().min(soon));
    }

    /// Calls that were sent away and have not come back get their timers, if it is time; says whether it was.
    pub(super) fn arm_those_away(&self) -> bool {
        if self.now.get() < self.arm_at.get() {
            return false;
        }
        self.arm_at.set(u64::MAX);
        for slot in self.unarmed.take() {
            slot.caller.unarmed.set(false);
            let waits = slot.caller.away.get() != Away::Here && !slot.caller.gone.get();
            let deadline = slot.deadline.get();
            if waits && slot.caller.timer.get().is_none() && deadline != u64::MAX {
                let timer = self.set_timer(deadline, Timer::Deadline(slot.task()));
                slot.caller.timer.set(Some(timer));
            }
        }
        true
    }
}

/// The longest that a call is away before it has a timer for its deadline. A core that sleeps meanwhile sets a timer of the system
/// for it: one that is due later than the system's own tick costs next to nothing.
const ARM_AFTER_NS: u64 = 50_000_000;

enum Ancestor {
    Shares,
    Excludes(String),
}

/// Whether nobody who holds the object excludes this call.
#[inline]
fn may_hold(object: ObjectPtr, slot: SlotPtr) -> bool {
    let vtable = slot.vtable.get();
    match vtable.hold {
        Hold::Exclusive => object.lock.get() == 0,
        Hold::Shared => object.lock.get() >= 0,
        Hold::Serial => {
            let itself = |holder: SlotPtr| {
                holder.vtable.get().hold == Hold::Serial && holder.vtable.get().id == vtable.id
            };
            object.lock.get() >= 0 && !object.running.iter().any(itself)
        }
    }
}

fn label(object: ObjectPtr, slot: SlotPtr) -> String {
    format!("{}.{}", object.label(), slot.vtable.get().name)
}

/// A copy of what is in the cell.
fn peek<T>(cell: &std::cell::Cell<Option<Arc<T>>>) -> Option<Arc<T>> {
    let value = cell.take();
    cell.set(value.clone());
    value
}
