//! The links of a node: how they are set up, who drives their engine, and the cores' ways to it.
//!
//! ```text
//!   dedicated: core <==rings==> link thread (engine)         the thread: pass, spin a while, sleep in the transport
//!   inline:    core 0 (engine) <==rings==> other cores       core 0 drives it between its turns, and sleeps in the transport
//! ```
//! The link thread leaves the engine to the cores while it sleeps, where the transport can sleep apart. Then a core that has few frames sends
//! them by itself: that takes less than to wake the thread, and whoever waits for them does not wait for that. While the thread is
//! awake the engine is its own, and a core leaves its frames in the ring, as it does when another core has the engine. The only core of a
//! node takes the thread's place when it has nothing to do: see `links/seat.rs`.
//!
//! Either way the sleep is the transport's, which other threads end by its waker, and it is entered only when ring, fabric and
//! transport have nothing: a frame of which a part has come is nothing.

mod seat;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use epicserver_storage::{NodeId, StoreId, View};
use epicserver_transport::{Addr, Frame, Sleeper, Transport};

use super::clock::Clock;
use super::control_port::ControlPort;
use super::engine::{Engine, LinkPort, Sitter};
use crate::core::{CoreConfig, Inputs};
use crate::fabric::{Fabric, FabricConfig, FixedMembers, LinkInput};
use crate::node::StartError;
use crate::remote::PeerFrame;
use crate::routes::Routes;
use epicserver_sync::parker::{Parker, Unparker};
use epicserver_sync::ring;

/// How a node reaches the other nodes of its cluster.
pub struct LinksConfig {
    /// What carries the frames; it listens already.
    pub transport: Box<dyn Transport>,
    /// The addresses of all nodes, this one included; the same list on every node.
    pub nodes: Vec<Addr>,
    /// This node's address as it is in that list; the transport's own unless given.
    pub own: Option<Addr>,
    /// The cluster's id: nodes of different clusters refuse each other.
    pub cluster: u128,
    /// What every node must prove to know.
    pub secret: [u8; 32],
}

impl std::fmt::Debug for LinksConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinksConfig")
            .field("transport", &self.transport.caps().name)
            .field("nodes", &self.nodes)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// Node id and first view are known, the transport listens, no thread runs.
pub(crate) struct PreparedLinks {
    transport: Box<dyn Transport>,
    members: Members,
    me: NodeId,
    cores: u16,
    cluster: u128,
    secret: [u8; 32],
}

/// Who the peers are.
enum Members {
    /// Always these.
    Fixed(FixedMembers),
    /// Those that the cluster's view names; this node is at this address.
    Open(Addr),
}

/// A core's way to the links.
pub(crate) enum CoreLinks {
    /// Another thread drives them.
    Rings(RingLinks),
    /// This core drives them.
    Inline(Box<InlineLinks>),
}

/// A core's ends of the rings to and from whoever drives the links.
pub(crate) struct RingLinks {
    outgoing: ring::Producer<PeerFrame>,
    incoming: ring::Consumer<LinkInput>,
    unparker: Unparker,
    /// Frames that found the ring full, in order: as many as the core's windows and the calls it runs allow.
    waiting: VecDeque<PeerFrame>,
    /// Frames that were left since the last flush.
    told: usize,
    /// There if the one who drives the links leaves the engine to others while it sleeps.
    lent: Option<LentEngine>,
    /// There if this core sleeps in the transport at times.
    sleeper: Option<Box<dyn Sleeper>>,
}

/// The engine of a link thread, which has it while it is awake, and takes it along when it ends.
type LentEngine = Arc<Mutex<Option<Engine>>>;
type HeldEngine<'a> = MutexGuard<'a, Option<Engine>>;

/// The links, driven by core 0 of the node between its turns.
pub(crate) struct InlineLinks {
    engine: Engine,
    clock: Clock,
}

/// The links of a node that has started.
pub(crate) struct StartedLinks {
    /// There in the dedicated form.
    pub(crate) thread: Option<LinkThreadHandle>,
    pub(crate) cores: Vec<CoreLinks>,
}

