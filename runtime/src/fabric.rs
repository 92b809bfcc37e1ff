//! The fabric: the links of a node to its peers, and who is at their other ends. Pure logic.
//!
//! ```text
//!   transport events ─┐                     ┌─ poll_command    connect to, close
//!   frames of cores ──┼──> Fabric ──────────┼─ poll_transmit   frames for a link
//!   time ─────────────┘   a Session per     └─ poll_output     frames and news for a core
//!                         peer
//! ```
//! Drive it like this: hand in events, outcomes of connects, frames of cores and time; then drain commands, transmits
//! and outputs. Of two nodes the one whose address comes first dials, so that a pair has one link; the other end learns
//! from the hello who dialled.
//!
//! *Which core gets a frame.* A request says it in its header: the sender works it out from the view, and a core that is
//! wrong passes the frame on. An answer goes to the core that the header names as well, which the answering side took
//! from the request's source core.
//!
//! *Back-pressure.* The room of a frame is given back to its peer when a core takes the frame, so a core that does not
//! take any more holds back its peers by their credits, and what waits here is bounded by the windows of the sessions. The
//! room of calls is given back only while the answers to that peer are not piling up.
//!
//! *What becomes of calls.* Every request that a core handed in is on a list until its answer has passed. When a link comes
//! up or is given up, those that are neither answered nor to be sent again are told to their core as unknown, or as
//! not sent. Nothing here looks into a payload.
//!
//! Not here: sockets, threads, clocks (`driver/links.rs`), credits and counts (`session`), objects (`core`).
//! Start at [`Fabric::handle_event`].

use std::collections::{BTreeMap, VecDeque};

use epicserver_storage::NodeId;
use epicserver_transport::{Addr, BufferPool, Caps, Direction, Event, Frame, FrameHeader, FrameKind, LinkId};

use crate::error::Loss;
use crate::remote::{CallRef, LinkNews, PeerFrame};
use crate::session::{DownReason, LostReason, SessionConfig, SessionEvent};
use crate::wire::handshake::{Handshake, HandshakeConfig};
use crate::wire::hello::{Agreement, ClusterSecret, Identity, NONCE_LEN, WHOLE_NODE};

mod fixed;
mod peer;

pub use fixed::{FixedMembers, MembersError, fingerprint};
use peer::{Dial, Peer};

/// All links of a node. See the module for how to drive it.
pub struct Fabric {
    config: FabricConfig,
    rng: fastrand::Rng,
    nonces: u64,
    peers: BTreeMap<u64, Peer>,
    /// Whose link it is, once that is known.
    links: BTreeMap<LinkId, u64>,
    /// Links that were accepted and whose dialler has not proven who it is.
    strangers: BTreeMap<LinkId, Stranger>,
    commands: VecDeque<Command>,
    outputs: Vec<VecDeque<Output>>,
}

/// What a fabric is told of its node.
#[derive(Clone, Debug)]
pub struct FabricConfig {
    /// This node, in this life.
    pub me: NodeId,
    /// How many cores it has.
    pub cores: u16,
    /// The other nodes: their ids, and where they listen.
    pub peers: Vec<(u64, Addr)>,
    /// The address of this node as the others know it.
    pub address: Addr,
    /// What all nodes have in common.
    pub agreement: Agreement,
    /// The cluster's secret.
    pub secret: ClusterSecret,
    /// The bounds of each session; its `stream` is drawn anew for each.
    pub session: SessionConfig,
    /// Whether frames are copied out of their receive buffers before a core gets them, as links with counted receives
    /// need it: there a buffer that is kept is a receive that is not posted.
    pub copies: bool,
    /// Where nonces, streams and jitter come from. Of a real node it must be unpredictable.
    pub seed: u64,
}

