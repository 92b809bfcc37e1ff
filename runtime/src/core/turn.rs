//! Turns: the only place where user code runs, and what becomes of its end.

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Context;

use epicserver_storage::KEY_LENGTH_MAX;

use super::trace::is_traced;
use super::{CoreState, Located, count, is_started};
use crate::activation::{ObjectPtr, Status};
use crate::call::DEPTH_MAX;
use crate::codec::CodecError;
use crate::error::{CallError, Rejection};
use crate::slot::{Away, Content, Hold, ReplyTo, SlotPtr, State};
use crate::task::{Polled, panic_text};

impl CoreState {
    /// Dispatches fresh calls and runs ready tasks, in their order, at most this many.
    pub(super) fn run_turns(&self, turns_max: u32) {
        let is_traced = is_traced();
        self.direct_left.set(self.config.direct_max);
        for _ in 0..turns_max {
            if self.is_save_bound() || self.is_pass_over() {
                break;
            }
            if let Some(slot) = self.outbox.pop_front() {
                self.dispatch(slot);
            } else if let Some(slot) = self.next_ready() {
                self.in_place_left.set(if is_traced || self.is_moving() { 0 } else { IN_PLACE_MAX });
                self.run_turn(slot);
            } else {
                return;
            }
        }
        if self.is_save_bound() {
            self.run_bound(turns_max);
        }
    }

    /// No turns run that could change anything: only those end that wait for calls from outside.
    #[cold]
    fn run_bound(&self, turns_max: u32) {
        self.note_save_bound();
        for _ in 0..turns_max {
            let Some(slot) = self.next_outside() else { return };
            self.run_turn(slot);
        }
    }

    /// Whether as many calls were answered directly as a pass may: those that follow wait for the next one, which looks at
    /// messages and timers first.
    #[inline]
    fn is_pass_over(&self) -> bool {
        self.direct_left.get() == 0 && self.config.direct_max > 0
    }

    fn next_ready(&self) -> Option<SlotPtr> {
        let len = self.ready_len.get();
        if len == 0 {
            return None;
        }
        let nth = self.chaos.as_ref().map_or(0, |chaos| chaos.borrow_mut().usize(..len));
        let slot = self.ready.remove_nth(self.first_of_its_object(nth))?;
        self.ready_len.set(len - 1);
        slot.in_queue.set(false);
        if slot.state.get() == State::Granted
            && let Some(object) = slot.object.get()
        {
            object.unstarted.set(object.unstarted.get() - 1);
        }
        Some(slot)
    }

    /// Calls of one object start in the order they were granted it: the first of those that the `nth` in the run queue
    /// is one of.
    #[inline]
    fn first_of_its_object(&self, nth: usize) -> usize {
        if nth == 0 { nth } else { self.find_first_of_its_object(nth) }
    }

    #[cold]
    fn find_first_of_its_object(&self, nth: usize) -> usize {
        let granted = |slot: SlotPtr| slot.object.get().filter(|_| slot.state.get() == State::Granted);
        match self.ready.iter().nth(nth).and_then(granted) {
            None => nth,
            object => self.ready.iter().position(|slot| granted(slot) == object).unwrap_or(nth),
        }
    }

    /// Puts a call that was granted its object on the run queue.
    #[inline]
    pub(super) fn schedule_granted(&self, slot: SlotPtr, object: ObjectPtr) {
        object.unstarted.set(object.unstarted.get() + 1);
        self.schedule(slot);
    }

    /// Puts a task on the run queue unless it is there.
    #[inline]
    pub(crate) fn schedule(&self, slot: SlotPtr) {
        if !slot.in_queue.replace(true) {
            self.ready_len.set(self.ready_len.get() + 1);
            self.ready.push_back(slot);
        }
    }

    /// A waker of this task was used on this core.
    #[inline]
    pub(crate) fn wake(&self, slot: SlotPtr) {
        if slot.state.get() == State::Running {
            self.schedule(slot);
        }
    }

