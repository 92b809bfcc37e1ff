//! The link thread of a node, as steps: the real fabric on a loopback network that is slow, refuses and breaks by plan.
//!
//! One step is one pass of the driver's loop, but how many frames each core's queue gives and takes is drawn.

use std::collections::{BTreeSet, VecDeque};

use epicserver_runtime::core::Event;
use epicserver_runtime::fabric::{Command, ControlInput, Fabric, FabricConfig, FixedMembers, LinkInput};
use epicserver_runtime::remote::PeerFrame;
use epicserver_storage::{Member, NodeId};
use epicserver_transport::{
    Addr, BufferPool, Event as TransportEvent, FaultPlan, Faulty, Frame, LinkId, LoopbackNetwork,
};

use super::cluster::ToCluster;
use super::scene::Scene;
use super::wire::Wire;
use crate::trace::Happened;

/// See the module's documentation.
pub(crate) struct Links {
    node: u16,
    transport: Wire,
    /// What the network does on its usual days.
    plan: FaultPlan,
    fabric: Fabric,
    /// Links that are up.
    up: Vec<LinkId>,
    /// Frames that cores have for peers, by core.
    outgoing: Vec<VecDeque<PeerFrame>>,
    /// What cores have not taken yet, by core.
    incoming: Vec<VecDeque<LinkInput>>,
    /// In a cluster whose members change: what came in the last pass may have to be answered in another one.
    owes_pass: Option<bool>,
    /// What the cluster thread wants.
    orders: VecDeque<LinksOrder>,
    /// What the cluster thread has not taken yet.
    pub(crate) told: VecDeque<ToCluster>,
}

/// Who the peers of a node are.
pub(crate) enum Peers<'a> {
    /// These, for ever.
    Fixed(&'a FixedMembers),
    /// Whoever the view names; this node listens here.
    Open(Addr),
}

/// What the cluster thread wants of the link thread.
#[derive(Debug)]
pub(crate) enum LinksOrder {
    Say(NodeId, Frame),
    Members(Vec<Member>),
    Seek(Addr),
    Rebirth(NodeId),
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("fabric", &self.fabric).finish_non_exhaustive()
    }
}

impl Links {
    /// Binds the node's address on the network, and starts to look for its peers.
    pub(crate) fn new(
        node: u16,
        me: NodeId,
        peers: &Peers<'_>,
        network: &LoopbackNetwork,
        scene: &mut Scene,
    ) -> Self {
        let cores = scene.profile.cores;
        let options = scene.profile.loopback.clone();
        let address = match peers {
            Peers::Fixed(members) => members.own_address(),
            Peers::Open(address) => address.clone(),
        };
        let transport = network.bind(address.as_str(), options).expect("the life before has let go of it");
        let plan = plan(scene);
        if plan.delay_ns.end >= UNEVEN_NS {
            scene.fault("links of uneven speed");
        }
        let transport = Wire::new(Faulty::new(transport, plan.clone()));
        let caps = transport.caps();
        let mut config = match peers {
            Peers::Fixed(members) => FabricConfig::new(me, cores, members, CLUSTER, &SECRET, caps),
            Peers::Open(_) => FabricConfig::open(me, cores, address, CLUSTER, &SECRET, caps),
        };
        // No two of them are the same, whatever is on the tape: who hears his own nonce refuses the link.
        config.seed = scene.tape.u64(..) ^ (me.id.rotate_left(32) ^ u64::from(me.incarnation));
        let fabric = Fabric::new(scene.now, config, Some(transport.pool()));
        let queues = || (0..cores).map(|_| VecDeque::new()).collect();
        let (outgoing, incoming) = ((0..cores).map(|_| VecDeque::new()).collect(), queues());
        // The world's own clients call again and again, which makes the passes that fixed nodes need to find each other.
        let owes_pass = (matches!(peers, Peers::Open(_)) || !scene.cast.is_own()).then_some(true);
        let (orders, told) = (VecDeque::new(), VecDeque::new());
        Self { node, transport, plan, fabric, up: Vec::new(), outgoing, incoming, owes_pass, orders, told }
    }

