//! Worlds whose nodes come and go: the first one keeps the data, the others join, leave, crash and stand still, and partitions go
//! after them. Who owns what is decided by the runtime's own members, planner and leases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epicserver_runtime::cluster::keeper::KeeperService;
use epicserver_runtime::membership::{DampingLimits, Member};
use epicserver_runtime::routes::Routes;
use epicserver_storage::{
    Coordinator, Kept, Member as MemberRecord, MemoryCoordinator, NodeId, StoreId, View,
};
use epicserver_transport::Addr;

use super::coordinator::{CoordinatorFaults, FaultyCoordinator};
use super::links::{Links, LinksOrder, Peers};
use super::network::{Network, Shape, Trouble, TroubleKind};
use super::node::SimNode;
use super::profile::Profile;
use super::{Change, Course, World};
use crate::checkers::CleanMoves;
use crate::planted::Planted;
use crate::trace::Happened;
use crate::witness;

/// What such a world remembers beyond its nodes.
#[derive(Debug)]
pub(super) struct Moving {
    coordinator: MemoryCoordinator,
    coordinator_faults: CoordinatorFaults,
    reign: u64,
    /// The last life of each node.
    incarnations: BTreeMap<u16, u32>,
    /// Nodes that stand still, and until when.
    paused: BTreeMap<u16, u64>,
    network: Network,
    /// Nodes that come and go: when they do next, and how often still.
    flapping: BTreeMap<u16, (u64, u64)>,
    /// When the keeper is back.
    keeper_at: Option<u64>,
    /// When the keeper goes on that stands still.
    keeper_wakes_at: Option<u64>,
    /// Lives that have ended, and of which the keeper may learn that for certain.
    ended: Vec<NodeId>,
}

impl Moving {
    pub(super) fn new() -> Self {
        Self {
            coordinator: MemoryCoordinator::new(StoreId(1)),
            coordinator_faults: CoordinatorFaults::default(),
            reign: 0,
            incarnations: BTreeMap::new(),
            paused: BTreeMap::new(),
            network: Network::default(),
            flapping: BTreeMap::new(),
            keeper_at: None,
            keeper_wakes_at: None,
            ended: Vec::new(),
        }
    }

    /// Whether a node stands still now.
    pub(super) fn is_paused(&self, index: u16, now: u64) -> bool {
        self.paused.get(&index).is_some_and(|until| *until > now)
    }

    /// When a node goes on or is back, or the network is another one.
    pub(super) fn next_time(&self, now: u64) -> Option<u64> {
        let paused = self.paused.values().copied().filter(|until| *until > now);
        let flapping = self.flapping.values().map(|(at, _)| *at);
        paused.chain(self.network.next_time()).chain(self.keeper_at).chain(flapping).min()
    }

    /// Nothing goes wrong from now on.
    pub(super) fn heal(&self) {
        self.coordinator_faults.heal();
    }

    fn truth(&mut self) -> Arc<View> {
        self.coordinator.read().expect("it is in memory")
    }
}

impl World {
    /// Puts what the coordinator did wrong among the faults.
    pub(super) fn count_coordinator_faults(&mut self) {
        if let Course::Moving(moving) = &self.course {
            for (kind, count) in moving.coordinator_faults.counts() {
                *self.scene.faults.entry(kind).or_default() += count;
            }
        }
    }

    fn moving(&mut self) -> &mut Moving {
        match &mut self.course {
            Course::Moving(moving) => moving,
            Course::Fixed(_) => unreachable!("its nodes are fixed ones"),
        }
    }

    /// Starts the keeper and the first of the others, and lets them become a cluster.
    pub(super) fn found_moving(&mut self) {
        let clean = self.scene.profile.is_clean().then(CleanMoves::default);
        witness::with(|witness| (witness.clean, witness.once.one_ways_stray) = (clean, true));
        (0..self.scene.profile.nodes).for_each(|index| self.start_moving(index));
        self.settle();
    }

    /// All nodes that were there start again from store and coordinator.
    pub(super) fn found_moving_again(&mut self, nodes: Vec<u16>) {
        nodes.into_iter().for_each(|index| self.start_moving(index));
        self.settle();
    }

