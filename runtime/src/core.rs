//! The core: everything one execution thread owns, as pure logic.
//!
//! ```text
//!   Event -> step(now, event, actions) -> Action
//!
//!   outbox --dispatch--> object free? --grant--> turn: poll the method's future --> reply --> wakes the caller
//!     ^                      | no                    |                                          |
//!     |                      v                       v                                          v
//!     |                 wait queue              new calls ---------------------------------> run queue
//!     +-----------------------------------------------+
//! ```
//!
//! A core reads no clock, starts no thread and does no IO: it is told the time and what happened, and says what it wants
//! done. The same code runs on real threads and in the simulator. User code runs only inside [`turn`](self), with
//! nothing of the core borrowed: every field below is a `Cell`, or a `RefCell` that is let go before user code runs.
//!
//! Start reading at [`Core::step`], then `turn.rs`. Not here: threads, rings, links (`driver`), what a message looks like
//! on the wire (`wire`).

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::Arc;

use epicserver_storage::NodeId;
use epicserver_transport::Frame;
use rkyv::ser::allocator::Arena;

use crate::activation::{CatalogEntry, ObjectPtr};
use crate::current::Entered;
use crate::entity::{BoundEntity, NodeTag};
use crate::error::CallError;
use crate::id::CallId;
use crate::registry::Desk;
use crate::remote::{LinkNews, PeerFrame};
use crate::routes::Routes;
use crate::saving::{BatchImages, LoadAnswer, LoadTicket, SaveNews};
use crate::script::Tape;
use crate::session::intern::Target;
use crate::slot::{SlotList, SlotPool, SlotPtr, SlotQueue, State, TaskRef};
use crate::timer::{TimerKey, TimerWheel};
use epicserver_sync::ring::{Producer, Taken};

mod admission;
mod away;
mod calls;
mod cancel;
mod carried;
mod checkpoint;
mod counters;
mod cycle;
mod drain;
mod gate;
mod idle;
mod lease;
mod moving;
mod objects;
pub mod operations;
mod remote;
mod save;
mod script;
mod stop;
mod tasks;
mod trace;
mod turn;

#[cfg(test)]
pub(crate) use turn::IN_PLACE_MAX;

pub use counters::Counters;
use counters::{CounterCells, count};
pub(crate) use cycle::Probe;
pub(crate) use lease::released;
pub use operations::{EdgeFuture, Work};
pub(crate) use remote::{Asked, Settle};

pub use crate::parcel::CoreMessage;
pub(crate) use turn::InPlaceEnd;

/// How a core is set up.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Which core of its node this is.
    pub index: u16,
    /// The core's number in this process; those of one node follow each other.
    pub number: u32,
    /// The node's number in this process; references made here carry it.
    pub node_tag: u32,
    /// Milliseconds since 1970 at the moment the node's clock was zero.
    pub epoch_ms: u64,
    /// The seed of `random()`.
    pub seed: u64,
    /// Calls and tasks under way on this core at most; then callers get `Rejected(Overloaded)`.
    pub calls_max: usize,
    /// Calls that wait for one object at most; then callers get `Rejected(Overloaded)`.
    pub waiting_max: u32,
    /// Calls that are answered in the same loop pass without going through the run queue, at most.
    pub direct_max: u32,
    /// The largest archive of an object's state, in bytes.
    pub state_len_max: usize,
    /// The largest payload of a message, in bytes.
    pub message_len_max: usize,
    /// The bytes of images that may wait in the open batch before the core stops running turns.
    pub dirty_len_max: usize,
    /// The choices of a simulated run: ready turns in an order drawn from this seed, calls direct or queued.
    pub chaos: Option<u64>,
    /// How long an object may lie unused before it is saved and dropped, in nanoseconds; entities may say otherwise.
    pub idle_ns: u64,
    /// What the objects in this core's memory may take, in bytes: of each the archive of its state and the fixed part of an
    /// activation. Beyond it those leave that were not used for the longest time. `u64::MAX`: no bound.
    pub memory_len_max: u64,
    /// Requests, one-ways and cancels that may be under way to one node; more wait, in order.
    pub window_max: usize,
    /// Received frames that may be kept at a time, by methods that read them in place and by [`Bytes`](crate::Bytes) made of them;
    /// beyond that there are copies.
    pub lent_max: usize,
    /// Where the buffers of frames come from; `None`: each is made for itself.
    pub frames: Option<epicserver_transport::BufferPool>,
}

