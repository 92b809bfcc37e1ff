//! Partitions that move to another node: emptied here, one by one, while the rest of the node goes on.
//!
//! ```text
//!   view: this node owns it, moving to another
//!     -> calls below a method that holds something on the move run, all others are parked
//!     -> objects that nobody uses are closed, hook and all, and carried (`carried.rs`); after 2 s the rest is ended
//!     -> all of that is durable -> Action::Drained
//!   view: another node owns it -> what is parked goes there
//!   view: it stays             -> what is parked runs here, on objects that start from what is carried
//! ```
//! Nothing is forwarded: callers send again what was parked for them, in order with what they held back meanwhile
//! (`remote/moved.rs`). The core that serves the partition does all of it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use epicserver_storage::{NodeId, Partition};

use super::{Action, CoreState, Timer};
use crate::activation::{ObjectPtr, Status};
use crate::error::{CallError, Loss, Rejection};
use crate::membership::Handover;
use crate::routes::{Place, Routes};
use crate::shipment::Drained;
use crate::slot::{SlotPtr, State, TaskRef};

/// The partitions of this core that are on the move.
#[derive(Default)]
pub(super) struct Drains(RefCell<BTreeMap<u16, Drain>>);

struct Drain {
    to: NodeId,
    epoch: u64,
    /// When whatever still runs is ended.
    until: u64,
    /// The activations, each with the use of its memory.
    left: Vec<(ObjectPtr, u32)>,
    /// The last batch that what was closed depends on.
    depends_on: u64,
    /// Since nothing is in memory any more: the batch that must be settled.
    settled_by: Option<u64>,
    /// Calls that wait for the next view, in order.
    parked: VecDeque<SlotPtr>,
    /// Everything is out.
    is_done: bool,
}

impl CoreState {
    /// Whether a partition is being emptied here.
    pub(super) fn is_draining(&self, partition: u16) -> bool {
        self.drains.0.borrow().contains_key(&partition)
    }

    pub(super) fn has_drains(&self) -> bool {
        !self.drains.0.borrow().is_empty()
    }

    /// Whether something was closed whose batch is not durable yet.
    pub(super) fn drains_want_commit(&self) -> bool {
        let waits = |drain: &Drain| drain.settled_by.is_some_and(|number| !self.saving.is_settled(number));
        self.drains.0.borrow().values().any(waits)
    }

    /// Ends the moves that a view does not have. What was parked is dispatched again, before what was made later.
    pub(super) fn end_moves(&self, routes: &Routes) {
        let fits =
            |partition: u16, drain: &Drain| self.move_in(routes, partition) == Some((drain.to, drain.epoch));
        let ended: Vec<Drain> = {
            let mut drains = self.drains.0.borrow_mut();
            drains
                .extract_if(.., |partition, drain| !fits(*partition, drain))
                .map(|(_, drain)| drain)
                .collect()
        };
        for drain in ended {
            for slot in drain.parked.into_iter().rev() {
                self.unpark_call(slot);
                self.outbox.push_front(slot);
            }
        }
        self.note_moving();
    }

    /// Where the view moves a partition of this core, and at which epoch.
    fn move_in(&self, routes: &Routes, partition: u16) -> Option<(NodeId, u64)> {
        if routes.place(partition) != Place::Here(self.config.index) {
            return None;
        }
        let state = routes.view().partition(Partition::new(partition)?);
        Some((state.moving_to?, state.epoch))
    }

    /// Begins the moves that are new in a view.
    pub(super) fn begin_moves(&self, routes: &Routes) {
        let until = self.now.get() + DRAIN_NS_MAX;
        let fresh = |partition: u16| {
            let (to, epoch) = self.move_in(routes, partition).filter(|_| !self.is_draining(partition))?;
            let drain = Drain {
                to,
                epoch,
                until,
                left: Vec::new(),
                depends_on: 0,
                settled_by: None,
                parked: VecDeque::new(),
                is_done: false,
            };
            Some((partition, drain))
        };
        let mut begun: BTreeMap<u16, Drain> = (0..epicserver_storage::PARTITIONS).filter_map(fresh).collect();
        if begun.is_empty() {
            return;
        }
        for object in self.objects() {
            if let Some(drain) = begun.get_mut(&object.partition.get()) {
                drain.left.push((object, object.generation.get()));
            }
        }
        self.drains.0.borrow_mut().append(&mut begun);
        self.note_moving();
        self.set_timer(until, Timer::Look);
    }

