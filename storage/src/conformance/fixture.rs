//! Short words for the checks: nodes, keys, saves and batches.

use crate::batch::{Batch, BatchName};
use crate::envelope::{Envelope, EnvelopeHeader};
use crate::id::{NodeId, Partition};
use crate::key::RecordKey;
use crate::store::{Committed, Fence, Store, StoreError};

pub(super) const ALICE: NodeId = NodeId { id: 0xA11CE, incarnation: 1 };
pub(super) const BOB: NodeId = NodeId { id: 0xB0B, incarnation: 1 };

/// A save that a check is about to make, in the partition of its key.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) key: RecordKey,
    pub(super) header: EnvelopeHeader,
    pub(super) payload: Vec<u8>,
}

impl Wanted {
    /// What the store is to keep.
    pub(super) fn envelope(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        Envelope::write(&self.header, &self.payload, &mut bytes).expect("checks write legal envelopes");
        bytes
    }
}

/// The key that most checks use; `number` also tells their partitions apart.
pub(super) fn key(number: u64) -> RecordKey {
    RecordKey::u64(7, number)
}

pub(super) fn partition(number: u64) -> Partition {
    key(number).as_ref().partition()
}

/// A save of [`key`]`(number)`, with a payload that no other version of it has.
pub(super) fn save(number: u64, epoch: u64, version: u64) -> Wanted {
    save_of(&key(number), epoch, version, format!("{number} at {version}").as_bytes())
}

pub(super) fn save_of(key: &RecordKey, epoch: u64, version: u64, payload: &[u8]) -> Wanted {
    let header =
        EnvelopeHeader { epoch, version, schema: 1, layout: 99, ..EnvelopeHeader::state(key.as_ref()) };
    Wanted { key: key.clone(), header, payload: payload.into() }
}

pub(super) fn tombstone(number: u64, epoch: u64, version: u64) -> Wanted {
    let key = key(number);
    let header = EnvelopeHeader { epoch, version, ..EnvelopeHeader::tombstone(key.as_ref()) };
    Wanted { key, header, payload: Vec::new() }
}

pub(super) fn batch(node: NodeId, number: u64, saves: &[Wanted]) -> Batch {
    let mut batch = Batch::new(BatchName { node, number });
    for wanted in saves {
        batch
            .push(wanted.key.as_ref(), &wanted.header, &wanted.payload)
            .expect("checks put legal saves into batches");
    }
    batch
}

pub(super) fn fence(number: u64, epoch: u64, holder: NodeId) -> Fence {
    Fence { partition: partition(number), epoch, holder }
}

/// Opens the fences of these keys for Alice at epoch 1.
pub(super) fn open_for_alice(store: &mut dyn Store, numbers: &[u64]) {
    let fences: Vec<Fence> = numbers.iter().map(|&number| fence(number, 1, ALICE)).collect();
    assert_eq!(store.open_fences(&fences), Ok(()), "a fence that nobody holds opens at epoch 1");
}

/// Commits what the check needs to be there.
pub(super) fn commit(store: &mut dyn Store, node: NodeId, number: u64, saves: &[Wanted]) {
    let committed = store.commit(&batch(node, number, saves));
    assert_eq!(committed, Ok(Committed::Now), "a legal batch commits");
}

/// The envelope that the store has for a key.
pub(super) fn stored(store: &mut dyn Store, key: &RecordKey) -> Option<Vec<u8>> {
    let found = store.load(&[key.as_ref()]).expect("a load without faults succeeds");
    assert_eq!(found.len(), 1, "a load answers each key once");
    found[0].as_ref().map(|record| record.bytes().to_vec())
}

/// The version that the store has for a key, 0 for none.
pub(super) fn version(store: &mut dyn Store, number: u64) -> u64 {
    stored(store, &key(number)).map_or(0, |bytes| {
        Envelope::open(key(number).as_ref(), &bytes).expect("a stored envelope is intact").0.version
    })
}

/// Expects a refusal by the fence, and that nothing of the batch, its name included, is there.
pub(super) fn assert_refused(store: &mut dyn Store, batch: &Batch, what: &str) {
    let before = store.last_committed(batch.name().node);
    let result = store.commit(batch);
    assert!(matches!(result, Err(StoreError::Refused { .. })), "{what} is refused: {result:?}");
    assert_eq!(store.last_committed(batch.name().node), before, "a refused batch leaves no name: {what}");
}

/// Expects a version conflict that says this.
pub(super) fn assert_conflict(store: &mut dyn Store, batch: &Batch, number: u64, found: u64, given: u64) {
    assert_eq!(
        store.commit(batch),
        Err(StoreError::VersionConflict { key: key(number), stored: found, given }),
        "a save that does not follow the stored version is refused by name"
    );
}