/// Stops and joins the link thread when dropped.
#[derive(Debug)]
pub(crate) struct LinkThreadHandle {
    stop: Arc<AtomicBool>,
    unparker: Unparker,
    thread: Option<JoinHandle<()>>,
}

struct LinkThread {
    lent: LentEngine,
    sleeper: Option<Box<dyn Sleeper>>,
    /// The core that takes turns with it.
    beside: Unparker,
    /// Cores that are to be woken.
    told: Vec<Unparker>,
    clock: Clock,
    parker: Parker,
    spin_ns: u64,
    /// As that of a core's thread.
    yields: bool,
    stop: Arc<AtomicBool>,
}

impl LinksConfig {
    pub(crate) fn prepare(self, cores: u16) -> Result<PreparedLinks, StartError> {
        let own = self.own.unwrap_or_else(|| self.transport.local_addr().clone());
        let members =
            FixedMembers::new(&self.nodes, &own).map_err(|error| StartError::Config(error.to_string()))?;
        // Never zero, which means any life of a node.
        let incarnation = (unpredictable() as u32).max(1);
        Ok(PreparedLinks {
            me: members.me(incarnation),
            transport: self.transport,
            members: Members::Fixed(members),
            cores,
            cluster: self.cluster,
            secret: self.secret,
        })
    }
}

impl PreparedLinks {
    /// The links of a node of a cluster whose members change.
    pub(crate) fn open(
        transport: Box<dyn Transport>,
        me: NodeId,
        cores: u16,
        cluster: u128,
        secret: [u8; 32],
    ) -> Self {
        let members = Members::Open(transport.local_addr().clone());
        Self { transport, members, me, cores, cluster, secret }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.me
    }

    pub(crate) fn routes(&self) -> Arc<Routes> {
        match &self.members {
            Members::Fixed(members) => members.routes(self.me, self.cores),
            Members::Open(_) => Arc::new(Routes::new(self.me, self.cores, Arc::new(View::empty(StoreId(0))))),
        }
    }

    /// Gives a core the buffers of the transport.
    pub(crate) fn equip(&self, config: &mut CoreConfig) {
        let caps = self.transport.caps();
        config.frames = Some(self.transport.pool().clone());
        // Half of a link's buffers, by all cores together. Counted receives are never lent: they get copies before.
        config.lent_max = match caps.receive_window_frames {
            Some(_) => usize::MAX,
            None => caps.receive_buffers_per_link / 2 / usize::from(self.cores),
        };
    }

    /// Whether the core takes turns with the link thread in sleeping in the transport: the only one of the node. Where there are others
    /// the frames for them do not wait for what one of them does.
    pub(crate) fn takes_turns(&self) -> bool {
        self.cores == 1 && self.transport.sleeper().is_some()
    }

    /// A parker for the thread that is to drive the links.
    pub(crate) fn parker(&self) -> Parker {
        let wake = self.transport.waker();
        Parker::with_waker(move || wake.wake())
    }

    /// A parker for each of two threads that take turns.
    pub(crate) fn parker_of_two(&self) -> Parker {
        let wake = self.transport.waker();
        Parker::with_either(move || wake.wake())
    }

    /// Links for core 0 to drive, whose parker is [`parker`](Self::parker)'s.
    pub(crate) fn start_inline(
        self,
        cores: &[Unparker],
        clock: Clock,
        control: Option<ControlPort>,
    ) -> StartedLinks {
        let driver = &cores[0];
        let others = (1..).zip(&cores[1..]).map(|(core, unparker)| rings(core, unparker, driver));
        let (ports, links): (Vec<_>, Vec<_>) = others.unzip();
        let inline =
            CoreLinks::Inline(Box::new(InlineLinks { engine: self.engine(clock, ports, control), clock }));
        let cores = std::iter::once(inline).chain(links.into_iter().map(CoreLinks::Rings)).collect();
        StartedLinks { thread: None, cores }
    }

