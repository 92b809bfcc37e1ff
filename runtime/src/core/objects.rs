//! Objects come and go: activation, loading, hooks, forgetting, and the end of an activation that cannot go on.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use epicserver_storage::{EnvelopeKind, KEY_LENGTH_MAX, Record, RecordKey, RecordKeyRef};

use super::{Action, CoreState, Located, count};
use crate::activation::{Catalog, CatalogEntry, ObjectPtr, Status};
use crate::entity::{Entity, Stored};
use crate::error::{CallError, Rejection};
use crate::key::StoredKey;
use crate::routes::{Place, Routes};
use crate::saving::{LoadAnswer, LoadTicket, SavePolicy};
use crate::slot::{Content, ReplyTo, SlotPtr, State};
use crate::task::Hook;

impl CoreState {
    /// Where an object is that is not in this core's memory. If it belongs here it is activated.
    #[cold]
    pub(super) fn locate_absent<E: Entity>(
        &self,
        entry: &CatalogEntry,
        catalog: &Catalog<E>,
        key: &Stored<E>,
    ) -> Located {
        if !key.canonical(|key| key.bytes.len() <= KEY_LENGTH_MAX) {
            return Located::TooLong;
        }
        let partition = Self::partition_of::<E>(key);
        let place = self.routes.borrow().place(partition);
        match place {
            Place::Here(core) if core == self.config.index => {
                self.activate(entry, catalog, key, partition).map_or(Located::Broken, Located::Here)
            }
            Place::Here(core) => Located::Core(core),
            Place::Node(node) => Located::Node(node, partition),
            Place::Nobody => Located::Unowned,
        }
    }

    /// Where an object of an entity is that this node does not bind.
    #[cold]
    pub(super) fn locate_elsewhere<E: Entity>(&self, key: &Stored<E>) -> Located {
        let partition = Self::partition_of::<E>(key);
        match self.routes.borrow().place(partition) {
            Place::Node(node) => Located::Node(node, partition),
            Place::Here(_) => Located::Nowhere,
            Place::Nobody => Located::Unowned,
        }
    }

    fn activate<E: Entity>(
        &self,
        entry: &CatalogEntry,
        catalog: &Catalog<E>,
        key: &Stored<E>,
        partition: u16,
    ) -> Option<ObjectPtr> {
        // The state's default is user code, and comes first: if it panics nothing has happened.
        let insert = || catalog.insert(entry.vtable, key.clone(), partition);
        let object = catch_unwind(AssertUnwindSafe(insert)).ok()?;
        count(&self.counters.activations);
        object.last_used.set(self.now.get());
        self.begin_idling(object);
        if self.is_moving() {
            self.note_activated(object);
        }
        if self.starts_from_carried(object) || E::SAVE == SavePolicy::Never {
            self.activated(object);
        } else {
            object.status.set(Status::Loading);
            self.load(object, E::cell().number() as u32);
        }
        Some(object)
    }

    /// Puts the state into a new activation that is carried for it; gives whether there is one.
    fn starts_from_carried(&self, object: ObjectPtr) -> bool {
        let Some((key, record, depends_on)) = self.take_carried(object) else { return false };
        let restored = catch_unwind(AssertUnwindSafe(|| restore(object, key.as_ref(), &record)));
        let restored = restored.unwrap_or_else(|_| Err(default_panicked()));
        object.depends_on.set(depends_on);
        match &restored {
            Ok(state_len) => self.weigh(object, *state_len),
            Err(reason) => {
                tracing::error!(
                    object = object.label(),
                    reason = reason.text(),
                    "what was carried of an object is of no use"
                );
            }
        }
        restored.is_ok()
    }

    fn load(&self, object: ObjectPtr, entity_number: u32) {
        let entity = object.vtable.get().id.0;
        let key = object.key(|key| RecordKey { entity, kind: key.kind, bytes: key.bytes.into() });
        let Some(key) = key else { return };
        self.act(Action::Load(LoadTicket {
            core: self.config.index,
            key,
            after: self.saving.reload_after.get(),
            entity_number,
            index: object.index.get(),
            generation: object.generation.get(),
        }));
    }

