//! `Node`: one process' part of the cluster, from start to stop.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use epicserver_storage::{
    Batch, BatchName, Fence, MachineError, MemoryStore, NodeId, Partition, Store, StoreError, StoreId,
};

use crate::cluster::remote_store::ClusterStore;
use crate::core::{Core, CoreConfig, CoreMessage};
use crate::driver::clock::Clock;
use crate::driver::cluster::{ClusterConfig, ClusterReach, ClusterSeed, CoreDoors, StorageLine, ToCluster};
use crate::driver::control_port::{LinksHandle, control_port};
use crate::driver::core_thread::{CoreGauge, CoreOrders, CoreThread, Neighbour};
use crate::driver::edge::Edge;
use crate::driver::links::LinksConfig;
use crate::driver::storage_thread::{ANSWERS_MAX, CorePort, StorageDesk, StorageThread};
use crate::driver::{TransportThreads, Wait, links};
use crate::entity::{BoundEntity, Entities, NodeTag};
use crate::pool::Pool;
use crate::registry::{self, NodeEntrance};
use crate::routes::Routes;
use epicserver_sync::batch_clock::{CoreClock, batch_clock};
use epicserver_sync::inbox::Inbox;
use epicserver_sync::parker::{Parker, Unparker};
use epicserver_sync::ring::Producer;
use epicserver_sync::{pin, ring};

mod cluster;
mod thread;

use cluster::ClusterHandle;
pub use cluster::{FindError, JoinError};
pub(crate) use cluster::{Inquiry, SelfReport};
pub(crate) use thread::{NodeThread, THREAD_PATIENCE, ThreadEnd};

/// One process' part of the cluster: its cores, its storage thread, its links.
///
/// Dropping it stops it at once; [`shutdown`](Self::shutdown) drains it first. A thread that does not end, as a store hangs or a method
/// never returns, is left behind after ten seconds.
#[derive(Debug)]
pub struct Node {
    shared: Arc<NodeShared>,
    orders: Vec<Arc<CoreOrders>>,
    unparkers: Vec<Unparker>,
    cores: Vec<NodeThread<Option<Box<links::InlineLinks>>>>,
    storage: Arc<StorageDesk>,
    storage_thread: Option<NodeThread<()>>,
    links: Option<links::LinkThreadHandle>,
    cluster: Option<ClusterHandle>,
    _edge: Edge,
    next_entry: AtomicU32,
    stopped: AtomicBool,
}

/// How a node is set up.
#[derive(Debug)]
pub struct NodeBuilder {
    entities: Vec<BoundEntity>,
    cores: Option<u16>,
    wait: Wait,
    transport_threads: TransportThreads,
    pin: bool,
    core: CoreConfig,
    memory_budget: Option<u64>,
    store: Option<StoreBox>,
    links: Option<LinksConfig>,
    cluster: Option<ClusterConfig>,
}

struct StoreBox(Box<dyn Store>);

