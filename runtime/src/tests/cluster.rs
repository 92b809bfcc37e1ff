//! The cores of one node and its storage thread, all stepped by hand in one thread.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use epicserver_storage::{
    Batch, BatchName, EnvelopeHeader, FaultControl, FaultPlan, FaultyStore, Fence, MemoryStore, NodeId,
    Partition, RecordKey, Store, StoreId,
};

use super::thing::{AllThings, Thing};
use crate::core::{Action, Core, CoreConfig, CoreMessage, EdgeFuture, Event, Work};
use crate::current::Entered;
use crate::entity::{Entities, Entity, NodeTag, RawRef};
use crate::key::StoredKey;
use crate::registry::{self, NodeEntrance};
use crate::routes::Routes;
use crate::saving::{BatchImages, LoadTicket, SaveNews};
use crate::shipment::Drained;
use crate::slot::State;

const NODE: NodeId = NodeId { id: 1, incarnation: 1 };

/// One node. Dropping it checks that nothing is left under way.
pub(crate) struct Cluster {
    pub(crate) cores: Vec<Core>,
    pub(crate) now: u64,
    /// Messages under way to each core, in the order they were sent.
    pub(crate) under_way: Vec<VecDeque<CoreMessage>>,
    /// Whether a message brings its core the news of the storage thread, as the driver does it.
    pub(crate) tells_with_messages: bool,
    pub(crate) works: Vec<Work>,
    pub(crate) edges: Vec<EdgeFuture>,
    pub(crate) store: FaultyStore<MemoryStore>,
    pub(crate) storage: Storage,
    pub(crate) drained: Vec<Drained>,
    node_tag: u32,
}

/// What the storage thread knows.
pub(crate) struct Storage {
    pub(crate) open: u64,
    pub(crate) durable: u64,
    failed: Vec<RangeInclusive<u64>>,
    /// The failures each core has heard of.
    heard: Vec<usize>,
    passed: Vec<u64>,
    handed_over: Vec<BatchImages>,
    pub(crate) loads: Vec<LoadTicket>,
    pub(crate) images_written: usize,
}

impl Cluster {
    pub(crate) fn new(cores: u16) -> Self {
        Self::with(cores, CoreConfig::default())
    }

    pub(crate) fn with(cores: u16, config: CoreConfig) -> Self {
        let mut entities = Vec::new();
        AllThings::collect(&mut entities);
        let routes = Arc::new(Routes::solo(NODE, cores));
        let configs = config.for_node(cores);
        let node_tag = configs[0].node_tag;
        let cores: Vec<Core> =
            configs.into_iter().map(|config| Core::new(0, config, &entities, routes.clone())).collect();
        let desks = cores.iter().map(|core| core.desk().clone()).collect();
        registry::add_node(node_tag, Arc::new(NodeEntrance { desks }));
        let count = cores.len();
        Self {
            cores,
            now: 0,
            under_way: (0..count).map(|_| VecDeque::new()).collect(),
            tells_with_messages: true,
            works: Vec::new(),
            edges: Vec::new(),
            store: open_store(),
            storage: Storage {
                open: 1,
                durable: 0,
                failed: Vec::new(),
                heard: vec![0; count],
                passed: vec![1; count],
                handed_over: Vec::new(),
                loads: Vec::new(),
                images_written: 0,
            },
            drained: Vec::new(),
            node_tag,
        }
    }

    /// Makes the store fail when it is told to.
    pub(crate) fn faults(&self) -> FaultControl {
        self.store.control()
    }

    /// The `nth` key whose object lives on this core.
    pub(crate) fn key_on(&self, core: u16, nth: usize) -> u64 {
        let lives_there = |key: &u64| key.canonical(|key| key.partition()) % self.cores.len() as u16 == core;
        (1..).filter(lives_there).nth(nth).expect("keys are spread over the cores")
    }

