//! The transport: sockets, their edges, and the order in which a poll looks at them.
//!
//! ```text
//! poll: pending events -> edges (accept, connect, write, mark readable) -> pending events -> read marked links -> deadlines
//! ```
//! A link's events keep their order because what is pending goes out before anything is read.
//!
//! The links that were read last are simply read again and again while the driver does not sleep. When that has gone on for a while the
//! kernel stops to watch them: it has two processors write the lines of its set for every packet. Before the driver sleeps, and
//! when something else than reading is waited for, they are watched again, which tells at once what there is.

use super::bounds::Bounds;
use super::connection::{Connection, Progress, Stage, Watched, down_reason};
use super::outbox::SCRATCH_LEN_MAX;
use super::{LinkSocket, Network};
use crate::frame::Frame;
use crate::link::{Addr, Direction, DownReason, Event, LinkId, LinkTable};
use crate::pool::{BufferPool, SizeClass};
use crate::readiness::{Asleep, Epoll, EventFd, Readiness, TOKEN_MAX};
use crate::transport::{Caps, EVENTS_PER_POLL_MAX, SendError, Shape, Sleeper, Transport};
use crate::wake::Wake;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Frames over sockets of a network: one that listens and any number of connections, driven by one thread.
pub struct SocketTransport<N: Network> {
    network: N,
    bounds: Bounds,
    caps: Caps,
    local_addr: Addr,
    pool: BufferPool,
    epoll: Epoll,
    event_fd: Arc<EventFd>,
    links: LinkTable<Connection<N::Socket>>,
    /// Events that were decided outside of reading: at most three a link.
    pending: VecDeque<Event>,
    /// Edges that `wait` has taken from the kernel.
    edges: Vec<Readiness>,
    /// Those that the sleeper has.
    asleep: Asleep,
    /// Links with something to read or with frames read already; each at most once.
    readable: VecDeque<LinkId>,
    /// Links without memory to read into.
    starved: Vec<LinkId>,
    /// Links with frames that were taken since the last flush.
    dirty: Vec<LinkId>,
    /// Links in a stage that has a deadline.
    timed: Vec<LinkId>,
    /// The links that were read last; see [`SocketTransport::look`].
    hot: [Option<LinkId>; HOT_LINKS],
    /// Looks at these since the kernel was asked for edges.
    looks: u32,
    /// How often it was asked since the driver prepared for sleep.
    rounds: u32,
    /// Whether there are links that it does not watch; all of these are `hot`.
    has_unwatched: bool,
    /// When to accept again: at once after an edge, later if the system had no descriptor left.
    accept_at: Option<u64>,
    /// A wake that a poll saw instead of a wait.
    woken: bool,
    /// Memory for joining short frames, and for forgetting bytes.
    scratch: Vec<u8>,
    now: u64,
}

impl<N: Network> SocketTransport<N> {
    /// Listens, and publishes the address in [`Transport::local_addr`].
    ///
    /// # Errors
    /// The address is in use or not ours, or the system lacks something.
    ///
    /// # Panics
    /// If a frame of the longest length does not fit a receive block or a packet, or a packet no block.
    pub fn bind(options: N::Options) -> io::Result<Self> {
        let bounds = N::bounds(&options);
        assert!(bounds.frame_len_max <= bounds.receive_block_len, "frames longer than a receive block");
        if let Some(packet_len_max) = N::PACKET_LEN_MAX {
            let frame_fits = bounds.frame_len_max <= packet_len_max;
            assert!(
                frame_fits && packet_len_max <= bounds.receive_block_len,
                "a packet between frame and block"
            );
        }
        let network = N::bind(&options)?;
        let local_addr = network.local_addr()?;
        let epoll = Epoll::new()?;
        let event_fd = Arc::new(EventFd::new()?);
        epoll.add(&network, LISTENER_TOKEN)?;
        epoll.add(&*event_fd, WAKE_TOKEN)?;
        Ok(Self {
            caps: caps::<N>(&bounds),
            local_addr,
            pool: send_pool(&bounds),
            network,
            epoll,
            event_fd,
            links: LinkTable::new(bounds.links_max),
            pending: VecDeque::new(),
            edges: Vec::new(),
            asleep: Asleep::default(),
            readable: VecDeque::new(),
            starved: Vec::new(),
            dirty: Vec::new(),
            timed: Vec::new(),
            hot: [None; HOT_LINKS],
            looks: 0,
            rounds: 0,
            has_unwatched: false,
            accept_at: None,
            woken: false,
            scratch: Vec::with_capacity(SCRATCH_LEN_MAX),
            now: 0,
            bounds,
        })
    }

