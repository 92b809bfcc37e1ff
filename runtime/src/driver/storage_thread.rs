//! The storage thread: closes batch after batch, commits each to the store, and answers loads.
//!
//! One thread for each node, the only one that touches the store. Which batch is open is published through the batch
//! clock; see there for why no change can slip into a batch that is closed.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::Sender;
use epicserver_storage::{Batch, BatchName, Fence, NodeId, RecordKeyRef, Store, StoreError};

use super::clock::Clock;
use super::cluster::ToCluster;
use crate::core::Event;
use crate::saving::{BatchImages, Committed, LoadAnswer, LoadTicket, commit_until_known};
use epicserver_sync::batch_clock::StorageClock;
use epicserver_sync::inbox::Inbox;
use epicserver_sync::parker::{Parker, Unparker};

/// What cores and the cluster thread ask of the storage thread.
#[derive(Debug)]
pub(crate) enum ToStorage {
    Images(Box<BatchImages>),
    Load(LoadTicket),
    OpenFences(FencesTicket),
    /// Fail everything that is not saved, and save in the name of this life of the node from then on.
    Restart(NodeId, Sender<()>),
}

/// Fences to be opened, and who is to be told. An answer always comes: at the latest when the ticket is dropped.
pub(crate) struct FencesTicket {
    fences: Vec<Fence>,
    answer: Option<FencesAnswer>,
}

/// Called on the storage thread, so it must not wait.
type FencesAnswer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl FencesTicket {
    pub(crate) fn new(
        fences: Vec<Fence>,
        answer: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) -> Self {
        Self { fences, answer: Some(Box::new(answer)) }
    }

    fn tell(mut self, outcome: Result<(), StoreError>) {
        if let Some(answer) = self.answer.take() {
            answer(outcome);
        }
    }
}

impl Drop for FencesTicket {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            answer(Err(StoreError::Failed { reason: "the node stops".to_owned() }));
        }
    }
}

impl std::fmt::Debug for FencesTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FencesTicket").field("fences", &self.fences.len()).finish_non_exhaustive()
    }
}

/// What a core is told by the storage thread and the cluster thread.
#[derive(Debug)]
pub(crate) enum FromStorage {
    Loaded(LoadTicket, LoadAnswer),
    Recycled(Box<BatchImages>),
    /// Nothing will be durable any more.
    Lost,
    /// Something of the cluster: a view, a lease, a shipment.
    Event(Box<Event>),
    /// Say so when everything before this is done.
    Barrier(Sender<()>),
}

/// The part that cores and the node share with the storage thread.
#[derive(Debug)]
pub(crate) struct StorageDesk {
    requests: Inbox<ToStorage>,
    /// Somebody waits for a batch to be durable.
    wanted: AtomicBool,
    stop: AtomicBool,
    /// The node must stop: the store cannot be trusted any more, or refuses this node.
    pub(crate) broken: AtomicBool,
    /// Batches that were committed with something in them.
    pub(crate) batches: AtomicU64,
    /// Saves that the store refused, as others own their objects.
    pub(crate) refused_saves: AtomicU64,
    unparker: Unparker,
}

impl StorageDesk {
    pub(crate) fn new(unparker: Unparker) -> Self {
        Self {
            requests: Inbox::new(REQUESTS_MAX),
            wanted: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            batches: AtomicU64::new(0),
            refused_saves: AtomicU64::new(0),
            unparker,
        }
    }

    /// Leaves a request; the thread is woken by [`wake`](Self::wake). Gives it back while too many wait. When the thread has ended it is
    /// dropped, as nobody will ever take it.
    pub(crate) fn leave(&self, request: ToStorage) -> Result<(), ToStorage> {
        self.requests.push(request).or_else(|back| if self.requests.is_closed() { Ok(()) } else { Err(back) })
    }

    /// Takes everything that was left.
    pub(crate) fn take(&self) -> Vec<ToStorage> {
        let mut taken = Vec::new();
        self.requests.drain_into(&mut taken);
        taken
    }

    /// Asks for the open batch to be closed and committed.
    pub(crate) fn want_commit(&self) {
        if !self.wanted.swap(true, Ordering::AcqRel) {
            self.wake();
        }
    }

    pub(crate) fn wake(&self) {
        self.unparker.unpark_if_parked();
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.unparker.unpark();
    }
}

