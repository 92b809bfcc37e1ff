//! The fabric: the links of a node to its peers, and who is at their other ends. Pure logic.
//!
//! ```text
//!   transport events ──┐                     ┌─ poll_command    connect to, close
//!   frames of cores ───┼──> Fabric ──────────┼─ poll_transmit   frames for a link
//!   control, members ──┤   a Session per     ├─ poll_output     frames and news for a core
//!   time ──────────────┘   peer              └─ poll_control
//! ```
//! Drive it like this: hand in events, outcomes of connects, frames of cores and time; then drain commands, transmits
//! and outputs. Of two nodes the one whose address comes first dials, so that a pair has one link; the other end learns
//! from the hello who dialled.
//!
//! *Who the peers are.* Either a fixed list, or the members of the view as [`Fabric::handle_members`] tells them. Then
//! there are guests too: nodes that proved the secret and are no members (yet, or any more), found by
//! [`Fabric::seek`] or dialling by themselves. They send and get control frames and nothing else.
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
//! Here are the sessions and what passes through them. `fabric/strangers.rs` has links until it is known who is there,
//! `fabric/members.rs` who may stay, `fabric/control.rs` what nodes say to each other.
//!
//! Not here: sockets, threads, clocks (`driver/links.rs`), credits and counts (`session`), objects (`core`).
//! Start at [`Fabric::handle_event`].

use std::collections::{BTreeMap, VecDeque};

use epicserver_storage::NodeId;
use epicserver_transport::{Addr, BufferPool, Direction, Event, Frame, FrameHeader, FrameKind, LinkId};

use crate::core::Inputs;
use crate::error::Loss;
pub use crate::remote::LinkInput;
use crate::remote::{CallRef, LinkNews, PeerFrame};
use crate::session::{DownReason, LostReason, Marks, Passed, Session, SessionConfig, SessionEvent, is_call};
use crate::wire::handshake::{Handshake, HelloError};

mod config;
mod control;
mod dial;
mod fixed;
mod members;
mod peer;
mod peers;
mod strangers;

pub use config::{Command, FabricConfig, PeerNews};
pub use control::ControlInput;
use control::Controls;
use dial::Dial;
pub use fixed::{FixedMembers, MembersError, fingerprint};
use members::Removed;
use peer::{Peer, Standing};
use peers::Peers;
use strangers::Strangers;

/// All links of a node. See the module for how to drive it.
pub struct Fabric {
    config: FabricConfig,
    pool: Option<BufferPool>,
    rng: fastrand::Rng,
    peers: Peers,
    /// Whose link it is, once that is known.
    links: BTreeMap<LinkId, u64>,
    strangers: Strangers,
    removed: Removed,
    controls: Controls,
    /// Links of peers that are no more, and what is still to be said on them.
    parting: Vec<(LinkId, VecDeque<Frame>)>,
    commands: VecDeque<Command>,
    outputs: Vec<VecDeque<Output>>,
}

/// Room of a peer that is to be given back to it.
#[derive(Default)]
struct Owed {
    peer: u64,
    calls: u32,
    answers: u32,
}

enum Output {
    Call(PeerFrame),
    Answer(PeerFrame),
    News(Box<LinkNews>),
}

impl Fabric {
    /// A fabric without links; buffers for the sessions' own frames come from `pool`.
    pub fn new(now: u64, config: FabricConfig, pool: Option<&BufferPool>) -> Self {
        let mut rng = fastrand::Rng::with_seed(config.seed);
        let mut peers = Peers::default();
        for (id, addr) in &config.peers {
            let session = SessionConfig { stream: rng.u64(..), ..config.session };
            let dial = (config.address < *addr).then(|| Dial::new(now, addr.clone()));
            let session = new_session(session, pool, config.bulk.as_ref());
            peers.insert(Peer::new(*id, Standing::Listed, session, dial, config.cores));
        }
        let outputs = (0..config.cores).map(|_| VecDeque::new()).collect();
        Self {
            config,
            pool: pool.cloned(),
            rng,
            peers,
            links: BTreeMap::new(),
            strangers: Strangers::default(),
            removed: Removed::default(),
            controls: Controls::default(),
            parting: Vec::new(),
            commands: VecDeque::new(),
            outputs,
        }
    }

