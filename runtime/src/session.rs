//! One link session to a peer: what lies between the frames of the calls and the frames on a link.
//!
//! ```text
//! queue, release_* ──────┐                        ┌── poll_event     what came, and what became of what was queued
//! handle_link_up, _down ─┼──> Session ────────────┼── poll_transmit  frames for the link
//! handle_frame, _timeout ┘                        └── poll_timeout   when to call handle_timeout
//! ```
//! Drive it like this: hand in one input, then drain `poll_transmit` and `poll_event`. It keeps credits, so that a frame
//! leaves only if the peer has room; counts calls and keeps the sent ones until the peer has counted them, so that over
//! a new link to the same process every call arrives once and in order; cuts and joins frames longer than the link's;
//! notices a peer that is silent or gives no room. Whatever it holds is bounded by [`SessionConfig`].
//!
//! It does no IO, reads no clock, and never looks into a payload of a peer, nor into an extension but for the key that
//! belongs to a handle (`session/intern.rs`). It is not the table of
//! outstanding calls: who waits for what is the caller's knowledge, see [`SessionEvent::Lost`].
//!
//! *One link at a time.* When a session is given a link it forgets the one before: a frame of the older link that is
//! handed in afterwards would be counted twice. The driver closes a link when it reads [`SessionEvent::Down`].
//!
//! Start with [`Session`]; the lanes with their credits are in `session/lane.rs`, the rules of a new link in
//! `Session::establish`.

mod event;
mod fragment;
pub mod intern;
mod lane;
mod link;
mod status;

use std::collections::VecDeque;

use epicserver_transport::{BufferPool, Caps, Frame, FrameHeader, FrameKind, HEADER_LEN};

pub use event::{DownReason, LinkError, Lost, LostReason, Passed, QueueError, SessionEvent};
pub use fragment::FragmentError;

pub(crate) use crate::session::event::is_call;
use crate::session::fragment::{Reassembly, fragment};
use crate::session::intern::{BoundHandles, SentHandles};
use crate::session::lane::{Lane, Part, ReceiveLane, SendLane};
use crate::session::link::Link;
pub(crate) use crate::session::link::Marks;
use crate::wire::extension::EXTENSION_LEN_MAX;
use crate::wire::handshake::{Established, Handshake};
use crate::wire::hello::{Agreement, CloseReason, Identity, KnownStream, Terms, close_frame};

/// One end of all links to one peer, one after the other. See the module for how to drive it.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    pool: Option<BufferPool>,
    /// Where long fragments are made.
    bulk: Option<BufferPool>,
    state: State,
    /// Names what this end remembers of the peer; changes when it forgets.
    stream: u64,
    /// Who was at the other end last, and the name of what it remembered.
    peer: Option<(Identity, u64)>,
    /// When this end last said its terms.
    said_at: u64,
    /// In which life the peer said the terms of the last link, and when by its clock.
    heard_at: Option<(u32, u64)>,
    /// The peer's stream that `received` counts in.
    peer_stream: Option<u64>,
    received: u64,
    calls: SendLane,
    answers: SendLane,
    controls: SendLane,
    receive_calls: ReceiveLane,
    receive_answers: ReceiveLane,
    receive_controls: ReceiveLane,
    /// What is in pieces, of each lane.
    partials: [Reassembly; Lane::ALL.len()],
    sent_handles: SentHandles,
    bound: BoundHandles,
    /// Last words of a link that is over.
    parting: VecDeque<Frame>,
    events: VecDeque<SessionEvent>,
    /// Since when something waits for a link.
    without_link_since: Option<u64>,
}