    /// The sockets of all links, lingering ones included, to look at.
    pub fn sockets(&self) -> impl Iterator<Item = &N::Socket> {
        self.links.ids().filter_map(|link| self.links.get(link)).map(Connection::socket)
    }

    /// Bytes of a link that were taken and are not written.
    pub fn unsent_len(&self, link: LinkId) -> Option<usize> {
        self.links.get(link).map(|connection| connection.outbox.unsent_len())
    }

    fn add_link(&mut self, socket: N::Socket, stage: Stage, peer: Addr) -> io::Result<LinkId> {
        let wake: Arc<dyn Wake> = Arc::clone(&self.event_fd) as _;
        let connection = Connection::new(socket, N::PACKET_LEN_MAX, stage, peer, &self.bounds, wake);
        let full = |_| io::Error::new(io::ErrorKind::QuotaExceeded, "no room for another link");
        let link = self.links.insert(connection).map_err(full)?;
        let connection = self.links.get(link).expect("just added");
        if let Err(error) = self.epoll.add(connection.socket(), link.to_u64()) {
            self.links.remove(link);
            return Err(error);
        }
        Ok(link)
    }

    /// Whether there is nothing to look at but the links that are in use.
    #[inline]
    fn is_calm(&self) -> bool {
        self.hot[0].is_some()
            && self.looks < LOOKS_PER_EDGES
            && self.readable.is_empty()
            && self.pending.is_empty()
            && self.edges.is_empty()
            && self.timed.is_empty()
            && self.starved.is_empty()
            && self.accept_at.is_none()
    }

    /// Reads from the links that are in use, when there is nothing else to look at.
    fn read_hot(&mut self, events: &mut Vec<Event>, events_max: usize) {
        self.looks += 1;
        for place in 0..HOT_LINKS {
            let Some(id) = self.hot[place] else { continue };
            match self.links.get_mut(id).filter(|connection| connection.stage == Stage::Up) {
                Some(connection) => {
                    connection.readable = true;
                    match receive(connection, id, events, events_max) {
                        Progress::Drained => connection.drained(&self.epoll, id),
                        progress => {
                            connection.queued = true;
                            self.note_progress(id, progress, events);
                        }
                    }
                }
                None => self.hot[place] = None,
            }
        }
    }

    /// Learns what there is to do. While few links are in use these are simply read: to ask the kernel first is a second system
    /// call in front of every frame. What edges alone can tell waits for a few looks, or until the driver sleeps.
    fn look(&mut self) {
        if !self.edges.is_empty() {
            return;
        }
        if self.hot[0].is_some() && self.looks < LOOKS_PER_EDGES {
            self.looks += 1;
            for place in 0..HOT_LINKS {
                let Some(id) = self.hot[place] else { continue };
                match self.links.get_mut(id) {
                    Some(connection) => {
                        connection.readable = true;
                        self.queue_read(id);
                    }
                    None => self.hot[place] = None,
                }
            }
            return;
        }
        self.looks = 0;
        self.rounds = self.rounds.saturating_add(1);
        if self.rounds >= ROUNDS_WATCHED {
            self.unwatch_hot();
        }
        if let Err(error) = self.epoll.wait(Duration::ZERO, &mut self.edges) {
            tracing::error!(%error, "cannot ask for events");
        }
    }

    /// Remembers that a link is in use; the place of the one whose use is longest ago is taken.
    fn heat(&mut self, id: LinkId) {
        if self.hot[0] == Some(id) {
            return;
        }
        let place = self.hot.iter().position(|hot| *hot == Some(id)).unwrap_or(HOT_LINKS - 1);
        self.hot[..=place].rotate_right(1);
        if let Some(cold) = self.hot[0].replace(id).filter(|cold| *cold != id) {
            self.watch(cold);
        }
    }

    /// The driver does not sleep: the links that are read again and again need not be watched.
    fn unwatch_hot(&mut self) {
        for id in self.hot.into_iter().flatten() {
            let Some(connection) = self.links.get_mut(id) else { continue };
            if connection.watched != Watched::Not
                && connection.may_go_unwatched()
                && self.epoll.remove(connection.socket()).is_ok()
            {
                connection.watched = Watched::Not;
                self.has_unwatched = true;
            }
        }
    }