    pub(super) fn handle_loaded(&self, ticket: &LoadTicket, answer: LoadAnswer) {
        let entry = self.entities.get(ticket.entity_number as usize).and_then(Option::as_ref);
        let Some(object) = entry.and_then(|entry| entry.any().object(ticket.index)) else { return };
        if object.generation.get() != ticket.generation || object.status.get() != Status::Loading {
            return;
        }
        // What replaces the default state drops it, which is user code.
        let restored = catch_unwind(AssertUnwindSafe(|| match answer {
            Ok(Some(record)) => restore(object, ticket.key.as_ref(), &record),
            Ok(None) => Ok(object.vtable.get().state_len_min as usize),
            Err(error) => Err(Unreadable::Now(error.to_string())),
        }));
        match restored.unwrap_or_else(|_| Err(default_panicked())) {
            Ok(state_len) => {
                self.weigh(object, state_len);
                self.activated(object);
            }
            Err(reason) => {
                tracing::error!(
                    object = object.label(),
                    reason = reason.text(),
                    "an object cannot be loaded"
                );
                let text = format!("{} cannot be loaded: {}", object.label(), reason.text());
                let error = match reason {
                    Unreadable::Now(_) => CallError::Unavailable(text),
                    Unreadable::ByThisProgram(_) => CallError::Rejected(Rejection::Unreadable(text)),
                };
                self.refuse_waiting(object, &error);
                self.kill(object, &error);
            }
        }
    }

    /// The state is there: the hook runs first, then those that wait.
    pub(super) fn activated(&self, object: ObjectPtr) {
        match object.vtable.get().on_activate {
            Some(hook) if self.start_hook(object, hook) => object.status.set(Status::Activating),
            _ => {
                object.status.set(Status::Live);
                self.grant_waiting(object);
            }
        }
    }

    /// Runs a hook on an object that nobody holds; `false` if there is no memory for it.
    fn start_hook(&self, object: ObjectPtr, hook: Hook) -> bool {
        // Beyond the bound on calls, as the object is here already; there is one hook for an object at most.
        let Some(slot) = self.slots.allocate_beyond(hook.vtable) else { return false };
        hook.put_message(slot, object);
        slot.reply_to.set(ReplyTo::Nobody);
        slot.object.set(Some(object));
        self.root(slot);
        self.grant(object, slot);
        self.schedule_granted(slot, object);
        true
    }

    /// Makes a slot's call the root of its own chain, with no deadline.
    fn root(&self, slot: SlotPtr) {
        slot.deadline.set(u64::MAX);
        slot.depth.set(1);
        slot.root_ms.set(self.now_ms());
        slot.counter.set(self.next_counter());
        slot.parent.set(None);
        slot.caller.parent.set(None);
        slot.cancelled.set(false);
        slot.depends_on.set(0);
        slot.caller.done.set(false);
        slot.caller.gone.set(false);
        slot.caller.early.set(None);
    }

    /// A call let go of the object: those that wait may have it now. A hook has ended when the calls have that it made on
    /// its own object.
    #[inline]
    pub(super) fn released(&self, object: ObjectPtr) {
        if object.status.get() == Status::Live {
            self.grant_waiting(object);
        } else if object.running.is_empty() {
            self.hook_done(object);
        }
    }

    #[cold]
    fn hook_done(&self, object: ObjectPtr) {
        match object.status.get() {
            Status::Activating => {
                object.status.set(Status::Live);
                self.grant_waiting(object);
            }
            Status::Closing => self.drop_object(object),
            _ => {}
        }
    }

    /// The object is forgotten: it is in its default state again, and its record is a tombstone. `false` if the default
    /// or the old state's destructor panicked; then the activation is gone.
    pub(super) fn forget_now(&self, object: ObjectPtr) -> bool {
        object.forget.set(false);
        let reset = catch_unwind(AssertUnwindSafe(|| object.reset()));
        object.outweighed.set(true);
        self.write_tombstone(object);
        if reset.is_err() {
            self.kill(object, &CallError::OutcomeUnknown(crate::error::Loss::OwnerLost));
        }
        reset.is_ok()
    }

    /// The method whose turn it is wants its object forgotten; that happens when nobody holds it.
    pub(crate) fn forget_running(&self) -> bool {
        let object =
            self.running.get().filter(|slot| slot.vtable.get().holds).and_then(|slot| slot.object.get());
        if let Some(object) = object {
            object.forget.set(true);
        }
        object.is_some()
    }

    /// Lets go of an object that nobody uses: hook, last image, and out. Gives whether it may go.
    pub(super) fn close_object(&self, object: ObjectPtr) -> bool {
        if !object.is_unused() {
            return false;
        }
        object.status.set(Status::Closing);
        // Before its hook, which may take a while: others need not leave for the same bytes.
        self.unweigh(object);
        match object.vtable.get().on_drop {
            Some(hook) if self.start_hook(object, hook) => {}
            _ => self.drop_object(object),
        }
        true
    }

