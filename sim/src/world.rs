//! The world: nodes, clients and a store in one thread, in an order that is drawn from a seed.
//!
//! ```text
//!   clients --calls--> cores <--rings--> cores <--> link thread <--network--> link threads of other nodes
//!                        |                |              |
//!                     storage thread -----+---> store    |
//!                        |                               |
//!                     cluster thread --------------------+       where nodes come and go
//!
//!   Each arrow is a queue. Who goes on next, and how much of its queue it takes, is drawn; time moves when the world says.
//! ```
//!
//! Nothing here reads a clock, starts a thread or iterates over anything that is not ordered, so a seed is a whole run:
//! [`run`]. First things go wrong, then they are healed and every call must end, then the nodes start again from the
//! store and everything that was promised must be there.
//!
//! Kinds of worlds: in the one the nodes are fixed (`fixed.rs`), in the others they join, leave and are taken over
//! (`moving.rs`), in some of them over a network that parts them for a while (`network.rs`).

mod client;
mod clocks;
mod cluster;
mod coordinator;
mod fixed;
mod links;
mod moving;
mod network;
mod node;
mod profile;
mod scene;
mod storage;
mod trial;
mod wire;

use std::collections::BTreeMap;

use epicserver_storage::{MemoryStore, Store, StoreId, View};
use epicserver_transport::LoopbackNetwork;

use self::client::Client;
use self::clocks::Clocks;
use self::moving::Moving;
use self::node::SimNode;
use self::profile::Profile;
use self::scene::Scene;
use self::trial::Trial;
pub(crate) use self::trial::{Played, Setup, play};
use crate::cast::Cast;
use crate::checkers::{Acknowledged, Bounds, Checks, Churn, CommittedOnly, Leases, Owners, Violation};
use crate::ledger::{self, Ledger};
use crate::planted::Planted;
use crate::shrink::{self, Failing, PROFILE_LEN, Shrunk};
use crate::tape::{Edits, Tape};
use crate::trace::{Happened, Trace};
use crate::witness;

/// Which world to run.
#[derive(Clone, Debug, Default)]
pub struct WorldConfig {
    /// Where everything comes from.
    pub seed: u64,
    /// How the seed's tape is simplified.
    pub edits: Edits,
    /// What kind of world it is.
    pub kind: WorldKind,
    /// A bug to have.
    pub planted: Option<Planted>,
    /// Whether to print every event.
    pub verbose: bool,
}

/// How the nodes of a world come to own what they own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorldKind {
    /// Each has its share for ever.
    #[default]
    Fixed,
    /// They join and leave, and partitions go after them.
    Moving,
    /// And the network does not always carry, and the keeper ends and is back.
    Parted,
}

impl WorldKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Fixed, Self::Moving, Self::Parted];

    /// The name that the command takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Moving => "moving",
            Self::Parted => "parted",
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What kind of world it was.
    pub kind: WorldKind,
    /// The first law that was broken, if one was.
    pub violation: Option<Violation>,
    /// Bytes of the tape that were read.
    pub tape_len: u64,
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
    /// What the cluster did by itself, by kind.
    pub deeds: BTreeMap<&'static str, u64>,
    /// Calls that clients made.
    pub calls: u64,
    /// Calls from one node to another.
    pub remote_calls: u64,
    /// Activations of objects.
    pub activations: u64,
    /// Nanoseconds that passed in the world.
    pub world_ns: u64,
}

/// Runs one world to its end.
pub fn run(config: &WorldConfig) -> Report {
    run_for(config, u64::MAX)
}

/// Looks for a smaller run that breaks the same law as this one, in so many runs at most. Nothing, if it breaks none.
pub fn shrink(config: &WorldConfig, report: &Report, runs_max: u32) -> Option<Shrunk> {
    let first = report.failing()?;
    let shrunk = shrink::shrink(first, runs_max, |edits, events_max| {
        let config = WorldConfig { edits: edits.clone(), verbose: false, ..config.clone() };
        run_for(&config, events_max).failing()
    });
    Some(shrunk)
}

