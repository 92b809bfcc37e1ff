//! The order of a core's calls while their object changes its owner, as its view says.

use std::time::Duration;

use epicserver_transport::FrameKind;

use super::world::{Add, Linger, Nap, Note, Notes, Options, Started, World, post};
use crate::error::{CallError, Loss, Rejection};
use crate::key::StoredKey;

const LOST: CallError = CallError::OutcomeUnknown(Loss::OwnerLost);

type Outcome = Result<(), CallError>;

fn note(world: &mut World, key: u64, number: u64) -> Started<Outcome> {
    world.start(0, async move { post(key).call(Note { number }).await })
}

/// A call that runs and one that waits behind it, where the object is before it moves.
fn busy(world: &mut World, key: u64) -> (Started<Result<u64, CallError>>, Started<Outcome>) {
    let long = world.start(0, async move { post(key).call(Linger { ms: 5_000, path: Vec::new() }).await });
    let queued = note(world, key, 1);
    world.settle();
    (long, queued)
}

fn notes(world: &mut World, key: u64) -> Vec<u64> {
    world.call(0, async move { post(key).call(Notes {}).await }).expect("the object answers")
}

/// The caller's node learns of the new owner before the old one does, which still has an earlier call.
#[test]
fn a_call_by_a_new_view_waits_for_those_that_the_old_owner_has() {
    for new_owner in [2, 0] {
        let mut world = World::new(3);
        let key = world.key_on(1, 0);
        let (mut long, mut queued) = busy(&mut world, key);
        world.show(2, key, new_owner, 2);
        world.show(0, key, new_owner, 2);
        let mut later = note(&mut world, key, 2);
        world.pass_ms(10);
        assert_eq!((queued.result(), later.result()), (None, None));
        world.show(1, key, new_owner, 2);
        world.settle();
        assert_eq!(long.result(), Some(Err(LOST)));
        assert_eq!((queued.result(), later.result()), (Some(Ok(())), Some(Ok(()))));
        assert_eq!(notes(&mut world, key), [1, 2], "at node {new_owner}");
        world.end();
    }
}

/// The old owner is killed: its calls end with it, and those that were held go on.
#[test]
fn calls_that_wait_for_an_owner_that_dies_go_on() {
    let mut world = World::new(3);
    let key = world.key_on(1, 0);
    let (mut long, mut queued) = busy(&mut world, key);
    world.show(2, key, 2, 2);
    world.show(0, key, 2, 2);
    let mut later = note(&mut world, key, 2);
    world.settle();
    world.kill(1);
    world.boot(1);
    world.pass_ms(2_000);
    assert_eq!((long.result(), queued.result()), (Some(Err(LOST)), Some(Err(LOST))));
    assert_eq!(later.result(), Some(Ok(())));
    assert_eq!(notes(&mut world, key), [2]);
    world.end();
}

/// A call that followed its object by a `Moved` is where the view says it belongs when that catches up.
#[test]
fn a_view_that_says_what_is_known_holds_nothing_back() {
    let mut world = World::new(3);
    let key = world.key_on(1, 0);
    world.show(1, key, 2, 2);
    world.show(2, key, 2, 2);
    let mut long = world.start(0, async move { post(key).call(Nap { ms: 1_000 }).await });
    world.settle();
    world.show(0, key, 2, 2);
    let mut short = world.start(0, async move { post(key).call(Nap { ms: 5 }).await });
    world.pass_ms(10);
    assert_eq!((long.result(), short.result()), (None, Some(Ok(1))));
    world.pass_ms(1_000);
    assert_eq!(long.result(), Some(Ok(2)));
    world.end();
}

/// The old owner says that the object is here, and this node's view does not say so yet.
#[test]
fn calls_that_are_moved_to_their_own_node_wait_for_its_view() {
    for comes in [true, false] {
        let mut world = World::new(2);
        let key = world.key_on(1, 0);
        world.show(1, key, 0, 2);
        let within = Duration::from_millis(50);
        let mut calls = [1, 2].map(|number| {
            world.start(0, async move { post(key).call(Note { number }).within(within).await })
        });
        world.pass_ms(20);
        assert!(calls.iter_mut().all(|call| call.result().is_none()));
        if comes {
            world.show(0, key, 0, 2);
        }
        world.pass_ms(100);
        let expected = if comes { Ok(()) } else { Err(CallError::Rejected(Rejection::Expired)) };
        assert!(calls.iter_mut().all(|call| call.result().as_ref() == Some(&expected)));
        if !comes {
            world.show(0, key, 0, 2);
        }
        assert_eq!(notes(&mut world, key), if comes { vec![1, 2] } else { vec![] });
        world.end();
    }
}

