//! Law 2: an acknowledged change is in the store and in every later read; versions have no gap and no fork.

use std::collections::BTreeMap;

use super::{Checks, Findings, Violation};
use crate::ledger::{Committed, Ledger};
use crate::workload::Receipt;

/// What clients were promised.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    /// How many changes of each account are promised.
    promised: BTreeMap<u64, usize>,
    findings: Findings,
}

impl Acknowledged {
    /// The store has committed a save; `before` is what it had.
    pub(crate) fn committed(&mut self, account: u64, before: &Committed, after: &Committed) {
        let follows = after.version == before.version + 1 && after.epoch >= before.epoch;
        self.findings.check(VERSIONS, follows, || {
            let (old, new) = ((before.version, before.epoch), (after.version, after.epoch));
            format!("account {account} goes from version and epoch {old:?} to {new:?}")
        });
        self.findings.check(HISTORY, after.changes.starts_with(&before.changes), || {
            format!("account {account} had {:?} committed, now {:?}", before.changes, after.changes)
        });
    }

    /// A client was told of a change.
    pub(crate) fn acknowledged(&mut self, receipt: &Receipt, ledger: &Ledger) {
        let committed = &ledger.account(receipt.object).changes;
        let place = committed.iter().position(|change| change.serial == receipt.serial);
        self.findings.check(ACKNOWLEDGED, place.is_some(), || {
            format!("change {} of account {} is acknowledged and not stored", receipt.serial, receipt.object)
        });
        let promised = self.promised.entry(receipt.object).or_default();
        *promised = (*promised).max(place.map_or(0, |place| place + 1));
    }

    /// How many changes of the account a read that starts now must see.
    pub(crate) fn promised(&self, account: u64) -> usize {
        self.promised.get(&account).copied().unwrap_or(0)
    }

    /// A read that started when so many changes were promised has ended.
    pub(crate) fn read(&mut self, receipt: &Receipt, promised: usize) {
        self.findings.check(LATER_READ, receipt.changes.len() >= promised, || {
            let (seen, object) = (receipt.changes.len(), receipt.object);
            format!(
                "a read of account {object} sees {seen} changes when {promised} were acknowledged before it"
            )
        });
    }

    /// What the store holds at the end, or what a fresh node reads from it.
    pub(crate) fn stored(&mut self, account: u64, expected: &Committed, changes: &[crate::workload::Change]) {
        self.findings.check(STORED, expected.changes == changes, || {
            format!("account {account} has {changes:?}, committed was {:?}", expected.changes)
        });
    }

    /// Something was asked of the store that must never be asked.
    pub(crate) fn broken(&mut self, what: String) {
        self.findings.check(VERSIONS, false, || what);
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.findings.violation(LAW)
    }

    pub(crate) fn count_into(&self, checks: &mut Checks) {
        self.findings.count_into(LAW, checks);
    }
}

const LAW: u8 = 2;
pub(super) const VERSIONS: &str = "versions follow each other";
pub(super) const HISTORY: &str = "what was committed stays";
pub(super) const ACKNOWLEDGED: &str = "what is acknowledged is stored";
pub(super) const LATER_READ: &str = "what was acknowledged is in later reads";
pub(super) const STORED: &str = "the store gives back what was committed";