    /// Takes an object out of memory that nobody holds. Those that wait for it start again.
    fn drop_object(&self, object: ObjectPtr) {
        // Its hook may have said so.
        if object.forget.get() && !self.forget_now(object) {
            return;
        }
        if object.dirty.get()
            && let Err(error) = self.write_image(object)
        {
            tracing::error!(object = object.label(), %error, "a state cannot be saved");
        }
        self.remember_image(object);
        self.carry_if_moving(object);
        self.stop_loose(|task| task.object.get() == Some(object));
        self.restart(object, Vec::new());
        self.vacate(object);
    }

    /// The next load must see the image that was taken of this object.
    fn remember_image(&self, object: ObjectPtr) {
        let last = self.saving.reload_after.get().max(object.image_batch.get());
        self.saving.reload_after.set(last);
    }

    /// Ends an activation at once, with what it has not saved. Its running calls end with `error`; those that have not
    /// run start again with the next activation.
    pub(super) fn kill(&self, object: ObjectPtr, error: &CallError) {
        self.remember_image(object);
        // Nobody is granted an object that ends, whatever the destructors below let go of.
        object.status.set(Status::Closing);
        object.forget.set(false);
        self.stop_loose(|task| task.object.get() == Some(object));
        let mut unstarted = Vec::new();
        while let Some(slot) = object.running.head.get() {
            self.unschedule(slot);
            if slot.state.get() == State::Granted && !is_hook(slot, object) {
                self.drop_hold(object, slot);
                slot.state.set(State::Message);
                unstarted.push(slot);
                continue;
            }
            let content = if slot.state.get() == State::Granted { Content::Message } else { Content::Future };
            // Nothing that its destructors do may wake it.
            slot.state.set(State::Reply);
            self.drop_safely(slot, content);
            self.drop_hold(object, slot);
            slot.fail_in_place(None, error.clone());
            self.depend_on_object(slot, object, error);
            self.reply(slot);
        }
        object.unstarted.set(0);
        self.restart(object, unstarted);
        self.vacate(object);
    }

    /// An error that a method's end brings must not leave before what the method had seen; unless that is gone.
    pub(super) fn depend_on_object(&self, slot: SlotPtr, object: ObjectPtr, error: &CallError) {
        let gone = *error == CallError::SaveFailed;
        slot.depends_on.set(if gone { 0 } else { object.depends_on.get() });
    }

    /// Calls that were granted an object that ends, and those that wait for it, are dispatched again: in their order, and
    /// before what was sent later.
    fn restart(&self, object: ObjectPtr, unstarted: Vec<SlotPtr>) {
        let mut calls = unstarted;
        while let Some(slot) = object.waiting.head.get() {
            self.dequeue(slot, object);
            calls.push(slot);
        }
        if self.is_moving() && !calls.is_empty() {
            self.release_parked_for(object);
        }
        for slot in calls.into_iter().rev() {
            slot.object.set(None);
            self.outbox.push_front(slot);
        }
    }

    pub(super) fn refuse_waiting(&self, object: ObjectPtr, error: &CallError) {
        while let Some(slot) = object.waiting.head.get() {
            self.dequeue(slot, object);
            self.refuse(slot, error.clone());
        }
    }

    fn vacate(&self, object: ObjectPtr) {
        self.unweigh(object);
        let id = object.vtable.get().id;
        if let Some(entry) = self.entry_of(id) {
            let vacated = catch_unwind(AssertUnwindSafe(|| entry.any().vacate(object)));
            if vacated.is_err() {
                tracing::warn!(entity = entry.vtable.name, "a state's destructor panicked");
            }
        }
    }

    /// All places of objects on this core, vacant ones included.
    pub(super) fn objects(&self) -> Vec<ObjectPtr> {
        let of = |entry: &CatalogEntry| {
            let catalog = entry.any();
            (0..catalog.places()).filter_map(|index| catalog.object(index)).collect::<Vec<_>>()
        };
        self.entities
            .iter()
            .flatten()
            .flat_map(of)
            .filter(|object| object.status.get() != Status::Vacant)
            .collect()
    }

    /// The view changed: what is no longer ours is dropped, and calls for it go where it is now.
    pub(super) fn handle_view(&self, routes: Arc<Routes>) {
        let before = self.routes.replace(routes);
        let now = self.routes.borrow().clone();
        let lost = self.lost_between(&before, &now);
        // Most often all of it was emptied before.
        let objects = if lost.is_empty() { Vec::new() } else { self.objects() };
        for object in objects {
            if lost.contains(&object.partition.get()) {
                self.kill(object, &CallError::OutcomeUnknown(crate::error::Loss::OwnerLost));
            }
        }
        self.drop_carried(&now);
        self.note_schemas(&now);
        // What was parked here is dispatched before other cores hear that nothing of theirs is left.
        self.end_moves(&now);
        self.view_changed(&before);
        self.begin_moves(&now);
    }

