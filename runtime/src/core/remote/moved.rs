//! Calls whose object changes its owner while they are under way, and those that are made meanwhile.
//!
//! ```text
//!   a view with another owner, or a `Moved` -> the partition is in motion: its new calls are held
//!     until every earlier call of this core is answered, moved or failed -> all that are to be sent go on, in order
//! ```
//! So no call of a core overtakes an earlier one on its way to the new owner. Earlier calls are those that other nodes are to
//! answer, and those that are with another core of this node, which served the partition until now. What became of the latter
//! that core says itself: it sends back what has not run, and then the question (`Settle`). It does so once it has the view too.
//!
//! What a `Moved` says is believed, if its epoch is newer, until the view says as much. Nothing here is looked at by a call
//! while no partition is in motion, but for one flag ([`CoreState::is_moving`]).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use epicserver_storage::NodeId;
use epicserver_transport::FrameHeader;
use zerocopy::FromBytes;

use super::{Outgoing, request_name};
use crate::core::{Action, CoreMessage, CoreState};
use crate::error::{CallError, Loss, Rejection};
use crate::planted::{self, Bug};
use crate::remote::{CallRef, MovedBytes, PeerFrame};
use crate::routes::{Place, Routes};
use crate::slot::{Away, ReplyTo, SlotPtr};

/// What is known beyond the view, and the partitions in motion.
#[derive(Default)]
pub(super) struct Moves {
    known: RefCell<BTreeMap<u16, Known>>,
    motions: RefCell<BTreeMap<u16, Motion>>,
    /// Views that this core has seen; every core of a node sees the same ones.
    views: Cell<u64>,
    /// Questions of other cores that have seen more views than this one.
    early: RefCell<Vec<Settle>>,
}

/// Where a partition is, by a node that had it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    owner: Option<NodeId>,
    epoch: u64,
}

/// A partition whose calls are held.
#[derive(Default)]
struct Motion {
    /// Earlier calls that have not ended, and questions to other cores.
    outstanding: usize,
    /// Calls that are to be sent, in any order: their own counters have the one they were made in.
    held: Vec<Outgoing>,
}

/// A question between cores of a node, and the answer: what was sent there for these partitions, which left the node with the
/// view of this number, has ended or is back.
#[derive(Debug)]
pub(crate) struct Settle {
    asker: u16,
    views: u64,
    partitions: BTreeSet<u16>,
}

impl CoreState {
    /// Sends a call to where its partition is known to be.
    pub(super) fn route(&self, mut call: Outgoing) {
        let known = self.remote.moves.known.borrow().get(&call.partition).copied();
        let Some(known) = known else { return self.leave(&call, self.way(call.way).as_ref()) };
        match known.owner {
            Some(owner) if owner.id != self.routes.borrow().me().id => {
                (call.node, call.way) = (owner, 0);
                self.leave(&call, None);
            }
            _ => self.refuse(call.slot, CallError::Rejected(Rejection::Moving)),
        }
    }

    /// The epoch that requests to a partition carry.
    pub(super) fn epoch_for(&self, routes: &Routes, partition: u16) -> u64 {
        self.truth(routes, partition).epoch
    }

    /// Who owns a partition, by the view or beyond it.
    fn truth(&self, routes: &Routes, partition: u16) -> Known {
        let owner = match routes.place(partition) {
            Place::Here(_) => Some(routes.me()),
            Place::Node(owner) => Some(owner),
            Place::Nobody => None,
        };
        let by_view = Known { owner, epoch: routes.epoch(partition) };
        let known = self.remote.moves.known.borrow().get(&partition).copied();
        known.filter(|known| known.epoch > by_view.epoch).unwrap_or(by_view)
    }

    /// How many views this core has seen; `None` while it knows more than the last one says.
    #[inline]
    pub(super) fn views_seen(&self) -> Option<u64> {
        let moves = &self.remote.moves;
        moves.known.borrow().is_empty().then(|| moves.views.get())
    }

