//! One connection: its socket, what waits to be written, what was read and is not yet cut into frames.

use super::LinkSocket;
use super::bounds::Bounds;
use super::outbox::{Outbox, SCRATCH_LEN_MAX, Written};
use crate::deframer::Deframer;
use crate::frame::Frame;
use crate::link::{Addr, DownReason, Event, LinkId};
use crate::pool::{BufferPool, SizeClass};
use crate::readiness::Epoll;
use crate::wake::Wake;
use std::io;
use std::sync::Arc;

/// A connection in one of the [`Stage`]s.
pub(super) struct Connection<S> {
    socket: S,
    /// The network carries packets: each read gets one, and frames end where it ends.
    in_packets: bool,
    pub(super) stage: Stage,
    pub(super) peer: Addr,
    pub(super) outbox: Outbox,
    deframer: Deframer,
    receive_pool: BufferPool,
    /// What the last edges said, until the socket says otherwise.
    pub(super) readable: bool,
    writable: bool,
    hangup: bool,
    /// `send` left frames.
    pub(super) blocked: bool,
    /// Writing failed: what the peer sent before may still be read, then the link is down.
    write_failed: Option<io::ErrorKind>,
    /// In the transport's list of links to read from.
    pub(super) queued: bool,
    /// In the transport's list of links to write to.
    pub(super) dirty: bool,
    pub(super) watched: Watched,
}

/// What the kernel says of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// Nothing, while the transport reads again and again.
    Not,
    /// What happens to it.
    Edges,
    /// That there is something to read, as long as there is. So a driver may sleep without a read that finds nothing, which is the only
    /// other way to know that the last packet has been read. With nowhere to read into, or something to write that the socket does not
    /// take, it would not sleep any more.
    Readable,
}

/// Where a connection is in its life. Deadlines are in nanoseconds of the driver's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Begun here, not answered.
    Connecting { deadline: u64 },
    /// A link.
    Up,
    /// Closed here and no link any more: the rest is written, and what the peer still sends is read and forgotten, because
    /// a socket closed over unread bytes would take back what was written.
    Lingering { deadline: u64 },
}

/// What a read came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Bytes, but no whole frame, or the turn of this connection is over; come again.
    Again,
    /// Nothing until the next edge.
    Drained,
    /// No memory until frames are dropped.
    Starved,
    /// The end.
    Down(DownReason),
}

impl<S: LinkSocket> Connection<S> {
    pub(super) fn new(
        socket: S,
        packet_len_max: Option<usize>,
        stage: Stage,
        peer: Addr,
        bounds: &Bounds,
        wake: Arc<dyn Wake>,
    ) -> Self {
        let (buffer_len, buffers_max) = (bounds.receive_block_len, bounds.receive_blocks_per_link_max);
        let receive_pool = BufferPool::new(&[SizeClass { buffer_len, buffers_max }]);
        receive_pool.wake_on_return(wake);
        let deframer = Deframer::new(receive_pool.clone(), bounds.frame_len_max);
        Self {
            socket,
            in_packets: packet_len_max.is_some(),
            stage,
            peer,
            outbox: Outbox::new(packet_len_max.unwrap_or(usize::MAX)),
            deframer: match packet_len_max {
                None => deframer,
                Some(len) => deframer.with_space_len_min(len),
            },
            receive_pool,
            // Only edges count: the socket was added to the watched ones after it was made.
            readable: false,
            writable: false,
            hangup: false,
            blocked: false,
            write_failed: None,
            queued: false,
            dirty: false,
            watched: Watched::Edges,
        }
    }

    /// Whether reading alone tells all that is to be known.
    pub(super) fn may_go_unwatched(&self) -> bool {
        self.stage == Stage::Up && self.writable && !self.hangup
    }

    /// Whether an edge is waited for that nobody watches for.
    #[inline]
    pub(super) fn lacks_edges(&self) -> bool {
        self.watched != Watched::Edges && !self.may_go_unwatched()
    }

    /// Has the kernel say what happens to the socket. What there is counts as an edge.
    #[cold]
    pub(super) fn watch(&mut self, epoll: &Epoll, link: LinkId) -> Result<(), DownReason> {
        let watched = match std::mem::replace(&mut self.watched, Watched::Edges) {
            Watched::Not => epoll.add(&self.socket, link.to_u64()),
            Watched::Readable => epoll.watch_edges(&self.socket, link.to_u64()),
            Watched::Edges => Ok(()),
        };
        watched.map_err(|error| DownReason::Failed(error.kind()))
    }

    /// The socket was read until there was nothing: from now on the kernel may say when there is.
    #[inline]
    pub(super) fn drained(&mut self, epoll: &Epoll, link: LinkId) {
        if self.in_packets && self.watched == Watched::Edges && self.may_go_unwatched() {
            self.watch_readable(epoll, link);
        }
    }

    #[cold]
    fn watch_readable(&mut self, epoll: &Epoll, link: LinkId) {
        match epoll.watch_readable(&self.socket, link.to_u64()) {
            Ok(()) => self.watched = Watched::Readable,
            // Edges do as well.
            Err(error) => tracing::warn!(%error, "cannot have a socket watched in another way"),
        }
    }

    pub(super) fn handle_edges(&mut self, readable: bool, writable: bool, hangup: bool) {
        self.readable |= readable;
        self.writable |= writable;
        self.hangup |= hangup;
    }

