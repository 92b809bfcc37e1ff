//! The transport: the device, its completions, the control connections, and the order in which a poll looks at them.
//!
//! ```text
//! poll: completions -> post receives -> (sometimes) edges: accept, greet, ends -> deadlines -> send -> hand out
//! ```
//! A device that is taken away ends its links; until it is there again ([`Hardware`]) links that begin end at once.
//!
//! What arrives goes through one queue, so the events of a link keep their order: the end of a control connection waits behind
//! the packets that came before it.

use crate::bulk::READS_MAX;
use crate::channel::Channel;
use crate::error::StartError;
use crate::greeting::{Greeting, Introduction, MAX_24_BITS, READY};
use crate::link::{Heard, Link, Stage, down_reason, failed_reason};
use crate::options::{BULK_LEN, RECEIVE_LEN, RECEIVES_MIN, RdmaOptions};
use crate::sys::{AsyncEvent, Completion, CompletionKind};
use accept::listen;
use epicserver_transport::{
    Addr, BufferPool, Caps, Direction, DownReason, EVENTS_PER_POLL_MAX, Epoll, Event, EventFd, Frame,
    FrameHeader, LinkId, LinkTable, Readiness, ReceiveBlock, SendError, Shape, TOKEN_MAX, Transport, Wake,
};
use hardware::{Hardware, Pools};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Frames over reliable connections of an RDMA device, all driven by one thread.
pub struct RdmaTransport {
    options: RdmaOptions,
    caps: Caps,
    local_addr: Addr,
    // Links before the device: in the order in which they let go.
    links: LinkTable<Link>,
    /// `None` while the device is away.
    hardware: Option<Hardware>,
    pools: Pools,
    /// When to look whether the device is there.
    watch_at: u64,
    listener: TcpListener,
    epoll: Epoll,
    event_fd: Arc<EventFd>,
    /// What happened and was not handed out: bounded by the receives and offers of all links, and three events a link.
    arrived: VecDeque<Arrived>,
    completions: Vec<Completion>,
    /// Edges that `wait` has taken from the kernel.
    edges: Vec<Readiness>,
    /// Links with something to send; each at most once.
    dirty: Vec<LinkId>,
    /// The link that uses an index, to find it by the tag of a completion.
    by_index: Vec<LinkId>,
    /// Some link may be in another stage than up: only then are deadlines and stages looked at.
    unsettled: bool,
    /// Polls since the kernel was asked for edges.
    polls: u32,
    /// When to accept again: at once after an edge, later if the system had no descriptor left.
    accept_at: Option<u64>,
    /// A wake that a poll saw instead of a wait.
    woken: bool,
    now: u64,
}

/// Something to hand out.
enum Arrived {
    Event(Event),
    /// Frames from `at` on.
    Packet {
        link: LinkId,
        block: ReceiveBlock,
        at: usize,
    },
    /// The last event of a link.
    Down {
        link: LinkId,
        reason: DownReason,
    },
}

/// Whether there is anything better to do than to post receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idleness {
    /// Packets come.
    Busy,
    /// None came.
    Idle,
    /// None came, and the driver is about to sleep.
    Sleepy,
}

