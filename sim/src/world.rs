//! The world: nodes, clients and a store in one thread, in an order that is drawn from a seed.
//!
//! ```text
//!   clients --calls--> cores <--rings--> cores <--> link thread <--network--> link thread of the other node
//!                        |                |
//!                     storage thread -----+---> store
//!
//!   Each arrow is a queue. Who goes on next, and how much of its queue it takes, is drawn; time moves when the world says.
//! ```
//!
//! Nothing here reads a clock, starts a thread or iterates over anything that is not ordered, so a seed is a whole run:
//! [`run`]. First things go wrong, then they are healed and every call must end, then the nodes start again from the
//! store and everything that was promised must be there.

mod client;
mod links;
mod node;
mod profile;
mod scene;
mod storage;

use std::collections::BTreeMap;
use std::sync::Arc;

use epicserver_runtime::core::CoreConfig;
use epicserver_runtime::fabric::FixedMembers;
use epicserver_runtime::routes::Routes;
use epicserver_storage::{Fence, Member, MemoryStore, NodeId, Partition, Store, StoreId, View};
use epicserver_transport::{Addr, LoopbackNetwork};

use self::client::Client;
use self::links::Links;
use self::node::SimNode;
use self::profile::Profile;
use self::scene::Scene;
use crate::checkers::{Acknowledged, Bounds, Checks, CommittedOnly, Violation};
use crate::ledger::{self, Ledger};
use crate::planted::Planted;
use crate::trace::{Happened, Trace};
use crate::witness;

/// Which world to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorldConfig {
    /// Where everything comes from.
    pub seed: u64,
    /// A bug to have.
    pub planted: Option<Planted>,
    /// Whether to print every event.
    pub verbose: bool,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The first law that was broken, if one was.
    pub violation: Option<Violation>,
    /// One number for the whole trace.
    pub trace_hash: u64,
    /// How many events the trace has.
    pub events: u64,
    /// The last events, a line each.
    pub last_events: Vec<String>,
    /// How often each check was made.
    pub checks: Checks,
    /// What went wrong on purpose, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Calls that clients made.
    pub calls: u64,
    /// Calls from one node to the other.
    pub remote_calls: u64,
    /// Nanoseconds that passed in the world.
    pub world_ns: u64,
}

/// Runs one world to its end.
pub fn run(config: WorldConfig) -> Report {
    witness::install();
    let mut world = World::from_seed(config);
    world.live();
    world.report(config.seed)
}

/// See the module's documentation.
struct World {
    // Before the nodes: calls under way are let go while their cores are there.
    clients: Vec<Client>,
    nodes: Vec<SimNode>,
    scene: Scene,
    view: View,
    store: MemoryStore,
    network: LoopbackNetwork,
    calls: u64,
    /// Of nodes that have ended.
    remote_calls: u64,
}

/// Who goes on.
#[derive(Clone, Copy, Debug)]
enum Actor {
    Core(usize, u16),
    Storage(usize),
    Links(usize),
    Client(usize),
}

impl World {
    fn from_seed(config: WorldConfig) -> Self {
        let mut rng = fastrand::Rng::with_seed(config.seed);
        let profile = Profile::draw(&mut rng);
        let scene = Scene {
            rng,
            now: 0,
            trace: Trace::new(config.verbose),
            ledger: Ledger::default(),
            acknowledged: Acknowledged::default(),
            committed_only: CommittedOnly::default(),
            bounds: Bounds::default(),
            faults: BTreeMap::new(),
            planted: config.planted,
            healed: false,
            profile,
        };
        let store = MemoryStore::new(StoreId(1));
        let (nodes, clients) = (Vec::new(), Vec::new());
        let (view, network) = (View::empty(StoreId(1)), LoopbackNetwork::new());
        let mut world = Self { clients, nodes, scene, view, store, network, calls: 0, remote_calls: 0 };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let Profile { nodes, cores, clients, .. } = self.scene.profile;
        (0..nodes).for_each(|index| self.join(index, 1));
        (0..nodes).for_each(|index| self.start(index));
        for number in 0..clients {
            let entry = (self.scene.rng.u16(..nodes), self.scene.rng.u16(..cores));
            self.clients.push(Client::new(u64::from(number) + 1, entry));
        }
    }

    /// Lets everything happen.
    fn live(&mut self) {
        self.go_wrong();
        self.heal();
        self.come_to_rest();
        if self.scene.violation().is_none() {
            self.check_store();
            self.start_again();
        }
    }