    /// Has every link watched.
    fn watch_all(&mut self) {
        self.rounds = 0;
        if std::mem::take(&mut self.has_unwatched) {
            self.hot.into_iter().flatten().for_each(|id| self.watch(id));
        }
    }

    /// Has a link watched. What there is counts as an edge.
    fn watch(&mut self, id: LinkId) {
        if let Some(connection) = self.links.get_mut(id)
            && let Err(reason) = connection.watch(&self.epoll, id)
        {
            self.end(id, reason);
        }
    }

    fn handle_edges(&mut self) {
        let mut edges = std::mem::take(&mut self.edges);
        for edge in edges.drain(..) {
            match edge.token {
                LISTENER_TOKEN => self.accept_at = Some(self.now),
                WAKE_TOKEN => self.woken |= edge.readable,
                token => self.handle_link_edge(LinkId::from_u64(token), edge),
            }
        }
        self.edges = edges;
    }

    fn handle_link_edge(&mut self, id: LinkId, edge: Readiness) {
        let Some(connection) = self.links.get_mut(id) else { return };
        connection.handle_edges(edge.readable, edge.writable, edge.hangup);
        if matches!(connection.stage, Stage::Connecting { .. }) {
            match connection.poll_connect() {
                None => return,
                Some(Ok(())) => {
                    connection.stage = Stage::Up;
                    let peer = connection.peer.clone();
                    self.pending.push_back(Event::LinkUp { link: id, direction: Direction::Outgoing, peer });
                }
                Some(Err(reason)) => return self.end(id, reason),
            }
        }
        if edge.writable && connection.waits_for_room() {
            self.write(id);
        }
        self.queue_read(id);
    }

    /// Writes what a link has taken, and says if there is room again.
    fn write(&mut self, id: LinkId) {
        let Some(connection) = self.links.get_mut(id) else { return };
        connection.write(&mut self.scratch);
        if connection.lacks_edges()
            && let Err(reason) = connection.watch(&self.epoll, id)
        {
            return self.end(id, reason);
        }
        if matches!(connection.stage, Stage::Lingering { .. }) {
            if connection.finish_writing() {
                self.links.remove(id);
            }
        } else if connection.blocked && connection.outbox.unsent_len() <= self.bounds.outbox_len_max / 2 {
            connection.blocked = false;
            self.pending.push_back(Event::Writable { link: id });
        }
        self.queue_read(id);
    }

    fn queue_read(&mut self, id: LinkId) {
        if let Some(connection) = self.links.get_mut(id)
            && connection.readable
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.readable.push_back(id);
        }
    }

    fn accept(&mut self) {
        if self.accept_at.is_none_or(|at| at > self.now) {
            return;
        }
        for _ in 0..ACCEPTS_PER_POLL_MAX {
            match self.network.accept() {
                Ok((socket, peer)) => self.handle_accepted(socket, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_at = None;
                    return;
                }
                Err(error) if is_peers_fault(error.kind()) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    self.accept_at = Some(self.now.saturating_add(ACCEPT_RETRY_NS));
                    return;
                }
            }
        }
    }

    fn handle_accepted(&mut self, socket: N::Socket, peer: Addr) {
        match self.add_link(socket, Stage::Up, peer.clone()) {
            Ok(link) => self.pending.push_back(Event::LinkUp { link, direction: Direction::Incoming, peer }),
            // Dropping the socket tells the peer.
            Err(error) => tracing::debug!(%peer, %error, "connection refused"),
        }
    }

    /// Reads from marked links in turn, each at most once, until `events` is full.
    fn read(&mut self, events: &mut Vec<Event>, events_max: usize) {
        for id in self.starved.drain(..) {
            self.readable.push_back(id);
        }
        for _ in 0..self.readable.len() {
            if events.len() >= events_max {
                return;
            }
            let Some(id) = self.readable.pop_front() else { return };
            let Some(connection) = self.links.get_mut(id) else { continue };
            if matches!(connection.stage, Stage::Lingering { .. }) {
                if connection.discard(&mut self.scratch) {
                    self.links.remove(id);
                } else if connection.readable {
                    self.readable.push_back(id);
                } else {
                    connection.queued = false;
                }
                continue;
            }
            let before = events.len();
            let progress = receive(connection, id, events, events_max);
            if events.len() > before {
                self.heat(id);
            }
            self.note_progress(id, progress, events);
        }
    }

    /// Takes note of what became of a link in the list of those to read from.
    fn note_progress(&mut self, id: LinkId, progress: Progress, events: &mut Vec<Event>) {
        match progress {
            Progress::Down(reason) => {
                self.links.remove(id);
                events.push(Event::LinkDown { link: id, reason });
            }
            Progress::Starved => {
                self.starved.push(id);
                self.watch(id);
            }
            Progress::Drained => {
                if let Some(connection) = self.links.get_mut(id) {
                    connection.queued = false;
                    connection.drained(&self.epoll, id);
                }
            }
            Progress::Again => self.readable.push_back(id),
        }
    }

    /// Takes a link out and says why.
    fn end(&mut self, id: LinkId, reason: DownReason) {
        if self.links.remove(id).is_some() {
            self.pending.push_back(Event::LinkDown { link: id, reason });
        }
    }

    fn handle_deadlines(&mut self) {
        if self.timed.is_empty() {
            return;
        }
        let mut timed = std::mem::take(&mut self.timed);
        timed.retain(|&id| match self.links.get(id).map(|connection| connection.stage) {
            None | Some(Stage::Up) => false,
            Some(Stage::Connecting { deadline }) if deadline <= self.now => {
                self.end(id, DownReason::TimedOut);
                false
            }
            Some(Stage::Lingering { deadline }) if deadline <= self.now => {
                self.links.remove(id);
                false
            }
            Some(_) => true,
        });
        self.timed = timed;
    }

    fn hand_out_pending(&mut self, events: &mut Vec<Event>, events_max: usize) {
        if self.pending.is_empty() {
            return;
        }
        let count = self.pending.len().min(events_max.saturating_sub(events.len()));
        events.extend(self.pending.drain(..count));
    }
}

