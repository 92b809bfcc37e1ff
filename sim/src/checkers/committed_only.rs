//! Law 3: what leaves a node depends on committed state only; a batch holds no effect without its cause; a failed batch
//! leaves no trace.

use std::collections::BTreeSet;

use super::{Checks, Findings, Violation};
use crate::ledger::Ledger;
use crate::workload::{Change, Receipt};

/// What must never be seen.
#[derive(Debug, Default)]
pub(crate) struct CommittedOnly {
    /// Changes that are gone, as clients were told.
    lost: BTreeSet<u64>,
    findings: Findings,
}

impl CommittedOnly {
    /// A client sees an account.
    pub(crate) fn seen(&mut self, receipt: &Receipt, ledger: &Ledger) {
        let committed = &ledger.account(receipt.object).changes;
        self.findings.check(ANSWER, committed.starts_with(&receipt.changes), || {
            let (object, seen) = (receipt.object, &receipt.changes);
            format!("a client sees {seen:?} of account {object}, committed is {committed:?}")
        });
    }

    /// A batch was committed with this change in it.
    pub(crate) fn committed(&mut self, account: u64, change: &Change, ledger: &Ledger) {
        let cause = change.cause;
        if cause.serial > 0 {
            let there = ledger.account(cause.object).changes.iter().any(|other| other.serial == cause.serial);
            self.findings.check(CUT, there, || {
                format!("account {account} has {change:?} committed, but not its cause")
            });
        }
        if self.lost.contains(&change.serial) {
            self.findings.check(NO_TRACE, false, || {
                format!("change {} of account {account} is committed, and was said to be lost", change.serial)
            });
        }
    }

    /// A client was told that its change is gone.
    pub(crate) fn lost(&mut self, account: u64, serial: u64, ledger: &Ledger) {
        self.lost.insert(serial);
        let there = ledger.account(account).changes.iter().any(|change| change.serial == serial);
        self.findings.check(NO_TRACE, !there, || {
            format!("change {serial} of account {account} is committed, and is said to be lost")
        });
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.findings.violation(LAW)
    }

    pub(crate) fn count_into(&self, checks: &mut Checks) {
        self.findings.count_into(LAW, checks);
    }
}

const LAW: u8 = 3;
pub(super) const ANSWER: &str = "clients see committed state";
pub(super) const CUT: &str = "an effect is committed with its cause";
pub(super) const NO_TRACE: &str = "what is lost leaves no trace";