/// The bounds of a session. All times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// A random number that names this session: never used before for the same peer.
    pub stream: u64,
    /// Frames of calls there is room for: arrived and not released, or on their way.
    pub window_calls: u32,
    /// Frames of answers there is room for: arrived and not released, or on their way.
    pub window_answers: u32,
    /// Control frames there is room for: arrived and not released, or on their way.
    pub window_controls: u32,
    /// Calls that may come until the peer is told their count. It keeps their frames as long, so that a small number has it use
    /// the same memory again while its caches still have it.
    pub count_after: u32,
    /// Longest frame the link carries, in bytes; longer ones go in fragments.
    pub frame_len_max: u32,
    /// Longest fragment that this end takes, in bytes. It may be longer than other frames, since its bytes are copied and its buffer is free
    /// at once: so the windows, which count frames, bound what is held.
    pub fragment_len_max: u32,
    /// Longest payload of a call or answer, in bytes.
    pub payload_len_max: u32,
    /// Calls that may wait for credits or a link. Those sent and not counted come on top: at most the peer's window.
    pub queue_calls_max: usize,
    /// Answers that may wait for credits or a link.
    pub queue_answers_max: usize,
    /// Control frames that may wait for credits or a link.
    pub queue_controls_max: usize,
    /// How often a peer that says nothing is asked, and counts are told that are not due otherwise.
    pub ping_interval_ns: u64,
    /// How long a peer may leave a ping unanswered without saying anything else.
    pub silence_max_ns: u64,
    /// How long a peer may give no room while frames wait for it.
    pub stall_max_ns: u64,
    /// How long to wait for a new link before everything is given up.
    pub without_link_max_ns: u64,
}

impl SessionConfig {
    /// The usual bounds for a link of these frames.
    pub fn new(stream: u64, frame_len_max: u32) -> Self {
        Self {
            stream,
            window_calls: 1024,
            window_answers: 1024,
            window_controls: 16,
            count_after: 64,
            frame_len_max,
            fragment_len_max: frame_len_max,
            payload_len_max: PAYLOAD_LEN_MAX,
            queue_calls_max: 4096,
            queue_answers_max: 4096,
            queue_controls_max: 256,
            ping_interval_ns: 1_000_000_000,
            silence_max_ns: 5_000_000_000,
            stall_max_ns: 30_000_000_000,
            without_link_max_ns: 10_000_000_000,
        }
    }

    /// The usual bounds for links of this transport: where the receives of a link are counted, the windows are what
    /// they allow.
    ///
    /// # Panics
    /// If a link has fewer receives than [`LINK_RECEIVES`] and one for each lane.
    pub fn for_transport(stream: u64, caps: &Caps) -> Self {
        let mut config = Self::new(stream, caps.frame_len_max as u32);
        config.fragment_len_max = caps.bulk_len_max as u32;
        if let Some(receives) = caps.receive_window_frames {
            let of_controls = config.window_controls.min(receives as u32 / 8).max(1);
            config.window_controls = of_controls;
            let window = receives.saturating_sub(LINK_RECEIVES + of_controls as usize) as u32 / 2;
            assert!(window > 0, "{receives} receives for a link of {}", caps.name);
            config.window_calls = config.window_calls.min(window);
            config.window_answers = config.window_answers.min(window);
            // Each count takes up a receive: two at most are on their way.
            config.count_after = config.window_calls.div_ceil(2);
        }
        config
    }

    /// Frames of any kind that may be on their way to this end at one time: a link that posts so many receives, and
    /// posts one again for each frame it hands over, is never overrun by a peer that keeps the rules.
    pub fn receives_max(&self) -> usize {
        let windows = [self.window_calls, self.window_answers, self.window_controls];
        windows.into_iter().map(|window| window as usize).sum::<usize>() + LINK_RECEIVES
    }

    fn frame_len_whole_max(&self) -> usize {
        self.payload_len_max as usize + HEADER_LEN + EXTENSION_LEN_MAX
    }
}

/// Whether there is a link, and how far it is.
#[derive(Debug)]
enum State {
    Down,
    Opening(Box<Handshake>),
    Up(Link, Agreement),
    Closed,
}