impl CoreConfig {
    /// The set-ups of a new node's cores, which share a node number and have core numbers of their own.
    pub fn for_node(&self, cores: u16) -> Vec<Self> {
        let first = crate::registry::take_core_numbers(u32::from(cores));
        let node_tag = crate::registry::take_node_number();
        let one = |index| Self {
            index,
            number: first + u32::from(index),
            node_tag,
            seed: self.seed.wrapping_add(u64::from(index)),
            chaos: self.chaos.map(|seed| seed.wrapping_mul(31).wrapping_add(u64::from(index))),
            ..self.clone()
        };
        (0..cores).map(one).collect()
    }
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            index: 0,
            number: 0,
            node_tag: 0,
            epoch_ms: 0,
            seed: 0,
            calls_max: 1 << 20,
            waiting_max: 1 << 14,
            direct_max: 128,
            state_len_max: 16 << 20,
            message_len_max: 16 << 20,
            dirty_len_max: 64 << 20,
            chaos: None,
            idle_ns: 15 * 60 * 1_000_000_000,
            memory_len_max: u64::MAX,
            window_max: crate::remote::WINDOW_MAX,
            lent_max: 0,
            frames: None,
        }
    }
}

/// What happens to a core.
#[derive(Debug)]
pub enum Event {
    /// Run at most this many turns and deliveries.
    Turns(u32),
    /// Another core of the node sent this. What the storage thread had published when it was sent must have been told
    /// before ([`Event::Save`]): a core that learns of a batch by a message alone would not know which ones failed.
    Message(CoreMessage),
    /// Something lies on the core's desk: calls through a `Pool`, wakes by other threads.
    Desk,
    /// Time has passed: fire the timers that are due.
    Tick,
    /// The storage thread moved on.
    Save(SaveNews),
    /// The store answered a load.
    Loaded(LoadTicket, LoadAnswer),
    /// A buffer that was handed over comes back.
    Recycled(Box<BatchImages>),
    /// Another node sent this frame: a request, a reply, or what else concerns calls.
    Frame(PeerFrame),
    /// What the links say of calls that were under way.
    Link(LinkNews),
    /// The cluster's view changed.
    View(Arc<Routes>),
    /// The objects of a partition that the next view gives to this core.
    Shipped(Box<crate::shipment::Shipment>),
    /// The store failed for good, so that nothing will be durable any more: no call starts here and nothing leaves, and whoever
    /// waits is told.
    StoreLost,
    /// The node's lease ends at this time of its clock; without one it never does. Past it no call starts here and nothing
    /// leaves that others could act on, until a later end is told.
    Lease(u64),
    /// The core's thread is about to sleep: hand over what was changed.
    Rest,
    /// The node stops: save and drop what is idle, and everything else as it falls out of use.
    Drain,
}

/// What a core wants done.
#[derive(Debug)]
pub enum Action {
    /// Bring this to another core of the node. In order for each core. Boxed, as it is as long as two cache lines, and cores
    /// that run in threads have rings for it.
    Message(u16, Box<CoreMessage>),
    /// These images belong to the batch they name; the core has passed it.
    HandOver(Box<BatchImages>),
    /// The core has passed all batches below this number.
    Passed(u64),
    /// Fetch the saved state of an object.
    Load(LoadTicket),
    /// Run this on the blocking pool.
    Blocking(Work),
    /// Run this on the edge runtime.
    Edge(EdgeFuture),
    /// Put this frame on the link to a node. In order for each node.
    Frame(PeerFrame),
    /// A partition that moves is empty: bring its objects to the next owner.
    Drained(Box<crate::shipment::Drained>),
}

impl std::fmt::Debug for SlotPtr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SlotPtr({:p})", self.as_raw())
    }
}