    /// Brings a message to its object, wherever that is.
    fn dispatch(&self, slot: SlotPtr) {
        if slot.cancelled.get() {
            return self.discard(slot);
        }
        if slot.deadline.get() <= self.admits_after.get() {
            return self.refuse_late(slot);
        }
        if slot.depth.get() > DEPTH_MAX {
            return self.refuse(slot, CallError::Rejected(Rejection::TooDeep));
        }
        if self.script.is_some() && self.intercept(slot) {
            return;
        }
        if self.is_moving() && self.stays(slot) {
            return;
        }
        if let Some(object) = slot.object.get()
            && object.generation.get() == slot.object_generation.get()
        {
            return self.admit(slot, object);
        }
        if slot.object.take().is_none() && self.send_known_way(slot) {
            return;
        }
        match slot.locate(self) {
            Located::Here(object) => self.admit(slot, object),
            Located::Core(core) => match slot.origin() {
                None => self.send_to_core(slot, core),
                Some(home) => self.send_back(slot, home),
            },
            Located::Node(node, partition) => self.send_to_node(slot, node, partition),
            Located::Nowhere => {
                let entity = slot.vtable.get().entity.to_owned();
                self.refuse(slot, CallError::Rejected(Rejection::NotBound(entity)));
            }
            Located::Broken => {
                let text = format!("{} panicked in its default()", slot.vtable.get().entity);
                self.refuse(slot, CallError::Unavailable(text));
            }
            Located::TooLong => {
                let entity = slot.vtable.get().entity;
                let text =
                    format!("the key of {entity}, of which at most {KEY_LENGTH_MAX} bytes are allowed");
                self.refuse(slot, CallError::Rejected(Rejection::TooLarge(text)));
            }
            Located::Unowned => {
                let text = "no node that binds its entity owns its partition".to_owned();
                self.refuse(slot, CallError::Unavailable(text));
            }
        }
    }

    /// Runs a call that was just granted its object: now, if this pass may still do so directly, or in its turn.
    #[inline]
    pub(super) fn run_or_queue(&self, slot: SlotPtr, object: ObjectPtr) {
        let left = self.direct_left.get();
        let coin = self.chaos.as_ref().is_none_or(|chaos| chaos.borrow_mut().bool());
        // Behind those that were granted it before.
        if left > 0 && coin && object.unstarted.get() == 0 {
            self.direct_left.set(left - 1);
            self.run_turn(slot);
        } else {
            self.schedule_granted(slot, object);
        }
    }

    /// Whether a call that was just posted may run inside the poll that makes it: the callee is free and nobody waits for
    /// it; nothing that was posted before waits for dispatch; and the caller's turn has changed nothing that must be saved
    /// at its end. Else it goes the long way, by [`queue_call`](Self::queue_call).
    ///
    /// What makes it sound: `object` is held by nobody, so that no task on the stack is one of its methods, and whatever
    /// ends its activation ends none of them; `running` is back to the caller, with its turn untouched, before the
    /// caller's code goes on; and tasks on the stack are never dropped ([`Slot::polled`](crate::slot::Slot)).
    #[inline]
    pub(crate) fn may_run_in_place(&self, slot: SlotPtr, object: ObjectPtr, hold: Hold) -> bool {
        let free = object.lock.get() == 0 && object.status.get() == Status::Live && object.waiting.is_empty();
        let may_nest = self.in_place_left.get() > 0
            && self.nested.get() < NESTED_MAX
            && !self.touched.get()
            && self.running.get().is_some()
            && self.outbox.is_empty()
            && self.direct_left.get() > 0
            && !self.is_save_bound();
        let in_time = slot.deadline.get() > self.admits_after.get() && slot.depth.get() <= DEPTH_MAX;
        // Serial methods look for each other in the list of running ones, which this one is not on while it is polled.
        free && may_nest && in_time && hold != Hold::Serial && !self.keeps_polls_apart()
    }

