//! Objects that are no longer where the caller's view says.

use std::time::Duration;

use epicserver_transport::FrameKind;

use super::world::{Add, Note, Notes, Options, World, post};
use crate::core::CoreConfig;
use crate::error::{CallError, Loss, Rejection};
use crate::key::StoredKey;

/// Calls that are under way when their object moves are sent again in the order they were made in, and new ones wait
/// for them.
#[test]
fn calls_follow_an_object_that_moved_and_keep_their_order() {
    for window_max in [4, 64] {
        let core = CoreConfig { window_max, ..CoreConfig::default() };
        let mut world = World::with(3, Options { core, ..Options::default() });
        let key = world.key_on(1, 0);
        world.call(0, async move { post(key).call(Note { number: 999 }).await.unwrap() });
        world.show(1, key, 2, 2);
        world.show(2, key, 2, 2);
        let mut notes: Vec<_> = (0..40)
            .map(|number| {
                let note = world.start(0, async move { post(key).call(Note { number }).await });
                if number % 7 == 0 {
                    world.pass();
                }
                note
            })
            .collect();
        world.settle();
        assert!(notes.iter_mut().all(|note| note.result() == Some(Ok(()))));
        let there = world.call(0, async move { post(key).call(Notes {}).await });
        assert_eq!(there, Ok((0..40).collect()), "window {window_max}");
        // What was learnt holds: nothing more goes to the old owner.
        let came = world.process(1).came.len();
        world.call(0, async move { post(key).call(Add { by: 1 }).await.unwrap() });
        assert_eq!(world.process(1).came.len(), came);
        assert!(world.process(0).came.contains(&FrameKind::Moved));
        world.end();
    }
}

#[test]
fn a_call_is_sent_after_its_object_three_times_and_no_more() {
    let mut world = World::new(3);
    let key = world.key_on(1, 0);
    world.show(1, key, 2, 4);
    world.show(2, key, 1, 4);
    let result = world.call(0, async move { post(key).call(Add { by: 1 }).await });
    assert_eq!(result, Err(CallError::Rejected(Rejection::Moving)));
    let moved = world.process(0).came.iter().filter(|kind| **kind == FrameKind::Moved).count();
    assert_eq!(moved, 4);
    // When the owner knows that it is one, the next call runs.
    world.show(2, key, 2, 5);
    let result = world.call(0, async move { post(key).call(Add { by: 1 }).await });
    assert_eq!(result, Ok(1));
    world.end();
}

#[test]
fn a_call_that_is_ahead_of_its_owners_view_waits_for_it() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    world.show(0, key, 1, 2);
    let within = Duration::from_millis(50);
    let mut late = world.start(0, async move { post(key).call(Add { by: 10 }).within(within).await });
    world.pass_ms(60);
    assert_eq!(late.result(), Some(Err(CallError::OutcomeUnknown(Loss::Timeout))));
    let mut early = world.start(0, async move { post(key).call(Add { by: 1 }).await });
    world.pass_ms(60);
    assert_eq!(early.result(), None);
    world.show(1, key, 1, 2);
    world.settle();
    assert_eq!(early.result(), Some(Ok(1)));
    world.end();
}

#[test]
fn a_view_that_catches_up_ends_what_was_known_beyond_it() {
    let mut world = World::new(3);
    let key = world.key_on(1, 0);
    world.show(1, key, 2, 2);
    world.show(2, key, 2, 2);
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(1));
    for node in 0..3 {
        world.show(node, key, 0, 3);
    }
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(1));
    assert_eq!(world.process(0).cores[0].activations(), 1);
    world.end();
}

/// A call is on its way to another core of its node when the object leaves the node: the core that made it sends it on.
#[test]
fn a_call_between_cores_whose_object_leaves_the_node_is_sent_by_its_own_core() {
    for is_dropped in [false, true] {
        let mut world = World::with(2, Options { cores: 2, ..Options::default() });
        let on_core_1 = |key: &u64| key.canonical(|key| key.partition()) % 2 == 1;
        let key = (0..).map(|nth| world.key_on(0, nth)).find(on_core_1).unwrap();
        let within = Duration::from_millis(if is_dropped { 1 } else { 5_000 });
        let mut call = world.start(0, async move { post(key).call(Add { by: 1 }).within(within).await });
        world.pass();
        world.show(1, key, 1, 2);
        world.show(0, key, 1, 2);
        if is_dropped {
            world.now += 2_000_000;
        }
        world.settle();
        let expected = if is_dropped { Err(()) } else { Ok(1) };
        assert_eq!(call.result().unwrap().map_err(drop), expected);
        assert_eq!(world.process(1).cores[1].activations(), usize::from(!is_dropped));
        let sent: Vec<u64> = world.process(0).cores.iter().map(|core| core.counters().remote_calls).collect();
        assert_eq!(sent, [u64::from(!is_dropped), 0], "only the core that made the call sends it");
        world.end();
    }
}
