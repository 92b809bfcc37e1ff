//! Nobody waits for ever: turns are dealt out, and what is beyond a bound is refused and leaves nothing behind.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::cluster::Cluster;
use super::thing::{exclusive, never, shared};
use crate::context::sleep;
use crate::core::{CoreConfig, Event, IN_PLACE_MAX};
use crate::error::{CallError, Rejection};

#[test]
fn with_a_thousand_busy_objects_a_new_call_is_answered_within_a_bounded_number_of_turns() {
    const BUSY: u64 = 1_000;
    /// The caller's, its calls in place, and one that goes the long way.
    const TURNS_EACH: u64 = IN_PLACE_MAX as u64 + 2;
    let mut cluster = Cluster::new(1);
    let stop = Rc::new(Cell::new(false));
    for key in 0..BUSY {
        let stop = stop.clone();
        let busy = shared(async move |_| {
            while !stop.get() {
                never(BUSY + key).call(shared(async |_| 1)).await.expect("served");
            }
            0
        });
        let _ = cluster.start_later(0, never(key).call(busy));
    }
    cluster.step(0, Event::Turns(20_000));
    let before = cluster.cores[0].counters().turns;
    let mut fresh = cluster.start_later(0, never(5_000).call(shared(async |_| 7)));
    let mut answer = None;
    while answer.is_none() {
        cluster.step(0, Event::Turns(100));
        answer = fresh.result();
        let turns = cluster.cores[0].counters().turns - before;
        // Its task has a turn, and its call has one: before each of them everybody else has one, with all that may run in it.
        assert!(turns <= 2 * BUSY * TURNS_EACH + 100, "not answered after {turns} turns");
    }
    assert_eq!(answer, Some(Ok(7)));
    stop.set(true);
}

#[test]
fn more_waiting_calls_than_allowed_are_refused_and_leave_nothing() {
    for cores in [1, 2] {
        let mut cluster = Cluster::with(cores, CoreConfig { waiting_max: 3, ..CoreConfig::default() });
        let key = cluster.key_on(cores - 1, 0);
        let mut holder = cluster.start(
            0,
            never(key).call(exclusive(async |_| {
                sleep(Duration::from_millis(5)).await;
                0
            })),
        );
        let mut results: Vec<_> = (0..5)
            .map(|_| cluster.start(0, never(key).call(exclusive(async |thing| thing.tick()))))
            .collect();
        cluster.pass_ms(10);
        assert_eq!(holder.result(), Some(Ok(0)));
        let results: Vec<_> = results.iter_mut().map(|result| result.result().expect("ended")).collect();
        let refused = || Err(CallError::Rejected(Rejection::Overloaded));
        assert_eq!(results, [Ok(1), Ok(2), Ok(3), refused(), refused()]);
        assert!(cluster.cores.iter().all(crate::core::Core::is_quiet));
    }
}

#[test]
fn more_calls_than_allowed_are_refused_and_leave_nothing() {
    let mut cluster = Cluster::with(1, CoreConfig { calls_max: 8, ..CoreConfig::default() });
    let mut outer = cluster.start(
        0,
        never(1).call(shared(async |_| {
            let mut refused = 0;
            for key in 0..20 {
                let nap = shared(async |_| {
                    sleep(Duration::from_millis(5)).await;
                    0
                });
                match never(100 + key).call(nap).send() {
                    Ok(()) => {}
                    Err(CallError::Rejected(Rejection::Overloaded)) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(crate::context::spawn(async {}).is_err(), "spawned futures count as well");
            let call = never(2).call(shared(async |_| 0)).await;
            assert_eq!(call, Err(CallError::Rejected(Rejection::Overloaded)));
            refused
        })),
    );
    assert_eq!(outer.result(), Some(Ok(14)), "the caller's task, its call, and six more");
    cluster.pass_ms(10);
    assert!(cluster.cores[0].is_quiet());
    let mut after = cluster.start(0, never(2).call(shared(async |_| 3)));
    assert_eq!(after.result(), Some(Ok(3)));
}
