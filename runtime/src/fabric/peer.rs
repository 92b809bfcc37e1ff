//! One peer: its session, its link, who waits for its answers, and when to dial it again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use epicserver_storage::NodeId;
use epicserver_transport::{Addr, BufferPool, Frame, FrameHeader, FrameKind, LinkId};

use super::Output;
use crate::error::Loss;
use crate::remote::{CallRef, LinkNews, PeerFrame};
use crate::session::intern::Target;
use crate::session::{QueueError, Session, SessionConfig};

/// What a fabric keeps of one peer.
pub(super) struct Peer {
    pub(super) id: u64,
    pub(super) session: Session,
    pub(super) link: Option<LinkId>,
    /// The link is to be closed when the last words have left.
    pub(super) ending: Option<LinkId>,
    /// The life of the peer that the last working link led to.
    pub(super) present: Option<NodeId>,
    /// There if this node is the one that dials.
    pub(super) dial: Option<Dial>,
    /// Frames that count as sent and that the link has not taken.
    pub(super) transmits: VecDeque<Frame>,
    pub(super) blocked: bool,
    /// One-ways and cancels that the session has taken, of each core, since that was last told.
    pub(super) taken: Vec<u32>,
    /// Frames that the session has no room for. Those of calls are bounded by the windows of the cores, answers by
    /// the requests that were let in.
    calls: VecDeque<(u16, Frame)>,
    answers: VecDeque<Frame>,
    /// Of each core, by the slot of the request: its generation and one, or zero if no answer is awaited.
    asked: Vec<Vec<u64>>,
    unsent: Vec<(u16, CallRef)>,
    /// Cores whose handles the session does not know.
    unbound: BTreeSet<u16>,
    /// Room of calls that is not given back while answers pile up.
    owed_calls: u32,
}

impl Peer {
    pub(super) fn new(
        id: u64,
        session: SessionConfig,
        pool: Option<BufferPool>,
        dial: Option<Dial>,
        cores: u16,
    ) -> Self {
        Self {
            id,
            session: Session::new(session, pool),
            link: None,
            ending: None,
            present: None,
            dial,
            transmits: VecDeque::new(),
            blocked: false,
            taken: vec![0; usize::from(cores)],
            calls: VecDeque::new(),
            answers: VecDeque::new(),
            asked: vec![Vec::new(); usize::from(cores)],
            unsent: Vec::new(),
            unbound: BTreeSet::new(),
            owed_calls: 0,
        }
    }

    /// Takes a frame of a core for this peer.
    pub(super) fn queue(&mut self, now: u64, core: u16, header: &FrameHeader, frame: Frame) {
        let name = CallRef { slot: header.slot.get(), generation: header.generation.get() };
        match header.kind() {
            FrameKind::Request => self.await_answer(core, name),
            FrameKind::Cancel => self.end_wait(core, name),
            FrameKind::OneWay => {}
            FrameKind::Probe => return self.queue_probe(now, frame),
            _ if self.answers.is_empty() => return self.queue_answer(now, frame),
            _ => return self.answers.push_back(frame),
        }
        if self.calls.is_empty() {
            self.queue_call(now, core, frame);
        } else {
            self.calls.push_back((core, frame));
        }
    }

    /// Gives the session what it has room for now.
    pub(super) fn flush(&mut self, now: u64) {
        while let Some((core, frame)) = self.calls.pop_front() {
            if !self.queue_call(now, core, frame) {
                break;
            }
        }
        while let Some(frame) = self.answers.pop_front() {
            let before = self.answers.len();
            self.queue_answer(now, frame);
            if self.answers.len() > before {
                break;
            }
        }
        if self.answers.is_empty() && self.owed_calls > 0 {
            self.session.release_calls(std::mem::take(&mut self.owed_calls));
        }
    }

