//! What calls meet at dispatch while partitions are in motion, and what the rest of the core knows of it: one flag.
//!
//! While it is set every call goes by way of the outbox and dispatch, none runs in place and none is sent to another core
//! at once; so there is one place where a call may have to stay.

use super::{CoreState, Located};
use crate::entity::Hint;
use crate::slot::SlotPtr;

impl CoreState {
    /// Whether a partition is in motion.
    #[inline]
    pub(super) fn is_moving(&self) -> bool {
        self.moving.get()
    }

    /// A partition is in motion, or no more.
    pub(super) fn note_moving(&self) {
        self.moving.set(self.has_motions() || self.has_drains());
        if self.moving.get() {
            self.in_place_left.set(0);
        }
    }

    /// A call is to be dispatched while something is in motion; gives whether it was kept.
    #[cold]
    pub(super) fn stays(&self, slot: SlotPtr) -> bool {
        let Some(partition) = self.partition_of_message(slot) else { return false };
        self.holds_back(slot, partition) || self.parks(slot, partition)
    }

    /// The partition of the object that a message is for; `None` if it is nobody's.
    pub(super) fn partition_of_message(&self, slot: SlotPtr) -> Option<u16> {
        match self.entry_of(slot.vtable.get().entity_id) {
            Some(entry) => {
                let method = entry.methods.first()?;
                slot.key(|key| (method.partition)(key))?
            }
            // Objects of entities that this node has no code for are never here, so that to look for one does nothing.
            None => match slot.locate(self) {
                Located::Node(_, partition) => Some(partition),
                _ => None,
            },
        }
    }

    /// Objects left this node: nothing that was known of where they are holds any more, on their core or on others.
    pub(super) fn forget_whereabouts(&self) {
        self.stamp.set(crate::registry::take_core_stamp());
        self.core_mark.set(Hint::next_mark(self.core_mark.get()));
    }

    /// What marks a hint that names another core.
    #[inline]
    pub(crate) fn core_mark(&self) -> u32 {
        self.core_mark.get()
    }
}