fn two_cores() -> (World, u64) {
    let world = World::with(2, Options { cores: 2, ..Options::default() });
    let on_core_1 = |key: &u64| key.canonical(|key| key.partition()) % 2 == 1;
    let key = (0..).map(|nth| world.key_on(0, nth)).find(on_core_1).unwrap();
    (world, key)
}

/// The core of the caller learns that the object left the node before the core that has it does.
#[test]
fn a_call_to_another_node_waits_for_those_that_another_core_has() {
    let (mut world, key) = two_cores();
    let (mut long, mut queued) = busy(&mut world, key);
    world.show(1, key, 1, 2);
    world.make_view(0, key, 1, 2, None);
    world.show_core(0, 0);
    // Also one by a reference that remembers the core.
    let mut later = note(&mut world, key, 2);
    let mut hinted = world.start(0, async move { post(key).hinted(1).call(Note { number: 3 }).await });
    world.pass_ms(10);
    assert_eq!((queued.result(), later.result(), hinted.result()), (None, None, None));
    assert!(!world.process(1).came.contains(&FrameKind::Request));
    world.show_core(0, 1);
    world.settle();
    assert_eq!(long.result(), Some(Err(LOST)));
    assert_eq!([queued.result(), later.result(), hinted.result()], [const { Some(Ok(())) }; 3]);
    assert_eq!(notes(&mut world, key), [1, 2, 3]);
    world.end();
}

/// The core that had the object is the first to know, and its calls are still on their way there.
#[test]
fn calls_on_their_way_to_a_core_that_lost_their_object_come_back_in_order() {
    let (mut world, key) = two_cores();
    world.call(0, async move { post(key).call(Add { by: 1 }).await.unwrap() });
    world.show(1, key, 1, 2);
    world.make_view(0, key, 1, 2, None);
    let mut early: Vec<_> = (0..5).map(|number| note(&mut world, key, number)).collect();
    world.show_core(0, 1);
    // To and fro, until the caller's core knows better.
    for _ in 0..20 {
        world.pass();
    }
    world.show_core(0, 0);
    early.extend((5..10).map(|number| note(&mut world, key, number)));
    world.settle();
    assert!(early.iter_mut().all(|note| note.result() == Some(Ok(()))));
    assert_eq!(notes(&mut world, key), (0..10).collect::<Vec<_>>());
    world.end();
}

/// An object of the same core that calls one that arrives does not find it before its turn, in memory or not.
#[test]
fn calls_within_a_core_wait_for_those_that_are_still_elsewhere() {
    let mut world = World::new(2);
    let (key, caller) = (world.key_on(1, 0), world.key_on(0, 0));
    let (mut long, mut queued) = busy(&mut world, key);
    world.show(0, key, 0, 2);
    // A call of another node brings the object into memory.
    world.show(1, key, 0, 2);
    let mut stranger = world.start(1, async move { post(key).call(Note { number: 9 }).await });
    let mut chained =
        world.start(0, async move { post(caller).call(Linger { ms: 0, path: vec![key] }).await });
    let mut later = note(&mut world, key, 2);
    world.pass_ms(5);
    assert_eq!(long.result(), Some(Err(LOST)));
    assert_eq!(chained.result(), Some(Ok(1)));
    let all = [queued.result(), stranger.result(), later.result()];
    assert_eq!(all, [const { Some(Ok(())) }; 3]);
    let notes: Vec<u64> = notes(&mut world, key).into_iter().filter(|number| *number != 9).collect();
    assert_eq!(notes, [1, 2]);
    world.end();
}

/// The epoch rises and the owner stays: what the owner had in memory is not to be served any more.
#[test]
fn an_epoch_that_rises_under_the_same_owner_ends_its_activations() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    world.call(0, async move { post(key).call(Add { by: 5 }).await.unwrap() });
    let (mut long, mut queued) = busy(&mut world, key);
    world.show(1, key, 1, 2);
    world.settle();
    assert_eq!(long.result(), Some(Err(LOST)));
    assert_eq!(queued.result(), Some(Ok(())));
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(1));
    world.end();
}