impl std::fmt::Debug for TaskRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TaskRef({:p}, {})", self.slot.as_raw(), self.generation)
    }
}

/// Where the object of a message is.
#[derive(Clone, Copy)]
pub(crate) enum Located {
    /// On this core.
    Here(ObjectPtr),
    /// On another core of this node.
    Core(u16),
    /// On another node, in this partition.
    Node(NodeId, u16),
    /// Nowhere: this node does not bind the entity.
    Nowhere,
    /// Nowhere at the moment: nobody owns the partition.
    Unowned,
    /// It belongs here, and its state's default panicked.
    Broken,
    /// Nowhere: no object can be saved under so long a key.
    TooLong,
}

/// Frames for other nodes, in order. Peers and frames lie apart, as each of them travels in registers: a struct of both is written in
/// parts and copied as a whole, for which the processor would have to wait.
#[derive(Default)]
struct Sends {
    peers: Vec<NodeId>,
    frames: Vec<Frame>,
}

/// Where the driver of a core's links hands over what came over them.
pub(crate) struct Inputs<'a>(&'a CoreState);

impl Inputs<'_> {
    /// Brings a frame of a peer, as [`Event::Frame`] does.
    #[inline]
    pub(crate) fn frame(&mut self, peer: NodeId, frame: Frame, target: Option<Arc<Target>>) {
        self.0.handle_frame(PeerFrame { peer, frame, target });
    }

    /// Brings what the links say, as [`Event::Link`] does.
    pub(crate) fn news(&mut self, news: LinkNews) {
        self.0.handle_link(news);
    }
}

/// One execution thread's world. See the module's documentation.
pub struct Core {
    state: Rc<CoreState>,
}

/// The fields of a core. User code reaches them through the current core, so all of it works through `&self`.
pub(crate) struct CoreState {
    config: CoreConfig,
    number: u32,
    /// How many cores the node has.
    cores: u16,
    /// Other than that of every core before and after it in this process.
    stamp: Cell<u32>,
    /// Marks hints that name another core, as those are that were made since objects last left the node.
    core_mark: Cell<u32>,
    entities: Box<[Option<CatalogEntry>]>,
    routes: RefCell<Arc<Routes>>,
    pub(crate) slots: SlotPool,
    now: Cell<u64>,
    /// Calls start only if their deadline is later: the time, or the end of time past the node's lease.
    admits_after: Cell<u64>,
    lease: lease::Lease,
    counter: Cell<u64>,
    /// The task whose turn it is.
    running: Cell<Option<SlotPtr>>,
    pub(crate) touched: Cell<bool>,
    /// How many methods are polled inside the poll of their caller now.
    nested: Cell<u8>,
    /// How many more calls may run inside the poll that is under way.
    in_place_left: Cell<u32>,
    /// Of the calls that run, while somebody listens.
    spans: trace::Spans,
    /// Calls made in the last turns, not yet dispatched.
    outbox: SlotQueue,
    ready: SlotQueue,
    ready_len: Cell<usize>,
    direct_left: Cell<u32>,
    /// Tasks without a hold on an object: spawned futures and calls from outside.
    loose: SlotList,
    /// How many of these were spawned by objects, and so end with them.
    spawned: Cell<usize>,
    timers: RefCell<Box<TimerWheel<Timer>>>,
    /// Slots whose calls were sent away and have no timer for their deadline yet; most are answered before they need one.
    unarmed: RefCell<Vec<SlotPtr>>,
    /// When those in `unarmed` get their timers; `u64::MAX`: there are none.
    arm_at: Cell<u64>,
    random: RefCell<fastrand::Rng>,
    chaos: Option<RefCell<fastrand::Rng>>,
    actions: RefCell<Vec<Action>>,
    sends: RefCell<Sends>,
    ways: away::Ways,
    saving: save::Saving,
    probes: cycle::ProbeLog,
    remote: remote::Remote,
    scratch: RefCell<Arena>,
    draining: Cell<bool>,
    stopping: stop::Stopping,
    drains: drain::Drains,
    carried: carried::Carried,
    /// Whether a partition is in motion: then no call goes past dispatch, where it may have to stay.
    moving: Cell<bool>,
    /// The tick of the clock that probes were last sent in, and the calls that these have looked at.
    probed: Cell<(u64, usize)>,
    idling: idle::Idling,
    counters: CounterCells,
    script: Option<Tape>,
    desk: Arc<Desk>,
}

