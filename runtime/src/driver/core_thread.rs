//! The thread of one core: brings it what happened, does what it wants, and waits when there is nothing to do.
//!
//! ```text
//!   pass: rings -> turns they made ready -> batches, links, answers, desk, timers -> turns -> actions -> wake others
//!         nothing to do: look out for a while, hand over, go idle, park
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Sender, TrySendError};

use super::Wait;
use super::clock::Clock;
use super::cluster::ToCluster;
use super::edge::EdgeHandle;
use super::links::{CoreLinks, InlineLinks};
use super::storage_thread::{FromStorage, StorageDesk, ToStorage};
use crate::core::{Action, Core, CoreMessage, Counters, Event};
use crate::saving::SaveNews;
use crate::shipment::Drained;
use epicserver_sync::batch_clock::{CoreClock, Observation};
use epicserver_sync::inbox::Inbox;
use epicserver_sync::parker::{Parker, Unparker};
use epicserver_sync::ring::Consumer;

/// The way to another core of the node.
pub(crate) struct Neighbour {
    pub(crate) index: u16,
    pub(crate) incoming: Consumer<CoreMessage>,
    pub(crate) unparker: Unparker,
}

/// What the node may look at while the core runs. It has lines of its own: the core writes it while others wait for its messages,
/// which would wait for a line that is shared.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CoreGauge {
    pub(crate) calls: AtomicU64,
    pub(crate) turns: AtomicU64,
    pub(crate) cross_core_calls: AtomicU64,
    pub(crate) remote_calls: AtomicU64,
    pub(crate) images: AtomicU64,
    pub(crate) activations: AtomicU64,
    pub(crate) objects: AtomicU64,
    pub(crate) calls_from_nodes: AtomicU64,
    pub(crate) idle_dropped: AtomicU64,
    pub(crate) budget_dropped: AtomicU64,
    pub(crate) memory_len: AtomicU64,
    /// No call, no task, nothing that waits for a batch.
    pub(crate) quiet: AtomicBool,
    /// No call, and no task but those that objects have spawned.
    pub(crate) at_rest: AtomicBool,
    /// Since the order to drain nothing is left.
    pub(crate) stopped: AtomicBool,
}

/// Orders from the node, in lines that nobody writes otherwise, as the core reads them in every pass.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CoreOrders {
    pub(crate) drain: AtomicBool,
    pub(crate) stop: AtomicBool,
}

/// One core's thread.
pub(crate) struct CoreThread {
    pub(crate) core: Core,
    pub(crate) clock: Clock,
    pub(crate) wait: Wait,
    pub(crate) spin_ns: u64,
    /// Whether it hands the processor on between two looks, since another thread that spins may share it.
    pub(crate) yields: bool,
    pub(crate) parker: Parker,
    pub(crate) neighbours: Vec<Neighbour>,
    pub(crate) batches: CoreClock,
    pub(crate) storage: Arc<StorageDesk>,
    pub(crate) answers: Arc<Inbox<FromStorage>>,
    pub(crate) links: Option<CoreLinks>,
    pub(crate) edge: EdgeHandle,
    pub(crate) gauge: Arc<CoreGauge>,
    pub(crate) orders: Arc<CoreOrders>,
    /// In a cluster: who brings the objects of partitions that move to their next owners.
    pub(crate) cluster: Option<Sender<ToCluster>>,
    pub(crate) buffers: Buffers,
}

/// Vectors that are used again in every pass.
#[derive(Default)]
pub(crate) struct Buffers {
    actions: Vec<Action>,
    answers: Vec<FromStorage>,
    /// Requests that the storage thread had no room for, in order.
    storage: VecDeque<ToStorage>,
    /// Partitions that the cluster thread had no room for.
    drained: VecDeque<Box<Drained>>,
    /// What the core has passed, once the storage thread has all of `storage`.
    passed: Option<u64>,
    seen: Option<Observation>,
    draining: bool,
    /// Passes that did something since the gauge was brought up to date.
    unpublished: u32,
    /// Until then it is not told again that a pass took long.
    quiet_until: u64,
}