/// The desk, while the storage thread runs.
struct OpenDesk(Arc<StorageDesk>);

impl Drop for OpenDesk {
    /// A storage thread that panics is a defect of the runtime, and takes its node along: nothing would be durable any more.
    fn drop(&mut self) {
        self.0.requests.close();
        drop(self.0.take());
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
        }
    }
}

/// Where answers for one core go.
#[derive(Debug)]
pub(crate) struct CorePort {
    pub(crate) answers: Arc<Inbox<FromStorage>>,
    pub(crate) unparker: Unparker,
}

/// The thread's own state.
pub(crate) struct StorageThread {
    pub(crate) desk: Arc<StorageDesk>,
    pub(crate) clock: StorageClock,
    pub(crate) time: Clock,
    pub(crate) parker: Parker,
    pub(crate) store: Box<dyn Store>,
    pub(crate) node: NodeId,
    pub(crate) cores: Vec<CorePort>,
    pub(crate) waiting_loads: VecDeque<LoadTicket>,
    pub(crate) waiting_fences: VecDeque<FencesTicket>,
    pub(crate) images: Vec<(usize, Box<BatchImages>)>,
    pub(crate) batch: Batch,
    pub(crate) durable: u64,
    /// In a cluster: whom to tell that the store takes this node for none of its members.
    pub(crate) cluster: Option<Sender<ToCluster>>,
    /// The node is to be another life of itself.
    pub(crate) restart: Option<(NodeId, Sender<()>)>,
}

impl StorageThread {
    /// Runs until the node stops; commits what was handed over before it ends.
    pub(crate) fn run(mut self) {
        let _desk = OpenDesk(self.desk.clone());
        let mut requests = Vec::new();
        loop {
            let stopping = self.desk.stop.load(Ordering::Acquire);
            self.take_requests(&mut requests);
            if self.desk.broken.load(Ordering::Acquire) {
                return self.refuse_until_stop(requests);
            }
            self.open_fences();
            self.answer_loads();
            if self.desk.wanted.swap(false, Ordering::AcqRel)
                || !self.images.is_empty()
                || self.loads_need_commit()
                || self.restart.is_some()
            {
                self.close_batch(&mut requests);
            } else if stopping {
                return;
            } else {
                self.sleep();
            }
        }
    }

    /// Nothing that waits for a batch may hear of it, or of any later one. The cores are told, and whoever wants to load; the
    /// node is to stop.
    fn refuse_until_stop(mut self, mut requests: Vec<ToStorage>) {
        for core in &self.cores {
            if core.answers.push(FromStorage::Lost).is_err() {
                tracing::error!(
                    "a core has no room to be told that the store is lost; its calls end at their deadlines"
                );
            }
            core.unparker.unpark_if_parked();
        }
        while !self.desk.stop.load(Ordering::Acquire) {
            self.take_requests(&mut requests);
            self.images.clear();
            for ticket in self.waiting_fences.drain(..) {
                ticket.tell(Err(lost()));
            }
            for ticket in std::mem::take(&mut self.waiting_loads) {
                let Some(core) = self.cores.get(usize::from(ticket.core)) else { continue };
                let _ = core.answers.push(FromStorage::Loaded(ticket, Err(lost())));
                core.unparker.unpark_if_parked();
            }
            self.desk.wanted.store(false, Ordering::Release);
            self.sleep();
        }
    }

    fn sleep(&mut self) {
        self.parker.prepare();
        let idle = self.desk.requests.is_empty()
            && !self.desk.wanted.load(Ordering::Acquire)
            && !self.desk.stop.load(Ordering::Acquire);
        if idle {
            self.parker.park(Some(SLEEP_NS));
        } else {
            self.parker.cancel();
        }
    }

    fn take_requests(&mut self, requests: &mut Vec<ToStorage>) {
        self.desk.requests.drain_into(requests);
        for request in requests.drain(..) {
            match request {
                ToStorage::Images(images) => self.images.push((0, images)),
                ToStorage::Load(ticket) => self.waiting_loads.push_back(ticket),
                ToStorage::OpenFences(ticket) => self.waiting_fences.push_back(ticket),
                ToStorage::Restart(me, done) => self.restart = Some((me, done)),
            }
        }
    }

