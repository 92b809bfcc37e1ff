//! Calls between the cores of a node: how they leave, how they are taken in, and how they come back.
//!
//! ```text
//!   home core                                                 core of the object
//!   send, depart --Call-->    arrive: may_run_on_arrival? --yes--> in place, at once: no queue, no second look
//!                                        | no
//!                                        v
//!                            outbox, dispatch, like every other call
//!   hand_back  <--Reply--    reply
//! ```
//! What goes into a ring goes at once, in the middle of a turn or of a look at another ring: while it is on its way this core
//! does what is left to do. The ring orders it behind what was sent before, also behind what found no room.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::trace::is_traced;
use super::{Action, CoreState, count};
use crate::activation::{CatalogEntry, ObjectPtr, Status};
use crate::call::DEPTH_MAX;
use crate::entity::{Entity, Stored};
use crate::parcel::{Blank, CoreMessage, Said, Visit};
use crate::slot::{Away, Hold, SlotPtr, State, TaskRef};
use epicserver_sync::ring::{Producer, Taken};

/// The ways to the other cores of the node.
#[derive(Default)]
pub(super) struct Ways(RefCell<Vec<Option<Way>>>);

/// The way to another core. A core that is stepped by hand has none, and says what it has to say by actions.
struct Way {
    ring: Producer<CoreMessage>,
    /// Messages that found the ring full, in order. As many as there are calls under way at most.
    waiting: VecDeque<CoreMessage>,
    /// Something was sent since the other core was last woken.
    told: bool,
}

impl Ways {
    /// Puts a message into the ring to a core where it is free and nothing waits before it.
    #[inline(always)]
    fn try_send<W>(&self, core: u16, write: W) -> Result<(), W>
    where
        W: FnOnce(&mut Blank) -> &mut CoreMessage,
    {
        let mut ways = self.0.borrow_mut();
        let Some(Some(way)) = ways.get_mut(usize::from(core)) else { return Err(write) };
        if !way.waiting.is_empty() {
            return Err(write);
        }
        let Some(place) = way.ring.vacant() else { return Err(write) };
        place.fill(write);
        way.told = true;
        Ok(())
    }

    /// Adds the way to a core.
    pub(super) fn add(&self, core: u16, ring: Producer<CoreMessage>) {
        let mut ways = self.0.borrow_mut();
        let places = ways.len().max(usize::from(core) + 1);
        ways.resize_with(places, || None);
        ways[usize::from(core)] = Some(Way { ring, waiting: VecDeque::new(), told: false });
    }

    /// Puts what waited for room on its way, as far as there is some now. `wake` is told of each core to which something was
    /// sent since the last time.
    pub(super) fn flush(&self, mut wake: impl FnMut(u16)) {
        let mut ways = self.0.borrow_mut();
        for (core, way) in (0..).zip(&mut *ways) {
            let Some(way) = way else { continue };
            while let Some(message) = way.waiting.pop_front() {
                if let Err(message) = way.ring.try_push(message) {
                    way.waiting.push_front(message);
                    break;
                }
                way.told = true;
            }
            if std::mem::take(&mut way.told) {
                wake(core);
            }
        }
    }

    /// Whether something waits for room.
    pub(super) fn has_waiting(&self) -> bool {
        self.0.borrow().iter().flatten().any(|way| !way.waiting.is_empty())
    }

    /// Asks those for room for whom something waits; `true` if there is some already. Else this core is woken when there is.
    pub(super) fn want_room(&self) -> bool {
        let mut ways = self.0.borrow_mut();
        ways.iter_mut().flatten().any(|way| !way.waiting.is_empty() && way.ring.want_room())
    }
}

impl CoreState {
    /// This core's place in its node.
    #[inline]
    pub(crate) fn index(&self) -> u16 {
        self.config.index
    }

    /// The place of a slot's core in the node. The cores of a node have numbers that follow each other.
    pub(super) fn index_of(&self, slot: SlotPtr) -> u16 {
        (slot.home() - (self.number - u32::from(self.config.index))) as u16
    }

    /// Says something to another core of the node.
    #[inline(always)]
    pub(crate) fn send(&self, core: u16, write: impl FnOnce(&mut Blank) -> &mut CoreMessage) {
        if let Err(write) = self.ways.try_send(core, write) {
            self.tell(core, CoreMessage::written(write));
        }
    }

    /// As [`send`](Self::send), what is said seldom.
    #[inline(never)]
    pub(super) fn tell(&self, core: u16, message: CoreMessage) {
        let mut ways = self.ways.0.borrow_mut();
        let Some(Some(way)) = ways.get_mut(usize::from(core)) else {
            drop(ways);
            return self.act(Action::Message(core, Box::new(message)));
        };
        way.told = true;
        let unsent = if way.waiting.is_empty() { way.ring.try_push(message) } else { Err(message) };
        if let Err(message) = unsent
            && (way.waiting.is_empty() || !message.may_be_left_out())
        {
            way.waiting.push_back(message);
        }
    }

    /// Whether a call that was just posted may be sent to the core where its object is known to be, and nothing waits for
    /// dispatch before it; else it goes the long way.
    #[inline]
    pub(crate) fn may_leave_at_once(&self, slot: SlotPtr) -> bool {
        let may_leave = self.outbox.is_empty()
            && !self.is_moving()
            && self.running.get().is_some()
            && self.script.is_none();
        may_leave && slot.deadline.get() > self.admits_after.get() && slot.depth.get() <= DEPTH_MAX
    }

    /// As [`may_leave_at_once`](Self::may_leave_at_once), for a call to another node: its arguments are serialised at once too, so
    /// that it may not be made by code that a serialiser runs.
    #[inline]
    pub(crate) fn may_be_sent_at_once(&self, slot: SlotPtr) -> bool {
        self.may_leave_at_once(slot) && self.scratch.try_borrow_mut().is_ok()
    }