/// As [`run`], but not beyond so many events.
fn run_for(config: &WorldConfig, events_max: u64) -> Report {
    witness::install();
    epicserver_runtime::planted::plant(config.planted.and_then(Planted::of_cores));
    let mut world = World::from_seed(config, events_max);
    world.live();
    world.report(config)
}

/// See the module's documentation.
struct World {
    // Before the nodes: calls under way are let go while their cores are there.
    /// There if somebody's own test runs in the world, instead of clients.
    trial: Option<Trial>,
    clients: Vec<Client>,
    nodes: BTreeMap<u16, SimNode>,
    scene: Scene,
    clocks: Clocks,
    course: Course,
    /// What is to happen after so many calls.
    agenda: Vec<(u64, Change)>,
    /// So many nodes are to crash when they have written something that is not synced.
    crashes_at_sync: u32,
    store: MemoryStore,
    network: LoopbackNetwork,
    calls: u64,
    /// Who went on last.
    last: Option<Actor>,
    /// Of nodes that have ended.
    work: Work,
}

/// Who owns what, and why.
#[derive(Debug)]
enum Course {
    /// By this view.
    Fixed(View),
    Moving(Moving),
}

/// What happens to some node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Join,
    Leave,
    Crash,
    Pause,
    Silence,
    Slow,
    Flap,
    Leap,
    KeeperCrash,
    KeeperPause,
}

/// Who goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Actor {
    Core(u16, u16),
    Storage(u16),
    Links(u16),
    Cluster(u16),
    /// Work outside of the cores.
    Elsewhere(u16),
    Client(usize),
    /// A task of the test.
    Task(u64),
}

impl World {
    fn from_seed(config: &WorldConfig, events_max: u64) -> Self {
        let tape = Tape::new(config.seed, config.edits.clone());
        let profile = Profile::of_kind(config.kind, &tape);
        Self::new(config, Cast::own(), profile, Trace::new(config.verbose, events_max), tape)
    }