impl FabricConfig {
    /// The usual bounds over a transport with these capabilities.
    pub fn new(
        me: NodeId,
        cores: u16,
        members: &FixedMembers,
        cluster: u128,
        secret: &[u8; 32],
        caps: &Caps,
    ) -> Self {
        let mut session = SessionConfig::for_transport(0, caps);
        session.without_link_max_ns = WITHOUT_LINK_NS;
        Self {
            me,
            cores,
            peers: members.peers(),
            address: members.own_address(),
            agreement: Agreement {
                version: crate::wire::hello::PROTOCOL_VERSION,
                fingerprint: fingerprint(),
                cluster,
            },
            secret: ClusterSecret::new(secret),
            session,
            copies: caps.receive_window_frames.is_some(),
            seed: 0,
        }
    }
}

/// What a fabric wants of its transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect to a peer; say how that went with [`Fabric::handle_connect`].
    Connect {
        /// The peer's node id.
        peer: u64,
        /// Where it listens.
        addr: Addr,
    },
    /// Close the link, after what was transmitted.
    Close(LinkId),
}

/// What a core gets of the links.
#[derive(Debug)]
pub enum LinkInput {
    /// A frame of a peer.
    Frame(PeerFrame),
    /// What became of calls.
    News(Box<LinkNews>),
}

enum Output {
    Call(PeerFrame),
    Answer(PeerFrame),
    News(Box<LinkNews>),
}

struct Stranger {
    handshake: Handshake,
    transmits: VecDeque<Frame>,
}

impl Fabric {
    /// A fabric without links; buffers for the sessions' own frames come from `pool`.
    pub fn new(now: u64, config: FabricConfig, pool: Option<&BufferPool>) -> Self {
        let mut rng = fastrand::Rng::with_seed(config.seed);
        let peer = |(id, addr): &(u64, Addr)| {
            let session = SessionConfig { stream: rng.u64(..), ..config.session };
            let dial = (config.address < *addr).then(|| Dial::new(now, addr.clone()));
            (*id, Peer::new(*id, session, pool.cloned(), dial, config.cores))
        };
        let peers = config.peers.iter().map(peer).collect();
        let outputs = (0..config.cores).map(|_| VecDeque::new()).collect();
        let (links, strangers, commands) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Self { config, rng, nonces: 0, peers, links, strangers, commands, outputs }
    }

    /// Takes what happened on the transport.
    pub fn handle_event(&mut self, now: u64, event: Event) {
        match event {
            Event::LinkUp { link, direction: Direction::Incoming, .. } => self.greet(now, link),
            Event::LinkUp { link, direction: Direction::Outgoing, .. } => self.introduce(now, link),
            Event::LinkDown { link, reason } => self.lose(now, link, reason),
            Event::Receive { link, frame } => self.receive(now, link, frame),
            Event::Writable { link } => {
                if let Some(peer) = self.links.get(&link).and_then(|id| self.peers.get_mut(id)) {
                    peer.blocked = false;
                }
            }
        }
    }