impl<N: Network> Transport for SocketTransport<N> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn local_addr(&self) -> &Addr {
        &self.local_addr
    }

    fn pool(&self) -> &BufferPool {
        &self.pool
    }

    fn connect(&mut self, addr: &Addr, now: u64) -> io::Result<LinkId> {
        self.now = self.now.max(now);
        let (socket, refused) = self.network.connect(addr)?;
        let deadline = self.now.saturating_add(self.bounds.connect_timeout_ns);
        let link = self.add_link(socket, Stage::Connecting { deadline }, addr.clone())?;
        match refused {
            None => self.timed.push(link),
            Some(kind) => self.end(link, down_reason(kind)),
        }
        Ok(link)
    }

    fn close(&mut self, link: LinkId) {
        let Some(connection) = self.links.get_mut(link) else { return };
        match connection.stage {
            Stage::Lingering { .. } => return,
            Stage::Connecting { .. } => {
                self.links.remove(link);
            }
            Stage::Up => {
                let deadline = self.now.saturating_add(self.bounds.linger_ns_max);
                connection.stage = Stage::Lingering { deadline };
                self.timed.push(link);
                self.write(link);
            }
        }
        self.pending.push_back(Event::LinkDown { link, reason: DownReason::ClosedHere });
    }

    fn send(&mut self, link: LinkId, frames: &mut VecDeque<Frame>) -> Result<(), SendError> {
        let connection = self.links.get_mut(link).ok_or(SendError::NoSuchLink)?;
        match connection.stage {
            Stage::Up => {}
            Stage::Connecting { .. } => return Ok(()),
            Stage::Lingering { .. } => return Err(SendError::NoSuchLink),
        }
        if frames.len() == 1 && connection.outbox.is_empty() {
            // It need not wait for others: there are none.
            SendError::check(&frames[0], self.bounds.frame_len_max)?;
            if !connection.write_alone(frames.pop_front().expect("seen above"), &mut self.scratch) {
                self.watch(link);
                self.queue_read(link);
            }
            return Ok(());
        }
        while let Some(frame) = frames.front() {
            SendError::check(frame, self.bounds.frame_len_max)?;
            if connection.outbox.unsent_len() >= self.bounds.outbox_len_max {
                connection.write(&mut self.scratch);
            }
            if connection.outbox.unsent_len() >= self.bounds.outbox_len_max {
                connection.blocked = true;
                break;
            }
            connection.outbox.push(frames.pop_front().expect("seen above"));
            if !std::mem::replace(&mut connection.dirty, true) {
                self.dirty.push(link);
            }
        }
        if connection.lacks_edges() {
            self.watch(link);
        }
        Ok(())
    }

    fn flush(&mut self) {
        while let Some(link) = self.dirty.pop() {
            if let Some(connection) = self.links.get_mut(link) {
                connection.dirty = false;
                self.write(link);
            }
        }
    }

    fn poll(&mut self, now: u64, events: &mut Vec<Event>) {
        self.now = self.now.max(now);
        let events_max = events.len() + EVENTS_PER_POLL_MAX;
        if self.is_calm() {
            return self.read_hot(events, events_max);
        }
        self.look();
        self.handle_edges();
        self.accept();
        self.handle_deadlines();
        self.hand_out_pending(events, events_max);
        // If something is still pending, `events` is full and nothing is read before it.
        self.read(events, events_max);
    }

    fn poll_timeout(&self) -> Option<u64> {
        let deadlines = self.timed.iter().filter_map(|&id| match self.links.get(id)?.stage {
            Stage::Connecting { deadline } | Stage::Lingering { deadline } => Some(deadline),
            Stage::Up => None,
        });
        deadlines.chain(self.accept_at).min()
    }

    fn arm(&mut self) -> bool {
        self.watch_all();
        let idle = self.pending.is_empty() && self.edges.is_empty() && self.readable.is_empty();
        let accepting = self.accept_at.is_some_and(|at| at <= self.now);
        idle && !accepting && !std::mem::take(&mut self.woken)
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        std::mem::take(&mut self.woken) || self.epoll.sleep(timeout, WAKE_TOKEN, &mut self.edges)
    }

    fn sleeper(&self) -> Option<Box<dyn Sleeper>> {
        Some(self.asleep.sleeper(&self.epoll, WAKE_TOKEN))
    }

    fn end_sleep(&mut self) {
        self.asleep.take_into(&mut self.edges);
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.event_fd) as _
    }

    fn event_fd(&self) -> Option<RawFd> {
        Some(self.epoll.as_raw_fd())
    }
}

