//! A few nodes in one thread: cores, fabrics and loopback transports, each called by hand, in virtual time.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use epicserver_storage::{NodeId, PartitionState};
use epicserver_transport::{
    Addr, Event as TransportEvent, FaultPlan, Faulty, Frame, FrameHeader, FrameKind, LinkId, LoopbackNetwork,
    LoopbackOptions, LoopbackTransport, Transport,
};

use crate::bytes::Bytes;
use crate::core::{Action, Core, CoreConfig, CoreMessage, Event};
use crate::entity::{Entities, RawRef};
use crate::error::CallError;
use crate::fabric::{Command, Fabric, FabricConfig, FixedMembers};
use crate::field::Field;
use crate::key::StoredKey;
use crate::membership::Handover;
use crate::remote::PeerFrame;
use crate::routes::Routes;
use crate::saving::SavePolicy;
use crate::shipment::{Drained, Shipment};
use crate::tests::by_hand::{entity, method};
use crate::wire::extension::Extension;

/// An object that counts, remembers, and calls others of its kind.
#[derive(Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Post {
    count: Field<u64>,
    log: Field<Vec<u64>>,
}

entity!(
    Post,
    u64,
    "test.Post",
    SavePolicy::Never,
    [
        Add,
        Note,
        Notes,
        Nap,
        Echo,
        Relay,
        Chain,
        Blow,
        Fan,
        Linger,
        super::lent::Peek,
        super::at_once::Meddle,
        super::at_once::Glance
    ]
);

method!(Add { by: u64 } on Post as &'a mut Post, u64, |this, object| {
    *object.count.get_mut() += this.by;
    object.count.get()
});
method!(Note { number: u64 } on Post as &'a mut Post, (), |this, object| object.log.get_mut().push(this.number));
method!(Notes {} on Post as &'a mut Post, Vec<u64>, |_this, object| object.log.get_mut().clone());
method!(Nap { ms: u64 } on Post as &'a Post, u64, |this, object| {
    crate::context::sleep(std::time::Duration::from_millis(this.ms)).await;
    object.count.update(|count| count + 1);
    object.count.get()
});
method!(Echo { bytes: Vec<u8> } on Post as &'a Post, Vec<u8>, |this, object| {
    let _ = object;
    this.bytes
});
// As `Echo`, after a nap.
method!(Relay { bytes: Bytes } on Post as &'a Post, Bytes, |this, object| {
    let _ = object;
    crate::context::sleep(std::time::Duration::from_millis(20)).await;
    this.bytes
});
method!(Blow { len: u64 } on Post as &'a Post, Vec<u8>, |this, object| {
    let _ = object;
    vec![7; this.len as usize]
});
// Exclusive: calls the next object of the path.
method!(Chain { path: Vec<u64> } on Post as &'a mut Post, u64, |this, object| {
    let _ = object;
    chain(this.path).await
});
// Exclusive: waits a while and then calls the next object of the path.
method!(Linger { ms: u64, path: Vec<u64> } on Post as &'a mut Post, u64, |this, object| {
    let _ = object;
    crate::context::sleep(std::time::Duration::from_millis(this.ms)).await;
    chain(this.path).await
});
// Shared: calls many objects at once and adds up what they say.
method!(Fan { keys: Vec<u64>, rounds: u64 } on Post as &'a Post, u64, |this, object| {
    let _ = object;
    let mut sum = 0;
    for _ in 0..this.rounds {
        for key in &this.keys {
            sum += post(*key).call(Add { by: 1 }).await.map_or(0, |_| 1);
        }
    }
    sum
});

async fn chain(mut path: Vec<u64>) -> u64 {
    if path.is_empty() {
        return 0;
    }
    let next = path.remove(0);
    match post(next).call(Chain { path }).await {
        Ok(depth) => depth + 1,
        Err(CallError::Deadlock(_)) => 1_000,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn post(key: u64) -> RawRef<Post> {
    RawRef::new(key)
}

/// Nodes `a`, `b`, ... on one network.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) nodes: Vec<NodeByHand>,
    network: LoopbackNetwork,
    options: Options,
}

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) cores: u16,
    pub(crate) loopback: LoopbackOptions,
    pub(crate) plan: FaultPlan,
    pub(crate) core: CoreConfig,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cores: 1,
            loopback: LoopbackOptions::plain(),
            plan: FaultPlan::calm(1),
            core: CoreConfig { window_max: 64, ..CoreConfig::default() },
        }
    }
}

/// One node. Without a process it is down.
pub(crate) struct NodeByHand {
    pub(crate) process: Option<Process>,
    address: Addr,
    incarnation: u32,
}