#[derive(Debug)]
enum Timer {
    /// The caller of this call has waited long enough.
    Deadline(TaskRef),
    /// This call has waited in a queue for a while: expired, or part of a cycle?
    Queued(TaskRef),
    /// An exclusive method that was cancelled has had its time.
    Grace(TaskRef),
    /// A method that nobody on this node waits for has had its time.
    Overdue(TaskRef),
    Wake(std::task::Waker),
    /// An object with a policy of `behind` is due for saving.
    Behind(ObjectPtr, u32),
    /// A request that waits for a view has waited long enough.
    Parked,
    /// A call that waits for its partition to be moved has waited long enough.
    Kept(TaskRef),
    /// Partitions that move are looked at again.
    Look,
    /// The time of something that waits for a batch is over.
    Gate,
    /// No turns run, as too much waits to be saved, and something may be late.
    SaveBound,
    /// The node stops: what is still in memory is looked at again.
    Stop,
}

impl std::fmt::Debug for ObjectPtr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.label())
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("number", &self.state.number).finish_non_exhaustive()
    }
}

impl Core {
    /// A core that serves these entities and starts at time `now` (nanoseconds of its node's clock).
    ///
    /// # Panics
    /// If a core with the number in `config` exists, or it is none of [`CoreConfig::for_node`]: calls tell cores by it.
    pub fn new(now: u64, config: CoreConfig, entities: &[BoundEntity], routes: Arc<Routes>) -> Self {
        Self::with_script(now, config, entities, routes, None)
    }

    pub(crate) fn with_script(
        now: u64,
        config: CoreConfig,
        entities: &[BoundEntity],
        routes: Arc<Routes>,
        script: Option<Tape>,
    ) -> Self {
        let number = config.number;
        assert_ne!(number, crate::slot::NO_CORE, "take the set-up of a core from `CoreConfig::for_node`");
        let places = entities.iter().map(|bound| bound.number + 1).max().unwrap_or(0);
        let mut table: Vec<Option<CatalogEntry>> = (0..places).map(|_| None).collect();
        for bound in entities {
            table[bound.number] = Some(CatalogEntry::new(bound));
        }
        let state = CoreState {
            number,
            cores: routes.cores(),
            stamp: Cell::new(crate::registry::take_core_stamp()),
            core_mark: Cell::new(crate::entity::Hint::AWAY),
            entities: table.into(),
            routes: RefCell::new(routes),
            slots: SlotPool::new(number, config.calls_max),
            now: Cell::new(now),
            admits_after: Cell::new(now),
            lease: lease::Lease::default(),
            counter: Cell::new(0),
            running: Cell::new(None),
            touched: Cell::new(false),
            nested: Cell::new(0),
            in_place_left: Cell::new(0),
            spans: trace::Spans::default(),
            outbox: SlotQueue::default(),
            ready: SlotQueue::default(),
            ready_len: Cell::new(0),
            direct_left: Cell::new(config.direct_max),
            loose: SlotList::default(),
            spawned: Cell::new(0),
            timers: RefCell::new(Box::new(TimerWheel::new(now))),
            random: RefCell::new(fastrand::Rng::with_seed(config.seed)),
            chaos: config.chaos.map(|seed| RefCell::new(fastrand::Rng::with_seed(seed))),
            unarmed: RefCell::new(Vec::new()),
            arm_at: Cell::new(u64::MAX),
            actions: RefCell::new(Vec::new()),
            sends: RefCell::new(Sends::default()),
            ways: away::Ways::default(),
            saving: save::Saving::default(),
            probes: cycle::ProbeLog::default(),
            remote: remote::Remote::default(),
            scratch: RefCell::new(Arena::new()),
            draining: Cell::new(false),
            stopping: stop::Stopping::default(),
            drains: drain::Drains::default(),
            carried: carried::Carried::default(),
            moving: Cell::new(false),
            probed: Cell::new((0, 0)),
            idling: idle::Idling::default(),
            counters: CounterCells::default(),
            script,
            desk: crate::registry::open_desk(number),
            config,
        };
        let routes = state.routes.borrow().clone();
        state.note_schemas(&routes);
        Self { state: Rc::new(state) }
    }