    /// The callee's turn begins inside that of its caller.
    #[inline]
    pub(crate) fn begin_in_place(&self, slot: SlotPtr, object: ObjectPtr, hold: Hold) -> Nested<'_> {
        self.in_place_left.set(self.in_place_left.get() - 1);
        self.direct_left.set(self.direct_left.get() - 1);
        count(&self.counters.in_place);
        slot.object.set(Some(object));
        slot.state.set(State::Running);
        slot.polled.set(true);
        object.lock.set(if hold == Hold::Exclusive { -1 } else { 1 });
        object.depends_on.set(object.depends_on.get().max(slot.depends_on.get()));
        Nested::of(self, slot)
    }

    /// The callee has its value and an empty body. Says what the value depends on; or why the state cannot be saved, and leaves the
    /// slot. What follows is [`leave_finished`](Self::leave_finished).
    #[inline]
    pub(crate) fn finish_in_place(
        &self,
        slot: SlotPtr,
        object: ObjectPtr,
        hold: Hold,
    ) -> Result<u64, Box<CodecError>> {
        self.unschedule(slot);
        slot.state.set(State::Reply);
        object.lock.set(if hold == Hold::Exclusive { 0 } else { object.lock.get() - 1 });
        if hold == Hold::Exclusive || self.touched.get() {
            self.take_image(object).map_err(Box::new)?;
        }
        Ok(object.depends_on.get())
    }

    /// The value of a call in place was handed over: gives the slot back.
    #[inline]
    pub(crate) fn leave_finished(&self, slot: SlotPtr, object: ObjectPtr) {
        object.last_used.set(self.now.get());
        if let Some(key) = slot.timer.take() {
            self.cancel_timer(key);
        }
        self.release(slot);
        self.released(object);
    }

    /// The callee of a call in place is not done, or ended badly: it becomes one like all others.
    #[cold]
    pub(crate) fn leave_place(&self, slot: SlotPtr, object: ObjectPtr, end: InPlaceEnd) {
        let end = match end {
            InPlaceEnd::Outgrown(error) => return self.outgrown(slot, object, *error),
            end => end,
        };
        object.running.push_back(slot);
        match end {
            InPlaceEnd::Suspended => {
                slot.announce();
                self.suspend(slot);
            }
            InPlaceEnd::Broken(text) => self.broken(slot, text),
            InPlaceEnd::BrokenAtStart(text) => self.broken_at_start(slot, object, text),
            InPlaceEnd::Outgrown(_) => {}
        }
    }

    /// Scripts see each call as a syscall; of a simulated run the seed decides.
    #[inline]
    pub(super) fn keeps_polls_apart(&self) -> bool {
        self.script.is_some() || self.chaos.as_ref().is_some_and(|chaos| chaos.borrow_mut().bool())
    }

    fn run_turn(&self, slot: SlotPtr) {
        match slot.state.get() {
            State::Granted if !self.begin_method(slot) => return,
            State::Running if slot.cancelled.get() && self.stop_cancelled(slot) => return,
            State::Granted | State::Running => {}
            _ => return,
        }
        let polled = self.poll(slot);
        match polled {
            Ok(Polled::Pending) => self.suspend(slot),
            Ok(Polled::Ready) => self.finish(slot),
            Ok(Polled::Broken) => self.broken(slot, None),
            Err(panic) => self.broken(slot, Some(panic_text(&*panic))),
        }
    }

    /// Turns the message of a granted call into a future; `false` if there is no use in it any more.
    #[inline]
    fn begin_method(&self, slot: SlotPtr) -> bool {
        let Some(object) = slot.object.get() else { return false };
        let is_late = slot.cancelled.get() || slot.deadline.get() <= self.admits_after.get();
        if is_late && self.ends_unstarted(slot, object) {
            return false;
        }
        count(&self.counters.calls);
        // Generated methods make their future without running a line; one that is written by hand may do anything.
        match catch_unwind(AssertUnwindSafe(|| slot.start(object))) {
            Ok(()) => true,
            Err(panic) => {
                self.broken_at_start(slot, object, panic_text(&*panic));
                false
            }
        }
    }

    /// A method panicked before there was a future; its message is gone.
    #[cold]
    fn broken_at_start(&self, slot: SlotPtr, object: ObjectPtr, text: String) {
        log_panic(slot, Some(&text));
        self.drop_hold(object, slot);
        slot.fail_in_place(None, CallError::Panicked(text));
        slot.depends_on.set(object.depends_on.get());
        self.reply(slot);
        self.kill(object, &CallError::OutcomeUnknown(crate::error::Loss::OwnerLost));
    }

    /// One turn: user code runs here and nowhere else.
    #[inline]
    fn poll(&self, slot: SlotPtr) -> std::thread::Result<Polled> {
        // Not dropped: such wakers count nothing, and dropping one is an indirect call for nothing.
        let waker = ManuallyDrop::new(crate::waker::of(slot));
        let mut context = Context::from_waker(&waker);
        count(&self.counters.turns);
        self.touched.set(false);
        self.running.set(Some(slot));
        slot.polled.set(true);
        let mut poll = || catch_unwind(AssertUnwindSafe(|| slot.poll(&mut context)));
        let polled = if is_traced() {
            self.poll_in_span(slot, poll, |polled| !matches!(polled, Ok(Polled::Pending)))
        } else {
            poll()
        };
        slot.polled.set(false);
        self.running.set(None);
        polled
    }

    /// The method waits for something.
    fn suspend(&self, slot: SlotPtr) {
        if !slot.vtable.get().holds {
            // What ended its object meanwhile could not drop it.
            if slot.cancelled.get() {
                self.drop_future(slot);
                self.finish_loose(slot);
            }
            return;
        }
        let Some(object) = slot.object.get() else { return };
        if self.touched.get()
            && slot.vtable.get().hold != Hold::Exclusive
            && let Err(error) = self.take_image(object)
        {
            self.drop_future(slot);
            self.drop_hold(object, slot);
            return self.outgrown(slot, object, error);
        }
        self.arm_deadline(slot);
        self.arm_overdue(slot);
    }

    /// The task is done; a method's body holds its reply.
    #[inline]
    fn finish(&self, slot: SlotPtr) {
        self.unschedule(slot);
        let vtable = slot.vtable.get();
        let object = match slot.object.get() {
            Some(object) if vtable.holds => object,
            _ => return self.finish_loose(slot),
        };
        slot.state.set(State::Reply);
        self.drop_hold(object, slot);
        if (vtable.hold == Hold::Exclusive || self.touched.get())
            && let Err(error) = self.take_image(object)
        {
            self.drop_safely(slot, Content::Reply);
            return self.outgrown(slot, object, error);
        }
        object.last_used.set(self.now.get());
        slot.depends_on.set(if vtable.ungated { 0 } else { object.depends_on.get() });
        self.reply(slot);
        self.released(object);
    }

    /// The state has grown beyond what can be saved: the activation goes, with the change. The method whose change it was
    /// let go of the object and has an empty body. It ran, so that it is no plain rejection.
    #[cold]
    fn outgrown(&self, slot: SlotPtr, object: ObjectPtr, error: CodecError) {
        let error = self.unsaved(object, error);
        slot.fail_in_place(None, CallError::Nested(Box::new(error)));
        slot.depends_on.set(object.depends_on.get());
        self.reply(slot);
        self.kill(object, &CallError::OutcomeUnknown(crate::error::Loss::OwnerLost));
    }

    /// The task panicked: its object cannot be trusted any more. Without a text the body holds the reply already.
    #[cold]
    fn broken(&self, slot: SlotPtr, panic: Option<String>) {
        self.unschedule(slot);
        let vtable = slot.vtable.get();
        log_panic(slot, panic.as_deref());
        let content = if panic.is_some() { Content::Future } else { Content::Reply };
        if !vtable.holds {
            if panic.is_some() {
                self.drop_future(slot);
            }
            return self.finish_loose(slot);
        }
        let Some(object) = slot.object.get() else { return };
        self.drop_hold(object, slot);
        slot.state.set(State::Reply);
        self.drop_safely(slot, content);
        let text = panic.unwrap_or_else(|| "while its future was dropped".to_owned());
        slot.fail_in_place(None, CallError::Panicked(text));
        slot.depends_on.set(object.depends_on.get());
        self.reply(slot);
        if object.status.get() == Status::Activating {
            // Starting again would panic again: those who wait are told.
            self.refuse_waiting(
                object,
                &CallError::Unavailable(format!("{}.{} panicked", object.label(), vtable.name)),
            );
        }
        self.kill(object, &CallError::OutcomeUnknown(crate::error::Loss::OwnerLost));
    }

    /// Drops the future of a task that ends before it is done; gives whether no destructor panicked. It can no longer be
    /// woken then: one part of a future often wakes another when it is dropped, as the guard of a mutex does.
    pub(super) fn drop_future(&self, slot: SlotPtr) -> bool {
        self.unschedule(slot);
        slot.state.set(State::Reply);
        self.drop_safely(slot, Content::Future)
    }

    /// Drops what is in a slot's body. A destructor that panics stops nothing here; gives whether none did.
    pub(super) fn drop_safely(&self, slot: SlotPtr, content: Content) -> bool {
        let dropped = catch_unwind(AssertUnwindSafe(|| slot.drop_content(content)));
        if dropped.is_err() {
            tracing::warn!(method = slot.vtable.get().name, "a destructor panicked");
        }
        dropped.is_ok()
    }

    /// Ends a call whose method never started with an error.
    #[cold]
    pub(crate) fn refuse(&self, slot: SlotPtr, error: CallError) {
        debug_assert!(!is_started(slot.state.get()), "a call that runs was to be refused");
        self.drop_safely(slot, Content::Message);
        slot.fail_in_place(None, error);
        slot.depends_on.set(0);
        self.reply(slot);
    }

    /// Ends a call that nobody waits for any more and that never started.
    #[cold]
    pub(super) fn discard(&self, slot: SlotPtr) {
        self.refuse(slot, CallError::Rejected(Rejection::Expired));
    }

    /// Brings the reply in a slot's body to whoever waits for it.
    #[inline(always)]
    pub(super) fn reply(&self, slot: SlotPtr) {
        if let Some(key) = slot.timer.get() {
            slot.timer.set(None);
            self.cancel_timer(key);
        }
        match slot.reply_to.get() {
            ReplyTo::Caller | ReplyTo::Nobody => self.hand_back(slot),
            ReplyTo::Node => self.reply_to_node(slot),
            ReplyTo::Core => {
                if let Some(home) = slot.origin() {
                    self.send_home(slot, home);
                }
            }
        }
    }

    /// Nobody waits for the reply.
    #[inline(never)]
    fn drop_reply(&self, slot: SlotPtr) {
        self.drop_safely(slot, Content::Reply);
        self.release(slot);
    }

    /// The slot is home again and holds the reply.
    #[inline(always)]
    pub(super) fn hand_back(&self, slot: SlotPtr) {
        slot.caller.away.set(Away::Here);
        if slot.reply_to.get() == ReplyTo::Nobody || slot.caller.gone.get() {
            return self.drop_reply(slot);
        }
        slot.caller.done.set(true);
        if let Some(key) = slot.caller.timer.get() {
            slot.caller.timer.set(None);
            self.cancel_timer(key);
        }
        if let Some(waker) = slot.caller.waker.take() {
            crate::waker::wake_on(self, waker);
        }
    }
}

