//! Tasks without a hold on an object: spawned futures, and calls that come from outside.

use std::future::Future;
use std::sync::atomic::Ordering;

use super::CoreState;
use crate::error::{CallError, Rejection};
use crate::registry::{Job, Note};
use crate::slot::{Content, ReplyTo, SlotPtr, State};
use crate::task::new_task;

impl CoreState {
    /// Starts a task on this core. It belongs to the object whose turn it is, if there is one, and ends with it.
    pub(crate) fn spawn_loose<F: Future<Output = ()> + 'static>(&self, future: F) -> Result<(), CallError> {
        let slot = new_task(&self.slots, future).ok_or(CallError::Rejected(Rejection::Overloaded))?;
        slot.reply_to.set(ReplyTo::Nobody);
        slot.deadline.set(u64::MAX);
        slot.depth.set(0);
        slot.root_ms.set(self.now_ms());
        slot.counter.set(self.next_counter());
        slot.parent.set(None);
        // Else a search for cycles could take it for a call of whoever used the slot before.
        slot.caller.parent.set(None);
        slot.cancelled.set(false);
        slot.depends_on.set(self.dependence());
        let object = self.running.get().and_then(|task| task.object.get());
        slot.object.set(object);
        self.spawned.set(self.spawned.get() + usize::from(object.is_some()));
        self.loose.push_back(slot);
        self.schedule(slot);
        Ok(())
    }

    /// A task without an object is done; its body is empty.
    pub(super) fn finish_loose(&self, slot: SlotPtr) {
        self.loose.remove(slot);
        self.leave_object(slot);
        slot.state.set(State::Reply);
        self.release(slot);
    }

    /// Ends the tasks that `ends` says.
    pub(super) fn stop_loose(&self, ends: impl Fn(SlotPtr) -> bool) {
        let mut ended: Vec<SlotPtr> = self.loose.iter().filter(|slot| ends(*slot)).collect();
        // One that is being polled ends when its poll has returned.
        for slot in ended.extract_if(.., |slot| slot.polled.get()) {
            slot.cancelled.set(true);
            self.leave_object(slot);
        }
        // All out of the list and the run queue first: what their destructors do may come back here, and may wake them.
        for slot in &ended {
            self.unschedule(*slot);
            self.loose.remove(*slot);
            self.leave_object(*slot);
            slot.state.set(State::Reply);
        }
        for slot in ended {
            self.drop_safely(slot, Content::Future);
            self.release(slot);
        }
    }

    /// A task is its object's no more, if it was one's.
    fn leave_object(&self, slot: SlotPtr) {
        let was_spawned = slot.object.take().is_some();
        self.spawned.set(self.spawned.get() - usize::from(was_spawned));
    }

    /// Takes a slot out of the run queue, if it is there: a task that ends may have woken itself in its last turn.
    #[inline]
    pub(super) fn unschedule(&self, slot: SlotPtr) {
        if slot.in_queue.get() {
            self.leave_run_queue(slot);
        }
    }

    #[cold]
    fn leave_run_queue(&self, slot: SlotPtr) {
        slot.in_queue.set(false);
        if self.ready.remove(slot) {
            self.ready_len.set(self.ready_len.get() - 1);
        }
    }

    /// A note of a wake has come. The slot may be with another core by now, and the wakes of its present use may have
    /// been left out because of this note: so it goes on there. The swap sees all that those who left it out had seen.
    fn woken(&self, slot: SlotPtr) {
        slot.woken.swap(false, Ordering::AcqRel);
        match slot.home() {
            core if core == self.number => self.wake(slot),
            core => crate::registry::wake_from_outside(core, slot),
        }
    }

    /// Takes what other threads have left.
    pub(super) fn clear_desk(&self) {
        let mut notes = Vec::new();
        self.desk.take_notes(&mut notes);
        for note in notes {
            match note {
                Note::Woken(slot) => self.woken(slot),
                Note::Abandoned(slot) => {
                    self.abandon(slot);
                }
            }
        }
        let mut jobs: Vec<Job> = Vec::new();
        self.desk.jobs.drain_into(&mut jobs);
        for job in jobs {
            job(self);
        }
    }
}
