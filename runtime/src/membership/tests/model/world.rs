//! The world of the model: events in the order of a seed, and the laws.

use std::collections::BTreeMap;
use std::sync::Arc;

use epicserver_storage::{
    Fence, Member as MemberRecord, MemoryCoordinator, MemoryStore, NodeId, Partition, Store, StoreError,
    StoreId,
};

use super::keeper::{Keeper, Word};
use super::process::{Process, is_served};
use crate::membership::tests::record;
use crate::membership::{FencesOutcome, Handover, KeeperAnswer, KeeperRequest, MemberAction, Phase};

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) rng: fastrand::Rng,
    pub(super) now: u64,
    pub(super) processes: Vec<Process>,
    pub(super) keeper: Option<Keeper>,
    pub(super) reign: u64,
    pub(super) store: MemoryStore,
    pub(super) coordinator: MemoryCoordinator,
    pub(super) is_calm: bool,
    pub(super) tally: Tally,
    events: BTreeMap<(u64, u64), (usize, Event)>,
    events_made: u64,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) views: u64,
    pub(super) hand_overs: u64,
    pub(super) reigns: u64,
    pub(super) evictions: u64,
    pub(super) deaths: u64,
    pub(super) leaves: u64,
    pub(super) stores: u64,
    pub(super) stops: u64,
}