    /// Where frames of this node lie.
    pub(crate) fn pool(&self) -> &BufferPool {
        self.transport.pool()
    }

    /// The receive buffers that each core may lend to methods.
    pub(crate) fn lent_max(&self, cores: u16) -> usize {
        let caps = self.transport.caps();
        match caps.receive_window_frames {
            Some(_) => usize::MAX,
            None => caps.receive_buffers_per_link / 2 / usize::from(cores),
        }
    }

    /// Nothing goes wrong from now on.
    pub(crate) fn heal(&mut self) {
        self.plan = FaultPlan::calm(0);
        self.transport.set_plan(FaultPlan::calm(0));
    }

    /// From now on nothing comes of nodes at these addresses, and what else comes takes so long, or what it usually takes.
    pub(crate) fn set_trouble(&mut self, unheard: BTreeSet<Addr>, delay_ns: Option<u64>) {
        self.transport.set_unheard(unheard);
        let usual = self.plan.clone();
        self.transport.set_plan(match delay_ns {
            Some(delay_ns) => FaultPlan { delay_ns: 0..delay_ns, ..usual },
            None => usual,
        });
    }

    /// The peers to which this node has a link that works, in their present lives.
    pub(crate) fn present(&self) -> impl Iterator<Item = NodeId> {
        self.fabric.present()
    }

    /// A core has a frame for a peer.
    pub(crate) fn send(&mut self, core: u16, frame: PeerFrame) {
        self.outgoing[usize::from(core)].push_back(frame);
    }

    pub(crate) fn outgoing_len(&self, core: u16) -> usize {
        self.outgoing[usize::from(core)].len()
    }

    pub(crate) fn has_input(&self, core: u16) -> bool {
        !self.incoming[usize::from(core)].is_empty()
    }

    /// What a core takes now: some of what there is.
    pub(crate) fn take(&mut self, core: u16, scene: &mut Scene) -> Vec<Event> {
        let queue = &mut self.incoming[usize::from(core)];
        let len = scene.tape.some_of(queue.len());
        let event = |input| match input {
            LinkInput::Frame(frame) => Event::Frame(frame),
            LinkInput::News(news) => Event::Link(*news),
        };
        queue.drain(..len).map(event).collect()
    }

    pub(crate) fn can_advance(&mut self, now: u64) -> bool {
        let cores = 0..self.outgoing.len() as u16;
        self.outgoing.iter().any(|queue| !queue.is_empty())
            || !self.orders.is_empty()
            || self.owes_pass == Some(true)
            || cores.into_iter().any(|core| self.fabric.has_output(core))
            || self.fabric.has_control()
            || self.next_time().is_some_and(|at| at <= now)
            || !self.transport.arm()
    }

    pub(crate) fn next_time(&self) -> Option<u64> {
        self.fabric.poll_timeout().into_iter().chain(self.transport.poll_timeout()).min()
    }

    /// One pass.
    pub(crate) fn advance(&mut self, scene: &mut Scene) {
        let now = scene.now;
        let sent = self.take_frames(scene);
        self.take_orders(now);
        if self.fabric.poll_timeout().is_some_and(|at| at <= now) {
            self.fabric.handle_timeout(now);
        }
        self.transmit(now);
        let mut events = Vec::new();
        self.transport.poll(now, &mut events);
        let received = events.len();
        for event in events {
            match event {
                TransportEvent::LinkUp { link, .. } => self.up.push(link),
                TransportEvent::LinkDown { link, .. } => self.up.retain(|up| *up != link),
                _ => {}
            }
            self.fabric.handle_event(now, event);
        }
        self.pass_on();
        let delivered = self.deliver(scene);
        if let Some(owes_pass) = &mut self.owes_pass {
            *owes_pass = received + delivered > 0;
        }
        let links = self.up.len();
        scene.happened(Happened::Linked { node: self.node, sent, received, delivered, links });
        self.break_link(scene);
    }

    /// The cluster thread wants something.
    pub(crate) fn order(&mut self, order: LinksOrder) {
        self.orders.push_back(order);
    }

    fn take_orders(&mut self, now: u64) {
        take_orders(&mut self.fabric, &mut self.orders, now);
    }

