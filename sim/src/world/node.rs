//! One node of the world: its cores, the rings between them, its storage thread and its link thread, each of which goes a
//! step when the world says so.
//!
//! A core goes through the phases of the driver's loop (take messages, work, do what was wanted), and other actors may
//! come between any two of them; a core with nothing to do hands over and sleeps, as its thread would.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use epicserver_runtime::Pool;
use epicserver_runtime::cluster::keeper::KeeperService;
use epicserver_runtime::context::Work;
use epicserver_runtime::core::{Action, CoreConfig, CoreMessage, Counters, Event};
use epicserver_runtime::membership::Member;
use epicserver_runtime::routes::Routes;
use epicserver_runtime::saving::SaveNews;
use epicserver_runtime::stepping::SteppedNode;
use epicserver_storage::{MemoryStore, NodeId, View};

use super::cluster::{Cluster, Doors, ToCluster};
use super::links::Links;
use super::scene::Scene;
use super::storage::{Storage, ToStorage};
use crate::planted::Planted;
use crate::trace::Happened;
use crate::witness;
use crate::workload::key_of;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct SimNode {
    index: u16,
    pub(crate) stepped: SteppedNode,
    pub(crate) storage: Storage,
    pub(crate) links: Links,
    /// There in a cluster whose members change.
    pub(crate) cluster: Option<Cluster>,
    cores: Vec<CoreSide>,
    /// Messages under way: by receiver, then by sender.
    rings: Vec<Vec<VecDeque<CoreMessage>>>,
    ring_len_max: usize,
    /// Work outside of the cores that is under way, and when it is done.
    elsewhere: Vec<(u64, Work)>,
}

/// What the thread of a core keeps.
#[derive(Debug)]
pub(crate) struct CoreSide {
    phase: Phase,
    messages: Vec<CoreMessage>,
    actions: Vec<Action>,
    pub(crate) answers: VecDeque<Event>,
    asleep: bool,
    seen: Option<Seen>,
    /// The batch that the core works in, as the storage thread knows.
    passed: u64,
    /// Who its node is, as the core knows.
    me: NodeId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Drain,
    Work,
    Perform,
}

/// What a core knows of the storage thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    open: u64,
    durable: u64,
    failures: usize,
}

impl SimNode {
    /// Starts a node on a store whose fences are open for it.
    pub(crate) fn start(
        index: u16,
        id: NodeId,
        config: &CoreConfig,
        routes: &Arc<Routes>,
        store: MemoryStore,
        links: Links,
        scene: &mut Scene,
    ) -> Self {
        let cores = scene.profile.cores;
        let config = CoreConfig {
            frames: Some(links.pool().clone()),
            lent_max: links.lent_max(cores),
            ..config.clone()
        };
        let core = |_| CoreSide {
            phase: Phase::Drain,
            messages: Vec::new(),
            actions: Vec::new(),
            answers: VecDeque::new(),
            asleep: true,
            seen: None,
            passed: 1,
            me: id,
        };
        Self {
            index,
            stepped: scene.cast.start(scene.now, &config, routes, cores),
            storage: Storage::new(index, id, store, scene),
            links,
            cluster: None,
            cores: (0..cores).map(core).collect(),
            rings: (0..cores).map(|_| (0..cores).map(|_| VecDeque::new()).collect()).collect(),
            // Each call of a core is in one ring at a time; cancels, probes and their answers come on top.
            ring_len_max: config.calls_max * usize::from(cores) * 4,
            elsewhere: Vec::new(),
        }
    }

    /// Whether this core can go on.
    pub(crate) fn can_advance(&self, core: u16, now: u64) -> bool {
        let side = &self.cores[usize::from(core)];
        !side.asleep || self.has_input(core, now)
    }

    fn has_input(&self, core: u16, now: u64) -> bool {
        let side = &self.cores[usize::from(core)];
        side.phase != Phase::Drain
            || self.rings[usize::from(core)].iter().any(|ring| !ring.is_empty())
            || side.seen != Some(self.news())
            || !side.answers.is_empty()
            || self.links.has_input(core)
            || self.stepped.is_desk_occupied(core)
            || self.stepped.core(core).is_ready()
            || self.stepped.core(core).next_timer().is_some_and(|at| at <= now)
    }