    /// Goes on, without calls, until nothing moves any more.
    fn settle(&mut self) {
        let until = self.scene.now + SETTLE_NS_MAX;
        while self.scene.goes_on() && !self.is_settled() && self.scene.now < until {
            self.go_on(false);
        }
        let is_settled = self.is_settled();
        self.scene.bounds.settled(is_settled);
        self.clients_find_homes();
    }

    /// Whether all nodes are members and have the same view, with nothing on the move in it or under way to a core.
    pub(super) fn is_settled(&mut self) -> bool {
        self.nodes.values().all(SimNode::has_heard) && self.is_agreed()
    }

    /// As `is_settled`, but something may be under way: nodes that agree go on to renew their leases.
    pub(super) fn is_agreed(&mut self) -> bool {
        let now = self.scene.now;
        let moving = self.moving();
        if moving.next_time(now).is_some() {
            return false;
        }
        let truth = moving.truth();
        let is_still =
            truth.partitions.iter().all(|state| state.owner.is_some() && state.moving_to.is_none());
        is_still
            && truth.members.len() == self.nodes.len()
            && self.nodes.iter().all(|(index, node)| node.agrees(self.clocks.local(*index, now), &truth))
    }

    pub(super) fn change(&mut self, change: Change) {
        match change {
            Change::Join => self.let_join(),
            Change::Leave => self.let_leave(),
            Change::Crash => {
                if let Some(index) = self.draw_other() {
                    self.scene.fault("node crashed");
                    self.crash_moving(index);
                }
            }
            Change::Silence => self.silence(),
            Change::Slow => self.slow_down(),
            Change::Flap => self.flap(),
            Change::Leap => self.leap(),
            Change::KeeperCrash => self.crash_keeper(),
            Change::KeeperPause => self.pause_keeper(),
            Change::Pause => {
                if let Some(index) = self.draw_other() {
                    self.scene.fault("node paused");
                    self.pause(index);
                }
            }
        }
    }

    /// What has its time in the course of things happens.
    pub(super) fn keep_course(&mut self) {
        let Course::Moving(moving) = &mut self.course else { return };
        let now = self.scene.now;
        let is_keeper_back = moving.keeper_at.take_if(|at| *at <= now).is_some();
        if is_keeper_back {
            self.start_moving(KEEPER);
            self.prove_deaths();
            self.clients_find_homes();
        }
        self.keep_flapping();
        let moving = self.moving();
        let is_keeper_awake = moving.keeper_wakes_at.take_if(|at| *at <= now).is_some();
        if is_keeper_awake {
            self.prove_deaths();
        }
        let moving = self.moving();
        if moving.network.is_to_change(now) {
            moving.network.change(now);
            self.tell_troubles();
        } else if is_keeper_back || is_keeper_awake {
            self.tell_troubles();
        }
    }

    /// A node stands still from now on, for a while. Its clock does not.
    fn pause(&mut self, index: u16) -> u64 {
        let until = self.scene.now + self.scene.tape.u64(1..=PAUSE_NS_MAX);
        self.scene.happened(Happened::Paused { node: index, until });
        self.moving().paused.insert(index, until);
        until
    }

    /// The node that keeps the data stands still, and with it coordinator and store.
    fn pause_keeper(&mut self) {
        if self.nodes.contains_key(&KEEPER) {
            self.scene.fault("keeper paused");
            let until = self.pause(KEEPER);
            self.moving().keeper_wakes_at = Some(until);
            self.tell_troubles();
        }
    }

    /// The clock of a node jumps ahead. Not that of the keeper: leases allow for no such thing.
    fn leap(&mut self) {
        let Some(index) = self.draw_other() else { return };
        let now = self.scene.time;
        let by_ns = self.scene.tape.one_of(&LEAPS_NS);
        self.clocks.leap(index, now, self.scene.tape.u64(1..=by_ns));
        self.scene.fault("clock jumped ahead");
        let local = self.clocks.local(index, now);
        self.scene.happened(Happened::Leapt { node: index, local });
    }

    /// A node ends and is back again and again, or is there for a moment and again.
    fn flap(&mut self) {
        let index = self.scene.tape.u16(1..self.scene.profile.nodes_max);
        let times = self.scene.tape.u64(2..=FLAPS_MAX);
        self.scene.fault("node flapped");
        self.scene.happened(Happened::Flapping { node: index, times });
        let now = self.scene.now;
        self.moving().flapping.insert(index, (now, times));
    }

