//! Objects come and go: hooks, idling, and what user code's panics do to an object and to nobody else.

use std::time::Duration;

use super::cluster::{ByHand, Cluster};
use super::log::lines_of;
use super::thing::{
    Bomb, DURABLE, HOOKED, NEVER, PANIC_IN_DEFAULT, PANIC_IN_STATE_DROP, Shared, Thing, durable, exclusive,
    hooked, never, note, notes, self_calling, set_on_activate, set_on_drop, shared,
};
use crate::context::{sleep, spawn};
use crate::core::CoreConfig;
use crate::error::{CallError, Executed, Loss};

const MS: Duration = Duration::from_millis(1);

fn get<const POLICY: u8>() -> Shared<POLICY> {
    shared(async |thing: &Thing<POLICY>| {
        note("call");
        thing.count.get()
    })
}

fn idle(cluster: &mut Cluster) {
    cluster.settle();
    cluster.leap_ms(16 * 60_000);
    cluster.pass_ms(50);
    cluster.settle();
}

fn owner_lost() -> Option<Result<u64, CallError>> {
    Some(Err(CallError::OutcomeUnknown(Loss::OwnerLost)))
}

#[test]
fn on_activate_ends_before_the_first_call_begins_and_what_it_changed_is_saved() {
    set_on_activate(|thing| {
        Box::pin(async {
            note("hook+");
            sleep(2 * MS).await;
            *thing.count.get_mut() += 10;
            note("hook-");
            0
        })
    });
    let mut cluster = Cluster::new(1);
    let mut calls = [0, 1].map(|_| cluster.start(0, hooked(1).call(get())));
    cluster.pass_ms(1);
    assert_eq!(notes(), ["hook+"]);
    cluster.pass_ms(2);
    assert_eq!(notes(), ["hook-", "call", "call"]);
    assert!(calls.iter_mut().all(|call| call.result() == Some(Ok(10))));
    cluster.settle();
    assert_eq!(cluster.saved_count::<Thing<HOOKED>>(1), Some(10));
}

#[test]
fn on_drop_runs_before_an_object_idles_and_calls_meanwhile_go_to_the_next_activation() {
    set_on_drop(|thing| {
        Box::pin(async {
            note("hook+");
            sleep(20 * MS).await;
            *thing.count.get_mut() += 1;
            note("hook-");
            0
        })
    });
    let mut cluster = Cluster::with(1, CoreConfig { idle_ns: 5_000_000, ..CoreConfig::default() });
    let _ = cluster.start(0, hooked(1).call(get()));
    cluster.settle();
    cluster.pass_ms(15);
    let mut late = cluster.start(0, hooked(1).call(get()));
    cluster.pass_ms(10);
    assert_eq!((late.result(), notes()), (None, vec!["call".to_owned(), "hook+".to_owned()]));
    cluster.pass_ms(10);
    cluster.settle();
    assert_eq!((late.result(), notes()), (Some(Ok(1)), vec!["hook-".to_owned(), "call".to_owned()]));
    cluster.pass_ms(100);
    cluster.settle();
}

#[test]
fn hooks_run_also_when_no_more_calls_are_allowed() {
    set_on_activate(|thing| {
        Box::pin(async {
            *thing.count.get_mut() = 7;
            0
        })
    });
    set_on_drop(|_| {
        Box::pin(async {
            note("left");
            0
        })
    });
    let mut cluster = Cluster::with(1, CoreConfig { calls_max: 2, ..CoreConfig::default() });
    let mut call = cluster.start(0, hooked(1).call(get()));
    assert_eq!(call.result(), Some(Ok(7)));
    idle(&mut cluster);
    assert_eq!(notes(), ["call", "left"]);
}

#[test]
fn a_hook_that_calls_its_own_object_is_not_taken_for_ended_by_that() {
    let mut cluster = Cluster::with(1, CoreConfig { idle_ns: 5_000_000, ..CoreConfig::default() });
    let mut call = cluster.start(
        0,
        self_calling(1).call(shared(async |thing| {
            note("call");
            thing.tick()
        })),
    );
    cluster.pass_ms(4);
    assert_eq!(notes(), ["on_activate+", "nested", "on_activate-", "call"]);
    assert_eq!(call.result(), Some(Ok(2)));
    cluster.pass_ms(20);
    assert_eq!(notes(), ["on_drop+", "nested", "on_drop-"]);
    assert_eq!(cluster.cores[0].activations(), 0);
}

