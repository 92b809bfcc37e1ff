//! The order in which a poll does its work, over sockets of this process. What else a driver does is tested over real networks, in
//! their crates.

use super::*;
use crate::header::{FrameHeader, FrameKind};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// Unix sockets with an abstract name; only others connect.
struct Local {
    listener: UnixListener,
}

impl Network for Local {
    type Options = &'static str;
    type Socket = UnixStream;
    const NAME: &'static str = "local";
    const PACKET_LEN_MAX: Option<usize> = None;

    fn bind(name: &&'static str) -> io::Result<Self> {
        let listener = UnixListener::bind_addr(&address(name))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    fn bounds(_: &&'static str) -> Bounds {
        Bounds::default()
    }

    fn local_addr(&self) -> io::Result<Addr> {
        Ok(Addr::new("here"))
    }

    fn connect(&mut self, _: &Addr) -> io::Result<(UnixStream, Option<io::ErrorKind>)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn accept(&mut self) -> io::Result<(UnixStream, Addr)> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok((stream, Addr::new("there")))
    }
}

impl AsFd for Local {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl LinkSocket for UnixStream {
    fn is_connected(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn finish_writing(&self) -> bool {
        true
    }
}

/// A name that no other process has.
fn address(name: &str) -> SocketAddr {
    let name = format!("epicserver-{name}-{}", std::process::id());
    SocketAddr::from_abstract_name(name).expect("a short name")
}

/// Polls until there is an event.
fn poll(transport: &mut SocketTransport<Local>) -> Vec<Event> {
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

fn with_peer(name: &'static str) -> (SocketTransport<Local>, UnixStream, LinkId) {
    let mut transport = SocketTransport::bind(name).expect("the name is free");
    let peer = UnixStream::connect_addr(&address(name)).expect("it listens");
    let link = poll(&mut transport)[0].link();
    (transport, peer, link)
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
fn spin(transport: &mut SocketTransport<Local>) {
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
fn unwatched(name: &'static str) -> (SocketTransport<Local>, UnixStream, LinkId) {
    let (mut transport, mut peer, link) = with_peer(name);
    peer.write_all(&ping()).expect("it fits the socket");
    assert!(matches!(poll(&mut transport)[..], [Event::Receive { .. }]));
    spin(&mut transport);
    assert!(!transport.links.get(link).expect("it is up").is_watched);
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