    /// Closes the open batch, waits until every core has passed it, and commits it.
    fn close_batch(&mut self, requests: &mut Vec<ToStorage>) {
        let closed = self.clock.open();
        self.clock.publish_next();
        // A core that runs passes at its next look; one that sleeps counts as passed; one in a long turn is waited for.
        while !self.clock.all_passed(closed) {
            // A core that finds no room to hand over does not pass.
            self.take_requests(requests);
            if self.desk.broken.load(Ordering::Acquire) {
                return;
            }
            self.parker.prepare();
            if self.clock.all_passed(closed) || !self.desk.requests.is_empty() {
                self.parker.cancel();
            } else {
                self.parker.park(Some(SLEEP_NS));
            }
        }
        self.take_requests(requests);
        let committed = match self.restart.take() {
            Some((me, done)) => self.start_anew(me, &done),
            None => self.commit(closed),
        };
        match committed {
            Committed::Durable => {
                self.clock.set_durable(closed);
                self.durable = closed;
            }
            Committed::Failed(error) => {
                let failed = self.clock.fail(closed);
                tracing::error!(%error, ?failed, "a save batch failed");
                if is_eviction(&error) {
                    self.handle_eviction();
                }
                self.forget_failed(&failed);
                self.durable = *failed.end();
            }
            Committed::Unknown(error) => {
                tracing::error!(%error, batch = closed, "the store cannot be trusted any more: the node must stop");
                self.desk.broken.store(true, Ordering::Release);
            }
        }
        for core in &self.cores {
            core.unparker.unpark_if_parked();
        }
    }

    /// Drops what is not saved: this node owns nothing of it any more.
    fn start_anew(&mut self, me: NodeId, done: &Sender<()>) -> Committed {
        self.images.clear();
        self.node = me;
        // Whoever gave up waiting does not need to know.
        let _ = done.try_send(());
        Committed::Failed(StoreError::Failed {
            reason: "this node begins anew, others own its objects".to_owned(),
        })
    }

    /// The store refuses this node: it is evicted. A node of a cluster begins anew, any other one stops.
    fn handle_eviction(&self) {
        self.desk.refused_saves.fetch_add(self.batch.len() as u64, Ordering::Relaxed);
        let told = self
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.try_send(ToCluster::Evicted(self.node)).is_ok());
        if !told {
            self.desk.broken.store(true, Ordering::Release);
        }
    }

    /// Commits the images of all batches up to `closed`.
    fn commit(&mut self, closed: u64) -> Committed {
        // A core that went to sleep before it heard of a failure has handed over what it had changed in the failed batch.
        self.images.retain(|(_, images)| !self.clock.is_failed(images.number));
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.images).into_iter().partition(|(_, images)| images.number <= closed);
        self.images = later;
        if now.is_empty() {
            return Committed::Durable;
        }
        self.batch.clear(BatchName { node: self.node, number: closed });
        let saved_at_s = self.time.epoch_s();
        let mut filled = Ok(());
        for (_, images) in &now {
            filled = filled.and_then(|()| images.append_to(&mut self.batch, saved_at_s));
        }
        let committed = match filled {
            Ok(()) => commit_until_known(&mut *self.store, &self.batch),
            Err(error) => Committed::Failed(StoreError::Failed { reason: error.to_string() }),
        };
        if committed == Committed::Durable {
            self.desk.batches.fetch_add(1, Ordering::Relaxed);
        }
        for (_, images) in now {
            // Whichever core it goes to has use for a buffer; a full inbox means that none is needed.
            let core = usize::try_from(images.number).unwrap_or(0) % self.cores.len();
            let _ = self.cores[core].answers.push(FromStorage::Recycled(images));
        }
        committed
    }

    fn forget_failed(&mut self, failed: &RangeInclusive<u64>) {
        self.images.retain(|(_, images)| !failed.contains(&images.number));
    }

    /// Before any load: what is loaded in a partition is loaded under its fence.
    fn open_fences(&mut self) {
        for ticket in self.waiting_fences.drain(..) {
            let outcome = self.store.open_fences(&ticket.fences);
            ticket.tell(outcome);
        }
    }

    fn loads_need_commit(&self) -> bool {
        self.waiting_loads.iter().any(|ticket| ticket.after > self.durable)
    }

    fn answer_loads(&mut self) {
        for _ in 0..self.waiting_loads.len() {
            let Some(ticket) = self.waiting_loads.pop_front() else { return };
            if ticket.after > self.durable {
                self.waiting_loads.push_back(ticket);
                continue;
            }
            let answer = self.load(&ticket);
            let Some(core) = self.cores.get(usize::from(ticket.core)) else { continue };
            if let Err(FromStorage::Loaded(ticket, _)) =
                core.answers.push(FromStorage::Loaded(ticket, answer))
            {
                // The core has more answers than it can take; it gets this one later.
                self.waiting_loads.push_back(ticket);
            }
            core.unparker.unpark_if_parked();
        }
    }

    fn load(&mut self, ticket: &LoadTicket) -> LoadAnswer {
        let key: RecordKeyRef<'_> = ticket.key.as_ref();
        self.store.load(&[key]).map(|mut records| records.pop().flatten())
    }
}