    /// Keeps a call that is about to be dispatched, if its partition is in motion; gives whether it did.
    pub(in crate::core) fn holds_back(&self, slot: SlotPtr, partition: u16) -> bool {
        // Others order their own.
        if !is_own(slot) {
            return false;
        }
        let mut motions = self.remote.moves.motions.borrow_mut();
        let Some(motion) = motions.get_mut(&partition) else { return false };
        motion.held.push(Outgoing::unsent(slot, partition));
        drop(motions);
        self.arm_deadline(slot);
        true
    }

    /// A call came to a node that does not own its object; it did not run.
    pub(super) fn handle_moved(&self, name: CallRef, frame: &PeerFrame) {
        let payload = FrameHeader::payload_bytes(&frame.frame).unwrap_or_default();
        let Ok(truth) = MovedBytes::read_from_bytes(payload) else {
            tracing::warn!(peer = %frame.peer, "a Moved is malformed");
            return self.fail_call(name, CallError::OutcomeUnknown(Loss::LinkLost));
        };
        let Some(entry) = self.remote.pending.borrow().get(name).copied() else { return };
        self.learn(entry.call.partition, &truth);
        if entry.call.follows >= FOLLOWS_MAX {
            return self.fail_call(name, CallError::Rejected(Rejection::Moving));
        }
        self.hold(entry.call.partition);
        self.hold_again(name, 1);
    }

    /// A call that did not run is to be sent again, when the earlier ones to its partition, which is in motion, have ended.
    fn hold_again(&self, name: CallRef, follows: u8) {
        let Some(entry) = self.remote.pending.borrow_mut().take(name) else { return };
        let call = Outgoing { follows: entry.call.follows + follows, way: 0, ..entry.call };
        call.slot.caller.away.set(Away::Here);
        self.arm_deadline(call.slot);
        if let Some(motion) = self.remote.moves.motions.borrow_mut().get_mut(&call.partition) {
            motion.held.push(call);
        }
        self.free_place(call.node.id);
        self.note_ended(call.partition);
    }

    fn learn(&self, partition: u16, truth: &MovedBytes) {
        let newest = self.epoch_for(&self.routes.borrow(), partition);
        if truth.epoch.get() > newest {
            let known = Known { owner: truth.owner(), epoch: truth.epoch.get() };
            self.remote.moves.known.borrow_mut().insert(partition, known);
        }
    }

    /// From here on calls to this partition wait for those that were made before.
    fn hold(&self, partition: u16) {
        if self.remote.moves.motions.borrow().contains_key(&partition) || planted::has(Bug::SkipHold) {
            return;
        }
        let outstanding = self.remote.pending.borrow().count(partition);
        let mut motion = Motion { outstanding, held: Vec::new() };
        for window in &mut self.remote.peers.borrow_mut().windows {
            for call in std::mem::take(&mut window.waiting) {
                if call.partition == partition {
                    motion.held.push(call);
                } else {
                    window.waiting.push_back(call);
                }
            }
        }
        self.remote.moves.motions.borrow_mut().insert(partition, motion);
        self.note_moving();
    }

    /// A call to this partition was answered, moved or failed: when it was the last, those that are held go on.
    pub(super) fn note_ended(&self, partition: u16) {
        if !self.is_moving() {
            return;
        }
        if let Some(motion) = self.remote.moves.motions.borrow_mut().get_mut(&partition) {
            motion.outstanding = motion.outstanding.saturating_sub(1);
        }
        self.go_on(partition);
    }

