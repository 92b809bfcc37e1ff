//! Links that break, peers that never come, die and come back: every call ends once, and truly.

use std::time::Duration;

use epicserver_transport::{FaultPlan, LoopbackOptions};

use super::world::{Add, Nap, Note, Notes, Options, Started, World, post};
use crate::error::{CallError, Executed, Loss};

#[test]
fn calls_to_a_node_that_was_never_up_were_not_sent() {
    let mut world = World::down(2, Options::default());
    world.boot(0);
    let key = world.key_on(1, 0);
    let result = world.call(0, async move { post(key).call(Add { by: 1 }).await });
    assert_eq!(result, Err(CallError::NotSent));
    // When it is up at last, calls reach it.
    world.boot(1);
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(1));
    world.end();
}

#[test]
fn calls_that_wait_for_the_first_link_are_sent_when_it_is_there() {
    for first in [0, 1] {
        let mut world = World::down(2, Options::default());
        world.boot(first);
        let key = world.key_on(1 - first, 0);
        let mut early = world.start(first, async move { post(key).call(Add { by: 1 }).await });
        world.pass_ms(1_000);
        assert_eq!(early.result(), None);
        world.boot(1 - first);
        world.pass_ms(1_500);
        assert_eq!(early.result(), Some(Ok(1)));
        world.end();
    }
}

#[test]
fn a_peer_that_comes_back_as_another_process_has_lost_what_it_was_asked() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    let other = world.key_on(0, 0);
    // Calls in both directions are under way when node 1 dies.
    let mut lost = world.start(0, async move { post(key).call(Nap { ms: 5_000 }).await });
    let _orphan = world.start(1, async move { post(other).call(Nap { ms: 5_000 }).await });
    world.pass_ms(50);
    assert_eq!(world.process(0).cores[0].counters().calls, 1);
    world.kill(1);
    world.pass_ms(10);
    assert_eq!(lost.result(), None, "it may come back");
    world.boot(1);
    world.pass_ms(1_500);
    assert_eq!(lost.result(), Some(Err(CallError::OutcomeUnknown(Loss::OwnerLost))));
    assert!(world.process(0).cores[0].is_quiet(), "nobody waits for what the dead process asked");
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(1));
    assert_eq!(world.call(1, async move { post(other).call(Add { by: 1 }).await }), Ok(1));
    world.end();
}

#[test]
fn a_peer_that_stays_away_leaves_an_unknown_outcome() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    let mut lost = world.start(0, async move { post(key).call(Nap { ms: 20_000 }).await });
    world.pass_ms(50);
    world.kill(1);
    world.pass_ms(4_000);
    assert_eq!(lost.result(), Some(Err(CallError::OutcomeUnknown(Loss::LinkLost))));
    world.end();
}

/// Links break all the time under calls that change an object. Each call runs at most once, and its caller is told the
/// truth: what was answered ran, what is said not to have run did not.
#[test]
fn links_that_break_and_mend_run_no_call_twice() {
    for (seed, options) in (0..12).flat_map(|seed| {
        [LoopbackOptions::plain(), LoopbackOptions::strict()].map(|loopback| (seed, loopback))
    }) {
        let plan = FaultPlan { fail_link_ppm: 6_000, ..FaultPlan::legal(seed) };
        let mut world = World::with(2, Options { loopback: options, plan, ..Options::default() });
        let key = world.key_on(1, 0);
        let mut calls: Vec<(u64, Started<_>)> = Vec::new();
        for number in 0..300u64 {
            let within = Duration::from_secs(60);
            calls.push((
                number,
                world.start(0, async move { post(key).call(Note { number }).within(within).await }),
            ));
            if number % 10 == 0 {
                world.pass_ms(1);
            }
        }
        world.pass_ms(8_000);
        let ends: Vec<(u64, Result<(), CallError>)> = calls
            .iter_mut()
            .map(|(number, call)| {
                (*number, call.result().unwrap_or_else(|| panic!("seed {seed}: {number} hangs")))
            })
            .collect();
        let notes = world.process(1).cores[0].activations();
        assert_eq!(notes, 1);
        let ran = world.call(1, async move { post(key).call(Notes {}).await }).unwrap();
        let mut sorted = ran.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ran.len(), "seed {seed}: a call ran twice");
        assert_eq!(sorted, ran, "seed {seed}: the order of the caller holds");
        for (number, end) in &ends {
            let did_run = sorted.binary_search(number).is_ok();
            match end {
                Ok(()) => assert!(did_run, "seed {seed}: {number} was answered"),
                Err(error) if error.executed() == Executed::No => {
                    assert!(!did_run, "seed {seed}: {number} ran although {error}");
                }
                Err(_) => {}
            }
        }
        let answered = ends.iter().filter(|(_, end)| end.is_ok()).count();
        assert!(answered > 100, "seed {seed}: only {answered} of {} were answered", ends.len());
        world.end();
    }
}

#[test]
fn a_link_that_is_cut_once_costs_no_call_that_had_not_arrived() {
    let mut world = World::new(2);
    let key = world.key_on(1, 0);
    world.call(0, async move { post(key).call(Add { by: 1 }).await.unwrap() });
    // Sent into a link that is gone already: it never arrived, so it is sent again.
    world.cut(0);
    let result = world.call(0, async move { post(key).call(Add { by: 1 }).await });
    assert_eq!(result, Ok(2));
    world.end();
}