    /// Tells the core that something happened at `now`, and appends what it wants done to `actions`.
    ///
    /// Events are handled at once; turns of user code run only on [`Event::Turns`], and on an [`Event::Message`] that is a call
    /// with nothing in its way. `now` must not fall.
    pub fn step(&mut self, now: u64, event: Event, actions: &mut Vec<Action>) {
        self.step_apart(now, event, actions);
        self.take_sends(|peer, frame| actions.push(Action::Frame(PeerFrame::new(peer, frame))));
    }

    /// As [`step`](Self::step), but that frames are left for [`take_sends`](Self::take_sends).
    pub(crate) fn step_apart(&mut self, now: u64, event: Event, actions: &mut Vec<Action>) {
        if let Event::Turns(turns_max) = event {
            return self.run_turns(now, turns_max, actions);
        }
        self.state.note_lease(&event);
        // Once a pass, and not for each message of it: a look goes over all objects that are to move.
        let looks = !matches!(event, Event::Message(_) | Event::Frame(_) | Event::Link(_));
        self.advance(now, |core| {
            core.handle(event);
            if looks {
                core.look_at_moves();
            }
        });
        self.take_actions(actions);
    }

    /// What [`Event::Turns`] does, without an event to look into: whoever waits for a call waits for this.
    #[inline]
    pub(crate) fn run_turns(&mut self, now: u64, turns_max: u32, actions: &mut Vec<Action>) {
        self.advance(now, |core| {
            core.run_turns(turns_max);
            core.look_at_moves();
        });
        self.take_actions(actions);
    }

    #[inline]
    fn take_actions(&mut self, actions: &mut Vec<Action>) {
        let mut acted = self.state.actions.borrow_mut();
        if !acted.is_empty() {
            actions.append(&mut acted);
        }
    }

    /// Adds the way to another core of the node. What is said to a core without one is an [`Action::Message`].
    pub(crate) fn connect(&mut self, core: u16, ring: Producer<CoreMessage>) {
        self.state.ways.add(core, ring);
    }

    /// Brings what another core said, as [`Event::Message`] does.
    #[inline]
    pub(crate) fn deliver(&mut self, now: u64, message: Taken<'_, CoreMessage>) {
        self.advance(now, |core| core.handle_message(message));
    }

