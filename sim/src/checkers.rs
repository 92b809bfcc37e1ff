//! The laws, one checker a file. A checker is told what happens, keeps what it must remember, counts its checks, and
//! keeps the first violation it found.
//!
//! Not here: how anything is made to happen (`world`), and what entity code tells (`witness`).

mod acknowledged;
mod bounds;
mod calls_once;
mod churn;
mod clean_moves;
mod committed_only;
mod leases;
mod owners;
mod turns_apart;

pub(crate) use acknowledged::Acknowledged;
pub(crate) use bounds::Bounds;
pub(crate) use calls_once::CallsOnce;
pub(crate) use churn::Churn;
pub(crate) use clean_moves::CleanMoves;
pub(crate) use committed_only::CommittedOnly;
pub(crate) use leases::Leases;
pub(crate) use owners::Owners;
pub(crate) use turns_apart::TurnsApart;

use std::collections::BTreeMap;

/// A law that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number in the design.
    pub law: u8,
    /// What was seen.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "law {}: {}", self.law, self.what)
    }
}

/// What a checker counts and finds.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    counts: BTreeMap<&'static str, u64>,
    first: Option<String>,
}

impl Findings {
    /// Counts a check of this name; if it does not hold, `what` says what was seen.
    pub(crate) fn check(&mut self, name: &'static str, holds: bool, what: impl FnOnce() -> String) {
        *self.counts.entry(name).or_default() += 1;
        if !holds && self.first.is_none() {
            self.first = Some(format!("{name}: {}", what()));
        }
    }

    pub(crate) fn violation(&self, law: u8) -> Option<Violation> {
        self.first.clone().map(|what| Violation { law, what })
    }

    /// Adds what was counted to the counts of a run, by law and name.
    pub(crate) fn count_into(&self, law: u8, counts: &mut Checks) {
        for (name, count) in &self.counts {
            *counts.entry((law, name)).or_default() += count;
        }
    }
}

/// How often each check was made, by the law's number and the check's name.
pub type Checks = BTreeMap<(u8, &'static str), u64>;

/// The check of law 5 that is made once for each call that starts.
pub const CALLS_ONCE: &str = calls_once::ONCE;

/// The checks that are made only where nodes come and go.
pub const CHECKS_OF_MOVES: &[(u8, &str)] = &[
    (1, owners::EPOCHS),
    (1, owners::OWNER),
    (6, clean_moves::ANSWERED),
    (6, clean_moves::MEMORY),
    (7, leases::HELD),
    (8, bounds::SETTLED),
    (8, churn::CALM),
];

/// Every check there is: one that was never made in a whole run has checked nothing, and so the run fails.
pub const ALL_CHECKS: &[(u8, &str)] = &[
    (1, owners::EPOCHS),
    (1, owners::OWNER),
    (2, acknowledged::VERSIONS),
    (2, acknowledged::HISTORY),
    (2, acknowledged::ACKNOWLEDGED),
    (2, acknowledged::LATER_READ),
    (2, acknowledged::STORED),
    (3, committed_only::ANSWER),
    (3, committed_only::CUT),
    (3, committed_only::NO_TRACE),
    (4, turns_apart::TURN),
    (4, turns_apart::HOLD),
    (4, turns_apart::PLACE),
    (5, calls_once::ONCE),
    (5, calls_once::NOT_RUN),
    (5, calls_once::RUN),
    (5, calls_once::ORDER),
    (6, clean_moves::ANSWERED),
    (6, clean_moves::MEMORY),
    (7, leases::HELD),
    (8, bounds::QUEUE),
    (8, bounds::ANSWERED),
    (8, bounds::SETTLED),
    (8, bounds::SLOTS),
    (8, bounds::RETURNED),
    (8, churn::CALM),
];