    fn keep_flapping(&mut self) {
        let now = self.scene.now;
        let due = |(_, (at, _)): &(&u16, &mut (u64, u64))| *at <= now;
        let Some((&index, _)) = self.moving().flapping.iter_mut().find(due) else { return };
        if self.nodes.contains_key(&index) {
            self.scene.fault("flapping node crashed");
            self.crash_moving(index);
        } else {
            self.scene.fault("flapping node joined");
            self.start_moving(index);
            self.clients_find_homes();
        }
        let next = now + self.scene.tape.u64(1..=FLAP_NS_MAX);
        let flapping = &mut self.moving().flapping;
        match flapping.remove(&index) {
            Some((_, left)) if left > 1 => drop(flapping.insert(index, (next, left - 1))),
            _ => {}
        }
    }

    fn tell_troubles(&mut self) {
        let nodes: Vec<u16> = self.nodes.keys().copied().collect();
        nodes.into_iter().for_each(|index| self.tell_trouble(index));
    }

    /// The links of a node behave as the network has it now.
    fn tell_trouble(&mut self, index: u16) {
        let (now, keeps_store) = (self.scene.now, self.scene.profile.keeps_store);
        let is_keeper_there = self.nodes.contains_key(&KEEPER) && !self.moving().is_paused(KEEPER, now);
        let network = &self.moving().network;
        let (unheard, delay_ns) = (network.unheard(index, now), network.delay_ns(index, now));
        let is_parted = unheard.contains(&KEEPER) || network.unheard(KEEPER, now).contains(&index);
        let is_cut_off = keeps_store && index != KEEPER && (is_parted || !is_keeper_there);
        let unheard: BTreeSet<Addr> = unheard.into_iter().map(address_of).collect();
        self.scene.happened(Happened::Network { node: index, unheard: unheard.len(), delay_ns });
        if let Some(node) = self.nodes.get_mut(&index) {
            node.links.set_trouble(unheard, delay_ns);
            node.storage.set_cut_off(is_cut_off, &mut self.scene);
        }
    }

    /// Some nodes do not hear others for a while, once, or again and again.
    fn silence(&mut self) {
        let (now, nodes) = (self.scene.now, self.scene.profile.nodes_max);
        let tape = self.scene.tape.clone();
        let shape = tape.one_of(&Shape::ALL);
        let times = if tape.one_in(4) { tape.u64(2..=6) } else { 1 };
        let len_max = tape.one_of(&SILENCES_NS) / times;
        let silences = shape.draw(nodes, KEEPER, &tape);
        let mut since = now;
        for _ in 0..times {
            let until = since + tape.u64(1..=len_max);
            for (from, to) in &silences {
                let kind = TroubleKind::Silence(from.clone(), to.clone());
                let Course::Moving(moving) = &mut self.course else { return };
                moving.network.add(Trouble { since, until, kind });
            }
            since = until + tape.u64(1..=len_max);
        }
        self.scene.fault(if times > 1 { "network flapped" } else { shape.name() });
    }

    /// What comes to a node takes long for a while.
    fn slow_down(&mut self) {
        let now = self.scene.now;
        let tape = &self.scene.tape;
        let len_max = tape.one_of(&SILENCES_NS);
        let until = now + tape.u64(1..=len_max);
        let delay_ns = tape.one_of(&DELAYS_NS);
        let node = tape.u16(..self.scene.profile.nodes_max);
        self.moving().network.add(Trouble { since: now, until, kind: TroubleKind::Slow(node, delay_ns) });
        self.scene.fault("network slow");
    }

    /// The node that keeps the data ends; its next life begins now, or after a while in which there is no keeper.
    fn crash_keeper(&mut self) {
        if !self.nodes.contains_key(&KEEPER) {
            return;
        }
        self.scene.fault("keeper crashed");
        let pause = self.scene.tape.one_of(&[0, 1_000_000_000, KEEPERLESS_NS_MAX]);
        let back_at = self.scene.now + self.scene.tape.u64(0..=pause);
        self.moving().keeper_at = Some(back_at);
        self.crash_moving(KEEPER);
        self.tell_troubles();
    }

    fn let_join(&mut self) {
        let free: Vec<u16> =
            (1..self.scene.profile.nodes_max).filter(|index| !self.nodes.contains_key(index)).collect();
        if free.is_empty() {
            return;
        }
        let index = self.scene.tape.one_of(&free);
        self.scene.fault("node joined");
        self.start_moving(index);
    }

