//! A network inside the process: for tests, for the simulator, for several nodes in one process.
//!
//! Frames cross by reference in *plain* mode. *Strict* mode behaves like InfiniBand verbs, so that what runs on it fits
//! them: short frames, a fixed number of posted receives for each link, each frame copied into one of them, a frame
//! without one a link error on both sides, sent buffers in use until the sender polls.
//!
//! Nothing here reads a clock or depends on thread timing: driven from one thread, the order of calls decides everything.
//! Start at [`LoopbackNetwork::bind`]; the wires are in [`endpoint`].

mod endpoint;
mod raw;

use crate::frame::Frame;
use crate::header::FrameHeader;
use crate::link::{Addr, Direction, DownReason, Event, LinkId, LinkTable};
use crate::pool::{BufferPool, SizeClass};
use crate::transport::{Caps, EVENTS_PER_POLL_MAX, SendError, Shape, Sleeper, Transport};
use crate::wake::{Signal, Wake};
use endpoint::{ConnectRequest, Delivery, Endpoint, Lane};
pub use raw::LoopbackRaw;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Names and who is reached by them. Clones are the same network.
#[derive(Clone, Default)]
pub struct LoopbackNetwork {
    endpoints: Arc<Mutex<BTreeMap<Addr, Arc<Endpoint>>>>,
}

