//! What the keeper alone has, and the guard that outlasts it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::batch::{Batch, BatchName};
use crate::coordinator::{Coordinator, CoordinatorError};
use crate::id::{NodeId, StoreId};
use crate::key::RecordKeyRef;
use crate::lease::Lease;
use crate::store::{Committed, Fence, Record, Store, StoreError, StoreLimits};
use crate::view::View;

/// What the keeper alone has. While either half is there, nobody else becomes the keeper.
pub struct Kept {
    /// Counts the keepers of this data, from 1: each one's is higher than that of any before.
    pub reign: u64,
    /// The one coordinator; all its leases start anew.
    pub coordinator: Box<dyn Coordinator>,
    /// The one store.
    pub store: Box<dyn Store>,
}

impl Kept {
    /// The same, with a guard of which each half holds a share until after its own end: for a [`crate::Machine`], whose lock must
    /// not be free while the data is in use.
    #[must_use]
    pub fn guarded_by(self, guard: Arc<dyn Any + Send + Sync>) -> Self {
        let coordinator = Box::new(Guarded { inner: self.coordinator, _guard: Arc::clone(&guard) });
        Self { coordinator, store: Box::new(Guarded { inner: self.store, _guard: guard }), ..self }
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Kept").field("reign", &self.reign).finish_non_exhaustive()
    }
}

/// The fields are dropped in their order: the guard last.
struct Guarded<T> {
    inner: T,
    _guard: Arc<dyn Any + Send + Sync>,
}

impl Store for Guarded<Box<dyn Store>> {
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

impl Coordinator for Guarded<Box<dyn Coordinator>> {
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
