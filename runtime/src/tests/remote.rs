//! Calls between nodes: cores, fabrics and links together, in one thread and in virtual time.

mod at_once;
mod faults;
mod frames;
mod gate;
mod handles;
mod lent;
mod motion;
mod moved;
mod moves;
mod probes;
mod threads;
mod ways;
pub(crate) mod world;

use std::time::Duration;

use epicserver_transport::{FrameKind, LoopbackOptions};

use crate::context;
use crate::core::{Core, CoreConfig};
use crate::error::{CallError, Executed, Loss, Rejection};
pub(crate) use gate::{Ledger, Put};
use world::{Add, Blow, Chain, Echo, Fan, Nap, Note, Notes, Options, World, post};

fn strict() -> Options {
    Options { loopback: LoopbackOptions::strict(), ..Options::default() }
}

#[test]
fn a_call_runs_on_the_other_node_and_brings_the_result() {
    for options in [Options::default(), strict()] {
        let mut world = World::with(2, options);
        let key = world.key_on(1, 0);
        assert_eq!(world.call(0, async move { post(key).call(Add { by: 2 }).await }), Ok(2));
        assert_eq!(world.call(0, async move { post(key).call(Add { by: 3 }).await }), Ok(5));
        assert_eq!(world.call(1, async move { post(key).call(Add { by: 1 }).await }), Ok(6));
        let there = world.process(1).cores[0].activations();
        assert_eq!((world.process(0).cores[0].activations(), there), (0, 1));
        assert_eq!(world.process(0).cores[0].counters().remote_calls, 2);
        let came = [0, 1].map(|at| world.process(at).cores[0].counters().calls_from_nodes);
        assert_eq!(came, [0, 2]);
        world.end();
    }
}

#[test]
fn nodes_of_two_cores_reach_every_object_and_use_every_core() {
    for nodes in [2, 3] {
        let mut world = World::with(nodes, Options { cores: 2, ..strict() });
        for from in 0..nodes {
            for key in 0..60u64 {
                let result = world.call(from, async move { post(key).call(Add { by: 1 }).await });
                assert_eq!(result, Ok(from as u64 + 1));
            }
        }
        let per_core: Vec<usize> = (0..nodes)
            .flat_map(|node| world.process(node).cores.iter().map(Core::activations).collect::<Vec<_>>())
            .collect();
        assert_eq!(per_core.iter().sum::<usize>(), 60);
        assert!(per_core.iter().all(|count| *count > 0), "{per_core:?}");
        world.end();
    }
}

#[test]
fn calls_of_one_caller_to_one_object_start_in_their_order() {
    let mut world = World::with(2, strict());
    let key = world.key_on(1, 0);
    let sent = world.call(0, async move {
        let mut sent = 0;
        for number in 0..500 {
            sent += u64::from(post(key).call(Note { number }).send().is_ok());
            if number % 50 == 7 {
                sent += u64::from(post(key).call(Note { number: 1_000 + number }).await.is_ok());
            }
        }
        sent
    });
    assert_eq!(sent, 510);
    let expected: Vec<u64> = (0..500)
        .flat_map(|number| [Some(number), (number % 50 == 7).then_some(1_000 + number)])
        .flatten()
        .collect();
    assert_eq!(world.call(0, async move { post(key).call(Notes {}).await }), Ok(expected));
    world.end();
}

#[test]
fn a_chain_over_nodes_that_comes_back_exclusive_is_a_deadlock_at_once() {
    let mut world = World::new(3);
    let (a, b, c) = (world.key_on(0, 0), world.key_on(1, 0), world.key_on(2, 0));
    let before = world.now;
    assert_eq!(world.call(0, async move { post(a).call(Chain { path: vec![b, c, a] }).await }), Ok(1_002));
    assert!(world.now - before < 100_000_000, "not by a timeout: {}", world.now - before);
    // Without a return to an ancestor the same nodes are passed twice.
    let (a2, b2) = (world.key_on(0, 1), world.key_on(1, 1));
    assert_eq!(world.call(0, async move { post(a).call(Chain { path: vec![b, a2, b2] }).await }), Ok(3));
    world.end();
}