    /// Gives the session a call; if it has no room the call waits at the front, and this is `false`.
    fn queue_call(&mut self, now: u64, core: u16, frame: Frame) -> bool {
        let Ok(header) = FrameHeader::parse(&frame).copied() else { return true };
        match self.session.queue(now, frame) {
            Ok(()) => {}
            Err(QueueError::Full(frame)) => {
                self.calls.push_front((core, frame));
                return false;
            }
            Err(error) if header.kind() == FrameKind::Request => {
                if matches!(error, QueueError::Handle(_)) {
                    self.unbound.insert(core);
                }
                tracing::warn!(%error, "a request cannot be sent");
                let name = CallRef { slot: header.slot.get(), generation: header.generation.get() };
                self.unsent.push((core, name));
            }
            Err(error) => tracing::warn!(%error, "a one-way call or a cancel cannot be sent"),
        }
        if header.kind() != FrameKind::Request
            && let Some(taken) = self.taken.get_mut(usize::from(core))
        {
            *taken += 1;
        }
        true
    }

    /// A probe leaves at once or not at all: it is asked again in a while, and answers are not to wait for it.
    fn queue_probe(&mut self, now: u64, frame: Frame) {
        let has_room = self.answers.is_empty() && self.session.answers_waiting() < PROBES_BEHIND_MAX;
        if has_room && self.session.is_up() {
            self.queue_answer(now, frame);
        }
    }

    fn queue_answer(&mut self, now: u64, frame: Frame) {
        match self.session.queue(now, frame) {
            Ok(()) => {}
            Err(QueueError::Full(frame)) => self.answers.push_front(frame),
            Err(error) => tracing::warn!(%error, "an answer cannot be sent"),
        }
    }

    /// Brings frames to the link while it takes any.
    pub(super) fn transmit(&mut self, now: u64, send: &mut impl FnMut(LinkId, &mut VecDeque<Frame>)) {
        let Some(link) = self.link else { return };
        while !self.blocked {
            while self.transmits.len() < TRANSMITS_MAX
                && let Some(frame) = self.session.poll_transmit(now)
            {
                self.transmits.push_back(frame);
            }
            if self.transmits.is_empty() {
                break;
            }
            send(link, &mut self.transmits);
            self.blocked = !self.transmits.is_empty();
        }
        self.flush(now);
    }

    /// A core has taken a frame of this peer.
    pub(super) fn release(&mut self, is_call: bool) {
        if !is_call {
            return self.session.release_answers(1);
        }
        self.owed_calls += 1;
        if self.answers.is_empty() {
            self.session.release_calls(std::mem::take(&mut self.owed_calls));
        }
    }

    /// A frame that came from the peer, and the core it is for.
    pub(super) fn incoming(
        &self,
        frame: Frame,
        target: Option<Arc<Target>>,
        cores: u16,
    ) -> (usize, PeerFrame) {
        let core = FrameHeader::parse(&frame).map_or(0, |header| u16::from(header.target_core));
        let peer = self.present.unwrap_or(NodeId { id: self.id, incarnation: 0 });
        (if core < cores { usize::from(core) } else { 0 }, PeerFrame { peer, frame, target })
    }

    /// The answer to a request has come.
    pub(super) fn answered(&mut self, frame: &Frame) {
        if let Ok(header) = FrameHeader::parse(frame) {
            let name = CallRef { slot: header.slot.get(), generation: header.generation.get() };
            self.end_wait(u16::from(header.target_core), name);
        }
    }

    fn await_answer(&mut self, core: u16, name: CallRef) {
        let Some(asked) = self.asked.get_mut(usize::from(core)) else { return };
        let slot = name.slot as usize;
        if asked.len() <= slot {
            asked.resize(slot + 1, 0);
        }
        asked[slot] = u64::from(name.generation) + 1;
    }

    fn end_wait(&mut self, core: u16, name: CallRef) {
        let asked = self.asked.get_mut(usize::from(core)).and_then(|asked| asked.get_mut(name.slot as usize));
        if let Some(asked) = asked.filter(|asked| **asked == u64::from(name.generation) + 1) {
            *asked = 0;
        }
    }