/// How a call in place ended that gave no value.
pub(crate) enum InPlaceEnd {
    Suspended,
    /// It panicked with this text; without one the body holds the reply already.
    Broken(Option<String>),
    /// It panicked before there was a future.
    BrokenAtStart(String),
    /// It is done, and its state cannot be saved; the body is empty.
    Outgrown(Box<CodecError>),
}

/// Says whose code panicked. Without a text it did while its future was dropped.
fn log_panic(slot: SlotPtr, panic: Option<&str>) {
    let vtable = slot.vtable.get();
    // A future that was spawned outside of every method belongs to no object.
    let object = slot.object.get().map(|object| tracing::field::display(object.label()));
    if vtable.holds {
        tracing::warn!(object, method = vtable.name, panic, "a method panicked");
    } else {
        tracing::warn!(object, panic, "a spawned future panicked");
    }
}

/// A callee is polled inside its caller's poll; dropping this gives the turn back to the caller.
pub(crate) struct Nested<'a> {
    core: &'a CoreState,
    caller: Option<SlotPtr>,
}

impl<'a> Nested<'a> {
    #[inline]
    fn of(core: &'a CoreState, callee: SlotPtr) -> Self {
        core.nested.set(core.nested.get() + 1);
        Self { core, caller: core.running.replace(Some(callee)) }
    }

    /// The callee's poll has returned; what comes now is the runtime's time.
    #[inline]
    pub(crate) fn polled(&self, callee: SlotPtr) {
        callee.polled.set(false);
        self.core.running.set(None);
    }
}

impl Drop for Nested<'_> {
    #[inline]
    fn drop(&mut self) {
        self.core.nested.set(self.core.nested.get() - 1);
        self.core.running.set(self.caller);
        // It was not when the call was made; what the callee touched is saved.
        self.core.touched.set(false);
    }
}

/// How many polls lie in one another at most: beyond it calls go the long way, so that the stack has a bound.
const NESTED_MAX: u8 = 8;

/// How many calls run inside polls, from one task of the run queue to the next: then the others have their turn. Beyond a
/// dozen there is nothing left to win.
pub(crate) const IN_PLACE_MAX: u32 = 16;
