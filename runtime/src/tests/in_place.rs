//! Calls that run inside their caller's poll: when they may, and that nothing on the stack is touched by what they do.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::cluster::{ByHand, Cluster};
use super::thing::{
    Bomb, DURABLE, NEVER, Never, Shared, Thing, durable, exclusive, never, note, notes, serial, shared,
};
use crate::context::{forget, sleep, spawn, this};
use crate::core::IN_PLACE_MAX;
use crate::error::CallError;

const MS: Duration = Duration::from_millis(1);

/// One poll, as `select!` or a hand-written future may do it: what is ready then ran inside it.
fn poll_once<F: Future>(call: F) -> Option<F::Output> {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn get<const POLICY: u8>() -> Shared<POLICY> {
    shared(async |thing: &Thing<POLICY>| thing.count.get())
}

fn tick<const POLICY: u8>() -> Shared<POLICY> {
    shared(async |thing: &Thing<POLICY>| thing.tick())
}

/// A core with these objects in memory, and the result of a call whose body this is.
fn on_core<F>(keys: impl IntoIterator<Item = u64>, body: F) -> Option<Result<u64, CallError>>
where
    F: for<'a> AsyncFnOnce(&'a Never) -> u64 + 'static,
{
    let mut cluster = Cluster::new(1);
    for key in keys {
        cluster.start(0, never(key).call(get())).result().expect("ended").expect("a count");
        cluster.start(0, durable(key).call(get())).result().expect("ended").expect("a count");
    }
    let mut caller = cluster.start(0, never(0).call(shared(body)));
    cluster.pass_ms(100);
    assert_eq!(cluster.live(), 0, "a slot was lost");
    caller.result()
}

#[test]
fn a_free_callee_answers_within_the_poll_that_calls_it() {
    let result = on_core(0..3, async |_| {
        assert_eq!(poll_once(never(1).call(tick())), Some(Ok(1)));
        assert_eq!(poll_once(never(2).call(exclusive(async |thing| thing.tick() + 10))), Some(Ok(11)));
        assert_eq!(poll_once(durable(1).call(tick())), Some(Ok(1)));
        never(1).call(get()).await.expect("a count")
    });
    assert_eq!(result, Some(Ok(1)));
}

