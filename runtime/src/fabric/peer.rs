//! One peer: its session, its link, who waits for its answers, and when to dial it again.

use std::collections::{BTreeSet, VecDeque};

use epicserver_storage::NodeId;
use epicserver_transport::{Frame, FrameHeader, FrameKind, LinkId};

use super::dial::Dial;
use super::members::Removed;
use super::{Output, push_all};
use crate::error::Loss;
use crate::remote::{CallRef, LinkNews, PeerFrame};
use crate::session::{DownReason, Marks, Passed, QueueError, Session, is_call};
use crate::wire::hello::{CloseReason, Identity};

/// What a peer is to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// On a fixed list, in whichever life.
    Listed,
    /// A member of the view, in this life.
    Member(NodeId),
    /// Proven, and no member: it may send and get control frames.
    Guest,
}

/// What a fabric keeps of one peer.
pub(super) struct Peer {
    pub(super) id: u64,
    pub(super) standing: Standing,
    pub(super) session: Session,
    pub(super) link: Option<LinkId>,
    /// Whether this node dialled the link that there is.
    pub(super) has_dialled: bool,
    /// The link is to be closed when the last words have left.
    pub(super) ending: Option<LinkId>,
    /// The life of the peer that the last working link led to.
    pub(super) present: Option<NodeId>,
    /// There if this node dials the peer.
    pub(super) dial: Option<Dial>,
    /// Calls of a node that is no member as far as this one knows: they wait for the view that says more, and their room is
    /// not given back meanwhile.
    pub(super) held: VecDeque<Passed>,
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
    /// The last control frame found no room: that is logged once, until one finds some again.
    pub(super) refuses_control: bool,
}

impl Peer {
    pub(super) fn new(id: u64, standing: Standing, session: Session, dial: Option<Dial>, cores: u16) -> Self {
        Self {
            id,
            standing,
            session,
            link: None,
            has_dialled: false,
            ending: None,
            present: None,
            dial,
            held: VecDeque::new(),
            transmits: VecDeque::new(),
            blocked: false,
            taken: vec![0; usize::from(cores)],
            calls: VecDeque::new(),
            answers: VecDeque::new(),
            asked: vec![Vec::new(); usize::from(cores)],
            unsent: Vec::new(),
            unbound: BTreeSet::new(),
            owed_calls: 0,
            refuses_control: false,
        }
    }

    /// Whether calls may come from this life of it.
    #[inline]
    pub(super) fn may_call(&self) -> bool {
        match self.standing {
            Standing::Listed => true,
            Standing::Member(node) => self.present == Some(node),
            Standing::Guest => false,
        }
    }

    /// Whether calls and answers for this life of it may be sent or wait for a link.
    #[inline]
    pub(super) fn may_be_called(&self, node: NodeId) -> bool {
        let is_there = self.present == Some(node);
        match self.standing {
            Standing::Listed => node.incarnation == 0 || is_there,
            Standing::Member(member) => member == node && (is_there || self.present.is_none()),
            Standing::Guest => false,
        }
    }

    /// Whether its link works, and leads to a later life of it than the one that is a member.
    pub(super) fn leads_to_next_life(&self) -> bool {
        let Standing::Member(member) = self.standing else { return false };
        self.session.is_up() && self.present.is_some_and(|there| there.incarnation > member.incarnation)
    }

    /// Whether another link to it, to this life of it if that is known, is one too many: the one that there is works, or is the one of
    /// two that are made at the same time which is to stay. A link that works is never given up for another one, as what was answered
    /// on it and has not come yet would be lost.
    ///
    /// Both ends come to the same end. Who dialled decides when the other end has said who it is, and from then on it has that link, so
    /// that a second one of its own is one too many. To who accepted the decision of the other end comes with its proof: it had no link
    /// then. If both have dialled, each without the other's link, the one of the lower id stays.
    pub(super) fn needs_no_link(&self, me: NodeId, there: Option<NodeId>, has_dialled: bool) -> bool {
        let is_up = self.session.is_up();
        let leads_there = !is_up || there.is_none_or(|there| self.present == Some(there));
        if self.link.is_none() || self.ending.is_some() || !leads_there {
            return false;
        }
        match (has_dialled, self.has_dialled) {
            (true, true) => true,
            (true, false) => is_up || me.id > self.id,
            (false, true) => me.id < self.id,
            (false, false) => false,
        }
    }