impl Session {
    /// A session without a link. Frames of its own and fragments come from `pool`, the send buffers of the link, and from
    /// the heap when that is empty.
    ///
    /// # Panics
    /// If a window is zero, or frames are shorter than [`FRAME_LEN_MIN`] or payloads longer than [`PAYLOAD_LEN_MAX`].
    pub fn new(config: SessionConfig, pool: Option<BufferPool>) -> Self {
        let windows = [config.window_calls, config.window_answers, config.window_controls];
        assert!(windows.into_iter().all(|window| window > 0), "a window of no frames");
        assert!(config.frame_len_max >= FRAME_LEN_MIN, "frames of {} bytes", config.frame_len_max);
        assert!(config.fragment_len_max >= config.frame_len_max, "fragments shorter than frames");
        assert!(config.payload_len_max <= PAYLOAD_LEN_MAX, "payloads of {} bytes", config.payload_len_max);
        Self {
            config,
            pool,
            bulk: None,
            state: State::Down,
            stream: config.stream,
            peer: None,
            said_at: 0,
            heard_at: None,
            peer_stream: None,
            received: 0,
            calls: SendLane::new(true, config.queue_calls_max),
            answers: SendLane::new(false, config.queue_answers_max),
            controls: SendLane::new(false, config.queue_controls_max),
            receive_calls: ReceiveLane::new(config.window_calls),
            receive_answers: ReceiveLane::new(config.window_answers),
            receive_controls: ReceiveLane::new(config.window_controls),
            partials: Default::default(),
            sent_handles: SentHandles::default(),
            bound: BoundHandles::default(),
            parting: VecDeque::new(),
            events: VecDeque::new(),
            without_link_since: None,
        }
    }

    /// Makes fragments in buffers of the link's for long frames, as far as the peer takes such and there are any.
    pub fn use_bulk(&mut self, pool: BufferPool) {
        self.bulk = Some(pool);
    }

    /// Takes a frame to send: a request, one-way, cancel, reply, error, `Moved`, control frame or probe.
    ///
    /// A request or one-way may name its object by a handle of [`intern::Handles`] alone if an earlier one carried handle and
    /// key: where the link there is now has not seen that, the frame gets its key back.
    ///
    /// With a link or without: it waits for one. Calls arrive in the order they were queued in, and so do answers with probes
    /// and control frames; each kind may overtake the others. What becomes of a call that is not delivered is told by
    /// [`SessionEvent::Lost`]; answers, control frames and probes may be lost in silence with a link, as the peer learns of that
    /// itself.
    ///
    /// # Errors
    /// Gives the frame back, and says why it was not taken.
    pub fn queue(&mut self, now: u64, frame: Frame) -> Result<(), QueueError> {
        let Ok(marks) = FrameHeader::parse_frame(&frame).map(Marks::of) else {
            return Err(QueueError::Kind(frame));
        };
        self.queue_read(now, marks, frame)
    }

    /// As [`Session::queue`], for a frame whose header was read and fits it.
    #[inline]
    pub(crate) fn queue_read(&mut self, now: u64, marks: Marks, frame: Frame) -> Result<(), QueueError> {
        let Marks { kind, handle, payload_len, .. } = marks;
        let Some(lane) = Lane::of(kind) else { return Err(QueueError::Kind(frame)) };
        if payload_len > self.config.payload_len_max {
            return Err(QueueError::TooLarge(frame));
        }
        if matches!(self.state, State::Closed) {
            return Err(QueueError::Closed(frame));
        }
        let may_name = matches!(kind, FrameKind::Request | FrameKind::OneWay);
        match handle {
            0 => self.push(now, lane, frame),
            _ if may_name && self.sent_handles.fits(&frame, handle) => self.push(now, lane, frame),
            _ if may_name => self.queue_to_bind(now, lane, handle, frame),
            _ => Err(QueueError::Handle(frame)),
        }
    }

    /// Queues a frame whose handle the peer does not know yet, with its key.
    #[cold]
    fn queue_to_bind(&mut self, now: u64, lane: Lane, handle: u32, frame: Frame) -> Result<(), QueueError> {
        let frame = self.sent_handles.fit(frame, handle).map_err(|(_, frame)| QueueError::Handle(frame))?;
        self.push(now, lane, frame)?;
        self.sent_handles.mark_bound(handle);
        Ok(())
    }

    #[inline]
    fn push(&mut self, now: u64, lane: Lane, frame: Frame) -> Result<(), QueueError> {
        if !matches!(self.state, State::Up(..)) {
            self.without_link_since.get_or_insert(now);
        }
        self.send_lane(lane).push(frame).map_err(QueueError::Full)
    }