    fn let_leave(&mut self) {
        let Some(index) = self.draw_other() else { return };
        self.scene.fault("node left");
        self.scene.happened(Happened::Leaving { node: index });
        self.step_node(index, |node, scene| {
            if let Some(cluster) = &mut node.cluster {
                scene.churn.leaves(cluster.me());
                cluster.leave(scene.now);
            }
        });
    }

    /// A node that is there and does not keep the data.
    fn draw_other(&mut self) -> Option<u16> {
        let others: Vec<u16> = self.nodes.keys().copied().filter(|index| *index != KEEPER).collect();
        (!others.is_empty()).then(|| self.scene.tape.one_of(&others))
    }

    /// A node ends in the middle of whatever it does.
    pub(super) fn crash_moving(&mut self, index: u16) {
        self.scene.happened(Happened::Crashed { node: index });
        self.scene.set_place((index, u16::MAX));
        let me = self.nodes.get(&index).and_then(|node| node.cluster.as_ref()).map(|cluster| cluster.me());
        self.moving().ended.extend(me);
        self.moving().paused.remove(&index);
        if index == KEEPER {
            self.moving().keeper_wakes_at = None;
        }
        self.end_node(index);
        self.clients_find_homes();
        self.prove_deaths();
        // Without its data there is no cluster.
        if index == KEEPER {
            let now = self.scene.now;
            self.moving().keeper_at.get_or_insert(now);
        }
    }

    /// The next life of a node, whenever it starts, has a higher number than any it gave itself when it was evicted.
    pub(super) fn note_life(&mut self, index: u16) {
        let me = self.nodes.get(&index).and_then(|node| node.cluster.as_ref()).map(|cluster| cluster.me());
        if let (Course::Moving(moving), Some(me)) = (&mut self.course, me) {
            let last = moving.incarnations.entry(index).or_default();
            *last = me.incarnation.max(*last);
        }
    }

    /// The keeper learns of lives that have ended, if it ever does.
    fn prove_deaths(&mut self) {
        let now = self.clocks.local(KEEPER, self.scene.now);
        let Course::Moving(moving) = &mut self.course else { return };
        // One that stands still learns nothing.
        if self.scene.profile.proves_deaths
            && !moving.is_paused(KEEPER, self.scene.now)
            && let Some(cluster) = self.nodes.get_mut(&KEEPER).and_then(|node| node.cluster.as_mut())
        {
            moving.ended.drain(..).for_each(|node| cluster.prove_dead(now, node));
        }
    }

    /// Nodes that have left are gone, and their clients go to others.
    pub(super) fn bury(&mut self) {
        let has_left = |node: &SimNode| node.cluster.as_ref().is_some_and(|cluster| cluster.has_left());
        let left: Vec<u16> =
            self.nodes.iter().filter(|(_, node)| has_left(node)).map(|(index, _)| *index).collect();
        for index in left {
            self.scene.happened(Happened::Left { node: index });
            self.scene.set_place((index, u16::MAX));
            self.end_node(index);
            self.clients_find_homes();
        }
    }

    /// Clients whose node is gone call through another one.
    fn clients_find_homes(&mut self) {
        let homes: Vec<u16> = self.nodes.keys().copied().collect();
        for client in &mut self.clients {
            if !homes.contains(&client.entry.0) {
                client.entry.0 = match homes.len() {
                    0 => NOWHERE,
                    _ => self.scene.tape.one_of(&homes),
                };
                client.reborn();
                client.hear(&mut self.scene);
            }
        }
    }

