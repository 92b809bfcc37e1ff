//! The lanes of a session: calls, which are counted and kept until the peer has counted them, answers, and control.
//!
//! Each lane has credits of its own, so that answers flow while calls wait, and control while both do. A *sending* lane owns the queue and the
//! credits the peer gave; a *receiving* lane owns the room it promised. Neither knows of the others, of time, or of bytes
//! inside a frame.

use std::collections::VecDeque;

use epicserver_transport::{Frame, FrameBuf, FrameKind, HEADER_LEN};

/// Which lane a kind of frame travels in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Requests, one-ways and cancels: counted, in order, resent.
    Calls,
    /// Replies, errors, `Moved`: whoever waits for one always has room for it. Probes, which may be lost.
    Answers,
    /// What nodes say to each other: nothing that objects do may hold it up.
    Controls,
}

impl Lane {
    /// The lane of a kind; `None` for what the session itself says.
    #[inline]
    pub(crate) fn of(kind: FrameKind) -> Option<Lane> {
        match kind {
            FrameKind::Request | FrameKind::OneWay | FrameKind::Cancel => Some(Lane::Calls),
            FrameKind::Reply | FrameKind::Error | FrameKind::Moved | FrameKind::Probe => Some(Lane::Answers),
            FrameKind::Control => Some(Lane::Controls),
            _ => None,
        }
    }

    pub(crate) fn number(self) -> u32 {
        self as u32
    }

    pub(crate) fn from_number(number: u32) -> Option<Lane> {
        Lane::ALL.get(number as usize).copied()
    }

    /// Every lane, in the order of their numbers.
    pub(crate) const ALL: [Lane; 3] = [Lane::Calls, Lane::Answers, Lane::Controls];
}

/// Frames to send in one lane: first those sent and kept, then those that wait.
#[derive(Debug)]
pub(crate) struct SendLane {
    frames: VecDeque<Frame>,
    /// How many at the front were sent whole and are kept.
    sent: usize,
    /// Bytes of the first waiting frame that left as fragments.
    offset: usize,
    /// How many frames were ever dropped from the front: the number of the first one kept.
    base: u64,
    keeps: bool,
    queue_max: usize,
    /// Frames that left on this link.
    used: u64,
    /// Frames that may leave on this link.
    granted: u64,
    window: u32,
}

/// What to put on the link next.
pub(crate) enum Part {
    /// The frame as it is.
    Whole(Frame),
    /// These bytes of the frame, as a fragment.
    Piece {
        /// The frame they are of.
        frame: Frame,
        /// Where they start.
        offset: usize,
        /// Where they go, as many as fit.
        room: FrameBuf,
    },
}

impl SendLane {
    pub(crate) fn new(keeps: bool, queue_max: usize) -> Self {
        let frames = VecDeque::new();
        Self { frames, sent: 0, offset: 0, base: 0, keeps, queue_max, used: 0, granted: 0, window: 0 }
    }