    /// What this peer was asked, is not going to be sent again and was not answered: no answer will come to it.
    pub(super) fn lose_calls(&mut self, loss: Loss, not_sent: &[Frame], outputs: &mut [VecDeque<Output>]) {
        let not_sent: BTreeSet<_> = not_sent.iter().filter_map(request_name).collect();
        let waiting = self.calls.iter().map(|(_, frame)| frame);
        let kept: BTreeSet<_> = self.session.calls().chain(waiting).filter_map(request_name).collect();
        let node = NodeId { id: self.id, incarnation: 0 };
        for (core, asked) in self.asked.iter_mut().enumerate() {
            let (mut never, mut unknown) = (Vec::new(), Vec::new());
            for (slot, asked) in asked.iter_mut().enumerate().filter(|(_, asked)| **asked != 0) {
                let call = CallRef { slot: slot as u32, generation: (*asked - 1) as u32 };
                let name = (core as u8, call.slot, call.generation);
                if kept.contains(&name) {
                    continue;
                }
                *asked = 0;
                if not_sent.contains(&name) { never.push(call) } else { unknown.push(call) }
            }
            if !never.is_empty() {
                outputs[core].push_back(Output::News(Box::new(LinkNews::NotSent(node, never))));
            }
            if !unknown.is_empty() {
                outputs[core].push_back(Output::News(Box::new(LinkNews::Unknown(node, loss, unknown))));
            }
        }
    }

    /// Tells the cores which requests the session would not take.
    pub(super) fn report_unsent(&mut self, outputs: &mut [VecDeque<Output>]) {
        let node = NodeId { id: self.id, incarnation: 0 };
        for core in std::mem::take(&mut self.unbound) {
            outputs[usize::from(core)].push_back(Output::News(Box::new(LinkNews::Unbound(node))));
        }
        for (core, name) in std::mem::take(&mut self.unsent) {
            self.end_wait(core, name);
            outputs[usize::from(core)].push_back(Output::News(Box::new(LinkNews::NotSent(node, vec![name]))));
        }
    }

    pub(super) fn redial(&mut self, now: u64, rng: &mut fastrand::Rng) {
        if let Some(dial) = &mut self.dial {
            dial.failed(now, rng);
        }
    }
}

fn request_name(frame: &Frame) -> Option<(u8, u32, u32)> {
    let header = FrameHeader::parse(frame).ok().filter(|header| header.kind() == FrameKind::Request)?;
    Some((header.source_core, header.slot.get(), header.generation.get()))
}

/// When to dial a peer.
pub(super) struct Dial {
    addr: Addr,
    /// `None` while a link exists or is being made.
    at: Option<u64>,
    failures: u32,
}

impl Dial {
    pub(super) fn new(now: u64, addr: Addr) -> Self {
        Self { addr, at: Some(now), failures: 0 }
    }

    pub(super) fn is_due(&self, now: u64) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    pub(super) fn start(&mut self) -> Addr {
        self.at = None;
        self.addr.clone()
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.at
    }

    /// Tries again after a pause that grows, with jitter, so that many nodes do not dial in step.
    fn failed(&mut self, now: u64, rng: &mut fastrand::Rng) {
        let pause = (BACK_OFF_NS << self.failures.min(BACK_OFF_DOUBLINGS)).min(BACK_OFF_NS_MAX);
        self.failures += 1;
        self.at = Some(now + pause / 2 + rng.u64(..pause / 2));
    }
}

/// Answers that may wait before a probe: as many as calls of a core that the peer may have, each of which one search may
/// ask about.
const PROBES_BEHIND_MAX: usize = crate::remote::WINDOW_MAX;
/// Frames taken from a session before the link is asked again.
const TRANSMITS_MAX: usize = 64;
const BACK_OFF_NS: u64 = 20_000_000;
const BACK_OFF_NS_MAX: u64 = 1_000_000_000;
const BACK_OFF_DOUBLINGS: u32 = 6;