    /// Brings on who is there and what peers say.
    fn pass_on(&mut self) {
        while let Some(input) = self.fabric.poll_control() {
            self.told.push_back(match input {
                ControlInput::News(news) => ToCluster::Peer(news),
                ControlInput::Frame(from, frame) => ToCluster::Control(from, frame),
            });
        }
    }

    fn take_frames(&mut self, scene: &mut Scene) -> usize {
        let mut taken = 0;
        for (core, queue) in (0..).zip(&mut self.outgoing) {
            let len = scene.tape.some_of(queue.len());
            for PeerFrame { peer, frame, .. } in queue.drain(..len) {
                taken += 1;
                // As the driver's engine does.
                if let Some(frame) = self.fabric.try_frame(scene.now, core, peer, frame) {
                    take_orders(&mut self.fabric, &mut self.orders, scene.now);
                    self.fabric.handle_frame(scene.now, core, PeerFrame::new(peer, frame));
                }
            }
        }
        taken
    }

    fn transmit(&mut self, now: u64) {
        let transport = &mut self.transport;
        self.fabric.poll_transmit(now, |link, frames| transport.send(link, frames));
        self.transport.flush();
        while let Some(command) = self.fabric.poll_command() {
            match command {
                Command::Connect { peer, addr } => {
                    let link = self.transport.connect(&addr, now);
                    self.fabric.handle_connect(now, peer, &addr, link);
                }
                Command::Close(link) => self.transport.close(link),
            }
        }
    }

    fn deliver(&mut self, scene: &mut Scene) -> usize {
        let mut delivered = 0;
        for (core, queue) in (0..).zip(&mut self.incoming) {
            while queue.len() < INCOMING_MAX
                && let Some(input) = self.fabric.poll_output(core)
            {
                queue.push_back(input);
                delivered += 1;
            }
            if queue.len() == INCOMING_MAX && self.fabric.has_output(core) {
                scene.fault("ring from the links full");
            }
            scene.bounds.queue("the frames for a core", queue.len(), INCOMING_MAX);
        }
        delivered
    }

    fn break_link(&mut self, scene: &mut Scene) {
        let chance = scene.profile.cuts_per_mille;
        if scene.healed || self.up.is_empty() || !scene.tape.per_mille(chance) {
            return;
        }
        let link = self.up.remove(scene.tape.usize(..self.up.len()));
        self.transport.fail_link(link);
        scene.fault("link cut");
        scene.happened(Happened::Cut { node: self.node });
    }

    pub(crate) fn is_quiet(&self) -> bool {
        let cores = 0..self.outgoing.len() as u16;
        self.outgoing.iter().all(VecDeque::is_empty)
            && self.incoming.iter().all(VecDeque::is_empty)
            && self.orders.is_empty()
            && !cores.into_iter().any(|core| self.fabric.has_output(core))
    }
}

fn take_orders(fabric: &mut Fabric, orders: &mut VecDeque<LinksOrder>, now: u64) {
    for order in orders.drain(..) {
        match order {
            // Without a link it is lost, as it may be on its way.
            LinksOrder::Say(to, frame) => drop(fabric.handle_control(now, to, frame)),
            LinksOrder::Members(members) => fabric.handle_members(now, &members),
            LinksOrder::Seek(addr) => drop(fabric.seek(now, addr)),
            LinksOrder::Rebirth(me) => fabric.handle_rebirth(now, me),
        }
    }
}

/// What any network does on a good day, and more of it in some worlds. Links are cut by the world itself.
fn plan(scene: &mut Scene) -> FaultPlan {
    let seed = scene.tape.u64(..);
    if scene.healed { FaultPlan::calm(seed) } else { FaultPlan { seed, ..scene.profile.network.clone() } }
}

const CLUSTER: u128 = 7;
const SECRET: [u8; 32] = [7; 32];
/// Delays of at most so much and more let what goes over several links overtake each other by whole steps of the world.
const UNEVEN_NS: u64 = 100_000;
/// Slots of the ring between the link thread and a core: few, so that it fills.
const INCOMING_MAX: usize = 16;
