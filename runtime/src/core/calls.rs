//! The calls of a running task: made, found their object, and given back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use epicserver_storage::KEY_LENGTH_MAX;

use super::{CoreState, Located};
use crate::activation::{CatalogEntry, Whereabouts};
use crate::call::BUDGET_DEFAULT;
use crate::entity::{Entity, Hint, Stored};
use crate::key::StoredKey;
use crate::routes::Place;
use crate::slot::{ReplyTo, SlotPtr, TaskRef};

impl CoreState {
    /// Registers a fresh call of the running task. `found`: what is known of where its object is. What follows is
    /// [`begin_in_place`](Self::begin_in_place) or [`queue_call`](Self::queue_call).
    #[inline]
    pub(crate) fn post(&self, slot: SlotPtr, budget_ns: u64, found: Whereabouts) {
        let parent = self.post_terms(slot, budget_ns);
        self.post_rest(slot, parent, found);
    }

    /// The first half of [`post`](Self::post): what the call tells another core. Gives the caller.
    #[inline]
    pub(crate) fn post_terms(&self, slot: SlotPtr, budget_ns: u64) -> Option<TaskRef> {
        let running = self.running.get();
        let parent = running.filter(|_| slot.reply_to.get() == ReplyTo::Caller).map(SlotPtr::task);
        match parent {
            Some(parent) if parent.slot.deadline.get() != u64::MAX => {
                // A nested call gets no more than its caller has left.
                let own = self.now.get().saturating_add(budget_ns);
                slot.deadline.set(parent.slot.deadline.get().min(own));
                slot.depth.set(parent.slot.depth.get() + 1);
                slot.root_ms.set(parent.slot.root_ms.get());
            }
            _ => self.post_root(slot, budget_ns),
        }
        slot.depends_on.set(self.dependence());
        parent
    }

    /// The second half of [`post`](Self::post).
    #[inline]
    pub(crate) fn post_rest(&self, slot: SlotPtr, parent: Option<TaskRef>, found: Whereabouts) {
        slot.counter.set(self.next_counter());
        slot.parent.set(parent);
        slot.caller.parent.set(parent);
        let (object, generation) = match found {
            Whereabouts::Here(object) => (Some(object), object.generation.get()),
            Whereabouts::Distant(number) => (None, number),
            Whereabouts::Core(_) | Whereabouts::Unknown => (None, 0),
        };
        slot.object.set(object);
        slot.object_generation.set(generation);
        slot.cancelled.set(false);
        slot.caller.done.set(false);
        slot.caller.gone.set(false);
        slot.caller.early.set(None);
    }

    /// Leaves a call that was posted for dispatch.
    #[inline]
    pub(crate) fn queue_call(&self, slot: SlotPtr) {
        self.outbox.push_back(slot);
    }

    /// The first call of a chain: it may ask for more time than the default.
    #[cold]
    fn post_root(&self, slot: SlotPtr, budget_ns: u64) {
        let budget_ns = if budget_ns == u64::MAX { BUDGET_DEFAULT.as_nanos() as u64 } else { budget_ns };
        slot.deadline.set(self.now.get().saturating_add(budget_ns));
        slot.depth.set(1);
        slot.root_ms.set(self.now_ms());
    }

    /// Gives a slot of this core back. Its body is empty.
    #[inline(always)]
    pub(crate) fn release(&self, slot: SlotPtr) {
        if let Some(key) = slot.caller.timer.get() {
            slot.caller.timer.set(None);
            self.cancel_timer(key);
        }
        slot.object.set(None);
        slot.object_generation.set(0);
        slot.parent.set(None);
        slot.caller.away.set(crate::slot::Away::Here);
        slot.clear_extras();
        self.slots.free(slot);
    }