    /// Takes a frame of a core for this peer.
    #[inline]
    pub(super) fn queue(&mut self, now: u64, core: u16, marks: Marks, frame: Frame) {
        match marks.kind {
            FrameKind::Request => self.await_answer(core, marks.call),
            FrameKind::Cancel => self.end_wait(core, marks.call),
            FrameKind::OneWay => {}
            FrameKind::Probe => return self.queue_probe(now, marks, frame),
            _ if self.answers.is_empty() => return self.queue_answer(now, marks, frame),
            _ => return self.answers.push_back(frame),
        }
        if self.calls.is_empty() {
            self.queue_call(now, core, marks, frame);
        } else {
            self.calls.push_back((core, frame));
        }
    }

    /// Gives the session what it has room for now; `false` if that is nothing.
    pub(super) fn flush(&mut self, now: u64) -> bool {
        let waiting = self.calls.len() + self.answers.len();
        while let Some((core, frame)) = self.calls.pop_front() {
            let Ok(marks) = FrameHeader::parse(&frame).map(Marks::of) else { continue };
            if !self.queue_call(now, core, marks, frame) {
                break;
            }
        }
        while let Some(frame) = self.answers.pop_front() {
            let before = self.answers.len();
            let Ok(marks) = FrameHeader::parse(&frame).map(Marks::of) else { continue };
            self.queue_answer(now, marks, frame);
            if self.answers.len() > before {
                break;
            }
        }
        let gives_back = self.answers.is_empty() && self.owed_calls > 0;
        if gives_back {
            self.session.release_calls(std::mem::take(&mut self.owed_calls));
        }
        gives_back || self.calls.len() + self.answers.len() < waiting
    }

    /// Gives the session a call; if it has no room the call waits at the front, and this is `false`.
    #[inline]
    fn queue_call(&mut self, now: u64, core: u16, marks: Marks, frame: Frame) -> bool {
        match self.session.queue_read(now, marks, frame) {
            Ok(()) => {}
            Err(QueueError::Full(frame)) => {
                self.calls.push_front((core, frame));
                return false;
            }
            Err(error) if marks.kind == FrameKind::Request => {
                if matches!(error, QueueError::Handle(_)) {
                    // It was made before the core heard that handles stand for nothing any more: those after it will have their keys.
                    self.unbound.insert(core);
                    tracing::debug!(%error, "a request is not sent");
                } else {
                    tracing::warn!(%error, "a request cannot be sent");
                }
                self.unsent.push((core, marks.call));
            }
            Err(error) => tracing::warn!(%error, "a one-way call or a cancel cannot be sent"),
        }
        if marks.kind != FrameKind::Request
            && let Some(taken) = self.taken.get_mut(usize::from(core))
        {
            *taken += 1;
        }
        true
    }

    /// A probe leaves at once or not at all: it is asked again in a while, and answers are not to wait for it.
    fn queue_probe(&mut self, now: u64, marks: Marks, frame: Frame) {
        let has_room = self.answers.is_empty() && self.session.answers_waiting() < PROBES_BEHIND_MAX;
        if has_room && self.session.is_up() {
            self.queue_answer(now, marks, frame);
        }
    }

    #[inline]
    fn queue_answer(&mut self, now: u64, marks: Marks, frame: Frame) {
        match self.session.queue_read(now, marks, frame) {
            Ok(()) => {}
            Err(QueueError::Full(frame)) => self.answers.push_front(frame),
            Err(error) => tracing::warn!(%error, "an answer cannot be sent"),
        }
    }

