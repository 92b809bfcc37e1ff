//! The store: where state is saved, and where the fence is.
//!
//! A contract, no implementation. One storage thread per node calls it and may block in it; `memory.rs` has the
//! plainest implementation, `conformance.rs` the suite that every implementation passes. What a store never does:
//! look into payloads, read clocks, know who *should* own a partition. Start at [`Store::commit`].

use crate::aligned::AlignedBytes;
use crate::batch::{Batch, BatchName};
use crate::envelope::{Envelope, EnvelopeError, EnvelopeHeader};
#[cfg(doc)]
use crate::id::COUNT_MAX;
use crate::id::{NodeId, Partition, StoreId};
use crate::key::{RecordKey, RecordKeyRef};

/// Keeps records, fences and the names of committed batches, all three in the same transactions.
///
/// # What every implementation MUST keep
/// 1. *Durable.* What a verb reported as done survives the death of the process, and of the machine if the store says so in its
///    own documentation. A store that lives in memory gets a new [`StoreId`] instead.
/// 2. *Linearizable.* Verbs take effect one after the other, over all connections to the same store; a load sees every commit that
///    ended before it began.
/// 3. *All or nothing.* After any error, crash or refusal, nothing or everything of a batch is there.
/// 4. *No panic* on bytes that it finds in its files. A damaged record is handed out as it is (its envelope tells) or is an error; it
///    is never repaired by guessing and never left out of an answer.
/// 5. *Bounded.* It refuses what is beyond its [`StoreLimits`], and ends every verb within a time it documents.
pub trait Store: Send {
    /// Which store this is. Constant for the life of the data: a store that lost its data MUST have another id.
    fn store_id(&self) -> StoreId;

    /// What it takes at most. Constant.
    fn limits(&self) -> StoreLimits;