    /// Links with a thread of their own. If it [takes turns](Self::takes_turns) with the core both have a
    /// [`parker_of_two`](Self::parker_of_two).
    pub(crate) fn start_dedicated(
        self,
        parker: Parker,
        cores: &[Unparker],
        clock: Clock,
        (spin_ns, yields): (u64, bool),
        control: Option<ControlPort>,
    ) -> Result<StartedLinks, StartError> {
        let unparker = parker.unparker();
        let stop = Arc::new(AtomicBool::new(false));
        let rings = (0..).zip(cores).map(|(core, its)| rings(core, its, &unparker));
        let (ports, mut links): (Vec<_>, Vec<_>) = rings.unzip();
        let takes_turns = self.takes_turns();
        let mut engine = self.engine(clock, ports, control);
        let sleeper = engine.sleeper();
        if takes_turns {
            links[0].sleeper = engine.sleeper();
            // Also while the thread has not begun.
            engine.seat.taken = Some(Sitter::Driver);
        }
        let lent = Arc::new(Mutex::new(Some(engine)));
        if sleeper.is_some() {
            links.iter_mut().for_each(|links: &mut RingLinks| links.lent = Some(lent.clone()));
        }
        let (beside, told, stops) = (cores[0].clone(), Vec::new(), stop.clone());
        let thread = LinkThread { lent, sleeper, beside, told, clock, parker, spin_ns, yields, stop: stops };
        let thread = spawn(thread)?;
        let thread = Some(LinkThreadHandle { stop, unparker, thread: Some(thread) });
        Ok(StartedLinks { thread, cores: links.into_iter().map(CoreLinks::Rings).collect() })
    }

    fn engine(self, clock: Clock, ports: Vec<LinkPort>, control: Option<ControlPort>) -> Engine {
        let caps = self.transport.caps();
        let Self { me, cores, cluster, secret, .. } = self;
        let mut config = match &self.members {
            Members::Fixed(members) => FabricConfig::new(me, cores, members, cluster, &secret, caps),
            Members::Open(own) => FabricConfig::open(me, cores, own.clone(), cluster, &secret, caps),
        };
        config.bulk = self.transport.bulk_pool().cloned();
        config.seed = unpredictable();
        let fabric = Fabric::new(clock.now(), config, Some(self.transport.pool()));
        Engine::new(self.transport, fabric, ports, control)
    }
}

fn rings(core: u16, its: &Unparker, driver: &Unparker) -> (LinkPort, RingLinks) {
    let (to_link, from_core) = ring::ring(RING_LEN);
    let (to_core, from_link) = ring::ring(RING_LEN);
    let port = LinkPort { core, outgoing: from_core, incoming: to_core, unparker: its.clone() };
    let links = RingLinks {
        outgoing: to_link,
        incoming: from_link,
        unparker: driver.clone(),
        waiting: VecDeque::new(),
        told: 0,
        lent: None,
        sleeper: None,
    };
    (port, links)
}

#[expect(clippy::disallowed_methods, reason = "the driver starts the node's threads")]
fn spawn(thread: LinkThread) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("epic-links".to_owned()).spawn(move || thread.run())
}

/// A number that nobody outside can guess: the keys of `RandomState` come from the operating system.
pub(crate) fn unpredictable() -> u64 {
    RandomState::new().hash_one(0u64)
}

impl CoreLinks {
    /// Lets the links make progress, if this core is the one that drives them. `false` if there was nothing.
    #[inline]
    pub(crate) fn drive(&mut self, now: u64) -> bool {
        match self {
            Self::Rings(_) => false,
            // What is there already comes first.
            Self::Inline(links) if links.engine.has_input(DRIVER) => true,
            Self::Inline(links) => links.engine.gather(now) | links.engine.poll(now),
        }
    }

    /// Looks for what came over the links, if this core drives them; `false` if there is nothing.
    #[inline]
    pub(crate) fn poll(&mut self, now: u64) -> bool {
        match self {
            Self::Rings(_) => false,
            Self::Inline(links) => links.engine.poll(now),
        }
    }

