//! Images of objects that are in memory and have no activation: taken where a partition is let go of, used by the next activation,
//! here or at the next owner.
//!
//! ```text
//!   drain: object closed -> carry -> [image] -> all closed and durable -> Action::Drained
//!   Event::Shipped ------------------> [image] -> first call: the activation starts from it, instead of a load
//! ```
//! An image belongs to an epoch of its partition and is thrown away with it. One that nobody asks for is forgotten when the object
//! would have been, had it been idle.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use epicserver_storage::{
    ENVELOPE_HEADER_LENGTH, Envelope, EnvelopeHeader, EnvelopeKind, Partition, Record, RecordKey,
};
use rkyv::util::AlignedVec;

use super::CoreState;
use crate::activation::{Form, ObjectPtr};
use crate::codec::{CodecError, Encoder};
use crate::routes::{Place, Routes};
use crate::saving::SavePolicy;
use crate::shipment::{SHIPMENT_LEN_MAX, Shipment};
use crate::wire::control::parts::SaveStream;

/// The images, by partition.
#[derive(Default)]
pub(super) struct Carried(RefCell<BTreeMap<u16, Images>>);

struct Images {
    epoch: u64,
    /// When the last one was taken, or all of them came.
    since: u64,
    /// How long the longest of them would have lain idle.
    idle_ns: u64,
    records: BTreeMap<RecordKey, Image>,
}

struct Image {
    record: Record,
    /// The batch that it depends on; one that came from another node depends on none.
    depends_on: u64,
    is_saved: bool,
}

impl CoreState {
    /// Keeps an image of an object that is about to leave memory, for its next activation.
    pub(super) fn carry(&self, object: ObjectPtr) {
        let (key, record) = match self.record_of(object) {
            Ok(Some(image)) => image,
            Ok(None) => return,
            Err(error) => {
                return tracing::error!(object = object.label(), %error, "a state cannot be moved");
            }
        };
        let depends_on = object.depends_on.get().max(object.image_batch.get());
        let is_saved = object.vtable.get().save != SavePolicy::Never;
        let partition = object.partition.get();
        let epoch = self.routes.borrow().epoch(partition);
        let mut carried = self.carried.0.borrow_mut();
        let images = carried.entry(partition).or_insert_with(|| Images::new(epoch));
        (images.epoch, images.since) = (epoch, self.now.get());
        images.idle_ns = images.idle_ns.max(self.idle_ns_of(object.vtable.get()));
        images.records.insert(key, Image { record, depends_on, is_saved });
    }

    fn record_of(&self, object: ObjectPtr) -> Result<Option<(RecordKey, Record)>, CodecError> {
        let vtable = object.vtable.get();
        let entity = vtable.id.0;
        let key = object.key(|key| RecordKey { entity, kind: key.kind, bytes: key.bytes.into() });
        let (Some(key), Some(partition)) = (key, Partition::new(object.partition.get())) else {
            return Ok(None);
        };
        let form = self.form_of(object);
        let mut envelope = self.envelope_of(object, form)?;
        let header = EnvelopeHeader {
            kind: EnvelopeKind::State,
            codec: crate::codec::CODEC_RKYV,
            entity,
            key_hash: key.as_ref().hash(),
            partition,
            epoch: self.routes.borrow().epoch(partition.number()),
            version: object.version.get(),
            schema: form.version,
            layout: form.layout,
            saved_at_s: 0,
        };
        let sealed = Envelope::seal(&header, &mut envelope);
        sealed.map_err(|error| CodecError::Invalid(error.to_string()))?;
        Ok(Some((key, Record::new(&envelope))))
    }

    /// The archive of the state, behind room for a header.
    fn envelope_of(&self, object: ObjectPtr, form: Form) -> Result<AlignedVec, CodecError> {
        let mut scratch = self.scratch.borrow_mut();
        let mut room = ROOM_FIRST;
        loop {
            let mut envelope = AlignedVec::new();
            envelope.resize(ENVELOPE_HEADER_LENGTH + room, 0);
            let buffer = &mut envelope[ENVELOPE_HEADER_LENGTH..];
            match object.image(form, &mut Encoder { buffer, scratch: &mut scratch }) {
                Ok(len) => {
                    envelope.resize(ENVELOPE_HEADER_LENGTH + len, 0);
                    return Ok(envelope);
                }
                Err(CodecError::Full { len }) if len <= self.config.state_len_max => room = len,
                Err(error) => return Err(error),
            }
        }
    }

