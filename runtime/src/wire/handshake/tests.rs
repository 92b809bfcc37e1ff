//! Both ends against each other, and against everything a stranger may try.

use super::*;

fn config(node: u64) -> HandshakeConfig {
    HandshakeConfig {
        identity: Identity { node, incarnation: 7, core: 0 },
        agreement: Agreement { version: 3, fingerprint: 0xf0, cluster: 0xc0 },
        secret: ClusterSecret::new(&[9; 32]),
        timeout_ns: 3_000_000_000,
    }
}

fn terms(stream: u64) -> Terms {
    Terms {
        stream,
        said_at: 1,
        base: 4,
        known: Some(KnownStream { stream: 99, received: 12 }),
        window_calls: 64,
        granted_calls: 60,
        window_answers: 32,
        granted_answers: 32,
        window_controls: 16,
        granted_controls: 15,
        frame_len_max: 8192,
        fragment_len_max: 65536,
    }
}

use crate::wire::hello::KnownStream;

/// Two ends, and every frame that crossed, in order.
struct Pair {
    client: Handshake,
    server: Handshake,
    crossed: Vec<Frame>,
}

impl Pair {
    fn new(client: &HandshakeConfig, server: &HandshakeConfig) -> Pair {
        Pair {
            client: Handshake::client(0, client, [1; 32], None),
            server: Handshake::server(0, server, [2; 32]),
            crossed: Vec::new(),
        }
    }

    fn run(&mut self, mut change: impl FnMut(usize, Frame) -> Frame) {
        loop {
            if self.client.proven().is_some() {
                self.client.offer(terms(1));
            }
            if self.server.proven().is_some() {
                self.server.offer(terms(2));
            }
            let to_server = self.client.poll_transmit();
            let to_client = if to_server.is_none() { self.server.poll_transmit() } else { None };
            let Some(frame) = to_server.as_ref().or(to_client.as_ref()) else { return };
            let frame = change(self.crossed.len(), frame.clone());
            self.crossed.push(frame.clone());
            let receiver = if to_server.is_some() { &mut self.server } else { &mut self.client };
            receiver.handle_frame(1, &frame);
        }
    }

    fn errors(&self) -> (HelloError, HelloError) {
        (self.client.outcome().unwrap().unwrap_err(), self.server.outcome().unwrap().unwrap_err())
    }
}

fn refused(client: &HandshakeConfig, server: &HandshakeConfig) -> (HelloError, HelloError) {
    let mut pair = Pair::new(client, server);
    pair.run(|_, frame| frame);
    pair.errors()
}

#[test]
fn both_ends_learn_who_the_other_is_and_its_terms() {
    let (a, b) = (config(1), config(2));
    let mut pair = Pair::new(&a, &b);
    pair.run(|_, frame| frame);
    let at_client = pair.client.outcome().unwrap().unwrap();
    let at_server = pair.server.outcome().unwrap().unwrap();
    assert_eq!(at_client, Established { peer: b.identity, own: terms(1), theirs: terms(2) });
    assert_eq!(at_server, Established { peer: a.identity, own: terms(2), theirs: terms(1) });
    assert_eq!(pair.crossed.len(), 4);
    assert!(pair.crossed.iter().all(|frame| frame.len() <= HELLO_FRAME_LEN_MAX));
    assert_eq!(pair.client.poll_timeout(), None);
}

#[test]
fn a_difference_is_named_with_both_sides_on_both_sides() {
    let ours = config(1);
    let mut other = config(2);
    other.agreement.version = 4;
    let (client, server) = refused(&ours, &other);
    assert_eq!(client, HelloError::Version { here: 3, there: 4 });
    assert_eq!(server, HelloError::Version { here: 4, there: 3 });
    assert_eq!(client.to_string(), "protocol version 3 here, 4 there");

    let mut other = config(2);
    other.agreement.fingerprint = 0xf1;
    let (client, server) = refused(&ours, &other);
    assert_eq!(client, HelloError::Fingerprint { here: 0xf0, there: 0xf1 });
    assert_eq!(server, HelloError::Fingerprint { here: 0xf1, there: 0xf0 });

    let mut other = config(2);
    other.agreement.cluster = 0xc1;
    let (client, server) = refused(&ours, &other);
    assert_eq!(client, HelloError::Cluster { here: 0xc0, there: 0xc1 });
    assert_eq!(server, HelloError::Cluster { here: 0xc1, there: 0xc0 });
}

