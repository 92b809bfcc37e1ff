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
}

#[derive(Debug)]
struct Image {
    header: EnvelopeHeader,
    key: Range<usize>,
    key_kind: KeyKind,
    place: usize,
    len: usize,
    room: usize,
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
        for image in &self.images {
            let key = RecordKeyRef {
                entity: image.header.entity,
                kind: image.key_kind,
                bytes: &self.keys[image.key.clone()],
            };
            let header = EnvelopeHeader { saved_at_s, ..image.header };
            batch.push(key, &header, &self.bytes[image.place..image.place + image.len])?;
        }
        Ok(())
    }

    /// Empties it for another batch.
    pub(crate) fn reset(&mut self, number: u64) {
        self.number = number;
        self.used = 0;
        self.keys.clear();
        self.images.clear();
    }

    /// Adds an image, written by `write` into the room it is given. Gives its place in the list.
    pub(crate) fn add<E>(
        &mut self,
        label: &ImageLabel,
        key: crate::key::KeyView<'_>,
        write: impl FnMut(&mut [u8]) -> Result<Option<usize>, E>,
    ) -> Result<u32, E> {
        let (place, len) = self.write_image(write)?;
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
        let key_range = start..self.keys.len();
        self.images.push(Image {
            header,
            key: key_range,
            key_kind: key.kind,
            place,
            len,
            room: len.next_multiple_of(16),
        });
        Ok(self.images.len() as u32 - 1)
    }

    /// Replaces an image of the same batch by a newer one, of this schema and layout.
    pub(crate) fn replace<E>(
        &mut self,
        index: u32,
        (schema, layout): (u32, u64),
        write: impl FnMut(&mut [u8]) -> Result<Option<usize>, E>,
    ) -> Result<(), E> {
        // Written behind the others first: the older image stays whole if the newer one turns out to be too large.
        let (fresh, len) = self.write_behind(write)?;
        let Some(image) = self.images.get_mut(index as usize) else { return Ok(()) };
        image.header.kind = EnvelopeKind::State;
        (image.header.schema, image.header.layout) = (schema, layout);
        image.len = len;
        if len <= image.room {
            // Moved into place where it fits, which is the rule: most states keep their size.
            self.bytes.copy_within(fresh..fresh + len, image.place);
        } else {
            (image.place, image.room) = (fresh, len.next_multiple_of(16));
            self.used += image.room;
        }
        Ok(())
    }

    /// Marks an image as the record of an object that was forgotten.
    pub(crate) fn make_tombstone(&mut self, index: u32) {
        if let Some(image) = self.images.get_mut(index as usize) {
            image.header.kind = EnvelopeKind::Tombstone;
            image.len = 0;
        }
    }

    fn write_image<E>(
        &mut self,
        write: impl FnMut(&mut [u8]) -> Result<Option<usize>, E>,
    ) -> Result<(usize, usize), E> {
        let (place, len) = self.write_behind(write)?;
        self.used += len.next_multiple_of(16);
        Ok((place, len))
    }

    /// Writes behind what is in use, without taking the place. Gives place and length.
    fn write_behind<E>(
        &mut self,
        mut write: impl FnMut(&mut [u8]) -> Result<Option<usize>, E>,
    ) -> Result<(usize, usize), E> {
        let mut room = ROOM_FIRST;
        loop {
            if self.bytes.len() < self.used + room {
                self.bytes.resize((self.used + room).next_multiple_of(BYTES_STEP), 0);
            }
            let place = self.used;
            if let Some(len) = write(&mut self.bytes[place..place + room])? {
                return Ok((place, len));
            }
            room *= 4;
        }
    }
}

const ROOM_FIRST: usize = 4096;
const BYTES_STEP: usize = 64 << 10;
