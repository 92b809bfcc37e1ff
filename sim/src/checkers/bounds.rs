//! Law 8: nothing is unbounded, every buffer and slot returns, and every call is answered in time once faults have stopped.

use super::{Checks, Findings, Violation};

/// What is measured against its bound.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    findings: Findings,
}

impl Bounds {
    /// A queue has this length.
    pub(crate) fn queue(&mut self, name: &str, len: usize, len_max: usize) {
        self.findings.check(QUEUE, len <= len_max, || format!("{name} holds {len}, its bound is {len_max}"));
    }

    /// The calls that are not answered although they had the time.
    pub(crate) fn answered(&mut self, open: &[u64]) {
        self.findings.check(ANSWERED, open.is_empty(), || format!("calls {open:?} are never answered"));
    }

    /// Whether a cluster has everything where it belongs, when it had the time.
    pub(crate) fn settled(&mut self, is_settled: bool) {
        self.findings
            .check(SETTLED, is_settled, || "nodes, members and partitions never come to rest".to_owned());
    }

    /// The calls and tasks of a core that rests.
    pub(crate) fn slots(&mut self, node: u16, core: u16, live: usize) {
        self.findings.check(SLOTS, live == 0, || {
            format!("core {core} of node {node} has {live} calls under way when all were answered")
        });
    }

    /// What is lent out by something that rests.
    pub(crate) fn returned(&mut self, name: &str, missing: usize) {
        self.findings.check(RETURNED, missing == 0, || format!("{missing} of {name} do not come back"));
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.findings.violation(LAW)
    }

    pub(crate) fn count_into(&self, checks: &mut Checks) {
        self.findings.count_into(LAW, checks);
    }
}

const LAW: u8 = 8;
pub(super) const QUEUE: &str = "queues keep their bound";
pub(super) const ANSWERED: &str = "every call is answered";
pub(super) const SETTLED: &str = "a cluster comes to rest";
pub(super) const SLOTS: &str = "every slot returns";
pub(super) const RETURNED: &str = "what was lent comes back";
