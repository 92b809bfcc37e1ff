//! Links begin, end, and stay apart.

use super::Fixture;
use super::world::{End, World};
use crate::link::{Direction, DownReason};
use crate::transport::SendError;
use std::collections::BTreeSet;

pub(super) fn comes_up_on_both_sides(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    let b_addr = world.b.addr();
    assert_eq!(world.a.seen(pair.at_a).up, Some((Direction::Outgoing, b_addr)));
    let (direction, peer) = world.b.seen(pair.at_b).up.clone().expect("up");
    assert_eq!(direction, Direction::Incoming);
    assert!(!peer.as_str().is_empty(), "a peer without a name");
    assert_ne!(world.a.addr(), world.b.addr());
}

pub(super) fn both_sides_may_begin(fixture: &mut dyn Fixture) {
    let (mut world, from_a) = World::linked(fixture);
    std::mem::swap(&mut world.a, &mut world.b);
    let from_b = world.connect();
    world.transfer(from_b, 10, |_| 64);
    std::mem::swap(&mut world.a, &mut world.b);
    world.transfer(from_a, 10, |_| 64);
}

pub(super) fn vacant_address_refuses(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    let refused = world.a.connect(&fixture.vacant_addr(), world.now);
    world.until("refused", |world| world.a.down(refused).is_some());
    assert_eq!(world.a.down(refused), Some(DownReason::Refused));
    assert_eq!(world.a.seen(refused).up, None);
    world.transfer(pair, 10, |_| 64);
}

pub(super) fn close_is_seen_by_the_peer(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    world.b.transport.close(pair.at_b);
    world.b.transport.close(pair.at_b);
    world.until("down on both sides", |world| {
        world.a.down(pair.at_a).is_some() && world.b.down(pair.at_b).is_some()
    });
    assert_eq!(world.a.down(pair.at_a), Some(DownReason::ClosedByPeer));
    assert_eq!(world.b.down(pair.at_b), Some(DownReason::ClosedHere));
    for (end, link) in [(&mut world.a, pair.at_a), (&mut world.b, pair.at_b)] {
        let mut frames = end.frames(0..3, |_| 64);
        assert_eq!(end.transport.send(link, &mut frames), Err(SendError::NoSuchLink));
        assert_eq!(frames.len(), 3, "frames of a link that is down come back");
        end.transport.close(link);
    }
    // Nothing more happens on either; the world would object.
    (0..50).for_each(|_| world.pass());
}

pub(super) fn frames_before_close_arrive(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    world.transfer(pair, 3, |_| 64);
    world.transfer_back(pair, 3, |_| 64);
    // The closing side has something unread: that must not take back what it said.
    let mut unread = world.b.frames(0..1, |_| 4096);
    world.b.transport.send(pair.at_b, &mut unread).expect("taken");
    world.b.transport.flush();
    let mut last_words = world.a.frames(0..20, |number| 32 + number as usize * 16);
    world.until("all taken", |world| {
        world.a.transport.send(pair.at_a, &mut last_words).expect("taken");
        last_words.is_empty()
    });
    world.a.transport.close(pair.at_a);
    world.until("down at the peer", |world| world.b.down(pair.at_b).is_some());
    assert_eq!(world.b.down(pair.at_b), Some(DownReason::ClosedByPeer));
    assert_eq!(world.b.seen(pair.at_b).received.len(), 20);
}

pub(super) fn both_may_close_at_once(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    world.a.transport.close(pair.at_a);
    world.b.transport.close(pair.at_b);
    world.until("down on both sides", |world| {
        world.a.down(pair.at_a).is_some() && world.b.down(pair.at_b).is_some()
    });
    assert_eq!(world.a.down(pair.at_a), Some(DownReason::ClosedHere));
    assert_eq!(world.b.down(pair.at_b), Some(DownReason::ClosedHere));
    let again = world.connect();
    world.transfer(again, 10, |_| 64);
}