impl CoreThread {
    /// Runs until the node stops. Returns with the core dropped, and so with everything ended that ran on it; the links are
    /// given back if this core drove them, as others may have left frames for them.
    pub(crate) fn run(mut self) -> Option<Box<InlineLinks>> {
        self.batches.wake();
        self.publish();
        let mut now = self.clock.now();
        let mut busy_at = now;
        while !self.orders.stop.load(Ordering::Relaxed) {
            let worked = self.pass(now);
            // After the pass, when its messages are on their way: whoever waits for them does not wait for the clock.
            let began = std::mem::replace(&mut now, self.clock.now());
            if now - began > HELD_NS {
                self.warn_held(began, now);
            }
            if worked {
                busy_at = now;
            }
            if self.core.is_ready() {
                continue;
            }
            let has_input = worked && self.sees_input();
            if self.wait == Wait::Spin || now - busy_at < self.spin_ns {
                if worked && !has_input {
                    self.publish();
                }
                // Also with input, of which there may be more by now: what leaves together costs less.
                self.look_out(now);
            } else if !has_input {
                self.sleep(now);
                now = self.clock.now();
                busy_at = now;
            }
        }
        self.finish()
    }

    /// A pass took long, in which nothing else ran here. Gives whether it is told, which is done now and then only.
    #[cold]
    fn warn_held(&mut self, began: u64, now: u64) -> bool {
        if began < self.buffers.quiet_until {
            return false;
        }
        self.buffers.quiet_until = now + HELD_AGAIN_NS;
        let (core, held_ms) = (self.core.number(), (now - began) / 1_000_000);
        tracing::warn!(
            core,
            held_ms,
            "a method held its core and nothing else ran there, unless the machine stood still: what computes or waits that long \
             belongs into `context::blocking`"
        );
        true
    }

    /// Spins until something comes, and not for long: timers and orders are looked at in passes. The clock is not read
    /// here, so that what comes is handled at once, at a time that is some microseconds old.
    ///
    /// Most looks are at the rings, where a message is seen the sooner the shorter the way round is. Between two of them the
    /// processor pauses: it looks ahead otherwise, and when the line is then taken from it for the message, it has to throw away
    /// what it did since. That made a round trip over two rings take 1.4 times as long.
    fn look_out(&mut self, now: u64) {
        if self.links.as_ref().is_some_and(CoreLinks::is_inline) {
            return self.look_out_at_links(now);
        }
        for _ in 0..LOOKS_MAX {
            for _ in 0..RING_LOOKS {
                if self.sees_messages() {
                    return;
                }
                std::hint::spin_loop();
            }
            if self.sees_input() {
                return;
            }
            if self.yields {
                std::thread::yield_now();
            }
        }
    }

