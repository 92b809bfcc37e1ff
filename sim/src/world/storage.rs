//! The storage thread of a node, as steps: what `epicserver-runtime` does in `driver/storage_thread.rs`, with a store that is
//! slow and fails by plan.
//!
//! ```text
//!   idle -> a load is asked of the store -> its answer comes later -> idle
//!   idle -> close batch k: publish k + 1 -> every core has passed -> commit -> its answer comes later -> durable or failed
//!                                                                     |  ^
//!                                            in some worlds: written, and synced later
//! ```
//! What is written and not synced nobody else can see, as the store takes one request after the other. If the node ends then, the
//! disk has kept it, or lost it, or has a part of it, which the store throws away when it opens.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use epicserver_runtime::core::Event;
use epicserver_runtime::membership::FencesOutcome;
use epicserver_runtime::saving::{BatchImages, Committed, LoadAnswer, LoadTicket, commit_until_known};
use epicserver_storage::{
    Batch, BatchName, FaultControl, FaultPlan, FaultyStore, Fence, MemoryStore, NodeId, Store, StoreError,
};

use super::cluster::ToCluster;
use super::node::CoreSide;
use super::scene::Scene;
use crate::planted::Planted;
use crate::tape::Tape;
use crate::trace::Happened;

/// What cores ask of it.
#[derive(Debug)]
pub(crate) enum ToStorage {
    Images(u16, Box<BatchImages>),
    Load(LoadTicket),
    /// By the number of the cluster thread's task.
    OpenFences(u64, Vec<Fence>),
    /// Fail everything that is not saved, and save in the name of this life of the node from then on.
    Restart(NodeId),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Storage {
    node: u16,
    id: NodeId,
    store: FaultyStore<MemoryStore>,
    control: FaultControl,
    /// What the plan of faults says that the last call took, in nanoseconds.
    delay_ns: Arc<AtomicU64>,
    state: State,
    /// The store is out of reach: what it is asked and what it answers waits.
    is_cut_off: bool,
    pub(crate) requests: VecDeque<ToStorage>,
    /// Somebody waits for a batch.
    pub(crate) wanted: bool,
    loads: VecDeque<LoadTicket>,
    fences: VecDeque<(u64, Vec<Fence>)>,
    restart: Option<NodeId>,
    /// What the cluster thread has not taken yet.
    pub(crate) told: VecDeque<ToCluster>,
    images: Vec<(u16, Box<BatchImages>)>,
    /// The batch that is being filled.
    pub(crate) open: u64,
    /// Batches up to this one are durable, but for the failed ones.
    pub(crate) durable: u64,
    /// Batches up to this one are durable or failed.
    settled: u64,
    pub(crate) failures: Vec<RangeInclusive<u64>>,
    /// A batch that is told as durable, and that the disk does not have: a planted bug.
    unsynced: Option<Batch>,
}

#[derive(Debug)]
enum State {
    Idle,
    /// A batch is closed; the cores are waited for.
    Closing(u64),
    /// The store works until this time.
    Loading(u64, LoadTicket, LoadAnswer),
    Opening(u64, u64, FencesOutcome),
    /// A batch is written, and not synced before this time.
    Syncing(u64, u64, Batch, Vec<(u16, Box<BatchImages>)>),
    Committing(u64, u64, Committed, Vec<(u16, Box<BatchImages>)>),
    /// What should have been synced long ago is.
    SyncingLate(u64, Batch),
}

impl Storage {
    pub(crate) fn new(node: u16, id: NodeId, store: MemoryStore, scene: &mut Scene) -> Self {
        let delay_ns = Arc::new(AtomicU64::new(0));
        let noted = delay_ns.clone();
        let on_delay = move |delay: epicserver_storage::Delay| noted.store(delay.delay_ns, Ordering::Relaxed);
        let plan = match scene.tape.u64(..) {
            seed if scene.healed || seed == 0 => FaultPlan::none(),
            seed => FaultPlan::seeded(seed, scene.profile.store_faults),
        };
        let store = FaultyStore::new(store, plan, on_delay);
        Self {
            node,
            id,
            control: store.control(),
            store,
            delay_ns,
            state: State::Idle,
            is_cut_off: false,
            requests: VecDeque::new(),
            wanted: false,
            loads: VecDeque::new(),
            fences: VecDeque::new(),
            restart: None,
            told: VecDeque::new(),
            images: Vec::new(),
            open: 1,
            durable: 0,
            settled: 0,
            failures: Vec::new(),
            unsynced: None,
        }
    }

