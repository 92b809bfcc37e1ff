//! The order in which a poll does its work, over sockets of this process. What else a driver does is tested over real networks, in
//! their crates.

use super::*;
use crate::header::{FrameHeader, FrameKind};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket};
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// Unix sockets with an abstract name, which carry packets or a stream; only others connect.
struct Local<const PACKETS: bool> {
    listener: UnixListener,
}

/// A socket that counts.
struct Counted {
    stream: UnixStream,
    reads: usize,
}

impl<const PACKETS: bool> Network for Local<PACKETS> {
    type Options = (&'static str, Bounds);
    type Socket = Counted;
    const NAME: &'static str = "local";
    const PACKET_LEN_MAX: Option<usize> = if PACKETS { Some(64 << 10) } else { None };

    fn bind((name, _): &(&'static str, Bounds)) -> io::Result<Self> {
        let socket = new_socket::<PACKETS>()?;
        bind(&socket, &address(name))?;
        listen(&socket, 1)?;
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    fn bounds((_, bounds): &(&'static str, Bounds)) -> Bounds {
        bounds.clone()
    }

    fn local_addr(&self) -> io::Result<Addr> {
        Ok(Addr::new("here"))
    }

    fn connect(&mut self, _: &Addr) -> io::Result<(Counted, Option<io::ErrorKind>)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn accept(&mut self) -> io::Result<(Counted, Addr)> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok((Counted { stream, reads: 0 }, Addr::new("there")))
    }
}

impl<const PACKETS: bool> AsFd for Local<PACKETS> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        self.stream.read(buffer)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Counted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl LinkSocket for Counted {
    fn is_connected(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn finish_writing(&self) -> bool {
        true
    }
}

fn new_socket<const PACKETS: bool>() -> io::Result<std::os::fd::OwnedFd> {
    let kind = if PACKETS { SocketType::SEQPACKET } else { SocketType::STREAM };
    Ok(socket(AddressFamily::UNIX, kind, None)?)
}

/// A name that no other process has.
fn address(name: &str) -> SocketAddrUnix {
    let name = format!("epicserver-{name}-{}", std::process::id());
    SocketAddrUnix::new_abstract_name(name.as_bytes()).expect("a short name")
}

/// Polls until there is an event.
fn poll<const PACKETS: bool>(transport: &mut SocketTransport<Local<PACKETS>>) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..10_000 {
        transport.poll(1, &mut events);
        if !events.is_empty() {
            return events;
        }
        if transport.arm() {
            transport.wait(Duration::from_millis(1));
        }
    }
    panic!("nothing happened");
}

fn with_peer(name: &'static str) -> (SocketTransport<Local<false>>, UnixStream, LinkId) {
    with_peer_of(name, Bounds::default())
}

fn with_peer_of<const PACKETS: bool>(
    name: &'static str,
    bounds: Bounds,
) -> (SocketTransport<Local<PACKETS>>, UnixStream, LinkId) {
    let mut transport = SocketTransport::bind((name, bounds)).expect("the name is free");
    let peer = new_socket::<PACKETS>().expect("a socket");
    connect(&peer, &address(name)).expect("it listens");
    let link = poll(&mut transport)[0].link();
    (transport, UnixStream::from(peer), link)
}

#[test]
fn nothing_is_read_before_what_is_pending_is_out() {
    let (mut transport, mut peer, link) = with_peer("pending");
    peer.write_all(&ping()).expect("it fits the socket");
    let count = EVENTS_PER_POLL_MAX + 1;
    transport.pending.extend((0..count).map(|_| Event::Writable { link }));
    let mut events = Vec::new();
    transport.poll(1, &mut events);
    assert_eq!(events.len(), EVENTS_PER_POLL_MAX);
    let events = poll(&mut transport);
    assert_eq!((events.len(), &events[0]), (2, &Event::Writable { link }));
    assert!(matches!(events[1], Event::Receive { .. }));
}

#[test]
fn a_socket_that_has_nothing_left_to_do_goes_when_it_is_closed() {
    let (mut transport, mut peer, link) = with_peer("closed");
    let frame = ping();
    transport.send(link, &mut VecDeque::from([frame.clone()])).expect("the link is up");
    transport.close(link);
    assert_eq!(poll(&mut transport), [Event::LinkDown { link, reason: DownReason::ClosedHere }]);
    assert_eq!(transport.sockets().count(), 0);
    let mut bytes = Vec::new();
    peer.read_to_end(&mut bytes).expect("the end");
    assert!(*bytes == *frame, "taken before the close, and lost");
}

/// Looks until the kernel need not watch the link any more; without a sleep.
fn spin(transport: &mut SocketTransport<Local<false>>) {
    let mut events = Vec::new();
    for _ in 0..=ROUNDS_WATCHED * (LOOKS_PER_EDGES + 1) {
        transport.poll(1, &mut events);
    }
    assert_eq!(events, []);
}

fn ping() -> Frame {
    Frame::copy_from(&FrameHeader::new(FrameKind::Ping).to_bytes())
}

/// A link that was read from, and is read again and again since.
fn unwatched(name: &'static str) -> (SocketTransport<Local<false>>, UnixStream, LinkId) {
    let (mut transport, mut peer, link) = with_peer(name);
    peer.write_all(&ping()).expect("it fits the socket");
    assert!(matches!(poll(&mut transport)[..], [Event::Receive { .. }]));
    spin(&mut transport);
    assert_eq!(transport.links.get(link).expect("it is up").watched, Watched::Not);
    (transport, peer, link)
}

#[test]
fn a_link_that_nobody_watches_is_read_and_its_end_is_seen() {
    let (mut transport, mut peer, link) = unwatched("unwatched");
    let mut events = Vec::new();
    peer.write_all(&ping()).expect("it fits the socket");
    drop(peer);
    for _ in 0..4 {
        transport.poll(1, &mut events);
    }
    assert!(
        matches!(events[..], [Event::Receive { .. }, Event::LinkDown { link: down, .. }] if down == link)
    );
}

#[test]
fn who_prepares_for_sleep_is_woken_by_what_came_on_a_link_that_nobody_watched() {
    let (mut transport, mut peer, _) = unwatched("sleepy");
    peer.write_all(&ping()).expect("it fits the socket");
    assert!(transport.arm(), "nothing was read yet");
    assert!(transport.wait(Duration::from_secs(60)));
    assert!(matches!(poll(&mut transport)[..], [Event::Receive { .. }]));
}

#[test]
fn what_a_full_socket_did_not_take_leaves_when_there_is_room_again() {
    let (mut transport, mut peer, link) = unwatched("full");
    let mut sent = 0;
    while transport.unsent_len(link) == Some(0) {
        transport.send(link, &mut VecDeque::from([ping()])).expect("the link is up");
        sent += 1;
    }
    let mut bytes = vec![0; sent * ping().len()];
    let (first, last) = bytes.split_at_mut((sent - 1) * ping().len());
    peer.read_exact(first).expect("what the socket took");
    let mut events = Vec::new();
    for _ in 0..=LOOKS_PER_EDGES + 1 {
        transport.poll(1, &mut events);
    }
    assert_eq!(transport.unsent_len(link), Some(0));
    peer.read_exact(last).expect("the rest");
    assert!(bytes.chunks(ping().len()).all(|frame| *frame == *ping()));
}

/// A link over which a packet has come, and was read until there was nothing.
fn with_packets(name: &'static str, bounds: Bounds) -> (SocketTransport<Local<true>>, UnixStream, LinkId) {
    let (mut transport, mut peer, link) = with_peer_of::<true>(name, bounds);
    peer.write_all(&ping()).expect("it fits the socket");
    assert!(matches!(poll(&mut transport)[..], [Event::Receive { .. }]));
    while !transport.arm() {
        transport.poll(1, &mut Vec::new());
    }
    assert_eq!(transport.links.get(link).expect("it is up").watched, Watched::Readable);
    (transport, peer, link)
}

#[test]
fn a_driver_sleeps_after_a_packet_without_a_read_that_finds_nothing() {
    let (mut transport, mut peer, link) = with_packets("one packet", Bounds::default());
    let reads = |transport: &SocketTransport<Local<true>>| {
        transport.links.get(link).expect("it is up").socket().reads
    };
    for _ in 0..3 {
        let before = reads(&transport);
        peer.write_all(&ping()).expect("it fits the socket");
        // It came before the first one was read, so that there is one edge for both.
        peer.write_all(&ping()).expect("it fits the socket");
        for count in 1..=2 {
            assert!(transport.wait(Duration::from_secs(60)), "a packet that waits ends a sleep");
            let mut events = Vec::new();
            transport.poll(1, &mut events);
            assert!(matches!(events[..], [Event::Receive { .. }]), "{events:?}");
            assert!(transport.arm());
            assert_eq!(reads(&transport), before + count);
        }
        assert!(!transport.wait(Duration::from_millis(1)), "there is no more");
    }
}

#[test]
fn a_driver_sleeps_while_there_is_nowhere_to_read_packets_into() {
    let bounds = Bounds { receive_blocks_per_link_max: 1, ..Bounds::default() };
    let (mut transport, mut peer, link) = with_packets("starved", bounds);
    let mut kept = Vec::new();
    let mut events = Vec::new();
    while transport.starved.is_empty() {
        // A block is full when there is no room for the longest packet.
        let packet = ping().repeat(512);
        peer.write_all(&packet).expect("it fits the socket");
        transport.poll(1, &mut events);
        kept.append(&mut events);
    }
    assert_eq!(transport.links.get(link).expect("it is up").watched, Watched::Edges);
    let slept = (0..10).any(|_| {
        transport.poll(1, &mut events);
        assert_eq!(events, []);
        transport.arm() && !transport.wait(Duration::from_millis(1))
    });
    assert!(slept, "awake for a packet that it cannot read");
    drop(kept);
    assert!(matches!(poll(&mut transport)[..], [Event::Receive { .. }, ..]), "the packet is lost");
}
