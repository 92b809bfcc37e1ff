//! The transport of a node, and what the network keeps from it for a while: what comes from nodes that it cannot hear.
//!
//! Like frames that a kernel sends again until they arrive, what was kept comes in its order when the nodes hear each other again, ends
//! of links too. What a node does to its own links it knows at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use epicserver_transport::{
    Addr, BufferPool, Caps, DownReason, Event, FaultPlan, Faulty, Frame, LinkId, LoopbackTransport, Transport,
};

/// See the module's documentation.
pub(crate) struct Wire {
    transport: Faulty<LoopbackTransport>,
    /// Nodes of which nothing comes here.
    unheard: BTreeSet<Addr>,
    peers: BTreeMap<LinkId, Addr>,
    /// What came of nodes that are not heard.
    kept: VecDeque<Event>,
    /// What is to be handed out next.
    ready: VecDeque<Event>,
}

impl Wire {
    pub(crate) fn new(transport: Faulty<LoopbackTransport>) -> Self {
        let (unheard, peers) = (BTreeSet::new(), BTreeMap::new());
        Self { transport, unheard, peers, kept: VecDeque::new(), ready: VecDeque::new() }
    }

    /// Of these nodes nothing comes here from now on, and of all others whatever was kept.
    pub(crate) fn set_unheard(&mut self, unheard: BTreeSet<Addr>) {
        self.unheard = unheard;
        for event in std::mem::take(&mut self.kept) {
            let queue = if self.is_unheard(&event) { &mut self.kept } else { &mut self.ready };
            queue.push_back(event);
        }
    }

    pub(crate) fn set_plan(&mut self, plan: FaultPlan) {
        self.transport.set_plan(plan);
    }

    pub(crate) fn caps(&self) -> &Caps {
        self.transport.caps()
    }

    pub(crate) fn pool(&self) -> &BufferPool {
        self.transport.pool()
    }

    pub(crate) fn connect(&mut self, addr: &Addr, now: u64) -> std::io::Result<LinkId> {
        self.transport.connect(addr, now)
    }

    pub(crate) fn send(&mut self, link: LinkId, frames: &mut VecDeque<Frame>) {
        // A link that takes nothing any more says so by its last event.
        let _ = self.transport.send(link, frames);
    }

    pub(crate) fn flush(&mut self) {
        self.transport.flush();
    }

    pub(crate) fn close(&mut self, link: LinkId) {
        let is_end = |event: &Event| matches!(event, Event::LinkDown { link: ended, .. } if *ended == link);
        let has_ended = self.kept.iter().any(is_end) || self.ready.iter().any(is_end);
        self.forget(link);
        if has_ended {
            self.ready.push_back(Event::LinkDown { link, reason: DownReason::ClosedHere });
        } else {
            self.transport.close(link);
        }
    }

    pub(crate) fn fail_link(&mut self, link: LinkId) {
        self.transport.fail_link(link);
    }

    pub(crate) fn poll(&mut self, now: u64, events: &mut Vec<Event>) {
        let mut fresh = Vec::new();
        self.transport.poll(now, &mut fresh);
        for event in fresh {
            if let Event::LinkUp { link, peer, .. } = &event {
                self.peers.insert(*link, peer.clone());
            }
            if is_made_here(&event) {
                self.forget(event.link());
                self.ready.push_back(event);
            } else if self.is_unheard(&event) {
                self.kept.push_back(event);
            } else {
                self.ready.push_back(event);
            }
        }
        for event in self.ready.drain(..) {
            if let Event::LinkDown { link, .. } = &event {
                self.peers.remove(link);
            }
            events.push(event);
        }
    }

    pub(crate) fn arm(&mut self) -> bool {
        self.ready.is_empty() && self.transport.arm()
    }

    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        self.transport.poll_timeout()
    }

    fn is_unheard(&self, event: &Event) -> bool {
        self.peers.get(&event.link()).is_some_and(|peer| self.unheard.contains(peer))
    }

    fn forget(&mut self, link: LinkId) {
        self.kept.retain(|event| event.link() != link);
        self.ready.retain(|event| event.link() != link);
    }
}

/// Whether it is the end of a link that this node knows of without the network.
fn is_made_here(event: &Event) -> bool {
    matches!(event, Event::LinkDown { reason: DownReason::ClosedHere | DownReason::Failed(_), .. })
}

#[cfg(test)]
mod tests {
    use epicserver_transport::{FrameHeader, FrameKind, HEADER_LEN, LoopbackNetwork, LoopbackOptions};

    use super::*;

    /// Two ends with one link that is up.
    struct Pair {
        a: Wire,
        b: Wire,
        at_a: LinkId,
        at_b: LinkId,
    }

    impl Pair {
        fn new() -> Self {
            let network = LoopbackNetwork::new();
            let bind = |name| {
                let transport = network.bind(name, LoopbackOptions::plain()).expect("the name is free");
                Wire::new(Faulty::new(transport, FaultPlan::calm(0)))
            };
            let (mut a, mut b) = (bind("a"), bind("b"));
            let at_a = a.connect(&Addr::new("b"), 0).expect("there is room");
            let [Event::LinkUp { link: at_b, .. }] = poll(&mut b)[..] else { panic!("it is not up") };
            assert_eq!(poll(&mut a).len(), 1);
            Self { a, b, at_a, at_b }
        }

        fn send(&mut self, count: usize) {
            let mut bytes = [0; HEADER_LEN];
            assert!(FrameHeader::new(FrameKind::OneWay).write_to(&mut bytes));
            let mut frames = (0..count).map(|_| Frame::copy_from(&bytes)).collect();
            self.a.send(self.at_a, &mut frames);
            self.a.flush();
        }
    }

    fn poll(wire: &mut Wire) -> Vec<Event> {
        let mut events = Vec::new();
        wire.poll(0, &mut events);
        events
    }

    #[test]
    fn what_is_not_heard_comes_in_its_order_when_it_is_heard_again() {
        let mut pair = Pair::new();
        pair.b.set_unheard(BTreeSet::from([Addr::new("a")]));
        pair.send(2);
        pair.a.close(pair.at_a);
        assert_eq!(poll(&mut pair.b), []);
        assert_eq!(poll(&mut pair.a).len(), 1, "who closes a link knows it at once");
        pair.b.set_unheard(BTreeSet::new());
        let events = poll(&mut pair.b);
        assert!(matches!(
            events[..],
            [
                Event::Receive { .. },
                Event::Receive { .. },
                Event::LinkDown { reason: DownReason::ClosedByPeer, .. }
            ]
        ));
    }

    #[test]
    fn nothing_comes_of_a_link_that_was_closed_here_in_the_meantime() {
        for peer_has_closed in [false, true] {
            let mut pair = Pair::new();
            pair.b.set_unheard(BTreeSet::from([Addr::new("a")]));
            pair.send(2);
            if peer_has_closed {
                pair.a.close(pair.at_a);
            }
            assert_eq!(poll(&mut pair.b), []);
            pair.b.close(pair.at_b);
            let end = Event::LinkDown { link: pair.at_b, reason: DownReason::ClosedHere };
            assert_eq!(poll(&mut pair.b), [end], "{peer_has_closed}");
            pair.b.set_unheard(BTreeSet::new());
            assert_eq!(poll(&mut pair.b), []);
        }
    }
}
