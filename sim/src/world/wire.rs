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
