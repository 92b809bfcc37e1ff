//! The store in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batch::{Batch, BatchName, Save};
use crate::envelope::ENVELOPE_HEADER_LENGTH;
use crate::envelope::PAYLOAD_LENGTH_MAX;
use crate::id::{COUNT_MAX, NodeId, PARTITIONS, StoreId};
use crate::key::RecordKeyRef;
use crate::store::{Committed, Fence, Record, Store, StoreError, StoreLimits};

/// A [`Store`] in memory. A clone is another connection to the same records; they are lost with the last of them.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    id: StoreId,
    limits: StoreLimits,
    contents: Arc<Mutex<Contents>>,
}

impl MemoryStore {
    /// An empty store. The id MUST be fresh and random: it is how others learn that the records of an earlier store are
    /// gone.
    pub fn new(id: StoreId) -> Self {
        Self::with_limits(id, MEMORY_LIMITS)
    }

    /// An empty store with limits of its own.
    pub fn with_limits(id: StoreId, limits: StoreLimits) -> Self {
        Self { id, limits, contents: Arc::new(Mutex::new(Contents::new())) }
    }

    /// How many records it holds, tombstones included.
    pub fn record_count(&self) -> usize {
        self.lock().records.len()
    }

    /// No verb leaves the contents half changed, so a panic of another holder of the lock does not matter.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn store_id(&self) -> StoreId {
        self.id
    }

    fn limits(&self) -> StoreLimits {
        self.limits
    }

    fn load(&mut self, keys: &[RecordKeyRef<'_>]) -> Result<Vec<Option<Record>>, StoreError> {
        self.limits.check_load(keys)?;
        let contents = self.lock();
        let mut encoded = Vec::new();
        let mut found = Vec::with_capacity(keys.len());
        for &key in keys {
            encode_key(key, &mut encoded);
            found.push(contents.records.get(encoded.as_slice()).map(|row| Record::new(&row.envelope)));
        }
        Ok(found)
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        self.limits.check_batch(batch)?;
        self.lock().commit(batch)
    }

    fn open_fences(&mut self, fences: &[Fence]) -> Result<(), StoreError> {
        self.lock().open_fences(fences)
    }

    fn fences(&mut self) -> Result<Vec<Fence>, StoreError> {
        Ok(self.lock().fences.iter().flatten().copied().collect())
    }

    fn last_committed(&mut self, node: NodeId) -> Result<Option<BatchName>, StoreError> {
        Ok(self.lock().committed.get(&node.id).copied())
    }
}

struct Contents {
    /// By encoded key, see [`encode_key`].
    records: BTreeMap<Box<[u8]>, Row>,
    /// By partition.
    fences: Vec<Option<Fence>>,
    /// The last committed batch of each node id.
    committed: BTreeMap<u64, BatchName>,
}

struct Row {
    version: u64,
    envelope: Box<[u8]>,
}

impl Contents {
    fn new() -> Self {
        Self {
            records: BTreeMap::new(),
            fences: vec![None; usize::from(PARTITIONS)],
            committed: BTreeMap::new(),
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        if self.check_name(batch.name())? == Committed::Already {
            return Ok(Committed::Already);
        }
        for save in batch.saves() {
            self.check_fence(batch.name().node, &save)?;
        }
        self.apply(batch)?;
        self.committed.insert(batch.name().node.id, batch.name());
        Ok(Committed::Now)
    }

    fn check_name(&self, given: BatchName) -> Result<Committed, StoreError> {
        let committed = self.committed.get(&given.node.id).copied();
        if committed == Some(given) {
            return Ok(Committed::Already);
        }
        if !(1..=COUNT_MAX).contains(&given.number) || committed > Some(given) {
            return Err(StoreError::OutOfOrder { given, committed });
        }
        Ok(Committed::Now)
    }

    fn check_fence(&self, holder: NodeId, save: &Save<'_>) -> Result<(), StoreError> {
        let given = Fence { partition: save.partition, epoch: save.epoch, holder };
        let stored = self.fences[save.partition.index()];
        if stored == Some(given) { Ok(()) } else { Err(StoreError::Refused { given, stored }) }
    }

    /// Applies every save, or takes back those before the first that does not follow.
    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut encoded = Vec::new();
        let mut replaced = Vec::with_capacity(batch.len());
        for save in batch.saves() {
            encode_key(save.key, &mut encoded);
            match self.apply_save(&encoded, &save) {
                Ok(before) => replaced.push(before),
                Err(error) => {
                    self.take_back(batch, replaced);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Gives back what was there before.
    fn apply_save(&mut self, encoded: &[u8], save: &Save<'_>) -> Result<Option<Row>, StoreError> {
        let slot = self.records.get_mut(encoded);
        let stored = slot.as_ref().map_or(0, |row| row.version);
        if stored.checked_add(1) != Some(save.version) {
            return Err(StoreError::VersionConflict {
                key: save.key.to_owned(),
                stored,
                given: save.version,
            });
        }
        let row = Row { version: save.version, envelope: save.envelope.into() };
        match slot {
            Some(slot) => Ok(Some(std::mem::replace(slot, row))),
            None => Ok(self.records.insert(encoded.into(), row)),
        }
    }

    /// Last applied first, since an object may be in the batch twice.
    fn take_back(&mut self, batch: &Batch, replaced: Vec<Option<Row>>) {
        let mut encoded = Vec::new();
        let applied = batch.saves().take(replaced.len()).collect::<Vec<_>>();
        for (save, before) in applied.into_iter().zip(replaced).rev() {
            encode_key(save.key, &mut encoded);
            match before {
                Some(row) => self.records.insert(encoded.as_slice().into(), row),
                None => self.records.remove(encoded.as_slice()),
            };
        }
    }

    fn open_fences(&mut self, fences: &[Fence]) -> Result<(), StoreError> {
        let mut next = self.fences.clone();
        for &given in fences {
            let slot = &mut next[given.partition.index()];
            let follows = slot.is_none_or(|stored| given.epoch > stored.epoch || given == stored);
            if !follows || !(1..=COUNT_MAX).contains(&given.epoch) {
                return Err(StoreError::Refused { given, stored: *slot });
            }
            *slot = Some(given);
        }
        self.fences = next;
        Ok(())
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Contents")
            .field("records", &self.records.len())
            .field("committed", &self.committed)
            .finish_non_exhaustive()
    }
}

/// One byte string per key, so that the map can be asked with a recycled buffer.
fn encode_key(key: RecordKeyRef<'_>, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&key.entity.to_be_bytes());
    out.push(key.kind as u8);
    out.extend_from_slice(key.bytes);
}

const MEMORY_LIMITS: StoreLimits = StoreLimits {
    envelope_length_max: ENVELOPE_HEADER_LENGTH + PAYLOAD_LENGTH_MAX,
    batch_saves_max: 1 << 20,
    batch_length_max: 1 << 30,
};