    /// The partitions of this core that are not what they were, and may have objects in memory.
    fn lost_between(&self, before: &Routes, now: &Routes) -> BTreeSet<u16> {
        let here = Place::Here(self.config.index);
        let is_lost = |partition: &u16| {
            before.place(*partition) == here
                && (now.place(*partition), now.epoch(*partition)) != (here, before.epoch(*partition))
                && !self.is_drained(*partition)
        };
        (0..epicserver_storage::PARTITIONS).filter(is_lost).collect()
    }

    /// The node stops: objects that nobody uses leave memory, hooks and all; others when they are asked again.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        for object in self.objects() {
            self.close_object(object);
        }
    }

    /// Ends everything, when the core ends.
    pub(crate) fn close(&self) {
        self.stop_loose(|_| true);
        for object in self.objects() {
            self.refuse_waiting(object, &CallError::Rejected(Rejection::ShuttingDown));
            self.kill(object, &CallError::OutcomeUnknown(crate::error::Loss::OwnerLost));
        }
        while let Some(slot) = self.outbox.pop_front() {
            self.refuse(slot, CallError::Rejected(Rejection::ShuttingDown));
        }
        self.refuse_kept(|_| true, &CallError::Rejected(Rejection::ShuttingDown));
        self.close_remote();
        // What destructors started meanwhile.
        self.stop_loose(|_| true);
    }
}

/// Why a state cannot be used.
enum Unreadable {
    /// Another try may find it otherwise: the store failed, or what it gave is damaged.
    Now(String),
    /// It stays so, as long as this program runs.
    ByThisProgram(String),
}

impl Unreadable {
    fn text(&self) -> &str {
        match self {
            Self::Now(text) | Self::ByThisProgram(text) => text,
        }
    }
}

fn default_panicked() -> Unreadable {
    Unreadable::Now("the destructor of its default state panicked".to_owned())
}

/// Puts a record into an activation, and gives the length of the state's archive.
fn restore(object: ObjectPtr, key: RecordKeyRef<'_>, record: &Record) -> Result<usize, Unreadable> {
    let (header, payload) = record.open(key).map_err(|error| Unreadable::Now(error.to_string()))?;
    object.version.set(header.version);
    if header.kind == EnvelopeKind::Tombstone {
        return Ok(object.vtable.get().state_len_min as usize);
    }
    let vtable = object.vtable.get();
    if header.codec != crate::codec::CODEC_RKYV {
        return Err(Unreadable::ByThisProgram(format!("its codec {} is not known here", header.codec)));
    }
    let (name, version) = (vtable.name, vtable.version);
    let earlier = vtable.earlier.iter().position(|form| form.version == header.schema);
    let layout = match earlier {
        Some(place) => vtable.earlier[place].layout,
        None if header.schema == version => vtable.layout,
        None if header.schema > version => {
            let saved = header.schema;
            return Err(Unreadable::ByThisProgram(format!(
                "it was saved by version {saved} of {name}, and this program knows {version}"
            )));
        }
        None => {
            let saved = header.schema;
            return Err(Unreadable::ByThisProgram(format!(
                "it was saved by version {saved} of {name}, and this is version {version}: name a migration, \
                 `#[entity(version = {version}, migrations({saved} => .., ..))]`"
            )));
        }
    };
    if header.layout != layout {
        let saved = header.schema;
        let text = format!("the layout of version {saved} of {name} changed, and not its `version = ..`");
        return Err(Unreadable::ByThisProgram(text));
    }
    let loaded = object.load(earlier, payload);
    loaded.map(|()| payload.len()).map_err(|error| Unreadable::Now(error.to_string()))
}

/// Whether the call is not one of a caller's but the object's own hook.
pub(super) fn is_hook(slot: SlotPtr, object: ObjectPtr) -> bool {
    let vtable = object.vtable.get();
    let hooks = [vtable.on_activate, vtable.on_drop];
    let same = |hook: Hook| std::ptr::eq(hook.vtable, slot.vtable.get());
    slot.reply_to.get() == ReplyTo::Nobody
        && slot.deadline.get() == u64::MAX
        && hooks.into_iter().flatten().any(same)
}
