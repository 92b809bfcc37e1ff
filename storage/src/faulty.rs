//! A store that fails when it is told to.
//!
//! [`FaultyStore`] wraps any store and follows a [`FaultPlan`]: which call of which verb fails how, and how slow it is. A
//! delay is data: it is handed to a hook of the caller's, nothing sleeps here. With an empty plan the wrapper passes the
//! conformance suite.
//!
//! The wrapper lies only in ways that a real store may: no fault breaks the contract of [`Store`], except that `Short` and
//! `Flip` damage what a load brings, as a bad disk does.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batch::{Batch, BatchName};
use crate::id::{NodeId, Partition, StoreId};
use crate::key::RecordKeyRef;
use crate::store::{Committed, Fence, Record, Store, StoreError, StoreLimits};

mod plan;

pub use plan::{Delay, Fault, FaultPlan, FaultRates, Verb};

/// Wraps a store and makes it fail and be slow by plan.
pub struct FaultyStore<S> {
    inner: S,
    shared: Arc<Mutex<Shared>>,
    on_delay: Box<dyn FnMut(Delay) + Send>,
}

impl<S: Store> FaultyStore<S> {
    /// Wraps a store. `on_delay` is called at the start of every call that the plan makes slow: the simulator moves its
    /// clock there, a test counts.
    pub fn new(inner: S, plan: FaultPlan, on_delay: impl FnMut(Delay) + Send + 'static) -> Self {
        let shared = Shared { plan, calls: [0; Verb::ALL.len()], faults: 0, sync_failed: false };
        Self { inner, shared: Arc::new(Mutex::new(shared)), on_delay: Box::new(on_delay) }
    }

    /// A handle for the test, while somebody else owns the store.
    pub fn control(&self) -> FaultControl {
        FaultControl { shared: Arc::clone(&self.shared) }
    }

    /// The wrapped store, past every fault.
    pub fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Counts the call, lets the caller pass its delay, and says what is to go wrong.
    ///
    /// After a failed sync every call fails the same way: the contract says to stop, and a store that goes on would hide that
    /// a caller did not.
    fn begin(&mut self, verb: Verb) -> Result<Option<Fault>, StoreError> {
        let (delay, fault) = lock(&self.shared).begin(verb);
        if let Some(delay) = delay {
            (self.on_delay)(delay);
        }
        fault
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn store_id(&self) -> StoreId {
        self.inner.store_id()
    }

    fn limits(&self) -> StoreLimits {
        self.inner.limits()
    }

    fn load(&mut self, keys: &[RecordKeyRef<'_>]) -> Result<Vec<Option<Record>>, StoreError> {
        match self.begin(Verb::Load)? {
            None => self.inner.load(keys),
            Some(Fault::Short { length }) => {
                let mut found = self.inner.load(keys)?;
                found.iter_mut().flatten().for_each(|record| *record = cut(record, length));
                Ok(found)
            }
            Some(Fault::Flip { bit }) => {
                let mut found = self.inner.load(keys)?;
                found.iter_mut().flatten().for_each(|record| *record = flip(record, bit));
                Ok(found)
            }
            Some(Fault::SyncFailed { .. }) => Err(sync_failed()),
            Some(_) => Err(failed()),
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        match self.begin(Verb::Commit)? {
            None => self.inner.commit(batch),
            Some(Fault::RefuseFence) => Err(self.refused(batch)),
            Some(Fault::Unknown { written }) => {
                Err(after(written, || self.inner.commit(batch).map(drop), unknown()))
            }
            Some(Fault::SyncFailed { written }) => {
                Err(after(written, || self.inner.commit(batch).map(drop), sync_failed()))
            }
            Some(_) => Err(failed()),
        }
    }

    fn open_fences(&mut self, fences: &[Fence]) -> Result<(), StoreError> {
        match self.begin(Verb::OpenFences)? {
            None => self.inner.open_fences(fences),
            Some(Fault::RefuseFence) => match fences.first() {
                Some(&given) => Err(StoreError::Refused { given, stored: Some(successor(given)) }),
                None => Err(failed()),
            },
            Some(Fault::Unknown { written }) => {
                Err(after(written, || self.inner.open_fences(fences), unknown()))
            }
            Some(Fault::SyncFailed { written }) => {
                Err(after(written, || self.inner.open_fences(fences), sync_failed()))
            }
            Some(_) => Err(failed()),
        }
    }

    fn fences(&mut self) -> Result<Vec<Fence>, StoreError> {
        match self.begin(Verb::Fences)? {
            None => self.inner.fences(),
            Some(Fault::SyncFailed { .. }) => Err(sync_failed()),
            Some(_) => Err(failed()),
        }
    }

    fn last_committed(&mut self, node: NodeId) -> Result<Option<BatchName>, StoreError> {
        match self.begin(Verb::LastCommitted)? {
            None => self.inner.last_committed(node),
            Some(Fault::SyncFailed { .. }) => Err(sync_failed()),
            Some(_) => Err(failed()),
        }
    }
}

impl<S: Store> FaultyStore<S> {
    /// As if another node had taken over the partition of the first save (or partition 0).
    fn refused(&self, batch: &Batch) -> StoreError {
        let (partition, epoch) =
            batch.saves().next().map_or((Partition::from_hash(0), 0), |save| (save.partition, save.epoch));
        let given = Fence { partition, epoch, holder: batch.name().node };
        StoreError::Refused { given, stored: Some(successor(given)) }
    }
}

impl<S: fmt::Debug> fmt::Debug for FaultyStore<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FaultyStore")
            .field("inner", &self.inner)
            .field("shared", &lock(&self.shared))
            .finish_non_exhaustive()
    }
}

/// Steers and watches a [`FaultyStore`] that somebody else owns.
#[derive(Clone, Debug)]
pub struct FaultControl {
    shared: Arc<Mutex<Shared>>,
}

impl FaultControl {
    /// How often the verb was called.
    pub fn calls(&self, verb: Verb) -> u64 {
        lock(&self.shared).calls[verb as usize]
    }

