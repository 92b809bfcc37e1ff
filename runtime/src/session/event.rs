//! What a session tells the one who drives it.

use std::sync::Arc;

use epicserver_transport::{Frame, FrameHeader, FrameKind, HeaderError};

use crate::remote::CallRef;
use crate::session::fragment::FragmentError;
use crate::session::intern::{InternError, Target};
use crate::wire::handshake::HelloError;
use crate::wire::hello::{CloseReason, Identity};

/// What happened in a session.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// The peer is proven and frames flow.
    Up {
        /// Who it is.
        peer: Identity,
        /// Whether it is the one of the last link and remembers it: then [`Session::calls`](super::Session::calls) will
        /// arrive, and every other outstanding call to it ends as unknown, since its answer may have been lost.
        is_resumed: bool,
    },
    /// The link is of no use any more: close it. What was queued stays and waits for another one.
    Down(DownReason),
    /// A call, and its object where the frame has only a handle for that. Its room, as that of one-ways and cancels, is
    /// given back by [`Session::release_calls`](super::Session::release_calls).
    Request(Frame, Option<Arc<Target>>),
    /// A call without an answer.
    OneWay(Frame, Option<Arc<Target>>),
    /// A caller wants no answer any more. It may come after the answer left, or again with a resent call.
    Cancel(Frame),
    /// The result of a call. Its room, as that of the following kinds, is given back by
    /// [`Session::release_answers`](super::Session::release_answers).
    Reply(Frame),
    /// The failure of a call.
    Error(Frame),
    /// A call came to the wrong node and did not run.
    Moved(Frame),
    /// A frame between nodes. Its room is given back by [`Session::release_controls`](super::Session::release_controls).
    Control(Frame),
    /// A search for a circle of calls that wait for each other goes on here.
    Probe(Frame),
    /// Calls that will not be delivered any more.
    Lost(Lost),
}

/// A frame for whoever drives the session, with what of its header says where it goes.
#[derive(Debug)]
pub struct Passed {
    /// What it is: none of what sessions say to each other.
    pub kind: FrameKind,
    /// The core that it is for, as the peer says.
    pub core: u8,
    /// The name of the call that it belongs to.
    pub call: CallRef,
    /// All of it.
    pub frame: Frame,
    /// As in [`SessionEvent::Request`].
    pub target: Option<Arc<Target>>,
}

/// Whether frames of a kind take up room of calls.
#[inline]
pub(crate) fn is_call(kind: FrameKind) -> bool {
    matches!(kind, FrameKind::Request | FrameKind::OneWay | FrameKind::Cancel)
}

impl Passed {
    /// Whether it takes up room of calls.
    pub fn is_call(&self) -> bool {
        is_call(self.kind)
    }

    /// As an event; `None` for what is none of these.
    pub fn into_event(self) -> Option<SessionEvent> {
        let Self { kind, frame, target, .. } = self;
        Some(match kind {
            FrameKind::Request => SessionEvent::Request(frame, target),
            FrameKind::OneWay => SessionEvent::OneWay(frame, target),
            FrameKind::Cancel => SessionEvent::Cancel(frame),
            FrameKind::Reply => SessionEvent::Reply(frame),
            FrameKind::Error => SessionEvent::Error(frame),
            FrameKind::Moved => SessionEvent::Moved(frame),
            FrameKind::Control => SessionEvent::Control(frame),
            FrameKind::Probe => SessionEvent::Probe(frame),
            _ => return None,
        })
    }
}

/// Calls that will not be delivered any more, and why. Calls to this peer that were counted before and wait for their
/// answer are not listed: they may have run, and end as unknown for the same reason.
#[derive(Debug, PartialEq, Eq)]
pub struct Lost {
    /// Why.
    pub reason: LostReason,
    /// Requests and one-ways that were sent: they may have run.
    pub unknown: Vec<Frame>,
    /// Requests and one-ways that never left whole: they did not run.
    pub not_sent: Vec<Frame>,
}

/// Why calls are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// No link came back in time, or the peer forgot what it had received.
    LinkLost,
    /// The process at the other end is another one now.
    OwnerLost,
}

impl Lost {
    pub(crate) fn new(reason: LostReason, mut unknown: Vec<Frame>, mut not_sent: Vec<Frame>) -> Self {
        // Nobody waits for a cancel.
        let is_call =
            |frame: &Frame| FrameHeader::parse(frame).is_ok_and(|header| header.kind() != FrameKind::Cancel);
        unknown.retain(is_call);
        not_sent.retain(is_call);
        Self { reason, unknown, not_sent }
    }
}

/// Why a link is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// The transport said so.
    #[error("the link went down")]
    LinkDown,
    /// A newer link took its place.
    #[error("a newer link took its place")]
    Replaced,
    /// The handshake failed.
    #[error(transparent)]
    Hello(HelloError),
    /// The peer broke a rule or a deadline.
    #[error(transparent)]
    Error(LinkError),
    /// The peer ended it.
    #[error("the peer ended the link: {0:?}")]
    ClosedByPeer(CloseReason),
    /// This end was closed.
    #[error("the session was closed")]
    Closed,
    /// No link became usable in time.
    #[error("no link became usable in time")]
    GaveUp,
}

/// How a peer broke the rules of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Not a frame.
    #[error("malformed frame: {0}")]
    Malformed(HeaderError),
    /// A frame that has no business here.
    #[error("a {0:?} frame has no business here")]
    Unexpected(FrameKind),
    /// A fragment for no lane, or a frame in pieces that is of another lane or no frame.
    #[error("a fragmented frame is malformed")]
    MalformedWhole,
    /// Fragments out of order or too long.
    #[error(transparent)]
    Fragment(FragmentError),
    /// A credit, ping or pong of another layout.
    #[error("malformed status")]
    MalformedStatus,
    /// A handle that stands for nothing, or for two objects.
    #[error(transparent)]
    Handle(InternError),
    /// Terms that cannot be.
    #[error("impossible terms")]
    Terms,
    /// The peer sent a frame without a credit.
    #[error("the peer sent a frame without a credit")]
    CreditBreach,
    /// The peer gave more credits than its window, or took some back.
    #[error("impossible credits")]
    CreditOverflow,
    /// The peer counted fewer calls than before, or more than were sent.
    #[error("impossible count of calls")]
    Count,
    /// The peer left a ping unanswered.
    #[error("the peer is silent")]
    Silent,
    /// The peer gave no room for too long.
    #[error("the peer gives no room")]
    Stalled,
}

/// Why a frame was not taken; gives it back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// As many wait as may.
    #[error("the queue of the link is full")]
    Full(Frame),
    /// The payload is longer than any link of the cluster takes.
    #[error("the payload is too large")]
    TooLarge(Frame),
    /// Not a frame, or of a kind that only the session itself sends.
    #[error("not a frame to queue")]
    Kind(Frame),
    /// Its handle never came with a key, or with another one: make it again with the full key.
    #[error("the handle stands for no object or another one")]
    Handle(Frame),
    /// The session was closed.
    #[error("the session is closed")]
    Closed(Frame),
}

impl QueueError {
    /// The frame.
    pub fn into_frame(self) -> Frame {
        match self {
            Self::Full(frame) | Self::TooLarge(frame) | Self::Kind(frame) => frame,
            Self::Handle(frame) | Self::Closed(frame) => frame,
        }
    }
}