    /// Gives back the room of `count` requests, one-ways and cancels that [`Session::poll_event`] gave out, once their
    /// frames are dropped: the peer may send as many more. Until then they are in its way, and this is the back-pressure.
    pub fn release_calls(&mut self, count: u32) {
        self.receive_calls.release(count);
    }

    /// Gives back the room of `count` replies, errors, `Moved` and probes, once they are dropped. To wait with
    /// this for anything that needs the peer can stop both ends for good.
    pub fn release_answers(&mut self, count: u32) {
        self.receive_answers.release(count);
    }

    /// Gives back the room of `count` control frames, once they are dropped.
    pub fn release_controls(&mut self, count: u32) {
        self.receive_controls.release(count);
    }

    /// Takes a new link, and the handshake to open it with: one that was just made, or one whose peer is proven already
    /// because the driver needed to know whose link it accepted.
    pub fn handle_link_up(&mut self, now: u64, handshake: Handshake) {
        match self.state {
            State::Up(..) | State::Opening(_) => self.lose_link(now, DownReason::Replaced),
            State::Closed => return,
            State::Down => {}
        }
        self.parting.clear();
        self.without_link_since.get_or_insert(now);
        self.state = State::Opening(Box::new(handshake));
        self.advance_handshake(now);
    }

    /// Takes note that the link is gone.
    pub fn handle_link_down(&mut self, now: u64) {
        if matches!(self.state, State::Up(..) | State::Opening(_)) {
            self.lose_link(now, DownReason::LinkDown);
            self.parting.clear();
        }
    }

    /// Takes note that the link has room again, or is done with a long fragment.
    pub fn handle_writable(&mut self) {
        if let State::Up(link, _) = &mut self.state {
            link.has_bulk_under_way = false;
        }
    }

    /// Takes a frame from the link that was handed in last. Without a link it is ignored.
    pub fn handle_frame(&mut self, now: u64, frame: Frame) {
        let event = self.take_frame(now, frame).and_then(Passed::into_event);
        self.events.extend(event);
    }

    /// As [`Session::handle_frame`], for a driver that has drained [`Session::poll_event`]: a call or an answer that came whole
    /// is given at once. What else happened is to be drained.
    // In place, as is what follows: what this gives is written in parts, and to copy it as a whole would have to wait for them.
    #[inline(always)]
    pub fn pass_frame(&mut self, now: u64, frame: Frame) -> Option<Passed> {
        debug_assert!(self.events.is_empty(), "what waits would be overtaken");
        self.take_frame(now, frame)
    }

    /// Does what is due at this time. Earlier or later than asked for does no harm.
    pub fn handle_timeout(&mut self, now: u64) {
        let may_wait = self.config.without_link_max_ns;
        if self.without_link_since.is_some_and(|since| now >= since.saturating_add(may_wait)) {
            self.give_up(now);
            return;
        }
        match &mut self.state {
            State::Opening(handshake) => {
                handshake.handle_timeout(now);
                self.advance_handshake(now);
            }
            State::Up(link, _) => {
                let has_news = link.reported != self.received
                    || self.receive_calls.owed() > 0
                    || self.receive_answers.owed() > 0
                    || self.receive_controls.owed() > 0;
                if let Err(error) = link.handle_timeout(now, &self.config, has_news) {
                    self.break_link(now, error);
                }
            }
            State::Down | State::Closed => {}
        }
    }

    /// Ends everything: what is queued or not counted comes back as [`SessionEvent::Lost`], the link gets a last word.
    pub fn close(&mut self, now: u64) {
        if matches!(self.state, State::Closed) {
            return;
        }
        if let State::Up(_, agreement) = &self.state {
            let last_word = close_frame(CloseReason::Done, agreement);
            self.lose_link(now, DownReason::Closed);
            self.parting.push_back(last_word);
        }
        self.give_up(now);
        self.state = State::Closed;
    }

    /// The next frame for the link; it counts as sent. Call it again when the link has taken the frame.
    pub fn poll_transmit(&mut self, now: u64) -> Option<Frame> {
        if let Some(frame) = self.parting.pop_front() {
            return Some(frame);
        }
        match &mut self.state {
            State::Opening(handshake) => handshake.poll_transmit(),
            State::Up(..) => {
                self.note_blocked(now);
                self.own_word().or_else(|| self.next_of_lanes())
            }
            State::Down | State::Closed => None,
        }
    }