    /// Runs a future as a task of a core, and everything that becomes ready.
    pub(crate) fn start<T: 'static>(
        &mut self,
        core: usize,
        future: impl Future<Output = T> + 'static,
    ) -> Started<T> {
        let started = self.start_later(core, future);
        self.run();
        started
    }

    /// As [`start`](Self::start), without running anything yet.
    pub(crate) fn start_later<T: 'static>(
        &mut self,
        core: usize,
        future: impl Future<Output = T> + 'static,
    ) -> Started<T> {
        let place = Rc::new(RefCell::new(None));
        let result = place.clone();
        self.step(core, Event::Desk);
        let state = self.cores[core].state();
        let entered = Entered::new(state);
        let task = async move {
            let value = future.await;
            *place.borrow_mut() = Some(value);
        };
        state.spawn_loose(task).expect("a free slot");
        drop(entered);
        Started(result)
    }

    /// Starts a call as the application does it: outside of any core, through the entrance of this one.
    pub(crate) fn outside<const POLICY: u8>(&self, core: u16, key: u64) -> RawRef<Thing<POLICY>> {
        RawRef::of(key, NodeTag::pack(self.node_tag, core))
    }

    /// Runs turns and delivers messages until nothing is left to do without time or a commit.
    pub(crate) fn run(&mut self) {
        for _ in 0..100_000 {
            let mut busy = self.answer_loads();
            for core in 0..self.cores.len() {
                busy |= self.deliver(core);
                if !self.cores[core].desk().is_empty() {
                    self.step(core, Event::Desk);
                    busy = true;
                }
                if self.cores[core].is_ready() {
                    self.step(core, Event::Turns(1_000));
                    busy = true;
                }
            }
            if !busy {
                return;
            }
        }
        panic!("the node does not come to rest");
    }

    /// Brings a core what other cores sent it.
    pub(crate) fn deliver(&mut self, core: usize) -> bool {
        let mut any = false;
        while let Some(message) = self.under_way[core].pop_front() {
            if self.tells_with_messages {
                self.tell(core);
            }
            self.step(core, Event::Message(message));
            any = true;
        }
        any
    }

    /// Runs, and commits batch after batch until nothing waits for one.
    pub(crate) fn settle(&mut self) {
        self.run();
        for _ in 0..100 {
            let wants = self.cores.iter().any(Core::wants_commit) || !self.storage.loads.is_empty();
            if !wants {
                return;
            }
            self.commit();
        }
        panic!("something waits for a batch for ever");
    }

    /// Closes the open batch and commits it; it fails if the store does.
    pub(crate) fn commit(&mut self) {
        self.publish();
        (0..self.cores.len()).for_each(|core| self.tell(core));
        self.write();
        self.run();
    }

    /// Opens the next batch. Cores that are not told go on with the old one until they hear of it.
    pub(crate) fn publish(&mut self) {
        self.storage.open += 1;
    }

    /// Brings a core the news of the storage thread.
    pub(crate) fn tell(&mut self, core: usize) {
        let failed = self.storage.failed[self.storage.heard[core]..].to_vec();
        self.storage.heard[core] = self.storage.failed.len();
        let news = SaveNews { open: self.storage.open, durable: self.storage.durable, failed };
        self.step(core, Event::Save(news));
    }

    /// Commits the batch before the open one and tells all cores of the outcome.
    pub(crate) fn write(&mut self) {
        self.write_untold();
        (0..self.cores.len()).for_each(|core| self.tell(core));
    }

    /// Commits the batch before the open one.
    pub(crate) fn write_untold(&mut self) {
        let number = self.storage.open - 1;
        assert!(
            self.storage.passed.iter().all(|passed| *passed > number),
            "a core has not passed batch {number}: {:?}",
            self.storage.passed
        );
        let mut batch = Batch::new(BatchName { node: NODE, number });
        let closed = |images: &mut BatchImages| images.number <= number;
        let images: Vec<_> = self.storage.handed_over.extract_if(.., closed).collect();
        for images in images {
            assert!(!self.is_failed(images.number), "images of a failed batch are thrown away");
            images.append_to(&mut batch, 0).expect("an image of a core is well formed");
            self.storage.images_written += images.len();
        }
        match self.store.commit(&batch) {
            Ok(_) => self.storage.durable = number,
            Err(_) => self.fail_from(number),
        }
    }

    fn fail_from(&mut self, number: u64) {
        let failed = number..=self.storage.open;
        self.storage.handed_over.retain(|images| !failed.contains(&images.number));
        self.storage.failed.push(failed);
        self.storage.open += 1;
    }

    fn is_failed(&self, number: u64) -> bool {
        self.storage.failed.iter().any(|range| range.contains(&number))
    }

    fn answer_loads(&mut self) -> bool {
        let tickets = std::mem::take(&mut self.storage.loads);
        let (now, later) = tickets
            .into_iter()
            .partition(|ticket| ticket.after <= self.storage.durable || self.is_failed(ticket.after));
        self.storage.loads = later;
        let now: Vec<LoadTicket> = now;
        let any = !now.is_empty();
        for ticket in now {
            let answer = self.store.load(&[ticket.key.as_ref()]).map(|mut records| records.remove(0));
            self.step(usize::from(ticket.core), Event::Loaded(ticket, answer));
        }
        any
    }

    /// What the store holds of an object: the record's label, and the count in it.
    pub(crate) fn saved<E: Entity<Key = u64>>(&mut self, key: u64) -> Option<(EnvelopeHeader, Option<u64>)> {
        let key = key.canonical(|view| RecordKey {
            entity: crate::id::EntityId::of(E::NAME).0,
            kind: view.kind,
            bytes: view.bytes.into(),
        });
        let record = self.store.inner_mut().load(&[key.as_ref()]).expect("memory").remove(0)?;
        let (header, payload) = record.open(key.as_ref()).expect("a whole record");
        let state = crate::codec::decode::<Thing<0>>(payload).ok();
        Some((header, state.map(|state| state.count.get())))
    }

    /// The count that the store holds of an object.
    pub(crate) fn saved_count<E: Entity<Key = u64>>(&mut self, key: u64) -> Option<u64> {
        self.saved::<E>(key).and_then(|(_, count)| count)
    }

    /// Shows all cores a view in which the partition of this key is on its way to another node, or stays.
    pub(crate) fn show_move(&mut self, key: u64, to: Option<NodeId>) {
        self.show_moves(&[key], to);
    }

    /// As [`show_move`](Self::show_move), of the partitions of these keys.
    pub(crate) fn show_moves(&mut self, keys: &[u64], to: Option<NodeId>) {
        let mut view = (**Routes::solo(NODE, 1).view()).clone();
        for key in keys {
            let partition = Partition::new(key.canonical(|key| key.partition())).expect("a partition");
            view.move_to(partition, to);
        }
        let routes = Arc::new(Routes::new(NODE, self.cores.len() as u16, Arc::new(view)));
        (0..self.cores.len()).for_each(|core| self.step(core, Event::View(routes.clone())));
    }

    /// Lets time pass, a millisecond at a time.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += 1_000_000;
            (0..self.cores.len()).for_each(|core| self.step(core, Event::Tick));
            self.run();
        }
    }

    /// Lets much time pass at once.
    pub(crate) fn leap_ms(&mut self, ms: u64) {
        self.now += ms * 1_000_000;
        self.pass_ms(1);
    }

    pub(crate) fn step(&mut self, core: usize, event: Event) {
        let mut actions = Vec::new();
        self.cores[core].step(self.now, event, &mut actions);
        for action in actions {
            self.act(core, action);
        }
    }

    fn act(&mut self, core: usize, action: Action) {
        match action {
            Action::Message(to, message) => self.under_way[usize::from(to)].push_back(*message),
            Action::HandOver(images) => {
                if !self.is_failed(images.number) {
                    assert!(self.storage.passed[core] <= images.number, "a core hands over before it passes");
                    self.storage.handed_over.push(*images);
                }
            }
            Action::Passed(number) => {
                assert!(number > self.storage.passed[core], "a core passes each batch once");
                self.storage.passed[core] = number;
            }
            Action::Load(ticket) => self.storage.loads.push(ticket),
            Action::Blocking(work) => self.works.push(work),
            Action::Edge(future) => self.edges.push(future),
            Action::Drained(drained) => self.drained.push(*drained),
            Action::Frame(frame) => panic!("there is no other node: {frame:?}"),
        }
    }

    /// Calls and tasks that are under way, over all cores.
    pub(crate) fn live(&self) -> usize {
        self.cores.iter().map(|core| core.state().slots.live()).sum()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        registry::remove_node(self.node_tag);
        if std::thread::panicking() {
            return;
        }
        self.settle();
        let left: Vec<String> = self.cores.iter().flat_map(left_on).collect();
        assert_eq!((self.live(), left), (0, Vec::new()), "calls are left under way");
    }
}