    /// As [`look_out`](Self::look_out) of a core that drives the links: a look at these is a system call, and a pass around each would
    /// take as long again.
    fn look_out_at_links(&mut self, now: u64) {
        for _ in 0..LINK_LOOKS {
            if self.links.as_mut().is_some_and(|links| links.poll(now)) || self.sees_messages() {
                return;
            }
            if self.yields {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    #[inline]
    fn sees_messages(&mut self) -> bool {
        self.neighbours.iter_mut().any(|neighbour| !neighbour.incoming.is_empty())
    }

    /// Whether a pass would find something; loads of lines that rarely change hands.
    #[inline]
    fn sees_input(&mut self) -> bool {
        self.sees_messages()
            || self.core.has_waiting()
            || self.links.as_mut().is_some_and(CoreLinks::has_input)
            || !self.core.desk().is_empty()
            || !self.answers.is_empty()
            || !self.buffers.storage.is_empty()
            || Some(self.batches.observe()) != self.buffers.seen
    }

    /// One round; `false` if there was nothing to do.
    fn pass(&mut self, now: u64) -> bool {
        let mut worked = self.deliver_messages(now);
        if worked && self.core.is_ready() {
            // Before the look at everything else: whoever waits for their calls does not wait for that.
            self.run_turns(now);
        }
        let mut told = self.observe_batches(now);
        worked |= self.deliver_links(now);
        worked |= self.deliver_answers(now);
        if !self.core.desk().is_empty() {
            self.step(now, Event::Desk);
            worked = true;
        }
        if self.core.next_timer().is_some_and(|at| at <= now) {
            self.step(now, Event::Tick);
            worked = true;
        }
        if self.orders.drain.load(Ordering::Relaxed) && !std::mem::replace(&mut self.buffers.draining, true) {
            self.step(now, Event::Drain);
            told = true;
        }
        if self.core.is_ready() {
            self.run_turns(now);
            worked = true;
        }
        if worked {
            self.note_work();
        }
        if worked || told || self.has_unsent() {
            self.perform(now);
        }
        worked
    }

    /// Whether something of earlier passes is still to be handed out, or the links have something to send.
    fn has_unsent(&mut self) -> bool {
        !self.buffers.actions.is_empty()
            || self.core.has_sends()
            || !self.buffers.storage.is_empty()
            || !self.buffers.drained.is_empty()
            || self.core.has_waiting()
            || self.core.wants_commit()
            || self.links.as_mut().is_some_and(CoreLinks::has_unsent)
    }

    fn run_turns(&mut self, now: u64) {
        self.core.run_turns(now, TURNS_PER_PASS, &mut self.buffers.actions);
    }

    fn step(&mut self, now: u64, event: Event) {
        self.core.step_apart(now, event, &mut self.buffers.actions);
    }

    /// Takes in what other cores said; `false` if there was nothing.
    fn deliver_messages(&mut self, now: u64) -> bool {
        let mut worked = false;
        for place in 0..self.neighbours.len() {
            for _ in 0..MESSAGES_PER_PASS {
                if self.neighbours[place].incoming.is_empty() {
                    break;
                }
                // After the look into the ring: whatever number the message carries, the batch clock shows by now.
                self.observe_batches(now);
                let core = &mut self.core;
                self.neighbours[place].incoming.try_pop_with(|message| core.deliver(now, message));
                worked = true;
            }
            let neighbour = &mut self.neighbours[place];
            if neighbour.incoming.room_wanted() {
                neighbour.unparker.unpark_if_parked();
            }
        }
        worked
    }

    /// Tells the core what the storage thread did; `false` if that was nothing.
    #[inline]
    fn observe_batches(&mut self, now: u64) -> bool {
        let seen = self.batches.observe();
        let is_news = self.buffers.seen != Some(seen);
        if is_news {
            self.tell_of_batches(now, seen);
        }
        is_news
    }

    fn tell_of_batches(&mut self, now: u64, seen: Observation) {
        let failed_before = self.buffers.seen.map_or(0, |before| before.failure_generation);
        let failed =
            if seen.failure_generation == failed_before { Vec::new() } else { self.batches.take_failures() };
        self.buffers.seen = Some(seen);
        let news = SaveNews { open: seen.open, durable: seen.durable, failed };
        self.step(now, Event::Save(news));
    }

    fn deliver_links(&mut self, now: u64) -> bool {
        let Some(links) = &mut self.links else { return false };
        let worked = links.drive(now);
        if !links.has_frames() {
            return worked;
        }
        self.core.deliver_inputs(now, &mut self.buffers.actions, |inputs| {
            links.give_inputs(now, FRAMES_PER_PASS, inputs);
        });
        true
    }

    fn deliver_answers(&mut self, now: u64) -> bool {
        if self.answers.is_empty() {
            return false;
        }
        self.answers.drain_into(&mut self.buffers.answers);
        let mut answers = std::mem::take(&mut self.buffers.answers);
        for answer in answers.drain(..) {
            let event = match answer {
                FromStorage::Loaded(ticket, answer) => Event::Loaded(ticket, answer),
                FromStorage::Recycled(images) => Event::Recycled(images),
                FromStorage::Lost => Event::StoreLost,
                FromStorage::Event(event) => *event,
                FromStorage::Barrier(done) => {
                    // Whoever gave up waiting does not need to know.
                    let _ = done.try_send(());
                    continue;
                }
            };
            self.step(now, event);
        }
        self.buffers.answers = answers;
        true
    }

    /// Does what the core wants, and wakes whom it concerns, once each.
    fn perform(&mut self, now: u64) {
        let mut actions = std::mem::take(&mut self.buffers.actions);
        let mut to_storage = false;
        for action in actions.drain(..) {
            match action {
                Action::Message(core, _) => unreachable!("the way to core {core} is a ring"),
                Action::HandOver(images) => {
                    self.buffers.storage.push_back(ToStorage::Images(images));
                    to_storage = true;
                }
                Action::Load(ticket) => {
                    self.buffers.storage.push_back(ToStorage::Load(ticket));
                    to_storage = true;
                }
                Action::Passed(number) => {
                    self.buffers.passed = Some(number);
                    to_storage = true;
                }
                Action::Blocking(work) => self.edge.run(work),
                Action::Edge(future) => self.edge.spawn(future),
                Action::Drained(drained) => self.buffers.drained.push_back(drained),
                Action::Frame(_) => unreachable!("frames are taken apart"),
            }
        }
        self.buffers.actions = actions;
        if self.core.has_sends() {
            let links = &mut self.links;
            self.core.take_sends(|peer, frame| {
                if let Some(links) = links {
                    links.send(now, peer, frame);
                }
            });
        }
        // First those who may wait for it: what follows is done while it is on its way.
        self.flush_neighbours();
        if let Some(links) = &mut self.links {
            links.flush(now);
        }
        if to_storage || !self.buffers.storage.is_empty() {
            self.flush_storage();
        }
        if self.core.wants_commit() {
            self.storage.want_commit();
        }
        if !self.buffers.drained.is_empty() {
            self.flush_drained();
        }
        if self.buffers.unpublished >= PASSES_PER_PUBLISHING {
            self.publish();
        }
    }

    fn flush_neighbours(&mut self) {
        let neighbours = &self.neighbours;
        self.core.flush_ways(|core| {
            if let Some(neighbour) = neighbours.iter().find(|neighbour| neighbour.index == core) {
                neighbour.unparker.unpark_if_parked();
            }
        });
    }

    fn flush_storage(&mut self) {
        while let Some(request) = self.buffers.storage.pop_front() {
            if let Err(request) = self.storage.leave(request) {
                self.buffers.storage.push_front(request);
                break;
            }
        }
        // Not while an image of a batch below has no room yet: that batch would be committed without it.
        if self.buffers.storage.is_empty()
            && let Some(number) = self.buffers.passed.take()
        {
            self.batches.passed(number);
        }
        self.storage.wake();
    }

    /// The cluster thread is not waited for: it may wait for this core.
    fn flush_drained(&mut self) {
        let Some(cluster) = &self.cluster else { return self.buffers.drained.clear() };
        while let Some(drained) = self.buffers.drained.pop_front() {
            match cluster.try_send(ToCluster::Drained(drained)) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(ToCluster::Drained(drained))) => {
                    return self.buffers.drained.push_front(drained);
                }
                Err(TrySendError::Full(_)) => return,
            }
        }
    }

    /// Hands over, declares itself idle, and sleeps until something comes or a timer is due.
    fn sleep(&mut self, now: u64) {
        self.publish();
        if self.core.wants_rest() {
            self.step(now, Event::Rest);
        }
        if self.has_unsent() {
            self.perform(now);
        }
        if !self.buffers.storage.is_empty() || !self.buffers.drained.is_empty() {
            // Another thread has no room; it is awake, so look again at once.
            return;
        }
        self.batches.idle();
        self.parker.prepare();
        if self.has_input() {
            self.parker.cancel();
        } else {
            let timeout = self.core.next_timer().map_or(SLEEP_NS, |at| at.saturating_sub(now).min(SLEEP_NS));
            match &mut self.links {
                Some(links) => links.sleep(&mut self.parker, self.clock, now, timeout),
                None => drop(self.parker.park(Some(timeout))),
            }
        }
        self.batches.wake();
    }

    fn has_input(&mut self) -> bool {
        let seen = Some(self.batches.observe()) != self.buffers.seen;
        let ring = |neighbour: &mut Neighbour| {
            if neighbour.incoming.room_wanted() {
                neighbour.unparker.unpark_if_parked();
            }
            !neighbour.incoming.is_empty()
        };
        seen || self.neighbours.iter_mut().any(ring)
            // What waits for room needs no look: the neighbour wakes this core when there is some, unless there is already.
            || self.core.want_room()
            || !self.answers.is_empty()
            || !self.core.desk().is_empty()
            || self.orders.stop.load(Ordering::Acquire)
            || self.orders.drain.load(Ordering::Acquire) != self.buffers.draining
            || self.links.as_mut().is_some_and(|links| !links.may_sleep())
    }

    /// The gauge is brought up to date when nothing more waits, and now and then; that the core is busy shows at once.
    fn note_work(&mut self) {
        if self.buffers.unpublished == 0 {
            self.publish_rest(false);
        }
        self.buffers.unpublished += 1;
    }

    fn publish(&mut self) {
        self.buffers.unpublished = 0;
        let Counters {
            calls,
            turns,
            cross_core_calls,
            remote_calls,
            activations,
            images,
            calls_from_nodes,
            idle_dropped,
            budget_dropped,
        } = self.core.counters();
        let gauge = &self.gauge;
        gauge.calls.store(calls, Ordering::Relaxed);
        gauge.turns.store(turns, Ordering::Relaxed);
        gauge.cross_core_calls.store(cross_core_calls, Ordering::Relaxed);
        gauge.remote_calls.store(remote_calls, Ordering::Relaxed);
        gauge.images.store(images, Ordering::Relaxed);
        gauge.activations.store(activations, Ordering::Relaxed);
        gauge.objects.store(self.core.activations() as u64, Ordering::Relaxed);
        gauge.calls_from_nodes.store(calls_from_nodes, Ordering::Relaxed);
        gauge.idle_dropped.store(idle_dropped, Ordering::Relaxed);
        gauge.budget_dropped.store(budget_dropped, Ordering::Relaxed);
        gauge.memory_len.store(self.core.memory_len(), Ordering::Relaxed);
        self.publish_rest(self.core.desk().is_empty());
    }

    fn publish_rest(&self, may_rest: bool) {
        let (core, gauge) = (&self.core, &self.gauge);
        gauge.quiet.store(may_rest && core.is_quiet(), Ordering::Release);
        gauge.at_rest.store(may_rest && core.is_at_rest(), Ordering::Release);
        gauge.stopped.store(may_rest && core.is_stopped(), Ordering::Release);
    }

    /// The last images go to the storage thread, which commits them before it ends.
    fn finish(mut self) -> Option<Box<InlineLinks>> {
        let now = self.clock.now();
        self.step(now, Event::Rest);
        self.perform(now);
        if self.hand_over_all(now) {
            self.batches.idle();
        }
        match self.links.take() {
            Some(CoreLinks::Inline(links)) => Some(links),
            _ => None,
        }
    }
}

impl CoreThread {
    /// Hands over what the storage thread had no room for. Gives whether it has all of it: else no batch may be committed any more, as
    /// an image of it could be missing.
    fn hand_over_all(&mut self, now: u64) -> bool {
        while !self.buffers.storage.is_empty() && self.clock.now().saturating_sub(now) < HAND_OVER_NS_MAX {
            std::thread::yield_now();
            self.flush_storage();
        }
        let has_all = self.buffers.storage.is_empty();
        if !has_all {
            tracing::error!("the storage thread does not take the last images of a core: they are lost");
            self.storage.broken.store(true, Ordering::Release);
            self.storage.wake();
        }
        has_all
    }
}

impl Drop for CoreThread {
    /// Nobody waits for room at a core that has ended.
    ///
    /// A core that panics is a defect of the runtime, and takes its node along: the storage thread would wait for its images
    /// for ever, and nobody may hear that a batch without them is durable.
    fn drop(&mut self) {
        self.answers.close();
        self.answers.drain_into(&mut self.buffers.answers);
        self.buffers.answers.clear();
        if std::thread::panicking() {
            tracing::error!("a core thread panicked: the node must stop");
            self.storage.broken.store(true, Ordering::Release);
            self.storage.wake();
        }
    }
}

/// Turns between two looks at the inputs: what bounds how long a new call waits behind busy objects.
const TURNS_PER_PASS: u32 = 256;
/// Messages taken from one ring in one pass.
const MESSAGES_PER_PASS: usize = 256;
/// Frames taken from the links in one pass. What comes of them leaves before more are taken, so that the node that waits for it
/// works meanwhile: a write costs as much as some thirty calls, and with all that one peer may have under way in one batch both
/// would wait for each other.
const FRAMES_PER_PASS: usize = 128;
/// Passes that did something until the gauge is brought up to date although more comes.
const PASSES_PER_PUBLISHING: u32 = 64;
/// Looks at everything between two passes of a core that spins.
const LOOKS_MAX: u32 = 8;
/// Looks at the links between two passes of a core that drives them and spins.
const LINK_LOOKS: u32 = 8;
/// Looks at the rings between two looks at everything.
const RING_LOOKS: u32 = 16;
/// A pass that takes longer is told of: others' calls, the lease and the links wait meanwhile.
const HELD_NS: u64 = 1_000_000_000;
/// How long nothing more is told of such passes.
const HELD_AGAIN_NS: u64 = 60_000_000_000;
/// How long a core that ends waits for room for its last images: less than a node waits for the core.
const HAND_OVER_NS_MAX: u64 = 5_000_000_000;
/// The longest sleep; a guard, not a rhythm. Tests go without it: there a wake-up that is lost is a test that hangs.
const SLEEP_NS: u64 = if cfg!(test) { 3_600_000_000_000 } else { 1_000_000_000 };

#[cfg(test)]
mod tests {
    use epicserver_storage::NodeId;

