//! A core's part in saving: images of changed objects, and the passing of batches. What waits for a batch: `gate.rs`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use epicserver_storage::RecordKeyRef;

use super::gate::Gate;
use super::{Action, CoreState, Timer, count};
use crate::activation::{Form, ObjectPtr, Status};
use crate::codec::{CodecError, Encoder};
use crate::error::CallError;
use crate::id::EntityId;
use crate::routes::Routes;
use crate::saving::{BatchImages, ImageLabel, SaveNews, SavePolicy};
use crate::slot::{Away, Content, Hold, SlotPtr, State, TaskRef};

/// What a core keeps about saving.
pub(super) struct Saving {
    /// The images of the batch that this core is filling; its number is the core's own.
    open: RefCell<Box<BatchImages>>,
    /// The bytes in it, as read once per turn.
    open_len: Cell<usize>,
    /// Counts the buffers: an image is replaced only in the buffer it was taken in.
    buffer: Cell<u64>,
    durable: Cell<u64>,
    failed: RefCell<VecDeque<RangeInclusive<u64>>>,
    pub(super) gate: Gate,
    /// A timer is set that looks at what is late while no turns run.
    pub(super) is_bound_noted: Cell<bool>,
    #[expect(clippy::vec_box, reason = "the boxes go to the storage thread and come back as they are")]
    spare: RefCell<Vec<Box<BatchImages>>>,
    /// Loads must see this batch: the last one that an object was in when it was dropped.
    pub(super) reload_after: Cell<u64>,
    /// The earlier versions that states are saved in, while a member knows no newer one.
    forms: RefCell<BTreeMap<EntityId, Form>>,
}

impl Default for Saving {
    fn default() -> Self {
        let mut open = Box::<BatchImages>::default();
        open.reset(1);
        Self {
            open: RefCell::new(open),
            open_len: Cell::new(0),
            buffer: Cell::new(1),
            durable: Cell::new(0),
            failed: RefCell::default(),
            gate: Gate::default(),
            is_bound_noted: Cell::new(false),
            spare: RefCell::default(),
            reload_after: Cell::new(0),
            forms: RefCell::default(),
        }
    }
}

impl Saving {
    pub(super) fn wants_commit(&self) -> bool {
        !self.open.borrow().is_empty() || !self.gate.is_empty()
    }

    /// Whether a batch with this number failed.
    #[inline]
    pub(super) fn is_failed(&self, number: u64) -> bool {
        number > 0 && self.failed.borrow().iter().any(|range| range.contains(&number))
    }

    pub(super) fn recycle(&self, images: Box<BatchImages>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(images);
        }
    }

    /// Whether this batch is durable.
    #[inline]
    pub(super) fn is_durable(&self, number: u64) -> bool {
        number <= self.durable.get() && !self.is_failed(number)
    }

    /// Whether it is decided what became of this batch.
    pub(super) fn is_settled(&self, number: u64) -> bool {
        number <= self.durable.get() || self.is_failed(number)
    }

    fn number(&self) -> u64 {
        self.open.borrow().number
    }
}

impl CoreState {
    /// Whether so much waits to be saved that no more turns may run.
    #[inline]
    pub(super) fn is_save_bound(&self) -> bool {
        self.saving.open_len.get() > self.config.dirty_len_max
    }

    /// A change of the object is complete: it belongs to the open batch now, or is noted for later, as its policy says.
    #[inline]
    pub(super) fn take_image(&self, object: ObjectPtr) -> Result<(), CodecError> {
        match object.vtable.get().save {
            SavePolicy::Durable => {
                self.write_image(object)?;
                object.depends_on.set(object.depends_on.get().max(object.image_batch.get()));
                Ok(())
            }
            SavePolicy::Behind(delay_ms) => {
                object.outweighed.set(true);
                if !object.dirty.replace(true) {
                    let timer = Timer::Behind(object, object.generation.get());
                    self.set_timer(self.now.get() + delay_ms * 1_000_000, timer);
                }
                Ok(())
            }
            SavePolicy::OnIdle => {
                object.outweighed.set(true);
                object.dirty.set(true);
                Ok(())
            }
            SavePolicy::Never => {
                object.outweighed.set(true);
                Ok(())
            }
        }
    }

    /// Archives the state into the open batch.
    pub(super) fn write_image(&self, object: ObjectPtr) -> Result<(), CodecError> {
        self.write_image_by(object, |form, encoder| object.image(form, encoder))
    }