#[test]
fn a_panic_in_on_activate_tells_those_that_wait_and_the_next_call_tries_again() {
    set_on_activate(|_| {
        Box::pin(async {
            sleep(MS).await;
            panic!("on purpose")
        })
    });
    let mut cluster = Cluster::new(1);
    let mut calls = [0, 1].map(|_| cluster.start(0, hooked(1).call(get())));
    cluster.pass_ms(2);
    for call in &mut calls {
        let error = call.result().expect("ended").expect_err("no activation");
        assert!(matches!(error, CallError::Unavailable(_)) && error.executed() == Executed::No, "{error:?}");
    }
    set_on_activate(|_| Box::pin(async { 0 }));
    let mut again = cluster.start(0, hooked(1).call(get()));
    assert_eq!((again.result(), notes()), (Some(Ok(0)), vec!["call".to_owned()]));
}

#[test]
fn a_panic_in_on_drop_drops_the_object_all_the_same() {
    set_on_drop(|_| Box::pin(async { panic!("on purpose") }));
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, hooked(1).call(shared(async |thing| thing.tick())));
    idle(&mut cluster);
    assert_eq!(cluster.cores[0].activations(), 0);
    let mut again = cluster.start(0, hooked(1).call(get()));
    assert_eq!(again.result(), Some(Ok(1)));
}

#[test]
fn idle_objects_leave_memory_and_busy_ones_stay() {
    let mut cluster = Cluster::new(1);
    for key in 0..500 {
        let _ = cluster.start(0, never(key).call(get()));
    }
    let long = shared(async |_| {
        sleep(20 * 60_000 * MS).await;
        0
    });
    let mut busy = cluster.start(0, never(7).call(long).within(Duration::from_secs(10_000)));
    assert_eq!(cluster.cores[0].activations(), 500);
    idle(&mut cluster);
    assert_eq!(cluster.cores[0].activations(), 1);
    cluster.leap_ms(4 * 60_000);
    assert_eq!(busy.result(), Some(Ok(0)));
    idle(&mut cluster);
    assert_eq!(cluster.cores[0].activations(), 0);
}

#[test]
fn a_panic_loses_the_activation_the_others_that_ran_on_it_and_nobody_else() {
    let mut cluster = Cluster::new(2);
    let (near, far) = (cluster.key_on(0, 0), cluster.key_on(1, 0));
    let long = || {
        shared(async |_| {
            let _bomb = Bomb { name: "neighbour", panics: false };
            sleep(10 * MS).await;
            0
        })
    };
    let mut neighbours = [0, 1].map(|core| cluster.start(core, never(near).call(long())));
    let mut stranger = cluster.start(0, never(far).call(long()));
    let mut waiting = None;
    let panics = shared(async |_| {
        sleep(2 * MS).await;
        panic!("on {}", "purpose")
    });
    let mut panics = cluster.start(1, never(near).call(panics));
    waiting.get_or_insert(cluster.start(1, never(near).call(exclusive(async |thing| thing.tick()))));
    cluster.pass_ms(3);
    assert_eq!(panics.result(), Some(Err(CallError::Panicked("on purpose".into()))));
    assert_eq!(neighbours.each_mut().map(|call| call.result()), [owner_lost(), owner_lost()]);
    assert_eq!(
        waiting.expect("started").result(),
        Some(Ok(1)),
        "it had not run: the next activation serves it"
    );
    assert_eq!(notes(), ["neighbour dropped", "neighbour dropped"]);
    cluster.pass_ms(10);
    assert_eq!(stranger.result(), Some(Ok(0)));
}