    /// An object of a partition that moves was activated: for a call by path.
    pub(super) fn note_activated(&self, object: ObjectPtr) {
        if let Some(drain) = self.drains.0.borrow_mut().get_mut(&object.partition.get()) {
            drain.left.push((object, object.generation.get()));
        }
    }

    /// An object leaves memory. If its partition moves, what it is goes along.
    pub(super) fn carry_if_moving(&self, object: ObjectPtr) {
        let partition = object.partition.get();
        if !self.is_moving() || !self.is_draining(partition) {
            return;
        }
        self.carry(object);
        if let Some(drain) = self.drains.0.borrow_mut().get_mut(&partition) {
            let depends_on = object.depends_on.get().max(object.image_batch.get());
            drain.depends_on = drain.depends_on.max(depends_on);
        }
    }

    /// Closes what nobody uses, ends what had its time, and gives away what is empty.
    pub(super) fn look_at_drains(&self) {
        let open: Vec<u16> = {
            let drains = self.drains.0.borrow();
            drains.iter().filter(|(_, drain)| !drain.is_done).map(|(partition, _)| *partition).collect()
        };
        let mut closes_left = CLOSES_PER_LOOK;
        for partition in open {
            self.close_some(partition, &mut closes_left);
            self.give_away(partition);
        }
        if closes_left == 0 {
            self.set_timer(self.now.get() + 1, Timer::Look);
        }
    }

    fn close_some(&self, partition: u16, closes_left: &mut usize) {
        let (left, is_late) = {
            let mut drains = self.drains.0.borrow_mut();
            let Some(drain) = drains.get_mut(&partition) else { return };
            (std::mem::take(&mut drain.left), drain.until <= self.now.get())
        };
        let still = |(object, generation): &(ObjectPtr, u32)| {
            object.generation.get() == *generation && object.status.get() != Status::Vacant
        };
        let mut kept = Vec::new();
        for (object, generation) in left {
            if still(&(object, generation)) && *closes_left > 0 && self.close_object(object) {
                *closes_left -= 1;
            }
            if still(&(object, generation)) && is_late {
                self.end_late_object(object);
            }
            if still(&(object, generation)) {
                kept.push((object, generation));
            }
        }
        // Destructors may have brought others in meanwhile.
        if let Some(drain) = self.drains.0.borrow_mut().get_mut(&partition) {
            drain.left.append(&mut kept);
        }
    }

    /// An object is in use beyond the time that a move may take: its calls end. Its state goes along if nothing that runs can have
    /// left it half changed.
    fn end_late_object(&self, object: ObjectPtr) {
        tracing::warn!(object = object.label(), "its partition moves, and what ran for too long was ended");
        let is_whole = object.status.get() == Status::Live && object.lock.get() >= 0;
        if is_whole {
            if object.dirty.get()
                && let Err(error) = self.write_image(object)
            {
                tracing::error!(object = object.label(), %error, "a state cannot be saved");
            }
            self.carry_if_moving(object);
        }
        self.kill(object, &CallError::OutcomeUnknown(Loss::OwnerLost));
    }

    /// A partition that is empty is the next owner's once every batch with something of it is durable, or failed: this node could
    /// not commit one afterwards.
    fn give_away(&self, partition: u16) {
        let mut drains = self.drains.0.borrow_mut();
        let Some(drain) = drains.get_mut(&partition) else { return };
        let Some(number) = Partition::new(partition) else { return };
        if !drain.left.is_empty() {
            // Something came back that had been closed.
            return drain.settled_by = None;
        }
        // What was dropped before the move is saved in one of these batches, too.
        let last = self.saving.reload_after.get().max(drain.depends_on);
        let settled_by = *drain.settled_by.get_or_insert(last);
        if !self.saving.is_settled(settled_by) {
            return;
        }
        drain.is_done = true;
        let handover = Handover { partition: number, epoch: drain.epoch, to: drain.to };
        let records = Arc::new(self.carried_stream(partition));
        self.act(Action::Drained(Box::new(Drained { handover, records })));
    }

