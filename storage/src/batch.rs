//! A batch of saves: what one commit makes durable, whole or not at all.
//!
//! All keys and envelopes lie in one buffer that is kept over [`Batch::clear`], so that a recycled batch does not
//! allocate. Every save is checked when it is put in: a batch holds intact envelopes of the objects it names, never
//! anything else. Not here: whether the store takes it (`store.rs`).

use std::fmt;
use std::ops::Range;

use crate::envelope::{Envelope, EnvelopeError, EnvelopeHeader, EnvelopeKind};
#[cfg(doc)]
use crate::id::COUNT_MAX;
use crate::id::{NodeId, Partition};
use crate::key::{KeyError, KeyKind, RecordKeyRef};

/// The saves of one batch, in the order in which they are to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    name: BatchName,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Batch {
    /// An empty batch. Committing it records its name and nothing else.
    pub fn new(name: BatchName) -> Self {
        Self { name, bytes: Vec::new(), entries: Vec::new() }
    }

    /// Empties the batch and names it anew; its buffers stay.
    pub fn clear(&mut self, name: BatchName) {
        self.name = name;
        self.bytes.clear();
        self.entries.clear();
    }

    /// Adds a save and writes its envelope.
    ///
    /// # Errors
    /// [`BatchError`] if the header is not this key's, or the payload breaks a rule of envelopes; the batch is then as
    /// it was.
    pub fn push(
        &mut self,
        key: RecordKeyRef<'_>,
        header: &EnvelopeHeader,
        payload: &[u8],
    ) -> Result<(), BatchError> {
        key.check()?;
        header.check_key(key)?;
        let before = self.bytes.len();
        let key_range = self.push_key(key);
        if let Err(error) = Envelope::write(header, payload, &mut self.bytes) {
            self.bytes.truncate(before);
            return Err(error.into());
        }
        self.push_entry(key, header, key_range);
        Ok(())
    }

    /// Adds a save whose envelope is already written, by this process or another; every byte of it is checked.
    ///
    /// # Errors
    /// [`BatchError`] if the envelope is damaged or another object's; the batch is then as it was.
    pub fn push_envelope(&mut self, key: RecordKeyRef<'_>, envelope: &[u8]) -> Result<(), BatchError> {
        key.check()?;
        let (header, _payload) = Envelope::open(key, envelope)?;
        let key_range = self.push_key(key);
        self.bytes.extend_from_slice(envelope);
        self.push_entry(key, &header, key_range);
        Ok(())
    }

    /// Whose batch this is, and which.
    pub fn name(&self) -> BatchName {
        self.name
    }

    /// How many saves it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and envelopes together, in bytes.
    pub fn byte_length(&self) -> usize {
        self.bytes.len()
    }

    /// The saves, in order.
    pub fn saves(&self) -> impl DoubleEndedIterator<Item = Save<'_>> + ExactSizeIterator {
        self.entries.iter().map(|entry| Save {
            key: RecordKeyRef {
                entity: entry.entity,
                kind: entry.key_kind,
                bytes: &self.bytes[entry.key.clone()],
            },
            kind: entry.kind,
            partition: entry.partition,
            epoch: entry.epoch,
            version: entry.version,
            envelope: &self.bytes[entry.envelope.clone()],
        })
    }

    fn push_key(&mut self, key: RecordKeyRef<'_>) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key.bytes);
        start..self.bytes.len()
    }

    /// The envelope is what lies between the key and the end of the buffer.
    fn push_entry(&mut self, key: RecordKeyRef<'_>, header: &EnvelopeHeader, key_range: Range<usize>) {
        self.entries.push(Entry {
            entity: key.entity,
            key_kind: key.kind,
            envelope: key_range.end..self.bytes.len(),
            key: key_range,
            kind: header.kind,
            partition: header.partition,
            epoch: header.epoch,
            version: header.version,
        });
    }
}

/// The name of a batch: at most one batch of a name is ever committed. Ordered by node, then number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchName {
    /// Whose batch, in which life.
    pub node: NodeId,
    /// Counts up within a life, from 1 to at most [`COUNT_MAX`], with gaps where batches failed. 0 names no batch: it is what depends on
    /// nothing.
    pub number: u64,
}

