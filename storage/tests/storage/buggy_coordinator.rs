//! A coordinator with bugs to switch on, as [`crate::buggy`] is a store.

use std::collections::BTreeMap;
use std::sync::Arc;

use epicserver_storage::{Coordinator, CoordinatorError, Lease, NodeId, StoreId, View};

/// One mistake that an implementation could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CoordinatorBug {
    VersionNotCompared,
    LaterVersionAccepted,
    ConflictWithoutWinner,
    RulesNotChecked,
    CallersVersionKept,
    ChangeNotKept,
    LeaseOfAnybody,
    LeaseOfAnyIncarnation,
    LeaseOutlivesMember,
    RenewalTimeFalls,
    RenewalsNotCounted,
    OnlyRenewedLeasesListed,
}

impl CoordinatorBug {
    pub(crate) const ALL: [Self; 12] = [
        Self::VersionNotCompared,
        Self::LaterVersionAccepted,
        Self::ConflictWithoutWinner,
        Self::RulesNotChecked,
        Self::CallersVersionKept,
        Self::ChangeNotKept,
        Self::LeaseOfAnybody,
        Self::LeaseOfAnyIncarnation,
        Self::LeaseOutlivesMember,
        Self::RenewalTimeFalls,
        Self::RenewalsNotCounted,
        Self::OnlyRenewedLeasesListed,
    ];
}

pub(crate) struct BuggyCoordinator {
    bug: Option<CoordinatorBug>,
    view: Arc<View>,
    leases: BTreeMap<NodeId, Lease>,
}

impl BuggyCoordinator {
    pub(crate) fn new(bug: Option<CoordinatorBug>) -> Self {
        Self { bug, view: Arc::new(View::empty(StoreId(1))), leases: BTreeMap::new() }
    }

    fn has(&self, bug: CoordinatorBug) -> bool {
        self.bug == Some(bug)
    }

    fn is_member(&self, node: NodeId) -> bool {
        let any_incarnation = self.has(CoordinatorBug::LeaseOfAnyIncarnation);
        self.view
            .members
            .iter()
            .any(|member| member.node == node || any_incarnation && member.node.id == node.id)
    }
}

impl Coordinator for BuggyCoordinator {
    fn read(&mut self) -> Result<Arc<View>, CoordinatorError> {
        Ok(Arc::clone(&self.view))
    }

    fn compare_and_set(&mut self, expected: u64, mut next: View) -> Result<Arc<View>, CoordinatorError> {
        let later = expected > self.view.version && self.has(CoordinatorBug::LaterVersionAccepted);
        if expected != self.view.version && !later && !self.has(CoordinatorBug::VersionNotCompared) {
            let empty = || Arc::new(View::empty(StoreId(1)));
            let found =
                if self.has(CoordinatorBug::ConflictWithoutWinner) { empty() } else { self.view.clone() };
            return Err(CoordinatorError::Conflict { found });
        }
        if !self.has(CoordinatorBug::RulesNotChecked) {
            self.view.check_successor(&next)?;
        }
        if !self.has(CoordinatorBug::CallersVersionKept) {
            next.version = self.view.version + 1;
        }
        let next = Arc::new(next);
        if !self.has(CoordinatorBug::ChangeNotKept) {
            self.view = Arc::clone(&next);
        }
        if !self.has(CoordinatorBug::LeaseOutlivesMember) {
            self.leases.retain(|&node, _| next.member(node).is_some());
        }
        Ok(next)
    }

    fn renew_lease(&mut self, node: NodeId, now_ns: u64) -> Result<Lease, CoordinatorError> {
        let outlives = self.has(CoordinatorBug::LeaseOutlivesMember) && self.leases.contains_key(&node);
        if !self.is_member(node) && !outlives && !self.has(CoordinatorBug::LeaseOfAnybody) {
            return Err(CoordinatorError::Evicted { node, found: Arc::clone(&self.view) });
        }
        let (falls, count) =
            (self.has(CoordinatorBug::RenewalTimeFalls), !self.has(CoordinatorBug::RenewalsNotCounted));
        let lease = self.leases.entry(node).or_insert(Lease { node, renewals: 0, renewed_at_ns: None });
        lease.renewals += u64::from(count);
        lease.renewed_at_ns = if falls { Some(now_ns) } else { lease.renewed_at_ns.max(Some(now_ns)) };
        Ok(*lease)
    }

    fn leases(&mut self) -> Result<Vec<Lease>, CoordinatorError> {
        let only_renewed = self.has(CoordinatorBug::OnlyRenewedLeasesListed);
        let fresh = |node| Lease { node, renewals: 0, renewed_at_ns: None };
        let nodes = self.view.members.iter().map(|member| member.node);
        let listed = nodes.filter(|node| !only_renewed || self.leases.contains_key(node));
        Ok(listed.map(|node| self.leases.get(&node).copied().unwrap_or(fresh(node))).collect())
    }
}
