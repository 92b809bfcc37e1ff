//! Law 6: moves that are planned lose nothing: where nothing else goes wrong no call fails for them, and objects that are never
//! saved keep what they have in memory.

use std::collections::BTreeMap;

use epicserver_runtime::{CallError, Rejection};

use super::{Checks, Findings, Violation};

/// What a world sees in which nodes come and go as they wish.
#[derive(Debug, Default)]
pub(crate) struct CleanMoves {
    /// How often each object that is never saved was changed.
    changed: BTreeMap<u64, u64>,
    findings: Findings,
}

impl CleanMoves {
    /// A client has its answer.
    pub(crate) fn answered(&mut self, serial: u64, error: Option<&CallError>, in_hurry: bool) {
        let fails = error.is_some_and(|error| !is_of_the_call(error, in_hurry));
        self.findings.check(ANSWERED, !fails, || format!("call {serial} fails with {error:?}"));
    }

    /// An object that is never saved was changed, and has been so often as it knows.
    pub(crate) fn changed(&mut self, object: u64, knows: u64) {
        let changed = self.changed.entry(object).or_default();
        *changed += 1;
        let expected = *changed;
        self.findings.check(MEMORY, knows == expected, || {
            format!("object {object:x} knows of {knows} changes when it was changed {expected} times")
        });
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.findings.violation(LAW)
    }

    pub(crate) fn count_into(&self, checks: &mut Checks) {
        self.findings.count_into(LAW, checks);
    }
}

/// Whether an error comes of what was called, wherever that is: calls that wait for each other, too many at a time, too little time.
fn is_of_the_call(error: &CallError, in_hurry: bool) -> bool {
    match error {
        CallError::Nested(inner) => is_of_the_call(inner, in_hurry),
        CallError::Deadlock { .. } | CallError::Rejected(Rejection::Overloaded) => true,
        CallError::Rejected(Rejection::Expired)
        | CallError::OutcomeUnknown(epicserver_runtime::Loss::Timeout) => in_hurry,
        _ => false,
    }
}

const LAW: u8 = 6;
pub(super) const ANSWERED: &str = "no call fails for a move";
pub(super) const MEMORY: &str = "what is in memory moves along";
