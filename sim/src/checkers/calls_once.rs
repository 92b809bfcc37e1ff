//! Law 5: a call runs at most once, one that is said not to have run did not, and calls of one caller to one object start
//! in the order they were made.

use std::collections::{BTreeMap, BTreeSet};

use epicserver_runtime::{CallError, Executed};

use super::{Checks, Findings, Violation};
use crate::workload::Ticket;

/// Which calls started, and what was said of them.
#[derive(Debug, Default)]
pub(crate) struct CallsOnce {
    started: BTreeSet<u64>,
    /// Calls that did not run, as their callers were told.
    not_run: BTreeSet<u64>,
    /// The last call that started, by caller and object.
    last: BTreeMap<(u64, u64), u64>,
    /// Objects move between nodes: then calls that nobody waits for may come late.
    pub(crate) one_ways_stray: bool,
    findings: Findings,
}

impl CallsOnce {
    /// A method has started.
    pub(crate) fn started(&mut self, ticket: &Ticket) {
        let serial = ticket.serial;
        let fresh = self.started.insert(serial);
        self.findings.check(ONCE, fresh, || format!("call {serial} starts again"));
        let not_run = self.not_run.contains(&serial);
        self.findings.check(NOT_RUN, !not_run, || {
            format!("call {serial} starts, but its caller was told that it did not")
        });
        // A call to an ancestor's object goes ahead of those that wait there, or it would wait for itself.
        if ticket.path.contains(&ticket.object) || (ticket.one_way && self.one_ways_stray) {
            return;
        }
        let last = self.last.insert((ticket.caller, ticket.object), serial).unwrap_or(0);
        self.findings.check(ORDER, last < serial, || {
            let (caller, object) = (ticket.caller, ticket.object);
            format!("of caller {caller:x}, call {serial} to object {object:x} starts after call {last}")
        });
    }

    /// A caller got its answer.
    pub(crate) fn answered(&mut self, serial: u64, error: Option<&CallError>) {
        let started = self.started.contains(&serial);
        match error.map_or(Executed::Yes, CallError::executed) {
            Executed::No => {
                self.not_run.insert(serial);
                self.findings.check(NOT_RUN, !started, || {
                    format!("call {serial} ran, but its caller is told {error:?}")
                });
            }
            Executed::Yes => {
                self.findings.check(RUN, started, || {
                    format!("call {serial} never ran, but its caller is told {error:?}")
                });
            }
            Executed::Unknown => {}
        }
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.findings.violation(LAW)
    }

    pub(crate) fn count_into(&self, checks: &mut Checks) {
        self.findings.count_into(LAW, checks);
    }
}

const LAW: u8 = 5;
pub(super) const ONCE: &str = "a call runs at most once";
pub(super) const NOT_RUN: &str = "what is said not to have run did not";
pub(super) const RUN: &str = "what is said to have run did";
pub(super) const ORDER: &str = "calls start in the order they were made";