    /// Gives the frames and pieces of news for this core, about so many at most.
    #[inline]
    pub(crate) fn give_inputs(&mut self, now: u64, count_max: usize, inputs: &mut Inputs<'_>) {
        match self {
            Self::Rings(links) => {
                for input in std::iter::from_fn(|| links.incoming.try_pop()).take(count_max) {
                    match input {
                        LinkInput::Frame(PeerFrame { peer, frame, target }) => {
                            inputs.frame(peer, frame, target);
                        }
                        LinkInput::News(news) => inputs.news(*news),
                    }
                }
            }
            Self::Inline(links) => links.engine.give_inputs(now, DRIVER, count_max, inputs),
        }
    }

    /// Whether [`give_inputs`](Self::give_inputs) would give something.
    #[inline]
    pub(crate) fn has_frames(&mut self) -> bool {
        match self {
            Self::Rings(links) => !links.incoming.is_empty(),
            Self::Inline(links) => links.engine.has_input(DRIVER),
        }
    }

    /// Whether there is something for [`flush`](Self::flush) to do.
    #[inline]
    pub(crate) fn has_unsent(&mut self) -> bool {
        match self {
            Self::Rings(links) => links.told > 0 || !links.waiting.is_empty() || links.incoming.room_wanted(),
            Self::Inline(links) => links.engine.has_unsent(),
        }
    }

    /// Sends a frame, or leaves it for the one who does.
    #[inline]
    pub(crate) fn send(&mut self, now: u64, peer: NodeId, frame: Frame) {
        match self {
            Self::Rings(links) => links.send(PeerFrame::new(peer, frame)),
            Self::Inline(links) => links.engine.handle_frame(now, DRIVER, peer, frame),
        }
    }

    /// Brings what was sent on its way, once for each pass.
    pub(crate) fn flush(&mut self, now: u64) {
        match self {
            Self::Rings(links) => links.flush(now),
            Self::Inline(links) => drop(links.engine.transmit(now)),
        }
    }

    /// Whether something waits, as far as a look without a system call tells.
    #[inline]
    pub(crate) fn has_input(&mut self) -> bool {
        match self {
            Self::Rings(links) => links.has_input(),
            Self::Inline(links) => links.engine.has_input(DRIVER),
        }
    }

    /// Whether this core may sleep; to be asked last, after `Parker::prepare`.
    pub(crate) fn may_sleep(&mut self) -> bool {
        match self {
            Self::Rings(links) => !links.has_input(),
            Self::Inline(links) => !links.engine.has_input(DRIVER) && links.engine.may_sleep(),
        }
    }

    /// Whether this core drives the links: then it looks for input by [`drive`](Self::drive).
    pub(crate) fn is_inline(&self) -> bool {
        matches!(self, Self::Inline(_))
    }

    /// Sleeps in the transport if this core drives it, or takes its turn there; else in the parker, which was prepared. Only after
    /// [`may_sleep`](Self::may_sleep) said so.
    pub(crate) fn sleep(&mut self, parker: &mut Parker, clock: Clock, now: u64, timeout_ns: u64) {
        match self {
            Self::Rings(links) => links.sleep(parker, clock, now, timeout_ns),
            Self::Inline(links) => {
                links.engine.sleep(now, timeout_ns);
                parker.cancel();
            }
        }
    }
}

impl InlineLinks {
    /// All cores have ended: what they left is sent, then the links are closed with a last word.
    pub(crate) fn finish(mut self) {
        self.engine.finish(|| self.clock.now());
    }
}

impl RingLinks {
    /// Leaves a frame for whoever drives the links; in order, also when its ring is full for a while.
    fn send(&mut self, frame: PeerFrame) {
        self.told += 1;
        let refused = if self.waiting.is_empty() { self.outgoing.try_push(frame) } else { Err(frame) };
        if let Err(frame) = refused
            && !frame.may_be_left_out()
        {
            self.waiting.push_back(frame);
        }
    }

    /// Has sent what was left, once for each pass: wakes the one who drives the links, unless this core can send meanwhile. It is woken
    /// too if it waits for room.
    fn flush(&mut self, now: u64) {
        while let Some(frame) = self.waiting.pop_front() {
            if let Err(frame) = self.outgoing.try_push(frame) {
                self.waiting.push_front(frame);
                break;
            }
            self.told += 1;
        }
        let told = std::mem::take(&mut self.told);
        let is_served = (1..=FRAMES_SERVED_MAX).contains(&told) && self.serve(now);
        if told > 0 && !is_served || self.incoming.room_wanted() {
            self.unparker.unpark_if_parked();
        }
    }