impl std::fmt::Debug for StoreBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Two entities have one name.
    #[error(
        "two entities are named {0:?}: entity names are unique in a cluster, give one of them another `name = ..`"
    )]
    SameName(String),
    /// Two names hash to one number.
    #[error("the entity names {0:?} and {1:?} have the same number: rename one of them")]
    SameId(String, String),
    /// Two methods of one entity have one number.
    #[error("methods {1:?} and {2:?} of entity {0:?} have the same number: rename one of them")]
    SameMethod(String, String, String),
    /// The settings make no sense.
    #[error("{0}")]
    Config(String),
    /// A thread or a runtime could not be started.
    #[error("a thread of the node cannot be started: {0}")]
    Thread(#[from] io::Error),
    /// The store does not accept this node.
    #[error("the store cannot be opened: {0}")]
    Store(#[from] StoreError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// What a node did since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Methods that were started.
    pub calls: u64,
    /// Turns of entity code.
    pub turns: u64,
    /// Calls from one core of the node to another.
    pub cross_core_calls: u64,
    /// Calls from this node to others.
    pub remote_calls: u64,
    /// Images of changed objects taken for saving.
    pub images: u64,
    /// Activations made.
    pub activations: u64,
    /// Objects in memory now.
    pub objects: u64,
    /// Calls that came to this node from others.
    pub calls_from_nodes: u64,
    /// Objects dropped as nobody used them for a while.
    pub idle_dropped: u64,
    /// Objects dropped as all of them took more memory than they may.
    pub budget_dropped: u64,
    /// What the objects in memory take now, in bytes: of each the archive of its state and the fixed part of an activation.
    pub memory_len: u64,
}

impl Stats {
    /// The share of this node's calls that ran on the core that made them, from 0 to 1; `None` before the first call.
    ///
    /// Calls from the application count for the core that they come in at.
    pub fn local_share(&self) -> Option<f64> {
        let local = self.calls.saturating_sub(self.cross_core_calls + self.calls_from_nodes);
        let made = local + self.cross_core_calls + self.remote_calls;
        (made > 0).then(|| local as f64 / made as f64)
    }
}

/// What a node shares with its handles.
#[derive(Debug)]
pub(crate) struct NodeShared {
    id: NodeId,
    number: u32,
    gauges: Vec<Arc<CoreGauge>>,
}

impl NodeShared {
    /// Of a node whose cores somebody else steps: nobody reads gauges there.
    pub(crate) fn without_gauges(id: NodeId, number: u32) -> Self {
        Self { id, number, gauges: Vec::new() }
    }

    pub(crate) fn stats(&self) -> Stats {
        let sum = |read: fn(&CoreGauge) -> &AtomicU64| {
            self.gauges.iter().map(|gauge| read(gauge).load(Ordering::Relaxed)).sum()
        };
        Stats {
            calls: sum(|gauge| &gauge.calls),
            turns: sum(|gauge| &gauge.turns),
            cross_core_calls: sum(|gauge| &gauge.cross_core_calls),
            remote_calls: sum(|gauge| &gauge.remote_calls),
            images: sum(|gauge| &gauge.images),
            activations: sum(|gauge| &gauge.activations),
            objects: sum(|gauge| &gauge.objects),
            calls_from_nodes: sum(|gauge| &gauge.calls_from_nodes),
            idle_dropped: sum(|gauge| &gauge.idle_dropped),
            budget_dropped: sum(|gauge| &gauge.budget_dropped),
            memory_len: sum(|gauge| &gauge.memory_len),
        }
    }

    fn is_quiet(&self) -> bool {
        self.gauges.iter().all(|gauge| gauge.quiet.load(Ordering::Acquire))
    }

    fn is_at_rest(&self) -> bool {
        self.gauges.iter().all(|gauge| gauge.at_rest.load(Ordering::Acquire))
    }

    fn is_stopped(&self) -> bool {
        self.gauges.iter().all(|gauge| gauge.stopped.load(Ordering::Acquire))
    }
}

impl Node {
    /// Starts describing a node.
    pub fn builder() -> NodeBuilder {
        NodeBuilder {
            entities: Vec::new(),
            cores: None,
            wait: Wait::Auto,
            transport_threads: TransportThreads::Auto,
            pin: true,
            core: CoreConfig::default(),
            memory_budget: None,
            store: None,
            links: None,
            cluster: None,
        }
    }

    /// A handle for calls; each has the next core of the node as its entry.
    pub fn pool(&self) -> Pool {
        let entry = self.next_entry.fetch_add(1, Ordering::Relaxed) as usize % self.orders.len();
        Pool::new(NodeTag::pack(self.shared.number, entry as u16), self.shared.clone())
    }

    /// The node's name in this life.
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// What the node did so far.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Whether the node can go on: `false` when its store failed for good or refused it. Then no call starts on it any more, and
    /// those under way end: `Unavailable` if they did not run, else `OutcomeUnknown(OwnerLost)`.
    pub fn is_healthy(&self) -> bool {
        !self.storage.broken.load(Ordering::Acquire)
    }

    /// Stops the node in order: calls under way end, objects run their `on_drop` hooks and are saved, then the threads end. What objects
    /// have [spawned](crate::context::spawn) is not waited for, and ends with them.
    /// What has not ended within `patience` is cut off. Gives whether everything ended by itself.
    pub async fn shutdown(self, patience: Duration) -> bool {
        // What could not be given away in this time leaves none for the rest: the others wait for the end of this process.
        let deadline = tokio::time::Instant::now() + patience;
        // First of all others take what this node has, while it serves: so no caller notices.
        let heirs = self.cluster.as_ref().filter(|cluster| cluster.has_heirs());
        let mut in_order = match heirs {
            Some(cluster) => cluster.leave(&self.shared, patience.max(LEAVE_PATIENCE)).await,
            None => true,
        };
        let is_gone = heirs.is_some();
        // A node of a cluster that nobody takes over refuses new callers at once: they would never let it come to rest.
        let may_rest = self.cluster.is_none() || is_gone;
        // Not for long: what is spawned may call again and again, and calls that take longer end while the rest is saved.
        let rest_by = deadline.min(tokio::time::Instant::now() + REST_PATIENCE);
        while may_rest && !self.shared.is_at_rest() && tokio::time::Instant::now() < rest_by {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        for (orders, unparker) in self.orders.iter().zip(&self.unparkers) {
            orders.drain.store(true, Ordering::Release);
            unparker.unpark();
        }
        while !self.shared.is_stopped() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        in_order &= self.shared.is_stopped();
        match self.cluster.as_ref().filter(|_| !is_gone) {
            Some(cluster) => cluster.leave(&self.shared, LEAVE_PATIENCE).await && in_order,
            None => in_order,
        }
    }

    fn stop_threads(&mut self) {
        if self.stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        registry::remove_node(self.shared.number);
        if let Some(cluster) = &mut self.cluster {
            cluster.stop();
        }
        for (orders, unparker) in self.orders.iter().zip(&self.unparkers) {
            orders.stop.store(true, Ordering::Release);
            unparker.unpark();
        }
        let inline = self.end_cores();
        // With all cores ended, nothing more comes for the links.
        if let Some(links) = inline {
            links.finish();
        }
        self.links.take();
        self.storage.stop();
        match self.storage_thread.take().map(|storage| storage.end_within(THREAD_PATIENCE)) {
            None | Some(ThreadEnd::Ended(())) => {}
            Some(ThreadEnd::Panicked) => tracing::error!("the storage thread panicked"),
            Some(ThreadEnd::LeftBehind) => {
                tracing::error!(
                    "the store does not return; what it was to commit last may be durable or not"
                );
            }
        }
    }

    /// Waits for all cores. Gives the links, if one of them drove these.
    fn end_cores(&mut self) -> Option<Box<links::InlineLinks>> {
        let (mut inline, mut patience) = (None, THREAD_PATIENCE);
        for (index, core) in self.cores.drain(..).enumerate() {
            match core.end_within(patience) {
                ThreadEnd::Ended(links) => inline = inline.or(links),
                ThreadEnd::Panicked => tracing::error!("a core thread panicked"),
                ThreadEnd::LeftBehind => {
                    tracing::error!(core = index, "a method does not return; its core is left behind");
                    // The others had as long.
                    patience = Duration::ZERO;
                }
            }
        }
        inline
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

impl NodeBuilder {
    /// Adds the entities that this node has code for: `bind::<(Player, Barrel)>()`.
    #[must_use]
    pub fn bind<B: Entities>(mut self) -> Self {
        B::collect(&mut self.entities);
        self
    }

    /// How many cores to run; the number of processors unless said otherwise.
    #[must_use]
    pub fn cores(mut self, cores: u16) -> Self {
        self.cores = Some(cores);
        self
    }

    /// How cores wait for work.
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// Which thread drives the transport of its links; [`TransportThreads::Auto`] unless said otherwise.
    #[must_use]
    pub fn transport_threads(mut self, threads: TransportThreads) -> Self {
        self.transport_threads = threads;
        self
    }

    /// Whether each core is pinned to a processor; yes unless said otherwise.
    #[must_use]
    pub fn pin(mut self, pin: bool) -> Self {
        self.pin = pin;
        self
    }

    /// Limits and seeds of the cores.
    #[must_use]
    pub fn core_config(mut self, config: CoreConfig) -> Self {
        self.core = config;
        self
    }

    /// What the objects in memory may take in all cores together, in bytes: of each the archive of its state and the fixed part of
    /// an activation; no bound unless said otherwise. Each core has an equal share. Beyond it those that nobody uses leave memory,
    /// the least recently used first.
    #[must_use]
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = Some(bytes);
        self
    }

    /// Where state is saved; memory unless said otherwise, which lasts as long as the node.
    ///
    /// Any [`Store`](epicserver_storage::Store) will do: `examples/own_store.rs` has one. The node takes all of it over from whichever node
    /// used it before, whose saves are refused from then on; a node of a cluster saves in that cluster's.
    #[must_use]
    pub fn store(mut self, store: impl Store + 'static) -> Self {
        self.store = Some(StoreBox(Box::new(store)));
        self
    }

    /// Makes the node part of a cluster whose members come and go. State is saved where that cluster's data node keeps it.
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterConfig) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// Joins the nodes that these links lead to, a fixed list; without links a node is alone.
    #[must_use]
    pub fn links(mut self, links: LinksConfig) -> Self {
        self.links = Some(links);
        self
    }

    /// Starts the node's threads.
    ///
    /// # Errors
    /// [`StartError`] says what is wrong with the entities, the settings, the store or the machine.
    pub fn start(mut self) -> Result<Node, StartError> {
        check_entities(&self.entities)?;
        let processors = pin::available_processors().unwrap_or_default();
        let cores = self.cores.unwrap_or(processors.len().clamp(1, usize::from(CORES_MAX)) as u16);
        if cores == 0 || cores > CORES_MAX {
            return Err(StartError::Config(format!("cores = {cores}: a node has 1 to {CORES_MAX} cores")));
        }
        let clock = Clock::start();
        self.core.epoch_ms = clock.epoch_ms();
        if let Some(bytes) = self.memory_budget {
            self.core.memory_len_max = bytes / u64::from(cores);
        }
        let parts = Parts::new(self, cores, clock)?;
        parts.start(processors)
    }
}

/// Everything of a node before its threads run.
struct Parts {
    builder: NodeBuilder,
    clock: Clock,
    id: NodeId,
    routes: Arc<Routes>,
    configs: Vec<CoreConfig>,
    links: Option<links::PreparedLinks>,
    cluster: Option<ClusterSeed>,
}

impl Parts {
    fn new(mut builder: NodeBuilder, cores: u16, clock: Clock) -> Result<Self, StartError> {
        let mut links = builder.links.take().map(|links| links.prepare(cores)).transpose()?;
        let mut cluster = None;
        if let Some(config) = builder.cluster.take() {
            if links.is_some() || builder.store.is_some() {
                return Err(StartError::Config(BOTH_CLUSTER_AND_OWN.to_owned()));
            }
            let (seed, its_links) = join_cluster(config, cores)?;
            (links, cluster) = (Some(its_links), Some(seed));
        }
        let id = links.as_ref().map_or_else(random_node_id, links::PreparedLinks::id);
        let routes = match &links {
            Some(links) => links.routes(),
            None => {
                // Above all that other nodes had that used this store, so that nothing of theirs is saved any more.
                let fences = builder.store.as_mut().map(|store| store.0.fences()).transpose()?;
                let epoch = fences.into_iter().flatten().map(|fence| fence.epoch).max();
                Arc::new(Routes::solo_above(id, cores, epoch.unwrap_or(0)))
            }
        };
        if let Some(links) = &links {
            links.equip(&mut builder.core);
        }
        let configs = builder.core.for_node(cores);
        Ok(Self { builder, clock, id, routes, configs, links, cluster })
    }

    fn start(mut self, processors: Vec<usize>) -> Result<Node, StartError> {
        let cores = self.configs.len();
        let edge = Edge::new()?;
        let spin_ns = spin_ns(self.builder.wait, cores, processors.len());
        let is_inline = self.builder.transport_threads.is_inline(cores, processors.len());
        let threads = cores + usize::from(self.links.is_some() && !is_inline);
        let yields = self.builder.wait == Wait::Spin && threads > processors.len();
        let mut parkers: Vec<Parker> = (0..cores).map(|_| Parker::new()).collect();
        let takes_turns = !is_inline && self.links.as_ref().is_some_and(links::PreparedLinks::takes_turns);
        let link_parker = self.links.as_ref().map(|links| {
            if is_inline {
                parkers[0] = links.parker();
            } else if takes_turns {
                parkers[0] = links.parker_of_two();
            }
            if takes_turns { links.parker_of_two() } else { links.parker() }
        });
        let unparkers: Vec<Unparker> = parkers.iter().map(Parker::unparker).collect();
        let storage_parker = Parker::new();
        let (storage_clock, core_clocks) = batch_clock(cores, storage_parker.unparker());
        let storage = Arc::new(StorageDesk::new(storage_parker.unparker()));
        let answers: Vec<_> = (0..cores).map(|_| Arc::new(Inbox::new(ANSWERS_MAX))).collect();
        let gauges: Vec<Arc<CoreGauge>> = (0..cores).map(|_| Arc::default()).collect();
        let orders: Vec<Arc<CoreOrders>> = (0..cores).map(|_| Arc::default()).collect();
        let number = self.configs[0].node_tag;
        let shared = Arc::new(NodeShared { id: self.id, number, gauges: gauges.clone() });

        let link_unparker = link_parker.as_ref().map(Parker::unparker).filter(|_| !is_inline);
        let link_unparker = link_unparker.unwrap_or_else(|| unparkers[0].clone());
        let control = self
            .cluster
            .as_ref()
            .map(|seed| control_port(seed.inbox.clone(), seed.line.clone(), link_unparker));
        let (control, links_handle) = control.unzip();
        let store = self.open_store(links_handle.as_ref())?;
        let storage_thread = StorageThread {
            desk: storage.clone(),
            clock: storage_clock,
            time: self.clock,
            parker: storage_parker,
            store,
            node: self.id,
            cores: answers
                .iter()
                .zip(&unparkers)
                .map(|(answers, unparker)| port(answers, unparker))
                .collect(),
            waiting_loads: VecDeque::new(),
            waiting_fences: VecDeque::new(),
            images: Vec::new(),
            batch: Batch::new(BatchName { node: self.id, number: 1 }),
            durable: 0,
            cluster: self.cluster.as_ref().map(|seed| seed.inbox.clone()),
            restart: None,
        };
        let storage_thread = NodeThread::start("epic-storage", move || storage_thread.run())?;

        let links = match self.links.take() {
            Some(links) if is_inline => Some(links.start_inline(&unparkers, self.clock, control)),
            Some(links) => {
                let spin_ns = if self.builder.wait == Wait::Spin { u64::MAX } else { spin_ns };
                let parker = link_parker.unwrap_or_else(|| links.parker());
                Some(links.start_dedicated(parker, &unparkers, self.clock, (spin_ns, yields), control)?)
            }
            None => None,
        };
        let (link_thread, core_links) = links.map_or((None, Vec::new()), |links| (links.thread, links.cores));
        let mut core_links = core_links.into_iter();

        let mut node = Node {
            shared,
            orders: orders.clone(),
            unparkers: unparkers.clone(),
            cores: Vec::new(),
            storage: storage.clone(),
            storage_thread: Some(storage_thread),
            links: link_thread,
            cluster: None,
            next_entry: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            _edge: edge,
        };

        let mesh = mesh(&unparkers);
        let (started, desks) = crossbeam_channel::bounded(cores);
        let per_core = mesh.into_iter().zip(core_clocks).zip(parkers.drain(..)).enumerate();
        for (index, ((neighbours, batches), parker)) in per_core {
            let seed = CoreSeed {
                config: self.configs[index].clone(),
                entities: self.builder.entities.clone(),
                routes: self.routes.clone(),
                clock: self.clock,
                wait: self.builder.wait,
                spin_ns,
                yields,
                processor: self
                    .builder
                    .pin
                    .then(|| processors.get(index % processors.len().max(1)).copied())
                    .flatten(),
                parker,
                neighbours,
                batches,
                storage: storage.clone(),
                answers: answers[index].clone(),
                links: core_links.next(),
                edge: node._edge.handle(),
                gauge: gauges[index].clone(),
                orders: orders[index].clone(),
                cluster: self.cluster.as_ref().map(|seed| seed.inbox.clone()),
                unparker: unparkers[index].clone(),
            };
            let started = started.clone();
            node.cores
                .push(NodeThread::start(&format!("epic-core-{index}"), move || seed.run(index, started))?);
        }
        drop(started);
        let mut all: Vec<_> = desks.into_iter().collect();
        all.sort_by_key(|(index, _)| *index);
        if all.len() != cores {
            return Err(StartError::Config("a core thread ended while it started".to_owned()));
        }
        registry::add_node(
            number,
            Arc::new(NodeEntrance { desks: all.into_iter().map(|(_, desk)| desk).collect() }),
        );
        if let (Some(seed), Some(links)) = (self.cluster.take(), links_handle) {
            let cores = CoreDoors { doors: answers.into_iter().zip(unparkers).collect() };
            let report = SelfReport { node: node.shared.clone(), entities: self.builder.entities };
            let reach = ClusterReach { links, cores, storage, report, clock: self.clock };
            node.cluster = Some(ClusterHandle::start(seed, reach)?);
        }
        Ok(node)
    }

    /// The store: that of the cluster, or one of this node's own with the fences of the partitions that it owns.
    fn open_store(&mut self, links: Option<&LinksHandle>) -> Result<Box<dyn Store>, StartError> {
        if let (Some(seed), Some(links)) = (&self.cluster, links) {
            let line = StorageLine { shared: seed.line.clone(), links: links.clone(), clock: self.clock };
            return Ok(Box::new(ClusterStore::new(line, StoreId(0))));
        }
        let mut store = self.builder.store.take().map_or_else(
            || Box::new(MemoryStore::new(epicserver_storage::StoreId(0))) as Box<dyn Store>,
            |store| store.0,
        );
        let view = self.routes.view();
        let mine = Partition::all().filter(|partition| view.owner(*partition) == Some(self.id));
        let fences: Vec<Fence> = mine
            .map(|partition| Fence { partition, epoch: view.partition(partition).epoch, holder: self.id })
            .collect();
        store.open_fences(&fences)?;
        Ok(store)
    }
}

/// What a core's thread is made of; the core itself is made on its thread, as it never leaves it.
struct CoreSeed {
    config: CoreConfig,
    entities: Vec<BoundEntity>,
    routes: Arc<Routes>,
    clock: Clock,
    wait: Wait,
    spin_ns: u64,
    yields: bool,
    processor: Option<usize>,
    parker: Parker,
    neighbours: Vec<(Neighbour, Producer<CoreMessage>)>,
    batches: CoreClock,
    storage: Arc<StorageDesk>,
    answers: Arc<Inbox<crate::driver::storage_thread::FromStorage>>,
    links: Option<links::CoreLinks>,
    edge: crate::driver::edge::EdgeHandle,
    gauge: Arc<CoreGauge>,
    orders: Arc<CoreOrders>,
    cluster: Option<crossbeam_channel::Sender<ToCluster>>,
    unparker: Unparker,
}

type Started = crossbeam_channel::Sender<(usize, Arc<registry::Desk>)>;

impl CoreSeed {
    fn run(self, index: usize, started: Started) -> Option<Box<links::InlineLinks>> {
        if let Some(processor) = self.processor
            && let Err(error) = pin::pin_current_thread(processor)
        {
            tracing::warn!(%error, processor, "a core cannot be pinned to its processor");
        }
        // A core that drives the links drops most of the frames that it makes; those of others are dropped by who drives them.
        let drives = self.links.as_ref().is_some_and(links::CoreLinks::is_inline);
        let frames = self.config.frames.clone().filter(|_| drives);
        let _keeper = frames.as_ref().map(epicserver_transport::BufferPool::keep_here);
        let mut core = Core::new(self.clock.now(), self.config, &self.entities, self.routes);
        let connect = |(neighbour, way): (Neighbour, Producer<CoreMessage>)| {
            core.connect(neighbour.index, way);
            neighbour
        };
        let neighbours = self.neighbours.into_iter().map(connect).collect();
        let unparker = self.unparker;
        core.desk().set_ring(Box::new(move || {
            unparker.unpark_if_parked();
        }));
        if started.send((index, core.desk().clone())).is_err() {
            return None;
        }
        // Whoever waits for the start counts the senders that are left.
        drop(started);
        let thread = CoreThread {
            core,
            clock: self.clock,
            wait: self.wait,
            spin_ns: self.spin_ns,
            yields: self.yields,
            parker: self.parker,
            neighbours,
            batches: self.batches,
            storage: self.storage,
            answers: self.answers,
            links: self.links,
            edge: self.edge,
            gauge: self.gauge,
            orders: self.orders,
            cluster: self.cluster,
            buffers: crate::driver::core_thread::Buffers::default(),
        };
        thread.run()
    }
}

fn port(answers: &Arc<Inbox<crate::driver::storage_thread::FromStorage>>, unparker: &Unparker) -> CorePort {
    CorePort { answers: answers.clone(), unparker: unparker.clone() }
}

/// A ring in each direction between every two cores: for each core its neighbours and the ways to them.
fn mesh(unparkers: &[Unparker]) -> Vec<Vec<(Neighbour, Producer<CoreMessage>)>> {
    let cores = unparkers.len();
    let mut mesh: Vec<Vec<_>> = (0..cores).map(|_| Vec::new()).collect();
    for a in 0..cores {
        for b in a + 1..cores {
            let (to_b, from_a) = ring::ring(RING_LEN);
            let (to_a, from_b) = ring::ring(RING_LEN);
            let neighbour = |index: usize, incoming| Neighbour {
                index: index as u16,
                incoming,
                unparker: unparkers[index].clone(),
            };
            mesh[a].push((neighbour(b, from_b), to_b));
            mesh[b].push((neighbour(a, from_a), to_a));
        }
    }
    mesh
}

/// How long a core spins before it sleeps: not at all where more threads would spin than there are processors.
fn spin_ns(wait: Wait, cores: usize, processors: usize) -> u64 {
    match wait {
        Wait::Auto if cores < processors => SPIN_NS,
        _ => 0,
    }
}

/// Registers a new node with its machine, and puts links and cluster thread together as far as they go without threads.
fn join_cluster(
    config: ClusterConfig,
    cores: u16,
) -> Result<(ClusterSeed, links::PreparedLinks), StartError> {
    let ClusterConfig { transport, mut machine, seeds, discovery, cluster, secret, damping, looks_on } =
        config;
    let me = NodeId { id: links::unpredictable(), incarnation: 1 };
    if let Some(machine) = &mut machine {
        machine.register(me)?;
    }
    let address = transport.local_addr().clone();
    let seed =
        ClusterSeed::new(machine, (seeds, discovery), (cluster, damping, looks_on), address, me, cores);
    Ok((seed, links::PreparedLinks::open(transport, me, cores, cluster, secret)))
}

fn random_node_id() -> NodeId {
    NodeId { id: fastrand::u64(..), incarnation: 1 }
}

fn check_entities(entities: &[BoundEntity]) -> Result<(), StartError> {
    for (at, one) in entities.iter().enumerate() {
        for other in &entities[at + 1..] {
            if one.vtable.name == other.vtable.name {
                return Err(StartError::SameName(one.vtable.name.to_owned()));
            }
            if one.vtable.id == other.vtable.id {
                return Err(StartError::SameId(one.vtable.name.to_owned(), other.vtable.name.to_owned()));
            }
        }
        for pair in one.methods.windows(2) {
            if pair[0].vtable.id == pair[1].vtable.id {
                let name = |entry: &crate::entity::MethodEntry| entry.vtable.name.to_owned();
                return Err(StartError::SameMethod(
                    one.vtable.name.to_owned(),
                    name(&pair[0]),
                    name(&pair[1]),
                ));
            }
        }
    }
    Ok(())
}

/// The most cores that a node has: as many as a member of a view can say it has.
pub const CORES_MAX: u16 = u8::MAX as u16;
/// Messages under way between two cores. Short rings stay in the nearest cache; what does not fit waits in order.
const RING_LEN: usize = 64;
const SPIN_NS: u64 = 20_000;
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How long a node that stops leaves its objects in memory for the calls under way.
const REST_PATIENCE: Duration = Duration::from_secs(2);
const BOTH_CLUSTER_AND_OWN: &str =
    "a node of a cluster has the cluster's links and store: leave out `links(..)` and `store(..)`";
/// How long keeper and heirs are waited for at least when a node leaves.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_are_calls_that_ran_on_the_core_that_made_them() {
        assert_eq!(Stats::default().local_share(), None);
        // Of 100 calls 20 came from other nodes and 30 from other cores; 50 were made to other nodes.
        let stats = Stats {
            calls: 100,
            calls_from_nodes: 20,
            cross_core_calls: 30,
            remote_calls: 50,
            ..Stats::default()
        };
        assert_eq!(stats.local_share(), Some(50.0 / 130.0));
        let counted_late = Stats { calls: 1, cross_core_calls: 2, ..Stats::default() };
        assert_eq!(counted_late.local_share(), Some(0.0), "counts are read one after the other");
    }
}