#[test]
fn a_wrong_secret_is_refused_by_the_client_before_it_proves_its_own() {
    let mut other = config(2);
    other.secret = ClusterSecret::new(&[8; 32]);
    let mut pair = Pair::new(&config(1), &other);
    pair.run(|_, frame| frame);
    let (client, server) = pair.errors();
    assert_eq!(client, HelloError::Secret { peer: other.identity });
    assert_eq!(server, HelloError::Refused { reason: CloseReason::Secret });
    let kinds: Vec<_> = pair.crossed.iter().map(|frame| FrameHeader::parse(frame).unwrap().kind()).collect();
    assert_eq!(kinds, [FrameKind::Hello, FrameKind::HelloReply, FrameKind::Close]);
}

#[test]
fn a_server_refuses_a_client_without_the_secret() {
    let mut server = Handshake::server(0, &config(2), [2; 32]);
    let mut stranger = config(1);
    stranger.secret = ClusterSecret::new(&[8; 32]);
    let mut client = Handshake::client(0, &stranger, [1; 32], None);
    server.handle_frame(0, &client.poll_transmit().unwrap());
    // The stranger does not care whether the server knows the secret.
    client.state = State::Proven { peer: config(2).identity, theirs: None };
    client.offer(terms(1));
    server.handle_frame(0, &client.poll_transmit().unwrap());
    assert_eq!(server.outcome(), Some(Err(HelloError::Secret { peer: stranger.identity })));
    assert_eq!(server.proven(), None);
}

/// Every byte of every frame is covered: by a check, or by the mac of the frames after it.
#[test]
fn no_changed_byte_goes_through() {
    for target in 0..4 {
        let mut len = usize::MAX;
        let mut at = 0;
        while at < len {
            let mut pair = Pair::new(&config(1), &config(2));
            pair.run(|index, frame| {
                if index != target {
                    return frame;
                }
                len = frame.len();
                let mut bytes = frame.to_vec();
                bytes[at] ^= 0x40;
                Frame::copy_from(&bytes)
            });
            let is_refused = |end: &Handshake| !matches!(end.outcome(), Some(Ok(_)));
            let header = FrameHeader::parse_frame(&pair.crossed[target]);
            let payload_end = header.map_or(0, |header| 32 + header.payload_len.get() as usize);
            // Nothing is read from a hello's header but kind and lengths, and nothing from its padding.
            let is_read = (32..payload_end).contains(&at) || at < 7 || at == 11;
            // The last frame goes to the client: the server is done when it has sent it.
            assert!(!is_read || is_refused(&pair.client), "byte {at} of frame {target}");
            assert!(!is_read || target == 3 || is_refused(&pair.server), "byte {at} of frame {target}");
            at += 1;
        }
        assert!(len < 256);
    }
}

#[test]
fn reflected_words_are_refused() {
    let ours = config(1);
    let mut client = Handshake::client(0, &ours, [1; 32], None);
    let hello = client.poll_transmit().unwrap();
    client.handle_frame(0, &hello);
    assert_eq!(client.outcome(), Some(Err(HelloError::Unexpected { found: FrameKind::Hello })));

    // As a reply, which needs no more than another kind byte and any mac.
    let mut client = Handshake::client(0, &ours, [1; 32], None);
    let mut payload = FrameHeader::payload_bytes(&client.poll_transmit().unwrap()).unwrap().to_vec();
    payload.extend([0; MAC_LEN]);
    client.handle_frame(0, &assemble_bare(None, FrameHeader::new(FrameKind::HelloReply), &payload));
    assert_eq!(client.outcome(), Some(Err(HelloError::Reflected)));

    // Through a second link of the same node: role, node and tag are all in the way; the first one answers.
    let mut pair = Pair::new(&ours, &ours);
    pair.run(|_, frame| frame);
    assert_eq!(pair.errors().1, HelloError::SelfLink { here: ours.identity });
}

