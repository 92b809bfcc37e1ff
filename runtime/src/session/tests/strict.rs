//! Two sessions over the strict loopback, where one frame too many ends the link.

use std::collections::VecDeque;

use epicserver_transport::{
    Addr, Event, FrameKind, LinkId, LoopbackNetwork, LoopbackOptions, LoopbackTransport, Transport,
};
use fastrand::Rng;

use crate::session::SessionConfig;
use crate::session::tests::pair::{End, handshake_config};
use crate::wire::handshake::Handshake;
use crate::wire::hello::Identity;

/// A session on a transport, driven as a driver would.
struct Node {
    end: End,
    transport: LoopbackTransport,
    link: Option<LinkId>,
    is_client: bool,
    out: VecDeque<epicserver_transport::Frame>,
}

impl Node {
    fn new(network: &LoopbackNetwork, number: u64) -> Node {
        let transport = network.bind(&number.to_string(), LoopbackOptions::strict()).unwrap();
        let mut config = SessionConfig::for_transport(number * 100, transport.caps());
        config.queue_calls_max = 100;
        let identity = Identity { node: number, incarnation: 1, core: 0 };
        let end = End::with_pool(config, identity, Some(transport.pool().clone()));
        Node { end, transport, link: None, is_client: number == 1, out: VecDeque::new() }
    }

    fn pass(&mut self, now: u64, may_release: bool) {
        let mut events = Vec::new();
        self.transport.poll(now, &mut events);
        for event in events {
            match event {
                Event::LinkUp { link, .. } => {
                    self.link = Some(link);
                    let config = handshake_config(self.end.identity);
                    let handshake = if self.is_client {
                        Handshake::client(now, &config, [1; 32], None)
                    } else {
                        Handshake::server(now, &config, [2; 32])
                    };
                    self.end.session.handle_link_up(now, handshake);
                }
                Event::Receive { frame, .. } => self.end.session.handle_frame(now, frame),
                Event::LinkDown { reason, .. } => panic!("the link broke: {reason:?}"),
                Event::Writable { .. } => {}
            }
            self.end.drain();
        }
        if may_release {
            self.end.release_all();
        }
        self.end.session.handle_timeout(now);
        let Some(link) = self.link else { return };
        loop {
            if self.out.is_empty() {
                self.out.extend(self.end.session.poll_transmit(now));
            }
            if self.out.is_empty() {
                break;
            }
            self.transport.send(link, &mut self.out).unwrap();
            if !self.out.is_empty() {
                break;
            }
        }
        self.transport.flush();
    }
}

#[test]
fn no_receive_is_ever_missing() {
    for seed in 0..12 {
        let mut rng = Rng::with_seed(seed);
        let network = LoopbackNetwork::new();
        let mut nodes = [1, 2].map(|number| Node::new(&network, number));
        nodes[0].transport.connect(&Addr::new("2"), 0).unwrap();
        let (mut now, mut number) = (0, 0);
        for _ in 0..300 {
            let node = &mut nodes[rng.usize(0..2)];
            for _ in 0..rng.usize(0..30) {
                let kind = if rng.bool() { FrameKind::Request } else { FrameKind::Reply };
                let len = if rng.u8(0..20) == 0 { rng.usize(0..40_000) } else { rng.usize(0..200) };
                node.end.queue(now, kind, number, len);
                number += 1;
            }
            node.pass(now, rng.bool());
            now += rng.u64(0..10_000_000);
        }
        for _ in 0..500 {
            nodes.iter_mut().for_each(|node| node.pass(now, true));
            now += 10_000_000;
        }
        for (sender, receiver) in [(0, 1), (1, 0)] {
            let sent: Vec<_> = nodes[sender].end.calls.keys().copied().collect();
            assert!(!sent.is_empty());
            assert_eq!(nodes[receiver].end.got, sent, "seed {seed}");
            assert_eq!(nodes[sender].end.session.calls().count(), 0);
        }
    }
}