    /// Reads records: one answer per key, in the order of the keys. `None`: never saved. A forgotten object's answer is its
    /// tombstone.
    ///
    /// # Errors
    /// [`StoreError::Failed`], [`StoreError::TooLarge`] or [`StoreError::SyncFailed`], for all keys together; to find the
    /// one that cannot be read, load them one by one.
    fn load(&mut self, keys: &[RecordKeyRef<'_>]) -> Result<Vec<Option<Record>>, StoreError>;

    /// Makes a batch durable, whole or not at all. In one transaction, in this order, the store MUST:
    ///
    /// 1. compare the batch's name with the last committed one of the same node id: equal is
    ///    [`Committed::Already`], whatever happened since and without a look at the saves; lower, number 0, or a number above [`COUNT_MAX`], is
    ///    [`StoreError::OutOfOrder`]. A higher one goes on, gaps are legal;
    /// 2. check every save's fence: epoch and node equal to the stored ones, else [`StoreError::Refused`] for the whole batch,
    ///    whatever else is wrong with it;
    /// 3. apply the saves in order, each exactly one version above what it finds (0 where there is nothing; a tombstone counts like any
    ///    other save), else [`StoreError::VersionConflict`]. The same object may come twice;
    /// 4. record the name, and sync.
    ///
    /// # Errors
    /// Each says through [`StoreError::effect`] what happened to the state.
    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError>;

    /// Opens fences before the holder's first activation in these partitions: all of them durably, or none. From then on only this
    /// holder saves there, at this epoch. Opening what is already open for the same holder at the same epoch succeeds.
    /// The fences are applied in order.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if an epoch is 0 or above [`COUNT_MAX`], below the stored one, or equal to it with another holder: epochs never fall, and an
    /// epoch has one holder for ever.
    fn open_fences(&mut self, fences: &[Fence]) -> Result<(), StoreError>;

    /// Every fence that was ever opened, lowest partition first.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn fences(&mut self) -> Result<Vec<Fence>, StoreError>;

    /// The last committed batch of this node id, maybe of another incarnation; `None` if there is none. How a node learns what became of
    /// [`StoreError::Unknown`]: the batch's own name means committed, a lower one or `None` means it is not and MUST never become so
    /// any more. (Committing the same batch again is the other way.)
    ///
    /// # Errors
    /// As [`Store::load`].
    fn last_committed(&mut self, node: NodeId) -> Result<Option<BatchName>, StoreError>;
}

/// So that a store chosen at run time can be wrapped.
impl<S: Store + ?Sized> Store for Box<S> {
    fn store_id(&self) -> StoreId {
        (**self).store_id()
    }

    fn limits(&self) -> StoreLimits {
        (**self).limits()
    }

    fn load(&mut self, keys: &[RecordKeyRef<'_>]) -> Result<Vec<Option<Record>>, StoreError> {
        (**self).load(keys)
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        (**self).commit(batch)
    }

    fn open_fences(&mut self, fences: &[Fence]) -> Result<(), StoreError> {
        (**self).open_fences(fences)
    }

    fn fences(&mut self) -> Result<Vec<Fence>, StoreError> {
        (**self).fences()
    }

    fn last_committed(&mut self, node: NodeId) -> Result<Option<BatchName>, StoreError> {
        (**self).last_committed(node)
    }
}

/// A record as it was found. Nothing of it is checked until [`Record::open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    bytes: AlignedBytes,
}

impl Record {
    /// A record out of the bytes that a store kept.
    pub fn new(bytes: &[u8]) -> Self {
        Self { bytes: AlignedBytes::copy_from(bytes) }
    }

    /// Header and payload, once every byte is checked and the record is this object's. The payload starts at a 16-byte
    /// boundary.
    ///
    /// # Errors
    /// [`EnvelopeError`] says what is damaged; an error for this object alone.
    pub fn open(&self, key: RecordKeyRef<'_>) -> Result<(EnvelopeHeader, &[u8]), EnvelopeError> {
        Envelope::open(key, &self.bytes)
    }

    /// The bytes as they were found.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// How a commit succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The batch was written by this call.
    Now,
    /// A batch of this name was committed before; nothing was written by this call.
    Already,
}

/// Who may save in a partition, and at which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence {
    /// The partition.
    pub partition: Partition,
    /// Counts its owners, from 1.
    pub epoch: u64,
    /// The one node that saves under this epoch.
    pub holder: NodeId,
}

/// What a store takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Bytes of one envelope, header included.
    pub envelope_length_max: usize,
    /// Saves in a batch, and keys in a load.
    pub batch_saves_max: usize,
    /// Bytes of keys and envelopes in a batch.
    pub batch_length_max: usize,
}

impl StoreLimits {
    /// Whether a batch is within the limits.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] names the limit.
    pub fn check_batch(&self, batch: &Batch) -> Result<(), StoreError> {
        check_limit(Oversize::BatchSaves, batch.len(), self.batch_saves_max)?;
        check_limit(Oversize::BatchLength, batch.byte_length(), self.batch_length_max)?;
        let longest = batch.saves().map(|save| save.envelope.len()).max().unwrap_or(0);
        check_limit(Oversize::Envelope, longest, self.envelope_length_max)
    }

    /// Whether a load is within the limits.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`].
    pub fn check_load(&self, keys: &[RecordKeyRef<'_>]) -> Result<(), StoreError> {
        check_limit(Oversize::LoadKeys, keys.len(), self.batch_saves_max)
    }
}

/// What is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// One envelope, in bytes.
    Envelope,
    /// The number of saves in a batch.
    BatchSaves,
    /// A batch, in bytes.
    BatchLength,
    /// The number of keys in a load.
    LoadKeys,
}