    /// As [`Self::handle_event`], for all that happened. Frames for the core that these are the inputs of go straight there, unless
    /// others wait for it.
    pub(crate) fn handle_events(
        &mut self,
        now: u64,
        mut events: impl Iterator<Item = Event>,
        mut inputs: Option<(u16, &mut Inputs<'_>)>,
    ) {
        let mut next = events.next();
        while let Some(event) = next {
            next = match event {
                Event::Receive { link, frame } => {
                    self.receive_all(now, link, frame, &mut events, &mut inputs)
                }
                event => {
                    self.handle_event(now, event);
                    events.next()
                }
            };
        }
    }

    /// Takes a frame, and those of the same link that follow it. Gives the event behind them.
    #[inline]
    fn receive_all(
        &mut self,
        now: u64,
        link: LinkId,
        mut frame: Frame,
        events: &mut impl Iterator<Item = Event>,
        inputs: &mut Option<(u16, &mut Inputs<'_>)>,
    ) -> Option<Event> {
        let peer = self.links.get(&link).and_then(|id| self.peers.get_mut(*id));
        let Some(peer) = peer.filter(|peer| peer.link == Some(link)) else {
            self.receive(now, link, frame);
            return events.next();
        };
        let mut owed = Owed { peer: peer.id, ..Owed::default() };
        let next = loop {
            match peer.session.pass_frame(now, frame) {
                // Taken apart where it is made, as a copy of the whole would have to wait for its parts.
                Some(Passed { kind, core, call, frame, target }) if kind != FrameKind::Control => {
                    let here = peer.core_of(core, self.config.cores);
                    match inputs {
                        Some((own, inputs))
                            if *own == here
                                && peer.may_call()
                                && self.outputs[usize::from(here)].is_empty() =>
                        {
                            let is_call = is_call(kind);
                            *(if is_call { &mut owed.calls } else { &mut owed.answers }) += 1;
                            let there = peer.note_taken(kind, core, call);
                            inputs.frame(there, unpin(&self.config, frame), target);
                        }
                        _ => {
                            let passed = Passed { kind, core, call, frame, target };
                            peer.take_frame(passed, self.config.cores, &self.removed, &mut self.outputs);
                        }
                    }
                }
                // It may have ended the link, or be for the node: nothing is known to be as before.
                passed => {
                    let id = peer.id;
                    self.handle_passed(now, id, passed);
                    break events.next();
                }
            }
            frame = match events.next() {
                Some(Event::Receive { link: of, frame }) if of == link => frame,
                next => break next,
            };
        };
        self.give_back(owed);
        next
    }

    /// Takes what happened on the transport.
    pub fn handle_event(&mut self, now: u64, event: Event) {
        match event {
            Event::LinkUp { link, direction: Direction::Incoming, .. } => self.greet(now, link),
            Event::LinkUp { link, direction: Direction::Outgoing, .. } => self.introduce(now, link),
            Event::LinkDown { link, reason } => self.lose(now, link, reason),
            Event::Receive { link, frame } => self.receive(now, link, frame),
            Event::Writable { link } => {
                if let Some(peer) = self.links.get(&link).and_then(|id| self.peers.get_mut(*id)) {
                    peer.blocked = false;
                    peer.session.handle_writable();
                }
            }
        }
    }

    /// Takes the outcome of a [`Command::Connect`].
    pub fn handle_connect(
        &mut self,
        now: u64,
        peer: Option<u64>,
        addr: &Addr,
        outcome: std::io::Result<LinkId>,
    ) {
        let Some(peer) = peer else { return self.handle_sought(now, addr, outcome) };
        match (self.peers.get_mut(peer), outcome) {
            (Some(_), Ok(link)) => drop(self.links.insert(link, peer)),
            // It was removed in the meantime.
            (None, Ok(link)) => self.commands.push_back(Command::Close(link)),
            (None, Err(_)) => {}
            (Some(state), Err(error)) => {
                tracing::warn!(peer = format!("{peer:016x}"), %error, "a link cannot be started");
                state.redial(now, &mut self.rng);
            }
        }
    }

    /// Takes a frame that core `core` of this node has for a peer. One for a node that is no member is refused.
    pub fn handle_frame(&mut self, now: u64, core: u16, frame: PeerFrame) {
        let peer = frame.peer;
        if let Some(frame) = self.try_frame(now, core, peer, frame.frame)
            && let Ok(header) = FrameHeader::parse_frame(&frame).copied()
        {
            self.refuse(core, &header, peer);
        }
    }

    /// As [`Self::handle_frame`], but gives the frame back if its node is no member: a core may know of a view whose members this
    /// has not been told yet.
    #[inline]
    pub fn try_frame(&mut self, now: u64, core: u16, peer: NodeId, frame: Frame) -> Option<Frame> {
        // By its fields: a copy of what was just written in parts would have to wait for them.
        let Ok(marks) = FrameHeader::parse_frame(&frame).map(Marks::of) else { return None };
        let Some(peer) = self.peers.get_mut(peer.id).filter(|its| its.may_be_called(peer)) else {
            return Some(frame);
        };
        peer.queue(now, core, marks, frame);
        peer.report_unsent(&mut self.outputs);
        None
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: u64) {
        for id in self.peers.take_due(now) {
            let Some(peer) = self.peers.get_mut(id) else { continue };
            if let Some(dial) = peer.dial.as_mut().filter(|dial| dial.is_due(now)) {
                dial.pause();
                let addr = dial.addr().clone();
                self.commands.push_back(Command::Connect { peer: Some(id), addr });
            }
            if peer.session.poll_timeout().is_some_and(|at| at <= now) {
                peer.session.handle_timeout(now);
                self.settle(now, id);
            }
        }
        self.handle_strangers_timeout(now);
    }

    /// When [`Self::handle_timeout`] is due, at the latest: there may be nothing to do then. `None`: never, as things are.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.peers.poll_timeout().into_iter().chain(self.strangers.poll_timeout()).min()
    }

    /// What the transport is to do; to be drained after [`Self::poll_transmit`], so that last words leave before a link is
    /// closed.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Gives each link's frames to `send`, which takes them from the front; what it leaves waits until the link is writable. The cores
    /// are told how many of their one-ways and cancels are on their way.
    pub fn poll_transmit(&mut self, now: u64, mut send: impl FnMut(LinkId, &mut VecDeque<Frame>)) {
        self.strangers.transmit(&mut send);
        for (link, mut frames) in self.parting.drain(..) {
            send(link, &mut frames);
            self.commands.push_back(Command::Close(link));
        }
        let (commands, outputs) = (&mut self.commands, &mut self.outputs);
        self.peers.look_at_changed(|peer| {
            peer.transmit(now, &mut send);
            if let Some(link) = peer.ending.take_if(|_| peer.transmits.is_empty() || peer.blocked) {
                commands.push_back(Command::Close(link));
            }
            peer.report_taken(outputs);
            peer.report_unsent(outputs);
        });
    }

    /// The next frame or news for a core. Whoever takes it has room for it: this gives the peer its room back.
    #[inline]
    pub fn poll_output(&mut self, core: u16) -> Option<LinkInput> {
        let output = self.outputs.get_mut(usize::from(core))?.pop_front()?;
        let (is_call, frame) = match output {
            Output::News(news) => return Some(LinkInput::News(news)),
            Output::Call(frame) => (true, frame),
            Output::Answer(frame) => (false, frame),
        };
        self.give_back(Owed { peer: frame.peer.id, calls: u32::from(is_call), answers: u32::from(!is_call) });
        Some(LinkInput::Frame(PeerFrame { frame: unpin(&self.config, frame.frame), ..frame }))
    }

    /// As [`Self::poll_output`], for up to so many. Peers get their room back at the end of it. Gives how many there were.
    #[inline]
    pub(crate) fn give_outputs(&mut self, core: u16, count_max: usize, inputs: &mut Inputs<'_>) -> usize {
        let mut owed = Owed::default();
        for given in 0..count_max {
            let output = self.outputs.get_mut(usize::from(core)).and_then(VecDeque::pop_front);
            let (is_call, frame) = match output {
                None => {
                    self.give_back(owed);
                    return given;
                }
                Some(Output::News(news)) => {
                    inputs.news(*news);
                    continue;
                }
                Some(Output::Call(frame)) => (true, frame),
                Some(Output::Answer(frame)) => (false, frame),
            };
            if owed.peer != frame.peer.id {
                self.give_back(std::mem::replace(&mut owed, Owed { peer: frame.peer.id, ..Owed::default() }));
            }
            *(if is_call { &mut owed.calls } else { &mut owed.answers }) += 1;
            inputs.frame(frame.peer, unpin(&self.config, frame.frame), frame.target);
        }
        self.give_back(owed);
        count_max
    }

    fn give_back(&mut self, owed: Owed) {
        if let Some(peer) = self.peers.get_mut(owed.peer) {
            peer.release(owed.calls, owed.answers);
        }
    }

    /// Whether a core has something to take.
    pub fn has_output(&self, core: u16) -> bool {
        self.outputs.get(usize::from(core)).is_some_and(|outputs| !outputs.is_empty())
    }

    /// Ends everything, with a last word to each peer: transmit that, then close.
    pub fn close(&mut self, now: u64) {
        for id in self.peers.ids() {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.dial = None;
                peer.session.close(now);
            }
            self.settle(now, id);
        }
        let ended: Vec<LinkId> = self.peers.iter().filter_map(|peer| peer.link).collect();
        for link in self.links.keys().filter(|link| !ended.contains(link)) {
            // Connecting still: there is no session whose end would be told.
            self.commands.push_back(Command::Close(*link));
        }
        self.commands.extend(self.strangers.end().map(Command::Close));
    }