    /// Whether one of a call's callers holds an object of a partition that moves, this one or another, here or elsewhere: that one
    /// cannot be let go of before this call has returned, and two of them could wait for each other.
    fn is_by_path(&self, slot: SlotPtr) -> bool {
        let routes = self.routes.borrow();
        let moves = |partition: u16| {
            let partition = Partition::new(partition);
            partition.is_some_and(|partition| routes.view().partition(partition).moving_to.is_some())
        };
        let mut at = slot;
        while let Some(parent) = at.parent.get().and_then(TaskRef::live) {
            let holds = parent.state.get() == State::Running && parent.vtable.get().holds;
            if holds && parent.object.get().is_some_and(|object| moves(object.partition.get())) {
                return true;
            }
            at = parent;
        }
        let path = at.path.take();
        let is_below = path.iter().flat_map(|path| path.chain()).any(|node| moves(node.partition));
        at.path.set(path);
        is_below
    }

    /// Keeps a call that is about to be dispatched, if its partition moves; gives whether it is done with.
    pub(super) fn parks(&self, slot: SlotPtr, partition: u16) -> bool {
        let mut drains = self.drains.0.borrow_mut();
        let Some(drain) = drains.get_mut(&partition) else { return false };
        if !drain.is_done && self.is_by_path(slot) {
            return false;
        }
        if drain.parked.len() >= self.config.waiting_max as usize {
            drop(drains);
            self.refuse(slot, CallError::Rejected(Rejection::Overloaded));
            return true;
        }
        drain.parked.push_back(slot);
        drop(drains);
        slot.object.set(None);
        slot.state.set(State::Parked);
        if slot.deadline.get() != u64::MAX {
            slot.timer.set(Some(self.set_timer(slot.deadline.get(), Timer::Kept(slot.task()))));
        }
        true
    }

    fn unpark_call(&self, slot: SlotPtr) {
        slot.state.set(State::Message);
        if let Some(key) = slot.timer.take() {
            self.cancel_timer(key);
        }
    }

    /// Takes a call out that is parked.
    pub(super) fn take_parked(&self, slot: SlotPtr) {
        for drain in self.drains.0.borrow_mut().values_mut() {
            if let Some(place) = drain.parked.iter().position(|other| *other == slot) {
                drain.parked.remove(place);
                break;
            }
        }
        self.unpark_call(slot);
    }

    /// A parked call has waited long enough.
    pub(super) fn expire_kept(&self, task: TaskRef) {
        let Some(slot) = task.live().filter(|slot| slot.state.get() == State::Parked) else { return };
        self.take_parked(slot);
        self.refuse(slot, CallError::Rejected(Rejection::Expired));
    }

    /// Ends the parked calls that `ends` says.
    pub(super) fn refuse_kept(&self, ends: impl Fn(&SlotPtr) -> bool, error: &CallError) {
        let all: Vec<SlotPtr> = {
            let drains = self.drains.0.borrow();
            drains.values().flat_map(|drain| drain.parked.iter().copied()).filter(ends).collect()
        };
        for task in all.into_iter().map(SlotPtr::task).collect::<Vec<_>>() {
            // The destructor of an earlier one's arguments may have cancelled it.
            if let Some(slot) = task.live().filter(|slot| slot.state.get() == State::Parked) {
                self.take_parked(slot);
                self.refuse(slot, error.clone());
            }
        }
    }
}

/// How long what runs in a partition that moves may go on.
pub(super) const DRAIN_NS_MAX: u64 = 2_000_000_000;
/// Objects that are closed before others have their turn.
const CLOSES_PER_LOOK: usize = 1024;