pub(crate) struct Process {
    pub(crate) cores: Vec<Core>,
    pub(crate) fabric: Fabric,
    pub(crate) transport: Faulty<LoopbackTransport>,
    between: VecDeque<(u16, CoreMessage)>,
    actions: Vec<Action>,
    routes: Arc<Routes>,
    drained: Vec<Drained>,
    pub(crate) links: Vec<LinkId>,
    /// Kinds of frames that are to be lost on their way in, one for each entry.
    pub(crate) losses: Vec<FrameKind>,
    /// Frames of each kind that came in.
    pub(crate) came: Vec<FrameKind>,
    /// Handle, and whether there is a key, of each request and one-way that came in.
    pub(crate) named: Vec<(u32, bool)>,
}

impl World {
    pub(crate) fn new(count: usize) -> Self {
        Self::with(count, Options::default())
    }

    /// Nodes that are down.
    pub(crate) fn down(count: usize, options: Options) -> Self {
        let node = |index: usize| NodeByHand {
            process: None,
            address: Addr::new(&char::from(b'a' + index as u8).to_string()),
            incarnation: 0,
        };
        Self { now: 0, nodes: (0..count).map(node).collect(), network: LoopbackNetwork::new(), options }
    }

    pub(crate) fn with(count: usize, options: Options) -> Self {
        let mut world = Self::down(count, options);
        (0..count).for_each(|node| world.boot(node));
        world
    }

