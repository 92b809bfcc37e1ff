//! What holds for the time of one link: its deadlines, the session's own frames, and what comes in.

use std::sync::Arc;

use epicserver_transport::{BufferPool, FRAME_ALIGN, Frame, FrameBuf, FrameHeader, FrameKind};

use crate::remote::CallRef;
use crate::session::event::{DownReason, LinkError, Passed};
use crate::session::intern::Target;
use crate::session::lane::Lane;
use crate::session::status::Status;
use crate::session::{Session, SessionConfig, State};
use crate::wire::assembly::{allocate, frame_len};
use crate::wire::extension::Extension;
use crate::wire::hello::CloseReason;
use zerocopy::FromBytes;

/// The state that dies with a link.
#[derive(Debug)]
pub(crate) struct Link {
    /// Longest frame that both ends take, in bytes.
    pub(crate) frame_len_max: usize,
    /// Longest fragment that the peer takes, in bytes.
    fragment_len_max: usize,
    /// A long fragment was made since the link said last that it is done with one: it will say so again.
    pub(crate) has_bulk_under_way: bool,
    /// The count of calls that the peer was told last.
    pub(crate) reported: u64,
    /// Lanes take turns, so that none waits for the others: whose turn it is.
    pub(crate) turn: usize,
    received_at: u64,
    ping_at: u64,
    ping: Option<Ping>,
    ping_token: u64,
    pong: Option<u64>,
    /// Of each lane.
    blocked_since: [Option<u64>; Lane::ALL.len()],
}

/// A ping that has no answer yet. There is one at most, so that pings never pile up at a peer that does not read.
#[derive(Debug)]
struct Ping {
    since: u64,
    is_sent: bool,
}

impl Link {
    pub(crate) fn new(
        now: u64,
        config: &SessionConfig,
        peer_frame_len_max: u32,
        peer_fragment_len_max: u32,
    ) -> Self {
        let frame_len_max = config.frame_len_max.min(peer_frame_len_max) as usize;
        Self {
            frame_len_max: frame_len_max - frame_len_max % FRAME_ALIGN,
            fragment_len_max: peer_fragment_len_max as usize - peer_fragment_len_max as usize % FRAME_ALIGN,
            has_bulk_under_way: false,
            reported: 0,
            turn: 0,
            received_at: now,
            ping_at: now.saturating_add(config.ping_interval_ns),
            ping: None,
            ping_token: 0,
            pong: None,
            blocked_since: [None; Lane::ALL.len()],
        }
    }

    /// A buffer for the next fragment of a frame of which so many bytes are left: a long one if that is worth it and there is one. `None`:
    /// one will come back soon.
    pub(crate) fn room(
        &mut self,
        pool: Option<&BufferPool>,
        bulk: Option<&BufferPool>,
        left: usize,
    ) -> Option<FrameBuf> {
        let len = frame_len(0, left);
        if let Some(bulk) = bulk.filter(|_| left > BULK_LEN_MIN) {
            let len_max = self.fragment_len_max.min(bulk.buffer_len_max());
            if len_max > self.frame_len_max {
                match bulk.alloc(len.min(len_max)) {
                    Some(buffer) => {
                        self.has_bulk_under_way = true;
                        return Some(buffer);
                    }
                    None if self.has_bulk_under_way => return None,
                    None => {}
                }
            }
        }
        Some(allocate(pool, len.min(self.frame_len_max)))
    }

    pub(crate) fn handle_timeout(
        &mut self,
        now: u64,
        config: &SessionConfig,
        has_news: bool,
    ) -> Result<(), LinkError> {
        let blocked_since = self.blocked_since.into_iter().flatten().min();
        if blocked_since.is_some_and(|since| now >= since.saturating_add(config.stall_max_ns)) {
            return Err(LinkError::Stalled);
        }
        if let Some(ping) = &self.ping {
            let is_late = now >= ping.since.max(self.received_at).saturating_add(config.silence_max_ns);
            return if is_late { Err(LinkError::Silent) } else { Ok(()) };
        }
        if now >= self.ping_at {
            if has_news || now >= self.received_at.saturating_add(config.ping_interval_ns) {
                self.ping = Some(Ping { since: now, is_sent: false });
            }
            self.ping_at = now.saturating_add(config.ping_interval_ns);
        }
        Ok(())
    }

    pub(crate) fn poll_timeout(&self, config: &SessionConfig) -> u64 {
        let of_ping = match &self.ping {
            Some(ping) => ping.since.max(self.received_at).saturating_add(config.silence_max_ns),
            None => self.ping_at,
        };
        let blocked_since = self.blocked_since.into_iter().flatten().min();
        let of_stall = blocked_since.map(|since| since.saturating_add(config.stall_max_ns));
        of_stall.map_or(of_ping, |of_stall| of_stall.min(of_ping))
    }