    /// Ends the motion of a partition whose earlier calls have all ended, unless this node is to serve it, as a `Moved` said,
    /// and its view does not say so yet.
    fn go_on(&self, partition: u16) {
        let is_over = |motion: &Motion| motion.outstanding == 0;
        if !self.remote.moves.motions.borrow().get(&partition).is_some_and(is_over) {
            return;
        }
        let routes = self.routes.borrow().clone();
        let truth = self.truth(&routes, partition);
        let is_here = matches!(routes.place(partition), Place::Here(_));
        if !is_here && truth.owner.is_some_and(|owner| owner.id == routes.me().id) {
            return;
        }
        let Some(mut motion) = self.remote.moves.motions.borrow_mut().remove(&partition) else { return };
        // What still waits for dispatch may be older than what is held.
        let is_its = |slot: &SlotPtr| is_own(*slot) && self.partition_of_message(*slot) == Some(partition);
        let has_held = !motion.held.is_empty();
        let undispatched: Vec<SlotPtr> = self.outbox.iter().filter(|slot| has_held && is_its(slot)).collect();
        for slot in undispatched {
            self.outbox.remove(slot);
            motion.held.push(Outgoing::unsent(slot, partition));
        }
        self.note_moving();
        self.send_held(motion.held, truth.owner.filter(|_| !is_here));
    }

    /// Calls were held that go to this node; without one they look for their object again.
    fn send_held(&self, mut held: Vec<Outgoing>, node: Option<NodeId>) {
        held.sort_by_key(|call| call.slot.counter.get());
        // Those that were sent before know how often.
        let is_sent = |call: &&Outgoing| node.is_some() && call.follows > 0;
        let sent = held.iter().take_while(is_sent).count();
        self.dispatch_again(held.split_off(sent));
        for call in held {
            self.route(Outgoing { node: node.unwrap_or(call.node), ..call });
        }
    }

    /// Takes the calls out that are held. The partitions stay in motion, for those that are under way.
    pub(super) fn take_held(&self) -> Vec<Outgoing> {
        let mut motions = self.remote.moves.motions.borrow_mut();
        motions.values_mut().flat_map(|motion| std::mem::take(&mut motion.held)).collect()
    }

    /// Takes the calls out that `which` says, of those that are held or wait for room in the window of a node.
    pub(in crate::core) fn take_unsent(&self, which: impl Fn(&SlotPtr) -> bool) -> Vec<SlotPtr> {
        let mut taken = Vec::new();
        let mut keep = |call: &Outgoing| {
            let is_taken = which(&call.slot);
            taken.extend(is_taken.then_some(call.slot));
            !is_taken
        };
        let mut motions = self.remote.moves.motions.borrow_mut();
        motions.values_mut().for_each(|motion| motion.held.retain(&mut keep));
        let mut peers = self.remote.peers.borrow_mut();
        peers.windows.iter_mut().for_each(|window| window.waiting.retain(&mut keep));
        taken
    }

    /// Leaves calls for dispatch: in their order, and before what was made later.
    fn dispatch_again(&self, calls: Vec<Outgoing>) {
        for call in calls.into_iter().rev() {
            self.outbox.push_front(call.slot);
        }
    }

    /// Whether calls of this core are held.
    pub(in crate::core) fn has_motions(&self) -> bool {
        !self.remote.moves.motions.borrow().is_empty()
    }

    /// The view changed: partitions with another owner are in motion while calls to the one before are under way, what was
    /// known beyond the view may be in it now, and calls that wait are to look again.
    pub(in crate::core) fn view_changed(&self, before: &Routes) {
        let routes = self.routes.borrow().clone();
        let moves = &self.remote.moves;
        moves.views.set(moves.views.get() + 1);
        let changed = self.hold_sent(before, &routes);
        moves.known.borrow_mut().retain(|partition, known| known.epoch > routes.epoch(*partition));
        self.hold_handed_to_cores(before, &routes);
        let waiting: Vec<Outgoing> = {
            let mut peers = self.remote.peers.borrow_mut();
            peers.windows.iter_mut().flat_map(|window| std::mem::take(&mut window.waiting)).collect()
        };
        self.dispatch_again(waiting);
        self.take_back_gated(&changed);
        let in_motion: Vec<u16> = moves.motions.borrow().keys().copied().collect();
        in_motion.into_iter().for_each(|partition| self.go_on(partition));
        self.unpark();
        let early = std::mem::take(&mut *moves.early.borrow_mut());
        early.into_iter().for_each(|settle| self.handle_settle(Box::new(settle)));
    }