    /// Lets `give` bring what came over the links. What comes of it is left as by [`step_apart`](Self::step_apart).
    #[inline]
    pub(crate) fn deliver_inputs(
        &mut self,
        now: u64,
        actions: &mut Vec<Action>,
        give: impl FnOnce(&mut Inputs<'_>),
    ) {
        self.advance(now, |core| {
            // A pass begins: as many calls as in one may be answered directly, turns or not.
            core.direct_left.set(core.config.direct_max);
            give(&mut Inputs(core));
        });
        self.take_actions(actions);
    }

    /// Whether [`Event::Rest`] has something to do.
    pub(crate) fn wants_rest(&self) -> bool {
        self.state.has_open_images() || self.state.is_moving()
    }

    /// Whether there are frames for other nodes.
    #[inline]
    pub(crate) fn has_sends(&self) -> bool {
        !self.state.sends.borrow().frames.is_empty()
    }

    /// Gives the frames for other nodes, in order.
    #[inline]
    pub(crate) fn take_sends(&mut self, mut send: impl FnMut(NodeId, Frame)) {
        let sends = &mut *self.state.sends.borrow_mut();
        sends.peers.drain(..).zip(sends.frames.drain(..)).for_each(|(peer, frame)| send(peer, frame));
    }

    /// Whether messages to other cores wait for room.
    pub(crate) fn has_waiting(&self) -> bool {
        self.state.ways.has_waiting()
    }

    /// Sends what waited for room, as far as there is some, and has the cores woken that were sent something.
    pub(crate) fn flush_ways(&mut self, wake: impl FnMut(u16)) {
        self.state.ways.flush(wake);
    }

    /// Asks for room for what waits; `true` if there is some already.
    pub(crate) fn want_room(&mut self) -> bool {
        self.state.ways.want_room()
    }

    #[inline(always)]
    fn advance(&mut self, now: u64, handle: impl FnOnce(&CoreState)) {
        let core = &*self.state;
        debug_assert!(now >= core.now.get(), "the clock fell");
        core.now.set(now);
        let entered = Entered::new(core);
        core.look_at_lease();
        handle(core);
        drop(entered);
    }

    /// Whether there are turns to run now.
    pub fn is_ready(&self) -> bool {
        let core = &*self.state;
        let has_some = !core.outbox.is_empty() || !core.ready.is_empty();
        has_some && (!core.is_save_bound() || core.has_outside())
    }

    /// When the next timer is due, if any waits; never later than it really is.
    pub fn next_timer(&self) -> Option<u64> {
        let arm_at = Some(self.state.arm_at.get()).filter(|at| *at != u64::MAX);
        let (lease, idling) = (self.state.lease.end(), self.state.idling.due());
        let timers = self.state.timers.borrow().next_deadline();
        timers.into_iter().chain(arm_at).chain(lease).chain(idling).min()
    }

    /// Whether images wait to be handed over or messages wait for a batch to be durable.
    pub fn wants_commit(&self) -> bool {
        self.state.saving.wants_commit() || (self.state.is_moving() && self.state.drains_want_commit())
    }

    /// Whether nothing of this core is under way: no call, no task, no message that waits for a batch.
    pub fn is_quiet(&self) -> bool {
        self.state.slots.live() == 0 && !self.state.saving.wants_commit()
    }

    /// Whether no call is under way, and nothing but futures that objects have spawned: those may go on for ever, and end with their
    /// objects.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.state.slots.live() == self.state.spawned.get() && !self.state.saving.wants_commit()
    }

    /// Whether nothing is left since [`Event::Drain`], neither under way nor in memory.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.draining.get() && self.is_quiet() && self.activations() == 0
    }

    /// The core's number in this process.
    pub fn number(&self) -> u32 {
        self.state.number
    }

    /// What the core did so far.
    pub fn counters(&self) -> Counters {
        self.state.counters.read()
    }

    /// How many calls ran as soon as they were made or came.
    #[cfg(test)]
    pub(crate) fn calls_in_place(&self) -> u64 {
        self.state.counters.in_place.get()
    }

    /// How many objects are in memory.
    pub fn activations(&self) -> usize {
        self.state.entities.iter().flatten().map(|entry| entry.any().len()).sum()
    }

    /// What the objects in memory take, in bytes, as [`CoreConfig::memory_len_max`] counts it.
    pub fn memory_len(&self) -> u64 {
        self.state.idling.memory_len()
    }

    /// Where other threads leave work for this core.
    pub(crate) fn desk(&self) -> &Arc<Desk> {
        &self.state.desk
    }

    pub(crate) fn state(&self) -> &CoreState {
        &self.state
    }
}

impl Drop for Core {
    /// Ends everything that runs here: callers elsewhere are not told, as this is the end of their node too.
    fn drop(&mut self) {
        let entered = Entered::new(&self.state);
        self.state.close();
        crate::registry::close_desk(self.state.number);
        drop(entered);
    }
}

impl CoreState {
    #[inline]
    fn look_at_moves(&self) {
        if self.is_moving() || self.has_moves_waiting() {
            self.look_at_drains();
        }
    }