    /// The call in this slot goes to another core, or went there just now: the body is lent, everything else stays here.
    #[inline]
    pub(crate) fn depart(&self, slot: SlotPtr, core: u16) {
        count(&self.counters.cross_core_calls);
        self.detach_from_parent(slot);
        slot.caller.away.set(Away::Core(core));
        self.arm_deadline_later(slot);
        slot.state.set(State::Lent);
    }

    /// Sends a call whose message is in its slot.
    pub(crate) fn send_to_core(&self, slot: SlotPtr, core: u16) {
        self.send(core, |place| CoreMessage::call(place, slot, self.config.index));
        self.depart(slot, core);
    }

    /// A slot of this core for a call that has come from another one. Beyond the bound on calls: each of them has a slot of its
    /// own core, which is within the bound there.
    #[inline]
    pub(crate) fn host(&self, visit: &Visit) -> SlotPtr {
        let guest =
            self.slots.allocate_beyond(visit.vtable).expect("slots are made when there are none left");
        guest.host(visit.home);
        guest.deadline.set(visit.deadline);
        guest.depth.set(visit.depth);
        guest.root_ms.set(visit.root_ms);
        guest.depends_on.set(visit.depends_on);
        guest.parent.set(None);
        guest.object.set(None);
        guest.cancelled.set(false);
        // Its caller is elsewhere.
        guest.caller.parent.set(None);
        guest.caller.done.set(false);
        guest.caller.gone.set(false);
        guest
    }

    /// The object that a call may run on which has just come, if it may run at once: as a call in place, but that there is
    /// no caller's poll around it.
    #[inline]
    pub(crate) fn may_run_on_arrival<E: Entity>(
        &self,
        guest: SlotPtr,
        key: &Stored<E>,
        hold: Hold,
    ) -> Option<ObjectPtr> {
        let depends_on = guest.depends_on.get();
        if !self.may_begin_a_turn() || self.saving.is_failed(depends_on) {
            return None;
        }
        self.pass_to(depends_on);
        let object = self.entry::<E>().and_then(CatalogEntry::typed::<E>)?.find(u32::MAX, key)?;
        self.may_run_now(guest, object, hold).then_some(object)
    }

    /// Whether calls may run as soon as they come from elsewhere, but for what is in the way of the single call.
    #[inline]
    pub(super) fn may_begin_a_turn(&self) -> bool {
        !self.is_moving() && !is_traced() && self.outbox.is_empty()
    }

    /// Whether a call that has come from elsewhere may run on this object now; its turn begins then. What came before it, and waits,
    /// is first.
    #[inline]
    pub(super) fn may_run_now(&self, slot: SlotPtr, object: ObjectPtr, hold: Hold) -> bool {
        let free = object.lock.get() == 0 && object.status.get() == Status::Live && object.waiting.is_empty();
        let is_next = self.outbox.is_empty() && self.direct_left.get() > 0 && !self.is_save_bound();
        let in_time = slot.deadline.get() > self.admits_after.get() && slot.depth.get() <= DEPTH_MAX;
        let may_run = free && is_next && in_time && hold != Hold::Serial && !self.keeps_polls_apart();
        if may_run {
            // A turn of its own begins.
            self.in_place_left.set(super::turn::IN_PLACE_MAX);
            self.touched.set(false);
        }
        may_run
    }

    /// What another core has said.
    #[inline]
    pub(super) fn handle_message(&self, parcel: Taken<'_, CoreMessage>) {
        match CoreMessage::open(self, parcel) {
            Said::Taken => {}
            Said::Replied(slot, depends_on) => self.come_back(slot, depends_on),
            Said::Returned(slot) => {
                slot.state.set(State::Message);
                slot.caller.away.set(Away::Here);
                slot.cancelled.set(slot.cancelled.get() || slot.caller.gone.get());
                if !(self.is_moving() && self.stays(slot)) {
                    self.arrive(slot);
                }
            }
            Said::Cancelled(task) => {
                if let Some(guest) = task.slot.guest_on(self.number) {
                    self.cancel_here(guest);
                }
            }
            Said::Frame(frame) => self.handle_frame(*frame),
            Said::Probe(probe) => self.continue_probe(*probe),
            Said::Settle(settle) => self.handle_settle(settle),
        }
    }

    /// The reply to a call of this core is in its slot.
    #[inline]
    fn come_back(&self, slot: SlotPtr, depends_on: u64) {
        slot.state.set(State::Reply);
        slot.depends_on.set(depends_on);
        if self.saving.is_failed(depends_on) {
            self.spoil_reply(slot);
        }
        self.pass_to(depends_on);
        self.hand_back(slot);
    }

    /// The reply in a guest's body goes to the core that its caller is on.
    #[inline(never)]
    pub(super) fn send_home(&self, guest: SlotPtr, home: SlotPtr) {
        let depends_on = guest.depends_on.get();
        self.send(self.index_of(home), |place| CoreMessage::reply(place, guest, home, depends_on));
        self.release(guest);
    }

    /// A call does not run here: its object left the node while it came, or it was sent here by mistake. Only its own core may
    /// send it elsewhere, as a cancel goes to where that has sent it.
    #[cold]
    pub(super) fn send_back(&self, guest: SlotPtr, home: SlotPtr) {
        self.tell(self.index_of(home), CoreMessage::give_back(guest, home));
        guest.state.set(State::Reply);
        self.release(guest);
    }

    /// The call on this core that a task of this or another core stands for.
    pub(super) fn here(&self, task: TaskRef) -> Option<SlotPtr> {
        if task.slot.home() == self.number { task.live() } else { task.slot.guest_on(self.number) }
    }
}