    use super::*;
    use crate::core::CoreConfig;
    use crate::driver::cluster::CoreDoors;
    use crate::driver::edge::Edge;
    use crate::routes::Routes;
    use crate::saving::BatchImages;
    use epicserver_sync::batch_clock::batch_clock;

    /// The only core of a node without entities.
    fn core_thread(storage: Arc<StorageDesk>, batches: CoreClock, edge: &Edge) -> CoreThread {
        let config = CoreConfig::default().for_node(1).remove(0);
        let routes = Arc::new(Routes::solo(NodeId { id: 1, incarnation: 1 }, 1));
        let clock = Clock::start();
        CoreThread {
            core: Core::new(clock.now(), config, &[], routes),
            clock,
            wait: Wait::Park,
            spin_ns: 0,
            yields: false,
            parker: Parker::new(),
            neighbours: Vec::new(),
            batches,
            storage,
            answers: Arc::new(Inbox::new(8)),
            links: None,
            edge: edge.handle(),
            gauge: Arc::default(),
            orders: Arc::default(),
            cluster: None,
            buffers: Buffers::default(),
        }
    }

    fn images(number: u64) -> ToStorage {
        let mut images = Box::<BatchImages>::default();
        images.reset(number);
        ToStorage::Images(images)
    }

    /// A core that ended while the storage thread had no room for its last images said that it was idle all the same, so that their
    /// batch would have been durable without them.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "stands for the storage thread")]
    fn a_core_that_ends_hands_its_last_images_over_before_it_is_idle() {
        let mut parker = Parker::new();
        let desk = Arc::new(StorageDesk::new(parker.unparker()));
        let (_storage, mut cores) = batch_clock(1, parker.unparker());
        while desk.leave(images(1)).is_ok() {}
        let edge = Edge::new().expect("threads");
        let mut thread = core_thread(desk.clone(), cores.remove(0), &edge);
        thread.batches.wake();
        thread.buffers.storage.push_back(images(7));
        parker.prepare();
        let (taker, (has_ended, ended)) = (desk.clone(), crossbeam_channel::bounded::<()>(1));
        let takes = std::thread::spawn(move || {
            // Woken by a core that found no room.
            parker.park(None);
            let mut taken = taker.take();
            let _ = ended.recv();
            taken.extend(taker.take());
            taken.iter().any(|request| matches!(request, ToStorage::Images(images) if images.number == 7))
        });
        assert!(thread.finish().is_none(), "it drives no links");
        drop(has_ended);
        assert!(takes.join().expect("no panic"));
        assert!(!desk.broken.load(Ordering::Acquire));
    }

