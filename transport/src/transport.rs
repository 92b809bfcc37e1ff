//! The contract between whoever drives a transport and whoever implements one.

use crate::frame::Frame;
use crate::header::HeaderError;
use crate::link::{Addr, Event, LinkId};
use crate::pool::BufferPool;
use crate::wake::Wake;
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Moves whole frames over links, and reports what happens to the links. One thread at a time drives it, and every call comes
/// from that thread.
///
/// A transport knows no sessions: no hello, no credits, no resending. It looks at a frame's header for its length and
/// at nothing else. A driver's pass is:
///
/// ```text
/// poll(now) -> events -> [session] -> send(link, frames)* -> flush -> arm && nothing to do ? wait(timeout) : again
/// ```
///
/// What every implementation MUST keep, beyond the verbs' own rules:
/// * Frames of a link arrive whole, once, in the order they were taken, and start at a multiple of 16 in memory.
/// * A link that [`connect`](Self::connect) returned or that came up ends with exactly one [`Event::LinkDown`], and
///   there is no event of it after that. A [`LinkId`] is never used for a second link.
/// * What a peer sends can end its own link only. Nothing is kept or allocated for a length that was not checked.
/// * Where receives are counted ([`Caps::receive_window_frames`]), buffers of dropped frames are receive buffers again when the next
///   call of `poll`, `send` or `flush` returns, so a credit sent after a drop is never a promise that is not kept.
/// * When the transport and all frames are dropped, every buffer is back in [`pool`](Self::pool), but for those that a thread keeps
///   which asked for that ([`BufferPool::keep_here`]).
///
/// `now` is nanoseconds on the driver's monotonic clock, never falling from call to call.
pub trait Transport: Send {
    /// What this transport can do. It MUST NOT change.
    fn caps(&self) -> &Caps;

    /// Where peers reach this transport, with the real port where one was chosen.
    fn local_addr(&self) -> &Addr;

    /// Where buffers to send come from. Frames of other origin MUST be accepted too, and may be copied.
    fn pool(&self) -> &BufferPool;

    /// Where buffers lie for frames longer than [`Caps::frame_len_max`], one frame in each; `None` where the link carries none. There
    /// are few, so that whoever finds none free sends shorter frames, or waits: when all of a long frame is with the peer, and its
    /// buffer is back, [`Event::Writable`] follows.
    fn bulk_pool(&self) -> Option<&BufferPool> {
        None
    }

    /// Starts a link. It MUST NOT block: [`Event::LinkUp`] or [`Event::LinkDown`] follows.
    ///
    /// # Errors
    /// The address cannot be understood, or no further link is allowed ([`Caps::links_max`]); no link began.
    fn connect(&mut self, addr: &Addr, now: u64) -> io::Result<LinkId>;

    /// Ends a link. Frames taken before are still delivered if the link works, the peer then sees
    /// [`DownReason::ClosedByPeer`](crate::DownReason::ClosedByPeer); here [`DownReason::ClosedHere`](crate::DownReason::ClosedHere) follows, and nothing is received any more. Unknown
    /// links are ignored.
    fn close(&mut self, link: LinkId);

    /// Takes frames from the front of `frames` while there is room; what stays is back-pressure, and a later
    /// [`Event::Writable`] says that there is room again. Before [`Event::LinkUp`] there is no room, and that event
    /// means that there is. Taken frames may wait for [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`SendError`]; frames before the one that is at fault were taken, that one and those behind it stay, the link
    /// stays as it is.
    fn send(&mut self, link: LinkId, frames: &mut VecDeque<Frame>) -> Result<(), SendError>;

    /// Hands everything taken to the network as far as that has room; the rest goes out in later calls of `poll`.
    fn flush(&mut self);

    /// Makes progress and appends at most [`EVENTS_PER_POLL_MAX`] events.
    fn poll(&mut self, now: u64, events: &mut Vec<Event>);

    /// When [`poll`](Self::poll) wants to be called even if nothing arrives, in nanoseconds of the same clock.
    fn poll_timeout(&self) -> Option<u64>;

    /// Prepares for sleep. `true`: whatever is there unseen or comes from now on ends [`wait`](Self::wait), so it is
    /// safe to sleep. `false`: there is something to poll now.
    fn arm(&mut self) -> bool;

