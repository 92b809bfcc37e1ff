//! A process of the model: a member, and what its cores believe.

use std::collections::BTreeMap;
use std::sync::Arc;

use epicserver_storage::{Fence, Member as MemberRecord, NodeId, PARTITIONS, Partition, StoreId};

use crate::membership::{Handover, Member};
use crate::routes::Routes;

pub(super) struct Process {
    pub(super) member: Member,
    pub(super) is_alive: bool,
    /// It does nothing until then, but keeps what it believes.
    pub(super) stopped_until: u64,
    /// Whether the kernel of the keeper's machine can prove its death, and end it when it is stopped.
    pub(super) is_local: bool,
    /// Thousandths by which its clock is off.
    pub(super) drift: i64,
    /// Who its machine knows it as.
    pub(super) registered: NodeId,
    routes: Option<Arc<Routes>>,
    lease_until: u64,
    /// What its cores would serve, as long as the lease lasts.
    served: Served,
    /// Partitions whose objects are closed and shipped.
    drained: BTreeMap<Partition, Handover>,
    /// The last task of dropping that is done.
    dropped: u64,
    /// Under which store and epoch each fence is open, as far as this process heard.
    opened: Vec<Option<(StoreId, u64)>>,
}

impl Process {
    pub(super) fn new(record: MemberRecord, is_local: bool, drift: i64) -> Self {
        Self {
            registered: record.node,
            member: Member::new(record),
            is_alive: true,
            stopped_until: 0,
            is_local,
            drift,
            routes: None,
            lease_until: 0,
            dropped: 0,
            served: [0; WORDS],
            drained: BTreeMap::new(),
            opened: vec![None; usize::from(PARTITIONS)],
        }
    }

    /// What its clock shows.
    pub(super) fn clock(&self, now: u64) -> u64 {
        now + now / 1000 * self.drift.unsigned_abs() * u64::from(self.drift > 0)
            - now / 1000 * self.drift.unsigned_abs() * u64::from(self.drift < 0)
    }

    pub(super) fn note_opened(&mut self, store: StoreId, fences: &[Fence]) {
        for fence in fences {
            let opened = &mut self.opened[fence.partition.index()];
            // Word of an earlier task may be late.
            *opened = (*opened).max(Some((store, fence.epoch)));
        }
    }

    /// The cores drop everything, and the process is `me`. `false`: they did so for a later task, as tasks are done in order.
    pub(super) fn drop_all(&mut self, number: u64, me: NodeId) -> bool {
        if number < self.dropped {
            return false;
        }
        (self.dropped, self.registered) = (number, me);
        self.drained.clear();
        self.opened.fill(None);
        true
    }

    pub(super) fn set_lease(&mut self, until: u64) {
        self.lease_until = until;
    }

    /// The cores see a view. Gives the hand-overs that it asks for and that are not begun.
    pub(super) fn show(&mut self, seed: u64, routes: Arc<Routes>) -> Vec<Handover> {
        let (me, view) = (routes.me(), Arc::clone(routes.view()));
        if let Some(before) = &self.routes {
            let (old, new) = (before.view().version, view.version);
            assert!(old < new, "seed {seed}: {me} shows view {new} after {old}");
        }
        self.drained.retain(|_, handover| handover.ends_move_in(&view, me));
        self.served = [0; WORDS];
        let mut begun = Vec::new();
        for partition in Partition::all() {
            let state = view.partition(partition);
            if state.owner != Some(me) {
                continue;
            }
            let is_open = self.opened[partition.index()] == Some((view.store, state.epoch));
            assert!(
                is_open,
                "seed {seed}: {me} shows partition {partition} without its fence, {state:?}, {view:?}, {:?}",
                self.opened[partition.index()]
            );
            set_served(&mut self.served, partition, !self.drained.contains_key(&partition));
            if let Some(to) = state.moving_to.filter(|_| !self.drained.contains_key(&partition)) {
                begun.push(Handover { partition, epoch: state.epoch, to });
            }
        }
        self.routes = Some(routes);
        begun
    }

    /// Closes the objects of these partitions, and gives those that are still to be moved so.
    pub(super) fn drain(&mut self, handovers: Vec<Handover>) -> Vec<Handover> {
        let Some(routes) = &self.routes else { return Vec::new() };
        let fresh: Vec<Handover> = handovers
            .into_iter()
            .filter(|handover| handover.ends_move_in(routes.view(), routes.me()))
            .filter(|handover| !self.drained.contains_key(&handover.partition))
            .collect();
        for handover in &fresh {
            set_served(&mut self.served, handover.partition, false);
        }
        self.drained.extend(fresh.iter().map(|handover| (handover.partition, *handover)));
        fresh
    }

    pub(super) fn is_drained(&self, handover: &Handover) -> bool {
        self.drained.get(&handover.partition) == Some(handover)
    }

    /// The partitions to which its cores would run a call now, a bit each.
    pub(super) fn served(&self, now: u64) -> Served {
        if self.is_alive && self.clock(now) < self.lease_until { self.served } else { [0; WORDS] }
    }
}

/// A bit for each partition.
pub(super) type Served = [u64; WORDS];

pub(super) fn is_served(served: &Served, partition: Partition) -> bool {
    served[partition.index() / 64] >> (partition.index() % 64) & 1 == 1
}

fn set_served(served: &mut Served, partition: Partition, is_served: bool) {
    let bit = 1 << (partition.index() % 64);
    let word = &mut served[partition.index() / 64];
    *word = if is_served { *word | bit } else { *word & !bit };
}

const WORDS: usize = PARTITIONS as usize / 64;