    #[test]
    fn a_core_that_is_held_says_so_now_and_then() {
        let parker = Parker::new();
        let desk = Arc::new(StorageDesk::new(parker.unparker()));
        let (_storage, mut cores) = batch_clock(1, parker.unparker());
        let edge = Edge::new().expect("threads");
        let mut thread = core_thread(desk, cores.remove(0), &edge);
        assert!(thread.warn_held(0, 2 * HELD_NS));
        assert!(!thread.warn_held(3 * HELD_NS, 5 * HELD_NS), "it was told just now");
        let later = 2 * HELD_NS + HELD_AGAIN_NS;
        assert!(thread.warn_held(later, later + 2 * HELD_NS));
    }

    #[test]
    fn whoever_waits_for_room_at_a_core_that_has_ended_waits_no_more() {
        let parker = Parker::new();
        let desk = Arc::new(StorageDesk::new(parker.unparker()));
        let (_storage, mut cores) = batch_clock(1, parker.unparker());
        let edge = Edge::new().expect("threads");
        let thread = core_thread(desk, cores.remove(0), &edge);
        let answers = thread.answers.clone();
        while answers.push(FromStorage::Recycled(Box::default())).is_ok() {}
        drop(thread);
        let doors = CoreDoors { doors: vec![(answers, parker.unparker())] };
        doors.lease(7);
        doors.wait_for_all();
    }
}