    /// The peers whose link works now, in their present lives.
    pub fn present(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.iter().filter(|peer| peer.session.is_up()).filter_map(|peer| peer.present)
    }

    /// A link that this node dialled works.
    fn introduce(&mut self, now: u64, link: LinkId) {
        let Some(id) = self.links.get(&link).copied() else { return self.meet(now, link) };
        let Some(peer) = self.peers.get(id) else { return };
        if peer.needs_no_link(self.config.me, None, true) {
            self.links.remove(&link);
            return self.commands.push_back(Command::Close(link));
        }
        let nonce = self.nonce();
        let handshake = Handshake::client(now, &self.handshake_config(), nonce, Some(id));
        self.give_link(now, id, link, handshake, true);
    }

    fn give_link(&mut self, now: u64, id: u64, link: LinkId, handshake: Handshake, has_dialled: bool) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.has_dialled = has_dialled;
        if let Some(dial) = &mut peer.dial {
            dial.pause();
        }
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
        self.lose_stranger(now, link);
        let Some(id) = self.links.remove(&link) else { return };
        let Some(peer) = self.peers.get_mut(id) else { return };
        tracing::debug!(peer = format!("{id:016x}"), %reason, "a link went down");
        if peer.link == Some(link) {
            peer.link = None;
            peer.ending = None;
            peer.transmits.clear();
            peer.session.handle_link_down(now);
        }
        if peer.link.is_none() {
            peer.redial(now, &mut self.rng);
        }
        self.settle(now, id);
        self.forget_guest(now, id);
    }

    fn receive(&mut self, now: u64, link: LinkId, frame: Frame) {
        if let Some(id) = self.links.get(&link).copied() {
            let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.link == Some(link)) else { return };
            let passed = peer.pass_frame(now, frame);
            return self.handle_passed(now, id, passed);
        }
        self.receive_of_stranger(now, link, &frame);
    }

    /// Takes what a session made of a frame.
    fn handle_passed(&mut self, now: u64, id: u64, passed: Option<Passed>) {
        let Some(passed) = passed else { return self.settle(now, id) };
        if passed.kind == FrameKind::Control {
            return self.handle_session_event(now, id, SessionEvent::Control(passed.frame));
        }
        if let Some(peer) = self.peers.get_mut(id) {
            peer.take_frame(passed, self.config.cores, &self.removed, &mut self.outputs);
        }
    }

    /// Takes what a session has to tell after an input.
    fn settle(&mut self, now: u64, id: u64) {
        while let Some(event) = self.peers.get_mut(id).and_then(|peer| peer.session.poll_event()) {
            self.handle_session_event(now, id, event);
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.flush(now);
        peer.report_unsent(&mut self.outputs);
    }

    fn handle_session_event(&mut self, now: u64, id: u64, event: SessionEvent) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        match event {
            SessionEvent::Up { peer: identity, .. } => {
                let there = peer.come_up(&identity, &mut self.outputs);
                self.controls.note_up(there);
            }
            SessionEvent::Down(reason) => {
                self.controls.note_down(id);
                peer.go_down(&reason);
                if let DownReason::Hello(HelloError::OtherNode { expected, there }) = reason {
                    self.seek_other(now, expected, there);
                }
            }
            SessionEvent::Control(frame) => match peer.present {
                Some(there) if self.config.guests_max > 0 => self.controls.take(there, frame),
                _ => peer.session.release_controls(1),
            },
            SessionEvent::Lost(lost) => {
                let loss = match lost.reason {
                    LostReason::LinkLost => Loss::LinkLost,
                    LostReason::OwnerLost => Loss::OwnerLost,
                };
                peer.lose_calls(loss, &lost.not_sent, &mut self.outputs);
            }
            // Frames are passed on as they come.
            event => debug_assert!(false, "{event:?} was kept"),
        }
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
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fabric")
            .field("me", &self.config.me)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

/// Copies the frame out of its receive buffer where that is needed.
#[inline]
fn unpin(config: &FabricConfig, frame: Frame) -> Frame {
    let is_received = frame.len() <= config.session.frame_len_max as usize;
    if config.copies && is_received { Frame::copy_from(&frame) } else { frame }
}

/// A session whose own frames and fragments lie in these buffers.
fn new_session(config: SessionConfig, pool: Option<&BufferPool>, bulk: Option<&BufferPool>) -> Session {
    let mut session = Session::new(config, pool.cloned());
    if let Some(bulk) = bulk {
        session.use_bulk(bulk.clone());
    }
    session
}

fn push_all(outputs: &mut [VecDeque<Output>], news: impl Fn() -> LinkNews) {
    for outputs in outputs {
        outputs.push_back(Output::News(Box::new(news())));
    }
}

#[cfg(test)]
mod tests;