    /// How many calls went wrong by plan.
    pub fn faults(&self) -> u64 {
        lock(&self.shared).faults
    }

    /// Makes the next call of the verb go wrong.
    pub fn fault_next(&self, verb: Verb, fault: Fault) {
        let mut shared = lock(&self.shared);
        let next = shared.calls[verb as usize];
        shared.plan.add_fault(verb, next, fault);
    }

    /// Makes the next call of the verb slow.
    pub fn delay_next(&self, verb: Verb, delay_ns: u64) {
        let mut shared = lock(&self.shared);
        let next = shared.calls[verb as usize];
        shared.plan.add_delay(verb, next, delay_ns);
    }

    /// Replaces the plan; the counts go on.
    pub fn set_plan(&self, plan: FaultPlan) {
        lock(&self.shared).plan = plan;
    }
}

#[derive(Debug)]
struct Shared {
    plan: FaultPlan,
    calls: [u64; Verb::ALL.len()],
    faults: u64,
    sync_failed: bool,
}

impl Shared {
    fn begin(&mut self, verb: Verb) -> (Option<Delay>, Result<Option<Fault>, StoreError>) {
        let index = self.calls[verb as usize];
        self.calls[verb as usize] += 1;
        if self.sync_failed {
            return (None, Err(sync_failed()));
        }
        let (delay_ns, fault) = self.plan.at(verb, index);
        self.faults += u64::from(fault.is_some());
        self.sync_failed = matches!(fault, Some(Fault::SyncFailed { .. }));
        ((delay_ns > 0).then_some(Delay { verb, index, delay_ns }), Ok(fault))
    }
}

/// Runs the call if it is to be written, and loses its answer. A call that the store itself refused wrote nothing; that is
/// then the truth, and it is told.
fn after(
    written: bool,
    call: impl FnOnce() -> Result<(), StoreError>,
    lost_answer: StoreError,
) -> StoreError {
    if !written {
        return lost_answer;
    }
    match call() {
        Ok(()) => lost_answer,
        Err(refused) => refused,
    }
}

fn cut(record: &Record, length: usize) -> Record {
    let bytes = record.bytes();
    Record::new(&bytes[..length.min(bytes.len())])
}

fn flip(record: &Record, bit: u64) -> Record {
    let mut bytes = record.bytes().to_vec();
    if let Some(place) = bit.checked_rem(bytes.len() as u64 * 8) {
        bytes[(place / 8) as usize] ^= 1 << (place % 8);
    }
    Record::new(&bytes)
}

fn successor(given: Fence) -> Fence {
    let holder = NodeId { id: given.holder.id ^ u64::MAX, incarnation: 1 };
    Fence { epoch: given.epoch.saturating_add(1), holder, ..given }
}

fn failed() -> StoreError {
    StoreError::Failed { reason: PLANNED.into() }
}

fn unknown() -> StoreError {
    StoreError::Unknown { reason: PLANNED.into() }
}

fn sync_failed() -> StoreError {
    StoreError::SyncFailed { reason: PLANNED.into() }
}

/// No verb of the plan leaves it half changed, so a panic of another holder of the lock does not matter.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

const PLANNED: &str = "a planned fault";

#[cfg(test)]
mod tests;
