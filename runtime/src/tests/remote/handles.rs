//! Requests to an object that was called before name it by a handle, and never another object.

use std::time::Duration;

use epicserver_transport::{Frame, FrameHeader, FrameKind, LoopbackOptions};

use super::world::{Add, Nap, Note, Notes, Options, World, post};
use crate::entity::method_id;
use crate::error::CallError;
use crate::session::intern::HANDLES_MAX;
use crate::wire::assembly::assemble;
use crate::wire::extension::{Extension, ViewStamp};

fn add(world: &mut World, key: u64) -> Result<u64, CallError> {
    world.call(0, async move { post(key).call(Add { by: 1 }).await })
}

#[test]
fn the_second_request_to_an_object_has_no_key_in_its_frame() {
    for loopback in [LoopbackOptions::plain(), LoopbackOptions::strict()] {
        let mut world = World::with(2, Options { loopback, ..Options::default() });
        let (one, other) = (world.key_on(1, 0), world.key_on(1, 1));
        for expected in 1..=3 {
            assert_eq!(add(&mut world, one), Ok(expected));
            assert_eq!(add(&mut world, other), Ok(expected));
        }
        let sent = world.call(0, async move { post(one).call(Note { number: 5 }).send() });
        assert_eq!(sent, Ok(()));
        world.settle();
        let named = &world.process(1).named;
        let first = [(1, true), (2, true)];
        let later = [(1, false), (2, false), (1, false), (2, false), (1, false)];
        assert_eq!(named[..], [&first[..], &later[..]].concat());
        assert_eq!(world.call(1, async move { post(one).call(Notes {}).await }), Ok(vec![5]));
        world.end();
    }
}

#[test]
fn requests_that_leave_together_carry_the_key_until_one_is_answered() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    let mut calls: Vec<_> =
        (0..3).map(|_| world.start(0, async move { post(key).call(Add { by: 1 }).await })).collect();
    world.settle();
    assert!(calls.iter_mut().all(|call| matches!(call.result(), Some(Ok(_)))));
    assert_eq!(add(&mut world, key), Ok(4));
    assert_eq!(world.process(1).named, [(1, true), (1, true), (1, true), (1, false)]);
    world.end();
}

#[test]
fn after_a_reconnect_the_key_is_sent_again() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    assert_eq!((add(&mut world, key), add(&mut world, key)), (Ok(1), Ok(2)));
    world.cut(0);
    world.settle();
    // One waits for the link, and one goes over the new link behind it.
    assert_eq!((add(&mut world, key), add(&mut world, key)), (Ok(3), Ok(4)));
    assert_eq!(world.process(1).named[2..], [(1, true), (1, false)]);
    world.end();
}

#[test]
fn what_is_sent_again_carries_its_key() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    assert_eq!((add(&mut world, key), add(&mut world, key)), (Ok(1), Ok(2)));
    // The link is gone, and nobody knows yet: the request leaves with its handle alone, into nothing.
    world.cut(0);
    assert_eq!(add(&mut world, key), Ok(3));
    assert_eq!(world.process(1).named[2..], [(0, true)], "in full, and it binds nothing");
    assert_eq!((add(&mut world, key), add(&mut world, key)), (Ok(4), Ok(5)));
    assert_eq!(world.process(1).named[3..], [(1, true), (1, false)]);
    world.end();
}

#[test]
fn a_peer_in_a_new_life_is_told_the_key_again() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    assert_eq!((add(&mut world, key), add(&mut world, key)), (Ok(1), Ok(2)));
    world.kill(1);
    world.settle();
    // It waits for a link, and is given up with the old life's session.
    let late = world.call(0, async move { post(key).call(Nap { ms: 1 }).await });
    assert_eq!(late, Err(CallError::NotSent));
    world.boot(1);
    world.pass_ms(1_500);
    assert_eq!((add(&mut world, key), add(&mut world, key)), (Ok(1), Ok(2)));
    assert_eq!(world.process(1).named, [(1, true), (1, false)]);
    world.end();
}