    /// Takes the outcome of a [`Command::Connect`].
    pub fn handle_connect(&mut self, now: u64, peer: u64, outcome: std::io::Result<LinkId>) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        match outcome {
            Ok(link) => drop(self.links.insert(link, peer)),
            Err(error) => {
                tracing::warn!(peer = format!("{peer:016x}"), %error, "a link cannot be started");
                state.redial(now, &mut self.rng);
            }
        }
    }

    /// Takes a frame that core `core` of this node has for a peer.
    pub fn handle_frame(&mut self, now: u64, core: u16, frame: PeerFrame) {
        let Ok(header) = FrameHeader::parse_frame(&frame.frame).copied() else { return };
        let Some(peer) = self.peers.get_mut(&frame.peer.id) else {
            return self.refuse(core, &header, frame.peer);
        };
        let is_present = |now_there: NodeId| now_there == frame.peer;
        if frame.peer.incarnation != 0 && !peer.present.is_some_and(is_present) {
            return self.refuse(core, &header, frame.peer);
        }
        peer.queue(now, core, &header, frame.frame);
        self.settle(now, frame.peer.id);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: u64) {
        let ids: Vec<u64> = self.peers.keys().copied().collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            if peer.dial.as_mut().is_some_and(|dial| dial.is_due(now))
                && let Some(addr) = peer.dial.as_mut().map(Dial::start)
            {
                self.commands.push_back(Command::Connect { peer: id, addr });
            }
            if peer.session.poll_timeout().is_some_and(|at| at <= now) {
                peer.session.handle_timeout(now);
                self.settle(now, id);
            }
        }
        let late: Vec<LinkId> = self
            .strangers
            .iter()
            .filter(|(_, stranger)| stranger.handshake.poll_timeout().is_some_and(|at| at <= now))
            .map(|(link, _)| *link)
            .collect();
        for link in late {
            if let Some(stranger) = self.strangers.get_mut(&link) {
                stranger.handshake.handle_timeout(now);
            }
            self.advance_stranger(now, link);
        }
    }

    /// When [`Self::handle_timeout`] is due; `None`: never, as things are.
    pub fn poll_timeout(&self) -> Option<u64> {
        let of_peer = |peer: &Peer| {
            let dial = peer.dial.as_ref().and_then(Dial::poll_timeout);
            peer.session.poll_timeout().into_iter().chain(dial).min()
        };
        let strangers = self.strangers.values().filter_map(|stranger| stranger.handshake.poll_timeout());
        self.peers.values().filter_map(of_peer).chain(strangers).min()
    }

    /// What the transport is to do; to be drained after [`Self::poll_transmit`], so that last words leave before a link is
    /// closed.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Gives each link's frames to `send`, which takes them from the front; what it leaves waits until the link is writable.
    pub fn poll_transmit(&mut self, now: u64, mut send: impl FnMut(LinkId, &mut VecDeque<Frame>)) {
        for (link, stranger) in &mut self.strangers {
            if !stranger.transmits.is_empty() {
                send(*link, &mut stranger.transmits);
            }
        }
        for peer in self.peers.values_mut() {
            peer.transmit(now, &mut send);
            if let Some(link) = peer.ending.take_if(|_| peer.transmits.is_empty() || peer.blocked) {
                self.commands.push_back(Command::Close(link));
            }
        }
    }

    /// The next frame or news for a core. Whoever takes it has room for it: this gives the peer its room back.
    pub fn poll_output(&mut self, core: u16) -> Option<LinkInput> {
        let output = self.outputs.get_mut(usize::from(core))?.pop_front()?;
        let (is_call, frame) = match output {
            Output::News(news) => return Some(LinkInput::News(news)),
            Output::Call(frame) => (true, frame),
            Output::Answer(frame) => (false, frame),
        };
        if let Some(peer) = self.peers.get_mut(&frame.peer.id) {
            peer.release(is_call);
        }
        let copies = self.config.copies && frame.frame.len() <= self.config.session.frame_len_max as usize;
        let frame = if copies { PeerFrame { frame: Frame::copy_from(&frame.frame), ..frame } } else { frame };
        Some(LinkInput::Frame(frame))
    }

    /// Whether a core has something to take.
    pub fn has_output(&self, core: u16) -> bool {
        self.outputs.get(usize::from(core)).is_some_and(|outputs| !outputs.is_empty())
    }

    /// Tells the cores how many of their one-ways and cancels are on their way; to be called once in each pass.
    pub fn report_taken(&mut self) {
        for peer in self.peers.values_mut() {
            for (core, taken) in peer.taken.iter_mut().enumerate().filter(|(_, taken)| **taken > 0) {
                let node = NodeId { id: peer.id, incarnation: 0 };
                let news = LinkNews::Taken(node, std::mem::take(taken));
                self.outputs[core].push_back(Output::News(Box::new(news)));
            }
        }
    }

    /// Ends everything, with a last word to each peer: transmit that, then close.
    pub fn close(&mut self, now: u64) {
        let ids: Vec<u64> = self.peers.keys().copied().collect();
        for id in ids {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.dial = None;
                peer.session.close(now);
            }
            self.settle(now, id);
        }
        let ended: Vec<LinkId> = self.peers.values().filter_map(|peer| peer.link).collect();
        for link in self.links.keys().filter(|link| !ended.contains(link)) {
            // Connecting still: there is no session whose end would be told.
            self.commands.push_back(Command::Close(*link));
        }
        let strangers: Vec<LinkId> = self.strangers.keys().copied().collect();
        for link in strangers {
            self.strangers.remove(&link);
            self.commands.push_back(Command::Close(link));
        }
    }

    /// The peers whose link works now, in their present lives.
    pub fn present(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.values().filter(|peer| peer.session.is_up()).filter_map(|peer| peer.present)
    }

    /// Somebody dialled; who it is shows in the handshake.
    fn greet(&mut self, now: u64, link: LinkId) {
        if self.strangers.len() >= STRANGERS_MAX {
            self.commands.push_back(Command::Close(link));
            return;
        }
        let nonce = self.nonce();
        let handshake = Handshake::server(now, &self.handshake_config(), nonce);
        self.strangers.insert(link, Stranger { handshake, transmits: VecDeque::new() });
    }

    /// A link that this node dialled works.
    fn introduce(&mut self, now: u64, link: LinkId) {
        let Some(id) = self.links.get(&link).copied() else {
            return self.commands.push_back(Command::Close(link));
        };
        let nonce = self.nonce();
        let handshake = Handshake::client(now, &self.handshake_config(), nonce, Some(id));
        self.give_link(now, id, link, handshake);
    }

    fn give_link(&mut self, now: u64, id: u64, link: LinkId, handshake: Handshake) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(old) = peer.link.replace(link).filter(|old| *old != link) {
            self.links.remove(&old);
            self.commands.push_back(Command::Close(old));
        }
        peer.ending = None;
        self.links.insert(link, id);
        peer.transmits.clear();
        peer.blocked = false;
        peer.session.handle_link_up(now, handshake);
        self.settle(now, id);
    }

    fn lose(&mut self, now: u64, link: LinkId, reason: epicserver_transport::DownReason) {
        self.strangers.remove(&link);
        let Some(id) = self.links.remove(&link) else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        tracing::debug!(peer = format!("{id:016x}"), %reason, "a link went down");
        if peer.link == Some(link) {
            peer.link = None;
            peer.transmits.clear();
            peer.session.handle_link_down(now);
        }
        peer.redial(now, &mut self.rng);
        self.settle(now, id);
    }

    fn receive(&mut self, now: u64, link: LinkId, frame: Frame) {
        if let Some(id) = self.links.get(&link).copied() {
            let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.link == Some(link)) else { return };
            peer.session.handle_frame(now, frame);
            return self.settle(now, id);
        }
        if let Some(stranger) = self.strangers.get_mut(&link) {
            stranger.handshake.handle_frame(now, &frame);
            self.advance_stranger(now, link);
        }
    }

    fn advance_stranger(&mut self, now: u64, link: LinkId) {
        let Some(stranger) = self.strangers.get_mut(&link) else { return };
        while let Some(frame) = stranger.handshake.poll_transmit() {
            stranger.transmits.push_back(frame);
        }
        if let Some(identity) = stranger.handshake.proven() {
            let Some(stranger) = self.strangers.remove(&link) else { return };
            if self.peers.contains_key(&identity.node) {
                return self.give_link(now, identity.node, link, stranger.handshake);
            }
            tracing::warn!(node = format!("{:016x}", identity.node), "a node that is no member dialled");
            return self.commands.push_back(Command::Close(link));
        }
        if let Some(Err(error)) = stranger.handshake.outcome() {
            tracing::warn!(%error, "a link was refused");
            // What is left to say stays until it is sent or the link is gone.
            self.commands.push_back(Command::Close(link));
        }
    }

    /// Takes what a session has to tell after an input.
    fn settle(&mut self, now: u64, id: u64) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        while let Some(event) = peer.session.poll_event() {
            match event {
                SessionEvent::Up { peer: identity, .. } => {
                    let there = NodeId { id: identity.node, incarnation: identity.incarnation };
                    let before = peer.present.replace(there).filter(|before| *before != there);
                    peer.lose_calls(Loss::LinkLost, &[], &mut self.outputs);
                    if let Some(gone) = before {
                        push_all(&mut self.outputs, || LinkNews::Gone(gone));
                    }
                    if let Some(dial) = &mut peer.dial {
                        dial.succeeded();
                    }
                    tracing::info!(peer = %there, "a link is up");
                }
                SessionEvent::Down(DownReason::Replaced) => {}
                SessionEvent::Down(reason) => {
                    if !matches!(reason, DownReason::LinkDown | DownReason::Closed) {
                        tracing::warn!(peer = format!("{id:016x}"), %reason, "a link is of no use");
                    }
                    if let Some(link) = peer.link {
                        peer.ending = Some(link);
                    }
                }
                SessionEvent::Request(frame, target) | SessionEvent::OneWay(frame, target) => {
                    let (core, frame) = peer.incoming(frame, target, self.config.cores);
                    self.outputs[core].push_back(Output::Call(frame));
                }
                SessionEvent::Cancel(frame) => {
                    let (core, frame) = peer.incoming(frame, None, self.config.cores);
                    self.outputs[core].push_back(Output::Call(frame));
                }
                SessionEvent::Reply(frame) | SessionEvent::Error(frame) | SessionEvent::Moved(frame) => {
                    peer.answered(&frame);
                    let (core, frame) = peer.incoming(frame, None, self.config.cores);
                    self.outputs[core].push_back(Output::Answer(frame));
                }
                SessionEvent::Probe(frame) => {
                    let (core, frame) = peer.incoming(frame, None, self.config.cores);
                    self.outputs[core].push_back(Output::Answer(frame));
                }
                SessionEvent::Control(_) => peer.session.release_controls(1),
                SessionEvent::Lost(lost) => {
                    let loss = match lost.reason {
                        LostReason::LinkLost => Loss::LinkLost,
                        LostReason::OwnerLost => Loss::OwnerLost,
                    };
                    peer.lose_calls(loss, &lost.not_sent, &mut self.outputs);
                }
            }
        }
        peer.flush(now);
        peer.report_unsent(&mut self.outputs);
    }

    /// A frame for nobody: its core is told if it waits for an answer.
    fn refuse(&mut self, core: u16, header: &FrameHeader, peer: NodeId) {
        let news = match header.kind() {
            FrameKind::Request => {
                let name = CallRef { slot: header.slot.get(), generation: header.generation.get() };
                LinkNews::NotSent(peer, vec![name])
            }
            FrameKind::OneWay | FrameKind::Cancel => LinkNews::Taken(peer, 1),
            kind => return tracing::debug!(%peer, ?kind, "an answer has nobody to go to"),
        };
        if let Some(outputs) = self.outputs.get_mut(usize::from(core)) {
            outputs.push_back(Output::News(Box::new(news)));
        }
    }

    fn handshake_config(&self) -> HandshakeConfig {
        let NodeId { id: node, incarnation } = self.config.me;
        HandshakeConfig {
            identity: Identity { node, incarnation, core: WHOLE_NODE },
            agreement: self.config.agreement,
            secret: self.config.secret.clone(),
            timeout_ns: HANDSHAKE_NS,
        }
    }

    /// Never the same twice, and no guide to the next one.
    fn nonce(&mut self) -> [u8; NONCE_LEN] {
        self.nonces += 1;
        let material = [self.config.seed.to_le_bytes(), self.nonces.to_le_bytes()].concat();
        blake3::derive_key("epicserver link nonce, version 1", &material)
    }
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fabric")
            .field("me", &self.config.me)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

fn push_all(outputs: &mut [VecDeque<Output>], news: impl Fn() -> LinkNews) {
    for outputs in outputs {
        outputs.push_back(Output::News(Box::new(news())));
    }
}

/// Links that were accepted and are not proven yet, at most.
const STRANGERS_MAX: usize = 64;
/// How long a handshake may take, in nanoseconds.
const HANDSHAKE_NS: u64 = 3_000_000_000;
/// How long calls wait for a link before they end as not sent or unknown, in nanoseconds.
const WITHOUT_LINK_NS: u64 = 3_000_000_000;
