//! The coordinator in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::coordinator::{Coordinator, CoordinatorError};
use crate::id::{NodeId, StoreId};
use crate::lease::Lease;
use crate::view::View;

/// A [`Coordinator`] in memory. A clone is another connection to the same view.
#[derive(Clone, Debug)]
pub struct MemoryCoordinator {
    contents: Arc<Mutex<Contents>>,
}

impl MemoryCoordinator {
    /// A coordinator that keeps the empty view over this store.
    pub fn new(store: StoreId) -> Self {
        Self::resume(View::empty(store))
    }

    /// A coordinator that goes on from this view; all leases start anew. For one that keeps its view elsewhere too.
    pub fn resume(view: View) -> Self {
        let contents = Contents { view: Arc::new(view), leases: BTreeMap::new() };
        Self { contents: Arc::new(Mutex::new(contents)) }
    }

    /// No verb leaves the contents half changed, so a panic of another holder of the lock does not matter.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Coordinator for MemoryCoordinator {
    fn read(&mut self) -> Result<Arc<View>, CoordinatorError> {
        Ok(Arc::clone(&self.lock().view))
    }

    fn compare_and_set(&mut self, expected: u64, mut next: View) -> Result<Arc<View>, CoordinatorError> {
        let mut contents = self.lock();
        if contents.view.version != expected {
            return Err(CoordinatorError::Conflict { found: Arc::clone(&contents.view) });
        }
        contents.view.check_successor(&next)?;
        next.version = expected + 1;
        contents.view = Arc::new(next);
        let view = Arc::clone(&contents.view);
        contents.leases.retain(|&node, _| view.member(node).is_some());
        Ok(view)
    }

    fn renew_lease(&mut self, node: NodeId, now_ns: u64) -> Result<Lease, CoordinatorError> {
        let mut contents = self.lock();
        if contents.view.member(node).is_none() {
            return Err(CoordinatorError::Evicted { node, found: Arc::clone(&contents.view) });
        }
        let lease = contents.leases.entry(node).or_insert(Lease { node, renewals: 0, renewed_at_ns: None });
        lease.renewals += 1;
        // None is below every time.
        lease.renewed_at_ns = lease.renewed_at_ns.max(Some(now_ns));
        Ok(*lease)
    }

    fn leases(&mut self) -> Result<Vec<Lease>, CoordinatorError> {
        let contents = self.lock();
        let lease = |node| {
            contents.leases.get(&node).copied().unwrap_or(Lease { node, renewals: 0, renewed_at_ns: None })
        };
        Ok(contents.view.members.iter().map(|member| lease(member.node)).collect())
    }
}

#[derive(Debug)]
struct Contents {
    view: Arc<View>,
    /// Of members only.
    leases: BTreeMap<NodeId, Lease>,
}
