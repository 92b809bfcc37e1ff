//! What is particular to TCP; what all transports share is in the conformance suite.

use super::*;
use epicserver_transport::socket::Bounds;
use epicserver_transport::{Addr, DownReason, Event, Frame, FrameHeader, FrameKind, LinkId, Transport};
use socket2::{Domain, Socket, Type};
use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Polls until `done` says so, resting while nothing happens.
fn until(
    transport: &mut TcpTransport,
    what: &str,
    mut done: impl FnMut(&mut TcpTransport, &[Event]) -> bool,
) {
    let mut events = Vec::new();
    for _ in 0..10_000 {
        transport.flush();
        transport.poll(0, &mut events);
        if done(transport, &events) {
            return;
        }
        if transport.arm() {
            transport.wait(Duration::from_millis(1));
        }
    }
    panic!("not {what}: {events:?}");
}

fn bounded(bounds: Bounds) -> TcpOptions {
    TcpOptions { bounds, ..TcpOptions::default() }
}

fn bind(options: TcpOptions) -> TcpTransport {
    TcpTransport::bind(options).expect("a free port")
}

/// A plain socket that is connected to a new transport, and the link there.
fn with_peer(options: TcpOptions) -> (TcpTransport, TcpStream, LinkId) {
    let mut transport = bind(options);
    let peer = TcpStream::connect(transport.local_addr().as_str()).expect("it listens");
    let mut link = None;
    until(&mut transport, "accepted", |_, events| {
        link = events.first().map(Event::link);
        link.is_some()
    });
    (transport, peer, link.expect("accepted"))
}

fn frame(payload_len: u32) -> Vec<u8> {
    let mut header = FrameHeader::new(FrameKind::Request);
    header.payload_len.set(payload_len);
    let mut bytes = vec![0; header.total_len() as usize];
    assert!(header.write_to(&mut bytes));
    bytes
}

fn downs(events: &[Event]) -> Vec<DownReason> {
    let reasons = events.iter().filter_map(|event| match event {
        Event::LinkDown { reason, .. } => Some(*reason),
        _ => None,
    });
    reasons.collect()
}

#[test]
fn the_chosen_port_is_published() {
    let transport = bind(TcpOptions::default());
    let addr: SocketAddr = transport.local_addr().as_str().parse().expect("address and port");
    assert!(addr.ip().is_loopback() && addr.port() != 0);
    let taken = TcpTransport::bind(TcpOptions { listen: addr, ..TcpOptions::default() });
    assert_eq!(taken.err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
}

#[test]
fn small_frames_are_not_delayed_on_either_side() {
    let (mut accepting, mut connecting) = (bind(TcpOptions::default()), bind(TcpOptions::default()));
    connecting.connect(accepting.local_addr(), 0).expect("room for a link");
    for transport in [&mut connecting, &mut accepting] {
        until(transport, "up", |_, events| events.len() == 1);
        assert!(transport.sockets().all(|socket| socket.stream().nodelay().expect("a socket")));
    }
}

#[test]
fn an_address_that_is_none_is_refused_with_a_sentence() {
    let mut transport = bind(TcpOptions::default());
    for text in ["", "localhost", "localhost:7000", "127.0.0.1", "127.0.0.1:70000", "loop-1"] {
        let error = transport.connect(&Addr::new(text), 0).expect_err("no address");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("127.0.0.1:7000"), "{error}");
    }
    assert_eq!(transport.sockets().count(), 0);
}

#[test]
fn frames_of_one_read_share_its_block() {
    let (mut transport, mut peer, _) = with_peer(TcpOptions::default());
    let burst = frame(48).repeat(100);
    peer.write_all(&burst).expect("it fits the socket");
    let mut events = Vec::new();
    until(&mut transport, "all there", |_, seen| {
        events = seen.to_vec();
        seen.len() == 100
    });
    let frames = events.iter().filter_map(|event| match event {
        Event::Receive { frame, .. } => Some(frame),
        _ => None,
    });
    let buffers: BTreeSet<_> = frames.clone().map(Frame::buffer_id).collect();
    assert_eq!((frames.clone().count(), buffers.len()), (100, 1));
    // They lie one behind the other, as they came.
    let starts: Vec<_> = frames.map(|frame| frame.as_ptr().addr()).collect();
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == 80), "{starts:?}");
}

#[test]
fn a_reader_that_does_not_read_stops_the_sender_within_its_bound() {
    let options = bounded(Bounds { outbox_len_max: 128 << 10, ..Bounds::default() });
    let (mut transport, mut peer, link) = with_peer(options.clone());
    let one = frame(16 << 10);
    let (mut taken, mut left) = (0, VecDeque::new());
    let mut quiet = 0;
    while quiet < 200 {
        if left.is_empty() {
            left.push_back(Frame::copy_from(&one));
        }
        transport.send(link, &mut left).expect("the link is up");
        transport.flush();
        transport.poll(1, &mut Vec::new());
        quiet = if left.is_empty() { 0 } else { quiet + 1 };
        taken += usize::from(left.is_empty());
        let queued = transport.unsent_len(link).expect("up");
        assert!(queued < options.bounds.outbox_len_max + one.len(), "{queued} bytes queued");
        assert!(taken * one.len() < 64 << 20, "the kernel takes without end");
    }
    assert!(left.len() == 1 && taken > 8);
    peer.set_nonblocking(true).expect("a socket");
    let (mut read_len, mut buffer) = (0, vec![0; 1 << 20]);
    let mut is_writable = false;
    until(&mut transport, "everything read", |_, events| {
        is_writable |= events.contains(&Event::Writable { link });
        read_len += peer.read(&mut buffer).unwrap_or(0);
        read_len == taken * one.len()
    });
    assert!(is_writable, "room, and nobody was told");
}