    /// Where the object with this key is; an object that belongs here and is not in memory is activated.
    #[inline]
    pub(crate) fn locate<E: Entity>(&self, key: &Stored<E>) -> Located {
        let Some(entry) = self.entry::<E>() else { return self.locate_elsewhere::<E>(key) };
        let Some(catalog) = entry.typed::<E>() else { return Located::Nowhere };
        match catalog.find(u32::MAX, key) {
            Some(object) => Located::Here(object),
            None => self.locate_absent::<E>(entry, catalog, key),
        }
    }

    /// What this core knows of where the object with this key is. `hint` is what it knew last time, or another core did.
    #[inline]
    pub(crate) fn look_up<E: Entity>(&self, key: &Stored<E>, hint: u32) -> Whereabouts {
        // One that is no such hint, or an old one, names a core far beyond all.
        let core = hint ^ self.core_mark.get();
        if core < u32::from(self.cores) && core != u32::from(self.config.index) {
            return Whereabouts::Core(core as u16);
        }
        if Hint::is_distant(hint) && self.knows_way::<E>(hint, key) {
            return Whereabouts::Distant(hint);
        }
        let found = self.entry::<E>().and_then(CatalogEntry::typed::<E>).and_then(|all| all.find(hint, key));
        match found {
            Some(object) => Whereabouts::Here(object),
            None => self.core_of::<E>(key),
        }
    }

    #[cold]
    #[inline(never)]
    fn core_of<E: Entity>(&self, key: &Stored<E>) -> Whereabouts {
        let is_alone = self.cores == 1 && self.routes.borrow().is_alone();
        if is_alone || !key.canonical(|key| key.bytes.len() <= KEY_LENGTH_MAX) {
            return Whereabouts::Unknown;
        }
        let partition = Self::partition_of::<E>(key);
        let place = self.routes.borrow().place(partition);
        match place {
            Place::Here(core) if core != self.config.index => Whereabouts::Core(core),
            Place::Node(node) => {
                self.note_way::<E>(key, node, partition).map_or(Whereabouts::Unknown, Whereabouts::Distant)
            }
            _ => Whereabouts::Unknown,
        }
    }

    #[inline]
    pub(super) fn entry<E: Entity>(&self) -> Option<&CatalogEntry> {
        self.entities.get(E::cell().number())?.as_ref()
    }

    /// The number of the entity in this core's table, by the id of its name.
    pub(super) fn entry_of(&self, entity: crate::id::EntityId) -> Option<&CatalogEntry> {
        self.entities.iter().flatten().find(|entry| entry.vtable.id == entity)
    }

    pub(crate) fn partition_of<E: Entity>(key: &Stored<E>) -> u16 {
        if E::PLACED {
            // User code, and the key may be another node's. Where it panics the key places itself, on every node alike.
            match catch_unwind(AssertUnwindSafe(|| E::placement(key))) {
                Ok(placement) => return placement.canonical(|key| key.partition()),
                Err(_) => tracing::warn!(entity = E::NAME, ?key, "the placement of a key panicked"),
            }
        }
        key.canonical(|key| key.partition())
    }

    /// The batch number that what the running task does depends on.
    #[inline]
    pub(super) fn dependence(&self) -> u64 {
        let Some(task) = self.running.get() else { return 0 };
        let number = self.depends_on(task);
        if self.touched.get() { self.dependence_after_change(task, number) } else { number }
    }

    #[inline]
    pub(super) fn depends_on(&self, task: SlotPtr) -> u64 {
        match task.object.get() {
            Some(object) if task.vtable.get().holds => object.depends_on.get(),
            _ => task.depends_on.get(),
        }
    }

    /// The running task has seen something that depends on this batch number.
    #[inline]
    pub(crate) fn adopt(&self, number: u64) {
        let Some(task) = self.running.get() else { return };
        match task.object.get() {
            Some(object) if task.vtable.get().holds => {
                object.depends_on.set(object.depends_on.get().max(number));
            }
            _ => task.depends_on.set(task.depends_on.get().max(number)),
        }
    }
}