    /// Whether an edge of writing is of any use.
    pub(super) fn waits_for_room(&self) -> bool {
        self.stage != Stage::Up || self.blocked || !self.outbox.is_empty() || self.lacks_edges()
    }

    /// Whether a connection that was begun here is there: `None` while it is not decided.
    pub(super) fn poll_connect(&mut self) -> Option<Result<(), DownReason>> {
        if !self.writable {
            return None;
        }
        match self.socket.is_connected() {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(error) => Some(Err(down_reason(error.kind()))),
        }
    }

    /// Gives out the whole frames that were read, until there are so many events; `None` if no more than that is to be said.
    pub(super) fn hand_out(
        &mut self,
        link: LinkId,
        events: &mut Vec<Event>,
        events_max: usize,
    ) -> Option<Progress> {
        while events.len() < events_max {
            match self.deframer.next_frame() {
                Ok(Some(frame)) => push_received(events, link, frame),
                Ok(None) if self.in_packets => {
                    return self.deframer.cut_off().map(|error| Progress::Down(DownReason::Garbage(error)));
                }
                Ok(None) => return None,
                Err(error) => return Some(Progress::Down(DownReason::Garbage(error))),
            }
        }
        Some(Progress::Again)
    }

    /// Reads once. Only when [`Connection::hand_out`] has nothing.
    pub(super) fn read_once(&mut self) -> Progress {
        let space = match self.deframer.space() {
            Some(space) => space,
            None => {
                self.receive_pool.arm_return();
                // One may have come back before anybody could know that it is waited for.
                match self.deframer.space() {
                    Some(space) => space,
                    None => return Progress::Starved,
                }
            }
        };
        let space_len = space.len();
        match self.socket.read(space) {
            Ok(0) => Progress::Down(DownReason::ClosedByPeer),
            Ok(len) => {
                self.deframer.filled(len);
                // Less than there was room for was all that a stream has, and later bytes are a new edge; an end that has been
                // announced is not. A packet that is far from full is all that was sent together; the kernel tells of another, or the next
                // look.
                let is_all = match (self.in_packets, self.watched) {
                    (false, _) => len < space_len,
                    (true, Watched::Edges) => false,
                    (true, _) => len < LONG_PACKET_LEN,
                };
                self.readable = !is_all || self.hangup || self.write_failed.is_some();
                Progress::Again
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                self.write_failed.map_or(Progress::Drained, |kind| Progress::Down(down_reason(kind)))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Progress::Again,
            Err(error) => Progress::Down(down_reason(error.kind())),
        }
    }

    /// Writes what waits, as far as the socket takes it. An error shows at the next read.
    pub(super) fn write(&mut self, scratch: &mut Vec<u8>) {
        if !self.writable {
            return;
        }
        let written = self.outbox.write_to(&mut self.socket, scratch);
        self.note_written(written);
    }

    /// As [`write`](Self::write), for a frame when no other waits. `false`: the socket takes no more for now, or an error is to show.
    #[inline]
    pub(super) fn write_alone(&mut self, frame: Frame, scratch: &mut Vec<u8>) -> bool {
        if self.writable {
            let written = self.outbox.write_alone(frame, &mut self.socket, scratch);
            self.note_written(written);
        } else {
            self.outbox.push(frame);
        }
        self.writable
    }

    #[inline]
    fn note_written(&mut self, written: io::Result<Written>) {
        match written {
            Ok(Written::All) => {}
            Ok(Written::Blocked) => self.writable = false,
            Err(error) => {
                self.outbox.clear();
                self.writable = false;
                self.write_failed = Some(error.kind());
                self.readable = true;
            }
        }
    }

    /// Ends this direction once everything is written; `true` when the socket has nothing left to do.
    pub(super) fn finish_writing(&mut self) -> bool {
        self.outbox.is_empty() && self.socket.finish_writing()
    }

    /// Reads and forgets. `true` when the peer has ended its direction too, or the connection is broken.
    pub(super) fn discard(&mut self, scratch: &mut Vec<u8>) -> bool {
        scratch.resize(SCRATCH_LEN_MAX, 0);
        for _ in 0..DISCARDS_PER_POLL_MAX {
            match self.socket.read(scratch) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return self.write_failed.is_some();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        false
    }

    pub(super) fn socket(&self) -> &S {
        &self.socket
    }
}

/// Apart, so that link and frame come in registers; and by what makes room first and then writes the event where it is to lie: one that
/// is made elsewhere in parts and copied as a whole would have to wait for them.
#[inline(never)]
fn push_received(events: &mut Vec<Event>, link: LinkId, frame: Frame) {
    events.extend(Some(frame).into_iter().map(|frame| Event::Receive { link, frame }));
}

/// What an error of a socket says about the peer.
pub(super) fn down_reason(kind: io::ErrorKind) -> DownReason {
    match kind {
        io::ErrorKind::ConnectionRefused => DownReason::Refused,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected
        | io::ErrorKind::BrokenPipe => DownReason::ClosedByPeer,
        io::ErrorKind::TimedOut => DownReason::TimedOut,
        other => DownReason::Failed(other),
    }
}

const DISCARDS_PER_POLL_MAX: usize = 16;
/// Of packets that are as long as this more may have been sent together.
const LONG_PACKET_LEN: usize = 8 << 10;
