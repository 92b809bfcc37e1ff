//! Saving, as data: policies, the images of one batch, and what cores and the storage thread tell each other.

use std::ops::{Range, RangeInclusive};

use epicserver_storage::{
    Batch, BatchError, EnvelopeHeader, EnvelopeKind, KeyKind, Partition, Record, RecordKey, RecordKeyRef,
    StoreError,
};
use rkyv::util::AlignedVec;

mod commit;

pub use self::commit::{Committed, commit_until_known};

/// What a crash may lose of an entity's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavePolicy {
    /// Nothing that anybody outside of the node has seen.
    Durable,
    /// The changes of the last so many milliseconds. A state that is too large to be saved goes on in memory, is logged and
    /// tried again every second; if it still is when the object leaves memory, what was changed since the last save is lost.
    Behind(u64),
    /// Everything since the object was last idle; too large a state likewise.
    OnIdle,
    /// Everything: the object is never saved. It begins anew when it has left memory for being idle, or for the memory budget.
    Never,
}

/// The storage thread moved on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaveNews {
    /// The number of the batch that is being filled now.
    pub open: u64,
    /// All batches up to this number are durable, but for the failed ones.
    pub durable: u64,
    /// Batches that failed, which the core has not heard of yet.
    pub failed: Vec<RangeInclusive<u64>>,
}

/// An object's saved state is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadTicket {
    /// The core that asks.
    pub core: u16,
    /// Which record.
    pub key: RecordKey,
    /// The load must see this batch, and so come after it.
    pub after: u64,
    pub(crate) entity_number: u32,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// What the store said.
pub type LoadAnswer = Result<Option<Record>, StoreError>;

/// The images of one core's objects that belong to one batch. Buffers are recycled.
#[derive(Debug, Default)]
pub struct BatchImages {
    /// The batch.
    pub number: u64,
    bytes: AlignedVec,
    used: usize,
    keys: Vec<u8>,
    images: Vec<Image>,
    /// What changes when an image is replaced, of each: apart from the rest, as objects that are called in turns share this in the
    /// processor's cache.
    spots: Vec<Spot>,
}

/// Whose an image is.
#[derive(Debug)]
struct Image {
    /// But for what its [`Spot`] says.
    header: EnvelopeHeader,
    key: Range<usize>,
    key_kind: KeyKind,
}

/// Where an image is, and what.
#[derive(Debug)]
struct Spot {
    place: usize,
    len: u32,
    room: u32,
    layout: u64,
    schema: u32,
    kind: EnvelopeKind,
}

/// An image that was written, and is nobody's yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    place: usize,
    pub(crate) len: usize,
}

impl Written {
    /// What an image takes, as each begins at a multiple of 16.
    fn room(self) -> usize {
        self.len.next_multiple_of(16)
    }
}

/// Whose image it is, and how it is to be labelled.
pub(crate) struct ImageLabel {
    pub(crate) entity: u64,
    pub(crate) partition: u16,
    pub(crate) key_hash: u64,
    pub(crate) epoch: u64,
    pub(crate) version: u64,
    pub(crate) schema: u32,
    pub(crate) layout: u64,
}

impl BatchImages {
    /// How many objects it holds images of.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The bytes that its images take, outdated ones included.
    pub fn byte_len(&self) -> usize {
        self.used
    }

    /// Adds the images to a batch of the store, as saved at this time, in seconds since 1970; 0: it is not said.
    ///
    /// # Errors
    /// As [`Batch::push`]; the batch then holds a part of them and must not be committed.
    pub fn append_to(&self, batch: &mut Batch, saved_at_s: u32) -> Result<(), BatchError> {
        for (image, spot) in self.images.iter().zip(&self.spots) {
            let key = RecordKeyRef {
                entity: image.header.entity,
                kind: image.key_kind,
                bytes: &self.keys[image.key.clone()],
            };
            let Spot { kind, schema, layout, .. } = *spot;
            let header = EnvelopeHeader { kind, schema, layout, saved_at_s, ..image.header };
            batch.push(key, &header, &self.bytes[spot.place..spot.place + spot.len as usize])?;
        }
        Ok(())
    }

    /// Empties it for another batch.
    pub(crate) fn reset(&mut self, number: u64) {
        self.number = number;
        self.used = 0;
        self.keys.clear();
        self.images.clear();
        self.spots.clear();
    }

    /// Adds an image. Gives its place in the list.
    pub(crate) fn add(&mut self, label: &ImageLabel, key: crate::key::KeyView<'_>, written: Written) -> u32 {
        let start = self.keys.len();
        self.keys.extend_from_slice(key.bytes);
        let header = EnvelopeHeader {
            kind: EnvelopeKind::State,
            codec: crate::codec::CODEC_RKYV,
            entity: label.entity,
            key_hash: label.key_hash,
            partition: Partition::new(label.partition).unwrap_or(Partition::from_hash(label.key_hash)),
            epoch: label.epoch,
            version: label.version,
            schema: label.schema,
            layout: label.layout,
            saved_at_s: 0,
        };
        self.images.push(Image { header, key: start..self.keys.len(), key_kind: key.kind });
        self.used += written.room();
        self.spots.push(Spot {
            place: written.place,
            len: written.len as u32,
            room: written.room() as u32,
            layout: label.layout,
            schema: label.schema,
            kind: EnvelopeKind::State,
        });
        self.spots.len() as u32 - 1
    }

    /// Replaces an image of the same batch by a newer one, of this schema and layout.
    #[inline]
    pub(crate) fn replace(&mut self, index: u32, (schema, layout): (u32, u64), written: Written) {
        let Some(spot) = self.spots.get_mut(index as usize) else { return };
        (spot.kind, spot.schema, spot.layout) = (EnvelopeKind::State, schema, layout);
        spot.len = written.len as u32;
        if written.len <= spot.room as usize {
            // Moved into place where it fits, which is the rule: most states keep their size.
            self.bytes.copy_within(written.place..written.place + written.len, spot.place);
        } else {
            (spot.place, spot.room) = (written.place, written.room() as u32);
            self.used += written.room();
        }
    }

    /// Marks an image as the record of an object that was forgotten.
    pub(crate) fn make_tombstone(&mut self, index: u32) {
        if let Some(spot) = self.spots.get_mut(index as usize) {
            spot.kind = EnvelopeKind::Tombstone;
            spot.len = 0;
        }
    }

    /// Has an image written behind the others, by `write` into the room it is given. It is one of them when it is
    /// [added](Self::add) or [replaces](Self::replace) an older one, which stays whole if the newer one turns out to be too large.
    #[inline]
    pub(crate) fn write<E>(
        &mut self,
        mut write: impl FnMut(&mut [u8]) -> Result<Option<usize>, E>,
    ) -> Result<Written, E> {
        let mut room = ROOM_FIRST;
        loop {
            if self.bytes.len() < self.used + room {
                self.grow(room);
            }
            let place = self.used;
            if let Some(len) = write(&mut self.bytes[place..place + room])? {
                return Ok(Written { place, len });
            }
            room *= 4;
        }
    }

    #[cold]
    fn grow(&mut self, room: usize) {
        self.bytes.resize((self.used + room).next_multiple_of(BYTES_STEP), 0);
    }
}

const ROOM_FIRST: usize = 4096;
const BYTES_STEP: usize = 64 << 10;