#[test]
fn a_panic_is_logged_with_the_object_and_the_method() {
    let lines = lines_of(|| {
        let mut cluster = Cluster::new(1);
        let mut call = cluster.start(0, never(1).call(shared(async |_| panic!("of a call"))));
        assert_eq!(call.result(), Some(Err(CallError::Panicked("of a call".into()))));
        let spawns = shared(async |_| {
            spawn(async { panic!("of a task") }).expect("there is room");
            0
        });
        let mut call = cluster.start(0, never(2).call(spawns));
        cluster.pass_ms(1);
        assert_eq!(call.result(), Some(Ok(0)));
    });
    let expected = [
        "WARN a method panicked object=never/1 method=\"shared\" panic=\"of a call\"",
        "WARN a spawned future panicked object=never/2 panic=\"of a task\"",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_panic_in_the_drop_of_a_finished_future_is_the_methods_panic() {
    let mut cluster = Cluster::new(1);
    let mut call = cluster.start(
        0,
        never(1).call(shared(async |thing| {
            thing.tick();
            // Dropped when the body ends, which is a line of the body; what it captured goes with the future.
            let _bomb = Bomb { name: "local", panics: true };
            5
        })),
    );
    assert_eq!(call.result(), Some(Err(CallError::Panicked("local panics in drop".into()))));
    let mut after = cluster.start(0, never(1).call(get()));
    assert_eq!(after.result(), Some(Ok(0)), "on a new activation");
}

#[test]
fn a_panic_in_the_drop_of_an_unfinished_future_ends_the_activation() {
    let mut cluster = Cluster::new(1);
    let bombed = shared(async |thing| {
        thing.tick();
        let _bomb = Bomb { name: "local", panics: true };
        sleep(1_000 * MS).await;
        0
    });
    let mut neighbour = cluster.start(
        0,
        never(1).call(shared(async |_| {
            sleep(10 * MS).await;
            0
        })),
    );
    let mut cancelled = cluster.start(0, never(1).call(bombed).within(2 * MS));
    cluster.pass_ms(5);
    assert_eq!(cancelled.result(), Some(Err(CallError::OutcomeUnknown(Loss::Timeout))));
    assert_eq!((neighbour.result(), notes()), (owner_lost(), vec!["local dropped".to_owned()]));
    let mut after = cluster.start(0, never(1).call(get()));
    assert_eq!(after.result(), Some(Ok(0)));
}

#[test]
fn a_change_in_the_drop_of_a_cancelled_future_is_saved() {
    struct TickInDrop<'a>(&'a Thing<DURABLE>);
    impl Drop for TickInDrop<'_> {
        fn drop(&mut self) {
            self.0.tick();
        }
    }
    let mut cluster = Cluster::new(1);
    let call = shared(async |thing| {
        let _tick = TickInDrop(thing);
        sleep(1_000 * MS).await;
        0
    });
    let _ = cluster.start(0, durable(1).call(call).within(2 * MS));
    cluster.pass_ms(5);
    cluster.settle();
    assert_eq!(cluster.saved_count::<Thing<DURABLE>>(1), Some(1));
}

#[test]
fn a_panic_in_the_drop_of_an_argument_stops_nothing() {
    let mut cluster = Cluster::new(1);
    let mut holder = cluster.start(
        0,
        never(1).call(exclusive(async |_| {
            sleep(5 * MS).await;
            0
        })),
    );
    let bomb = Bomb { name: "argument", panics: true };
    let expires = shared(async move |_| {
        let _bomb = bomb;
        0
    });
    let mut expired = cluster.start(0, never(1).call(expires).within(2 * MS));
    cluster.pass_ms(6);
    assert!(expired.result().expect("ended").is_err());
    assert_eq!((holder.result(), notes()), (Some(Ok(0)), vec!["argument dropped".to_owned()]));
}

#[test]
fn a_panic_in_the_drop_of_a_state_stops_nothing() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, never(1).call(get()));
    PANIC_IN_STATE_DROP.set(true);
    idle(&mut cluster);
    assert!(!PANIC_IN_STATE_DROP.get(), "it panicked");
    // And when a loaded state replaces the default one.
    let _ = cluster.start(0, durable(1).call(shared(async |thing| thing.tick())));
    idle(&mut cluster);
    let mut loaded = cluster.start_later(0, durable(1).call(get()));
    cluster.step(0, crate::core::Event::Turns(100));
    PANIC_IN_STATE_DROP.set(true);
    cluster.settle();
    assert!(loaded.result().expect("ended").is_err());
    let mut again = cluster.start(0, durable(1).call(get()));
    assert_eq!(again.result(), Some(Ok(1)));
}

