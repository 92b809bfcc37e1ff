//! Coordinator and store that hold the keeper's lock.
//!
//! The lock has to outlast the data: were it free while one of them is still in use, two processes would write one file.

use std::fs::File;
use std::sync::Arc;

use epicserver_storage::{
    Batch, BatchName, Committed, Coordinator, CoordinatorError, Fence, Kept, Lease, NodeId, Record,
    RecordKeyRef, Store, StoreError, StoreId, StoreLimits, View,
};

/// The same, with the lock held until both halves are dropped.
pub(crate) fn holding(kept: Kept, lock: &Arc<File>) -> Kept {
    let Kept { reign, coordinator, store } = kept;
    let coordinator = Box::new(Holding { inner: coordinator, _lock: Arc::clone(lock) });
    Kept { reign, coordinator, store: Box::new(Holding { inner: store, _lock: Arc::clone(lock) }) }
}

/// The fields are dropped in their order: the lock last.
struct Holding<T> {
    inner: T,
    _lock: Arc<File>,
}

impl Store for Holding<Box<dyn Store>> {
    fn store_id(&self) -> StoreId {
        self.inner.store_id()
    }

    fn limits(&self) -> StoreLimits {
        self.inner.limits()
    }

    fn load(&mut self, keys: &[RecordKeyRef<'_>]) -> Result<Vec<Option<Record>>, StoreError> {
        self.inner.load(keys)
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        self.inner.commit(batch)
    }

    fn open_fences(&mut self, fences: &[Fence]) -> Result<(), StoreError> {
        self.inner.open_fences(fences)
    }

    fn fences(&mut self) -> Result<Vec<Fence>, StoreError> {
        self.inner.fences()
    }

    fn last_committed(&mut self, node: NodeId) -> Result<Option<BatchName>, StoreError> {
        self.inner.last_committed(node)
    }
}

impl Coordinator for Holding<Box<dyn Coordinator>> {
    fn read(&mut self) -> Result<Arc<View>, CoordinatorError> {
        self.inner.read()
    }

    fn compare_and_set(&mut self, expected: u64, next: View) -> Result<Arc<View>, CoordinatorError> {
        self.inner.compare_and_set(expected, next)
    }

    fn renew_lease(&mut self, node: NodeId, now_ns: u64) -> Result<Lease, CoordinatorError> {
        self.inner.renew_lease(node, now_ns)
    }

    fn leases(&mut self) -> Result<Vec<Lease>, CoordinatorError> {
        self.inner.leases()
    }
}