    /// Brings frames to the link while it takes any.
    pub(super) fn transmit(&mut self, now: u64, send: &mut impl FnMut(LinkId, &mut VecDeque<Frame>)) {
        let Some(link) = self.link else { return };
        loop {
            while !self.blocked {
                self.session.poll_transmits(now, &mut self.transmits, TRANSMITS_MAX);
                let is_all = self.transmits.len() < TRANSMITS_MAX;
                if !self.transmits.is_empty() {
                    send(link, &mut self.transmits);
                    self.blocked = !self.transmits.is_empty();
                }
                if is_all {
                    break;
                }
            }
            // What has got room by that is not left until somebody looks again.
            if !self.flush(now) || self.blocked {
                return;
            }
        }
    }

    /// When the peer wants to be called, as far as it knows now.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let dial = self.dial.as_ref().and_then(Dial::poll_timeout);
        self.session.poll_timeout().into_iter().chain(dial).min()
    }

    /// A core has taken frames of this peer.
    #[inline]
    pub(super) fn release(&mut self, calls: u32, answers: u32) {
        self.session.release_answers(answers);
        self.owed_calls += calls;
        if self.owed_calls > 0 && self.answers.is_empty() {
            self.session.release_calls(std::mem::take(&mut self.owed_calls));
        }
    }

    /// A link works; gives who is there.
    pub(super) fn come_up(&mut self, identity: &Identity, outputs: &mut [VecDeque<Output>]) -> NodeId {
        let there = NodeId { id: identity.node, incarnation: identity.incarnation };
        let before = self.present.replace(there).filter(|before| *before != there);
        self.lose_calls(Loss::LinkLost, &[], outputs);
        if let Some(gone) = before {
            push_all(outputs, || LinkNews::Gone(gone));
            self.drop_held();
        }
        if let Some(dial) = &mut self.dial {
            dial.succeeded();
        }
        tracing::info!(peer = %there, "a link is up");
        there
    }

    /// The link is of no use; it is to be closed unless another one took its place.
    pub(super) fn go_down(&mut self, reason: &DownReason) {
        if matches!(reason, DownReason::Replaced) {
            return;
        }
        let peer = format!("{:016x}", self.id);
        match reason {
            DownReason::LinkDown | DownReason::Closed => {}
            DownReason::ClosedByPeer(CloseReason::Done) => {
                tracing::info!(peer, "a peer ended its link in order");
            }
            reason => tracing::warn!(peer, %reason, "a link is of no use"),
        }
        if let Some(link) = self.link {
            self.ending = Some(link);
        }
    }

    /// Hands the session a frame that does not come in a row of them.
    #[cold]
    pub(super) fn pass_frame(&mut self, now: u64, frame: Frame) -> Option<Passed> {
        self.session.pass_frame(now, frame)
    }

    /// Takes a call or an answer that came.
    #[inline]
    pub(super) fn take_frame(
        &mut self,
        passed: Passed,
        cores: u16,
        removed: &Removed,
        outputs: &mut [VecDeque<Output>],
    ) {
        if self.may_call() {
            return self.deliver(passed, cores, outputs);
        }
        match passed.is_call() {
            // Members know each other by the same view, which may be on its way.
            true if !self.present.is_some_and(|there| removed.has(there)) => self.held.push_back(passed),
            true => self.session.release_calls(1),
            false => self.session.release_answers(1),
        }
    }

    /// Gives the cores what was held, as the peer is a member now.
    pub(super) fn deliver_held(&mut self, cores: u16, outputs: &mut [VecDeque<Output>]) {
        for passed in std::mem::take(&mut self.held) {
            self.deliver(passed, cores, outputs);
        }
    }

    /// Drops what was held: whoever called is gone.
    pub(super) fn drop_held(&mut self) {
        let count = std::mem::take(&mut self.held).len() as u32;
        self.session.release_calls(count);
    }

    #[inline]
    fn deliver(&mut self, passed: Passed, cores: u16, outputs: &mut [VecDeque<Output>]) {
        let is_call = passed.is_call();
        let Passed { kind, core, call, frame, target } = passed;
        let outputs = &mut outputs[usize::from(self.core_of(core, cores))];
        let frame = PeerFrame { peer: self.note_taken(kind, core, call), frame, target };
        outputs.push_back(if is_call { Output::Call(frame) } else { Output::Answer(frame) });
    }

    /// The core of this node that something is for, of which the peer says this.
    #[inline]
    pub(super) fn core_of(&self, said: u8, cores: u16) -> u16 {
        let core = u16::from(said);
        if core < cores { core } else { 0 }
    }

    /// A core gets a call or an answer. Gives who sent it.
    #[inline]
    pub(super) fn note_taken(&mut self, kind: FrameKind, core: u8, call: CallRef) -> NodeId {
        if !is_call(kind) && kind != FrameKind::Probe {
            self.end_wait(u16::from(core), call);
        }
        self.present.unwrap_or(NodeId { id: self.id, incarnation: 0 })
    }

    #[inline]
    fn await_answer(&mut self, core: u16, name: CallRef) {
        let Some(asked) = self.asked.get_mut(usize::from(core)) else { return };
        let slot = name.slot as usize;
        if asked.len() <= slot {
            asked.resize(slot + 1, 0);
        }
        asked[slot] = u64::from(name.generation) + 1;
    }

    #[inline]
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

    /// Ends the session. Gives what is still to be said on the link: answers to what the peer asked, and the end. It counts as
    /// sent.
    pub(super) fn end(&mut self, now: u64) -> VecDeque<Frame> {
        let mut last_words = std::mem::take(&mut self.transmits);
        let session = &mut self.session;
        last_words.extend(std::iter::from_fn(|| session.poll_transmit(now)).take(TRANSMITS_MAX));
        session.close(now);
        last_words.extend(std::iter::from_fn(|| session.poll_transmit(now)).take(1));
        last_words
    }

    /// Takes back what waits for the session, as the peer is no member any more: requests did not run, and nothing else
    /// takes up its core's window.
    pub(super) fn take_back(&mut self) {
        for (core, frame) in std::mem::take(&mut self.calls) {
            if let Some((_, slot, generation)) = request_name(&frame) {
                self.unsent.push((core, CallRef { slot, generation }));
            } else if let Some(taken) = self.taken.get_mut(usize::from(core)) {
                *taken += 1;
            }
        }
        self.answers.clear();
    }

    /// Tells the cores how many of their one-ways and cancels are on their way.
    pub(super) fn report_taken(&mut self, outputs: &mut [VecDeque<Output>]) {
        let node = NodeId { id: self.id, incarnation: 0 };
        for (core, taken) in self.taken.iter_mut().enumerate().filter(|(_, taken)| **taken > 0) {
            let news = LinkNews::Taken(node, std::mem::take(taken));
            outputs[core].push_back(Output::News(Box::new(news)));
        }
    }

    /// Tells the cores which requests the session would not take.
    #[inline]
    pub(super) fn report_unsent(&mut self, outputs: &mut [VecDeque<Output>]) {
        if !self.unsent.is_empty() || !self.unbound.is_empty() {
            self.report_those_unsent(outputs);
        }
    }

    #[cold]
    fn report_those_unsent(&mut self, outputs: &mut [VecDeque<Output>]) {
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

/// Answers that may wait before a probe: as many as calls of a core that the peer may have, each of which one search may
/// ask about.
const PROBES_BEHIND_MAX: usize = crate::remote::WINDOW_MAX;
/// Frames taken from a session before the link is asked again.
const TRANSMITS_MAX: usize = 256;