    /// As [`write_image`](Self::write_image), with what archives the state.
    pub(super) fn write_image_by(
        &self,
        object: ObjectPtr,
        image: impl Fn(Form, &mut Encoder<'_>) -> Result<usize, CodecError>,
    ) -> Result<(), CodecError> {
        count(&self.counters.images);
        let mut open = self.saving.open.borrow_mut();
        let mut scratch = self.scratch.borrow_mut();
        let len_max = self.config.state_len_max;
        let form = self.form_of(object);
        object.dirty.set(false);
        let written =
            open.write(|room| match image(form, &mut Encoder { buffer: room, scratch: &mut scratch }) {
                Ok(len) if len <= len_max => Ok(Some(len)),
                Err(CodecError::Full { len }) if len <= len_max => Ok(None),
                Ok(len) => Err(CodecError::Full { len }),
                Err(error) => Err(error),
            })?;
        if object.image_buffer.get() == self.saving.buffer.get() {
            open.replace(object.image.get(), (form.version, form.layout), written);
        } else {
            let label = self.next_label(object, form);
            let added = object.key(|key| open.add(&label, key, written));
            object.image.set(added.unwrap_or(u32::MAX));
            object.image_batch.set(open.number);
            object.image_buffer.set(self.saving.buffer.get());
            object.version.set(label.version);
        }
        self.saving.open_len.set(open.byte_len());
        self.weigh(object, written.len);
        Ok(())
    }

    /// The version that a state is saved in now.
    pub(super) fn form_of(&self, object: ObjectPtr) -> Form {
        let vtable = object.vtable.get();
        if vtable.earlier.is_empty() {
            return vtable.form();
        }
        self.saving.forms.borrow().get(&vtable.id).copied().unwrap_or_else(|| vtable.form())
    }

    /// Notes the versions that this view lets states be saved in.
    pub(super) fn note_schemas(&self, routes: &Routes) {
        let mut forms = self.saving.forms.borrow_mut();
        forms.clear();
        for vtable in self.entities.iter().flatten().map(|entry| entry.vtable) {
            let version = routes.view().schema(vtable.name).filter(|_| !vtable.earlier.is_empty());
            forms.extend(
                version.and_then(|version| vtable.written_form(version)).map(|form| (vtable.id, form)),
            );
        }
    }

    fn next_label(&self, object: ObjectPtr, form: Form) -> ImageLabel {
        let vtable = object.vtable.get();
        let partition = object.partition.get();
        ImageLabel {
            entity: vtable.id.0,
            partition,
            key_hash: key_hash(object),
            epoch: self.routes.borrow().epoch(partition),
            version: object.version.get() + 1,
            schema: form.version,
            layout: form.layout,
        }
    }

    /// Removes the object's record: its place in the open batch says that it was forgotten.
    pub(super) fn write_tombstone(&self, object: ObjectPtr) {
        if object.vtable.get().save == SavePolicy::Never || self.write_image(object).is_err() {
            return;
        }
        self.saving.open.borrow_mut().make_tombstone(object.image.get());
        object.depends_on.set(object.depends_on.get().max(object.image_batch.get()));
    }

    pub(super) fn save_behind(&self, object: ObjectPtr, generation: u32) {
        let same = object.generation.get() == generation && object.status.get() == Status::Live;
        if !same || !object.dirty.get() {
            return;
        }
        if object.lock.get() < 0 {
            // An exclusive method is under way; its end is a change as well, so there is no hurry.
            self.set_timer(self.now.get() + BEHIND_AGAIN_NS, Timer::Behind(object, generation));
        } else if let Err(error) = self.write_image(object) {
            // Nobody is left who could be told; the object goes on, and may be smaller again by then.
            tracing::error!(object = object.label(), %error, "a state cannot be saved now; it is tried again");
            object.dirty.set(true);
            self.set_timer(self.now.get() + BEHIND_RETRY_NS, Timer::Behind(object, generation));
        }
    }

    /// Passes all batches below `number`: what was changed so far belongs to an earlier one, what comes belongs to it.
    pub(super) fn pass_to(&self, number: u64) {
        if number <= self.saving.number() {
            return;
        }
        self.hand_over(number);
        self.act(Action::Passed(number));
    }

    /// Hands over what was taken so far; what comes goes to a fresh buffer of batch `next`.
    fn hand_over(&self, next: u64) {
        let full = {
            let mut open = self.saving.open.borrow_mut();
            if open.is_empty() {
                open.reset(next);
                return;
            }
            let mut fresh = self.saving.spare.borrow_mut().pop().unwrap_or_default();
            fresh.reset(next);
            std::mem::replace(&mut *open, fresh)
        };
        self.saving.open_len.set(0);
        self.saving.buffer.set(self.saving.buffer.get() + 1);
        self.act(Action::HandOver(full));
    }

    /// The core is about to sleep: nothing that it changed may stay behind.
    pub(super) fn rest(&self) {
        self.hand_over(self.saving.number());
    }

    /// Whether [`rest`](Self::rest) finds something.
    pub(super) fn has_open_images(&self) -> bool {
        !self.saving.open.borrow().is_empty()
    }

    /// A shared method that changed a `Field` in this turn depends on the image that is taken at the turn's end.
    #[cold]
    pub(super) fn dependence_after_change(&self, task: SlotPtr, number: u64) -> u64 {
        let vtable = task.vtable.get();
        let saved = task.object.get().is_some_and(|object| object.vtable.get().save == SavePolicy::Durable);
        if vtable.holds && vtable.hold != Hold::Exclusive && saved {
            number.max(self.saving.number())
        } else {
            number
        }
    }

    pub(super) fn handle_save(&self, news: SaveNews) {
        for range in news.failed {
            self.fail_batches(range);
        }
        self.pass_to(news.open);
        if news.durable > self.saving.durable.get() {
            self.saving.durable.set(news.durable);
            self.open_gate();
        }
    }

    /// Batches failed: whatever depends on them is dropped, as if it had never been.
    fn fail_batches(&self, range: RangeInclusive<u64>) {
        tracing::warn!(?range, "a save batch failed; what depends on it is dropped");
        {
            let mut failed = self.saving.failed.borrow_mut();
            failed.push_back(range.clone());
            if failed.len() > FAILED_MAX {
                failed.pop_front();
            }
        }
        {
            let mut open = self.saving.open.borrow_mut();
            if range.contains(&open.number) {
                open.reset(range.end() + 1);
                self.saving.open_len.set(0);
                self.saving.buffer.set(self.saving.buffer.get() + 1);
            }
        }
        self.act(Action::Passed(range.end() + 1));
        self.fail_carried(&range);
        // Before the objects, as the end of one may let a call go on that waits for another one; and after them, as those that
        // were granted an object that ends, and had not begun, are messages again.
        self.fail_messages(&range);
        for object in self.objects() {
            let tainted =
                range.contains(&object.depends_on.get()) || range.contains(&object.image_batch.get());
            if tainted && object.status.get() != Status::Vacant {
                self.kill(object, &CallError::SaveFailed);
            }
        }
        self.fail_messages(&range);
        self.objects().into_iter().for_each(|object| self.grant_waiting(object));
        self.open_gate();
    }

    /// A reply that depends on a failed batch becomes an error.
    pub(super) fn spoil_reply(&self, slot: SlotPtr) {
        self.drop_safely(slot, Content::Reply);
        slot.fail_in_place(None, CallError::SaveFailed);
        slot.depends_on.set(0);
    }

    /// Drops the messages, replies and spawned futures that depend on failed batches, wherever they wait.
    fn fail_messages(&self, range: &RangeInclusive<u64>) {
        let tainted = |slot: &SlotPtr| range.contains(&slot.depends_on.get());
        // A call from outside has no object; its gate tells it.
        self.stop_loose(|task| task.object.get().is_some() && tainted(&task));
        let unread = |slot: &SlotPtr| {
            slot.caller.away.get() == Away::Here && slot.state.get() == State::Reply && slot.caller.done.get()
        };
        for slot in self.slots.all().into_iter().filter(|slot| unread(slot) && tainted(slot)) {
            // Nobody can read it while it is dropped.
            slot.caller.done.set(false);
            self.spoil_reply(slot);
            self.hand_back(slot);
        }
        let fresh: Vec<SlotPtr> = self.outbox.iter().filter(tainted).collect();
        for slot in fresh {
            self.outbox.remove(slot);
            self.refuse(slot, CallError::SaveFailed);
        }
        self.refuse_kept(tainted, &CallError::SaveFailed);
        for slot in self.take_unsent(tainted) {
            self.refuse(slot, CallError::SaveFailed);
        }
        for object in self.objects() {
            let waiting: Vec<TaskRef> = object.waiting.iter().filter(tainted).map(SlotPtr::task).collect();
            for task in waiting {
                // The destructor of an earlier one's arguments may have cancelled it.
                if let Some(slot) = task.live().filter(|slot| slot.state.get() == State::Waiting) {
                    self.dequeue(slot, object);
                    self.refuse(slot, CallError::SaveFailed);
                }
            }
        }
    }
}

/// The hash that labels the object's images. Hashing costs more than the rest of an image, so it is kept.
#[inline]
fn key_hash(object: ObjectPtr) -> u64 {
    if object.key_hash.get() == 0 {
        let entity = object.vtable.get().id.0;
        let hash = object.key(|key| RecordKeyRef { entity, kind: key.kind, bytes: key.bytes }.hash());
        object.key_hash.set(hash.unwrap_or(0));
    }
    object.key_hash.get()
}

const SPARE_MAX: usize = 4;
const FAILED_MAX: usize = 64;
const BEHIND_AGAIN_NS: u64 = 1_000_000;
const BEHIND_RETRY_NS: u64 = 1_000_000_000;
