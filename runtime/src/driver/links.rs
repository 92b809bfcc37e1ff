//! The link thread: the transport, the fabric on it, and the rings to and from the cores.
//!
//! ```text
//!   pass: frames of cores -> fabric -> [transmit, one flush] -> poll -> fabric -> frames and news for cores -> wake them
//!         nothing to do: spin a while, arm, sleep in the transport until something arrives, a timer is due, a core wakes it
//! ```
//! Many frames of many cores leave in one flush: what came together goes together, and nothing waits for more. What does
//! not fit into a core's ring stays in the fabric, in order, and the room of its peer is not given back meanwhile.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use epicserver_storage::NodeId;
use epicserver_transport::{Addr, Event as TransportEvent, Transport};

use super::Wait;
use super::clock::Clock;
use crate::core::{CoreConfig, Event};
use crate::fabric::{Command, Fabric, FabricConfig, FixedMembers, LinkInput};
use crate::node::StartError;
use crate::remote::PeerFrame;
use crate::routes::Routes;
use crate::sync::parker::{Parker, Unparker};
use crate::sync::ring;

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

/// Node id and fixed view are known, the transport listens, no thread runs.
pub(crate) struct PreparedLinks {
    transport: Box<dyn Transport>,
    members: FixedMembers,
    me: NodeId,
    cores: u16,
    cluster: u128,
    secret: [u8; 32],
}

/// A core's ends of the rings to and from the link thread.
pub(crate) struct CoreLinks {
    outgoing: ring::Producer<PeerFrame>,
    incoming: ring::Consumer<LinkInput>,
    unparker: Unparker,
    /// Frames that found the ring full, in order: as many as the core's windows and the calls it runs allow.
    waiting: VecDeque<PeerFrame>,
    told: bool,
}

/// Stops and joins the link thread when dropped.
#[derive(Debug)]
pub(crate) struct LinkThreadHandle {
    stop: Arc<AtomicBool>,
    unparker: Unparker,
    thread: Option<JoinHandle<()>>,
}

/// The link thread's ends of the rings to and from one core.
struct LinkPort {
    outgoing: ring::Consumer<PeerFrame>,
    incoming: ring::Producer<LinkInput>,
    unparker: Unparker,
}

struct LinkThread {
    transport: Box<dyn Transport>,
    fabric: Fabric,
    ports: Vec<LinkPort>,
    clock: Clock,
    parker: Parker,
    spin_ns: u64,
    stop: Arc<AtomicBool>,
    events: Vec<TransportEvent>,
    links: usize,
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
            members,
            cores,
            cluster: self.cluster,
            secret: self.secret,
        })
    }
}

impl PreparedLinks {
    pub(crate) fn id(&self) -> NodeId {
        self.me
    }

    pub(crate) fn routes(&self) -> Arc<Routes> {
        self.members.routes(self.me, self.cores)
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

    pub(crate) fn start(
        self,
        cores: &[Unparker],
        clock: Clock,
        wait: Wait,
        spin_ns: u64,
    ) -> Result<(LinkThreadHandle, Vec<CoreLinks>), StartError> {
        let wake = self.transport.waker();
        let parker = Parker::with_waker(move || wake.wake());
        let unparker = parker.unparker();
        let stop = Arc::new(AtomicBool::new(false));
        let mut config = FabricConfig::new(
            self.me,
            self.cores,
            &self.members,
            self.cluster,
            &self.secret,
            self.transport.caps(),
        );
        config.seed = unpredictable();
        let fabric = Fabric::new(clock.now(), config, Some(self.transport.pool()));
        let (ports, core_links) = cores.iter().map(|core| rings(core, &unparker)).unzip();
        let thread = LinkThread {
            transport: self.transport,
            fabric,
            ports,
            clock,
            parker,
            spin_ns: if wait == Wait::Spin { u64::MAX } else { spin_ns },
            stop: stop.clone(),
            events: Vec::new(),
            links: 0,
        };
        let thread = spawn(thread)?;
        Ok((LinkThreadHandle { stop, unparker, thread: Some(thread) }, core_links))
    }
}

fn rings(core: &Unparker, link_thread: &Unparker) -> (LinkPort, CoreLinks) {
    let (to_link, from_core) = ring::ring(RING_LEN);
    let (to_core, from_link) = ring::ring(RING_LEN);
    let port = LinkPort { outgoing: from_core, incoming: to_core, unparker: core.clone() };
    let core_links = CoreLinks {
        outgoing: to_link,
        incoming: from_link,
        unparker: link_thread.clone(),
        waiting: VecDeque::new(),
        told: false,
    };
    (port, core_links)
}

#[expect(clippy::disallowed_methods, reason = "the driver starts the node's threads")]
fn spawn(thread: LinkThread) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("epic-links".to_owned()).spawn(move || thread.run())
}

/// A number that nobody outside can guess: the keys of `RandomState` come from the operating system.
fn unpredictable() -> u64 {
    RandomState::new().hash_one(0u64)
}