    /// The image that an activation is to start from, and the batch that depends on; it is taken out.
    pub(super) fn take_carried(&self, object: ObjectPtr) -> Option<(RecordKey, Record, u64)> {
        if self.carried.0.borrow().is_empty() {
            return None;
        }
        let entity = object.vtable.get().id.0;
        let key = object.key(|key| RecordKey { entity, kind: key.kind, bytes: key.bytes.into() })?;
        let partition = object.partition.get();
        let mut carried = self.carried.0.borrow_mut();
        let images = carried.get_mut(&partition)?;
        if images.epoch != self.routes.borrow().epoch(partition) {
            return None;
        }
        let image = images.records.remove(&key)?;
        if images.records.is_empty() {
            carried.remove(&partition);
        }
        Some((key, image.record, image.depends_on))
    }

    /// Another node has shipped the objects of a partition that this node is about to own.
    pub(super) fn handle_shipped(&self, shipment: Shipment) {
        let Shipment { partition, epoch, records } = shipment;
        if self.routes.borrow().epoch(partition.number()) >= epoch {
            return tracing::warn!(%partition, epoch, "a shipment came too late");
        }
        let image = |record| Image { record, depends_on: 0, is_saved: false };
        let records: BTreeMap<_, _> = records.into_iter().map(|(key, record)| (key, image(record))).collect();
        let limits = self.entities.iter().flatten().map(|entry| self.idle_ns_of(entry.vtable));
        let images = Images { epoch, since: self.now.get(), idle_ns: limits.max().unwrap_or(0), records };
        self.carried.0.borrow_mut().insert(partition.number(), images);
    }

    /// What is carried of a partition, as its next owner gets it. What has no room is left out, first of all what is saved.
    pub(super) fn carried_stream(&self, partition: u16) -> SaveStream {
        let mut stream = SaveStream::default();
        let carried = self.carried.0.borrow();
        let Some(images) = carried.get(&partition) else { return stream };
        let (saved, unsaved): (Vec<_>, Vec<_>) = images.records.iter().partition(|(_, image)| image.is_saved);
        let mut left_out = 0;
        for (key, image) in unsaved.into_iter().chain(saved) {
            if stream.len() + image.record.bytes().len() + key.bytes.len() > SHIPMENT_LEN_MAX {
                left_out += 1;
                continue;
            }
            stream.push(key.as_ref(), image.record.bytes());
        }
        if left_out > 0 {
            tracing::warn!(
                partition,
                left_out,
                "objects of a partition that moves have no room in its shipment"
            );
        }
        stream
    }

    /// Throws away what depends on batches that failed.
    pub(super) fn fail_carried(&self, range: &RangeInclusive<u64>) {
        for images in self.carried.0.borrow_mut().values_mut() {
            images.records.retain(|_, image| !range.contains(&image.depends_on));
        }
    }

    /// Throws away what belongs to an epoch that is over.
    pub(super) fn drop_carried(&self, routes: &Routes) {
        let fits = |partition: &u16, images: &mut Images| {
            let epoch = routes.epoch(*partition);
            epoch < images.epoch
                || (epoch == images.epoch && matches!(routes.place(*partition), Place::Here(_)))
        };
        self.carried.0.borrow_mut().retain(fits);
    }

    /// Forgets what nobody asked for.
    pub(super) fn forget_carried(&self) {
        let mut carried = self.carried.0.borrow_mut();
        if !carried.is_empty() {
            let now = self.now.get();
            carried.retain(|partition, images| {
                self.is_draining(*partition) || images.since.saturating_add(images.idle_ns) > now
            });
        }
    }
}

impl Images {
    fn new(epoch: u64) -> Self {
        Self { epoch, since: 0, idle_ns: 0, records: BTreeMap::new() }
    }
}

/// Room for a state that is tried first, in bytes.
const ROOM_FIRST: usize = 256;