impl LoopbackNetwork {
    /// A network without anybody on it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A transport that is reached as `name` until it is dropped.
    ///
    /// # Errors
    /// `AddrInUse` if somebody has the name.
    pub fn bind(&self, name: &str, options: LoopbackOptions) -> io::Result<LoopbackTransport> {
        let addr = Addr::new(name);
        let endpoint = Arc::new(Endpoint::default());
        let mut endpoints = self.lock();
        if endpoints.contains_key(&addr) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("loopback name {name} is taken")));
        }
        endpoints.insert(addr.clone(), Arc::clone(&endpoint));
        drop(endpoints);
        Ok(LoopbackTransport::new(self.clone(), addr, endpoint, options))
    }

    fn find(&self, addr: &Addr) -> Option<Arc<Endpoint>> {
        self.lock().get(addr).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Addr, Arc<Endpoint>>> {
        // The map is whole between any two statements, so a panic elsewhere leaves nothing half done.
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How one end of the network behaves. Both ends of a link need not be alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopbackOptions {
    /// Longest frame in bytes; a multiple of 16.
    pub frame_len_max: usize,
    /// Plain: bound on the frames of a link under way to the peer. Strict: bound on sent frames until the next `poll`.
    pub send_window_frames: usize,
    /// Receives posted for each link; `None` is plain mode.
    pub posted_receives: Option<usize>,
    /// Bound on links.
    pub links_max: usize,
    /// Buffers of `frame_len_max` bytes to send from.
    pub send_buffers_max: usize,
}

impl LoopbackOptions {
    /// Frames of 64 KiB that cross by reference.
    #[must_use]
    pub const fn plain() -> Self {
        Self {
            frame_len_max: 64 << 10,
            send_window_frames: 1024,
            posted_receives: None,
            links_max: 256,
            send_buffers_max: 4096,
        }
    }

    /// The behaviour of verbs: frames of 8 KiB, 64 posted receives a link.
    #[must_use]
    pub const fn strict() -> Self {
        Self {
            frame_len_max: 8 << 10,
            send_window_frames: 32,
            posted_receives: Some(64),
            links_max: 64,
            send_buffers_max: 256,
        }
    }
}

/// One end of a [`LoopbackNetwork`].
pub struct LoopbackTransport {
    network: LoopbackNetwork,
    addr: Addr,
    endpoint: Arc<Endpoint>,
    caps: Caps,
    options: LoopbackOptions,
    pool: BufferPool,
    links: LinkTable<Link>,
    /// Events that were decided here and wait for the next poll: at most two a link.
    pending: VecDeque<Event>,
    /// What was taken from the inbox and not yet handled.
    arrived: VecDeque<Delivery>,
    /// Who got frames since the last flush.
    unflushed: Vec<Arc<Endpoint>>,
}

/// One link as its owner sees it.
struct Link {
    peer: Arc<Endpoint>,
    /// The peer's name for it; `None` until the peer answered.
    peer_link: Option<LinkId>,
    peer_addr: Addr,
    outgoing: Arc<Lane>,
    incoming: Arc<Lane>,
    /// Strict: memory for posted receives, and sent frames that count as unfinished until the next poll.
    receive_pool: Option<BufferPool>,
    unfinished: Vec<Frame>,
    /// Strict: `send` left frames.
    blocked: bool,
}

impl LoopbackTransport {
    fn new(network: LoopbackNetwork, addr: Addr, endpoint: Arc<Endpoint>, options: LoopbackOptions) -> Self {
        let strict = options.posted_receives.is_some();
        let caps = Caps {
            name: if strict { "loopback-strict" } else { "loopback" },
            frame_len_max: options.frame_len_max,
            bulk_len_max: options.frame_len_max,
            links_max: options.links_max,
            send_window_frames: Some(options.send_window_frames),
            receive_window_frames: options.posted_receives,
            // Plain frames lie in the sender's buffers: its pool is what stands behind them.
            receive_buffers_per_link: options.posted_receives.unwrap_or(options.send_buffers_max),
            shape: Shape::Packet,
            zero_copy_send: !strict,
        };
        let pool = send_pool(&options);
        let links = LinkTable::new(options.links_max);
        let (pending, arrived, unflushed) = (VecDeque::new(), VecDeque::new(), Vec::new());
        Self { network, addr, endpoint, caps, options, pool, links, pending, arrived, unflushed }
    }

    fn new_link(
        &self,
        peer: Arc<Endpoint>,
        peer_addr: Addr,
        outgoing: Arc<Lane>,
        incoming: Arc<Lane>,
    ) -> Link {
        let receive_pool = self.options.posted_receives.map(|receives| {
            let class = SizeClass { buffer_len: self.options.frame_len_max, buffers_max: receives };
            BufferPool::new(&[class])
        });
        if let Some(pool) = &receive_pool {
            incoming.post_from(pool);
        }
        let (peer_link, unfinished, blocked) = (None, Vec::new(), false);
        Link { peer, peer_link, peer_addr, outgoing, incoming, receive_pool, unfinished, blocked }
    }

    /// Strict: makes receive buffers of what was dropped since.
    fn repost(&mut self) {
        if self.options.posted_receives.is_none() {
            return;
        }
        for (_, link) in self.links.iter_mut() {
            if let Some(pool) = &link.receive_pool {
                link.incoming.post_from(pool);
            }
        }
    }

    /// Strict: what was sent before this poll is finished now.
    fn finish_sends(&mut self) {
        if self.options.posted_receives.is_none() {
            return;
        }
        for (id, link) in self.links.iter_mut() {
            link.unfinished.clear();
            if std::mem::take(&mut link.blocked) {
                self.pending.push_back(Event::Writable { link: id });
            }
        }
    }

    fn handle_delivery(&mut self, delivery: Delivery) -> Option<Event> {
        match delivery {
            Delivery::Connect(request) => self.handle_connect(request),
            Delivery::Accepted { link: id, by, peer_link } => {
                let Some(link) = self.links.get_mut(id) else {
                    // Closed here before the peer answered.
                    by.deliver_now(Delivery::Down { link: peer_link, reason: DownReason::ClosedByPeer });
                    return None;
                };
                link.peer_link = Some(peer_link);
                Some(Event::LinkUp { link: id, direction: Direction::Outgoing, peer: link.peer_addr.clone() })
            }
            Delivery::Frame { link, frame } => self.handle_frame(link, frame),
            Delivery::Writable { link } => self.links.get(link).map(|_| Event::Writable { link }),
            Delivery::Down { link, reason } => {
                self.links.remove(link)?;
                Some(Event::LinkDown { link, reason })
            }
        }
    }

    fn handle_connect(&mut self, request: ConnectRequest) -> Option<Event> {
        let ConnectRequest { from, from_link, from_addr, to_connector, from_connector } = request;
        let mut link = self.new_link(Arc::clone(&from), from_addr.clone(), to_connector, from_connector);
        link.peer_link = Some(from_link);
        let Ok(id) = self.links.insert(link) else {
            from.deliver_now(Delivery::Down { link: from_link, reason: DownReason::Refused });
            return None;
        };
        let by = Arc::clone(&self.endpoint);
        if !from.deliver_now(Delivery::Accepted { link: from_link, by, peer_link: id }) {
            // The connector is gone already.
            self.links.remove(id);
            return None;
        }
        Some(Event::LinkUp { link: id, direction: Direction::Incoming, peer: from_addr })
    }

    fn handle_frame(&mut self, id: LinkId, frame: Frame) -> Option<Event> {
        let link = self.links.get_mut(id)?;
        if link.incoming.take_one()
            && let Some(peer_link) = link.peer_link
        {
            link.peer.deliver_now(Delivery::Writable { link: peer_link });
        }
        let checked = FrameHeader::parse_bounded(&frame, self.options.frame_len_max)
            .and_then(|_| FrameHeader::parse_frame(&frame));
        match checked {
            Ok(_) => Some(Event::Receive { link: id, frame }),
            Err(error) => {
                self.drop_link(id, DownReason::ClosedByPeer);
                Some(Event::LinkDown { link: id, reason: DownReason::Garbage(error) })
            }
        }
    }

    /// Takes a link out and tells the peer, which sees `peer_reason`.
    fn drop_link(&mut self, id: LinkId, peer_reason: DownReason) -> bool {
        let Some(link) = self.links.remove(id) else { return false };
        // Without a peer link the peer has not answered yet; it hears then that the link is gone.
        if let Some(peer_link) = link.peer_link {
            link.peer.deliver_now(Delivery::Down { link: peer_link, reason: peer_reason });
        }
        true
    }

    fn wake_unflushed(&mut self) {
        for endpoint in self.unflushed.drain(..) {
            endpoint.wake_if_armed();
        }
    }
}

impl Transport for LoopbackTransport {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn local_addr(&self) -> &Addr {
        &self.addr
    }

    fn pool(&self) -> &BufferPool {
        &self.pool
    }

    fn connect(&mut self, addr: &Addr, _now: u64) -> io::Result<LinkId> {
        let (to_peer, from_peer) = (Arc::new(Lane::default()), Arc::new(Lane::default()));
        let found = self.network.find(addr);
        let peer = found.clone().unwrap_or_default();
        let link = self.new_link(peer, addr.clone(), Arc::clone(&to_peer), Arc::clone(&from_peer));
        let Ok(from_link) = self.links.insert(link) else {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "no room for another link"));
        };
        let request = ConnectRequest {
            from: Arc::clone(&self.endpoint),
            from_link,
            from_addr: self.addr.clone(),
            to_connector: from_peer,
            from_connector: to_peer,
        };
        let asked = found.is_some_and(|peer| peer.deliver_now(Delivery::Connect(request)));
        if !asked {
            self.links.remove(from_link);
            self.pending.push_back(Event::LinkDown { link: from_link, reason: DownReason::Refused });
        }
        Ok(from_link)
    }

    fn close(&mut self, link: LinkId) {
        if self.drop_link(link, DownReason::ClosedByPeer) {
            self.pending.push_back(Event::LinkDown { link, reason: DownReason::ClosedHere });
        }
    }

    fn send(&mut self, id: LinkId, frames: &mut VecDeque<Frame>) -> Result<(), SendError> {
        self.repost();
        let link = self.links.get_mut(id).ok_or(SendError::NoSuchLink)?;
        let Some(peer_link) = link.peer_link else { return Ok(()) };
        while let Some(frame) = frames.front() {
            SendError::check(frame, self.options.frame_len_max)?;
            if !link.has_room(&self.options) {
                break;
            }
            let frame = frames.pop_front().expect("seen above");
            match link.outgoing.place(&frame) {
                Ok(placed) => link.peer.deliver(Delivery::Frame { link: peer_link, frame: placed }),
                Err(reason) => {
                    self.drop_link(id, reason);
                    self.pending.push_back(Event::LinkDown { link: id, reason });
                    return Ok(());
                }
            };
            if self.options.posted_receives.is_some() {
                link.unfinished.push(frame);
            }
        }
        if !self.unflushed.last().is_some_and(|last| Arc::ptr_eq(last, &link.peer)) {
            self.unflushed.push(Arc::clone(&link.peer));
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.repost();
        self.wake_unflushed();
    }

    fn poll(&mut self, _now: u64, events: &mut Vec<Event>) {
        self.wake_unflushed();
        self.repost();
        self.finish_sends();
        let events_max = events.len() + EVENTS_PER_POLL_MAX;
        while events.len() < events_max {
            if let Some(event) = self.pending.pop_front() {
                events.push(event);
                continue;
            }
            if self.arrived.is_empty() {
                self.endpoint.take_arrived(&mut self.arrived);
            }
            let Some(delivery) = self.arrived.pop_front() else { break };
            events.extend(self.handle_delivery(delivery));
        }
    }

    fn poll_timeout(&self) -> Option<u64> {
        None
    }

    fn arm(&mut self) -> bool {
        let blocked =
            self.options.posted_receives.is_some() && self.links.iter_mut().any(|(_, link)| link.blocked);
        self.endpoint.arm() && self.pending.is_empty() && self.arrived.is_empty() && !blocked
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        self.endpoint.signal().wait(timeout)
    }

    fn sleeper(&self) -> Option<Box<dyn Sleeper>> {
        Some(Box::new(SignalSleeper(self.endpoint.signal())))
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.endpoint.signal()
    }

    fn event_fd(&self) -> Option<RawFd> {
        None
    }
}

struct SignalSleeper(Arc<Signal>);

impl Sleeper for SignalSleeper {
    fn sleep(&mut self, timeout: Duration) -> bool {
        self.0.wait(timeout)
    }
}

impl Drop for LoopbackTransport {
    fn drop(&mut self) {
        self.network.lock().remove(&self.addr);
        let links: Vec<_> = self.links.ids().collect();
        for link in links {
            self.drop_link(link, DownReason::ClosedByPeer);
        }
        let unheard = std::mem::take(&mut self.arrived).into_iter().chain(self.endpoint.shut());
        for delivery in unheard {
            delivery.refuse();
        }
    }
}

impl Link {
    /// Whether one more frame may be taken; if not, a `Writable` will follow.
    fn has_room(&mut self, options: &LoopbackOptions) -> bool {
        if options.posted_receives.is_some() {
            self.blocked = self.unfinished.len() >= options.send_window_frames;
            return !self.blocked;
        }
        self.outgoing.has_room(options.send_window_frames)
    }
}

fn send_pool(options: &LoopbackOptions) -> BufferPool {
    let class = |buffer_len, buffers_max| SizeClass { buffer_len, buffers_max };
    if options.posted_receives.is_some() {
        return BufferPool::contiguous(&[class(options.frame_len_max, options.send_buffers_max)]);
    }
    let mut classes = vec![class(SMALL_BUFFER_LEN, options.send_buffers_max)];
    if options.frame_len_max > SMALL_BUFFER_LEN {
        classes.push(class(options.frame_len_max, options.send_buffers_max));
    }
    BufferPool::new(&classes)
}

/// Plain mode keeps most frames, which are short, out of buffers of the full length.
const SMALL_BUFFER_LEN: usize = 1024;

#[cfg(test)]
mod tests;