    fn news(&self) -> Seen {
        let storage = &self.storage;
        Seen { open: storage.open, durable: storage.durable, failures: storage.failures.len() }
    }

    /// The core goes on by one phase.
    pub(crate) fn advance(&mut self, core: u16, scene: &mut Scene) {
        match self.cores[usize::from(core)].phase {
            Phase::Drain if self.has_input(core, scene.now) => self.drain(core, scene),
            Phase::Drain => self.sleep(core, scene),
            Phase::Work => self.work(core, scene),
            Phase::Perform => {
                self.perform(core, scene);
                self.cores[usize::from(core)].phase = Phase::Drain;
            }
        }
    }

    fn drain(&mut self, core: u16, scene: &mut Scene) {
        let place = (self.index, core);
        let side = &mut self.cores[usize::from(core)];
        if std::mem::take(&mut side.asleep) {
            // It slept with everything handed over, so all batches below the open one are behind it.
            side.passed = side.passed.max(self.storage.open);
            scene.happened(Happened::Woke { place });
        }
        for ring in &mut self.rings[usize::from(core)] {
            let len = scene.tape.some_of(ring.len());
            side.messages.extend(ring.drain(..len));
        }
        scene.shuffle_if(Planted::Overtake, &mut side.messages);
        side.phase = Phase::Work;
        scene.happened(Happened::Drained { place, messages: side.messages.len() });
    }

    /// In the driver's order: after the rings, so that whatever number a message carries, the news shows it.
    fn work(&mut self, core: u16, scene: &mut Scene) {
        let place = (self.index, core);
        scene.set_place(place);
        self.observe(core, scene);
        let side = &mut self.cores[usize::from(core)];
        let mut events: Vec<Event> = side.messages.drain(..).map(Event::Message).collect();
        events.extend(self.links.take(core, scene));
        events.extend(side.answers.drain(..));
        side.phase = Phase::Perform;
        if self.stepped.is_desk_occupied(core) {
            events.push(Event::Desk);
        }
        for event in events {
            self.step(core, event, scene);
        }
        if self.stepped.core(core).next_timer().is_some_and(|at| at <= scene.now) {
            self.step(core, Event::Tick, scene);
        }
        let turns = scene.tape.one_of(&[1, 2, 8, 256]);
        if self.stepped.core(core).is_ready() {
            self.step(core, Event::Turns(turns), scene);
        }
        let counters = self.stepped.core(core).counters();
        let Seen { open, durable, failures } = self.cores[usize::from(core)].seen.unwrap_or(self.news());
        let (calls, polls) = (counters.calls, counters.turns);
        scene.happened(Happened::Worked { place, open, durable, failures, turns, calls, polls });
    }

    fn observe(&mut self, core: u16, scene: &mut Scene) {
        let seen = self.news();
        let before = self.cores[usize::from(core)].seen.replace(seen);
        if before == Some(seen) {
            return;
        }
        let Seen { open, mut durable, .. } = seen;
        if scene.planted == Some(Planted::AckBeforeCommit) {
            durable = open - 1;
        }
        let heard = before.map_or(0, |before| before.failures);
        let mut failed = self.storage.failures[heard..].to_vec();
        if scene.planted == Some(Planted::IgnoreFailure) && core == 1 {
            failed.clear();
        }
        self.step(core, Event::Save(SaveNews { open, durable, failed }), scene);
    }

    fn step(&mut self, core: u16, event: Event, scene: &mut Scene) {
        let side = &mut self.cores[usize::from(core)];
        if let Event::View(routes) = &event {
            side.me = routes.me();
        }
        self.stepped.step(core, scene.now, event, &mut side.actions);
        let (place, me) = ((self.index, core), side.me);
        for (object, serial, first) in witness::with(|witness| std::mem::take(&mut witness.log)) {
            if first {
                scene.started(key_of(object), serial, me);
            }
            scene.happened(Happened::Ran { place, object, serial, first });
        }
        for receipt in witness::with(|witness| std::mem::take(&mut witness.saved)) {
            scene.acknowledged.acknowledged(&receipt, &scene.ledger);
        }
    }

