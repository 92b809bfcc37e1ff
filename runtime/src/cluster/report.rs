//! What a cluster looks like from outside: for people who look, and for programs that check.

use std::sync::Arc;

use epicserver_storage::{NodeId, Partition, RecordKey, View};

use crate::node::Stats;
use crate::saving::SavePolicy;

/// A cluster at one moment, as one of its nodes sees it.
#[derive(Clone, Debug)]
pub struct ClusterReport {
    /// The cluster's id.
    pub cluster: u128,
    /// The version of the view.
    pub view: u64,
    /// Who keeps the data; `None` while nobody does.
    pub keeper: Option<NodeId>,
    /// Counts the keepers.
    pub reign: u64,
    /// Partitions that are handed over at the moment.
    pub moving: usize,
    /// Partitions that nobody owns.
    pub unowned: usize,
    /// The members, by id.
    pub nodes: Vec<NodeReport>,
}

/// A member of a cluster.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Which node.
    pub node: NodeId,
    /// Where it listens.
    pub address: String,
    /// Its execution threads.
    pub cores: u8,
    /// The partitions that it owns.
    pub partitions: usize,
    /// What it did since it started; `None`: it did not answer in time.
    pub stats: Option<Stats>,
    /// What its threads apart from the cores did.
    pub counters: NodeCounters,
}

/// Counts of a node beyond those of its cores, ever increasing but for `balance_waits_ms` and `links`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// Save batches that were committed with something in them.
    pub batches: u64,
    /// Saves that the store refused, since others own their objects.
    pub refused_saves: u64,
    /// Saves that it has written, as the keeper, for nodes that were no members any more: never above 0.
    pub stray_saves: u64,
    /// How long it will not move objects for balance, as the keeper, since nodes come and go: in milliseconds from now, 0 if it moves them.
    pub balance_waits_ms: u64,
    /// Links to other nodes that work now.
    pub links: u64,
    /// Frames sent to other nodes.
    pub frames_sent: u64,
    /// Frames that came from other nodes.
    pub frames_received: u64,
}

/// Where an object lives, and what is saved of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectReport {
    /// Where it lives.
    pub place: ObjectPlace,
    /// When it is saved, as the nodes say that bind its entity.
    pub policy: SavePolicy,
    /// What the keeper has of it; `None`: it did not answer in time.
    pub saved: Option<SavedState>,
}

/// What the store has of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SavedState {
    /// Nothing: it was never saved.
    Nothing,
    /// A state.
    State {
        /// Counts the saves of the object.
        version: u64,
        /// Bytes of the saved state.
        bytes: u64,
        /// The epoch of the partition's owner that saved it.
        epoch: u64,
        /// When that was, in seconds since 1970 by its clock; 0: it did not say.
        saved_at_s: u32,
    },
    /// That it was forgotten.
    Forgotten {
        /// Counts the saves of the object, this one included.
        version: u64,
        /// When that was, in seconds since 1970 by the clock of the node that forgot it; 0: it did not say.
        saved_at_s: u32,
    },
    /// Something that cannot be read, for this reason.
    Unreadable(String),
}

/// How an object of an entity that a node binds is called by people and by the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundObject {
    /// Its partition.
    pub partition: Partition,
    /// Its name in the store.
    pub key: RecordKey,
    /// When its entity is saved.
    pub policy: SavePolicy,
}

/// Where an object lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPlace {
    /// The object's partition.
    pub partition: u16,
    /// Counts the owners of the partition.
    pub epoch: u64,
    /// Who owns it; `None` while nobody does.
    pub owner: Option<NodeId>,
    /// Where the owner listens.
    pub address: String,
    /// The owner's core that serves it.
    pub core: u16,
}

impl ClusterReport {
    /// What a view says, before any node has answered.
    pub(crate) fn of_view(cluster: u128, view: &View, keeper: Option<NodeId>, reign: u64) -> Self {
        let owned = |node| view.partitions.iter().filter(|state| state.owner == Some(node)).count();
        let nodes = view.members.iter().map(|member| NodeReport {
            node: member.node,
            address: member.address.clone(),
            cores: member.cores,
            partitions: owned(member.node),
            stats: None,
            counters: NodeCounters::default(),
        });
        Self {
            cluster,
            view: view.version,
            keeper,
            reign,
            moving: view.partitions.iter().filter(|state| state.moving_to.is_some()).count(),
            unowned: view.partitions.iter().filter(|state| state.owner.is_none()).count(),
            nodes: nodes.collect(),
        }
    }

    /// Takes what a node says of itself.
    pub(crate) fn put(&mut self, node: NodeId, stats: Stats, counters: NodeCounters) {
        if let Some(report) = self.nodes.iter_mut().find(|report| report.node == node) {
            (report.stats, report.counters) = (Some(stats), counters);
        }
    }

    /// Whether every member has answered.
    pub(crate) fn is_complete(&self) -> bool {
        self.nodes.iter().all(|node| node.stats.is_some())
    }
}

impl ObjectPlace {
    /// Where the objects of a partition live by this view.
    pub(crate) fn of(view: &Arc<View>, partition: Partition) -> Self {
        let state = view.partition(partition);
        let owner = state.owner.and_then(|owner| view.member(owner));
        Self {
            partition: partition.number(),
            epoch: state.epoch,
            owner: state.owner,
            address: owner.map(|member| member.address.clone()).unwrap_or_default(),
            core: owner.map_or(0, |member| partition.number() % u16::from(member.cores.max(1))),
        }
    }
}