    fn handle(&self, event: Event) {
        match event {
            // Run without an event.
            Event::Turns(_) => {}
            Event::Message(message) => self.handle_message(Taken::of(&mut ManuallyDrop::new(message))),
            Event::Desk => self.clear_desk(),
            Event::Tick => {
                // First those that were set before: the end of a caller comes before that of its calls.
                self.fire_timers();
                if self.arm_those_away() {
                    self.fire_timers();
                }
                self.sweep();
                self.forget_carried();
                self.note_save_bound();
            }
            Event::Save(news) => self.handle_save(news),
            Event::Loaded(ticket, answer) => self.handle_loaded(&ticket, answer),
            Event::Recycled(images) => self.saving.recycle(images),
            Event::Frame(frame) => self.handle_frame(frame),
            Event::Link(news) => self.handle_link(news),
            Event::View(routes) => self.handle_view(routes),
            Event::Shipped(shipment) => self.handle_shipped(*shipment),
            // Looked at before anything else.
            Event::Lease(_) | Event::StoreLost => {}
            Event::Rest => self.rest(),
            Event::Drain => self.stop(),
        }
    }

    /// Takes a call from another core or node in, behind those that came before it.
    pub(crate) fn arrive(&self, slot: SlotPtr) {
        if self.saving.is_failed(slot.depends_on.get()) {
            return self.refuse(slot, CallError::SaveFailed);
        }
        self.pass_to(slot.depends_on.get());
        self.outbox.push_back(slot);
    }

    fn fire_timers(&self) {
        for _ in 0..TIMERS_PER_TICK {
            let due = self.timers.borrow_mut().pop_expired(self.now.get());
            let Some(timer) = due else { return };
            match timer {
                Timer::Deadline(task) => self.deadline_passed(task),
                Timer::Queued(task) => self.still_queued(task),
                Timer::Grace(task) => self.grace_over(task),
                Timer::Overdue(task) => self.overdue(task),
                Timer::Wake(waker) => crate::waker::wake(waker),
                Timer::Behind(object, generation) => self.save_behind(object, generation),
                Timer::Parked => self.expire_parked(),
                Timer::Kept(task) => self.expire_kept(task),
                // As at the end of every pass.
                Timer::Look => {}
                Timer::Gate => self.end_late(),
                Timer::SaveBound => self.end_late_turns(),
                Timer::Stop => self.stop_some(),
            }
        }
    }

    fn set_timer(&self, at: u64, timer: Timer) -> TimerKey {
        self.timers.borrow_mut().insert(at, timer)
    }

    fn cancel_timer(&self, key: TimerKey) {
        let cancelled = self.timers.borrow_mut().cancel(key);
        drop(cancelled);
    }

    #[inline]
    fn act(&self, action: Action) {
        match action {
            // All of them the same way, so that they stay in order.
            Action::Frame(PeerFrame { peer, frame, .. }) => self.send_frame(peer, frame),
            action => self.actions.borrow_mut().push(action),
        }
    }

    #[inline]
    fn send_frame(&self, peer: NodeId, frame: Frame) {
        let sends = &mut *self.sends.borrow_mut();
        sends.peers.push(peer);
        sends.frames.push(frame);
    }

    #[inline]
    fn next_counter(&self) -> u64 {
        self.counter.set(self.counter.get() + 1);
        self.counter.get()
    }

    fn now_ms(&self) -> u64 {
        self.config.epoch_ms + self.now.get() / 1_000_000
    }

    fn call_id(&self, slot: SlotPtr) -> CallId {
        // A guest is the call that its caller made.
        let call = slot.origin().unwrap_or(slot);
        // The core's place in its node, as core numbers count up with every node of the process.
        let place = u64::from(self.index_of(call)) | self.routes.borrow().place_bits();
        CallId::new(call.root_ms.get(), place, call.counter.get())
    }

    #[inline]
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    #[inline]
    pub(crate) fn stamp(&self) -> u32 {
        self.stamp.get()
    }

    pub(crate) fn node_tag(&self) -> u32 {
        NodeTag::pack(self.config.node_tag, self.config.index).0
    }
}

/// Timers fired for one tick event at most; the rest waits for the next, so that turns run in between.
const TIMERS_PER_TICK: usize = 1024;

/// The state of a slot that is not any more in the hands of its object.
fn is_started(state: State) -> bool {
    matches!(state, State::Running | State::Reply)
}