    fn go_wrong(&mut self) {
        let calls_max = u64::from(self.scene.profile.calls);
        let mut crashes: Vec<u64> =
            (0..self.scene.profile.crashes).map(|_| self.scene.rng.u64(1..calls_max)).collect();
        while self.calls < calls_max && self.scene.violation().is_none() {
            self.go_on(true);
            if let Some(place) = crashes.iter().position(|at| *at <= self.calls) {
                crashes.swap_remove(place);
                let index = self.scene.rng.u16(..self.scene.profile.nodes);
                self.scene.fault("node crashed");
                self.crash(index);
            }
        }
    }

    /// One actor goes on, or time passes.
    fn go_on(&mut self, calling: bool) {
        let actors = self.actors(calling);
        if actors.is_empty() || self.scene.rng.u8(..16) == 0 {
            self.pass_time(actors.is_empty());
        }
        let Some(nth) = (!actors.is_empty()).then(|| self.scene.rng.usize(..actors.len())) else { return };
        match actors[nth] {
            Actor::Core(node, core) => self.nodes[node].advance(core, &mut self.scene),
            Actor::Storage(node) => {
                if self.nodes[node].store(&mut self.scene).is_err() {
                    self.scene.fault("store broken");
                    self.crash(node as u16);
                }
            }
            Actor::Links(node) => self.nodes[node].links.advance(&mut self.scene),
            Actor::Client(client) => self.client(client),
        }
        self.clients.iter_mut().for_each(|client| client.hear(&mut self.scene));
    }

