//! Looking for the keeper: in the data directory, at the seeds, among the members; and becoming it when nobody is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use epicserver_storage::{
    KeeperRecord, Kept, Machine, MachineError, NodeId, RENEW_INTERVAL_NS, View, takeover_ns,
};
use epicserver_transport::{Addr, Discovery};

/// What is known of others while no keeper is known, and what the keeper tells the others of its machine.
pub(crate) struct Seeking {
    /// Whether this node may keep the data itself.
    may_keep: bool,
    seeds: Vec<Addr>,
    discovery: Option<Box<dyn Discovery>>,
    sought_at: BTreeMap<Addr, u64>,
    /// When it is tried again to keep the data.
    keep_at: u64,
    /// What the lock file said, and since when.
    record: Option<(KeeperRecord, u64)>,
    renewals: u64,
    renew_at: u64,
    there: BTreeSet<NodeId>,
    members: BTreeSet<NodeId>,
    /// Where the members of the last view listen: one of them is the keeper, or knows it soon.
    known: Vec<Addr>,
    is_told: bool,
    /// Why nobody of this machine can keep the data, until somebody has done what this says.
    unusable: Option<String>,
}

impl fmt::Debug for Seeking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seeking")
            .field("seeds", &self.seeds)
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

impl Seeking {
    /// With these seeds, and what finds others without any.
    pub(crate) fn new(seeds: Vec<Addr>, discovery: Option<Box<dyn Discovery>>, may_keep: bool) -> Self {
        Self {
            may_keep,
            seeds,
            discovery,
            sought_at: BTreeMap::new(),
            keep_at: 0,
            record: None,
            renewals: 0,
            renew_at: 0,
            there: BTreeSet::new(),
            members: BTreeSet::new(),
            known: Vec::new(),
            is_told: false,
            unusable: None,
        }
    }

    pub(crate) fn handle_up(&mut self, node: NodeId) {
        self.there.insert(node);
    }

    pub(crate) fn handle_down(&mut self, node: NodeId) {
        self.there.remove(&node);
        // Whoever was there may have been the keeper, so that it is worth a look at once.
        self.keep_at = 0;
    }

    pub(crate) fn handle_view(&mut self, view: &View) {
        self.members = view.members.iter().map(|member| member.node).collect();
        self.learn_addresses(view);
    }

    /// The nodes that are linked to this one.
    pub(crate) fn there(&self) -> impl Iterator<Item = NodeId> {
        self.there.iter().copied()
    }

    /// How many nodes are linked to this one.
    pub(crate) fn links(&self) -> usize {
        self.there.len()
    }

    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        self.members.contains(&node)
    }

    /// Somebody tells who the members are: this node may be none of them.
    pub(crate) fn learn_addresses(&mut self, view: &View) {
        self.known = view.members.iter().map(|member| Addr::new(&member.address)).collect();
    }

    /// Members that no link leads to.
    pub(crate) fn missing(&self) -> Vec<NodeId> {
        self.members.difference(&self.there).copied().collect()
    }

    /// Becomes the keeper, if nobody else of this machine is.
    pub(crate) fn try_keep(
        &mut self,
        now: u64,
        me: NodeId,
        address: &str,
        machine: &mut dyn Machine,
    ) -> Option<Kept> {
        if !self.may_keep || now < self.keep_at {
            return None;
        }
        self.keep_at = now + TRY_NS;
        let kept = machine.try_keep(me, address);
        self.unusable = match &kept {
            Err(MachineError::Unusable { reason }) => Some(reason.clone()),
            _ => None,
        };
        match kept {
            Ok(Some(kept)) => {
                (self.renewals, self.renew_at) = (0, now + RENEW_INTERVAL_NS);
                Some(kept)
            }
            Ok(None) => None,
            Err(error) => {
                if !std::mem::replace(&mut self.is_told, true) {
                    tracing::error!(%error, "the data directory cannot be kept");
                }
                None
            }
        }
    }

    /// Why the data cannot be kept by anybody, as far as is known.
    pub(crate) fn unusable(&self) -> Option<&str> {
        self.unusable.as_deref()
    }

    /// Tells the other processes of the machine that this keeper runs.
    pub(crate) fn renew_keeping(&mut self, now: u64, machine: Option<&mut (dyn Machine + 'static)>) {
        let Some(machine) = machine.filter(|_| now >= self.renew_at) else { return };
        self.renewals += 1;
        self.renew_at = now + RENEW_INTERVAL_NS;
        if let Err(error) = machine.renew_keeping(self.renewals) {
            tracing::error!(%error, "the keeper cannot say that it runs");
        }
    }

    /// Whom to dial: the keeper of this machine, the seeds, and who is found. Ends a keeper of this machine that has stopped.
    pub(crate) fn whom_to_seek(
        &mut self,
        now: u64,
        own: &Addr,
        machine: Option<&mut (dyn Machine + 'static)>,
    ) -> Vec<Addr> {
        let mut all: Vec<Addr> = self.seeds.iter().chain(&self.known).cloned().collect();
        all.extend(self.discovery.iter_mut().flat_map(|discovery| discovery.look()));
        if let Some(machine) = machine {
            all.extend(self.keeper_of_machine(now, machine));
        }
        // Who is found comes and goes, and need not be remembered for ever.
        self.sought_at.retain(|_, at| now < *at + SEEK_NS);
        all.retain(|addr| {
            let is_due = addr != own && !self.sought_at.contains_key(addr);
            if is_due {
                self.sought_at.insert(addr.clone(), now);
            }
            is_due
        });
        all
    }

    fn keeper_of_machine(&mut self, now: u64, machine: &mut dyn Machine) -> Option<Addr> {
        let record = match machine.keeper() {
            Ok(record) => record?,
            Err(error) => {
                tracing::warn!(%error, "who keeps the data cannot be read");
                return None;
            }
        };
        let addr = Addr::new(&record.address);
        match &self.record {
            Some((before, since)) if *before == record => {
                if takeover_ns(*since) <= now && self.may_keep && machine.kill(record.node) {
                    tracing::warn!(node = %record.node, "the keeper has stopped, and was ended");
                    self.keep_at = 0;
                }
            }
            _ => self.record = Some((record, now)),
        }
        Some(addr)
    }
}

/// How often it is tried to keep the data.
const TRY_NS: u64 = 100_000_000;
/// How often the same address is sought.
const SEEK_NS: u64 = 1_000_000_000;