impl<N: Network> Drop for SocketTransport<N> {
    fn drop(&mut self) {
        for (_, connection) in self.links.iter_mut() {
            connection.write(&mut self.scratch);
            let _ = connection.finish_writing();
        }
    }
}

/// Gives out the frames that are there, or reads once and gives out what came.
fn receive<S: LinkSocket>(
    connection: &mut Connection<S>,
    link: LinkId,
    events: &mut Vec<Event>,
    events_max: usize,
) -> Progress {
    let mut has_read = false;
    loop {
        match connection.hand_out(link, events, events_max) {
            Some(progress) => return progress,
            None if has_read => {
                return if connection.readable { Progress::Again } else { Progress::Drained };
            }
            None => match connection.read_once() {
                Progress::Again => has_read = true,
                other => return other,
            },
        }
    }
}

fn caps<N: Network>(bounds: &Bounds) -> Caps {
    Caps {
        name: N::NAME,
        frame_len_max: bounds.frame_len_max,
        bulk_len_max: bounds.frame_len_max,
        links_max: bounds.links_max,
        send_window_frames: None,
        receive_window_frames: None,
        receive_buffers_per_link: bounds.receive_blocks_per_link_max,
        shape: if N::PACKET_LEN_MAX.is_some() { Shape::Packet } else { Shape::Stream },
        zero_copy_send: true,
    }
}

fn send_pool(bounds: &Bounds) -> BufferPool {
    let lens = SEND_BUFFER_LENS.into_iter().filter(|&len| len < bounds.frame_len_max);
    let class = |buffer_len| SizeClass { buffer_len, buffers_max: bounds.send_buffers_max };
    let classes: Vec<_> = lens.chain([bounds.frame_len_max]).map(class).collect();
    BufferPool::new(&classes)
}

/// Errors of `accept` that are about one connection, which is gone, and not about accepting.
fn is_peers_fault(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(kind, ConnectionAborted | ConnectionReset | Interrupted)
}

/// Not ids of links: their index is below `links_max`.
const LISTENER_TOKEN: u64 = TOKEN_MAX;
const WAKE_TOKEN: u64 = TOKEN_MAX - 1;
/// Links that are read without being told that there is something.
const HOT_LINKS: usize = 4;
/// How often these are read before the kernel is asked for edges.
const LOOKS_PER_EDGES: u32 = 31;
/// After how many of these without a sleep the kernel need not watch the links that are read: some milliseconds of looks.
const ROUNDS_WATCHED: u32 = 64;
const ACCEPTS_PER_POLL_MAX: usize = 64;
const ACCEPT_RETRY_NS: u64 = 10_000_000;
/// Lengths of send buffers: one of them is for a payload of a page with what goes before it.
const SEND_BUFFER_LENS: [usize; 4] = [256, 2 << 10, 4608, 16 << 10];

#[cfg(test)]
mod tests;