    /// Nothing goes wrong from now on.
    pub(crate) fn heal(&self) {
        self.control.set_plan(FaultPlan::none());
    }

    /// From now on the store is out of reach, or within it again.
    pub(crate) fn set_cut_off(&mut self, is_cut_off: bool, scene: &mut Scene) {
        if is_cut_off && !self.is_cut_off {
            scene.fault("store out of reach");
        }
        self.is_cut_off = is_cut_off;
    }

    pub(crate) fn can_advance(&self, now: u64, all_passed: impl Fn(u64) -> bool) -> bool {
        match &self.state {
            _ if self.is_cut_off => false,
            State::Idle => {
                self.wanted
                    || !self.requests.is_empty()
                    || !self.images.is_empty()
                    || !self.loads.is_empty()
                    || !self.fences.is_empty()
                    || self.restart.is_some()
            }
            State::Closing(closed) => all_passed(*closed),
            _ => self.next_time().is_some_and(|until| until <= now),
        }
    }

    pub(crate) fn next_time(&self) -> Option<u64> {
        match &self.state {
            _ if self.is_cut_off => None,
            State::Idle | State::Closing(_) => None,
            State::Loading(until, ..) | State::Opening(until, ..) | State::Syncing(until, ..) => Some(*until),
            State::Committing(until, ..) | State::SyncingLate(until, _) => Some(*until),
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        matches!(self.state, State::Idle) && self.requests.is_empty() && self.images.is_empty()
    }

    /// Whether it has not begun anew yet, as it is to.
    pub(crate) fn is_to_restart(&self) -> bool {
        self.restart.is_some()
            || matches!(self.state, State::Committing(..))
            || self.requests.iter().any(|request| matches!(request, ToStorage::Restart(_)))
    }

    /// Buffers that it keeps.
    pub(crate) fn kept(&self) -> usize {
        self.images.len()
    }

    /// Goes on by one step. An error ends the node.
    pub(crate) fn advance(&mut self, cores: &mut [CoreSide], scene: &mut Scene) -> Result<(), ()> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => self.look(scene),
            State::Closing(closed) => self.commit(closed, scene),
            State::Loading(_, ticket, answer) => {
                cores[usize::from(ticket.core)].answer(Event::Loaded(ticket, answer));
            }
            State::Opening(_, number, outcome) => self.told.push_back(ToCluster::Fences(number, outcome)),
            State::Syncing(_, closed, batch, images) => self.sync(closed, &batch, images, scene),
            State::SyncingLate(_, batch) => drop(self.store.inner_mut().commit(&batch)),
            State::Committing(_, closed, outcome, images) => {
                for (core, images) in images {
                    cores[usize::from(core)].answer(Event::Recycled(images));
                }
                if let Some(batch) = self.unsynced.take() {
                    self.state = State::SyncingLate(self.until(scene), batch);
                }
                return self.end_batch(closed, &outcome, scene);
            }
        }
        Ok(())
    }

    fn look(&mut self, scene: &mut Scene) {
        self.take_requests();
        // Before any load: what is loaded in a partition is loaded under its fence.
        if let Some((number, fences)) = self.fences.pop_front() {
            return self.open_fences(number, &fences, scene);
        }
        let ready = self.loads.iter().position(|ticket| ticket.after <= self.settled);
        if let Some(ticket) = ready.and_then(|place| self.loads.remove(place)) {
            return self.load(ticket, scene);
        }
        self.wanted = false;
        let closed = self.open;
        self.open += 1;
        self.state = State::Closing(closed);
        scene.happened(Happened::Closing { node: self.node, batch: closed });
    }

    fn take_requests(&mut self) {
        for request in self.requests.drain(..) {
            match request {
                ToStorage::Images(core, images) => self.images.push((core, images)),
                ToStorage::Load(ticket) => self.loads.push_back(ticket),
                ToStorage::OpenFences(number, fences) => self.fences.push_back((number, fences)),
                ToStorage::Restart(me) => self.restart = Some(me),
            }
        }
    }