#[test]
fn a_panic_in_a_default_refuses_the_call_and_the_next_one_tries_again() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let key = cluster.key_on(cores - 1, 0);
        PANIC_IN_DEFAULT.set(true);
        let mut call = cluster.start(0, never(key).call(get()));
        let error = call.result().expect("ended").expect_err("no state");
        assert!(matches!(error, CallError::Unavailable(_)), "{error:?}");
        let mut again = cluster.start(0, never(key).call(get()));
        assert_eq!(again.result(), Some(Ok(0)));
    }
}

#[test]
fn an_object_whose_default_panics_when_it_is_forgotten_is_forgotten() {
    for panic in [&PANIC_IN_DEFAULT, &PANIC_IN_STATE_DROP] {
        let mut cluster = Cluster::new(1);
        let mut forgot = cluster.start(
            0,
            durable(1).call(exclusive(async |thing| {
                *thing.count.get_mut() = 5;
                crate::context::forget();
                panic.set(true);
                3
            })),
        );
        let mut after = cluster.start(0, durable(1).call(get()));
        cluster.settle();
        assert_eq!((forgot.result(), after.result()), (Some(Ok(3)), Some(Ok(0))));
        assert!(!panic.get());
    }
}

#[test]
fn a_panic_in_a_spawned_future_ends_that_future_only() {
    let mut cluster = Cluster::new(1);
    let mut call = cluster.start(
        0,
        never(1).call(shared(async |thing| {
            crate::context::spawn(async {
                let _bomb = Bomb { name: "spawned", panics: false };
                sleep(MS).await;
                panic!("on purpose")
            })
            .expect("room");
            sleep(3 * MS).await;
            thing.tick()
        })),
    );
    cluster.pass_ms(5);
    assert_eq!((call.result(), notes()), (Some(Ok(1)), vec!["spawned dropped".to_owned()]));
}

#[test]
fn a_field_that_is_used_inside_its_own_closure_is_a_panic() {
    let mut cluster = Cluster::new(1);
    let mut call = cluster.start(
        0,
        never(1).call(shared(async |thing| thing.count.modify(|count| *count + thing.count.get()))),
    );
    let Some(Err(CallError::Panicked(text))) = call.result() else { panic!("it is refused") };
    assert!(text.contains("already in use"), "{text}");
}

#[test]
fn a_call_from_outside_that_is_under_way_when_its_node_ends_has_an_unknown_outcome() {
    let mut cluster = Cluster::new(1);
    let long = || {
        shared::<NEVER, _>(async |_| {
            sleep(1_000 * MS).await;
            0
        })
    };
    let mut running = ByHand::start(cluster.outside::<NEVER>(0, 1).call(long()));
    cluster.run();
    let mut unseen = ByHand::start(cluster.outside::<NEVER>(0, 1).call(long()));
    cluster.cores.clear();
    assert_eq!(running.result(), owner_lost());
    let error = unseen.result().expect("ended").expect_err("not run");
    assert!(error.executed() == Executed::No && error.retry_safe(), "{error:?}");
}

#[test]
fn an_object_may_be_forgotten_when_it_leaves_memory() {
    set_on_activate(|_| Box::pin(async { 0 }));
    set_on_drop(|_| {
        Box::pin(async {
            crate::context::forget();
            0
        })
    });
    let mut cluster = Cluster::new(1);
    let mut call = cluster.start(
        0,
        hooked(1).call(exclusive(async |thing: &mut Thing<HOOKED>| {
            *thing.count.get_mut() = 5;
            5
        })),
    );
    cluster.settle();
    assert_eq!((call.result(), cluster.saved_count::<Thing<HOOKED>>(1)), (Some(Ok(5)), Some(5)));
    idle(&mut cluster);
    assert_eq!(cluster.cores[0].activations(), 0);
    assert_eq!(cluster.saved_count::<Thing<HOOKED>>(1), None);
}