/// What is under way in the slots of a core.
fn left_on(core: &Core) -> Vec<String> {
    let slots = core.state().slots.all().into_iter().filter(|slot| slot.state.get() != State::Free);
    slots
        .map(|slot| format!("{}.{} {:?}", slot.vtable.get().entity, slot.vtable.get().name, slot.state.get()))
        .collect()
}

fn open_store() -> FaultyStore<MemoryStore> {
    let mut store = MemoryStore::new(StoreId(7));
    let fences: Vec<Fence> = (0..epicserver_storage::PARTITIONS)
        .filter_map(Partition::new)
        .map(|partition| Fence { partition, epoch: 1, holder: NODE })
        .collect();
    store.open_fences(&fences).expect("memory");
    FaultyStore::new(store, FaultPlan::none(), |_| {})
}

/// The result of a future that was started on a core.
pub(crate) struct Started<T>(Rc<RefCell<Option<T>>>);

impl<T> Started<T> {
    /// The result, once.
    pub(crate) fn result(&mut self) -> Option<T> {
        self.0.borrow_mut().take()
    }
}

/// A future that is polled by hand, outside of every core.
pub(crate) struct ByHand<T>(Pin<Box<dyn Future<Output = T>>>);

impl<T> ByHand<T> {
    /// Polls it for the first time, so that a call in it is made.
    pub(crate) fn start(future: impl Future<Output = T> + 'static) -> Self {
        let mut this = Self::started(future);
        assert!(this.result().is_none(), "nothing has run yet");
        this
    }

    /// As [`start`](Self::start), without a poll.
    pub(crate) fn started(future: impl Future<Output = T> + 'static) -> Self {
        Self(Box::pin(future))
    }

    /// Polls it; its result if it has one.
    pub(crate) fn result(&mut self) -> Option<T> {
        match self.0.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }
}