    /// As [`Session::poll_transmit`], for as many frames as there are, up to `len_max` in `frames` with those that are there.
    pub fn poll_transmits(&mut self, now: u64, frames: &mut VecDeque<Frame>, len_max: usize) {
        while frames.len() < len_max {
            let word = match &self.state {
                State::Up(..) if self.parting.is_empty() => self.own_word(),
                _ => self.poll_transmit(now),
            };
            let Some(word) = word else { break };
            frames.push_back(word);
        }
        self.fill_from_lanes(frames, len_max);
        self.note_blocked(now);
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// When to call `handle_timeout`; `None` if nothing is waited for.
    pub fn poll_timeout(&self) -> Option<u64> {
        let of_state = match &self.state {
            State::Opening(handshake) => handshake.poll_timeout(),
            State::Up(link, _) => Some(link.poll_timeout(&self.config)),
            State::Down | State::Closed => None,
        };
        let may_wait = self.config.without_link_max_ns;
        let give_up_at = self.without_link_since.map(|since| since.saturating_add(may_wait));
        of_state.into_iter().chain(give_up_at).min()
    }

    /// The calls that the peer has not counted, sent or waiting, in order. Right after [`SessionEvent::Up`] these are the
    /// ones that will arrive; of an outstanding call that is not here the answer may have been lost with the old link.
    pub fn calls(&self) -> impl Iterator<Item = &Frame> {
        self.calls.frames()
    }

    /// How many answers wait for credits or a link.
    pub fn answers_waiting(&self) -> usize {
        self.answers.waiting()
    }

    /// Whether the peer is proven and frames flow.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up(..))
    }

    #[inline(always)]
    fn take_frame(&mut self, now: u64, frame: Frame) -> Option<Passed> {
        match &mut self.state {
            State::Up(..) => match self.receive(now, frame) {
                Ok(passed) => return passed,
                Err(error) => self.break_link(now, error),
            },
            State::Opening(handshake) => {
                handshake.handle_frame(now, &frame);
                self.advance_handshake(now);
            }
            State::Down | State::Closed => {}
        }
        None
    }

    fn advance_handshake(&mut self, now: u64) {
        let own = self.terms(now);
        let State::Opening(handshake) = &mut self.state else { return };
        if handshake.proven().is_some() {
            self.said_at = own.said_at;
            handshake.offer(own);
        }
        let Some(outcome) = handshake.outcome() else { return };
        let agreement = *handshake.agreement();
        self.parting.extend(std::iter::from_fn(|| handshake.poll_transmit()));
        let established = match outcome {
            Ok(established) => established,
            Err(error) => return self.lose_link(now, DownReason::Hello(error)),
        };
        match self.establish(now, &established) {
            Ok(link) => self.state = State::Up(link, agreement),
            Err(error) => {
                self.state = State::Up(Link::new(now, &self.config, 0, 0), agreement);
                self.break_link(now, error);
            }
        }
    }

    /// Whether the peer has opened a link in this life by terms that it said later than these: then that end has given up this link
    /// since, and remembers more than it says here. Lives cannot be compared: those of a fixed list are drawn at random.
    pub fn is_stale(&self, life: u32, terms: &Terms) -> bool {
        self.heard_at.is_some_and(|(of, said_at)| of == life && terms.said_at <= said_at)
    }

    fn terms(&self, now: u64) -> Terms {
        Terms {
            stream: self.stream,
            said_at: now.max(self.said_at + 1),
            base: self.calls.base(),
            known: self.peer_stream.map(|stream| KnownStream { stream, received: self.received }),
            window_calls: self.config.window_calls,
            granted_calls: self.receive_calls.free(),
            window_answers: self.config.window_answers,
            granted_answers: self.receive_answers.free(),
            window_controls: self.config.window_controls,
            granted_controls: self.receive_controls.free(),
            frame_len_max: self.config.frame_len_max,
            fragment_len_max: self.config.fragment_len_max,
        }
    }