    #[inline]
    pub(crate) fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.waiting() >= self.queue_max {
            return Err(frame);
        }
        self.frames.push_back(frame);
        Ok(())
    }

    /// Takes the next part, if there is a credit for it: a frame of at most `frame_len_max` bytes, or a piece of a longer one, in the
    /// buffer that `room` has for so many bytes or for some of them; it may have none now.
    pub(crate) fn next(
        &mut self,
        frame_len_max: usize,
        room: impl FnOnce(usize) -> Option<FrameBuf>,
    ) -> Option<Part> {
        if !self.may_send() {
            return None;
        }
        let frame = self.frames.get(self.sent)?;
        if frame.len() <= frame_len_max {
            self.used += 1;
            return self.take_first().map(Part::Whole);
        }
        let offset = self.offset;
        let room = room(frame.len() - offset)?;
        self.used += 1;
        self.offset += (frame.len() - offset).min(room.len() - HEADER_LEN);
        let is_last = self.offset == frame.len();
        let frame = if is_last { self.take_first()? } else { frame.clone() };
        Some(Part::Piece { frame, offset, room })
    }

    /// Takes frames that leave whole, up to `len_max` in `frames` with those that are there.
    pub(crate) fn take_whole(&mut self, frame_len_max: usize, frames: &mut VecDeque<Frame>, len_max: usize) {
        while frames.len() < len_max
            && self.may_send()
            && self.frames.get(self.sent).is_some_and(|frame| frame.len() <= frame_len_max)
            && let Some(frame) = self.take_first()
        {
            self.used += 1;
            frames.push_back(frame);
        }
    }

    /// The first waiting frame, which has left whole with this.
    #[inline]
    fn take_first(&mut self) -> Option<Frame> {
        self.offset = 0;
        if self.keeps {
            self.sent += 1;
            return self.frames.get_mut(self.sent - 1).map(Frame::share);
        }
        self.base += 1;
        self.frames.pop_front()
    }

    /// Starts on a new link: everything kept waits again, in its old order.
    pub(crate) fn restart(&mut self, granted: u32, window: u32) {
        (self.sent, self.offset) = (0, 0);
        (self.used, self.granted, self.window) = (0, u64::from(granted), window);
    }

    /// Takes the peer's word on how many frames may leave on this link. False if that cannot be.
    pub(crate) fn grant(&mut self, granted: u64) -> bool {
        let is_possible = granted >= self.granted && granted <= self.used + u64::from(self.window);
        if is_possible {
            self.granted = granted;
        }
        is_possible
    }

    /// Takes the peer's word on how many frames it has counted, and drops them. False if that cannot be.
    pub(crate) fn acknowledge(&mut self, count: u64) -> bool {
        let Some(dropped) = count.checked_sub(self.base) else { return false };
        if dropped > self.sent as u64 {
            return false;
        }
        self.frames.drain(..dropped as usize);
        self.sent -= dropped as usize;
        self.base = count;
        true
    }

    /// Gives up what may have arrived.
    pub(crate) fn take_sent(&mut self) -> Vec<Frame> {
        self.offset = 0;
        self.frames.drain(..std::mem::take(&mut self.sent)).collect()
    }

    /// Gives up what never left whole.
    pub(crate) fn take_waiting(&mut self) -> Vec<Frame> {
        self.offset = 0;
        self.frames.drain(self.sent..).collect()
    }

    /// Starts counting anew.
    pub(crate) fn forget_count(&mut self) {
        self.base = 0;
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn waiting(&self) -> usize {
        self.frames.len() - self.sent
    }

    /// Whether [`next`](Self::next) would give something.
    #[inline]
    pub(crate) fn may_send_more(&self) -> bool {
        self.waiting() > 0 && self.may_send()
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.waiting() > 0 && !self.may_send()
    }

    /// Whether the peer has room. It counts what it gives new room for, so no more is ever kept than it had room for at
    /// first: a peer that gives room and does not count is not to fill our memory.
    #[inline]
    fn may_send(&self) -> bool {
        self.used < self.granted && self.sent < self.window as usize
    }

    pub(crate) fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter()
    }

    pub(crate) fn frames_mut(&mut self) -> impl Iterator<Item = &mut Frame> {
        self.frames.iter_mut()
    }
}

/// Room promised to the peer in one lane.
#[derive(Debug)]
pub(crate) struct ReceiveLane {
    window: u32,
    /// Arrived and not yet released by the one who took them; outlives a link.
    held: u32,
    /// Frames that came on this link.
    used: u64,
    /// Frames that were allowed on this link.
    granted: u64,
}

impl ReceiveLane {
    pub(crate) fn new(window: u32) -> Self {
        Self { window, held: 0, used: 0, granted: 0 }
    }

    /// Frames there is room for.
    pub(crate) fn free(&self) -> u32 {
        self.window - self.held
    }

    /// Starts on a new link, of which the peer may use this much at once.
    pub(crate) fn restart(&mut self, granted: u32) {
        (self.used, self.granted) = (0, u64::from(granted));
    }

    /// Takes a frame in. False if there was no credit for it.
    pub(crate) fn take(&mut self) -> bool {
        if self.used >= self.granted {
            return false;
        }
        self.used += 1;
        self.held += 1;
        true
    }

    /// Gives room back.
    pub(crate) fn release(&mut self, count: u32) {
        debug_assert!(count <= self.held, "{count} released of {}", self.held);
        self.held = self.held.saturating_sub(count);
    }

    /// Room that the peer does not know of yet.
    pub(crate) fn owed(&self) -> u32 {
        // Granted never exceeds used by more than the window less what is held.
        self.window - self.held - (self.granted - self.used) as u32
    }

    /// Whether the peer should hear of it now: half a window, or some of it if the peer has none left.
    pub(crate) fn is_due(&self) -> bool {
        let least = if self.granted == self.used { self.window.div_ceil(8) } else { self.window.div_ceil(2) };
        self.owed() >= least
    }

    /// Grants everything there is; how much may come on this link altogether.
    pub(crate) fn grant(&mut self) -> u64 {
        self.granted += u64::from(self.owed());
        self.granted
    }
}
