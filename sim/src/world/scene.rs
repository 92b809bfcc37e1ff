//! What all actors of a world share: its clock, its tape, what the store has committed, the checkers and the trace.

use std::collections::BTreeMap;
use std::sync::Arc;

use epicserver_storage::{Batch, NodeId, View};

use super::profile::Profile;
use crate::cast::Cast;
use crate::checkers::{Acknowledged, Bounds, Checks, Churn, CommittedOnly, Leases, Owners, Violation};
use crate::ledger::{self, Ledger};
use crate::planted::Planted;
use crate::tape::Tape;
use crate::trace::{self, Happened, Trace};
use crate::witness;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) cast: Cast,
    pub(crate) profile: Profile,
    pub(crate) tape: Tape,
    /// What the clock of who goes on shows, in nanoseconds; between the steps of nodes the world's time.
    pub(crate) now: u64,
    /// Nanoseconds since the world began.
    pub(crate) time: u64,
    /// What the keeper's clock shows, wherever it is.
    pub(crate) keeper_now: u64,
    pub(crate) trace: Trace,
    pub(crate) ledger: Ledger,
    pub(crate) acknowledged: Acknowledged,
    pub(crate) committed_only: CommittedOnly,
    pub(crate) bounds: Bounds,
    pub(crate) owners: Owners,
    pub(crate) leases: Leases,
    pub(crate) churn: Churn,
    /// What the cluster did, by kind.
    pub(crate) deeds: BTreeMap<&'static str, u64>,
    /// What went wrong on purpose, by kind.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) planted: Option<Planted>,
    /// Faults are over: what is still open must end.
    pub(crate) healed: bool,
    /// What entity code asked for that there is not in a world, if it did.
    pub(crate) refused: Option<&'static str>,
}

impl Scene {
    pub(crate) fn happened(&mut self, happened: Happened) {
        self.trace.add(self.time, happened);
    }

    pub(crate) fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// Counts something that a cluster does by itself.
    pub(crate) fn count(&mut self, deed: &'static str) {
        *self.deeds.entry(deed).or_default() += 1;
    }

    pub(crate) fn set_place(&self, place: (u16, u16)) {
        witness::with(|witness| witness.place = place);
    }

    /// Whether a planted bug shows itself now, as it does in one of so many cases.
    pub(crate) fn strikes(&mut self, bug: Planted, one_of: u32) -> bool {
        let strikes = self.planted == Some(bug) && self.tape.one_in(one_of);
        if strikes {
            self.happened(Happened::Planted { bug });
        }
        strikes
    }

    pub(crate) fn shuffle_if<T>(&mut self, bug: Planted, values: &mut [T]) {
        if self.planted == Some(bug) && values.len() > 1 {
            self.tape.shuffle(values);
            self.happened(Happened::Planted { bug });
        }
    }

    /// A call starts on a node.
    pub(crate) fn started(&mut self, key: u64, serial: u64, node: NodeId) {
        self.owners.started(key, serial, node);
        self.leases.started(node, serial, self.keeper_now);
    }

    /// The keeper has a view that counts from now on.
    pub(crate) fn set_truth(&mut self, view: Arc<View>) {
        for removed in self.owners.removed_by(&view) {
            witness::with(|witness| witness.turns.expel(super::moving::index_of(removed)));
        }
        self.churn.set_truth(self.now, &view);
        self.owners.set_truth(view);
    }

    /// The store has committed a batch.
    pub(crate) fn committed(&mut self, batch: &Batch) {
        if !self.cast.is_own() {
            let content = trace::digest(batch.saves().map(|save| save.envelope));
            return self.happened(Happened::Saved { saves: batch.len(), content });
        }
        let saves = match ledger::read_batch(batch) {
            Ok(saves) => saves,
            Err(what) => return self.acknowledged.broken(what),
        };
        let mut fresh = Vec::new();
        for (account, after) in saves {
            let before = self.ledger.account(account);
            self.acknowledged.committed(account, before, &after);
            let known = before.changes.len().min(after.changes.len());
            fresh.extend(after.changes[known..].iter().map(|change| (account, *change)));
            self.ledger.put(account, after);
        }
        for (account, change) in fresh {
            self.committed_only.committed(account, &change, &self.ledger);
        }
    }

    /// The first law that was broken, if one was.
    pub(crate) fn violation(&self) -> Option<Violation> {
        let here = self.acknowledged.violation().or_else(|| self.committed_only.violation());
        let here = here.or_else(|| self.bounds.violation()).or_else(|| self.owners.violation());
        let here = here.or_else(|| self.leases.violation()).or_else(|| self.churn.violation());
        here.or_else(|| witness::with(|witness| witness.violation()))
    }

    /// Whether there is more to be seen.
    pub(crate) fn goes_on(&self) -> bool {
        !self.trace.is_too_long() && self.violation().is_none()
    }

    /// How often each check was made.
    pub(crate) fn checks(&self) -> Checks {
        let mut checks = Checks::new();
        self.acknowledged.count_into(&mut checks);
        self.committed_only.count_into(&mut checks);
        self.bounds.count_into(&mut checks);
        self.owners.count_into(&mut checks);
        self.leases.count_into(&mut checks);
        self.churn.count_into(&mut checks);
        witness::with(|witness| witness.count_into(&mut checks));
        checks
    }
}
