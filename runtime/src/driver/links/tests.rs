//! Who sends what a core has for another node.

use epicserver_transport::{FrameHeader, FrameKind, LoopbackNetwork, LoopbackOptions};

use super::*;
use crate::driver::engine::Seat;
use crate::wire::assembly::assemble_bare;

/// A core's way to links whose thread sleeps with this parker, and the peer.
fn asleep() -> (RingLinks, LentEngine, Parker, NodeId) {
    let network = LoopbackNetwork::new();
    // The first one dials, which is not this one.
    let nodes = ["node-0", "node-1"].map(Addr::new);
    let transport = network.bind("node-1", LoopbackOptions::plain()).expect("the name is free");
    let peer = FixedMembers::new(&nodes, &nodes[0]).expect("two nodes").me(0);
    let links = LinksConfig {
        transport: Box::new(transport),
        nodes: nodes.to_vec(),
        own: None,
        cluster: 1,
        secret: [2; 32],
    };
    let prepared = links.prepare(1).expect("it is on the list");
    let mut parker = prepared.parker();
    let (port, mut core) = rings(0, &Parker::new().unparker(), &parker.unparker());
    let mut engine = prepared.engine(Clock::start(), vec![port], None);
    while engine.pass(1) || !engine.is_settled() {}
    parker.prepare();
    assert!(engine.may_sleep());
    engine.begin_sleep(1, SLEEP_NS, Sitter::Driver);
    let lent = Arc::new(Mutex::new(Some(engine)));
    core.lent = Some(lent.clone());
    (core, lent, parker, peer)
}

fn request(slot: u32) -> Frame {
    let mut header = FrameHeader::new(FrameKind::Request);
    header.slot.set(slot);
    assemble_bare(None, header, &[])
}

/// Frames that the core left and nobody has taken.
fn left_in_ring(lent: &LentEngine) -> bool {
    let mut held = lock(lent);
    !held.as_mut().expect("it is there").may_sleep()
}

#[test]
fn a_core_sends_by_itself_while_the_link_thread_sleeps() {
    let (mut core, lent, mut parker, peer) = asleep();
    core.send(PeerFrame::new(peer, request(1)));
    core.flush(2);
    assert!(!left_in_ring(&lent) && !parker.cancel(), "the thread was woken for that");
}

#[test]
fn a_link_thread_that_is_awake_or_has_much_to_send_is_told() {
    let (mut core, lent, mut parker, peer) = asleep();
    let held = lock(&lent);
    core.send(PeerFrame::new(peer, request(1)));
    core.flush(2);
    drop(held);
    assert!(left_in_ring(&lent) && parker.cancel(), "nobody sends it");

    let (mut core, lent, mut parker, peer) = asleep();
    (0..=FRAMES_SERVED_MAX as u32).for_each(|slot| core.send(PeerFrame::new(peer, request(slot))));
    core.flush(2);
    assert!(left_in_ring(&lent) && parker.cancel(), "the core has sent more than a few");
}

#[test]
fn a_link_thread_that_has_to_do_something_sooner_is_woken_for_that() {
    let (mut core, lent, mut parker, peer) = asleep();
    // It was to sleep as long as nothing waits for a link; now it is to give up what waits.
    lock(&lent).as_mut().expect("it is there").begin_sleep(1, u64::MAX - 1, Sitter::Driver);
    core.send(PeerFrame::new(peer, request(1)));
    core.flush(2);
    assert!(!left_in_ring(&lent) && parker.cancel(), "it sleeps past what it is to do");
}

/// The core of a node, its parker, and a link thread that runs; and what raises the transport.
struct Turns {
    core: RingLinks,
    parker: Parker,
    lent: LentEngine,
    waker: Arc<dyn epicserver_transport::Wake>,
    clock: Clock,
    _thread: LinkThreadHandle,
}

impl Turns {
    fn start() -> Self {
        let transport = LoopbackNetwork::new().bind("node-0", LoopbackOptions::plain()).expect("it is free");
        let waker = transport.waker();
        let links = LinksConfig {
            transport: Box::new(transport),
            nodes: vec![Addr::new("node-0")],
            own: None,
            cluster: 1,
            secret: [2; 32],
        };
        let prepared = links.prepare(1).expect("it is on the list");
        assert!(prepared.takes_turns());
        let (parker, link_parker) = (prepared.parker_of_two(), prepared.parker_of_two());
        let clock = Clock::start();
        let started = prepared.start_dedicated(link_parker, &[parker.unparker()], clock, (0, false), None);
        let StartedLinks { thread: Some(thread), mut cores } = started.expect("threads can be started")
        else {
            panic!("it has a thread of its own");
        };
        let Some(CoreLinks::Rings(core)) = cores.pop() else { panic!("the core has rings") };
        let lent = core.lent.clone().expect("the transport can sleep apart");
        Self { core, parker, lent, waker, clock, _thread: thread }
    }

    fn seat<T>(lent: &LentEngine, look: impl FnOnce(&Seat) -> T) -> T {
        look(&lock(lent).as_ref().expect("it is there").seat)
    }

    /// Until the seat is like this.
    fn wait_for(&self, is_so: impl Fn(&Seat) -> bool) {
        while !Self::seat(&self.lent, &is_so) {
            std::thread::yield_now();
        }
    }

    /// Has the core sleep until the seat was like this; then something is done that ends its sleep. Where the thread has the seat it is
    /// woken, so that it leaves it.
    fn sleep_until(&mut self, is_so: impl Fn(&Seat) -> bool + Send, act: impl FnOnce() + Send) {
        let (lent, waker, unparker) = (self.lent.clone(), self.waker.clone(), self.parker.unparker());
        let is_over = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !Self::seat(&lent, &is_so) {
                    if Self::seat(&lent, |seat| seat.taken == Some(Sitter::Driver)) {
                        waker.wake();
                        // It could not ask for the seat while the engine was looked at here.
                        unparker.unpark_if_parked();
                    }
                    std::thread::yield_now();
                }
                is_over.store(true, Ordering::SeqCst);
                act();
            });
            while !is_over.load(Ordering::SeqCst) {
                self.parker.prepare();
                self.core.sleep(&mut self.parker, self.clock, self.clock.now(), u64::MAX);
            }
        });
    }
}

#[test]
fn a_core_that_has_nothing_to_do_sleeps_where_the_link_thread_did() {
    let mut turns = Turns::start();
    turns.wait_for(|seat| seat.taken == Some(Sitter::Driver));
    for _ in 0..3 {
        let waker = turns.waker.clone();
        // Beside a core that sleeps for long the thread does so too; what comes wakes the core, and that the thread.
        let is_so = |seat: &Seat| seat.taken == Some(Sitter::Core) && !seat.watched;
        turns.sleep_until(is_so, move || waker.wake());
        assert!(Turns::seat(&turns.lent, |seat| seat.watched));
    }
    // It does not come back.
    turns.wait_for(|seat| seat.taken == Some(Sitter::Driver));
}

#[test]
fn a_core_that_sleeps_in_the_transport_is_woken_by_others() {
    let mut turns = Turns::start();
    for _ in 0..3 {
        let unparker = turns.parker.unparker();
        // Not only if it is asleep: it may have been woken since by what brought it here.
        turns.sleep_until(|seat| seat.taken == Some(Sitter::Core), move || unparker.unpark());
    }
}