    /// The rules of a new link.
    ///
    /// Both ends compare what they remember. If the other end is the very one of the last link, its count says which of
    /// the kept calls arrived, and the rest is sent again before anything new. If it remembers nothing, because it is
    /// another process or has given up, or nothing of this end, the kept calls may have run, and counting goes on where it was last
    /// agreed.
    fn establish(&mut self, now: u64, established: &Established) -> Result<Link, LinkError> {
        let Established { peer, own, theirs } = established;
        let is_possible = theirs.window_calls >= theirs.granted_calls
            && theirs.window_answers >= theirs.granted_answers
            && theirs.window_controls >= theirs.granted_controls
            && theirs.window_calls > 0
            && theirs.window_answers > 0
            && theirs.window_controls > 0
            && theirs.frame_len_max >= FRAME_LEN_MIN
            && theirs.fragment_len_max >= theirs.frame_len_max;
        if !is_possible {
            return Err(LinkError::Terms);
        }
        let known = theirs.known.filter(|known| known.stream == own.stream);
        let counted = known.map_or_else(|| self.calls.base(), |known| known.received);
        // One that says nothing of this end has heard another life of this process since, and counts anew for that.
        let is_resumed = self.peer == Some((*peer, theirs.stream)) && known.is_some();
        self.check_base(theirs)?;
        if !is_resumed {
            self.forget_peer(peer);
        }
        if !self.calls.acknowledge(counted) {
            return Err(LinkError::Count);
        }
        if self.peer_stream != Some(theirs.stream) {
            self.peer_stream = Some(theirs.stream);
            self.received = theirs.base;
        }
        self.peer = Some((*peer, theirs.stream));
        self.heard_at = Some((peer.incarnation, theirs.said_at));
        self.calls.restart(theirs.granted_calls, theirs.window_calls);
        self.answers.restart(theirs.granted_answers, theirs.window_answers);
        self.controls.restart(theirs.granted_controls, theirs.window_controls);
        self.receive_calls.restart(own.granted_calls);
        self.receive_answers.restart(own.granted_answers);
        self.receive_controls.restart(own.granted_controls);
        self.without_link_since = None;
        self.events.push_back(SessionEvent::Up { peer: *peer, is_resumed });
        let mut link = Link::new(now, &self.config, theirs.frame_len_max, theirs.fragment_len_max);
        link.reported = self.received;
        Ok(link)
    }

    /// A peer cannot have been told of more than was received.
    fn check_base(&self, theirs: &Terms) -> Result<(), LinkError> {
        let is_known = self.peer_stream == Some(theirs.stream);
        if is_known && theirs.base > self.received { Err(LinkError::Count) } else { Ok(()) }
    }

    /// Gives up what the peer of the last link may have run, as there is now another one, or one that forgot.
    fn forget_peer(&mut self, new_peer: &Identity) {
        let Some((old_peer, _)) = self.peer.take() else { return };
        let is_same_process = (old_peer.node, old_peer.incarnation) == (new_peer.node, new_peer.incarnation);
        let unknown = self.calls.take_sent();
        let (reason, not_sent) = if is_same_process {
            (LostReason::LinkLost, Vec::new())
        } else {
            self.answers.take_waiting();
            self.controls.take_waiting();
            // Those that wait include the ones that were to bind.
            self.sent_handles.unbind();
            (LostReason::OwnerLost, self.calls.take_waiting())
        };
        self.events.push_back(SessionEvent::Lost(Lost::new(reason, unknown, not_sent)));
    }

    /// Becomes as new: nothing is kept, nothing remembered, so that both ends agree on that when they meet again.
    fn give_up(&mut self, now: u64) {
        if matches!(self.state, State::Opening(_) | State::Up(..)) {
            self.lose_link(now, DownReason::GaveUp);
        }
        self.without_link_since = None;
        let (unknown, not_sent) = (self.calls.take_sent(), self.calls.take_waiting());
        self.answers.take_waiting();
        self.controls.take_waiting();
        self.sent_handles.unbind();
        self.calls.forget_count();
        self.stream = self.stream.wrapping_add(1);
        (self.peer, self.peer_stream, self.received) = (None, None, 0);
        self.events.push_back(SessionEvent::Lost(Lost::new(LostReason::LinkLost, unknown, not_sent)));
    }