#[test]
fn a_path_of_32_ancestors_travels_and_the_next_level_is_too_deep() {
    let mut world = World::new(2);
    let path = |world: &World, depth: usize| -> Vec<u64> {
        (0..depth).map(|at| world.key_on(at % 2, at / 2)).collect()
    };
    let mut fits = path(&world, 32);
    let first = fits.remove(0);
    assert_eq!(world.call(1, async move { post(first).call(Chain { path: fits }).await }), Ok(31));
    let mut deep = path(&world, 33);
    let first = deep.remove(0);
    let result = world.call(1, async move { post(first).call(Chain { path: deep }).await });
    let Err(CallError::Panicked(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("nested"), "{text}");
    world.end();
}

#[test]
fn the_budget_travels_and_queued_work_that_is_late_is_not_run() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    world.call(0, async move { post(key).call(Add { by: 1 }).await.ok() });
    let within = Duration::from_millis(20);
    // The object is held by a chain that waits for a nap elsewhere; the late call must not run after it.
    let mut late = world.start(0, async move { post(key).call(Nap { ms: 50 }).within(within).await });
    world.pass_ms(30);
    assert_eq!(late.result(), Some(Err(CallError::OutcomeUnknown(Loss::Timeout))));
    world.pass_ms(60);
    // Its caller was gone, so the shared method was stopped at its await and did not count.
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 0 }).await }), Ok(1));
    world.end();
}

#[test]
fn a_dropped_call_is_cancelled_on_the_other_node() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    world.call(0, async move {
        let mut call = Box::pin(post(key).call(Nap { ms: 500 }));
        let mut polls = 0;
        std::future::poll_fn(|context| {
            polls += 1;
            let _ = std::future::Future::poll(call.as_mut(), context);
            std::task::Poll::Ready(())
        })
        .await;
        context::sleep(Duration::from_millis(20)).await;
        drop(call);
    });
    world.pass_ms(5);
    assert_eq!(world.process(1).came.iter().filter(|kind| **kind == FrameKind::Cancel).count(), 1);
    assert!(world.process(1).cores[0].is_quiet(), "the method was stopped long before its nap was over");
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 0 }).await }), Ok(0));
    world.end();
}

#[test]
fn ten_thousand_calls_pass_through_small_windows() {
    let core = CoreConfig { window_max: 16, ..CoreConfig::default() };
    let mut world = World::with(2, Options { core, ..strict() });
    let keys: Vec<u64> = (0..50).map(|nth| world.key_on(1, nth)).collect();
    let mut fans: Vec<_> = (0..50)
        .map(|nth| {
            let (from, keys) = (world.key_on(0, nth), keys.clone());
            let within = Duration::from_secs(100);
            world.start(0, async move { post(from).call(Fan { keys, rounds: 4 }).within(within).await })
        })
        .collect();
    world.pass_ms(100);
    for fan in &mut fans {
        assert_eq!(fan.result(), Some(Ok(200)));
    }
    let key = keys[7];
    assert_eq!(world.call(1, async move { post(key).call(Add { by: 0 }).await }), Ok(200));
    world.end();
}

#[test]
fn a_megabyte_goes_there_and_back_in_pieces() {
    for options in [Options::default(), strict()] {
        let mut world = World::with(2, options);
        let key = world.key_on(1, 0);
        let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| ((at * 31) >> 3) as u8).collect();
        let expected = bytes.clone();
        let back = world.call(0, async move { post(key).call(Echo { bytes }).await });
        assert!(back == Ok(expected));
        world.end();
    }
}

#[test]
fn what_is_too_large_is_said_and_says_whether_it_ran() {
    let core = CoreConfig { message_len_max: 1 << 20, ..CoreConfig::default() };
    let mut world = World::with(2, Options { core, ..Options::default() });
    let key = world.key_on(1, 0);
    let bytes = vec![1; (1 << 20) + 1];
    let request = world.call(0, async move { post(key).call(Echo { bytes }).await });
    let refused = request.unwrap_err();
    assert!(matches!(refused, CallError::Rejected(Rejection::TooLarge(_))), "{refused:?}");
    assert!(refused.to_string().ends_with(" bytes, at most 1048576"), "{refused}");
    assert_eq!(world.process(1).cores[0].activations(), 0);
    let reply = world.call(0, async move { post(key).call(Blow { len: (1 << 20) + 1 }).await });
    let error = reply.unwrap_err();
    assert_eq!((error.executed(), error.retry_safe()), (Executed::Yes, false), "{error}");
    assert!(error.to_string().contains("too large: the result of test.Post.Blow: 10"), "{error}");
    assert!(error.to_string().ends_with(" bytes, at most 1048576"), "{error}");
    world.end();
}