    /// Starts a node, in a new life.
    pub(crate) fn boot(&mut self, node: usize) {
        let addresses: Vec<Addr> = self.nodes.iter().map(|node| node.address.clone()).collect();
        let this = &mut self.nodes[node];
        this.incarnation += 1;
        let members = FixedMembers::new(&addresses, &this.address).expect("it is in the list");
        let me = members.me(this.incarnation);
        let transport =
            self.network.bind(this.address.as_str(), self.options.loopback.clone()).expect("free");
        let transport = Faulty::new(
            transport,
            FaultPlan { seed: self.options.plan.seed + node as u64, ..self.options.plan.clone() },
        );
        let mut config = FabricConfig::new(me, self.options.cores, &members, 5, &[9; 32], transport.caps());
        config.seed = u64::from(this.incarnation) * 100 + node as u64;
        let fabric = Fabric::new(self.now, config, Some(transport.pool()));
        let routes = members.routes(me, self.options.cores);
        let core = CoreConfig { frames: Some(transport.pool().clone()), ..self.options.core.clone() };
        let cores = cores(self.now, &core, self.options.cores, &routes);
        this.process = Some(Process {
            cores,
            fabric,
            transport,
            between: VecDeque::new(),
            actions: Vec::new(),
            routes,
            drained: Vec::new(),
            links: Vec::new(),
            losses: Vec::new(),
            came: Vec::new(),
            named: Vec::new(),
        });
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].process = None;
    }

    pub(crate) fn process(&mut self, node: usize) -> &mut Process {
        self.nodes[node].process.as_mut().expect("it is up")
    }

    /// The `nth` key whose object lives on this node.
    pub(crate) fn key_on(&self, node: usize, nth: usize) -> u64 {
        let addresses: Vec<Addr> = self.nodes.iter().map(|node| node.address.clone()).collect();
        let members = FixedMembers::new(&addresses, &self.nodes[node].address).expect("it is in the list");
        let me = members.me(1);
        let routes = members.routes(me, self.options.cores);
        let lives_there = |key: &u64| {
            let partition = key.canonical(|key| key.partition());
            matches!(routes.place(partition), crate::routes::Place::Here(_))
        };
        (1..).filter(lives_there).nth(nth).expect("keys are spread over the nodes")
    }

    pub(crate) fn id(&self, node: usize) -> NodeId {
        let addresses: Vec<Addr> = self.nodes.iter().map(|node| node.address.clone()).collect();
        let this = &self.nodes[node];
        FixedMembers::new(&addresses, &this.address).expect("in the list").me(this.incarnation)
    }

    /// Runs a future as a task of the first core of a node.
    pub(crate) fn start<T: Send + 'static>(
        &mut self,
        node: usize,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Started<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let left = self.process(node).cores[0].desk().leave(Box::new(move |core| {
            let task = async move {
                let _ = sender.send(future.await);
            };
            core.spawn_loose(task).expect("a free slot");
        }));
        assert!(left.is_ok());
        Started(receiver)
    }

    /// One pass of every node; whether anything moved.
    pub(crate) fn pass(&mut self) -> bool {
        let mut moved = false;
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                moved |= process.pass(self.now);
            }
        }
        moved
    }

    /// Runs until nothing moves, without time passing.
    pub(crate) fn settle(&mut self) {
        for _ in 0..200_000 {
            if !self.pass() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Lets time pass, a step at a time.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.settle();
            self.now += 1_000_000;
        }
        self.settle();
    }

    /// Starts a future and runs for a while; what it gave.
    pub(crate) fn call<T: Send + 'static>(
        &mut self,
        node: usize,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let mut started = self.start(node, future);
        for _ in 0..20_000 {
            self.settle();
            if let Some(result) = started.result() {
                return result;
            }
            self.now += 1_000_000;
        }
        panic!("no answer in twenty seconds");
    }

    /// Breaks every link of a node; what is under way on them is lost.
    pub(crate) fn cut(&mut self, node: usize) {
        let process = self.process(node);
        for link in std::mem::take(&mut process.links) {
            process.transport.fail_link(link);
        }
    }

    /// Shows a node another view: the partition of this key belongs to `owner` at `epoch`.
    pub(crate) fn show(&mut self, node: usize, key: u64, owner: usize, epoch: u64) {
        self.make_view(node, key, owner, epoch, None);
        self.show_cores(node);
    }

    /// As [`show`](Self::show), where the partition is on its way to another node.
    pub(crate) fn show_move(&mut self, node: usize, key: u64, owner: usize, epoch: u64, to: usize) {
        self.make_view(node, key, owner, epoch, Some(to));
        self.show_cores(node);
    }

    /// Makes the view that [`show_core`](Self::show_core) brings to the cores of a node, each in its own time.
    pub(crate) fn make_view(&mut self, node: usize, key: u64, owner: usize, epoch: u64, to: Option<usize>) {
        let seen = |other: usize| {
            if other == node { self.id(other) } else { NodeId { incarnation: 0, ..self.id(other) } }
        };
        let state = PartitionState { owner: Some(seen(owner)), epoch, moving_to: to.map(seen) };
        let (me, cores) = (self.id(node), self.options.cores);
        let process = self.nodes[node].process.as_mut().expect("it is up");
        let partition = key.canonical(|key| key.partition());
        let mut view = (**process.routes.view()).clone();
        view.version += 1;
        view.partitions[usize::from(partition)] = state;
        process.routes = Arc::new(Routes::new(me, cores, Arc::new(view)));
    }

    fn show_cores(&mut self, node: usize) {
        (0..self.options.cores).for_each(|core| self.show_core(node, core));
    }

    /// Brings what the last node to let go of this key's partition gave away to the next owner, by way of its bytes.
    pub(crate) fn ship(&mut self, from: usize, to: usize, key: u64) {
        let drained = self.drained(from, key).expect("it is drained");
        let Handover { partition, epoch, .. } = drained.handover;
        let stream = drained.records.part(0).bytes;
        let shipment = Shipment::parse(partition, epoch + 1, &stream).expect("a stream of records");
        let (now, core) = (self.now, partition.number() % self.options.cores);
        let process = self.process(to);
        let event = Event::Shipped(Box::new(shipment));
        process.cores[usize::from(core)].step(now, event, &mut process.actions);
    }

    /// Whether a node gave the partition of this key away.
    pub(crate) fn has_drained(&mut self, node: usize, key: u64) -> bool {
        let partition = key.canonical(|key| key.partition());
        self.process(node).drained.iter().any(|drained| drained.handover.partition.number() == partition)
    }

    /// What a node gave away of the partition of this key; asked once.
    pub(crate) fn drained(&mut self, node: usize, key: u64) -> Option<Drained> {
        let partition = key.canonical(|key| key.partition());
        let drained = &mut self.process(node).drained;
        let place = drained.iter().position(|drained| drained.handover.partition.number() == partition)?;
        Some(drained.remove(place))
    }

    /// Shows a core the newest view of its node.
    pub(crate) fn show_core(&mut self, node: usize, core: u16) {
        let now = self.now;
        let process = self.process(node);
        let event = Event::View(process.routes.clone());
        process.cores[usize::from(core)].step(now, event, &mut process.actions);
    }

    /// Puts a frame of this node on the way to another, as if a core had made it.
    pub(crate) fn send_raw(&mut self, node: usize, to: usize, frame: Frame) {
        let (now, peer) = (self.now, NodeId { incarnation: 0, ..self.id(to) });
        self.process(node).fabric.handle_frame(now, 0, PeerFrame::new(peer, frame));
    }

    /// Puts a frame on the link of a node, past its session.
    pub(crate) fn inject(&mut self, node: usize, frame: Frame) {
        let process = self.process(node);
        let link = *process.links.first().expect("a link is up");
        process.transport.send(link, &mut VecDeque::from([frame])).expect("the link takes it");
        process.transport.flush();
    }

    /// Ends every node and checks that every buffer is back and no call is left.
    pub(crate) fn end(mut self) {
        self.settle();
        let up = || self.nodes.iter().filter_map(|node| node.process.as_ref());
        let pools: Vec<_> = up().map(|process| process.transport.pool().clone()).collect();
        for core in up().flat_map(|process| &process.cores) {
            assert!(core.is_quiet(), "calls are left on {core:?}");
        }
        self.nodes.clear();
        for pool in pools {
            assert_eq!(pool.outstanding(), 0, "every buffer comes back");
        }
    }
}