    pub(crate) fn note_blocked(&mut self, now: u64, is_blocked: [bool; Lane::ALL.len()]) {
        for (since, is_blocked) in self.blocked_since.iter_mut().zip(is_blocked) {
            if is_blocked {
                since.get_or_insert(now);
            } else {
                *since = None;
            }
        }
    }

    /// Credits that are used up at once are progress too: the stall of a lane that is free counts from the next look.
    fn note_free(&mut self, is_blocked: [bool; Lane::ALL.len()]) {
        for (since, is_blocked) in self.blocked_since.iter_mut().zip(is_blocked) {
            *since = since.filter(|_| is_blocked);
        }
    }
}

/// What fabric and session want of a header.
#[derive(Clone, Copy)]
pub(crate) struct Marks {
    pub(crate) kind: FrameKind,
    /// The core that the frame is for.
    pub(crate) core: u8,
    pub(crate) call: CallRef,
    pub(crate) handle: u32,
    pub(crate) payload_len: u32,
}

impl Marks {
    #[inline]
    pub(crate) fn of(header: &FrameHeader) -> Self {
        Self {
            kind: header.kind(),
            core: header.target_core,
            call: CallRef { slot: header.slot.get(), generation: header.generation.get() },
            handle: header.handle.get(),
            payload_len: header.payload_len.get(),
        }
    }
}

impl Session {
    /// What the session itself has to say now: an answer to a ping, a ping, credits.
    pub(super) fn own_word(&mut self) -> Option<Frame> {
        let State::Up(link, _) = &mut self.state else { return None };
        let uncounted = self.received - link.reported;
        let (kind, token) = if let Some(token) = link.pong.take() {
            (FrameKind::Pong, token)
        } else if let Some(ping) = link.ping.as_mut().filter(|ping| !ping.is_sent) {
            ping.is_sent = true;
            link.ping_token += 1;
            (FrameKind::Ping, link.ping_token)
        } else if self.receive_calls.is_due()
            || self.receive_answers.is_due()
            || self.receive_controls.is_due()
            || uncounted >= u64::from(self.config.count_after)
        {
            (FrameKind::Credit, 0)
        } else {
            return None;
        };
        link.reported = self.received;
        let status = Status {
            received: self.received.into(),
            granted_calls: self.receive_calls.grant().into(),
            granted_answers: self.receive_answers.grant().into(),
            granted_controls: self.receive_controls.grant().into(),
            token: token.into(),
        };
        Some(status.frame(self.pool.as_ref(), kind))
    }

    /// Takes a frame of the link that is up; gives what came with it.
    #[inline(always)]
    pub(super) fn receive(&mut self, now: u64, frame: Frame) -> Result<Option<Passed>, LinkError> {
        let State::Up(link, _) = &mut self.state else { return Ok(None) };
        link.received_at = now;
        let header = FrameHeader::parse_frame(&frame).map_err(LinkError::Malformed)?;
        let is_fragment = header.kind() == FrameKind::Fragment;
        let Self { config: SessionConfig { frame_len_max, fragment_len_max, .. }, .. } = self;
        let frame_len_max = if is_fragment { *fragment_len_max } else { *frame_len_max } as usize;
        if frame.len() > frame_len_max {
            let len = frame.len() as u64;
            return Err(LinkError::Malformed(epicserver_transport::HeaderError::TooLong {
                len,
                frame_len_max,
            }));
        }
        let kind = header.kind();
        if let Some(lane) = Lane::of(kind) {
            let marks = Marks::of(header);
            self.take_credit(lane)?;
            return match self.deliver(lane, marks, frame) {
                Ok(passed) => Ok(Some(passed)),
                Err(error) => Err(self.refuse(lane, error)),
            };
        }
        self.receive_own(now, kind, &frame)
    }

    /// Takes what the other session has to say itself, or a fragment.
    #[cold]
    #[inline(never)]
    fn receive_own(&mut self, now: u64, kind: FrameKind, frame: &Frame) -> Result<Option<Passed>, LinkError> {
        match kind {
            FrameKind::Fragment => self.receive_fragment(frame),
            FrameKind::Credit | FrameKind::Ping | FrameKind::Pong => {
                self.receive_status(kind, frame)?;
                Ok(None)
            }
            FrameKind::Close => {
                let payload = FrameHeader::payload_bytes(frame).unwrap_or_default();
                let reason = CloseBytes::read_from_bytes(payload)
                    .map_or(CloseReason::Session, |body| CloseReason::from_u8(body.reason));
                self.lose_link(now, DownReason::ClosedByPeer(reason));
                Ok(None)
            }
            kind => Err(LinkError::Unexpected(kind)),
        }
    }

