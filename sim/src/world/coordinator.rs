//! The coordinator of a world, which fails now and then: nothing changed, or nobody knows, or another change came first.
//!
//! A view that came first is the same one at the next version, as one who tried again would make it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use epicserver_storage::{Coordinator, CoordinatorError, Lease, MemoryCoordinator, NodeId, View};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct FaultyCoordinator {
    inner: MemoryCoordinator,
    dice: fastrand::Rng,
    per_mille: u16,
    /// The first read is that of a keeper which begins: without it there is none.
    is_read: bool,
    faults: CoordinatorFaults,
}

/// What the coordinators of a world did wrong, and whether they still may.
#[derive(Clone, Debug, Default)]
pub(super) struct CoordinatorFaults {
    is_healed: Arc<AtomicBool>,
    counts: Arc<[AtomicU64; KINDS.len()]>,
}

#[derive(Clone, Copy)]
enum Kind {
    Failed,
    Unknown,
    Conflict,
}

impl FaultyCoordinator {
    pub(super) fn new(
        inner: MemoryCoordinator,
        seed: u64,
        per_mille: u16,
        faults: CoordinatorFaults,
    ) -> Self {
        Self { inner, dice: fastrand::Rng::with_seed(seed), per_mille, is_read: false, faults }
    }

    fn strikes(&mut self) -> bool {
        self.per_mille > 0
            && !self.faults.is_healed.load(Ordering::Relaxed)
            && self.dice.u16(..1000) < self.per_mille
    }

    fn failed(&self) -> CoordinatorError {
        self.faults.count(Kind::Failed);
        CoordinatorError::Failed { reason: PLANNED.to_owned() }
    }
}

impl CoordinatorFaults {
    /// Nothing goes wrong from now on.
    pub(super) fn heal(&self) {
        self.is_healed.store(true, Ordering::Relaxed);
    }

    /// How often what went wrong, but for what never did.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = KINDS.iter().zip(self.counts.iter());
        counts.map(|(kind, count)| (*kind, count.load(Ordering::Relaxed))).filter(|(_, count)| *count > 0)
    }

    fn count(&self, kind: Kind) {
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Coordinator for FaultyCoordinator {
    fn read(&mut self) -> Result<Arc<View>, CoordinatorError> {
        if std::mem::replace(&mut self.is_read, true) && self.strikes() {
            return Err(self.failed());
        }
        self.inner.read()
    }

    fn compare_and_set(&mut self, expected: u64, next: View) -> Result<Arc<View>, CoordinatorError> {
        if !self.strikes() {
            return self.inner.compare_and_set(expected, next);
        }
        match self.dice.u8(..4) {
            0 => Err(self.failed()),
            1 => {
                let current = self.inner.read()?;
                self.inner.compare_and_set(current.version, View::clone(&current))?;
                self.faults.count(Kind::Conflict);
                self.inner.compare_and_set(expected, next)
            }
            written => {
                if written == 2 {
                    self.inner.compare_and_set(expected, next)?;
                }
                self.faults.count(Kind::Unknown);
                Err(CoordinatorError::Unknown { reason: PLANNED.to_owned() })
            }
        }
    }

    fn renew_lease(&mut self, node: NodeId, now_ns: u64) -> Result<Lease, CoordinatorError> {
        self.inner.renew_lease(node, now_ns)
    }

    fn leases(&mut self) -> Result<Vec<Lease>, CoordinatorError> {
        self.inner.leases()
    }
}

/// As faults are counted, in the order of [`Kind`].
const KINDS: [&str; 3] = ["coordinator failed", "view changed or not", "view changed by another"];
const PLANNED: &str = "a planned fault";

#[cfg(test)]
mod tests {
    use epicserver_storage::StoreId;

    use super::*;

    #[test]
    fn a_view_is_changed_once_or_not_whatever_is_said() {
        let inner = MemoryCoordinator::new(StoreId(1));
        let faults = CoordinatorFaults::default();
        let mut coordinator = FaultyCoordinator::new(inner.clone(), 7, 1000, faults.clone());
        let mut truth = coordinator.read().expect("the first read never fails");
        for _ in 0..200 {
            let outcome = coordinator.compare_and_set(truth.version, View::clone(&truth));
            let now = inner.clone().read().expect("it is in memory");
            let grown = now.version - truth.version;
            match outcome.expect_err("it always fails") {
                CoordinatorError::Failed { .. } => assert_eq!(grown, 0),
                CoordinatorError::Conflict { found } => assert_eq!((found, grown), (now.clone(), 1)),
                CoordinatorError::Unknown { .. } => assert!(grown <= 1),
                other => panic!("{other}"),
            }
            truth = now;
        }
        assert!(coordinator.read().is_err());
        assert_eq!(faults.counts().count(), KINDS.len());
        faults.heal();
        assert!(coordinator.compare_and_set(truth.version, View::clone(&truth)).is_ok());
    }
}