fn cores(now: u64, config: &CoreConfig, count: u16, routes: &Arc<Routes>) -> Vec<Core> {
    let mut entities = Vec::new();
    <(Post,)>::collect(&mut entities);
    config
        .for_node(count)
        .into_iter()
        .map(|config| Core::new(now, config, &entities, routes.clone()))
        .collect()
}

impl Process {
    fn pass(&mut self, now: u64) -> bool {
        let mut moved = self.step_cores(now);
        moved |= self.perform(now);
        let mut sent = false;
        let transport = &mut self.transport;
        self.fabric.poll_transmit(now, |link, frames| {
            let before = frames.len();
            // A link that is gone says so by its last event.
            let _ = transport.send(link, frames);
            sent |= frames.len() < before;
        });
        self.transport.flush();
        while let Some(command) = self.fabric.poll_command() {
            moved = true;
            match command {
                Command::Connect { peer, addr } => {
                    let link = self.transport.connect(&addr, now);
                    self.fabric.handle_connect(now, peer, &addr, link);
                }
                Command::Close(link) => self.transport.close(link),
            }
        }
        let mut events = Vec::new();
        self.transport.poll(now, &mut events);
        moved |= sent || !events.is_empty();
        for event in events {
            match &event {
                TransportEvent::LinkUp { link, .. } => self.links.push(*link),
                TransportEvent::LinkDown { link, .. } => self.links.retain(|other| other != link),
                TransportEvent::Receive { frame, .. } => {
                    let header = FrameHeader::parse(frame).expect("a transport gives whole frames");
                    if let Some(at) = self.losses.iter().position(|kind| *kind == header.kind()) {
                        self.losses.swap_remove(at);
                        continue;
                    }
                    self.came.push(header.kind());
                    if matches!(header.kind(), FrameKind::Request | FrameKind::OneWay) {
                        let extension = Extension::parse(FrameHeader::ext_bytes(frame).unwrap_or_default());
                        let has_key = extension.is_ok_and(|extension| extension.key.is_some());
                        self.named.push((header.handle.get(), has_key));
                    }
                }
                TransportEvent::Writable { .. } => {}
            }
            self.fabric.handle_event(now, event);
        }
        if self.fabric.poll_timeout().is_some_and(|at| at <= now) {
            self.fabric.handle_timeout(now);
        }
        moved | self.deliver(now)
    }

    fn deliver(&mut self, now: u64) -> bool {
        let mut moved = false;
        for (index, core) in self.cores.iter_mut().enumerate() {
            // As core threads do, once a pass.
            let mut given = 0;
            core.deliver_inputs(now, &mut self.actions, |inputs| {
                given = self.fabric.give_outputs(index as u16, INPUTS_MAX, inputs);
            });
            core.take_sends(|peer, frame| self.actions.push(Action::Frame(PeerFrame::new(peer, frame))));
            moved |= given > 0;
        }
        moved
    }

    fn step_cores(&mut self, now: u64) -> bool {
        let mut moved = false;
        for core in &mut self.cores {
            if !core.desk().is_empty() {
                core.step(now, Event::Desk, &mut self.actions);
                moved = true;
            }
            if core.next_timer().is_some_and(|at| at <= now) {
                core.step(now, Event::Tick, &mut self.actions);
                moved = true;
            }
            if core.is_ready() {
                core.step(now, Event::Turns(64), &mut self.actions);
                moved = true;
            }
        }
        moved
    }

    fn perform(&mut self, now: u64) -> bool {
        let mut moved = false;
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::Message(core, message) => self.between.push_back((core, *message)),
                Action::Frame(frame) => {
                    let core = FrameHeader::parse(&frame.frame).map_or(0, |header| header.source_core);
                    self.fabric.handle_frame(now, u16::from(core), frame);
                    moved = true;
                }
                Action::Drained(drained) => self.drained.push(*drained),
                _ => {}
            }
        }
        while let Some((core, message)) = self.between.pop_front() {
            self.cores[usize::from(core)].step(now, Event::Message(message), &mut self.actions);
            moved = true;
        }
        moved
    }
}

/// Frames and pieces of news that a core gets in a pass.
const INPUTS_MAX: usize = 1024;

/// The result of a future that was started on a core.
pub(crate) struct Started<T>(tokio::sync::oneshot::Receiver<T>);

impl<T> Started<T> {
    pub(crate) fn result(&mut self) -> Option<T> {
        self.0.try_recv().ok()
    }
}