#[test]
fn a_connection_that_is_not_answered_times_out() {
    // A listener that never accepts answers a few connections and lets the others wait.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&TcpOptions::default().listen.into()).expect("a free port");
    socket.listen(0).expect("a bound socket");
    let addr = socket.local_addr().expect("bound").as_socket().expect("an internet address");
    let mut transport = bind(bounded(Bounds { connect_timeout_ns: 1_000, ..Bounds::default() }));
    for _ in 0..6 {
        transport.connect(&Addr::new(&addr.to_string()), 5_000).expect("room for a link");
    }
    assert_eq!(transport.poll_timeout(), Some(6_000));
    let mut events = Vec::new();
    transport.poll(5_999, &mut events);
    assert_eq!(downs(&events), []);
    transport.poll(6_000, &mut events);
    let reasons = downs(&events);
    assert!(
        !reasons.is_empty() && reasons.iter().all(|reason| *reason == DownReason::TimedOut),
        "{reasons:?}"
    );
    assert_eq!(transport.poll_timeout(), None);
}

#[test]
fn a_peer_that_does_not_let_go_is_let_go() {
    let (mut transport, mut peer, link) =
        with_peer(bounded(Bounds { linger_ns_max: 1_000, ..Bounds::default() }));
    transport.poll(5_000, &mut Vec::new());
    transport.close(link);
    assert_eq!(transport.poll_timeout(), Some(6_000));
    let mut events = Vec::new();
    transport.poll(5_999, &mut events);
    assert_eq!(events, [Event::LinkDown { link, reason: DownReason::ClosedHere }]);
    assert_eq!((transport.sockets().count(), peer.read(&mut [0]).expect("an end")), (1, 0));
    transport.poll(6_000, &mut events);
    assert_eq!((events.len(), transport.sockets().count(), transport.poll_timeout()), (1, 0, None));
}

#[test]
fn a_reset_loses_no_frame_that_was_read() {
    let (mut transport, mut peer, link) = with_peer(TcpOptions::default());
    peer.write_all(&frame(48).repeat(3)).expect("it fits the socket");
    until(&mut transport, "three frames", |_, events| events.len() == 3);
    let reset = socket2::SockRef::from(&peer);
    reset.set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(peer);
    let mut reasons = Vec::new();
    until(&mut transport, "down", |transport, events| {
        // Writing into the broken connection must not hide why it ended.
        let mut frames = VecDeque::from([Frame::copy_from(&frame(16))]);
        let _ = transport.send(link, &mut frames);
        reasons = downs(events);
        !reasons.is_empty()
    });
    assert_eq!(reasons, [DownReason::ClosedByPeer]);
    assert_eq!(transport.sockets().count(), 0);
}

/// A driver that took "something was read" for "there is something to do" would never sleep while half a frame is there.
#[test]
fn half_a_frame_is_nothing_to_stay_awake_for() {
    let (mut transport, mut peer, _) = with_peer(TcpOptions::default());
    until(&mut transport, "idle", |transport, _| transport.arm());
    let bytes = frame(1_000);
    for part in [&bytes[..16], &bytes[16..500]] {
        peer.write_all(part).expect("written");
        assert!(transport.wait(Duration::from_secs(60)), "bytes end a wait");
        let mut events = Vec::new();
        transport.poll(0, &mut events);
        assert_eq!(events, []);
        // A poll that read until there was nothing more, at the latest.
        transport.poll(0, &mut events);
        assert!(transport.arm() && events.is_empty());
    }
    peer.write_all(&bytes[500..]).expect("written");
    until(&mut transport, "received", |_, events| matches!(events, [Event::Receive { .. }]));
}

#[test]
fn a_busy_link_does_not_starve_the_others() {
    let (mut transport, mut busy, busy_link) = with_peer(TcpOptions::default());
    let mut quiet = TcpStream::connect(transport.local_addr().as_str()).expect("it listens");
    busy.set_nonblocking(true).expect("a socket");
    let noise = frame(0).repeat(8 << 10);
    let _ = busy.write(&noise);
    quiet.write_all(&frame(48)).expect("it fits the socket");
    let mut polls = 0;
    until(&mut transport, "the quiet one is heard", |_, events| {
        let _ = busy.write(&noise);
        polls += 1;
        events.iter().any(|event| matches!(event, Event::Receive { link, .. } if *link != busy_link))
    });
    assert!(polls < 200, "heard after {polls} polls");
}

#[test]
fn a_starved_link_goes_on_when_a_frame_is_dropped_elsewhere() {
    let options = bounded(Bounds {
        frame_len_max: 1024,
        receive_block_len: 4096,
        receive_blocks_per_link_max: 2,
        ..Bounds::default()
    });
    let (mut transport, mut peer, _) = with_peer(options);
    let count = 64;
    peer.write_all(&frame(512 - 32).repeat(count)).expect("it fits the socket");
    let mut held = Vec::new();
    until(&mut transport, "starved", |transport, events| {
        held = events.to_vec();
        held.len() == 16 && transport.arm()
    });
    // Two blocks of eight frames.
    let mut arrived = 0;
    while arrived < count {
        arrived += held.len();
        if transport.arm() && held.len() == 16 {
            std::thread::scope(|scope| scope.spawn(|| held.clear()).join()).expect("dropped");
            assert!(transport.wait(Duration::from_secs(30)), "nobody said that a block came back");
        }
        held.clear();
        transport.poll(1, &mut held);
    }
    assert_eq!(arrived, count);
}
