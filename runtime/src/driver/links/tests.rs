//! Who sends what a core has for another node.

use epicserver_transport::{FrameHeader, FrameKind, LoopbackNetwork, LoopbackOptions};

use super::*;
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
    engine.begin_sleep(1, SLEEP_NS);
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
    lock(&lent).as_mut().expect("it is there").begin_sleep(1, u64::MAX - 1);
    core.send(PeerFrame::new(peer, request(1)));
    core.flush(2);
    assert!(!left_in_ring(&lent) && parker.cancel(), "it sleeps past what it is to do");
}
