//! The way to objects of other nodes that are called again and again: what a reference remembers of one is a number, and behind
//! it are node, core, partition and handle, by the view that there is.
//!
//! ```text
//!   Hint of a reference -> number: which peer, which place in its table of handles -> the same key? the same view? -> Way
//! ```
//! Whatever does not fit any more is looked up anew; nothing here is believed for the sake of a number.

use epicserver_storage::NodeId;

use super::Outgoing;
use crate::core::{CoreState, count};
use crate::entity::{Entity, Hint, Stored};
use crate::id::EntityId;
use crate::key::StoredKey;
use crate::session::intern::{HANDLES_MAX, Handle, Way};
use crate::slot::{ReplyTo, SlotPtr};
use crate::wire::extension::TargetKey;

impl CoreState {
    /// Whether this number stands for the object with this key, and the way to it is known.
    #[inline]
    pub(in crate::core) fn knows_way<E: Entity>(&self, number: u32, key: &Stored<E>) -> bool {
        let peers = self.remote.peers.borrow();
        let (window, place) = split(number);
        let handles = peers.windows.get(window).and_then(|window| window.handles.as_ref());
        let Some((handles, target)) = handles.and_then(|all| Some((all, all.target(place)?))) else {
            return false;
        };
        let entity = const { EntityId::of(E::NAME).0 };
        let is_it = key.canonical(|key| target.borrow() == TargetKey { entity, key });
        is_it && handles.way(place).is_some_and(|(_, way)| Some(way.views) == self.views_seen())
    }

    /// Notes the way to an object of another node and gives its number; `None` if there are no more numbers, or if more is known
    /// of where objects are than the view says.
    pub(in crate::core) fn note_way<E: Entity>(
        &self,
        key: &Stored<E>,
        node: NodeId,
        partition: u16,
    ) -> Option<u32> {
        let views = self.views_seen()?;
        let routes = self.routes.borrow();
        let (epoch, core) = (routes.epoch(partition), routes.core_at(node, partition));
        let mut peers = self.remote.peers.borrow_mut();
        let window = peers.place(node.id);
        let handles = self.handles_of(&mut peers.windows[window as usize], node);
        let entity = const { EntityId::of(E::NAME).0 };
        let place = key.canonical(|key| handles.index_of(TargetKey { entity, key }))?;
        handles.set_way(place, Way { views, node, epoch, partition, core });
        join(window, place)
    }

    /// Sends a fresh call whose way is known; `false` if it has to be looked up.
    #[inline]
    pub(crate) fn send_known_way(&self, slot: SlotPtr) -> bool {
        let number = slot.object_generation.get();
        // Others have come from elsewhere, and no reference of this core said where to.
        let is_own = matches!(slot.reply_to.get(), ReplyTo::Caller | ReplyTo::Nobody);
        if !is_own || !Hint::is_distant(number) {
            return false;
        }
        let Some(known) = self.way(number) else { return false };
        count(&self.counters.remote_calls);
        self.detach_from_parent(slot);
        self.arm_deadline_later(slot);
        let Known { node, partition, .. } = known;
        let call = Outgoing { slot, node, partition, follows: 0, way: number };
        self.leave_now(&call, Some(&known));
        true
    }

    /// The way behind a number and the handle there, if it still holds.
    #[inline(always)]
    pub(super) fn way(&self, number: u32) -> Option<Known> {
        if !Hint::is_distant(number) {
            return None;
        }
        let peers = self.remote.peers.borrow();
        let (window, place) = split(number);
        let (Handle { number, is_known }, way) = peers.windows.get(window)?.handles.as_ref()?.way(place)?;
        if Some(way.views) != self.views_seen() {
            return None;
        }
        let Way { node, epoch, partition, core, .. } = *way;
        Some(Known { node, epoch, number, partition, core, is_bound: is_known })
    }
}

/// The way to an object, for one call.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) node: NodeId,
    pub(super) epoch: u64,
    /// The handle of the object there.
    pub(super) number: u32,
    pub(super) partition: u16,
    pub(super) core: u8,
    /// Whether the links know the handle.
    pub(super) is_bound: bool,
}

/// The place of the peer's window among those of all peers, if the number says it.
#[inline]
pub(super) fn window_of(number: u32) -> Option<u32> {
    Hint::is_distant(number).then(|| split(number).0 as u32)
}

#[inline]
fn split(number: u32) -> (usize, u32) {
    (((number & !Hint::DISTANT) >> PLACE_BITS) as usize, number & ((1 << PLACE_BITS) - 1))
}

fn join(window: u32, place: u32) -> Option<u32> {
    (window < WINDOWS_MAX).then_some(Hint::DISTANT | window << PLACE_BITS | place)
}

const PLACE_BITS: u32 = HANDLES_MAX.trailing_zeros();
/// Peers whose objects have numbers.
const WINDOWS_MAX: u32 = Hint::DISTANT >> PLACE_BITS;
const _: () = assert!(HANDLES_MAX.is_power_of_two());
