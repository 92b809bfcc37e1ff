//! What is particular to the loopback; what all transports share is in the conformance suite.

use super::*;
use crate::header::{FrameKind, HEADER_LEN, HeaderError};

/// A link from `a` to `b`: its names there and here.
fn link(a: &mut LoopbackTransport, b: &mut LoopbackTransport) -> (LinkId, LinkId) {
    let at_a = a.connect(b.local_addr(), 0).expect("room for a link");
    let at_b = events(b).first().expect("up").link();
    assert_eq!(events(a).len(), 1);
    (at_a, at_b)
}

fn events(transport: &mut LoopbackTransport) -> Vec<Event> {
    let mut events = Vec::new();
    transport.poll(0, &mut events);
    events
}

fn frame(pool: &BufferPool, payload_len: u32) -> Frame {
    let mut header = FrameHeader::new(FrameKind::OneWay);
    header.payload_len.set(payload_len);
    let mut buffer = pool.alloc(header.total_len() as usize).expect("a free buffer");
    buffer.fill(0);
    assert!(header.write_to(&mut buffer));
    buffer.freeze()
}

fn bind(network: &LoopbackNetwork, name: &str, options: LoopbackOptions) -> LoopbackTransport {
    network.bind(name, options).expect("the name is free")
}

#[test]
fn a_name_is_taken_until_its_transport_is_dropped() {
    let network = LoopbackNetwork::new();
    let first = bind(&network, "one", LoopbackOptions::plain());
    let again = network.bind("one", LoopbackOptions::plain());
    assert_eq!(again.err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
    drop(first);
    drop(bind(&network, "one", LoopbackOptions::strict()));
}

#[test]
fn plain_frames_cross_by_reference_and_strict_ones_by_copy() {
    for (options, is_shared) in [(LoopbackOptions::plain(), true), (LoopbackOptions::strict(), false)] {
        let network = LoopbackNetwork::new();
        let (mut a, mut b) = (bind(&network, "a", options.clone()), bind(&network, "b", options));
        let (at_a, at_b) = link(&mut a, &mut b);
        let sent = frame(a.pool(), 100);
        a.send(at_a, &mut VecDeque::from([sent.clone()])).expect("the link is up");
        let arrived = events(&mut b);
        let [Event::Receive { link, frame }] = &arrived[..] else { panic!("{arrived:?}") };
        assert_eq!((*link, frame), (at_b, &sent));
        assert_eq!(frame.buffer_id() == sent.buffer_id(), is_shared);
    }
}

#[test]
fn strict_send_buffers_are_in_use_until_the_sender_polls() {
    let network = LoopbackNetwork::new();
    let (mut a, mut b) =
        (bind(&network, "a", LoopbackOptions::strict()), bind(&network, "b", LoopbackOptions::strict()));
    let (at_a, _) = link(&mut a, &mut b);
    let mut frames = VecDeque::from([frame(a.pool(), 0), frame(a.pool(), 0)]);
    a.send(at_a, &mut frames).expect("the link is up");
    assert_eq!(events(&mut b).len(), 2);
    assert_eq!(a.pool().outstanding(), 2);
    assert_eq!(events(&mut a), []);
    assert_eq!(a.pool().outstanding(), 0);
}

#[test]
fn held_frames_are_no_posted_receives() {
    let options = LoopbackOptions { posted_receives: Some(3), ..LoopbackOptions::strict() };
    let network = LoopbackNetwork::new();
    let (mut a, mut b) = (bind(&network, "a", LoopbackOptions::plain()), bind(&network, "b", options));
    let (at_a, at_b) = link(&mut a, &mut b);
    let send = |a: &mut LoopbackTransport| a.send(at_a, &mut VecDeque::from([frame(a.pool(), 0)]));
    (0..3).for_each(|_| send(&mut a).expect("the link is up"));
    let mut held = events(&mut b);
    assert_eq!(held.len(), 3);
    // One comes back, and the next call of the receiver posts it: room for one more frame.
    held.pop();
    b.flush();
    send(&mut a).expect("the link is up");
    assert_eq!(events(&mut a), []);
    send(&mut a).expect("the breach is told by an event");
    let reason = DownReason::WindowExceeded;
    assert_eq!(events(&mut a), [Event::LinkDown { link: at_a, reason }]);
    assert_eq!(events(&mut b).last(), Some(&Event::LinkDown { link: at_b, reason }));
}

#[test]
fn a_frame_longer_than_the_receiver_takes_ends_the_link() {
    let network = LoopbackNetwork::new();
    for receiver in
        [LoopbackOptions::strict(), LoopbackOptions { frame_len_max: 8 << 10, ..LoopbackOptions::plain() }]
    {
        let (mut a, mut b) = (bind(&network, "a", LoopbackOptions::plain()), bind(&network, "b", receiver));
        let (at_a, at_b) = link(&mut a, &mut b);
        let long = frame(a.pool(), 8 << 10);
        let error = HeaderError::TooLong { len: (HEADER_LEN + (8 << 10)) as u64, frame_len_max: 8 << 10 };
        a.send(at_a, &mut VecDeque::from([long])).expect("the link is up");
        assert_eq!(events(&mut b), [Event::LinkDown { link: at_b, reason: DownReason::Garbage(error) }]);
        assert_eq!(events(&mut a).len(), 1);
    }
}