    fn new(config: &WorldConfig, cast: Cast, profile: Profile, trace: Trace, tape: Tape) -> Self {
        tape.wind_to(PROFILE_LEN);
        let course = match config.kind {
            WorldKind::Fixed => Course::Fixed(View::empty(StoreId(1))),
            WorldKind::Moving | WorldKind::Parted => Course::Moving(Moving::new()),
        };
        let scene = Scene {
            cast,
            tape,
            now: 0,
            time: 0,
            keeper_now: 0,
            trace,
            ledger: Ledger::default(),
            acknowledged: Acknowledged::default(),
            committed_only: CommittedOnly::default(),
            bounds: Bounds::default(),
            owners: Owners::default(),
            leases: Leases::default(),
            churn: Churn::new(moving::DAMPING),
            faults: BTreeMap::new(),
            deeds: BTreeMap::new(),
            planted: config.planted,
            healed: false,
            refused: None,
            profile,
        };
        let mut world = Self {
            trial: None,
            clients: Vec::new(),
            nodes: BTreeMap::new(),
            scene,
            clocks: Clocks::default(),
            course,
            agenda: Vec::new(),
            crashes_at_sync: 0,
            store: MemoryStore::new(StoreId(1)),
            network: LoopbackNetwork::new(),
            calls: 0,
            last: None,
            work: Work::default(),
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        match self.course {
            Course::Fixed(_) => self.found_fixed(),
            Course::Moving(_) => self.found_moving(),
        }
        let Profile { nodes, cores, clients, .. } = self.scene.profile;
        for number in 0..clients {
            let entry = (self.scene.tape.u16(..nodes), self.scene.tape.u16(..cores));
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
        self.agenda = self.draw_agenda(calls_max);
        let mut steps = 0;
        while self.calls < calls_max && self.scene.goes_on() && steps < WRONG_STEPS_MAX {
            self.go_on(true);
            steps += 1;
            if let Some(place) = self.agenda.iter().position(|(at, _)| *at <= self.calls) {
                let (_, change) = self.agenda.swap_remove(place);
                self.change_course(change);
            }
        }
    }

    fn draw_agenda(&mut self, calls_max: u64) -> Vec<(u64, Change)> {
        let Profile { joins, leaves, crashes, pauses, silences, slows, flaps, leaps, .. } =
            self.scene.profile;
        let Profile { keeper_crashes, keeper_pauses, .. } = self.scene.profile;
        let counts = [
            (Change::Crash, crashes),
            (Change::Join, joins),
            (Change::Leave, leaves),
            (Change::Pause, pauses),
            (Change::Silence, silences),
            (Change::Slow, slows),
            (Change::Flap, flaps),
            (Change::Leap, leaps),
            (Change::KeeperCrash, keeper_crashes),
            (Change::KeeperPause, keeper_pauses),
        ];
        let all = counts.iter().flat_map(|(change, count)| (0..*count).map(|_| *change));
        all.map(|change| (self.scene.tape.u64(1..calls_max), change)).collect()
    }

    fn change_course(&mut self, change: Change) {
        if change == Change::Crash && self.scene.profile.loses_writes && self.scene.tape.bool() {
            self.crashes_at_sync += 1;
            return;
        }
        if matches!(self.course, Course::Moving(_)) {
            return self.change(change);
        }
        let index = self.scene.tape.u16(..self.scene.profile.nodes);
        self.scene.fault("node crashed");
        self.crash_fixed(index);
    }

    /// One actor goes on, or time passes.
    fn go_on(&mut self, calling: bool) {
        self.keep_course();
        let actors = self.actors(calling);
        if actors.is_empty() || self.scene.tape.one_in(16) {
            self.pass_time(actors.is_empty());
        }
        let Some(actor) = self.draw_actor(&actors) else { return };
        match actor {
            Actor::Core(index, core) => {
                self.step_node(index, |node, scene| node.advance(core, scene));
            }
            Actor::Storage(index) => self.store(index),
            Actor::Links(index) => {
                self.step_node(index, |node, scene| node.links.advance(scene));
            }
            Actor::Cluster(index) => {
                self.step_node(index, SimNode::govern);
                self.bury();
            }
            Actor::Elsewhere(index) => {
                self.step_node(index, SimNode::work_elsewhere);
            }
            Actor::Client(client) => self.client(client),
            Actor::Task(number) => self.go_on_task(number),
        }
        self.clients.iter_mut().for_each(|client| client.hear(&mut self.scene));
    }

    /// Who goes on of these. Zero bytes let everybody go on in turn, so that a simple world comes to its end too.
    fn draw_actor(&mut self, actors: &[Actor]) -> Option<Actor> {
        let last = self.last;
        let next = actors.iter().copied().filter(|actor| Some(*actor) > last).min();
        let next = next.or_else(|| actors.iter().copied().min())?;
        let place = actors.iter().position(|actor| *actor == next)?;
        let actor = actors[(place + self.scene.tape.usize(..actors.len())) % actors.len()];
        self.last = Some(actor);
        Some(actor)
    }

    /// Something happens on a node, by its own clock.
    fn step_node<R>(&mut self, index: u16, step: impl FnOnce(&mut SimNode, &mut Scene) -> R) -> Option<R> {
        let node = self.nodes.get_mut(&index)?;
        self.scene.now = self.clocks.local(index, self.scene.time);
        self.scene.keeper_now = self.clocks.local(moving::KEEPER, self.scene.time);
        let result = step(node, &mut self.scene);
        self.scene.now = self.scene.time;
        Some(result)
    }

    /// The storage thread of a node goes on.
    fn store(&mut self, index: u16) {
        if self.step_node(index, SimNode::store).is_some_and(|stored| stored.is_err()) {
            self.scene.fault("store broken");
            self.crash(index);
        } else if self.is_to_crash(index) {
            self.crashes_at_sync -= 1;
            self.scene.fault("node crashed");
            self.crash(index);
        }
    }

    /// Whether a node has written what a crash is to meet. The one that keeps the data crashes by a plan of its own.
    fn is_to_crash(&self, index: u16) -> bool {
        let may_crash = matches!(self.course, Course::Fixed(_)) || index != moving::KEEPER;
        self.crashes_at_sync > 0
            && !self.scene.healed
            && may_crash
            && match self.nodes.get(&index).map_or(0, |node| node.storage.unsynced_len()) {
                0 => false,
                // Most batches have one, and more of those with several show more.
                1 => self.scene.tape.one_in(8),
                _ => true,
            }
    }

    fn crash(&mut self, index: u16) {
        match self.course {
            Course::Fixed(_) => self.crash_fixed(index),
            Course::Moving(_) => self.crash_moving(index),
        }
    }

    fn actors(&mut self, calling: bool) -> Vec<Actor> {
        let mut actors = Vec::new();
        let now = self.scene.now;
        for (&index, node) in &mut self.nodes {
            if matches!(&self.course, Course::Moving(moving) if moving.is_paused(index, now)) {
                continue;
            }
            let now = self.clocks.local(index, now);
            let cores = (0..self.scene.profile.cores).filter(|core| node.can_advance(*core, now));
            actors.extend(cores.map(|core| Actor::Core(index, core)));
            if node.can_store(now, &self.scene) {
                actors.push(Actor::Storage(index));
            }
            if node.links.can_advance(now) {
                actors.push(Actor::Links(index));
            }
            if node.can_govern(now) {
                actors.push(Actor::Cluster(index));
            }
            if node.can_work_elsewhere(now) {
                actors.push(Actor::Elsewhere(index));
            }
        }
        let can_call = |client: &Client| {
            client.can_call(&self.scene) && self.nodes.get(&client.entry.0).is_some_and(SimNode::takes_calls)
        };
        let clients = self.clients.iter().enumerate().filter(|(_, client)| calling && can_call(client));
        actors.extend(clients.map(|(index, _)| Actor::Client(index)));
        let tasks = self.trial.iter().filter(|_| calling).flat_map(Trial::ready);
        actors.extend(tasks.map(Actor::Task));
        actors
    }

    fn client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if self.scene.profile.cancels && self.scene.tape.one_in(12) {
            return client.cancel(&mut self.scene);
        }
        self.calls += 1;
        if let Some(node) = self.nodes.get(&client.entry.0) {
            client.call(node, &mut self.scene);
        }
    }

    /// Some microseconds pass; if there is nothing to do, as long as it takes until there is.
    fn pass_time(&mut self, idle: bool) {
        let now = self.scene.now;
        let paused =
            |index: u16| matches!(&self.course, Course::Moving(moving) if moving.is_paused(index, now));
        let awake = self.nodes.iter().filter(|(index, _)| !paused(**index));
        let clocks = &self.clocks;
        let next = awake.filter_map(|(index, node)| Some(clocks.time_of(*index, node.next_time()?)));
        let next = match &self.course {
            Course::Fixed(_) => next.min(),
            Course::Moving(moving) => next.chain(moving.next_time(now)).min(),
        };
        let next = next.into_iter().chain(self.trial.as_ref().and_then(|trial| trial.next_time(now))).min();
        let some = self.scene.now + self.scene.tape.u64(1..=self.scene.profile.step_ns_max);
        self.scene.now = match next {
            Some(next) if idle => next.max(self.scene.now + 1),
            None if idle && !self.scene.cast.is_own() => self.scene.now + NOTHING_NS,
            _ => some,
        };
        self.scene.time = self.scene.now;
    }

    /// Nothing goes wrong from now on.
    fn heal(&mut self) {
        self.scene.healed = true;
        for node in self.nodes.values_mut() {
            node.storage.heal();
            node.links.heal();
        }
        if let Course::Moving(moving) = &self.course {
            moving.heal();
        }
        self.scene.happened(Happened::FaultsEnd);
    }

    /// Goes on until every call is answered and nothing is under way, for as long as that may take.
    fn come_to_rest(&mut self) {
        let until = self.scene.now + REST_NS_MAX;
        let mut steps = 0;
        while self.scene.goes_on() && !self.is_at_rest() {
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
            self.nodes.values().for_each(|node| node.check_rest(&mut self.scene));
        }
    }

    fn is_at_rest(&mut self) -> bool {
        self.clients.iter().all(|client| client.open_len() == 0)
            && self.nodes.values().all(SimNode::is_quiet)
            && (matches!(self.course, Course::Fixed(_)) || self.is_settled())
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
        let pools: Vec<_> = self.nodes.values().map(|node| node.links.pool().clone()).collect();
        let indices: Vec<u16> = self.nodes.keys().copied().collect();
        self.nodes.values().for_each(|node| self.work.add(node));
        self.nodes.clear();
        for pool in pools {
            self.scene.bounds.returned("the buffers of frames", pool.outstanding());
        }
        match self.course {
            Course::Fixed(_) => self.found_fixed_again(),
            Course::Moving(_) => self.found_moving_again(indices),
        }
        self.clients.iter_mut().for_each(Client::reborn);
        for account in 1..=self.scene.profile.accounts {
            let client = (account % self.clients.len() as u64) as usize;
            if let Some(node) = self.nodes.get(&self.clients[client].entry.0) {
                self.clients[client].read(account, node, &mut self.scene);
            }
        }
        self.come_to_rest();
    }

    /// A node is gone, and what its clients still hear of it they hear now.
    fn end_node(&mut self, index: u16) {
        self.note_life(index);
        if let Some(mut old) = self.nodes.remove(&index) {
            old.storage.crash(&mut self.scene);
            self.work.add(&old);
        }
        self.clients.iter_mut().for_each(|client| client.hear(&mut self.scene));
    }

    fn report(mut self, config: &WorldConfig) -> Report {
        self.nodes.values().for_each(|node| self.work.add(node));
        self.count_coordinator_faults();
        let scene = &self.scene;
        Report {
            seed: config.seed,
            kind: config.kind,
            violation: scene.violation(),
            tape_len: scene.tape.read_len(),
            trace_hash: scene.trace.hash(),
            events: scene.trace.count(),
            last_events: scene.trace.last_lines(),
            checks: scene.checks(),
            faults: scene.faults.clone(),
            deeds: scene.deeds.clone(),
            calls: self.calls,
            remote_calls: self.work.remote_calls,
            activations: self.work.activations,
            world_ns: scene.now,
        }
    }
}

impl Report {
    fn failing(&self) -> Option<Failing> {
        let violation = self.violation.as_ref()?;
        let check = violation.what.split(':').next().unwrap_or_default();
        Some(Failing {
            kind: format!("law {}: {check}", violation.law),
            what: violation.to_string(),
            tape_len: self.tape_len,
            trace_hash: self.trace_hash,
            events: self.events,
            last_events: self.last_events.clone(),
            faults: self.faults.clone(),
        })
    }
}

/// What cores did.
#[derive(Debug, Default)]
struct Work {
    remote_calls: u64,
    activations: u64,
}

impl Work {
    fn add(&mut self, node: &SimNode) {
        for counters in node.counters() {
            self.remote_calls += counters.remote_calls;
            self.activations += counters.activations;
        }
    }
}

/// How much time passes at once in a test when nothing is to happen any more.
const NOTHING_NS: u64 = 1_000_000_000;
/// Actors that go on while things go wrong at most: in some worlds nobody can make the calls that are left.
const WRONG_STEPS_MAX: u64 = 1_000_000;
/// How long everything may take to end once faults have stopped: longer than any deadline and any grace.
const REST_NS_MAX: u64 = 60_000_000_000;
/// Actors that go on in that time at most; a world that needs more runs in circles.
const REST_STEPS_MAX: u64 = 2_000_000;