#[test]
fn what_was_heard_on_an_older_link_proves_nothing() {
    let mut pair = Pair::new(&config(1), &config(2));
    pair.run(|_, frame| frame);
    let mut server = Handshake::server(0, &config(2), [3; 32]);
    server.handle_frame(0, &pair.crossed[0]);
    assert!(server.outcome().is_none());
    server.handle_frame(0, &pair.crossed[2]);
    assert_eq!(server.outcome(), Some(Err(HelloError::Secret { peer: config(1).identity })));

    let mut client = Handshake::client(0, &config(1), [4; 32], None);
    client.handle_frame(0, &pair.crossed[1]);
    assert_eq!(client.outcome(), Some(Err(HelloError::Secret { peer: config(2).identity })));
}

#[test]
fn another_node_than_the_dialled_one_is_refused() {
    let mut client = Handshake::client(0, &config(1), [1; 32], Some(5));
    let mut server = Handshake::server(0, &config(2), [2; 32]);
    server.handle_frame(0, &client.poll_transmit().unwrap());
    client.handle_frame(0, &server.poll_transmit().unwrap());
    assert_eq!(client.outcome(), Some(Err(HelloError::OtherNode { expected: 5, there: 2 })));
}

#[test]
fn time_and_length_are_bounded() {
    let mut server = Handshake::server(10, &config(2), [2; 32]);
    assert_eq!(server.poll_timeout(), Some(3_000_000_010));
    server.handle_timeout(3_000_000_009);
    assert!(server.outcome().is_none());
    server.handle_timeout(3_000_000_010);
    assert_eq!(server.outcome(), Some(Err(HelloError::Deadline { timeout_ms: 3_000 })));

    let mut server = Handshake::server(0, &config(2), [2; 32]);
    let long = assemble_bare(None, FrameHeader::new(FrameKind::Hello), &[0; HELLO_FRAME_LEN_MAX]);
    server.handle_frame(0, &long);
    assert_eq!(server.outcome(), Some(Err(HelloError::NotAFrame { len: long.len() })));

    let mut server = Handshake::server(0, &config(2), [2; 32]);
    server.handle_frame(0, &assemble_bare(None, FrameHeader::new(FrameKind::Request), b""));
    assert_eq!(server.outcome(), Some(Err(HelloError::Unexpected { found: FrameKind::Request })));

    let mut server = Handshake::server(0, &config(2), [2; 32]);
    server.handle_frame(0, &assemble_bare(None, FrameHeader::new(FrameKind::Hello), b"GET / HTTP/1.1"));
    assert_eq!(server.outcome(), Some(Err(HelloError::NotOurs)));
    assert_eq!(server.poll_transmit(), None);
}

#[test]
fn the_secret_is_not_printed() {
    let printed = format!("{:?}", Handshake::server(0, &config(2), [2; 32]));
    assert!(printed.contains("ClusterSecret(..)"), "{printed}");
}

/// The layout is part of the protocol version: change these bytes only together with it.
#[test]
fn the_bytes_are_pinned() {
    let mut pair = Pair::new(&config(1), &config(2));
    pair.run(|_, frame| frame);
    let payload = |index: usize| FrameHeader::payload_bytes(&pair.crossed[index]).unwrap();
    let mut hello = b"epic".to_vec();
    hello.extend([3, 0, 1, 0, 0xf0, 0, 0, 0, 0, 0, 0, 0, 0xc0]);
    hello.extend([0; 15]);
    hello.extend([1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    hello.extend([1; 32]);
    assert_eq!(payload(0), hello);
    let mut server_terms = vec![2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
    server_terms.extend([99, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    server_terms.extend([64, 0, 0, 0, 60, 0, 0, 0, 32, 0, 0, 0, 32, 0, 0, 0]);
    server_terms.extend([16, 0, 0, 0, 15, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(payload(3)[..80], server_terms);
    let macs: Vec<String> = [(1, 80), (2, 80), (3, 80)]
        .map(|(index, at)| payload(index)[at..at + 4].iter().map(|b| format!("{b:02x}")).collect())
        .to_vec();
    assert_eq!(macs, ["47801cec", "4b21898f", "d6a665db"]);
}
