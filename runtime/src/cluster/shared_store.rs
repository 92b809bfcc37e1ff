//! The keeper's store, for both threads of the keeper that use it.

use std::sync::{Arc, Mutex, MutexGuard};

use epicserver_storage::{
    Batch, BatchName, Committed, Fence, NodeId, Record, RecordKeyRef, Store, StoreError, StoreId, StoreLimits,
};

/// One store for several threads of a process; each verb has it alone. The store ends with the last clone.
#[derive(Clone)]
pub struct SharedStore {
    store: Arc<Mutex<Box<dyn Store>>>,
    id: StoreId,
    limits: StoreLimits,
}

impl SharedStore {
    /// Shares a store.
    pub fn new(store: Box<dyn Store>) -> Self {
        let (id, limits) = (store.store_id(), store.limits());
        Self { store: Arc::new(Mutex::new(store)), id, limits }
    }

    /// A store that panicked in the middle of a verb is not asked again: nobody knows what it has done.
    fn lock(&self) -> Result<MutexGuard<'_, Box<dyn Store>>, StoreError> {
        self.store.lock().map_err(|_| StoreError::SyncFailed { reason: "the store panicked".to_owned() })
    }
}

impl Store for SharedStore {
    fn store_id(&self) -> StoreId {
        self.id
    }

    fn limits(&self) -> StoreLimits {
        self.limits
    }

    fn load(&mut self, keys: &[RecordKeyRef<'_>]) -> Result<Vec<Option<Record>>, StoreError> {
        self.lock()?.load(keys)
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        self.lock()?.commit(batch)
    }

    fn open_fences(&mut self, fences: &[Fence]) -> Result<(), StoreError> {
        self.lock()?.open_fences(fences)
    }

    fn fences(&mut self) -> Result<Vec<Fence>, StoreError> {
        self.lock()?.fences()
    }

    fn last_committed(&mut self, node: NodeId) -> Result<Option<BatchName>, StoreError> {
        self.lock()?.last_committed(node)
    }
}

impl std::fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedStore").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use epicserver_storage::MemoryStore;
    use epicserver_storage::conformance::{store_sharing_suite, store_suite};

    use super::*;

    const LIMITS: StoreLimits =
        StoreLimits { envelope_length_max: 1 << 20, batch_saves_max: 100, batch_length_max: 2 << 20 };

    fn shared() -> SharedStore {
        SharedStore::new(Box::new(MemoryStore::with_limits(StoreId(1), LIMITS)))
    }

    #[test]
    fn it_is_a_store_like_any_other() {
        store_suite(shared);
        store_sharing_suite(|| {
            let store = shared();
            (store.clone(), store)
        });
    }
}