impl RdmaTransport {
    /// Opens the device, and listens for control connections; the port is in [`Transport::local_addr`].
    ///
    /// # Errors
    /// [`StartError`] says what is missing and how to get it.
    ///
    /// # Panics
    /// If the options allow fewer than [`RECEIVES_MIN`] receives, or no sends.
    pub fn bind(options: RdmaOptions) -> Result<Self, StartError> {
        assert!(
            options.receives >= RECEIVES_MIN && options.sends_max >= RECEIVES_MIN,
            "queues too short to work"
        );
        let failed = |what| move |source| StartError::System { what, source };
        let epoll = Epoll::new().map_err(failed("an epoll set"))?;
        let (options, pools, hardware) = hardware::begin(options, &epoll)?;
        let listen_failed = |source| StartError::Listen { listen: options.listen, source };
        let listener = listen(options.listen).map_err(listen_failed)?;
        let local_addr = Addr::new(&listener.local_addr().map_err(listen_failed)?.to_string());
        let event_fd = Arc::new(EventFd::new().map_err(failed("an eventfd"))?);
        let watched = epoll.add(&listener, LISTENER_TOKEN);
        watched.and_then(|()| epoll.add(&*event_fd, WAKE_TOKEN)).map_err(failed("an epoll set"))?;
        Ok(Self {
            caps: caps(&options),
            local_addr,
            links: LinkTable::new(options.links_max),
            by_index: vec![LinkId::new(0, 0); options.links_max],
            hardware: Some(hardware),
            pools,
            watch_at: 0,
            listener,
            epoll,
            event_fd,
            arrived: VecDeque::new(),
            completions: Vec::with_capacity(COMPLETIONS_PER_POLL_MAX),
            edges: Vec::new(),
            dirty: Vec::new(),
            unsettled: false,
            polls: 0,
            accept_at: None,
            woken: false,
            now: 0,
            options,
        })
    }

    fn add_link(
        &mut self,
        control: TcpStream,
        stage: Stage,
        direction: Direction,
        peer: Addr,
    ) -> io::Result<LinkId> {
        let full = |_| io::Error::new(io::ErrorKind::QuotaExceeded, "no room for another link");
        let id = self.links.insert(Link::new(control, stage, direction, peer)).map_err(full)?;
        self.by_index[id.index()] = id;
        self.unsettled = true;
        let link = self.links.get(id).expect("just added");
        if let Err(error) = self.epoll.add(&link.control, id.to_u64()) {
            self.links.remove(id);
            return Err(error);
        }
        Ok(id)
    }