    /// Sleeps until there is something to poll, a wake, or until `timeout` has passed, and consumes the wake. Returns
    /// `false` only if the whole timeout passed. Only after [`arm`](Self::arm) returned `true`.
    fn wait(&mut self, timeout: Duration) -> bool;

    /// Who sleeps in the place of [`wait`](Self::wait), so that another thread can drive the transport meanwhile: after
    /// [`arm`](Self::arm) returned `true`, and until one of the two calls [`end_sleep`](Self::end_sleep), that one may do all but
    /// [`poll`](Self::poll) and `wait`. When it has done something and `arm` returns `false` to it the sleeper is to be woken. `None`:
    /// there is only `wait`.
    fn sleeper(&self) -> Option<Box<dyn Sleeper>> {
        None
    }

    /// Takes in what ended the sleep of the [`sleeper`](Self::sleeper): to be called after each, before the next `poll`.
    fn end_sleep(&mut self) {}

    /// Ends [`wait`](Self::wait), or the sleep of the [`sleeper`](Self::sleeper), from another thread.
    fn waker(&self) -> Arc<dyn Wake>;

    /// A descriptor that is readable when `wait` would return at once, for a driver that sleeps on several things.
    /// `None`: there is only `wait`.
    fn event_fd(&self) -> Option<RawFd>;
}

/// Sleeps for a transport that is in other hands meanwhile.
pub trait Sleeper: Send {
    /// As [`Transport::wait`].
    fn sleep(&mut self, timeout: Duration) -> bool;
}

/// What a transport can do, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Name in the configuration, such as `tcp`.
    pub name: &'static str,
    /// Longest frame in bytes, header and padding included; a multiple of 16.
    pub frame_len_max: usize,
    /// Longest frame in bytes that may come, no less than `frame_len_max`; a multiple of 16. What is longer than that was sent from a
    /// [`bulk_pool`](Transport::bulk_pool), and lies in one of few buffers here, on which everything behind it waits: such a frame is to
    /// be dropped before anything else is waited for. Links to a peer that takes less are the session's to know.
    pub bulk_len_max: usize,
    /// Bound on links that exist at one time.
    pub links_max: usize,
    /// Bound on the frames of a link that are taken and not yet on their way; `None`: bounded in bytes only.
    pub send_window_frames: Option<usize>,
    /// Frames that a peer may send beyond those received and dropped here; one more is a link error on both sides.
    /// `None`: the transport itself holds the peer back.
    pub receive_window_frames: Option<usize>,
    /// Receive buffers of a link. When frames that are still held keep so many of them (see
    /// [`Frame::buffer_id`]), nothing more arrives on that link until one is dropped: a session that lends frames to code
    /// that waits must stay below this.
    pub receive_buffers_per_link: usize,
    /// How frames travel.
    pub shape: Shape,
    /// Frames from the transport's own pool are sent from where they are, without a copy in this process.
    pub zero_copy_send: bool,
}

/// How frames travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As bytes without bounds: what the network splits or joins is invisible.
    Stream,
    /// In packets that arrive whole.
    Packet,
}

/// Why frames were not taken although this is not back-pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// The link is down, closed, or never was.
    #[error("there is no such link")]
    NoSuchLink,
    /// The frame at the front is longer than the transport carries, or than it carries from where that lies.
    #[error("a frame of {len} bytes is longer than the link carries, {frame_len_max}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        frame_len_max: usize,
    },
    /// The frame at the front is not one frame: our own defect, found before it confuses a peer.
    #[error("not a frame: {0}")]
    Malformed(HeaderError),
}

impl SendError {
    /// Checks what every transport checks of a frame before it takes it.
    ///
    /// # Errors
    /// The frame is too long or not exactly one frame.
    #[inline]
    pub fn check(frame: &[u8], frame_len_max: usize) -> Result<(), Self> {
        if frame.len() > frame_len_max {
            return Err(Self::TooLong { len: frame.len(), frame_len_max });
        }
        crate::header::FrameHeader::parse_frame(frame).map(|_| ()).map_err(Self::Malformed)
    }
}

/// Bound on the events that one [`Transport::poll`] appends.
pub const EVENTS_PER_POLL_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_is_object_safe() {
        fn takes(_: Option<Box<dyn Transport>>) {}
        takes(None);
    }
}
