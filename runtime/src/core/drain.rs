//! Partitions that move to another node: emptied here, one by one, while the rest of the node goes on.
//!
//! ```text
//!   view: this node owns it, moving to another
//!     -> attempt: the objects in use now are set apart. Calls to them are parked, all others run;
//!        each is closed, hook and all, when its methods have ended, and carried (`carried.rs`)
//!          -> methods that do not end: what is parked runs here, and it is tried again after a pause
//!          -> the last one is closed: calls to the partition are parked, and the rest is closed
//!               -> something is used again and does not end: as above
//!               -> all are closed, and that is durable -> Action::Drained
//!   view: another node owns it -> what is parked goes there
//!   view: it stays             -> what is parked runs here, on objects that start from what is carried
//! ```
//! So a move waits for methods, and no method ends for a move. Calls wait for methods that run in the same object, for methods that
//! do not end within a moment once only those are left, and else only while the objects are on their way. A call below a method that
//! holds something on the move is never parked: that method could not end. What is parked for the same object runs before it.
//!
//! Nothing is forwarded: callers send again what was parked for them, in order with what they held back meanwhile
//! (`remote/moved.rs`). The core that serves the partition does all of it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use epicserver_storage::{NodeId, Partition};

use super::{Action, CoreState, Timer};
use crate::activation::{ObjectPtr, Status};
use crate::error::{CallError, Rejection};
use crate::id::EntityId;
use crate::membership::Handover;
use crate::planted::{self, Bug};
use crate::routes::{Place, Routes};
use crate::shipment::Drained;
use crate::slot::{SlotPtr, State, TaskRef};

/// The partitions of this core that are on the move.
#[derive(Default)]
pub(super) struct Drains {
    /// Those that serve on until it is their turn.
    waiting: RefCell<BTreeMap<u16, Waiting>>,
    /// When these are looked at again.
    look_at: Cell<u64>,
    /// Those that are being emptied, or are empty and on their way.
    open: RefCell<BTreeMap<u16, Drain>>,
}

/// A move, as the view has it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Move {
    to: NodeId,
    epoch: u64,
}

/// A partition that is to move.
struct Waiting {
    of: Move,
    /// Not before then.
    at: u64,
    /// Attempts that ended while all its calls were parked.
    tries: u32,
    /// The last batch that what was closed depends on.
    depends_on: u64,
}

/// An activation, with the use of its memory.
type Activation = (ObjectPtr, u32);