/// Why a verb did not do what it was asked. [`StoreError::effect`] says what happened to the state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The fence is another's: this node was evicted from the partition. Nothing is written.
    #[error("the store refuses partition {} at epoch {} from node {}: {}",
        given.partition, given.epoch, given.holder, StoredFence(stored))]
    Refused {
        /// What the caller claimed.
        given: Fence,
        /// What the store has, `None` if that partition's fence was never opened.
        stored: Option<Fence>,
    },
    /// A save does not follow the stored version. Nothing is written.
    #[error("object {key} is stored at version {stored}, version {given} does not follow")]
    VersionConflict {
        /// Whose save.
        key: RecordKey,
        /// The version it would have to follow; 0 if there is none.
        stored: u64,
        /// The version given.
        given: u64,
    },
    /// A batch was named below the last committed one, or by no legal number. Nothing is written.
    #[error("batch {given} is out of order, the last committed one of its node is {}", LastName(committed))]
    OutOfOrder {
        /// The name given.
        given: BatchName,
        /// The last committed one of that node id.
        committed: Option<BatchName>,
    },
    /// Beyond the store's [`StoreLimits`]. Nothing is written.
    #[error("{what:?} is too large: {given}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: Oversize,
        /// Its size.
        given: usize,
        /// The limit.
        limit: usize,
    },
    /// Disk full, IO error, connection lost before anything was sent. Nothing is written; the same call may succeed later.
    #[error("the store failed, nothing is written: {reason}")]
    Failed {
        /// For the log.
        reason: String,
    },
    /// The answer is lost. It may be written: commit the same batch again, or ask [`Store::last_committed`].
    #[error("the store may have written: {reason}")]
    Unknown {
        /// For the log.
        reason: String,
    },
    /// A sync failed: what is on the disk is not known and cannot be asked for. Stop the node; never try again with this store.
    #[error("the store could not sync, the node must stop: {reason}")]
    SyncFailed {
        /// For the log.
        reason: String,
    },
}

impl StoreError {
    /// What happened to the state.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Refused { .. }
            | Self::VersionConflict { .. }
            | Self::OutOfOrder { .. }
            | Self::TooLarge { .. }
            | Self::Failed { .. } => Effect::Nothing,
            Self::Unknown { .. } => Effect::Unknown,
            Self::SyncFailed { .. } => Effect::StopNode,
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Unknown { .. })
    }
}

/// What an error says about the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing is written, and nothing of it ever will be.
    Nothing,
    /// It may be written; the store can be asked.
    Unknown,
    /// Nobody knows. The node stops, and a new process reads what is there.
    StopNode,
}

fn check_limit(what: Oversize, given: usize, limit: usize) -> Result<(), StoreError> {
    if given > limit { Err(StoreError::TooLarge { what, given, limit }) } else { Ok(()) }
}

struct StoredFence<'a>(&'a Option<Fence>);

impl std::fmt::Display for StoredFence<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(fence) => write!(formatter, "it is at epoch {} of node {}", fence.epoch, fence.holder),
            None => formatter.write_str("its fence was never opened"),
        }
    }
}

struct LastName<'a>(&'a Option<BatchName>);

impl std::fmt::Display for LastName<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(name) => name.fmt(formatter),
            None => formatter.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_sentences() {
        let node = NodeId { id: 1, incarnation: 2 };
        let given = Fence { partition: Partition::from_hash(7), epoch: 3, holder: node };
        let stored = Fence { epoch: 4, holder: NodeId { id: 2, incarnation: 1 }, ..given };
        assert_eq!(
            StoreError::Refused { given, stored: Some(stored) }.to_string(),
            "the store refuses partition 7 at epoch 3 from node 0000000000000001.2: \
             it is at epoch 4 of node 0000000000000002.1"
        );
        assert_eq!(
            StoreError::OutOfOrder { given: BatchName { node, number: 0 }, committed: None }.to_string(),
            "batch 0000000000000001.2#0 is out of order, the last committed one of its node is none"
        );
    }

    #[test]
    fn a_record_opens_at_an_aligned_payload() {
        let key = RecordKey::u64(1, 1);
        let mut bytes = Vec::new();
        Envelope::write(&EnvelopeHeader::state(key.as_ref()), b"hello", &mut bytes).unwrap();
        let record = Record::new(&bytes);
        let (_, payload) = record.open(key.as_ref()).unwrap();
        assert_eq!(payload, b"hello");
        assert_eq!(payload.as_ptr() as usize % 16, 0);
    }
}