fn lost() -> StoreError {
    StoreError::Failed { reason: "the store failed for good".to_owned() }
}

/// The store says that this node is not the owner any more.
fn is_eviction(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused { .. })
}

/// Requests that may wait; beyond it cores keep theirs and try again.
const REQUESTS_MAX: usize = 1 << 16;
/// Answers that may wait for one core.
pub(crate) const ANSWERS_MAX: usize = 1 << 16;
/// A wait that nobody ends is looked at again after this long.
const SLEEP_NS: u64 = 100_000_000;

#[cfg(test)]
mod tests {
    use epicserver_storage::{Fence, KeyKind, MemoryStore, RecordKey, StoreId};

    use super::*;
    use crate::cluster::remote_store::ClusterStore;
    use crate::cluster::store_desk::LIMITS_USUAL;
    use crate::driver::cluster::{LineShared, StorageDoor, StorageLine};
    use crate::driver::control_port::control_port;
    use crate::key::KeyView;
    use crate::saving::ImageLabel;
    use crate::wire::control::Announcement;
    use crate::wire::control::store::StoreAnswer;
    use epicserver_sync::batch_clock::batch_clock;

    const NODE: NodeId = NodeId { id: 1, incarnation: 1 };

    fn image_in_batch(number: u64) -> Box<BatchImages> {
        let key = 1u64.to_le_bytes();
        let record = RecordKey::u64(1, 1);
        let (partition, key_hash) = (record.as_ref().partition().number(), record.as_ref().hash());
        let label = ImageLabel { entity: 1, partition, key_hash, epoch: 1, version: 1, schema: 1, layout: 1 };
        let mut images = Box::<BatchImages>::default();
        images.reset(number);
        let written = images.write(|_| Ok::<_, ()>(Some(0))).expect("there is room");
        images.add(&label, KeyView { kind: KeyKind::U64, bytes: &key }, written);
        images
    }

    fn thread(
        clock: StorageClock,
        parker: Parker,
        store: MemoryStore,
        core_parker: &Parker,
    ) -> StorageThread {
        StorageThread {
            desk: Arc::new(StorageDesk::new(parker.unparker())),
            clock,
            time: Clock::start(),
            parker,
            store: Box::new(store),
            node: NODE,
            cores: vec![CorePort { answers: Arc::new(Inbox::new(1)), unparker: core_parker.unparker() }],
            waiting_loads: VecDeque::new(),
            waiting_fences: VecDeque::new(),
            images: Vec::new(),
            batch: Batch::new(BatchName { node: NODE, number: 1 }),
            durable: 0,
            cluster: None,
            restart: None,
        }
    }

    #[test]
    fn fences_are_opened_and_whoever_asked_is_told_in_any_case() {
        let (parker, core_parker) = (Parker::new(), Parker::new());
        let (clock, _cores) = batch_clock(1, parker.unparker());
        let mut thread = thread(clock, parker, MemoryStore::new(StoreId(1)), &core_parker);
        let (told, outcomes) = crossbeam_channel::bounded(3);
        let ask = |epoch| {
            let partition = RecordKey::u64(1, 1).as_ref().partition();
            let told = told.clone();
            let tell = move |outcome: Result<(), StoreError>| told.send(outcome).expect("there is room");
            let fence = Fence { partition, epoch, holder: NODE };
            ToStorage::OpenFences(FencesTicket::new(vec![fence], tell))
        };
        assert!(thread.desk.leave(ask(2)).is_ok() && thread.desk.leave(ask(1)).is_ok());
        thread.take_requests(&mut Vec::new());
        thread.open_fences();
        assert_eq!(outcomes.try_recv(), Ok(Ok(())));
        assert!(matches!(outcomes.try_recv(), Ok(Err(StoreError::Refused { .. }))));
        assert!(thread.desk.leave(ask(3)).is_ok());
        drop(thread);
        assert!(matches!(outcomes.try_recv(), Ok(Err(StoreError::Failed { .. }))));
    }

