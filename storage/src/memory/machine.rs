//! The machine in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::coordinator::Coordinator;
use crate::id::{NodeId, StoreId};
use crate::machine::{KeeperRecord, Kept, Machine, MachineError};
use crate::memory::{MemoryCoordinator, MemoryStore};
#[cfg(doc)]
use crate::view::MEMBER_NAME_LENGTH_MAX;
use crate::view::View;

/// A [`Machine`] in memory: several nodes of one process stand for processes of one machine.
///
/// What was kept stays for the next keeper, as long as a machine of the same ground is there. A node counts as dead when its
/// machine is dropped. Nobody can be killed.
#[derive(Debug)]
pub struct MemoryMachine {
    ground: Arc<Mutex<Ground>>,
    registered: Option<Arc<()>>,
    keeping: Option<Arc<()>>,
}

impl MemoryMachine {
    /// The first machine of a new ground. The id of its store MUST be fresh and random.
    pub fn new(store: StoreId) -> Self {
        let ground = Ground {
            view: MemoryCoordinator::new(store),
            store: MemoryStore::new(store),
            reign: 0,
            keeper: Weak::new(),
            record: None,
            nodes: BTreeMap::new(),
        };
        Self { ground: Arc::new(Mutex::new(ground)), registered: None, keeping: None }
    }

    /// The machine of another node on the same ground.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { ground: Arc::clone(&self.ground), registered: None, keeping: None }
    }

    /// No verb leaves the ground half changed, so a panic of another holder of the lock does not matter.
    fn lock(&self) -> MutexGuard<'_, Ground> {
        self.ground.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine for MemoryMachine {
    fn register(&mut self, me: NodeId) -> Result<(), MachineError> {
        let alive = Arc::new(());
        let mut ground = self.lock();
        if ground.nodes.contains_key(&me) {
            return Err(MachineError::Failed { reason: format!("node {me} was registered before") });
        }
        ground.nodes.insert(me, Arc::downgrade(&alive));
        drop(ground);
        self.registered = Some(alive);
        Ok(())
    }

    fn try_keep(&mut self, me: NodeId, address: &str) -> Result<Option<Kept>, MachineError> {
        assert!(self.keeping.is_none(), "this process keeps already");
        KeeperRecord::assert_address(address);
        let guard = Arc::new(());
        let mut ground = self.lock();
        if ground.keeper.strong_count() > 0 {
            return Ok(None);
        }
        ground.keeper = Arc::downgrade(&guard);
        ground.reign += 1;
        ground.record = Some(KeeperRecord { node: me, address: address.to_owned(), renewals: 0 });
        // Leases start anew; clones share the view with the ground.
        let view = ground.view.read().map_err(|error| MachineError::Failed { reason: error.to_string() })?;
        ground.view = MemoryCoordinator::resume(View::clone(&view));
        let (coordinator, store) = (Box::new(ground.view.clone()), Box::new(ground.store.clone()));
        let kept = Kept { reign: ground.reign, coordinator, store };
        drop(ground);
        self.keeping = Some(Arc::clone(&guard));
        Ok(Some(kept.guarded_by(guard)))
    }

    fn renew_keeping(&mut self, renewals: u64) -> Result<(), MachineError> {
        assert!(self.keeping.is_some(), "only the keeper renews");
        if let Some(record) = &mut self.lock().record {
            record.renewals = renewals;
        }
        Ok(())
    }

    fn keeper(&mut self) -> Result<Option<KeeperRecord>, MachineError> {
        Ok(self.lock().record.clone())
    }

    fn is_proven_dead(&mut self, node: NodeId) -> bool {
        self.lock().nodes.get(&node).is_some_and(|alive| alive.strong_count() == 0)
    }

    fn kill(&mut self, _node: NodeId) -> bool {
        false
    }
}

/// What the machines share.
#[derive(Debug)]
struct Ground {
    view: MemoryCoordinator,
    store: MemoryStore,
    reign: u64,
    /// Alive while somebody keeps.
    keeper: Weak<()>,
    record: Option<KeeperRecord>,
    /// Everyone that ever registered, and whether it lives.
    nodes: BTreeMap<NodeId, Weak<()>>,
}
