//! Law 7: no node serves past its lease: a call starts only while the keeper may not act yet as if its node were gone.

use std::collections::BTreeMap;

use epicserver_storage::{NodeId, takeover_ns};

use super::{Checks, Findings, Violation};

/// What the keeper has heard of its members, by its own clock.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    /// When the last renewal of each came in this reign.
    seen: BTreeMap<NodeId, u64>,
    findings: Findings,
}

impl Leases {
    /// Another keeper has begun: who was a member has a whole lease.
    pub(crate) fn begin_reign(&mut self) {
        self.seen.clear();
    }

    /// The renewal of a member has come.
    pub(crate) fn renewed(&mut self, node: NodeId, now: u64) {
        self.seen.insert(node, now);
    }

    /// A call starts on a node when the keeper's clock shows this.
    pub(crate) fn started(&mut self, node: NodeId, serial: u64, keeper_now: u64) {
        let Some(seen) = self.seen.get(&node).copied() else { return };
        self.findings.check(HELD, keeper_now < takeover_ns(seen), || {
            let since_ms = keeper_now.saturating_sub(seen) / 1_000_000;
            format!("call {serial} starts on {node}, whose last renewal came {since_ms} ms ago")
        });
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.findings.violation(LAW)
    }

    pub(crate) fn count_into(&self, checks: &mut Checks) {
        self.findings.count_into(LAW, checks);
    }
}

const LAW: u8 = 7;
pub(super) const HELD: &str = "a call starts within the lease";