#[test]
fn one_that_is_held_or_not_in_memory_or_serial_goes_the_long_way() {
    let result = on_core(0..3, async |_| {
        let holds = shared(async |_: &Never| {
            sleep(5 * MS).await;
            1
        });
        let mut held = pin!(never(1).call(holds));
        assert!(held.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(poll_once(never(1).call(get())), None, "it is held");
        sleep(MS).await;
        assert_eq!(poll_once(never(77).call(get())), None, "it is not in memory");
        sleep(MS).await;
        assert_eq!(poll_once(never(2).call(serial(async |_| 1))), None, "serial calls look for each other");
        sleep(MS).await;
        assert_eq!(poll_once(never(0).call(get())), None, "the caller holds it itself");
        held.await.expect("a value")
    });
    assert_eq!(result, Some(Ok(1)));
}

#[test]
fn nothing_overtakes_a_call_that_waits_for_dispatch() {
    let result = on_core(0..3, async |_| {
        let first = shared(async |_: &Never| {
            note("first");
            0
        });
        never(77).call(first).send().expect("room");
        let second = shared(async |_: &Never| {
            note("second");
            0
        });
        let second = never(1).call(second);
        second.await.expect("a value")
    });
    assert_eq!((result, notes()), (Some(Ok(0)), vec!["first".to_owned(), "second".to_owned()]));
}

#[test]
fn a_field_closure_never_meets_its_own_field_again() {
    let result = on_core(0..3, async |thing| {
        let polled = thing.count.modify(|count| {
            *count += 1;
            // Both come back to this very object, one by a detour.
            let detour = shared(async |_: &Never| poll_once(never(0).call(tick())).map_or(5, |_| 6));
            let straight = poll_once(never(0).call(tick()));
            (straight, poll_once(never(1).call(detour)))
        });
        assert_eq!(polled, (None, None), "the change of this turn is to be saved first");
        let detour = shared(async |_: &Never| poll_once(never(0).call(tick())).map_or(5, |_| 6));
        sleep(MS).await;
        let read = thing.count.with(|_| poll_once(never(1).call(detour)));
        assert_eq!(read, Some(Ok(5)), "the detour runs, and the way back waits");
        thing.count.get()
    });
    assert_eq!(result, Some(Ok(1)));
}

#[test]
fn a_turn_that_changed_its_object_is_saved_before_the_callee_runs() {
    let mut cluster = Cluster::new(1);
    for key in [1, 2] {
        cluster.start(0, durable(key).call(get())).result().expect("ended").expect("a count");
    }
    let caller = shared(async |thing: &Thing<DURABLE>| {
        thing.tick();
        assert_eq!(poll_once(durable(2).call(get())), None);
        durable(2).call(get()).await.expect("a count")
    });
    let mut call = cluster.start(0, durable(1).call(caller));
    cluster.settle();
    assert_eq!((call.result(), cluster.saved_count::<Thing<DURABLE>>(1)), (Some(Ok(0)), Some(1)));
}

#[test]
fn what_a_callee_changed_counts_for_its_caller() {
    let mut cluster = Cluster::new(1);
    cluster.start(0, durable(1).call(get())).result().expect("ended").expect("a count");
    cluster.settle();
    let calls = shared(async |_: &Never| {
        assert_eq!(poll_once(durable(1).call(tick())), Some(Ok(1)));
        7
    });
    let mut outside = ByHand::start(cluster.outside::<NEVER>(0, 0).call(calls));
    cluster.run();
    assert_eq!(outside.result(), None, "the callee's change is not saved yet");
    cluster.settle();
    assert_eq!(outside.result(), Some(Ok(7)));
}

#[test]
fn a_panic_is_the_callees_alone() {
    let result = on_core(0..3, async |thing| {
        let panics = exclusive(async |other: &mut Never| -> u64 {
            other.tick();
            panic!("on purpose")
        });
        let error = poll_once(never(1).call(panics)).expect("at once").expect_err("it panicked");
        assert_eq!(error, CallError::Panicked("on purpose".to_owned()));
        // The turn is this one's again.
        thing.tick();
        assert!(this::<Never>().call(get()).await.expect("shared under shared") == 1);
        never(1).call(get()).await.expect("a count")
    });
    assert_eq!(result, Some(Ok(0)), "the callee starts again from nothing");
}

#[test]
fn destructors_of_the_callee_may_panic() {
    let result = on_core(0..3, async |_| {
        let bomb = Bomb { name: "argument", panics: true };
        let call = never(1).call(shared(async move |_: &Never| {
            let _bomb = &bomb;
            1
        }));
        match poll_once(call) {
            Some(Err(CallError::Panicked(_))) => 5,
            other => panic!("{other:?}"),
        }
    });
    assert_eq!((result, notes()), (Some(Ok(5)), vec!["argument dropped".to_owned()]));
}

#[test]
fn a_spawned_task_that_ends_its_own_object_ends_after_its_poll() {
    let result = on_core(0..3, async |_| {
        let spawns = shared(async |_: &Never| {
            let object = this::<Never>();
            spawn(async move {
                let _bomb = Bomb { name: "task", panics: false };
                // When the object's method has ended.
                sleep(MS).await;
                let panics = exclusive(async |_: &mut Never| -> u64 { panic!("on purpose") });
                let detour = shared(async move |_: &Never| {
                    // Two polls up the stack is the task that belongs to this object.
                    poll_once(object.call(panics)).expect("at once").expect_err("it panicked");
                    1
                });
                assert_eq!(poll_once(never(2).call(detour)), Some(Ok(1)));
                note("still there");
                sleep(MS).await;
                note("not reached");
            })
            .expect("room");
            0
        });
        never(1).call(spawns).await.expect("a value");
        sleep(10 * MS).await;
        3
    });
    assert_eq!((result, notes()), (Some(Ok(3)), vec!["still there".to_owned(), "task dropped".to_owned()]));
}

#[test]
fn polls_nest_to_a_bound_and_calls_beyond_it_still_run() {
    fn chain(key: u64) -> Shared<NEVER> {
        shared(async move |_: &Never| {
            let within = poll_once(never(key + 1).call(chain(key + 1)));
            within.map_or(0, |deeper| deeper.expect("a depth") + 1)
        })
    }
    fn whole(key: u64) -> Shared<NEVER> {
        shared(async move |_: &Never| match key {
            20 => 1,
            _ => never(key + 1).call(whole(key + 1)).await.expect("a depth") + 1,
        })
    }
    let result = on_core(0..25, async |_| {
        let nested = poll_once(never(1).call(chain(1))).expect("at once").expect("a depth");
        assert_eq!(nested, 7);
        sleep(MS).await;
        never(1).call(whole(1)).await.expect("a depth")
    });
    assert_eq!(result, Some(Ok(20)));
}

#[test]
fn a_turn_answers_so_many_calls_itself_and_then_others_run() {
    let result = on_core(0..3, async |_| {
        sleep(MS).await;
        let mut within = 0;
        while poll_once(never(1).call(get())).is_some() {
            within += 1;
        }
        within
    });
    assert_eq!(result, Some(Ok(u64::from(IN_PLACE_MAX))));
}

#[test]
fn a_callee_that_waits_goes_on_in_its_own_turns() {
    let result = on_core(0..3, async |_| {
        let waits = exclusive(async |thing: &mut Never| {
            sleep(2 * MS).await;
            thing.tick()
        });
        let first = never(1).call(waits).await.expect("a count");
        let cancelled = exclusive(async |thing: &mut Never| {
            thing.tick();
            crate::context::cancelled().await;
            note("told");
            thing.tick()
        });
        assert_eq!(poll_once(never(1).call(cancelled)), None);
        sleep(MS).await;
        first + never(1).call(get()).await.expect("a count")
    });
    assert_eq!((result, notes()), (Some(Ok(1 + 3)), vec!["told".to_owned()]));
}

#[test]
fn the_turn_is_the_callers_again_after_a_call() {
    let result = on_core(0..3, async |_| {
        let forgets = exclusive(async |thing: &mut Never| {
            thing.tick();
            forget();
            thing.count.get()
        });
        assert_eq!(poll_once(never(1).call(forgets)), Some(Ok(1)));
        let key = this::<Never>().key();
        key + poll_once(never(1).call(get())).expect("at once").expect("a count")
    });
    assert_eq!(result, Some(Ok(0)));
}
