//! The calls that other nodes are to answer: a table in which completing a call is an array index.

use std::collections::BTreeSet;

use epicserver_storage::NodeId;

use super::Outgoing;
use crate::remote::CallRef;
use crate::slot::SlotPtr;

/// The table. An index is used again, with another generation.
#[derive(Default)]
pub(super) struct Pending {
    places: Vec<Place>,
    free: Vec<u32>,
}

struct Place {
    generation: u32,
    entry: Option<Entry>,
}

/// One call under way.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) call: Outgoing,
    /// The handle that its answer makes known to the links; 0: none.
    pub(super) binds: u32,
}

impl Pending {
    /// Adds a call and names it. It comes by its fields, in registers: they were written a moment ago, and a copy of the whole would
    /// have to wait for them.
    #[inline(never)]
    pub(super) fn insert(
        &mut self,
        call: SlotPtr,
        node: NodeId,
        partition: u16,
        follows: u8,
        way: u32,
    ) -> CallRef {
        let slot = self.free.pop().unwrap_or_else(|| self.grow());
        let place = &mut self.places[slot as usize];
        place.entry = Some(Entry { call: Outgoing { slot: call, node, partition, follows, way }, binds: 0 });
        CallRef { slot, generation: place.generation }
    }

    #[cold]
    fn grow(&mut self) -> u32 {
        self.places.push(Place { generation: 0, entry: None });
        self.places.len() as u32 - 1
    }

    /// Takes the call out, if it is this very one.
    pub(super) fn take(&mut self, name: CallRef) -> Option<Entry> {
        self.take_if(name, |_| true)
    }

    /// As [`take`](Self::take), if this node was asked.
    #[inline]
    pub(super) fn take_of(&mut self, name: CallRef, peer: NodeId) -> Option<Entry> {
        self.take_if(name, |entry| entry.call.node.id == peer.id)
    }

    #[inline]
    fn take_if(&mut self, name: CallRef, is_it: impl FnOnce(&Entry) -> bool) -> Option<Entry> {
        let place = self.places.get_mut(name.slot as usize)?;
        if place.generation != name.generation || !place.entry.as_ref().is_some_and(is_it) {
            return None;
        }
        let entry = place.entry.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(name.slot);
        Some(entry)
    }

    /// The call, if it is this very one.
    pub(super) fn get(&self, name: CallRef) -> Option<&Entry> {
        let place = self.places.get(name.slot as usize)?;
        place.entry.as_ref().filter(|_| place.generation == name.generation)
    }

    /// Takes note that the call's frame carries this handle with its key.
    pub(super) fn note_binding(&mut self, name: CallRef, handle: u32) {
        if let Some(entry) = self.places.get_mut(name.slot as usize).and_then(|place| place.entry.as_mut()) {
            entry.binds = handle;
        }
    }

    /// The name of the call in this place.
    pub(super) fn name(&self, slot: u32) -> Option<CallRef> {
        let place = self.places.get(slot as usize)?;
        place.entry.as_ref().map(|_| CallRef { slot, generation: place.generation })
    }

    /// The names of all calls.
    pub(super) fn names(&self) -> Vec<CallRef> {
        (0..self.places.len() as u32).filter_map(|slot| self.name(slot)).collect()
    }

    /// The partitions that calls are under way to.
    pub(super) fn partitions(&self) -> BTreeSet<u16> {
        self.places.iter().filter_map(|place| Some(place.entry?.call.partition)).collect()
    }

    /// How many calls to this partition are under way.
    pub(super) fn count(&self, partition: u16) -> usize {
        let of = |place: &&Place| place.entry.is_some_and(|entry| entry.call.partition == partition);
        self.places.iter().filter(of).count()
    }
}