    /// Takes what the device has done since; `false` if that was nothing.
    fn take_completions(&mut self) -> bool {
        let mut was_busy = false;
        let mut completions = std::mem::take(&mut self.completions);
        while let Some(hardware) = &mut self.hardware {
            match hardware.queue.poll(&mut completions, COMPLETIONS_PER_POLL_MAX) {
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "the device reports nothing any more");
                    self.end_all(DownReason::Failed(error.kind()));
                }
            }
            was_busy |= !completions.is_empty();
            let is_last = completions.len() < COMPLETIONS_PER_POLL_MAX;
            for completion in completions.drain(..) {
                self.handle_completion(completion);
            }
            if is_last {
                break;
            }
        }
        self.completions = completions;
        was_busy
    }

    fn handle_completion(&mut self, completion: Completion) {
        let Some(id) = self.find(completion.tag) else { return };
        let Some(link) = self.links.get_mut(id) else { return };
        let Some(channel) = &mut link.channel else { return };
        let ended = match completion.kind {
            CompletionKind::Sent { sequence } => match channel.complete_sends(sequence) {
                Some(closed) => {
                    let is_told = closed > 0 && link.stage == Stage::Up;
                    self.arrived.extend(is_told.then_some(Arrived::Event(Event::Writable { link: id })));
                    None
                }
                None => Some(DownReason::Failed(io::ErrorKind::InvalidData)),
            },
            CompletionKind::Received { slot, len, immediate } => {
                match channel.receive(slot, len, immediate) {
                    Ok(block) => {
                        block.into_iter().for_each(|block| self.arrive(id, block));
                        None
                    }
                    Err(reason) => Some(reason),
                }
            }
            CompletionKind::Failed { status } => {
                tracing::debug!(peer = %link.peer, status, "the queue pair failed");
                // A peer that is gone has closed its control connection, which says more.
                match link.hear() {
                    Heard::Down(reason) => Some(reason),
                    _ => Some(failed_reason(status)),
                }
            }
        };
        let ended = ended.or_else(|| self.go_on(id).err());
        match ended {
            Some(reason) => self.end(id, reason),
            None if self.links.get(id).is_some_and(Link::wants_to_send) => self.mark_dirty(id),
            None => {}
        }
    }

    /// Hands on what a long frame held up, and begins to read the next one.
    fn go_on(&mut self, id: LinkId) -> Result<(), DownReason> {
        while let Some(channel) = self.links.get_mut(id).and_then(|link| link.channel.as_mut())
            && channel.is_held_up()
        {
            let Some(block) = channel.next_block() else {
                return channel.start_reads().map_err(|error| DownReason::Failed(error.kind()));
            };
            self.arrive(id, block);
        }
        Ok(())
    }

    /// A packet of frames, or a long frame, is whole and in its turn.
    fn arrive(&mut self, id: LinkId, block: ReceiveBlock) {
        match self.links.get(id).map(|link| link.stage) {
            Some(Stage::Up) => {}
            // The connector may send before its word that it is ready was read here.
            Some(Stage::Confirming { .. }) => self.handle_ready(id),
            _ => return,
        }
        self.arrived.push_back(Arrived::Packet { link: id, block, at: 0 });
    }

    /// The link whose completions carry this tag, unless it is gone.
    fn find(&self, tag: u32) -> Option<LinkId> {
        let id = *self.by_index.get((tag >> 16) as usize)?;
        (tag_of(id) == tag).then_some(id)
    }

    fn mark_dirty(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(id)
            && !std::mem::replace(&mut link.dirty, true)
        {
            self.dirty.push(id);
        }
    }

    /// Asks the kernel for what does not come from the device: rarely, while packets flow.
    fn look(&mut self) {
        self.polls += 1;
        if self.edges.is_empty() && (self.unsettled || self.polls >= POLLS_PER_EDGES) {
            self.polls = 0;
            if let Err(error) = self.epoll.wait(Duration::ZERO, &mut self.edges) {
                tracing::error!(%error, "cannot ask for events");
            }
        }
        let mut edges = std::mem::take(&mut self.edges);
        for edge in edges.drain(..) {
            match edge.token {
                LISTENER_TOKEN => self.accept_at = Some(self.now),
                WAKE_TOKEN => self.woken |= edge.readable,
                COMPLETION_TOKEN => {
                    if let Some(hardware) = &mut self.hardware {
                        hardware.queue.take_events();
                    }
                }
                DEVICE_TOKEN => self.handle_device_events(),
                token => self.handle_control_edge(LinkId::from_u64(token)),
            }
        }
        self.edges = edges;
    }

    fn handle_device_events(&mut self) {
        while let Some(hardware) = &mut self.hardware
            && let Some(event) = hardware.device.next_event()
        {
            let device = &hardware.device.name;
            match event {
                AsyncEvent::DeviceFatal => self.let_go(),
                AsyncEvent::PortError => {
                    tracing::warn!(%device, "a port of the RDMA device has lost its network")
                }
                AsyncEvent::PortActive => {
                    tracing::info!(%device, "a port of the RDMA device works again");
                    hardware.choose_again(&self.options);
                }
                AsyncEvent::AddressesChanged => {
                    tracing::info!(%device, "the addresses of the RDMA device have changed");
                    hardware.choose_again(&self.options);
                }
                AsyncEvent::Other(number) => {
                    tracing::debug!(%device, number, "the RDMA device reports an event")
                }
            }
        }
    }

    /// Ends all links and closes the device, which the system may wait for.
    fn let_go(&mut self) {
        self.end_all(AWAY);
        if let Some(Hardware { device, .. }) = self.hardware.take() {
            tracing::error!(device = %device.name, "the RDMA device is gone, or works no more; it is used again when it is back");
        }
    }

    /// Looks, now and then, whether the device is gone or back.
    fn watch(&mut self) {
        if self.now < self.watch_at {
            return;
        }
        self.watch_at = self.now.saturating_add(WATCH_NS);
        match &self.hardware {
            Some(hardware) if hardware.device.is_there() => {}
            Some(_) => self.let_go(),
            None => match Hardware::open(&self.options, &self.pools, &self.epoll) {
                Ok(hardware) => self.hardware = Some(hardware),
                Err(error) => tracing::debug!(%error, "the RDMA device is not back"),
            },
        }
    }

    fn handle_control_edge(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(id) else { return };
        if matches!(link.stage, Stage::Connecting { .. }) {
            match link.poll_connect() {
                None => return,
                Some(Ok(())) => {
                    let deadline = link.stage.deadline().unwrap_or(self.now);
                    link.stage = Stage::Greeting { deadline };
                    if let Err(reason) = self.greet(id) {
                        return self.end(id, reason);
                    }
                }
                Some(Err(reason)) => return self.end(id, reason),
            }
        }
        loop {
            let Some(link) = self.links.get_mut(id) else { return };
            match link.hear() {
                Heard::Nothing => return,
                Heard::Introduced(peer) => {
                    if let Err(reason) = self.handle_introduction(id, &peer) {
                        return self.end(id, reason);
                    }
                }
                Heard::Ready => self.handle_ready(id),
                Heard::Down(reason) => {
                    // What the device had received before is given out before the end is.
                    self.take_completions();
                    return self.end(id, reason);
                }
            }
        }
    }

    /// Makes this end of a link and says what the other end needs to know.
    fn greet(&mut self, id: LinkId) -> Result<(), DownReason> {
        let wake: Arc<dyn Wake> = Arc::clone(&self.event_fd) as _;
        let hardware = self.hardware.as_ref().ok_or(AWAY)?;
        let (port, gid) = (&hardware.choice.port, hardware.choice.gid);
        let made = Channel::new(
            &hardware.device,
            &hardware.queue,
            &self.options,
            tag_of(id),
            &hardware.memory,
            wake,
            port.number,
        );
        let link = self.links.get_mut(id).ok_or(DownReason::ClosedHere)?;
        let channel = made.map_err(|error| {
            tracing::warn!(peer = %link.peer, %error, "cannot make a queue pair");
            DownReason::Failed(error.kind())
        })?;
        let own = Introduction {
            number: channel.number(),
            // Random, so that packets of an earlier queue pair with the same number are not taken for this one's.
            first_packet: fastrand::u32(0..=MAX_24_BITS),
            receives: self.options.receives as u16,
            mtu: port.mtu as u8,
            reads: hardware.device.reads_max.min(READS_MAX) as u8,
            gid: gid.map(|entry| entry.gid),
            lid: port.lid,
        };
        link.channel = Some(channel);
        link.own = Some(own);
        if link.direction == Direction::Outgoing { link.say(&Greeting::new(&own).to_bytes()) } else { Ok(()) }
    }

    /// The other end is known: joins the two.
    fn handle_introduction(&mut self, id: LinkId, peer: &Introduction) -> Result<(), DownReason> {
        let direction = self.links.get(id).map_or(Direction::Incoming, |link| link.direction);
        if direction == Direction::Incoming {
            self.greet(id)?;
        }
        let Some(link) = self.links.get_mut(id) else { return Ok(()) };
        let (Some(channel), Some(own)) = (&mut link.channel, &link.own) else { return Ok(()) };
        let choice = &self.hardware.as_ref().ok_or(AWAY)?.choice;
        let (port, source) = (choice.port.number, choice.gid.map(|entry| entry.index));
        channel.connect(peer, source, port, own, self.options.ack_timeout).map_err(|error| {
            tracing::warn!(peer = %link.peer, %error, "cannot connect the queue pair");
            DownReason::Failed(error.kind())
        })?;
        match direction {
            Direction::Incoming => {
                let greeting = Greeting::new(own).to_bytes();
                link.stage = Stage::Confirming { deadline: link.stage.deadline().unwrap_or(self.now) };
                link.say(&greeting)
            }
            Direction::Outgoing => {
                link.say(&[READY])?;
                self.handle_ready(id);
                Ok(())
            }
        }
    }

    fn handle_ready(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(id) else { return };
        if !matches!(link.stage, Stage::Greeting { .. } | Stage::Confirming { .. }) {
            return;
        }
        link.stage = Stage::Up;
        let event = Event::LinkUp { link: id, direction: link.direction, peer: link.peer.clone() };
        self.arrived.push_back(Arrived::Event(event));
    }

    /// Ends a link for a reason that is handed out after everything that came before. Links that never came up and were
    /// not begun here go without a word, links that linger had theirs.
    fn end(&mut self, id: LinkId, reason: DownReason) {
        let Some(link) = self.links.get_mut(id) else { return };
        let is_incoming = link.direction == Direction::Incoming;
        match link.stage {
            Stage::Ended => {}
            Stage::Lingering { .. } => {
                self.links.remove(id);
            }
            Stage::Greeting { .. } | Stage::Confirming { .. } if is_incoming => {
                self.links.remove(id);
            }
            _ => {
                link.stage = Stage::Ended;
                self.unsettled = true;
                // The queue pair ends now, so that nothing more arrives, and with it every frame in flight.
                link.channel = None;
                link.outbox.clear();
                link.outbox_len = 0;
                self.arrived.push_back(Arrived::Down { link: id, reason });
            }
        }
    }

    fn end_all(&mut self, reason: DownReason) {
        let all: Vec<_> = self.links.ids().collect();
        for id in all {
            self.end(id, reason);
        }
    }

    fn handle_deadlines(&mut self) {
        if !self.unsettled {
            return;
        }
        self.unsettled = self.links.iter_mut().any(|(_, link)| link.stage != Stage::Up);
        let now = self.now;
        let is_over = |link: &mut Link| match link.stage {
            Stage::Lingering { deadline } => link.is_delivered() || deadline <= now,
            stage => stage.deadline().is_some_and(|deadline| deadline <= now),
        };
        let over: Vec<_> =
            self.links.iter_mut().filter_map(|(id, link)| is_over(link).then_some(id)).collect();
        for id in over {
            self.end(id, DownReason::TimedOut);
        }
    }

    /// Posts what waits on links that have something to send or may again.
    fn send_dirty(&mut self) {
        while let Some(id) = self.dirty.pop() {
            let Some(link) = self.links.get_mut(id) else { continue };
            link.dirty = false;
            // Without the device no link has anything to send on.
            let Some(hardware) = &self.hardware else { continue };
            if let Err(error) = link.send(&hardware.memory) {
                tracing::warn!(peer = %link.peer, %error, "cannot send");
                self.end(id, DownReason::Failed(error.kind()));
                continue;
            }
            let Some(link) = self.links.get_mut(id) else { continue };
            if link.blocked && link.stage == Stage::Up && link.outbox_len <= self.options.outbox_len_max / 2 {
                link.blocked = false;
                self.arrived.push_back(Arrived::Event(Event::Writable { link: id }));
            }
        }
    }

    /// Posts receives whose frames were dropped, and sees to it that the peers hear of them. When nothing comes none is left out; before
    /// a sleep whoever drops a frame later is to wake this thread.
    fn post_receives(&mut self, idleness: Idleness) {
        let mut failed = Vec::new();
        for (id, link) in self.links.iter_mut() {
            let Some(channel) = &mut link.channel else { continue };
            let posted = match idleness {
                Idleness::Sleepy => channel.arm_return(),
                Idleness::Idle => channel.post_receives(true),
                Idleness::Busy => channel.post_receives(false),
            };
            if let Err(error) = posted {
                tracing::warn!(peer = %link.peer, %error, "cannot post receives");
                failed.push((id, error.kind()));
            } else if channel.wants_word() && !std::mem::replace(&mut link.dirty, true) {
                self.dirty.push(id);
            }
        }
        for (id, kind) in failed {
            self.end(id, DownReason::Failed(kind));
        }
    }

    /// Moves what arrived into `events` until these are `events_max`.
    fn hand_out(&mut self, events: &mut Vec<Event>, events_max: usize) {
        while events.len() < events_max
            && let Some(arrived) = self.arrived.pop_front()
        {
            match arrived {
                Arrived::Event(event) => {
                    if self.links.get(event.link()).is_some_and(Link::is_heard) {
                        events.push(event);
                    }
                }
                Arrived::Packet { link, block, at } => {
                    self.hand_out_packet(link, block, at, events, events_max)
                }
                Arrived::Down { link, reason } => {
                    let is_ended = self.links.get(link).is_some_and(|link| link.stage == Stage::Ended);
                    if is_ended {
                        self.links.remove(link);
                    }
                    events.push(Event::LinkDown { link, reason });
                }
            }
        }
    }

    fn hand_out_packet(
        &mut self,
        id: LinkId,
        mut block: ReceiveBlock,
        mut at: usize,
        events: &mut Vec<Event>,
        events_max: usize,
    ) {
        if !self.links.get(id).is_some_and(Link::is_heard) {
            return;
        }
        while at < block.filled().len() {
            if events.len() >= events_max {
                self.arrived.push_front(Arrived::Packet { link: id, block, at });
                return;
            }
            match next_frame(&mut block, at) {
                Ok(frame) => {
                    at += frame.len();
                    events.push(Event::Receive { link: id, frame });
                }
                Err(error) => {
                    // Whatever waits of this link is not heard any more; if its last event waits, this one goes before it.
                    self.arrived
                        .retain(|arrived| !matches!(arrived, Arrived::Down { link, .. } if *link == id));
                    self.links.remove(id);
                    events.push(Event::LinkDown { link: id, reason: DownReason::Garbage(error) });
                    return;
                }
            }
        }
    }
}