#[test]
fn a_full_table_falls_back_to_keys() {
    let mut world = World::new(2);
    let keys: Vec<u64> = (0..HANDLES_MAX + 1).map(|nth| nth as u64).collect();
    let (id, key) = (world.id(1), world.key_on(1, 0));
    world.process(0).cores[0].state().fill_handles(id, &keys);
    assert_eq!((add(&mut world, key), add(&mut world, key)), (Ok(1), Ok(2)));
    assert_eq!(world.process(1).named, [(0, true), (0, true)]);
    world.end();
}

/// A request that names its object by this handle alone.
fn short(handle: u32) -> Frame {
    let mut header = FrameHeader::new(FrameKind::Request);
    header.slot.set(900);
    header.handle.set(handle);
    header.method.set(method_id("Add"));
    header.layout.set(1);
    let extension = Extension {
        budget_us: Some(1_000_000),
        view: Some(ViewStamp { version: 1, epoch: 1 }),
        ..Extension::default()
    };
    assemble(None, header, &extension, &[2, 0, 0, 0, 0, 0, 0, 0]).unwrap()
}

#[test]
fn a_handle_that_was_never_bound_ends_the_link_and_runs_nothing() {
    for handle in [2, 3, HANDLES_MAX as u32, HANDLES_MAX as u32 + 1, u32::MAX] {
        let mut world = World::new(2);
        let key = world.key_on(1, 0);
        assert_eq!(add(&mut world, key), Ok(1));
        // Past the session of the sender, which would not take it.
        world.inject(0, short(handle));
        world.settle();
        assert_eq!(world.process(1).cores[0].counters().calls, 1, "handle {handle}");
        world.pass_ms(100);
        assert_eq!(add(&mut world, key), Ok(2), "a new link works");
        world.end();
    }
}

#[test]
fn the_session_of_the_sender_takes_no_handle_that_it_does_not_know() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    assert_eq!(add(&mut world, key), Ok(1));
    world.send_raw(0, 1, short(7));
    world.settle();
    assert_eq!(world.process(1).cores[0].counters().calls, 1);
    // The core is told, and binds anew.
    assert_eq!(add(&mut world, key), Ok(2));
    assert_eq!(world.process(1).named, [(1, true), (1, true)]);
    world.end();
}

/// Links break under calls to many objects: each call adds to the object it was made for.
#[test]
fn handles_survive_links_that_break_all_the_time() {
    let plan =
        epicserver_transport::FaultPlan { fail_link_ppm: 4_000, ..epicserver_transport::FaultPlan::legal(3) };
    let mut world = World::with(2, Options { plan, cores: 2, ..Options::default() });
    let keys: Vec<u64> = (0..8).map(|nth| world.key_on(1, nth)).collect();
    let mut calls = Vec::new();
    for round in 0..40u64 {
        for key in keys.clone() {
            let within = Duration::from_secs(60);
            let number = key << 32 | round;
            calls.push(
                world.start(0, async move { post(key).call(Note { number }).within(within).await.is_ok() }),
            );
        }
        world.pass_ms(3);
    }
    world.pass_ms(8_000);
    let answered = calls.iter_mut().filter_map(super::world::Started::result).filter(|good| *good).count();
    assert!(answered > 100, "{answered}");
    for key in keys {
        let notes = world.call(1, async move { post(key).call(Notes {}).await }).unwrap();
        assert!(notes.iter().all(|number| number >> 32 == key), "{key}: {notes:?}");
    }
    let short = world.process(1).named.iter().filter(|(_, has_key)| !has_key).count();
    assert!(short > 100, "handles are in use: {short}");
    world.end();
}

/// As after an eviction: the sessions of both are new, and what the cores knew of the old ones stands for nothing.
#[test]
fn nodes_that_part_and_meet_again_call_known_objects_by_their_keys() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    assert_eq!((add(&mut world, key), add(&mut world, key)), (Ok(1), Ok(2)));
    let (ids, now) = ([world.id(0).id, world.id(1).id], world.now);
    world.process(0).fabric.part_and_meet(now, ids[1], "b");
    world.process(1).fabric.part_and_meet(now, ids[0], "a");
    world.pass_ms(3_000);
    assert_eq!([add(&mut world, key), add(&mut world, key)], [Ok(3), Ok(4)]);
    world.end();
}
