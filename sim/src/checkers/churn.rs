//! Law 8: what nodes that come and go cost is bounded: soon after some short lives no partition begins to move for balance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epicserver_runtime::membership::DampingLimits;
use epicserver_storage::{NodeId, Partition, View};

use super::{Checks, Findings, Violation};

/// Who came and went, as the views of one reign show it.
#[derive(Debug)]
pub(crate) struct Churn {
    limits: DampingLimits,
    /// The last view of the reign.
    last: Option<Arc<View>>,
    /// When members came; those of the first view are not among them.
    came: BTreeMap<NodeId, u64>,
    /// When short lives ended, the last ones.
    ended: Vec<u64>,
    /// Nodes that were asked to leave: what they have moves at any time.
    leaving: BTreeSet<NodeId>,
    findings: Findings,
}

impl Churn {
    pub(crate) fn new(limits: DampingLimits) -> Self {
        let (last, came, ended, leaving) = (None, BTreeMap::new(), Vec::new(), BTreeSet::new());
        Self { limits, last, came, ended, leaving, findings: Findings::default() }
    }

    /// Another keeper has begun, and knows nothing of what was before.
    pub(crate) fn begin_reign(&mut self) {
        self.last = None;
        self.came.clear();
        self.ended.clear();
    }

    /// A node was asked to leave: its life may not be counted.
    pub(crate) fn leaves(&mut self, node: NodeId) {
        self.came.remove(&node);
        self.leaving.insert(node);
    }

    /// The keeper has this view from now on.
    pub(crate) fn set_truth(&mut self, now: u64, view: &Arc<View>) {
        let Some(last) = self.last.replace(view.clone()) else { return };
        // Both of what is short for sure.
        let short_ns = self.limits.short_life_ns - SEEN_LATE_NS_MAX;
        self.ended.retain(|at| now.saturating_sub(*at) < short_ns);
        if self.ended.len() > self.limits.borne as usize {
            let moved = Partition::all().find(|&partition| self.begins_for_balance(&last, view, partition));
            self.findings.check(CALM, moved.is_none(), || {
                let (lives, version) = (self.ended.len(), view.version);
                format!("partition {moved:?} moves by view {version}, and {lives} short lives have ended")
            });
        }
        for member in &view.members {
            if last.member(member.node).is_none() {
                self.came.insert(member.node, now);
            }
        }
        let gone = last.members.iter().map(|member| member.node).filter(|node| view.member(*node).is_none());
        for node in gone {
            let life = self.came.remove(&node).map(|came| now.saturating_sub(came));
            if life.is_some_and(|life| life < short_ns) {
                self.ended.push(now);
            }
        }
    }

    /// Whether this partition begins to move from a node that stays.
    fn begins_for_balance(&self, last: &View, view: &View, partition: Partition) -> bool {
        let (before, after) = (last.partition(partition), view.partition(partition));
        let begins = after.moving_to.is_some() && before.moving_to != after.moving_to;
        begins && after.owner.is_some_and(|owner| !self.leaving.contains(&owner))
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.findings.violation(LAW)
    }

    pub(crate) fn count_into(&self, checks: &mut Checks) {
        self.findings.count_into(LAW, checks);
    }
}

/// How much later than the keeper a view is seen here at most.
const SEEN_LATE_NS_MAX: u64 = 1_000_000_000;
const LAW: u8 = 8;
pub(super) const CALM: &str = "no move for balance while nodes come and go";