/// Something that reaches a process.
pub(super) enum Event {
    /// At the keeper, if it is still the one of this reign.
    Request {
        reign: u64,
        from: NodeId,
        number: u32,
        request: KeeperRequest,
    },
    Answer {
        to: NodeId,
        number: u32,
        answer: KeeperAnswer,
    },
    Announced {
        reign: u64,
        node: NodeId,
    },
    PeerDown(NodeId),
    /// At the storage thread.
    OpenFences {
        number: u64,
        fences: Vec<Fence>,
    },
    FencesDone {
        number: u64,
        store: StoreId,
        fences: Vec<Fence>,
        outcome: FencesOutcome,
    },
    Dropped {
        number: u64,
        me: NodeId,
    },
    /// The cores begin to hand over, have done so, and the next owner acknowledged.
    Drain(Vec<Handover>),
    ShipmentAt {
        from: usize,
        handovers: Vec<Handover>,
    },
    Shipped(Vec<Handover>),
    /// A member's own time, and the look around from time to time that everybody takes.
    Timeout,
    Tick,
    Exit,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.views += other.views;
        self.hand_overs += other.hand_overs;
        self.reigns += other.reigns;
        self.evictions += other.evictions;
        self.deaths += other.deaths;
        self.leaves += other.leaves;
        self.stores += other.stores;
        self.stops += other.stops;
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let store = StoreId(u128::from(seed) << 8);
        let mut world = Self {
            seed,
            rng: fastrand::Rng::with_seed(seed),
            now: 1000 * SECOND,
            processes: Vec::new(),
            keeper: None,
            reign: 0,
            store: MemoryStore::new(store),
            coordinator: MemoryCoordinator::new(store),
            is_calm: false,
            tally: Tally::default(),
            events: BTreeMap::new(),
            events_made: 0,
        };
        for _ in 0..3 {
            world.start_process();
        }
        world.take_keeping(0);
        world
    }

    pub(super) fn start_process(&mut self) {
        let id = self.processes.len() as u64 + 1;
        let cores = self.rng.u8(1..5);
        let member: MemberRecord = record(NodeId { id, incarnation: 1 }, cores, &["game.Barrel"]);
        let drift = self.rng.i64(-9..10);
        let is_local = self.rng.u32(0..3) == 0;
        self.processes.push(Process::new(member, is_local, drift));
        let process = self.processes.len() - 1;
        self.put(process, 0, Event::Tick);
        self.announce_to(process);
    }

    /// Tells one process who keeps, if anybody does.
    pub(super) fn announce_to(&mut self, process: usize) {
        if let Some(keeper) = &self.keeper {
            let (reign, node) = (keeper.reign, self.processes[keeper.process].member.node());
            self.send(process, Event::Announced { reign, node });
        }
    }

    /// Puts an event that far away.
    pub(super) fn put(&mut self, process: usize, delay: u64, event: Event) {
        self.events_made += 1;
        self.events.insert((self.now + delay, self.events_made), (process, event));
    }

    /// Puts an event on its way: mostly short, sometimes long, in no order.
    pub(super) fn send(&mut self, process: usize, event: Event) {
        let delay = match self.rng.u32(0..20) {
            0 if !self.is_calm => self.rng.u64(0..SECOND),
            1..5 => self.rng.u64(0..50 * MS),
            _ => self.rng.u64(0..MS),
        };
        self.put(process, delay, event);
    }

    /// Everything that happens until then.
    pub(super) fn run_until(&mut self, end: u64) {
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), (process, event)) = entry.remove_entry();
            self.now = at;
            let state = &self.processes[process];
            if !state.is_alive {
                continue;
            }
            if state.stopped_until > self.now {
                let delay = state.stopped_until - self.now + self.rng.u64(0..MS);
                self.put(process, delay, event);
                continue;
            }
            self.deliver(process, event);
            self.act(process);
            self.wake_in_time(process);
        }
        self.now = end;
    }

    /// Sees to it that a member is not asked much later than it wants.
    fn wake_in_time(&mut self, process: usize) {
        let clock = self.processes[process].clock(self.now);
        if let Some(at) = self.processes[process].member.poll_timeout()
            && (clock..clock + 100 * MS).contains(&at)
        {
            self.put(process, at - clock, Event::Timeout);
        }
    }

    fn deliver(&mut self, process: usize, event: Event) {
        let clock = self.processes[process].clock(self.now);
        let member = &mut self.processes[process].member;
        match event {
            Event::Request { reign, from, number, request } => {
                self.request(process, reign, from, number, request);
            }
            Event::Answer { to, number, answer } if to == member.node() => {
                member.handle_answer(clock, number, answer);
            }
            Event::Answer { .. } => {}
            Event::Announced { reign, node } => member.handle_announced(clock, node, reign),
            Event::PeerDown(node) => member.handle_peer_down(node),
            Event::OpenFences { number, fences } => self.open_fences(process, number, fences),
            Event::FencesDone { number, store, fences, outcome } => {
                if outcome == FencesOutcome::Opened {
                    self.processes[process].note_opened(store, &fences);
                }
                self.processes[process].member.handle_fences(clock, number, outcome);
            }
            Event::Dropped { number, me } => {
                if self.processes[process].drop_all(number, me) {
                    self.processes[process].member.handle_dropped(clock, number);
                }
            }
            Event::Drain(handovers) => self.drain(process, handovers),
            Event::ShipmentAt { from, handovers } => self.send(from, Event::Shipped(handovers)),
            Event::Shipped(handovers) => {
                for handover in handovers {
                    if self.processes[process].is_drained(&handover) {
                        self.tally.hand_overs += 1;
                        self.processes[process].member.handle_shipped(clock, handover);
                    }
                }
            }
            Event::Timeout => member.handle_timeout(clock),
            Event::Tick => self.tick(process, clock),
            Event::Exit => self.kill(process),
        }
    }

    fn tick(&mut self, process: usize, clock: u64) {
        self.processes[process].member.handle_timeout(clock);
        self.processes[process].member.handle_rested(clock);
        if self.keeper.as_ref().is_some_and(|keeper| keeper.process == process) {
            self.keep(clock);
        }
        let delay = self.rng.u64(100 * MS..400 * MS);
        self.put(process, delay, Event::Tick);
    }

    fn open_fences(&mut self, process: usize, number: u64, fences: Vec<Fence>) {
        let is_down = self.keeper.is_none() || (!self.is_calm && self.rng.u32(0..10) == 0);
        let outcome = match self.store.open_fences(&fences) {
            _ if is_down => FencesOutcome::Failed,
            Ok(()) => FencesOutcome::Opened,
            Err(StoreError::Refused { .. }) => FencesOutcome::Refused,
            Err(_) => FencesOutcome::Failed,
        };
        let store = self.store.store_id();
        self.send(process, Event::FencesDone { number, store, fences, outcome });
    }

    fn drain(&mut self, process: usize, handovers: Vec<Handover>) {
        let fresh = self.processes[process].drain(handovers);
        let mut by_target: BTreeMap<NodeId, Vec<Handover>> = BTreeMap::new();
        for handover in fresh {
            by_target.entry(handover.to).or_default().push(handover);
        }
        for (to, handovers) in by_target {
            let target = to.id as usize - 1;
            self.send(target, Event::ShipmentAt { from: process, handovers });
        }
    }

    fn request(&mut self, process: usize, reign: u64, from: NodeId, number: u32, request: KeeperRequest) {
        let clock = self.processes[process].clock(self.now);
        let Some(keeper) = &mut self.keeper else { return };
        if keeper.process == process && keeper.reign == reign {
            let words = keeper.handle(clock, from, number, request);
            self.say(words);
        }
    }

    pub(super) fn say(&mut self, words: Vec<Word>) {
        for word in words {
            match word {
                Word::To(to, number, answer) => {
                    self.send(to.id as usize - 1, Event::Answer { to, number, answer });
                }
                Word::All(view) => {
                    self.tally.views += 1;
                    for process in 0..self.processes.len() {
                        let to = self.processes[process].member.node();
                        let answer = KeeperAnswer::View(Arc::clone(&view));
                        self.send(process, Event::Answer { to, number: 0, answer });
                    }
                }
            }
        }
    }

    /// Does what a member wants done.
    fn act(&mut self, process: usize) {
        let mut grows = false;
        while let Some(action) = self.processes[process].member.poll_action() {
            match action {
                MemberAction::Send { keeper, number, request } => {
                    let from = self.processes[process].member.node();
                    let reign = self.reign;
                    self.send(keeper.id as usize - 1, Event::Request { reign, from, number, request });
                }
                MemberAction::OpenFences { number, fences } => {
                    self.send(process, Event::OpenFences { number, fences });
                }
                MemberAction::Publish(routes) => {
                    let mut begun = self.processes[process].show(self.seed, routes);
                    while !begun.is_empty() {
                        let rest = begun.split_off(begun.len() / 3);
                        self.send(process, Event::Drain(rest));
                    }
                    grows = true;
                }
                MemberAction::Lease(until) => {
                    self.processes[process].set_lease(until);
                    grows = true;
                }
                MemberAction::Drop { number, me } => {
                    self.tally.evictions += u64::from(self.processes[process].registered != me);
                    self.send(process, Event::Dropped { number, me });
                }
                MemberAction::Refused(reason) => panic!("seed {}: {process} is refused: {reason}", self.seed),
                MemberAction::Left => {
                    let delay = self.rng.u64(0..SECOND);
                    self.put(process, delay, Event::Exit);
                }
            }
        }
        if grows {
            self.check_one_master(process);
        }
    }

    /// What a node serves grows only with what it was just told; so it is compared with all others then.
    fn check_one_master(&self, process: usize) {
        let mine = self.processes[process].served(self.now);
        for (other, state) in self.processes.iter().enumerate().filter(|(other, _)| *other != process) {
            let theirs = state.served(self.now);
            let is_double = mine.iter().zip(&theirs).any(|(mine, theirs)| mine & theirs != 0);
            assert!(!is_double, "seed {}: {process} and {other} serve the same partition", self.seed);
        }
    }

    /// Everything is well in the end.
    pub(super) fn check_healed(&self) {
        let seed = self.seed;
        let view = self.keeper.as_ref().expect("there is a keeper in the end").planner.view();
        let alive: Vec<NodeId> = self
            .processes
            .iter()
            .filter(|process| process.is_alive && process.member.phase() == Phase::Serving)
            .map(|process| process.member.node())
            .collect();
        let members: Vec<NodeId> = view.members.iter().map(|member| member.node).collect();
        assert_eq!(members, alive, "seed {seed}: the members are the processes that live");
        let served: Vec<_> = self.processes.iter().map(|process| process.served(self.now)).collect();
        for partition in Partition::all() {
            let state = view.partition(partition);
            let serving: Vec<NodeId> = (0..served.len())
                .filter(|&process| is_served(&served[process], partition))
                .map(|process| self.processes[process].member.node())
                .collect();
            assert_eq!(
                serving,
                Vec::from_iter(state.owner),
                "seed {seed}: partition {partition} in {view:?}"
            );
            assert!(state.owner.is_some() && state.moving_to.is_none(), "seed {seed}: {partition} {state:?}");
        }
    }
}
