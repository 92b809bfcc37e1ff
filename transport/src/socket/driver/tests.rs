//! The order in which a poll does its work, over sockets of this process. What else a driver does is tested over real networks, in
//! their crates.

use super::*;
use crate::header::{FrameHeader, FrameKind};
use std::io::{Read, Write};
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

impl AsRawFd for Local {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
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
    peer.write_all(&FrameHeader::new(FrameKind::Ping).to_bytes()).expect("it fits the socket");
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
    let frame = Frame::copy_from(&FrameHeader::new(FrameKind::Ping).to_bytes());
    transport.send(link, &mut VecDeque::from([frame.clone()])).expect("the link is up");
    transport.close(link);
    assert_eq!(poll(&mut transport), [Event::LinkDown { link, reason: DownReason::ClosedHere }]);
    assert_eq!(transport.sockets().count(), 0);
    let mut bytes = Vec::new();
    peer.read_to_end(&mut bytes).expect("the end");
    assert!(*bytes == *frame, "taken before the close, and lost");
}