pub(super) fn close_before_up(fixture: &mut dyn Fixture) {
    let mut world = World::new(fixture);
    let b_addr = world.b.addr();
    let early = world.a.connect(&b_addr, world.now);
    let mut frames = world.a.frames(0..1, |_| 64);
    assert_eq!(world.a.transport.send(early, &mut frames), Ok(()));
    assert_eq!(frames.len(), 1, "a frame was taken before the link was up");
    world.a.transport.close(early);
    world.until("closed", |world| world.a.down(early).is_some());
    assert_eq!(world.a.down(early), Some(DownReason::ClosedHere));
    assert_eq!(world.a.seen(early).up, None);
    // The peer may have seen it come up, and then sees it end. Another link works.
    world.until("ended at the peer too", |world| world.b.links.values().all(|seen| seen.down.is_some()));
    let pair = world.connect();
    world.transfer(pair, 10, |_| 64);
}

pub(super) fn dropped_transport_ends_links(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    let b_addr = world.b.addr();
    world.b = End::new(fixture.transport());
    world.until("down", |world| world.a.down(pair.at_a).is_some());
    assert_eq!(world.a.down(pair.at_a), Some(DownReason::ClosedByPeer));
    let refused = world.a.connect(&b_addr, world.now);
    world.until("refused", |world| world.a.down(refused).is_some());
    let again = world.connect();
    world.transfer(again, 10, |_| 64);
}

pub(super) fn ids_are_never_used_again(fixture: &mut dyn Fixture) {
    let mut world = World::new(fixture);
    let mut ids = BTreeSet::new();
    for _ in 0..40 {
        let pair = world.connect();
        assert!(ids.insert((0, pair.at_a)) && ids.insert((1, pair.at_b)));
        world.transfer(pair, 2, |_| 64);
        world.a.transport.close(pair.at_a);
        world.until("down on both sides", |world| {
            world.a.down(pair.at_a).is_some() && world.b.down(pair.at_b).is_some()
        });
    }
}

pub(super) fn bound_on_links_holds(fixture: &mut dyn Fixture) {
    let mut world = World::new(fixture);
    let links_max = world.a.transport.caps().links_max;
    let b_addr = world.b.addr();
    for _ in 0..links_max {
        world.a.connect(&b_addr, world.now);
    }
    let beyond = world.a.transport.connect(&b_addr, world.now);
    assert!(beyond.is_err(), "more than {links_max} links");
    world.until("all are decided", |world| {
        world.a.links.values().all(|seen| seen.up.is_some() || seen.down.is_some())
    });
    let up: Vec<_> = world.a.links.keys().copied().filter(|link| world.a.is_up(*link)).collect();
    assert_eq!(up.len(), links_max);
    world.a.transport.close(up[0]);
    world.until("one is closed", |world| world.a.down(up[0]).is_some());
    let mut made = None;
    world.until("there is room again", |world| {
        made = world.a.transport.connect(&b_addr, world.now).ok();
        made.is_some()
    });
}

pub(super) fn links_do_not_mix(fixture: &mut dyn Fixture) {
    let (mut world, first) = World::linked(fixture);
    let second = world.connect();
    for round in 0..4 {
        let mut to_first = world.a.frames(round..round + 1, |_| 64);
        let mut to_second = world.a.frames(100 + round..101 + round, |_| 128);
        world.until("both taken", |world| {
            world.a.transport.send(first.at_a, &mut to_first).expect("taken");
            world.a.transport.send(second.at_a, &mut to_second).expect("taken");
            to_first.is_empty() && to_second.is_empty()
        });
        let arrived = round as usize + 1;
        world.until("both arrived", |world| {
            let first_len = world.b.seen(first.at_b).received.len();
            first_len == arrived && world.b.seen(second.at_b).received.len() == arrived
        });
    }
    assert!(world.b.seen(first.at_b).received.iter().all(|frame| frame.len() == 64));
    assert!(world.b.seen(second.at_b).received.iter().all(|frame| frame.len() == 128));
    world.b.seen(second.at_b).received.clear();
    world.b.transport.close(first.at_b);
    world.transfer(second, 50, |_| 256);
    world.until("the peer hears of the close", |world| world.a.down(first.at_a).is_some());
    assert_eq!(world.a.down(first.at_a), Some(DownReason::ClosedByPeer));
    assert!(world.a.is_up(second.at_a) && world.b.is_up(second.at_b));
}
