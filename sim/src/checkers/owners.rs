//! Law 1: a call starts only where the truth has its object, at a node that lives; epochs never fall.

use std::sync::Arc;

use epicserver_storage::{NodeId, Partition, RecordKey, View};

use super::{Checks, Findings, Violation};

/// Who owns what, as the keeper has decided.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    /// Not there in worlds whose partitions never move.
    truth: Option<Arc<View>>,
    findings: Findings,
}

impl Owners {
    /// The keeper has a view that counts from now on.
    pub(crate) fn set_truth(&mut self, view: Arc<View>) {
        if let Some(before) = &self.truth {
            let falls = before
                .partitions
                .iter()
                .zip(view.partitions.iter())
                .position(|(old, new)| new.epoch < old.epoch);
            self.findings.check(EPOCHS, falls.is_none(), || {
                format!(
                    "the epoch of partition {falls:?} falls from view {} to {}",
                    before.version, view.version
                )
            });
        }
        self.truth = Some(view);
    }

    /// The members that are none any more by a view that is to count.
    pub(crate) fn removed_by(&self, view: &View) -> Vec<NodeId> {
        let members = self.truth.iter().flat_map(|truth| &truth.members).map(|member| member.node);
        members.filter(|node| view.member(*node).is_none()).collect()
    }

    /// A call to an object of this key starts on a node.
    pub(crate) fn started(&mut self, key: u64, serial: u64, node: NodeId) {
        let Some(truth) = &self.truth else { return };
        let partition = partition_of(key);
        let owner = truth.owner(partition);
        let version = truth.version;
        self.findings.check(OWNER, owner == Some(node), || {
            format!(
                "call {serial} starts on {node}, and the owner of {partition} is {owner:?} by view {version}"
            )
        });
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.findings.violation(LAW)
    }

    pub(crate) fn count_into(&self, checks: &mut Checks) {
        self.findings.count_into(LAW, checks);
    }
}

/// The partition of all objects with this key.
fn partition_of(key: u64) -> Partition {
    // The entity does not count.
    RecordKey::u64(1, key).as_ref().partition()
}

const LAW: u8 = 1;
pub(super) const EPOCHS: &str = "epochs never fall";
pub(super) const OWNER: &str = "a call starts at the owner";
