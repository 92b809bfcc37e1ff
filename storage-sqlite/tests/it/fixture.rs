//! Files in folders of their own, and batches to put into them.

use std::path::{Path, PathBuf};

use epicserver_storage::{
    Batch, BatchName, EnvelopeHeader, Fence, NodeId, Partition, RecordKey, Store, StoreId,
};
use epicserver_storage_sqlite::{Opened, SqliteStore, open};
use tempfile::TempDir;

pub(crate) const ID: StoreId = StoreId(0x5EED);
pub(crate) const ALICE: NodeId = NodeId { id: u64::MAX - 1, incarnation: 1 };

/// A folder that is removed at the end of the test, in memory where the system has a place for that: the suites sync
/// thousands of times.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("there is a place for temporary files")
}

pub(crate) fn file(folder: &TempDir) -> PathBuf {
    folder.path().join("epicserver.sqlite")
}

pub(crate) fn opened(path: &Path) -> Opened {
    open(path, ID).expect("the file opens")
}

pub(crate) fn key(number: u64) -> RecordKey {
    RecordKey::u64(7, number)
}

/// Opens every fence for Alice at epoch 1.
pub(crate) fn open_all_fences(store: &mut SqliteStore) {
    let fences: Vec<Fence> =
        Partition::all().map(|partition| Fence { partition, epoch: 1, holder: ALICE }).collect();
    store.open_fences(&fences).expect("nobody else holds a fence");
}

/// Alice's batch of this number: one save of each of these keys, at one version.
pub(crate) fn batch(number: u64, keys: impl IntoIterator<Item = u64>, version: u64, payload: &[u8]) -> Batch {
    let mut batch = Batch::new(BatchName { node: ALICE, number });
    for key in keys.into_iter().map(key) {
        let header = EnvelopeHeader { epoch: 1, version, schema: 1, ..EnvelopeHeader::state(key.as_ref()) };
        batch.push(key.as_ref(), &header, payload).expect("the save is legal");
    }
    batch
}

/// The version that the store has, 0 for none.
pub(crate) fn version(store: &mut SqliteStore, number: u64) -> u64 {
    let key = key(number);
    let found = store.load(&[key.as_ref()]).expect("the load succeeds");
    found[0].as_ref().map_or(0, |record| record.open(key.as_ref()).expect("the record is intact").0.version)
}
