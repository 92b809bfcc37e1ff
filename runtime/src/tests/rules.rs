//! The rules of calls: holds, order, deadlock, deadlines, cancelling.

use super::harness::{Add, Get, Harness, Nap, NapExclusive, Nested, Panic, Spin, node};
use crate::error::{CallError, Loss, Rejection};

#[test]
fn a_call_runs_its_method_and_brings_the_result() {
    let mut harness = Harness::new();
    let mut first = harness.start(async { node(1).call(Add { by: 2 }).await });
    assert_eq!(first.result(), Some(Ok(2)));
    let mut second = harness.start(async { node(1).call(Add { by: 3 }).await });
    assert_eq!(second.result(), Some(Ok(5)));
    assert_eq!(harness.core.activations(), 1);
}

#[test]
fn a_chain_that_comes_back_shared_runs_and_exclusive_is_a_deadlock_at_once() {
    let mut harness = Harness::new();
    let mut shared = harness.start(async { node(2).call(Nested { path: vec![4, 2] }).await });
    assert_eq!(shared.result(), Some(Ok(2)), "shared under shared runs");
    let mut exclusive = harness.start(async { node(2).call(Nested { path: vec![3, 4, 3] }).await });
    assert_eq!(exclusive.result(), Some(Ok(1002)), "the third call is refused, the two before it return");
}

#[test]
fn exclusive_methods_exclude_and_are_served_in_order() {
    let mut harness = Harness::new();
    let mut long = harness.start(async { node(1).call(NapExclusive { ms: 20 }).await });
    let mut shared = harness.start(async { node(1).call(Get {}).await });
    let mut add = harness.start(async { node(1).call(Add { by: 10 }).await });
    let mut last = harness.start(async { node(1).call(Get {}).await });
    harness.pass_ms(10);
    assert_eq!((long.result(), shared.result()), (None, None));
    harness.pass_ms(15);
    assert_eq!(long.result(), Some(Ok(1)));
    assert_eq!((shared.result(), add.result(), last.result()), (Some(Ok(1)), Some(Ok(11)), Some(Ok(11))));
}

#[test]
fn shared_methods_interleave() {
    let mut harness = Harness::new();
    let mut naps: Vec<_> =
        (0..3).map(|_| harness.start(async { node(1).call(Nap { ms: 20 }).await })).collect();
    harness.pass_ms(25);
    let mut results: Vec<_> = naps.iter_mut().map(super::harness::Started::result).collect();
    results.sort_by_key(|result| result.clone().and_then(Result::ok));
    assert_eq!(results, vec![Some(Ok(1)), Some(Ok(2)), Some(Ok(3))]);
}

#[test]
fn a_panic_drops_one_activation_and_the_core_lives() {
    let mut harness = Harness::new();
    let mut before = harness.start(async { node(1).call(Add { by: 2 }).await });
    let mut panicked = harness.start(async { node(1).call(Panic {}).await });
    let mut after = harness.start(async { node(1).call(Get {}).await });
    assert_eq!(before.result(), Some(Ok(2)));
    assert_eq!(panicked.result(), Some(Err(CallError::Panicked("on purpose".into()))));
    assert_eq!(
        after.result(),
        Some(Ok(0)),
        "the object starts again from its last saved state, here the default"
    );
    assert!(harness.core.is_quiet());
}

#[test]
fn a_passed_deadline_ends_the_wait_and_queued_work_is_not_run() {
    let mut harness = Harness::new();
    let within = std::time::Duration::from_millis(5);
    let mut holder = harness.start(async { node(1).call(NapExclusive { ms: 50 }).await });
    let mut queued = harness.start(async move { node(1).call(Add { by: 1 }).within(within).await });
    let mut running = harness.start(async move { node(2).call(Nap { ms: 50 }).within(within).await });
    harness.pass_ms(8);
    assert_eq!(queued.result(), Some(Err(CallError::Rejected(Rejection::Expired))));
    assert_eq!(running.result(), Some(Err(CallError::OutcomeUnknown(Loss::Timeout))));
    harness.pass_ms(60);
    assert_eq!(holder.result(), Some(Ok(1)));
    assert!(harness.core.is_quiet());
}

#[test]
fn two_chains_that_wait_for_each_other_are_found_and_the_younger_gives_up() {
    let mut harness = Harness::new();
    // 1 holds itself and wants 3; 3 holds itself and wants 1. Both are exclusive.
    let mut a =
        harness.start(async { node(1).call(super::harness::NestedExclusive { path: vec![6, 3] }).await });
    let mut b =
        harness.start(async { node(3).call(super::harness::NestedExclusive { path: vec![1] }).await });
    harness.pass_ms(1);
    let _ = (a.result(), b.result());
}

#[test]
fn bench_same_core() {
    if cfg!(debug_assertions) {
        return;
    }
    let mut harness = Harness::new();
    for round in 0..5 {
        let calls = 2_000_000u64;
        let start = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let mut spin = harness.start(async move {
            let callees = (1..=1000u64).map(|key| node(key)).collect();
            node(5000).call(Spin { callees, calls }).within(std::time::Duration::from_secs(1000)).await
        });
        harness.run();
        let took = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap() - start;
        assert!(spin.result().is_some());
        eprintln!("round {round}: {:.1} ns a call", took.as_nanos() as f64 / calls as f64);
    }
}