    fn actors(&mut self, calling: bool) -> Vec<Actor> {
        let mut actors = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let cores = (0..self.scene.profile.cores).filter(|core| node.can_advance(*core, self.scene.now));
            actors.extend(cores.map(|core| Actor::Core(index, core)));
            if node.can_store(&self.scene) {
                actors.push(Actor::Storage(index));
            }
            if node.links.can_advance(self.scene.now) {
                actors.push(Actor::Links(index));
            }
        }
        let clients =
            self.clients.iter().enumerate().filter(|(_, client)| calling && client.can_call(&self.scene));
        actors.extend(clients.map(|(index, _)| Actor::Client(index)));
        actors
    }

    fn client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if self.scene.profile.cancels && self.scene.rng.u8(..12) == 0 {
            return client.cancel(&mut self.scene);
        }
        self.calls += 1;
        let node = &self.nodes[usize::from(client.entry.0)];
        client.call(node, &mut self.scene);
    }

    /// Some microseconds pass; if there is nothing to do, as long as it takes until there is.
    fn pass_time(&mut self, idle: bool) {
        let next = self.nodes.iter().filter_map(SimNode::next_time).min();
        let some = self.scene.now + self.scene.rng.u64(1..=50_000);
        self.scene.now = match next {
            Some(next) if idle => next.max(self.scene.now + 1),
            _ => some,
        };
    }

    /// Nothing goes wrong from now on.
    fn heal(&mut self) {
        self.scene.healed = true;
        for node in &mut self.nodes {
            node.storage.heal();
            node.links.heal();
        }
        self.scene.happened(Happened::FaultsEnd);
    }

    /// Goes on until every call is answered and nothing is under way, for as long as that may take.
    fn come_to_rest(&mut self) {
        let until = self.scene.now + REST_NS_MAX;
        let mut steps = 0;
        while self.scene.violation().is_none() && !self.is_at_rest() {
            self.go_on(false);
            steps += 1;
            if self.scene.now > until || steps > REST_STEPS_MAX {
                break;
            }
        }
        if self.scene.violation().is_some() {
            return;
        }
        let open: Vec<u64> = self.clients.iter().flat_map(Client::open_calls).collect();
        self.scene.bounds.answered(&open);
        if open.is_empty() {
            self.nodes.iter().for_each(|node| node.check_rest(&mut self.scene));
        }
    }

    fn is_at_rest(&self) -> bool {
        self.clients.iter().all(|client| client.open_len() == 0) && self.nodes.iter().all(SimNode::is_quiet)
    }

    /// The store holds what it said it has committed.
    fn check_store(&mut self) {
        let accounts: Vec<(u64, ledger::Committed)> =
            self.scene.ledger.accounts().map(|(key, committed)| (key, committed.clone())).collect();
        for (account, expected) in accounts {
            let key = ledger::record_key(account);
            let record = self.store.load(&[key.as_ref()]).ok().and_then(|mut records| records.remove(0));
            let found = record.map(|record| ledger::read_record(&key, &record));
            let changes = found.and_then(Result::ok).map(|committed| committed.changes).unwrap_or_default();
            self.scene.acknowledged.stored(account, &expected, &changes);
        }
    }

    /// All nodes start again from the store, and every account is read.
    fn start_again(&mut self) {
        let pools: Vec<_> = self.nodes.iter().map(|node| node.links.pool().clone()).collect();
        self.remote_calls += self.nodes.iter().map(SimNode::remote_calls).sum::<u64>();
        self.nodes.clear();
        for pool in pools {
            self.scene.bounds.returned("the buffers of frames", pool.outstanding());
        }
        let nodes = 0..self.scene.profile.nodes;
        nodes.clone().for_each(|index| self.join(index, self.me(index).incarnation + 1));
        nodes.for_each(|index| self.start(index));
        self.clients.iter_mut().for_each(Client::reborn);
        for account in 1..=self.scene.profile.accounts {
            let client = (account % self.clients.len() as u64) as usize;
            let node = &self.nodes[usize::from(self.clients[client].entry.0)];
            self.clients[client].read(account, node, &mut self.scene);
        }
        self.come_to_rest();
    }

    /// A node ends in the middle of whatever it does, and another life of it begins.
    fn crash(&mut self, index: u16) {
        let incarnation = self.me(index).incarnation + 1;
        self.scene.happened(Happened::Crashed { node: index });
        self.scene.set_place((index, u16::MAX));
        self.join(index, incarnation);
        self.start(index);
        for other in (0..self.scene.profile.nodes).filter(|other| *other != index) {
            let routes = self.routes(other);
            self.nodes[usize::from(other)].show(&routes);
        }
        for client in self.clients.iter_mut().filter(|client| client.entry.0 == index) {
            client.reborn();
            client.hear(&mut self.scene);
        }
    }

    /// Puts a node's life into the view: it owns its share of the partitions at the next epoch.
    fn join(&mut self, index: u16, incarnation: u32) {
        let Profile { nodes, cores, .. } = self.scene.profile;
        let node = self.members(index).me(incarnation);
        let member = Member { node, address: String::new(), cores: cores as u8, entities: Vec::new() };
        self.view.put_member(member);
        self.view.version += 1;
        let mut fences = Vec::new();
        for partition in Partition::all().filter(|partition| partition.number() / 2 % nodes == index) {
            self.view.assign(partition, Some(node));
            fences.push(Fence { partition, epoch: self.view.partition(partition).epoch, holder: node });
        }
        self.store.open_fences(&fences).expect("epochs grow");
    }

    /// Everybody, as a node knows them from the start.
    fn members(&self, index: u16) -> FixedMembers {
        let name = |index: u16| Addr::new(&format!("node-{index}"));
        let all: Vec<Addr> = (0..self.scene.profile.nodes).map(name).collect();
        FixedMembers::new(&all, &name(index)).expect("it is in the list")
    }

    /// A node in its present life.
    fn me(&self, index: u16) -> NodeId {
        let id = self.members(index).me(0).id;
        let member = self.view.members.iter().find(|member| member.node.id == id);
        member.expect("it has joined").node
    }

    fn routes(&self, index: u16) -> Arc<Routes> {
        Arc::new(Routes::new(self.me(index), self.scene.profile.cores, Arc::new(self.view.clone())))
    }

    fn start(&mut self, index: u16) {
        let epoch = self.view.version;
        let me = self.me(index);
        let routes = self.routes(index);
        let core = self.scene.profile.core.clone();
        let chaos = core.chaos.map(|_| self.scene.rng.u64(..));
        let config = CoreConfig { seed: self.scene.rng.u64(..), chaos, ..core };
        let store = self.store.clone();
        let place = usize::from(index);
        // The old life ends before the new one begins.
        if place < self.nodes.len() {
            let old = self.nodes.remove(place);
            self.remote_calls += old.remote_calls();
        }
        self.clients.iter_mut().for_each(|client| client.hear(&mut self.scene));
        let members = self.members(index);
        let links = Links::new(index, me, &members, &self.network, &mut self.scene);
        let node = SimNode::start(index, me, &config, &routes, store, links, &mut self.scene);
        self.nodes.insert(place, node);
        self.scene.happened(Happened::Started { node: index, epoch });
    }

    fn report(self, seed: u64) -> Report {
        let scene = &self.scene;
        Report {
            seed,
            violation: scene.violation(),
            trace_hash: scene.trace.hash(),
            events: scene.trace.count(),
            last_events: scene.trace.last_lines(),
            checks: scene.checks(),
            faults: scene.faults.clone(),
            calls: self.calls,
            remote_calls: self.remote_calls + self.nodes.iter().map(SimNode::remote_calls).sum::<u64>(),
            world_ns: scene.now,
        }
    }
}

/// How long everything may take to end once faults have stopped: longer than any deadline and any grace.
const REST_NS_MAX: u64 = 60_000_000_000;
/// Actors that go on in that time at most; a world that needs more runs in circles.
const REST_STEPS_MAX: u64 = 2_000_000;