    fn break_link(&mut self, now: u64, error: LinkError) {
        if let State::Up(_, agreement) = &self.state {
            let last_word = close_frame(CloseReason::Session, agreement);
            self.lose_link(now, DownReason::Error(error));
            self.parting.push_back(last_word);
        }
    }

    fn lose_link(&mut self, now: u64, reason: DownReason) {
        self.state = State::Down;
        self.without_link_since.get_or_insert(now);
        self.partials.iter_mut().for_each(Reassembly::clear);
        for frame in self.calls.frames_mut() {
            if let Some(restored) = self.sent_handles.with_full_key(frame) {
                *frame = restored;
            }
        }
        self.sent_handles.unbind();
        self.bound.clear();
        self.events.push_back(SessionEvent::Down(reason));
    }

    /// The link is to know since when lanes have no credits.
    fn note_blocked(&mut self, now: u64) {
        if let State::Up(link, _) = &mut self.state {
            let blocked = [self.calls.is_blocked(), self.answers.is_blocked(), self.controls.is_blocked()];
            link.note_blocked(now, blocked);
        }
    }

    /// Takes what the lanes have: in turns while several have something, and else whatever the one has.
    fn fill_from_lanes(&mut self, frames: &mut VecDeque<Frame>, len_max: usize) {
        while frames.len() < len_max {
            // Without a link nothing leaves.
            let State::Up(link, _) = &self.state else { return };
            let lanes = [&self.calls, &self.answers, &self.controls];
            let has_some = lanes.map(SendLane::may_send_more);
            let (before, frame_len_max) = (frames.len(), link.frame_len_max);
            match has_some {
                [false, false, false] => return,
                [true, false, false] => self.calls.take_whole(frame_len_max, frames, len_max),
                [false, true, false] => self.answers.take_whole(frame_len_max, frames, len_max),
                _ => {}
            }
            if frames.len() == before {
                let Some(frame) = self.next_of_lanes() else { return };
                frames.push_back(frame);
            }
        }
    }

    fn next_of_lanes(&mut self) -> Option<Frame> {
        let State::Up(link, _) = &mut self.state else { return None };
        let turn = link.turn;
        link.turn = (turn + 1) % Lane::ALL.len();
        (0..Lane::ALL.len()).find_map(|step| self.next_of(Lane::ALL[(turn + step) % Lane::ALL.len()]))
    }

    #[inline]
    fn next_of(&mut self, lane: Lane) -> Option<Frame> {
        let State::Up(link, _) = &mut self.state else { return None };
        let sender = match lane {
            Lane::Calls => &mut self.calls,
            Lane::Answers => &mut self.answers,
            Lane::Controls => &mut self.controls,
        };
        let (pool, bulk) = (self.pool.as_ref(), self.bulk.as_ref());
        match sender.next(link.frame_len_max, |left| link.room(pool, bulk, left))? {
            Part::Whole(frame) => Some(frame),
            Part::Piece { frame, offset, room } => Some(fragment(lane, &frame, offset, room)),
        }
    }

    fn send_lane(&mut self, lane: Lane) -> &mut SendLane {
        match lane {
            Lane::Calls => &mut self.calls,
            Lane::Answers => &mut self.answers,
            Lane::Controls => &mut self.controls,
        }
    }

    fn receive_lane(&mut self, lane: Lane) -> &mut ReceiveLane {
        match lane {
            Lane::Calls => &mut self.receive_calls,
            Lane::Answers => &mut self.receive_answers,
            Lane::Controls => &mut self.receive_controls,
        }
    }
}

/// Longest payload of one frame: 16 MiB.
pub const PAYLOAD_LEN_MAX: u32 = 16 << 20;
/// Shortest limit on frames that a link may have, in bytes: the handshake must fit.
pub const FRAME_LEN_MIN: u32 = crate::wire::hello::HELLO_FRAME_LEN_MAX as u32;
/// Room for what a session itself has on its way at one time: two credits for each of the three lanes, two for counts of
/// calls that are not released yet, one ping, one pong, the last frame of the handshake, one Close.
pub const LINK_RECEIVES: usize = 12;

#[cfg(test)]
mod tests;