    /// Sends what was left, if the one who drives the links sleeps. `false`: that one is to be woken.
    fn serve(&self, now: u64) -> bool {
        let Some(Ok(mut lent)) = self.lent.as_ref().map(|lent| lent.try_lock()) else { return false };
        // Where nobody has the seat this core is about to take it, and does what is left then.
        lent.as_mut().is_some_and(|engine| engine.serve(now) || engine.seat.taken.is_none())
    }

    /// Whether something waits; for the moment before the core sleeps.
    fn has_input(&mut self) -> bool {
        if self.incoming.room_wanted() {
            self.unparker.unpark_if_parked();
        }
        !self.incoming.is_empty() || !self.waiting.is_empty() && self.outgoing.want_room()
    }
}

impl LinkThread {
    fn run(mut self) {
        let lent = self.lent.clone();
        let mut held = lock(&lent);
        let mut idle_since = None;
        while !self.stop.load(Ordering::Acquire)
            && let Some(engine) = held.as_mut()
        {
            let now = self.clock.now();
            let worked = engine.pass(now);
            engine.take_told(&mut self.told);
            if worked && (self.spin_ns > 0 || !engine.is_settled()) {
                idle_since = None;
                self.wake_told();
                continue;
            }
            let since = *idle_since.get_or_insert(now);
            if now - since >= self.spin_ns {
                held = self.sleep(now, &lent, held);
                idle_since = None;
                continue;
            }
            self.wake_told();
            if self.yields {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        if let Some(mut engine) = held.take() {
            engine.finish(|| self.clock.now());
        }
    }

    /// Sleeps, with the engine in the hands of the cores if the transport can sleep apart.
    fn sleep<'a>(&mut self, now: u64, lent: &'a LentEngine, mut held: HeldEngine<'a>) -> HeldEngine<'a> {
        if held.as_ref().is_some_and(|engine| engine.seat.wanted) {
            return self.stand_by(lent, held);
        }
        self.parker.prepare();
        let may_sleep =
            !self.stop.load(Ordering::Acquire) && held.as_mut().is_some_and(|engine| engine.may_sleep());
        match (held.as_mut().filter(|_| may_sleep), &mut self.sleeper) {
            (None, _) => self.wake_told(),
            (Some(engine), None) => engine.sleep(now, SLEEP_NS),
            (Some(engine), Some(sleeper)) => {
                let timeout = engine.begin_sleep(now, SLEEP_NS, Sitter::Driver);
                drop(held);
                // One that runs at once, in the place of this thread, finds the engine free.
                wake(&mut self.told);
                if self.parker.commit() {
                    sleeper.sleep(timeout);
                }
                // Before it waits for the engine: it looks at the rings when it has that.
                self.parker.cancel();
                held = lock(lent);
                if let Some(engine) = held.as_mut() {
                    engine.end_sleep();
                }
            }
        }
        self.parker.cancel();
        held
    }

    fn wake_told(&mut self) {
        wake(&mut self.told);
    }
}

fn wake(told: &mut Vec<Unparker>) {
    for core in told.drain(..) {
        core.unpark_if_parked();
    }
}

impl Drop for LinkThread {
    /// Also when it panicked: peers see at once that the links are gone.
    fn drop(&mut self) {
        drop(lock(&self.lent).take());
    }
}

/// Also after a panic of a core: its node stops, and says so over the links.
fn lock(lent: &LentEngine) -> HeldEngine<'_> {
    lent.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for LinkThreadHandle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.unparker.unpark();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the link thread panicked");
        }
    }
}

/// The core that drives the links where no thread of their own does.
const DRIVER: u16 = 0;
/// Slots of a ring between a core and whoever drives the links.
const RING_LEN: usize = 4096;
/// Frames that a core sends by itself while the link thread sleeps; more are worth waking that.
const FRAMES_SERVED_MAX: usize = 32;
/// The longest sleep; a guard, not a rhythm.
const SLEEP_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests;