    fn open_fences(&mut self, number: u64, fences: &[Fence], scene: &mut Scene) {
        let is_skipped = scene.strikes(Planted::SkipFence, 1);
        let opened = if is_skipped { Ok(()) } else { self.store.open_fences(fences) };
        let outcome = match opened {
            Ok(()) => FencesOutcome::Opened,
            Err(StoreError::Refused { .. }) => FencesOutcome::Refused,
            Err(_) => FencesOutcome::Failed,
        };
        if outcome == FencesOutcome::Failed {
            scene.fault("fences not opened");
        }
        scene.happened(Happened::Fenced { node: self.node, fences: fences.len(), outcome });
        self.state = State::Opening(self.until(scene), number, outcome);
    }

    fn load(&mut self, ticket: LoadTicket, scene: &mut Scene) {
        let before = self.control.faults();
        let mut answer = self.store.load(&[ticket.key.as_ref()]).map(|mut records| records.pop().flatten());
        if self.control.faults() > before && matches!(answer, Ok(Some(_))) {
            scene.fault("record damaged");
        }
        if scene.strikes(Planted::StaleLoad, 4) {
            answer = Ok(None);
        }
        if answer.is_err() {
            scene.fault("load failed");
        }
        let (node, account) = (self.node, ticket.key.to_string());
        scene.happened(Happened::Loading { node, account, found: answer.as_ref().ok().map(Option::is_some) });
        self.state = State::Loading(self.until(scene), ticket, answer);
    }

    /// When the store's last call ends.
    fn until(&mut self, scene: &mut Scene) -> u64 {
        let planned = self.delay_ns.swap(0, Ordering::Relaxed);
        if planned > 0 {
            scene.fault("store slow");
        }
        scene.now + planned + scene.tape.u64(1..=scene.profile.store_ns_max)
    }

    /// Every core has passed: what they handed over of the batch is all there will be.
    fn commit(&mut self, closed: u64, scene: &mut Scene) {
        self.take_requests();
        if let Some(me) = self.restart.take() {
            return self.start_anew(me, closed, scene);
        }
        // A core that slept when a batch failed has handed over what it had changed in it.
        self.images.retain(|(_, images)| !self.failures.iter().any(|failed| failed.contains(&images.number)));
        let (images, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.images).into_iter().partition(|(_, images)| images.number <= closed);
        self.images = later;
        let mut batch = Batch::new(BatchName { node: self.id, number: closed });
        for (core, images) in &images {
            if *core == 0 && scene.strikes(Planted::HalfBatch, 8) {
                continue;
            }
            if let Err(error) = images.append_to(&mut batch, 0) {
                scene.acknowledged.broken(format!("an image of core {core} does not fit a batch: {error}"));
            }
        }
        let is_written_first = scene.profile.loses_writes && !scene.healed && !images.is_empty();
        if is_written_first && scene.tape.bool() {
            scene.happened(Happened::Writing { node: self.node, batch: closed, saves: batch.len() });
            self.state = State::Syncing(self.until(scene), closed, batch, images);
        } else {
            self.sync(closed, &batch, images, scene);
        }
    }

    /// From now on the batch is there whatever happens, unless it fails.
    fn sync(&mut self, closed: u64, batch: &Batch, images: Vec<(u16, Box<BatchImages>)>, scene: &mut Scene) {
        let outcome = if images.is_empty() || self.believes_in(batch, scene) {
            Committed::Durable
        } else {
            self.commit_batch(batch, scene)
        };
        if outcome == Committed::Durable || self.is_written(batch) {
            scene.committed(batch);
        }
        let until = if images.is_empty() { scene.now } else { self.until(scene) };
        let told = match &outcome {
            Committed::Durable => "written",
            Committed::Failed(_) => "failed",
            Committed::Unknown(_) => "unknown",
        };
        let saves = batch.len();
        scene.happened(Happened::Committing { node: self.node, batch: closed, saves, outcome: told });
        self.state = State::Committing(until, closed, outcome, images);
    }