/// The frame that starts at `at`, which is before the end. What was read is one long frame.
fn next_frame(block: &mut ReceiveBlock, at: usize) -> Result<Frame, epicserver_transport::HeaderError> {
    let rest = &block.filled()[at..];
    if block.filled().len() > RECEIVE_LEN {
        FrameHeader::parse_frame(rest)?;
    }
    let header = FrameHeader::parse_bounded(rest, RECEIVE_LEN.max(rest.len()))?;
    let announced = header.total_len();
    let mismatch = epicserver_transport::HeaderError::LengthMismatch { announced, len: rest.len() };
    // Not over a length, which is a usize.
    block.frame(at..at + announced as usize).ok_or(mismatch)
}

impl Transport for RdmaTransport {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn local_addr(&self) -> &Addr {
        &self.local_addr
    }

    fn pool(&self) -> &BufferPool {
        &self.pools.pool
    }

    fn bulk_pool(&self) -> Option<&BufferPool> {
        self.pools.bulk.as_ref()
    }

    fn connect(&mut self, addr: &Addr, now: u64) -> io::Result<LinkId> {
        self.now = self.now.max(now);
        let target: SocketAddr = addr.as_str().parse().map_err(|_| {
            let text = format!("`{addr}` is not an IP address and port, such as 10.0.0.1:7000");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let refused = match socket.connect(&target.into()) {
            _ if self.hardware.is_none() => Some(AWAY),
            Ok(()) => None,
            Err(error) if is_under_way(&error) => None,
            Err(error) => Some(down_reason(error.kind())),
        };
        let deadline = self.now.saturating_add(self.options.connect_timeout_ns);
        let id =
            self.add_link(socket.into(), Stage::Connecting { deadline }, Direction::Outgoing, addr.clone())?;
        if let Some(reason) = refused {
            self.end(id, reason);
        }
        Ok(id)
    }

    fn close(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(id) else { return };
        match link.stage {
            Stage::Lingering { .. } | Stage::Ended => {}
            Stage::Up => {
                self.unsettled = true;
                link.stage =
                    Stage::Lingering { deadline: self.now.saturating_add(self.options.linger_ns_max) };
                self.arrived.push_back(Arrived::Down { link: id, reason: DownReason::ClosedHere });
                self.mark_dirty(id);
                self.send_dirty();
            }
            Stage::Connecting { .. } | Stage::Greeting { .. } | Stage::Confirming { .. } => {
                self.end(id, DownReason::ClosedHere);
            }
        }
    }

    fn send(&mut self, id: LinkId, frames: &mut VecDeque<Frame>) -> Result<(), SendError> {
        let link = self.links.get_mut(id).ok_or(SendError::NoSuchLink)?;
        match link.stage {
            Stage::Up => {}
            Stage::Connecting { .. } | Stage::Greeting { .. } | Stage::Confirming { .. } => return Ok(()),
            Stage::Lingering { .. } | Stage::Ended => return Err(SendError::NoSuchLink),
        }
        while let Some(frame) = frames.front() {
            let bulk = self.pools.bulk.as_ref().filter(|_| frame.len() > RECEIVE_LEN);
            let is_bulk = bulk.is_some_and(|pool| pool.holds(frame));
            SendError::check(frame, if is_bulk { BULK_LEN } else { RECEIVE_LEN })?;
            if link.outbox_len >= self.options.outbox_len_max {
                link.blocked = true;
                break;
            }
            let frame = frames.pop_front().expect("seen above");
            link.outbox_len += frame.len();
            link.outbox.push_back(frame);
            if !std::mem::replace(&mut link.dirty, true) {
                self.dirty.push(id);
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.send_dirty();
    }

    fn poll(&mut self, now: u64, events: &mut Vec<Event>) {
        self.now = self.now.max(now);
        self.watch();
        let events_max = events.len() + EVENTS_PER_POLL_MAX;
        let was_busy = self.take_completions();
        self.post_receives(if was_busy { Idleness::Busy } else { Idleness::Idle });
        self.look();
        self.accept();
        self.handle_deadlines();
        self.send_dirty();
        self.hand_out(events, events_max);
    }

    fn poll_timeout(&self) -> Option<u64> {
        let deadlines = self.links.ids().filter_map(|id| self.links.get(id)?.stage.deadline());
        deadlines.chain(self.accept_at).chain([self.watch_at]).min()
    }

    fn arm(&mut self) -> bool {
        self.post_receives(Idleness::Sleepy);
        self.send_dirty();
        let accepting = self.accept_at.is_some_and(|at| at <= self.now);
        if !self.arrived.is_empty() || !self.edges.is_empty() || accepting || std::mem::take(&mut self.woken)
        {
            return false;
        }
        if let Some(hardware) = &self.hardware
            && let Err(error) = hardware.queue.arm()
        {
            // A device that is gone says so by its own event.
            tracing::debug!(%error, "the device does not wake");
        }
        // What was done before is not woken for.
        self.take_completions();
        self.handle_deadlines();
        self.arrived.is_empty() && self.dirty.is_empty()
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        std::mem::take(&mut self.woken) || self.epoll.sleep(timeout, WAKE_TOKEN, &mut self.edges)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.event_fd) as _
    }

    fn event_fd(&self) -> Option<RawFd> {
        Some(self.epoll.as_raw_fd())
    }
}

/// What the completions of a link carry: enough to tell it from those that had its place before.
fn tag_of(id: LinkId) -> u32 {
    (id.index() as u32) << 16 | id.generation() & 0xffff
}

fn caps(options: &RdmaOptions) -> Caps {
    Caps {
        name: "rdma",
        frame_len_max: RECEIVE_LEN,
        bulk_len_max: if options.bulk_buffers_max > 0 { BULK_LEN } else { RECEIVE_LEN },
        links_max: options.links_max,
        send_window_frames: None,
        receive_window_frames: None,
        receive_buffers_per_link: options.receives - crate::credits::RESERVE as usize,
        shape: Shape::Packet,
        zero_copy_send: true,
    }
}

fn is_under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS) || error.kind() == io::ErrorKind::WouldBlock
}

const LISTENER_TOKEN: u64 = TOKEN_MAX;
const WAKE_TOKEN: u64 = TOKEN_MAX - 1;
const COMPLETION_TOKEN: u64 = TOKEN_MAX - 2;
const DEVICE_TOKEN: u64 = TOKEN_MAX - 3;
/// Polls of the completion queue for each look at descriptors, which is a system call.
const POLLS_PER_EDGES: u32 = 64;
const COMPLETIONS_PER_POLL_MAX: usize = 256;
/// How often it is looked whether the device is there, which costs a system call.
const WATCH_NS: u64 = 500_000_000;
/// The end of links while the device is away.
const AWAY: DownReason = DownReason::Failed(io::ErrorKind::NotConnected);

mod accept;
mod hardware;
#[cfg(test)]
mod in_guest;