    /// Starts the next life of a node, which wants to be a member.
    pub(super) fn start_moving(&mut self, index: u16) {
        let incarnation = self.moving().incarnations.entry(index).or_default();
        *incarnation += 1;
        let me = NodeId { id: id_of(index), incarnation: *incarnation };
        let Profile { cores, drift_ppm_max, .. } = self.scene.profile;
        if self.clocks.draw(index, drift_ppm_max, &self.scene.tape) {
            self.scene.fault("clock fast or slow");
        }
        if self.scene.profile.sets_clocks && !self.scene.healed {
            // As of a process that starts: what its clock shows has nothing to do with what it showed before.
            self.clocks.set(index, self.scene.time, self.scene.tape.one_of(&[0, 0, LIFE_NS]));
            self.scene.fault("clock began anew");
        }
        let config = self.draw_core_config();
        let address = address_of(index);
        self.scene.now = self.clocks.local(index, self.scene.time);
        let mut links = Links::new(index, me, &Peers::Open(address.clone()), &self.network, &mut self.scene);
        if index != KEEPER {
            links.order(LinksOrder::Seek(address_of(KEEPER)));
        }
        let nothing = Arc::new(Routes::new(me, cores, Arc::new(View::empty(StoreId(0)))));
        let store = self.store.clone();
        let mut node = SimNode::start(index, me, &config, &nothing, store, links, &mut self.scene);
        let entities = self.scene.cast.records();
        let address = address.as_str().to_owned();
        let record = MemberRecord { node: me, address, cores: cores as u8, entities };
        let keeper = (index == KEEPER).then(|| self.keep());
        node.join(Member::new(record), keeper, &mut self.scene);
        self.scene.now = self.scene.time;
        self.nodes.insert(index, node);
        let moving = self.moving();
        let is_keeper_away = moving.keeper_at.is_some() || moving.keeper_wakes_at.is_some();
        if moving.network.is_in_trouble() || is_keeper_away {
            self.tell_trouble(index);
        }
        let epoch = u64::from(me.incarnation);
        self.scene.happened(Happened::Started { node: index, epoch });
    }

    fn keep(&mut self) -> KeeperService {
        let (store, now) = (self.store.clone(), self.scene.now);
        self.scene.leases.begin_reign();
        self.scene.churn.begin_reign();
        let per_mille = self.scene.profile.coordinator_per_mille;
        let seed = if per_mille > 0 { self.scene.tape.u64(..) } else { 0 };
        let moving = self.moving();
        moving.reign += 1;
        let faults = moving.coordinator_faults.clone();
        let coordinator = FaultyCoordinator::new(moving.coordinator.clone(), seed, per_mille, faults);
        let coordinator = Box::new(coordinator);
        let kept = Kept { reign: moving.reign, coordinator, store: Box::new(store) };
        let limits = match self.scene.planted {
            Some(Planted::ChaseFlapping) => DampingLimits { short_life_ns: 0, ..DAMPING },
            _ => DAMPING,
        };
        // What it finds may be what one before it has changed, and not known that it did.
        let found = self.moving().truth();
        self.scene.set_truth(found);
        KeeperService::new(now, kept, limits).expect("its coordinator is in memory")
    }
}

fn address_of(index: u16) -> Addr {
    Addr::new(&format!("node-{index}"))
}

fn id_of(index: u16) -> u64 {
    u64::from(index) + 1
}

/// Which node of the world a member is.
pub(crate) fn index_of(node: NodeId) -> u16 {
    (node.id - 1) as u16
}

/// Where clients are when there is no node.
const NOWHERE: u16 = u16::MAX;
/// The node that keeps the data.
pub(super) const KEEPER: u16 = 0;
/// How long a cluster may take to have everything where it belongs: leases may have to run out.
const SETTLE_NS_MAX: u64 = 60_000_000_000;
/// What a life is short to, and how long moves wait: less than by itself, as worlds live for seconds.
pub(super) const DAMPING: DampingLimits =
    DampingLimits { short_life_ns: 6_000_000_000, borne: 2, wait_ns_max: 6_000_000_000 };
/// How often a node comes or goes in a row at most, and how soon after the last time.
const FLAPS_MAX: u64 = 10;
const FLAP_NS_MAX: u64 = 2_000_000_000;
/// How far clocks jump at most: less than links bear, more than that, more than a lease.
const LEAPS_NS: [u64; 3] = [500_000_000, 4_000_000_000, 20_000_000_000];
/// What the clock of a new life may show.
const LIFE_NS: u64 = 500_000_000_000;
/// How long a node stands still at most: some of them miss their lease.
const PAUSE_NS_MAX: u64 = 15_000_000_000;
/// How long nodes do not hear each other at most: less than links bear, more than that, more than a lease.
const SILENCES_NS: [u64; 4] = [500_000_000, 4_000_000_000, 9_000_000_000, 20_000_000_000];
/// How long what comes to a node in trouble takes at most.
const DELAYS_NS: [u64; 3] = [20_000_000, 300_000_000, 3_000_000_000];
/// How long there is no keeper at most: longer than a lease.
const KEEPERLESS_NS_MAX: u64 = 9_000_000_000;