    /// Does what the core wants.
    fn perform(&mut self, core: u16, scene: &mut Scene) {
        let actions = std::mem::take(&mut self.cores[usize::from(core)].actions);
        scene.happened(Happened::Performed { place: (self.index, core), actions: actions.len() });
        for action in actions {
            self.act(core, action, scene);
        }
        if self.stepped.core(core).wants_commit() {
            self.storage.wanted = true;
        }
    }

    fn act(&mut self, core: u16, action: Action, scene: &mut Scene) {
        match action {
            Action::Message(to, message) => {
                if scene.strikes(Planted::DropMessage, 20) {
                    return;
                }
                let ring = &mut self.rings[usize::from(to)][usize::from(core)];
                ring.push_back(*message);
                scene.bounds.queue("a ring between cores", ring.len(), self.ring_len_max);
            }
            Action::HandOver(images) => self.storage.requests.push_back(ToStorage::Images(core, images)),
            Action::Passed(number) => self.cores[usize::from(core)].passed = number,
            Action::Load(ticket) => self.storage.requests.push_back(ToStorage::Load(ticket)),
            Action::Frame(frame) => {
                if scene.strikes(Planted::RepeatFrame, 10) {
                    self.links.send(core, frame.clone());
                }
                if scene.strikes(Planted::LeakFrame, 50) {
                    std::mem::forget(frame.clone());
                }
                self.links.send(core, frame);
                scene.bounds.queue("the frames of a core", self.links.outgoing_len(core), self.ring_len_max);
            }
            Action::Blocking(work) => {
                let until = scene.now + scene.tape.u64(1..=ELSEWHERE_NS_MAX);
                self.elsewhere.push((until, work));
            }
            // Dropped, it is answered as if the node had no edge.
            Action::Edge(_) => scene.refused = Some("context::edge"),
            Action::Drained(drained) => {
                let cluster = self.cluster.as_mut().expect("a view that moves something comes of a cluster");
                cluster.inbox.push_back(ToCluster::Drained(drained));
            }
        }
    }

    fn sleep(&mut self, core: u16, scene: &mut Scene) {
        scene.set_place((self.index, core));
        self.step(core, Event::Rest, scene);
        self.perform(core, scene);
        self.cores[usize::from(core)].asleep = true;
        scene.happened(Happened::Slept { place: (self.index, core) });
    }

    /// Whether the storage thread can go on.
    pub(crate) fn can_store(&self, now: u64, scene: &Scene) -> bool {
        self.storage.can_advance(now, |closed| self.all_passed(closed, scene))
    }

    /// The storage thread goes on by one step. An error ends the node: its store cannot be trusted any more.
    pub(crate) fn store(&mut self, scene: &mut Scene) -> Result<(), ()> {
        self.storage.advance(&mut self.cores, scene)
    }

    /// Whether no core can change anything any more in batches up to this one.
    fn all_passed(&self, number: u64, scene: &Scene) -> bool {
        let believed = if scene.planted == Some(Planted::ForgetCore) { 1 } else { self.cores.len() };
        self.cores[..believed].iter().all(|side| side.asleep || side.passed > number)
    }

    /// Whether work outside of the cores is to be done.
    pub(crate) fn can_work_elsewhere(&self, now: u64) -> bool {
        self.elsewhere.iter().any(|(until, _)| *until <= now)
    }

    /// One piece of work outside of the cores is done.
    pub(crate) fn work_elsewhere(&mut self, scene: &mut Scene) {
        let due = self.elsewhere.iter().position(|(until, _)| *until <= scene.now);
        if let Some((_, work)) = due.map(|place| self.elsewhere.remove(place)) {
            scene.happened(Happened::WorkedElsewhere { node: self.index });
            // As in production, whoever waits for it hears that it ended.
            let _ = catch_unwind(AssertUnwindSafe(|| work.run()));
        }
    }

    /// Who it is, as its cores know.
    pub(crate) fn me(&self) -> NodeId {
        self.cores[0].me
    }

    /// The handles of its cores for who calls from outside.
    pub(crate) fn pools(&self) -> impl Iterator<Item = Pool> {
        let me = self.cores[0].me;
        (0..self.cores.len() as u16).map(move |core| self.stepped.pool(me, core))
    }