    /// Sets partitions in motion whose owner other nodes are still to answer for. A call that was sent by a `Moved` to where the
    /// view has the partition now is at the right place. Gives the partitions.
    fn hold_sent(&self, before: &Routes, now: &Routes) -> BTreeSet<u16> {
        let mut sent = self.remote.pending.borrow().partitions();
        let is_changed = |partition: &u16| {
            let known = self.truth(before, *partition);
            let fresh = self.truth(now, *partition);
            let ids = |known: Known| (known.owner.map(|owner| owner.id), known.epoch);
            ids(known) != ids(fresh)
        };
        sent.retain(is_changed);
        sent.iter().for_each(|partition| self.hold(*partition));
        sent
    }

    /// Requests that are still here, as what they depend on is not durable, do not go to who owned these partitions: it may be gone when
    /// they leave, and then nobody could say that they did not run.
    fn take_back_gated(&self, partitions: &BTreeSet<u16>) {
        if partitions.is_empty() {
            return;
        }
        let name_of_theirs = |action: &Action| {
            let name = request_name(action)?;
            let partition = self.remote.pending.borrow().get(name)?.call.partition;
            partitions.contains(&partition).then_some(name)
        };
        let requests = self.saving.gate.take_actions(|action| name_of_theirs(action).is_some());
        requests.iter().filter_map(request_name).for_each(|name| self.hold_again(name, 0));
    }

    /// Sets partitions in motion that other cores of this node served: what was sent there may not have run.
    fn hold_handed_to_cores(&self, before: &Routes, now: &Routes) {
        let mut left: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
        for partition in 0..epicserver_storage::PARTITIONS {
            if let Place::Here(core) = before.place(partition)
                && !matches!(now.place(partition), Place::Here(_))
            {
                left.entry(core).or_default().insert(partition);
            }
        }
        if !left.is_empty() {
            self.forget_whereabouts();
        }
        left.remove(&self.config.index);
        for (core, partitions) in left {
            for partition in &partitions {
                self.hold(*partition);
                if let Some(motion) = self.remote.moves.motions.borrow_mut().get_mut(partition) {
                    motion.outstanding += 1;
                }
            }
            let (asker, views) = (self.config.index, self.remote.moves.views.get());
            self.tell(core, CoreMessage::settle(Box::new(Settle { asker, views, partitions })));
        }
    }

    /// Another core asks what became of its calls, or answers that question.
    pub(in crate::core) fn handle_settle(&self, settle: Box<Settle>) {
        if settle.asker == self.config.index {
            settle.partitions.into_iter().for_each(|partition| self.note_ended(partition));
        } else if settle.views > self.remote.moves.views.get() {
            self.remote.moves.early.borrow_mut().push(*settle);
        } else {
            self.send_home_what_left(&settle);
            self.tell(settle.asker, CoreMessage::settle(settle));
        }
    }

    /// Calls of a core for objects that left the node, and that wait for dispatch here, go back to it.
    fn send_home_what_left(&self, settle: &Settle) {
        let home = self.number - u32::from(self.config.index) + u32::from(settle.asker);
        let origin_of_its = |slot: SlotPtr| {
            let origin = slot.origin().filter(|origin| origin.home() == home)?;
            let partition = self.partition_of_message(slot)?;
            settle.partitions.contains(&partition).then_some((slot, origin))
        };
        let back: Vec<(SlotPtr, SlotPtr)> = self.outbox.iter().filter_map(origin_of_its).collect();
        for (guest, origin) in back {
            self.outbox.remove(guest);
            self.send_back(guest, origin);
        }
    }
}

impl Outgoing {
    /// A call that goes where it is found to belong.
    fn unsent(slot: SlotPtr, partition: u16) -> Self {
        Self { slot, node: NodeId { id: 0, incarnation: 0 }, partition, follows: 0, way: 0 }
    }
}

/// Whether it is a call of this core, which orders those itself.
fn is_own(slot: SlotPtr) -> bool {
    !matches!(slot.reply_to.get(), ReplyTo::Core | ReplyTo::Node)
}

/// How often a call is sent to where it is said to be.
const FOLLOWS_MAX: u8 = 3;