impl CoreLinks {
    /// The next frame or piece of news for this core.
    #[inline]
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        Some(match self.incoming.try_pop()? {
            LinkInput::Frame(frame) => Event::Frame(frame),
            LinkInput::News(news) => Event::Link(*news),
        })
    }

    /// Leaves a frame for the link thread; in order, also when its ring is full for a while.
    pub(crate) fn send(&mut self, frame: PeerFrame) {
        self.told = true;
        let refused = if self.waiting.is_empty() { self.outgoing.try_push(frame) } else { Err(frame) };
        if let Err(frame) = refused
            && !frame.may_be_left_out()
        {
            self.waiting.push_back(frame);
        }
    }

    /// Wakes the link thread if something was sent or it waits for room, once for each pass.
    pub(crate) fn flush(&mut self) {
        while let Some(frame) = self.waiting.pop_front() {
            if let Err(frame) = self.outgoing.try_push(frame) {
                self.waiting.push_front(frame);
                break;
            }
            self.told = true;
        }
        if std::mem::take(&mut self.told) || self.incoming.room_wanted() {
            self.unparker.unpark_if_parked();
        }
    }

    /// Whether something waits; for the moment before the core sleeps.
    pub(crate) fn has_input(&mut self) -> bool {
        if self.incoming.room_wanted() {
            self.unparker.unpark_if_parked();
        }
        !self.incoming.is_empty() || !self.waiting.is_empty() && self.outgoing.want_room()
    }
}

impl LinkThread {
    fn run(mut self) {
        let mut idle_since = None;
        while !self.stop.load(Ordering::Acquire) {
            let now = self.clock.now();
            if self.pass(now) {
                idle_since = None;
                continue;
            }
            let since = *idle_since.get_or_insert(now);
            if now - since < self.spin_ns {
                std::hint::spin_loop();
            } else {
                self.sleep(now);
                idle_since = None;
            }
        }
        self.finish();
    }

    /// One round; `false` if there was nothing to do.
    fn pass(&mut self, now: u64) -> bool {
        let mut worked = self.take_frames(now);
        if self.fabric.poll_timeout().is_some_and(|at| at <= now) {
            self.fabric.handle_timeout(now);
            worked = true;
        }
        worked |= self.transmit(now);
        self.transport.poll(now, &mut self.events);
        worked |= !self.events.is_empty();
        for event in self.events.drain(..) {
            match event {
                TransportEvent::LinkUp { .. } => self.links += 1,
                TransportEvent::LinkDown { .. } => self.links = self.links.saturating_sub(1),
                _ => {}
            }
            self.fabric.handle_event(now, event);
        }
        self.fabric.report_taken();
        worked | self.deliver()
    }

    fn take_frames(&mut self, now: u64) -> bool {
        let mut worked = false;
        for (core, port) in (0..).zip(&mut self.ports) {
            for _ in 0..FRAMES_PER_PASS {
                let Some(frame) = port.outgoing.try_pop() else { break };
                self.fabric.handle_frame(now, core, frame);
                worked = true;
            }
            if port.outgoing.room_wanted() {
                port.unparker.unpark_if_parked();
            }
        }
        worked
    }

    fn transmit(&mut self, now: u64) -> bool {
        let mut worked = false;
        let transport = &mut self.transport;
        self.fabric.poll_transmit(now, |link, frames| {
            let before = frames.len();
            if let Err(error) = transport.send(link, frames) {
                // The link's last event is on its way, and with it the end of what is left.
                tracing::debug!(%error, "a link takes no frames");
            }
            worked |= frames.len() < before;
        });
        self.transport.flush();
        while let Some(command) = self.fabric.poll_command() {
            worked = true;
            match command {
                Command::Connect { peer, addr } => {
                    let link = self.transport.connect(&addr, now);
                    self.fabric.handle_connect(now, peer, link);
                }
                Command::Close(link) => self.transport.close(link),
            }
        }
        worked
    }

    /// Brings each core what there is for it and room for, and wakes it once.
    fn deliver(&mut self) -> bool {
        let mut worked = false;
        for (core, port) in (0..).zip(&mut self.ports) {
            let mut told = false;
            while self.fabric.has_output(core) && port.incoming.has_room() {
                let Some(input) = self.fabric.poll_output(core) else { break };
                if port.incoming.try_push(input).is_err() {
                    tracing::error!(core, "a ring that had room was full");
                }
                told = true;
            }
            if told {
                port.unparker.unpark_if_parked();
                worked = true;
            }
        }
        worked
    }

    fn sleep(&mut self, now: u64) {
        self.parker.prepare();
        let fabric = &self.fabric;
        let has_input = self.stop.load(Ordering::Acquire)
            || (0..).zip(&mut self.ports).any(|(core, port)| {
                !port.outgoing.is_empty()
                    || port.outgoing.room_wanted()
                    || fabric.has_output(core) && port.incoming.want_room()
            });
        if !has_input && self.transport.arm() {
            let due = self.fabric.poll_timeout().into_iter().chain(self.transport.poll_timeout()).min();
            let timeout = due.map_or(SLEEP_NS, |at| at.saturating_sub(now).min(SLEEP_NS));
            self.transport.wait(Duration::from_nanos(timeout));
        }
        self.parker.cancel();
    }

    /// The cores have ended: what they left is sent, then the links are closed with a last word.
    fn finish(mut self) {
        let deadline = self.clock.now() + LINGER_NS;
        while self.clock.now() < deadline && self.pass(self.clock.now()) {}
        let now = self.clock.now();
        self.fabric.close(now);
        self.transmit(now);
        while self.links > 0 && self.clock.now() < deadline {
            self.pass(self.clock.now());
            if self.links > 0 && self.transport.arm() {
                self.transport.wait(Duration::from_millis(10));
            }
        }
    }
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

/// Slots of a ring between a core and the link thread.
const RING_LEN: usize = 4096;
/// Frames taken from one core in one pass.
const FRAMES_PER_PASS: usize = 512;
/// The longest sleep; a guard, not a rhythm.
const SLEEP_NS: u64 = 1_000_000_000;
/// How long a node that stops goes on to send.
const LINGER_NS: u64 = 500_000_000;