    /// When something happens here by itself.
    pub(crate) fn next_time(&self) -> Option<u64> {
        let timers = (0..self.cores.len() as u16).filter_map(|core| self.stepped.core(core).next_timer());
        let cluster = self.cluster.as_ref().and_then(Cluster::next_time);
        let timers = timers.chain(self.elsewhere.iter().map(|(until, _)| *until));
        timers.chain(self.storage.next_time()).chain(self.links.next_time()).chain(cluster).min()
    }

    /// Whether no call is under way here, and nothing waits for a batch.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet_but_for_cluster() && self.links.told.is_empty() && self.storage.told.is_empty()
    }

    fn is_quiet_but_for_cluster(&self) -> bool {
        let cores = 0..self.cores.len() as u16;
        cores.clone().all(|core| self.stepped.core(core).is_quiet() && !self.stepped.is_desk_occupied(core))
            && self.rings.iter().flatten().all(VecDeque::is_empty)
            && self.storage.is_quiet()
            && self.links.is_quiet()
            && self.elsewhere.is_empty()
    }

    /// What its cores did.
    pub(crate) fn counters(&self) -> impl Iterator<Item = Counters> {
        (0..self.cores.len() as u16).map(|core| self.stepped.core(core).counters())
    }

    /// Looks at a node that rests.
    pub(crate) fn check_rest(&self, scene: &mut Scene) {
        for core in 0..self.cores.len() as u16 {
            scene.bounds.slots(self.index, core, self.stepped.live_calls(core));
        }
        scene.bounds.returned("the buffers of batches", self.storage.kept());
    }
}

impl SimNode {
    /// The view has changed: every core is told in its next pass.
    pub(crate) fn show(&mut self, routes: &Arc<Routes>) {
        for side in &mut self.cores {
            side.answer(Event::View(routes.clone()));
        }
    }
}

impl SimNode {
    /// Whether its clients may call.
    pub(crate) fn takes_calls(&self) -> bool {
        self.cluster.as_ref().is_none_or(Cluster::is_serving)
    }

    /// Becomes a member of a cluster.
    pub(crate) fn join(&mut self, member: Member, keeper: Option<KeeperService>, scene: &mut Scene) {
        let mut doors = Doors { cores: &mut self.cores, storage: &mut self.storage, links: &mut self.links };
        self.cluster = Some(Cluster::new(self.index, member, keeper, &mut doors, scene));
    }

    /// Whether the cluster thread can go on.
    pub(crate) fn can_govern(&self, now: u64) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        if cluster.is_dropping() {
            return self.has_dropped();
        }
        !cluster.inbox.is_empty()
            || !self.links.told.is_empty()
            || !self.storage.told.is_empty()
            || cluster.next_time().is_some_and(|at| at <= now)
    }

    /// Cores and storage thread have done what the cluster thread told them.
    fn has_dropped(&self) -> bool {
        let is_done = |side: &CoreSide| side.answers.is_empty() && side.phase == Phase::Drain;
        self.cores.iter().all(is_done) && !self.storage.is_to_restart()
    }

    /// The cluster thread makes a pass.
    pub(crate) fn govern(&mut self, scene: &mut Scene) {
        let is_quiet = self.is_quiet_but_for_cluster();
        let Some(cluster) = &mut self.cluster else { return };
        cluster.inbox.extend(self.links.told.drain(..));
        cluster.inbox.extend(self.storage.told.drain(..));
        let mut doors = Doors { cores: &mut self.cores, storage: &mut self.storage, links: &mut self.links };
        cluster.advance(is_quiet, &mut doors, scene);
    }

    /// Whether it is a member that serves, and has the view that counts with nothing on the move.
    pub(crate) fn agrees(&self, now: u64, truth: &View) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.agrees(now, truth))
    }

    /// Whether its cores and its cluster thread have heard all that they were told.
    pub(crate) fn has_heard(&self) -> bool {
        let cores = self.cores.iter().all(|side| side.answers.is_empty());
        cores && self.cluster.as_ref().is_none_or(|cluster| cluster.inbox.is_empty())
    }
}

impl CoreSide {
    /// The storage thread has an answer for the core.
    pub(crate) fn answer(&mut self, event: Event) {
        self.answers.push_back(event);
    }
}

/// How long work outside of the cores takes at most.
const ELSEWHERE_NS_MAX: u64 = 20_000_000;
