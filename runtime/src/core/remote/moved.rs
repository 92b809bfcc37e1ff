//! Calls whose object is no longer where they were sent: `Moved` answers, followed in order.
//!
//! On a partition's first `Moved` its calls are held until every earlier one is answered, moved or failed; then they are
//! sent again in the order they were made in. What a `Moved` says is believed, if its epoch is newer, until the view
//! says as much.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use epicserver_storage::NodeId;
use epicserver_transport::FrameHeader;
use zerocopy::FromBytes;

use super::Outgoing;
use crate::core::CoreState;
use crate::error::{CallError, Loss, Rejection};
use crate::remote::{CallRef, MovedBytes, PeerFrame};
use crate::routes::{Place, Routes};
use crate::slot::Away;

/// What is known beyond the view, and the partitions in motion.
#[derive(Default)]
pub(super) struct Moves {
    known: RefCell<BTreeMap<u16, Known>>,
    motions: RefCell<BTreeMap<u16, Motion>>,
}

/// Where a partition is, by a node that had it.
#[derive(Clone, Copy)]
struct Known {
    owner: Option<NodeId>,
    epoch: u64,
}

/// A partition whose calls are held.
#[derive(Default)]
struct Motion {
    /// Earlier calls that have not ended.
    outstanding: usize,
    /// Calls that are to be sent again, with their order.
    moved: Vec<(u64, Outgoing)>,
    /// Calls that were never sent, in order.
    held: VecDeque<Outgoing>,
}

impl CoreState {
    /// Sends a call to where its partition is known to be, or holds it while that is in motion.
    pub(super) fn route(&self, mut call: Outgoing) {
        if let Some(motion) = self.remote.moves.motions.borrow_mut().get_mut(&call.partition) {
            motion.held.push_back(call);
            return self.arm_deadline(call.slot);
        }
        let known = self.remote.moves.known.borrow().get(&call.partition).copied();
        let Some(known) = known else { return self.leave(call) };
        let me = self.routes.borrow().me();
        match known.owner {
            Some(owner) if owner.id != me.id => {
                call.node = owner;
                self.leave(call);
            }
            // It is to be here, but this node's view does not say so yet.
            _ => self.refuse(call.slot, CallError::Rejected(Rejection::Moving)),
        }
    }

    /// The epoch that requests to a partition carry.
    pub(super) fn epoch_for(&self, routes: &Routes, partition: u16) -> u64 {
        let known = self.remote.moves.known.borrow().get(&partition).map_or(0, |known| known.epoch);
        known.max(routes.epoch(partition))
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
        self.remote.pending.borrow_mut().take(name);
        self.hold(entry.call.partition);
        let call = Outgoing { follows: entry.call.follows + 1, ..entry.call };
        call.slot.caller.away.set(Away::Here);
        self.arm_deadline(call.slot);
        if let Some(motion) = self.remote.moves.motions.borrow_mut().get_mut(&call.partition) {
            motion.moved.push((entry.order, call));
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
        if self.remote.moves.motions.borrow().contains_key(&partition) {
            return;
        }
        let mut motion = Motion {
            // The call whose answer began this is counted: it ends with the others.
            outstanding: self.remote.pending.borrow().count(partition) + 1,
            ..Motion::default()
        };
        for window in self.remote.peers.borrow_mut().values_mut() {
            for call in std::mem::take(&mut window.waiting) {
                let list = if call.partition == partition { &mut motion.held } else { &mut window.waiting };
                list.push_back(call);
            }
        }
        self.remote.moves.motions.borrow_mut().insert(partition, motion);
    }

    /// A call to this partition was answered, moved or failed: when it was the last, those that were held go on.
    pub(super) fn note_ended(&self, partition: u16) {
        let motion = {
            let mut motions = self.remote.moves.motions.borrow_mut();
            let Some(motion) = motions.get_mut(&partition) else { return };
            motion.outstanding = motion.outstanding.saturating_sub(1);
            if motion.outstanding > 0 {
                return;
            }
            motions.remove(&partition)
        };
        let Some(mut motion) = motion else { return };
        motion.moved.sort_by_key(|(order, _)| *order);
        let place = self.routes.borrow().place(partition);
        let calls = motion.moved.into_iter().map(|(_, call)| call).chain(motion.held);
        if matches!(place, Place::Here(_)) {
            self.dispatch_again(calls.collect());
        } else {
            calls.for_each(|call| self.route(call));
        }
    }

    /// Takes the calls out that are held. The partitions stay in motion, for those that are under way.
    pub(super) fn take_held(&self) -> Vec<Outgoing> {
        let mut motions = self.remote.moves.motions.borrow_mut();
        let of = |motion: &mut Motion| {
            let moved = std::mem::take(&mut motion.moved).into_iter().map(|(_, call)| call);
            moved.chain(std::mem::take(&mut motion.held)).collect::<Vec<_>>()
        };
        motions.values_mut().flat_map(of).collect()
    }

    /// Leaves calls for dispatch: in their order, and before what was made later.
    fn dispatch_again(&self, calls: Vec<Outgoing>) {
        for call in calls.into_iter().rev() {
            self.outbox.push_front(call.slot);
        }
    }

    /// The view changed: what was known beyond it may be in it now, and calls that wait are to look again.
    pub(in crate::core) fn view_changed(&self) {
        let routes = self.routes.borrow().clone();
        self.remote
            .moves
            .known
            .borrow_mut()
            .retain(|partition, known| known.epoch > routes.epoch(*partition));
        let waiting: Vec<Outgoing> = {
            let mut peers = self.remote.peers.borrow_mut();
            peers.values_mut().flat_map(|window| std::mem::take(&mut window.waiting)).collect()
        };
        self.dispatch_again(waiting);
        self.unpark();
    }
}

/// How often a call is sent to where it is said to be.
const FOLLOWS_MAX: u8 = 3;