struct Drain {
    waiting: Waiting,
    /// When the attempt ends.
    until: u64,
    /// The activations that were in use when the attempt began, or are back.
    used: Vec<Activation>,
    /// What those are, also when they are closed.
    apart: Vec<(EntityId, Box<[u8]>)>,
    /// Calls to objects that are not set apart run.
    serves_others: bool,
    /// Calls to these run until the next look, as they are on the way to dispatch before one that is not parked.
    passing: Vec<(EntityId, Box<[u8]>)>,
    /// The other activations.
    left: Vec<Activation>,
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
        self.drains.open.borrow().contains_key(&partition)
    }

    /// Whether nothing of a partition is in memory any more, as it is on its way.
    pub(super) fn is_drained(&self, partition: u16) -> bool {
        self.drains.open.borrow().get(&partition).is_some_and(|drain| drain.is_done)
    }

    pub(super) fn has_drains(&self) -> bool {
        !self.drains.open.borrow().is_empty()
    }

    /// Whether something was closed whose batch is not durable yet.
    pub(super) fn drains_want_commit(&self) -> bool {
        let waits = |drain: &Drain| drain.settled_by.is_some_and(|number| !self.saving.is_settled(number));
        self.drains.open.borrow().values().any(waits)
    }

    /// Ends the moves that a view does not have. What was parked is dispatched again, before what was made later.
    pub(super) fn end_moves(&self, routes: &Routes) {
        let fits = |partition: u16, of: Move| self.move_in(routes, partition) == Some(of);
        self.drains.waiting.borrow_mut().retain(|partition, waiting| fits(*partition, waiting.of));
        let ended: Vec<Drain> = {
            let mut open = self.drains.open.borrow_mut();
            let ended = open.extract_if(.., |partition, drain| !fits(*partition, drain.waiting.of));
            ended.map(|(_, drain)| drain).collect()
        };
        ended.into_iter().for_each(|drain| self.dispatch_parked(drain.parked));
        self.note_moving();
    }

    fn dispatch_parked(&self, mut parked: VecDeque<SlotPtr>) {
        if planted::has(Bug::DropParked) {
            parked.pop_front();
        }
        if planted::has(Bug::ReorderParked) {
            parked.make_contiguous().reverse();
        }
        for slot in parked.into_iter().rev() {
            self.unpark_call(slot);
            self.outbox.push_front(slot);
        }
    }

    /// Where the view moves a partition of this core.
    fn move_in(&self, routes: &Routes, partition: u16) -> Option<Move> {
        if routes.place(partition) != Place::Here(self.config.index) {
            return None;
        }
        let state = routes.view().partition(Partition::new(partition)?);
        Some(Move { to: state.moving_to?, epoch: state.epoch })
    }

    /// Notes the moves that are new in a view.
    pub(super) fn begin_moves(&self, routes: &Routes) {
        let now = self.now.get();
        let mut waiting = self.drains.waiting.borrow_mut();
        for partition in 0..epicserver_storage::PARTITIONS {
            let Some(of) = self.move_in(routes, partition) else { continue };
            if !self.is_draining(partition) {
                waiting.entry(partition).or_insert(Waiting { of, at: now, tries: 0, depends_on: 0 });
            }
        }
        drop(waiting);
        self.drains.look_at.set(now);
    }

    /// Whether partitions wait for their turn to move.
    pub(super) fn has_moves_waiting(&self) -> bool {
        !self.drains.waiting.borrow().is_empty()
    }

    /// Begins to empty partitions whose turn it is, some at a time: each look at all objects is for many of them.
    fn begin_attempts(&self) {
        let now = self.now.get();
        let stops_calls = |drain: &&Drain| !drain.serves_others && !drain.is_done;
        let room =
            ATTEMPTS_MAX.saturating_sub(self.drains.open.borrow().values().filter(stops_calls).count());
        if now < self.drains.look_at.get() || room < ATTEMPTS_MAX / 4 {
            return;
        }
        let mut due: BTreeMap<u16, Drain> = {
            let mut waiting = self.drains.waiting.borrow_mut();
            let due = waiting.extract_if(.., |_, waiting| waiting.at <= now).take(room);
            due.map(|(partition, waiting)| (partition, Drain::new(waiting, now))).collect()
        };
        if let Some(next) = self.drains.waiting.borrow().values().map(|waiting| waiting.at).min() {
            let next = next.max(now + LOOK_NS);
            self.drains.look_at.set(next);
            self.set_timer(next, Timer::Look);
        }
        if due.is_empty() {
            return;
        }
        for object in self.objects() {
            if let Some(drain) = due.get_mut(&object.partition.get()) {
                drain.take_in(object);
            }
        }
        for drain in due.values_mut() {
            drain.note_used(now);
        }
        // Those with something in use may take longer.
        let ends = || due.values().map(|drain| drain.until);
        let ends = [ends().min(), ends().max()];
        self.drains.open.borrow_mut().append(&mut due);
        self.note_moving();
        for until in ends.into_iter().flatten() {
            self.set_timer(until, Timer::Look);
        }
    }

    /// An attempt took long enough: the partition serves again, and is tried later.
    fn end_attempt(&self, partition: u16) {
        let Some(drain) = self.drains.open.borrow_mut().remove(&partition) else { return };
        let attempt_ns = drain.attempt_ns();
        let Drain { mut waiting, parked, serves_others, .. } = drain;
        waiting.tries += u32::from(!serves_others);
        waiting.at = self.now.get() + PAUSE_NS.max(SERVES_LONGER * attempt_ns);
        let at = waiting.at;
        self.drains.waiting.borrow_mut().insert(partition, waiting);
        self.drains.look_at.set(self.drains.look_at.get().min(at));
        self.dispatch_parked(parked);
        self.note_moving();
        self.set_timer(at, Timer::Look);
    }

    /// An object of a partition that is being emptied was activated.
    pub(super) fn note_activated(&self, object: ObjectPtr) {
        if let Some(drain) = self.drains.open.borrow_mut().get_mut(&object.partition.get()) {
            let is_apart = drain.serves_others
                && object.key(|key| drain.is_apart(object.vtable.get().id, key.bytes)) == Some(true);
            let list = if is_apart { &mut drain.used } else { &mut drain.left };
            list.push((object, object.generation.get()));
        }
    }

    /// An object leaves memory. If its partition moves, what it is goes along.
    pub(super) fn carry_if_moving(&self, object: ObjectPtr) {
        let partition = object.partition.get();
        if !self.is_moving() || !self.is_draining(partition) || planted::has(Bug::ForgetImage) {
            return;
        }
        self.carry(object);
        if let Some(drain) = self.drains.open.borrow_mut().get_mut(&partition) {
            let depends_on = object.depends_on.get().max(object.image_batch.get());
            drain.waiting.depends_on = drain.waiting.depends_on.max(depends_on);
            // It may have come back, changed and been closed again since everything was closed for the first time.
            drain.settled_by = drain.settled_by.map(|settled_by| settled_by.max(depends_on));
        }
    }

    /// Begins what is due, closes what nobody uses, and gives away what is empty.
    pub(super) fn look_at_drains(&self) {
        self.begin_attempts();
        let open: Vec<u16> = {
            let mut open = self.drains.open.borrow_mut();
            open.values_mut().for_each(|drain| drain.passing.clear());
            open.iter().filter(|(_, drain)| !drain.is_done).map(|(partition, _)| *partition).collect()
        };
        let mut closes_left = CLOSES_PER_LOOK;
        for partition in open {
            let is_over = self.close_some(partition, &mut closes_left);
            if is_over {
                self.end_attempt(partition);
            } else {
                self.give_away(partition);
            }
        }
        if closes_left == 0 {
            self.set_timer(self.now.get() + 1, Timer::Look);
        }
    }

    /// Closes what nobody uses; gives whether something is still used, and the attempt took long enough.
    fn close_some(&self, partition: u16, closes_left: &mut usize) -> bool {
        let taken = self.drains.open.borrow_mut().get_mut(&partition).map(|drain| {
            let list = if drain.serves_others { &mut drain.used } else { &mut drain.left };
            std::mem::take(list)
        });
        let Some(mut kept) = taken else { return false };
        self.close_those(&mut kept, closes_left);
        let now = self.now.get();
        // Destructors may have brought others in meanwhile.
        let mut open = self.drains.open.borrow_mut();
        let Some(drain) = open.get_mut(&partition) else { return false };
        if drain.serves_others {
            drain.used.append(&mut kept);
            if drain.note_used(now) {
                let until = drain.until;
                drop(open);
                self.set_timer(until, Timer::Look);
                return self.close_some(partition, closes_left);
            }
            return *closes_left > 0 && drain.until <= now;
        }
        drain.left.append(&mut kept);
        *closes_left > 0 && !drain.left.is_empty() && drain.until <= now
    }

    /// Closes those that nobody uses, and keeps the others in the list.
    fn close_those(&self, list: &mut Vec<Activation>, closes_left: &mut usize) {
        list.retain(|&(object, generation)| {
            if is_there(object, generation) && *closes_left > 0 && self.close_object(object) {
                *closes_left -= 1;
            }
            is_there(object, generation)
        });
    }

    /// A partition that is empty is the next owner's once every batch with something of it is durable, or failed: this node could
    /// not commit one afterwards.
    fn give_away(&self, partition: u16) {
        let mut drains = self.drains.open.borrow_mut();
        let Some(drain) = drains.get_mut(&partition) else { return };
        let Some(number) = Partition::new(partition) else { return };
        if drain.serves_others || !drain.left.is_empty() {
            // Something came back that had been closed.
            return drain.settled_by = None;
        }
        // What was dropped before the move is saved in one of these batches, too.
        let last = self.saving.reload_after.get().max(drain.waiting.depends_on);
        let settled_by = *drain.settled_by.get_or_insert(last);
        if !self.saving.is_settled(settled_by) && !planted::has(Bug::ShipBeforeDurable) {
            return;
        }
        drain.is_done = true;
        let Move { to, epoch } = drain.waiting.of;
        let handover = Handover { partition: number, epoch, to };
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
        let mut drains = self.drains.open.borrow_mut();
        let Some(drain) = drains.get_mut(&partition) else { return false };
        let is_served = !drain.is_done && drain.serves(slot);
        if is_served || (drain.is_done && planted::has(Bug::ServeGivenAway)) {
            return false;
        }
        if !drain.is_done && self.is_by_path(slot) {
            let target = slot.key(|key| (slot.vtable.get().entity_id, key.bytes.into()));
            let before = target.map(|target| drain.let_pass(target)).unwrap_or_default();
            drop(drains);
            let has_any = !before.is_empty();
            if has_any {
                self.outbox.push_front(slot);
                self.dispatch_parked(before);
            }
            return has_any;
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

    /// Calls of this object that were admitted before others were parked are about to be dispatched again: the others come behind them.
    pub(super) fn release_parked_for(&self, object: ObjectPtr) {
        let mut drains = self.drains.open.borrow_mut();
        let Some(drain) = drains.get_mut(&object.partition.get()) else { return };
        let entity = object.vtable.get().id;
        let taken = object.key(|key| drain.take_parked(entity, key.bytes)).unwrap_or_default();
        drop(drains);
        self.dispatch_parked(taken);
    }

    fn unpark_call(&self, slot: SlotPtr) {
        slot.state.set(State::Message);
        if let Some(key) = slot.timer.take() {
            self.cancel_timer(key);
        }
    }

    /// Takes a call out that is parked.
    pub(super) fn take_parked(&self, slot: SlotPtr) {
        for drain in self.drains.open.borrow_mut().values_mut() {
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
            let drains = self.drains.open.borrow();
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

impl Drain {
    fn new(waiting: Waiting, now: u64) -> Self {
        Self {
            waiting,
            until: now + METHODS_NS,
            used: Vec::new(),
            apart: Vec::new(),
            serves_others: true,
            passing: Vec::new(),
            left: Vec::new(),
            settled_by: None,
            parked: VecDeque::new(),
            is_done: false,
        }
    }

    /// Notes an activation that is there when the attempt begins.
    fn take_in(&mut self, object: ObjectPtr) {
        let activation = (object, object.generation.get());
        if object.is_unused() {
            return self.left.push(activation);
        }
        self.used.push(activation);
        self.apart.extend(object.key(|key| (object.vtable.get().id, key.bytes.into())));
    }

    /// Once nothing of what was set apart is used any more no other object serves either; gives whether that is so since now.
    fn note_used(&mut self, now: u64) -> bool {
        let is_last = self.serves_others && self.used.is_empty();
        if is_last {
            self.serves_others = false;
            self.until = now + self.attempt_ns();
        }
        is_last
    }

    /// How long all calls may be parked.
    fn attempt_ns(&self) -> u64 {
        (ATTEMPT_NS << self.waiting.tries.min(DOUBLINGS_MAX)).min(METHODS_NS)
    }

    fn is_apart(&self, entity: EntityId, key: &[u8]) -> bool {
        self.apart.iter().any(|(of, bytes)| *of == entity && bytes.as_ref() == key)
    }

    /// Whether calls to the object of this one run.
    fn serves(&self, slot: SlotPtr) -> bool {
        let entity = slot.vtable.get().entity_id;
        let passes =
            |key: &[u8]| self.passing.iter().any(|(of, bytes)| *of == entity && bytes.as_ref() == key);
        let is_served = |key: &[u8]| (self.serves_others && !self.is_apart(entity, key)) || passes(key);
        slot.key(|key| is_served(key.bytes)) == Some(true)
    }

    /// Takes the calls out that are parked for this object.
    fn take_parked(&mut self, entity: EntityId, key: &[u8]) -> VecDeque<SlotPtr> {
        let is_its = |slot: &SlotPtr| {
            slot.vtable.get().entity_id == entity && slot.key(|of| of.bytes == key) == Some(true)
        };
        let (taken, kept) = self.parked.drain(..).partition(is_its);
        self.parked = kept;
        taken
    }

    /// As above, and lets them run until the next look.
    fn let_pass(&mut self, (entity, key): (EntityId, Box<[u8]>)) -> VecDeque<SlotPtr> {
        let taken = self.take_parked(entity, &key);
        self.passing.push((entity, key));
        taken
    }
}

/// Whether an activation is in memory.
fn is_there(object: ObjectPtr, generation: u32) -> bool {
    object.generation.get() == generation && object.status.get() != Status::Vacant
}

/// Partitions of a core whose calls are parked at one time before they are empty: with fewer each is there sooner, with more all are.
const ATTEMPTS_MAX: usize = 32;
/// How long an attempt waits for the methods that run when it begins.
const METHODS_NS: u64 = 2_000_000_000;
/// How long the calls to a partition wait for methods that began since, before it serves again: at first. It doubles with each attempt,
/// up to the above: where methods overlap all the time, or a machine is so busy that none ends soon, the move comes to its end too.
const ATTEMPT_NS: u64 = 20_000_000;
const DOUBLINGS_MAX: u32 = 7;
/// How long a partition serves before the next attempt, at least, and by how much longer than an attempt takes.
const PAUSE_NS: u64 = 100_000_000;
const SERVES_LONGER: u64 = 2;
/// How often partitions that wait for room are looked at.
const LOOK_NS: u64 = 1_000_000;
/// Objects that are closed before others have their turn.
const CLOSES_PER_LOOK: usize = 1024;