    /// Whether the batch is taken for synced that is not.
    fn believes_in(&mut self, batch: &Batch, scene: &mut Scene) -> bool {
        let is_believed = scene.strikes(Planted::AckBeforeSync, 1);
        if is_believed {
            self.unsynced = Some(batch.clone());
        }
        is_believed
    }

    /// How many saves are written and not synced.
    pub(crate) fn unsynced_len(&self) -> usize {
        if let State::Syncing(_, _, batch, _) = &self.state { batch.len() } else { 0 }
    }

    /// The node ends in the middle of whatever it does. What was written and not synced is there or it is not.
    pub(crate) fn crash(&mut self, scene: &mut Scene) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Syncing(_, _, batch, _) => self.leave_on_disk(&batch, scene),
            State::Committing(_, _, Committed::Durable, images) if !images.is_empty() => {
                scene.fault("write kept and not acknowledged");
            }
            _ => {}
        }
    }

    /// What the disk has of a batch that was not synced, as the store finds it when it opens.
    fn leave_on_disk(&mut self, batch: &Batch, scene: &mut Scene) {
        let found = match scene.tape.u8(..4) {
            0 => {
                scene.fault("unsynced write kept");
                Some(batch.clone())
            }
            1 | 2 => {
                scene.fault("torn write thrown away");
                scene.strikes(Planted::KeepTorn, 1).then(|| part_of(batch, &scene.tape))
            }
            _ => {
                scene.fault("unsynced write lost");
                None
            }
        };
        if let Some(found) = found
            && self.store.inner_mut().commit(&found).is_ok()
        {
            scene.committed(&found);
        }
    }

    /// What is not saved is dropped: others own it.
    fn start_anew(&mut self, me: NodeId, closed: u64, scene: &Scene) {
        self.images.clear();
        self.id = me;
        let reason = "this node begins anew".to_owned();
        let outcome = Committed::Failed(StoreError::Failed { reason });
        self.state = State::Committing(scene.now, closed, outcome, Vec::new());
    }

    /// What the store itself knows, whatever it said.
    fn is_written(&mut self, batch: &Batch) -> bool {
        self.store.inner_mut().last_committed(self.id).is_ok_and(|last| last == Some(batch.name()))
    }

    fn commit_batch(&mut self, batch: &Batch, scene: &mut Scene) -> Committed {
        let before = self.control.faults();
        let outcome = commit_until_known(&mut self.store, batch);
        match &outcome {
            Committed::Failed(StoreError::Failed { .. }) => scene.fault("commit failed"),
            Committed::Failed(StoreError::Refused { .. }) if scene.profile.takes_over() => {
                scene.fault("save refused");
                self.told.push_back(ToCluster::Evicted(self.id));
            }
            Committed::Failed(error) => {
                scene.acknowledged.broken(format!("batch {}: {error}", batch.name()));
            }
            Committed::Durable | Committed::Unknown(_) if self.control.faults() > before => {
                scene.fault("commit unknown");
            }
            _ => {}
        }
        outcome
    }

    fn end_batch(&mut self, closed: u64, outcome: &Committed, scene: &mut Scene) -> Result<(), ()> {
        match outcome {
            Committed::Failed(_) if scene.planted != Some(Planted::FailureAsSuccess) => {
                let failed = closed..=self.open;
                self.open += 1;
                self.take_requests();
                self.images.retain(|(_, images)| !failed.contains(&images.number));
                self.settled = *failed.end();
                scene.happened(Happened::Failed { node: self.node, from: closed, to: *failed.end() });
                self.failures.push(failed);
            }
            Committed::Durable | Committed::Failed(_) => {
                (self.durable, self.settled) = (closed, closed);
                scene.happened(Happened::Committed { node: self.node, batch: closed });
            }
            // What is in the store is not known, so nobody may be told anything: the node must stop.
            Committed::Unknown(_) => return Err(()),
        }
        Ok(())
    }
}

/// Some of the saves of a batch, under its name.
fn part_of(batch: &Batch, tape: &Tape) -> Batch {
    let mut part = Batch::new(batch.name());
    for save in batch.saves().filter(|_| tape.bool()) {
        part.push_envelope(save.key, save.envelope).expect("it comes of a batch");
    }
    part
}
