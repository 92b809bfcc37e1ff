//! What a node is told of its cluster, and how its cluster thread starts.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use epicserver_storage::{Machine, Member as MemberRecord, NodeId};
use epicserver_transport::{Addr, Discovery, Transport};

use super::doors::{CoreDoors, LineShared, StorageDoor};
use super::seeking::Seeking;
use super::shared::ClusterShared;
use super::{ClusterThread, ToCluster};
use crate::cluster::arrivals::Arrivals;
use crate::cluster::shipping::Shipping;
use crate::driver::clock::Clock;
use crate::driver::control_port::LinksHandle;
use crate::driver::storage_thread::StorageDesk;
use crate::entity::BoundEntity;
use crate::membership::{DampingLimits, Member};
use crate::node::{NodeThread, SelfReport};

/// How a node is part of a cluster whose members come and go.
pub struct ClusterConfig {
    /// What carries the frames; it listens already.
    pub transport: Box<dyn Transport>,
    /// The data directory that the processes of this machine share; `None`: this node keeps no data, and finds those who do
    /// by its seeds.
    pub machine: Option<Box<dyn Machine>>,
    /// Where nodes of the cluster listen; one that answers is enough.
    pub seeds: Vec<Addr>,
    /// What finds others without being told of them, on a network that knows.
    pub discovery: Option<Box<dyn Discovery>>,
    /// The cluster's id: nodes of different clusters refuse each other.
    pub cluster: u128,
    /// What every node must prove to know.
    pub secret: [u8; 32],
    /// How much coming and going of members is borne before objects stay where they are, while this node is the keeper.
    pub damping: DampingLimits,
    /// Whether this node only looks at the cluster: it is no member, serves nothing and calls nothing.
    pub looks_on: bool,
}

impl std::fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterConfig")
            .field("transport", &self.transport.caps().name)
            .field("machine", &self.machine.is_some())
            .field("seeds", &self.seeds)
            .field("discovery", &self.discovery.is_some())
            .field("cluster", &self.cluster)
            .field("looks_on", &self.looks_on)
            .finish_non_exhaustive()
    }
}

/// The cluster thread before it runs, without its transport.
pub(crate) struct ClusterSeed {
    pub(crate) machine: Option<Box<dyn Machine>>,
    pub(crate) seeds: Vec<Addr>,
    pub(crate) discovery: Option<Box<dyn Discovery>>,
    pub(crate) address: Addr,
    pub(crate) me: NodeId,
    pub(crate) cores: u16,
    pub(crate) cluster: u128,
    pub(crate) damping: DampingLimits,
    pub(crate) looks_on: bool,
    pub(crate) inbox: Sender<ToCluster>,
    pub(crate) inputs: Receiver<ToCluster>,
    pub(crate) line: Arc<LineShared>,
    pub(crate) shared: Arc<ClusterShared>,
}

/// What the cluster thread reaches.
pub(crate) struct ClusterReach {
    pub(crate) links: LinksHandle,
    pub(crate) cores: CoreDoors,
    pub(crate) storage: Arc<StorageDesk>,
    pub(crate) report: SelfReport,
    pub(crate) clock: Clock,
}

impl ClusterSeed {
    /// Takes what is left of a config when the links have their transport.
    pub(crate) fn new(
        machine: Option<Box<dyn Machine>>,
        found_by: (Vec<Addr>, Option<Box<dyn Discovery>>),
        config: (u128, DampingLimits, bool),
        address: Addr,
        me: NodeId,
        cores: u16,
    ) -> Self {
        let (inbox, inputs) = bounded(INPUTS_MAX);
        let ((seeds, discovery), (cluster, damping, looks_on)) = (found_by, config);
        let (line, shared) = (LineShared::new(), Arc::new(ClusterShared::new(me)));
        Self {
            machine,
            seeds,
            discovery,
            address,
            me,
            cores,
            cluster,
            damping,
            looks_on,
            inbox,
            inputs,
            line,
            shared,
        }
    }

    /// Starts the thread.
    pub(crate) fn start(self, reach: ClusterReach) -> std::io::Result<NodeThread<()>> {
        let ClusterReach { links, cores, storage, report, clock } = reach;
        let record = self.record(&report.entities);
        // Nothing is served before the first lease.
        cores.lease(0);
        let thread = ClusterThread {
            inbox: self.inputs,
            clock,
            member: Member::new(record),
            address: self.address,
            seeking: Seeking::new(self.seeds, self.discovery, !self.looks_on),
            machine: self.machine,
            keeper: None,
            damping: self.damping,
            links,
            cores,
            storage: StorageDoor { desk: storage, line: self.line, outcomes: self.inbox },
            shared: self.shared,
            inquiries: super::Inquiries::new(report),
            looks_on: self.looks_on,
            shipping: Shipping::new(),
            arrivals: Arrivals::new(),
        };
        NodeThread::start("epic-cluster", move || thread.run())
    }

    fn record(&self, entities: &[BoundEntity]) -> MemberRecord {
        let entities = entities.iter().map(BoundEntity::record).collect();
        let address = self.address.as_str().to_owned();
        MemberRecord { node: self.me, address, cores: self.cores as u8, entities }
    }
}

/// Inputs that may wait for the thread: more than all partitions of a node together hand in, and what peers may leave.
const INPUTS_MAX: usize = 1 << 14;