    /// The keeper has got the batch, and does not answer; the node begins anew. Its storage thread follows when the keeper has answered.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the thread under test")]
    fn a_node_begins_anew_while_a_batch_waits_for_its_keeper() {
        let line = LineShared::new();
        let (cluster, _told) = crossbeam_channel::bounded(16);
        let parker = Parker::new();
        let (port, links) = control_port(cluster.clone(), line.clone(), parker.unparker());
        let store = StorageLine { shared: line.clone(), links, clock: Clock::start() };
        // Longer than the test waits.
        let store = ClusterStore::new(store, StoreId(1)).with_patience(u64::MAX / 2);
        let (core_parker, desk) = (Parker::new(), Arc::new(StorageDesk::new(parker.unparker())));
        let door = StorageDoor { desk: desk.clone(), line: line.clone(), outcomes: cluster.clone() };
        let announcement = Announcement { reign: 1, store: StoreId(1), limits: LIMITS_USUAL };
        let keeper = NodeId { id: 2, incarnation: 1 };
        door.find_keeper(keeper, announcement);

        let (clock, _cores) = batch_clock(1, parker.unparker());
        let images = vec![(0, image_in_batch(1))];
        let base = thread(clock, parker, MemoryStore::new(StoreId(1)), &core_parker);
        let (desk_too, cluster) = (desk.clone(), Some(cluster));
        let thread = StorageThread { desk: desk_too, store: Box::new(store), images, cluster, ..base };
        let running = std::thread::spawn(|| thread.run());
        while port.is_idle() {
            std::thread::yield_now();
        }
        assert!(!door.restart(NodeId { incarnation: 2, ..NODE }), "the batch is not settled");
        let fence = Fence { partition: RecordKey::u64(1, 1).as_ref().partition(), epoch: 1, holder: NODE };
        let refused = || StoreAnswer::Failed(StoreError::Refused { given: fence, stored: None });
        // Whatever number its newest try has.
        while !door.restart(NodeId { incarnation: 3, ..NODE }) {
            for number in 1..10 {
                line.answer(keeper, number, refused());
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        assert_eq!(desk.refused_saves.load(Ordering::Relaxed), 1, "it was tried in the name of the old life");
        desk.stop();
        running.join().expect("it ends");
    }

    #[test]
    fn a_request_to_a_storage_thread_that_has_ended_waits_for_nothing() {
        let (parker, core_parker) = (Parker::new(), Parker::new());
        let (clock, _cores) = batch_clock(1, parker.unparker());
        let thread = thread(clock, parker, MemoryStore::new(StoreId(1)), &core_parker);
        let desk = thread.desk.clone();
        let (told, is_told) = crossbeam_channel::bounded(1);
        while desk.leave(ToStorage::Images(image_in_batch(9))).is_ok() {}
        desk.broken.store(true, Ordering::Release);
        desk.stop();
        thread.run();
        assert!(desk.leave(ToStorage::Restart(NODE, told)).is_ok());
        assert_eq!(is_told.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected));
    }

    #[test]
    fn an_image_of_a_failed_batch_that_is_handed_over_late_is_not_committed() {
        for (number, saved) in [(2, 0), (3, 1)] {
            let parker = Parker::new();
            let (mut clock, _cores) = batch_clock(1, parker.unparker());
            clock.publish_next();
            assert_eq!(clock.fail(1), 1..=2);
            clock.publish_next();
            let mut store = MemoryStore::new(StoreId(1));
            let partition = RecordKey::u64(1, 1).as_ref().partition();
            store.open_fences(&[Fence { partition, epoch: 1, holder: NODE }]).expect("memory");
            let core_parker = Parker::new();
            let images = vec![(0, image_in_batch(number))];
            let mut thread =
                StorageThread { images, durable: 2, ..thread(clock, parker, store, &core_parker) };
            assert_eq!(thread.commit(3), Committed::Durable);
            let record = thread.store.load(&[RecordKey::u64(1, 1).as_ref()]).expect("memory").remove(0);
            assert_eq!(usize::from(record.is_some()), saved, "batch {number}");
        }
    }
}