    fn take_credit(&mut self, lane: Lane) -> Result<(), LinkError> {
        if self.receive_lane(lane).take() { Ok(()) } else { Err(LinkError::CreditBreach) }
    }

    /// Nobody gets what took a credit, so nobody will release it: what is held outlives the link.
    #[cold]
    fn refuse(&mut self, lane: Lane, error: LinkError) -> LinkError {
        self.receive_lane(lane).release(1);
        error
    }

    #[inline(always)]
    fn deliver(&mut self, lane: Lane, marks: Marks, frame: Frame) -> Result<Passed, LinkError> {
        if self.partials[lane as usize].is_partial() {
            return Err(LinkError::Fragment(FragmentError::Order));
        }
        let Marks { kind, core, call, handle, .. } = marks;
        let target = if handle == 0 { None } else { self.target(kind, handle, &frame)? };
        if lane == Lane::Calls {
            self.received += 1;
        }
        Ok(Passed { kind, core, call, frame, target })
    }

    /// What a call is for whose frame has a handle and no key.
    fn target(
        &mut self,
        kind: FrameKind,
        handle: u32,
        frame: &Frame,
    ) -> Result<Option<Arc<Target>>, LinkError> {
        if !matches!(kind, FrameKind::Request | FrameKind::OneWay) {
            return Ok(None);
        }
        let bytes = FrameHeader::ext_bytes(frame).unwrap_or_default();
        if !Extension::may_have_key(bytes) {
            return self.bound.take(handle, None).map_err(LinkError::Handle);
        }
        // One that cannot be read binds nothing, and is refused by the core that it is for.
        let Ok(extension) = Extension::parse(bytes) else { return Ok(None) };
        self.bound.take(handle, extension.key).map_err(LinkError::Handle)
    }

    fn receive_fragment(&mut self, frame: &Frame) -> Result<Option<Passed>, LinkError> {
        let header = FrameHeader::parse_frame(frame).map_err(LinkError::Malformed)?;
        let lane = Lane::from_number(header.method.get()).ok_or(LinkError::MalformedWhole)?;
        self.take_credit(lane)?;
        let passed = self.receive_piece(lane, header, FrameHeader::payload_bytes(frame).unwrap_or_default());
        if !matches!(passed, Ok(Some(_))) {
            // The credit is for what somebody gets.
            self.receive_lane(lane).release(1);
        }
        passed
    }

    /// Takes a piece; gives the frame when it was the last.
    fn receive_piece(
        &mut self,
        lane: Lane,
        header: &FrameHeader,
        piece: &[u8],
    ) -> Result<Option<Passed>, LinkError> {
        let whole_max = self.config.frame_len_whole_max();
        let partial = &mut self.partials[lane as usize];
        let Some(whole) = partial.take(header, piece, whole_max).map_err(LinkError::Fragment)? else {
            return Ok(None);
        };
        let marks = Marks::of(FrameHeader::parse_frame(&whole).map_err(|_| LinkError::MalformedWhole)?);
        if Lane::of(marks.kind) != Some(lane) {
            return Err(LinkError::MalformedWhole);
        }
        self.deliver(lane, marks, whole).map(Some)
    }

    fn receive_status(&mut self, kind: FrameKind, frame: &Frame) -> Result<(), LinkError> {
        let payload = FrameHeader::payload_bytes(frame).unwrap_or_default();
        let status = Status::parse(payload).ok_or(LinkError::MalformedStatus)?;
        let State::Up(link, _) = &mut self.state else { return Ok(()) };
        if !self.calls.acknowledge(status.received.get()) {
            return Err(LinkError::Count);
        }
        let is_possible = self.calls.grant(status.granted_calls.get())
            && self.answers.grant(status.granted_answers.get())
            && self.controls.grant(status.granted_controls.get());
        if !is_possible {
            return Err(LinkError::CreditOverflow);
        }
        link.note_free([self.calls.is_blocked(), self.answers.is_blocked(), self.controls.is_blocked()]);
        match kind {
            FrameKind::Ping => link.pong = Some(status.token.get()),
            FrameKind::Pong => {
                let is_awaited = link.ping.as_ref().is_some_and(|ping| ping.is_sent);
                if !is_awaited || status.token.get() != link.ping_token {
                    return Err(LinkError::Unexpected(kind));
                }
                link.ping = None;
            }
            _ => {}
        }
        Ok(())
    }
}

use crate::session::fragment::FragmentError;
use crate::wire::hello::CloseBytes;

/// Frames of which no more is left go in short fragments: a long one has more to it than its bytes.
const BULK_LEN_MIN: usize = 64 << 10;