impl fmt::Display for BatchName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}#{}", self.node, self.number)
    }
}

/// One save of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Save<'a> {
    /// Whose.
    pub key: RecordKeyRef<'a>,
    /// State, or the mark that the object was forgotten.
    pub kind: EnvelopeKind,
    /// The partition whose fence this save stands under.
    pub partition: Partition,
    /// The writer's epoch of that partition.
    pub epoch: u64,
    /// The version that this save makes.
    pub version: u64,
    /// What to keep: an intact envelope, tombstones too.
    pub envelope: &'a [u8],
}

/// The save is not put into the batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The key is not canonical.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The envelope is damaged, too large or another object's.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    entity: u64,
    key_kind: KeyKind,
    key: Range<usize>,
    envelope: Range<usize>,
    kind: EnvelopeKind,
    partition: Partition,
    epoch: u64,
    version: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::RecordKey;

    const NAME: BatchName = BatchName { node: NodeId { id: 1, incarnation: 1 }, number: 1 };

    #[test]
    fn saves_come_back_as_they_went_in() {
        let (first, second) = (RecordKey::u64(1, 10), RecordKey::string(2, "Bob").unwrap());
        let header = EnvelopeHeader { version: 3, epoch: 4, ..EnvelopeHeader::state(first.as_ref()) };
        let mut batch = Batch::new(NAME);
        batch.push(first.as_ref(), &header, b"state").unwrap();
        batch.push(second.as_ref(), &EnvelopeHeader::tombstone(second.as_ref()), b"").unwrap();

        let saves: Vec<Save<'_>> = batch.saves().collect();
        assert_eq!(saves.len(), batch.len());
        assert_eq!(saves[0].key, first.as_ref());
        assert_eq!((saves[0].version, saves[0].epoch, saves[0].kind), (3, 4, EnvelopeKind::State));
        assert_eq!(Envelope::open(first.as_ref(), saves[0].envelope), Ok((header, &b"state"[..])));
        assert_eq!((saves[1].key, saves[1].kind), (second.as_ref(), EnvelopeKind::Tombstone));

        let mut copy = Batch::new(NAME);
        saves.iter().for_each(|save| copy.push_envelope(save.key, save.envelope).unwrap());
        assert_eq!(copy, batch);
    }

    #[test]
    fn a_refused_save_leaves_no_trace() {
        let (key, other) = (RecordKey::u64(1, 10), RecordKey::u64(1, 11));
        let tombstone = EnvelopeHeader::tombstone(key.as_ref());
        let mut batch = Batch::new(NAME);
        assert!(batch.push(key.as_ref(), &tombstone, b"not empty").is_err());
        assert!(batch.push(other.as_ref(), &tombstone, b"").is_err());
        let mut envelope = Vec::new();
        Envelope::write(&tombstone, b"", &mut envelope).unwrap();
        assert!(batch.push_envelope(other.as_ref(), &envelope).is_err());
        envelope[40] ^= 1;
        assert!(batch.push_envelope(key.as_ref(), &envelope).is_err());
        let bad = RecordKeyRef { entity: 1, kind: KeyKind::U64, bytes: b"short" };
        assert!(matches!(
            batch.push(bad, &EnvelopeHeader::state(bad), b""),
            Err(BatchError::Key(KeyError::Width { .. }))
        ));
        assert_eq!(batch, Batch::new(NAME));
    }

    #[test]
    fn a_cleared_batch_keeps_its_buffer() {
        let key = RecordKey::u64(1, 10);
        let mut batch = Batch::new(NAME);
        batch.push(key.as_ref(), &EnvelopeHeader::state(key.as_ref()), &[7; 1000]).unwrap();
        let capacity = batch.bytes.capacity();
        let next = BatchName { number: 2, ..NAME };
        batch.clear(next);
        assert!(batch.is_empty());
        assert_eq!((batch.name(), batch.byte_length(), batch.bytes.capacity()), (next, 0, capacity));
    }
}
