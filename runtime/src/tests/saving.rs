//! What is saved when, what waits for it, and what a failed batch takes along.

use std::time::Duration;

use epicserver_storage::{Batch, BatchName, EnvelopeKind, Fault, KeyKind, NodeId, RecordKey, Store, Verb};

use super::cluster::{ByHand, Cluster};
use super::thing::{
    BEHIND, BEHIND_MS, DURABLE, Exclusive, NEVER, ON_IDLE, Shared, Thing, behind, durable, exclusive, never,
    note, notes, on_idle, shared,
};
use crate::context::sleep;
use crate::core::{CoreConfig, Event};
use crate::entity::RawRef;
use crate::error::{CallError, Executed, Rejection};
use crate::id::EntityId;
use crate::key::KeyView;
use crate::saving::{BatchImages, ImageLabel};

const MS: Duration = Duration::from_millis(1);

fn add<const POLICY: u8>(by: u64) -> Exclusive<POLICY> {
    exclusive(async move |thing: &mut Thing<POLICY>| {
        *thing.count.get_mut() += by;
        thing.count.get()
    })
}

fn tick<const POLICY: u8>() -> Shared<POLICY> {
    shared(async |thing: &Thing<POLICY>| thing.tick())
}

fn get<const POLICY: u8>() -> Shared<POLICY> {
    shared(async |thing: &Thing<POLICY>| thing.count.get())
}

/// Lets every object idle out of memory.
fn idle(cluster: &mut Cluster) {
    cluster.settle();
    cluster.leap_ms(16 * 60_000);
    cluster.pass_ms(50);
    cluster.settle();
    assert_eq!(cluster.cores.iter().map(crate::core::Core::activations).sum::<usize>(), 0);
}

/// The count of a durable object as a call inside of the node sees it.
fn count(cluster: &mut Cluster, key: u64) -> u64 {
    let mut count = cluster.start(0, durable(key).call(get()));
    cluster.settle();
    count.result().expect("answered").expect("served")
}

#[test]
fn a_durable_reply_to_outside_waits_for_the_commit_and_one_of_policy_never_does_not() {
    let mut cluster = Cluster::new(2);
    for core in 0..2 {
        let key = cluster.key_on(core, 0);
        let mut never = ByHand::start(cluster.outside::<NEVER>(0, key).call(add(1)));
        let mut durable = ByHand::start(cluster.outside::<DURABLE>(0, key).call(add(1)));
        let mut reader = ByHand::start(cluster.outside::<DURABLE>(1, key).call(get()));
        cluster.run();
        assert_eq!(never.result(), Some(Ok(1)));
        assert_eq!((durable.result(), reader.result()), (None, None), "also what was only read");
        cluster.commit();
        assert_eq!((durable.result(), reader.result()), (Some(Ok(1)), Some(Ok(1))));
        assert_eq!(cluster.saved_count::<Thing<DURABLE>>(key), Some(1));
        let mut again = ByHand::start(cluster.outside::<DURABLE>(0, key).call(get()));
        cluster.run();
        assert_eq!(again.result(), Some(Ok(1)), "what is durable already waits for nothing");
    }
}

#[test]
fn a_call_that_changes_nothing_takes_no_image_and_no_version() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, durable(1).call(tick()));
    cluster.settle();
    let images = cluster.cores[0].counters().images;
    let (header, count) = cluster.saved::<Thing<DURABLE>>(1).expect("saved");
    assert_eq!((header.version, count, images), (1, Some(1), 1));
    for _ in 0..5 {
        let _ = cluster.start(0, durable(1).call(get()));
    }
    assert!(!cluster.cores[0].wants_commit());
    let _ = cluster.start(0, durable(1).call(tick()));
    let _ = cluster.start(0, durable(1).call(tick()));
    cluster.settle();
    let (header, count) = cluster.saved::<Thing<DURABLE>>(1).expect("saved");
    assert_eq!((header.version, count), (2, Some(3)), "one version a batch, without a gap");
}

/// Calls that change nothing, over several lives of an object in memory.
fn read_again_and_again<const POLICY: u8>() {
    let mut cluster = Cluster::new(1);
    let object = RawRef::<Thing<POLICY>>::new;
    let _ = cluster.start(0, object(1).call(tick()));
    idle(&mut cluster);
    for _ in 0..3 {
        let mut read = cluster.start(0, object(1).call(get()));
        let _ = cluster.start(0, object(2).call(get()));
        cluster.settle();
        cluster.pass_ms(2 * BEHIND_MS);
        idle(&mut cluster);
        assert_eq!(read.result(), Some(Ok(1)));
    }
    assert_eq!((cluster.cores[0].counters().images, cluster.storage.images_written), (1, 1));
    assert_eq!(cluster.saved::<Thing<POLICY>>(1).map(|(header, _)| header.version), Some(1));
    assert!(cluster.saved::<Thing<POLICY>>(2).is_none(), "one that was only read has no record");
}

#[test]
fn what_was_not_changed_is_not_written_whatever_the_policy() {
    read_again_and_again::<DURABLE>();
    read_again_and_again::<BEHIND>();
    read_again_and_again::<ON_IDLE>();
}

#[test]
fn a_shared_turn_is_saved_at_its_end_and_an_exclusive_call_at_its_own() {
    let mut cluster = Cluster::new(1);
    let turns = shared(async |thing: &Thing<DURABLE>| {
        thing.tick();
        sleep(10 * MS).await;
        thing.tick()
    });
    let whole = exclusive(async |thing: &mut Thing<DURABLE>| {
        *thing.count.get_mut() += 1;
        sleep(10 * MS).await;
        *thing.count.get_mut() += 1;
        0
    });
    let _ = cluster.start(0, durable(1).call(turns));
    let _ = cluster.start(0, durable(2).call(whole));
    cluster.pass_ms(5);
    cluster.settle();
    assert_eq!(cluster.saved_count::<Thing<DURABLE>>(1), Some(1));
    assert_eq!(cluster.saved_count::<Thing<DURABLE>>(2), None);
    cluster.pass_ms(10);
    cluster.settle();
    assert_eq!(cluster.saved_count::<Thing<DURABLE>>(1), Some(2));
    assert_eq!(cluster.saved_count::<Thing<DURABLE>>(2), Some(2));
}

#[test]
fn state_survives_dropping_and_loading() {
    let mut cluster = Cluster::new(2);
    for key in 1..20 {
        let _ = cluster.start(0, durable(key).call(add(key)));
    }
    idle(&mut cluster);
    for key in 1..20 {
        assert_eq!(count(&mut cluster, key), key);
        let _ = cluster.start(1, durable(key).call(add(1)));
    }
    cluster.settle();
    assert!((1..20).all(|key| cluster.saved_count::<Thing<DURABLE>>(key) == Some(key + 1)));
}

#[test]
fn a_load_sees_the_last_image_of_its_own_object_although_it_is_not_committed() {
    let mut cluster = Cluster::with(1, CoreConfig { idle_ns: 1_000_000, ..CoreConfig::default() });
    let _ = cluster.start(0, durable(1).call(add(5)));
    cluster.settle();
    let _ = cluster.start(0, durable(1).call(add(5)));
    // It idles out of memory while its image waits for a batch, and is called again.
    cluster.pass_ms(20);
    assert_eq!(cluster.cores[0].activations(), 0);
    let mut read = cluster.start(0, durable(1).call(get()));
    assert_eq!(read.result(), None, "the load waits for the batch");
    cluster.settle();
    assert_eq!(read.result(), Some(Ok(10)));
}

#[test]
fn a_panic_loses_its_own_change_only() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, durable(1).call(add(5)));
    let mut panics = cluster.start(
        0,
        durable(1).call(exclusive(async |thing| {
            *thing.count.get_mut() = 99;
            panic!("on purpose")
        })),
    );
    cluster.settle();
    assert_eq!(panics.result(), Some(Err(CallError::Panicked("on purpose".into()))));
    assert_eq!(count(&mut cluster, 1), 5);
}

#[test]
fn an_error_of_a_method_leaves_the_node_no_sooner_than_what_the_method_saw() {
    let mut cluster = Cluster::new(1);
    let mut panics = ByHand::start(cluster.outside::<NEVER>(0, 1).call(shared(async |_| {
        let seen = durable(2).call(tick()).await.expect("served");
        panic!("saw {seen}")
    })));
    cluster.run();
    assert_eq!(panics.result(), None, "the text tells what is not durable yet");
    cluster.commit();
    assert_eq!(panics.result(), Some(Err(CallError::Panicked("saw 1".into()))));
}

#[test]
fn what_a_turn_sends_after_a_change_depends_on_that_change() {
    let mut cluster = Cluster::new(2);
    let (near, far) = (cluster.key_on(0, 0), cluster.key_on(1, 0));
    for key in [near, far] {
        let _ = cluster.start(0, durable(key).call(get()));
    }
    cluster.settle();
    // Batch after batch is open on core 0 before core 1 hears of it: only the message's number tells it.
    cluster.tells_with_messages = false;
    cluster.publish();
    cluster.tell(0);
    let change_and_send = shared(async move |thing: &Thing<DURABLE>| {
        thing.tick();
        durable(far).call(add(1)).send().expect("room");
        crate::context::blocking(|| note("told the world")).await.map_or(1, |()| 0)
    });
    let _ = cluster.start(0, durable(near).call(change_and_send));
    assert!(cluster.works.is_empty(), "work starts when what it was done for is durable");
    assert_eq!(cluster.storage.loads.len(), 0);
    cluster.tell(1);
    cluster.write();
    assert_eq!(
        (cluster.saved_count::<Thing<DURABLE>>(near), cluster.saved_count::<Thing<DURABLE>>(far)),
        (None, None),
        "the effect of the message is in no earlier batch than its cause"
    );
    cluster.commit();
    assert_eq!(
        (cluster.saved_count::<Thing<DURABLE>>(near), cluster.saved_count::<Thing<DURABLE>>(far)),
        (Some(1), Some(1))
    );
    cluster.works.drain(..).for_each(crate::core::Work::run);
    cluster.run();
    assert_eq!(notes(), ["told the world"]);
}

#[test]
fn the_error_of_a_state_that_is_too_large_waits_as_well() {
    let mut cluster = Cluster::with(1, CoreConfig { state_len_max: 8_192, ..CoreConfig::default() });
    let grows = exclusive(async |thing: &mut Thing<DURABLE>| {
        let seen = durable(2).call(tick()).await.expect("served");
        *thing.text.get_mut() = "large ".repeat(5_000);
        seen
    });
    let mut outside = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(grows));
    cluster.run();
    assert_eq!(outside.result(), None);
    cluster.commit();
    assert_eq!(outside.result().expect("ended").expect_err("too large").executed(), Executed::Yes);
}

/// Moves one from an object to another, each move a call of an object that depends on both.
fn transfer(from: u64, to: u64) -> impl Future<Output = Result<u64, CallError>> {
    durable(from).call(exclusive(async move |thing| {
        *thing.count.get_mut() += 1;
        let got = durable(to).call(add(1)).await.expect("served");
        got + *thing.count.get_mut() * 1000
    }))
}

#[test]
fn the_images_of_two_cores_form_a_consistent_cut() {
    // An exclusive caller's change is complete after the callee's: whatever batch the store stopped at, the callee has at
    // least as much as the caller.
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut cluster = Cluster::with(2, CoreConfig { chaos: Some(seed), ..CoreConfig::default() });
        let (near, far) = (cluster.key_on(0, 0), cluster.key_on(1, 0));
        for _ in 0..40 {
            let _ = cluster.start_later(0, transfer(near, far));
            for _ in 0..random.usize(..6) {
                let core = random.usize(..2);
                match random.u8(..5) {
                    0 => drop(cluster.deliver(core)),
                    1 if cluster.storage.open == cluster.storage.durable + 1 => {
                        cluster.publish();
                        cluster.tell(core);
                    }
                    _ => cluster.step(core, Event::Turns(random.u32(1..4))),
                }
            }
            if cluster.storage.open > cluster.storage.durable + 1 {
                cluster.tell(0);
                cluster.tell(1);
                cluster.write();
                let saved =
                    |cluster: &mut Cluster, key| cluster.saved_count::<Thing<DURABLE>>(key).unwrap_or(0);
                let (sent, received) = (saved(&mut cluster, near), saved(&mut cluster, far));
                assert!(received >= sent, "seed {seed}: {sent} sent, {received} received");
            }
        }
        cluster.settle();
        assert_eq!(count(&mut cluster, near), 40);
        assert_eq!(count(&mut cluster, far), 40);
    }
}

#[test]
fn a_failed_batch_takes_everything_along_that_depends_on_it() {
    let mut cluster = Cluster::new(2);
    let (near, far) = (cluster.key_on(0, 0), cluster.key_on(1, 0));
    let (other, reader) = (cluster.key_on(1, 1), cluster.key_on(0, 1));
    let _ = cluster.start(0, transfer(near, far));
    let _ = cluster.start(0, durable(other).call(add(1)));
    let _ = cluster.start(0, never(reader).call(tick()));
    cluster.settle();
    // Both objects change, an object that is never saved reads it and keeps it, calls run and wait.
    let mut moved = cluster.start(0, transfer(near, far));
    let mut kept = cluster.start(
        0,
        never(reader).call(shared(async move |thing| {
            let seen = durable(near).call(get()).await.expect("served");
            thing.count.set(seen * 100);
            sleep(1_000 * MS).await;
            0
        })),
    );
    let mut running = cluster.start(
        0,
        durable(far).call(exclusive(async |_| {
            sleep(1_000 * MS).await;
            0
        })),
    );
    let mut waiting = cluster.start(0, durable(far).call(get()));
    let mut outside = ByHand::start(cluster.outside::<DURABLE>(1, near).call(get()));
    cluster.run();
    assert_eq!(moved.result(), Some(Ok(2002)), "inside the node nothing waits for the disk");
    let activations = cluster.cores.iter().map(crate::core::Core::activations).sum::<usize>();
    cluster.faults().fault_next(Verb::Commit, Fault::Fail);
    cluster.commit();
    assert_eq!(
        kept.result(),
        Some(Err(CallError::SaveFailed)),
        "an object of policy never depends on it as well"
    );
    assert_eq!(running.result(), Some(Err(CallError::SaveFailed)));
    assert_eq!(outside.result(), Some(Err(CallError::SaveFailed)));
    cluster.settle();
    assert_eq!(
        waiting.result(),
        Some(Ok(1)),
        "it did not run and depends on nothing: the next activation serves it"
    );
    assert!(activations > cluster.cores.iter().map(crate::core::Core::activations).sum::<usize>());
    let mut seen = cluster.start(0, never(reader).call(get()));
    assert_eq!(seen.result(), Some(Ok(0)));
    assert_eq!([near, far, other].map(|key| count(&mut cluster, key)), [1, 1, 1], "the last durable batch");
    let mut again = ByHand::start(cluster.outside::<DURABLE>(1, near).call(add(1)));
    cluster.settle();
    assert_eq!(again.result(), Some(Ok(2)), "the node goes on, and versions follow each other");
}

#[test]
fn a_failed_batch_drops_queued_messages_and_replies_that_depend_on_it() {
    let mut cluster = Cluster::new(2);
    let (near, far) = (cluster.key_on(0, 0), cluster.key_on(1, 0));
    let reader = cluster.key_on(1, 1);
    // A message that waits for its object.
    let _ = cluster.start(
        1,
        never(far).call(exclusive(async |_| {
            sleep(5 * MS).await;
            0
        })),
    );
    let mut queued = cluster.start(
        0,
        durable(near).call(shared(async move |thing| {
            thing.tick();
            never(far)
                .call(shared(async |_| {
                    note("ran");
                    0
                }))
                .await
                .map_or(1, |_| 0)
        })),
    );
    cluster.run();
    // A reply that has arrived and that nobody has read yet, and one that is under way.
    let mut unread = cluster.start_later(
        1,
        never(reader).call(shared(async move |thing| {
            let seen = durable(near).call(get()).await;
            thing.count.set(seen.clone().unwrap_or(77));
            note(format!("{seen:?}"));
            0
        })),
    );
    cluster.step(1, Event::Turns(100));
    cluster.deliver(0);
    cluster.step(0, Event::Turns(100));
    cluster.deliver(1);
    cluster.faults().fault_next(Verb::Commit, Fault::Fail);
    cluster.publish();
    cluster.tell(0);
    cluster.tell(1);
    cluster.write();
    cluster.settle();
    cluster.pass_ms(10);
    assert_eq!(queued.result(), Some(Err(CallError::SaveFailed)));
    assert_eq!(unread.result(), Some(Ok(0)));
    assert_eq!(
        notes(),
        ["Err(SaveFailed)"],
        "the reply was never read as a value, and the message never ran"
    );
    let mut kept = cluster.start(1, never(reader).call(get()));
    assert_eq!(kept.result(), Some(Ok(77)));
}

#[test]
fn a_reply_that_is_under_way_when_its_batch_fails_is_an_error() {
    let mut cluster = Cluster::new(2);
    let (near, reader) = (cluster.key_on(0, 0), cluster.key_on(1, 1));
    let _ = cluster.start(0, durable(near).call(tick()));
    cluster.run();
    let mut unread = cluster.start_later(
        1,
        never(reader).call(shared(async move |_| {
            durable(near)
                .call(get())
                .await
                .map_or_else(|error| u64::from(error == CallError::SaveFailed), |_| 9)
        })),
    );
    cluster.step(1, Event::Turns(100));
    cluster.deliver(0);
    cluster.step(0, Event::Turns(100));
    assert_eq!(cluster.under_way[1].len(), 1, "the reply");
    cluster.faults().fault_next(Verb::Commit, Fault::Fail);
    cluster.publish();
    cluster.tell(0);
    cluster.tell(1);
    cluster.write();
    cluster.settle();
    assert_eq!(unread.result(), Some(Ok(1)));
}

#[test]
fn a_spawned_future_that_depends_on_a_failed_batch_ends() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(
        0,
        never(1).call(shared(async |_| {
            crate::context::spawn(async {
                let seen = durable(2).call(tick()).await;
                sleep(5 * MS).await;
                note(format!("{seen:?}"));
            })
            .expect("room");
            0
        })),
    );
    cluster.run();
    cluster.faults().fault_next(Verb::Commit, Fault::Fail);
    cluster.commit();
    cluster.settle();
    cluster.pass_ms(10);
    assert_eq!(notes(), Vec::<String>::new(), "what it has seen never was");
}

#[test]
fn a_refused_or_unknown_commit_leaves_the_state_of_the_last_durable_batch() {
    for fault in [Fault::Fail, Fault::RefuseFence] {
        let mut cluster = Cluster::new(1);
        let _ = cluster.start(0, durable(1).call(add(3)));
        cluster.settle();
        for _ in 0..3 {
            let mut lost = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(add(1)));
            cluster.run();
            cluster.faults().fault_next(Verb::Commit, fault);
            cluster.commit();
            assert_eq!(lost.result(), Some(Err(CallError::SaveFailed)));
            cluster.settle();
        }
        assert_eq!(count(&mut cluster, 1), 3);
    }
}

#[test]
fn behind_saves_once_an_interval_and_nobody_waits_for_it() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, behind(1).call(get()));
    cluster.settle();
    let mut outside = ByHand::start(cluster.outside::<BEHIND>(0, 1).call(add(1)));
    cluster.run();
    assert_eq!(outside.result(), Some(Ok(1)));
    for _ in 0..BEHIND_MS as u32 - 5 {
        let _ = cluster.start(0, behind(1).call(tick()));
        cluster.pass_ms(1);
    }
    assert_eq!(cluster.cores[0].counters().images, 0);
    cluster.pass_ms(10);
    assert_eq!(cluster.cores[0].counters().images, 1);
    cluster.settle();
    assert_eq!(cluster.saved_count::<Thing<BEHIND>>(1), Some(BEHIND_MS - 4));
    cluster.pass_ms(200);
    assert_eq!(cluster.cores[0].counters().images, 1, "unchanged, so not saved again");
    let _ = cluster.start(0, behind(1).call(tick()));
    idle(&mut cluster);
    assert_eq!(cluster.saved_count::<Thing<BEHIND>>(1), Some(BEHIND_MS - 3));
}

#[test]
fn behind_waits_for_the_end_of_an_exclusive_call() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, behind(1).call(add(1)));
    cluster.settle();
    let half = exclusive(async |thing: &mut Thing<BEHIND>| {
        *thing.count.get_mut() += 10;
        sleep(100 * MS).await;
        *thing.count.get_mut() += 10;
        0
    });
    let _ = cluster.start(0, behind(1).call(half));
    cluster.pass_ms(90);
    cluster.settle();
    assert_eq!(cluster.saved_count::<Thing<BEHIND>>(1), None, "nothing half done is read");
    cluster.pass_ms(20);
    cluster.settle();
    assert_eq!(cluster.saved_count::<Thing<BEHIND>>(1), Some(21));
}

#[test]
fn a_state_behind_that_cannot_be_saved_stays_and_is_tried_again() {
    let config = CoreConfig { state_len_max: 4_000, ..CoreConfig::default() };
    let mut cluster = Cluster::with(1, config);
    let grows = exclusive(async |thing: &mut Thing<BEHIND>| {
        *thing.text.get_mut() = "large ".repeat(5_000);
        thing.tick()
    });
    assert_eq!(cluster.start(0, behind(1).call(grows)).result(), Some(Ok(1)));
    cluster.pass_ms(BEHIND_MS + 2);
    let tried = cluster.cores[0].counters().images;
    for _ in 0..3 {
        cluster.leap_ms(1_000);
    }
    assert_eq!((tried, cluster.cores[0].counters().images), (1, 4));
    assert_eq!(cluster.saved_count::<Thing<BEHIND>>(1), None);
    let shrinks = exclusive(async |thing: &mut Thing<BEHIND>| {
        thing.text.get_mut().clear();
        thing.tick()
    });
    assert_eq!(cluster.start(0, behind(1).call(shrinks)).result(), Some(Ok(2)), "nothing was lost");
    cluster.leap_ms(1_000);
    cluster.settle();
    assert_eq!(cluster.saved_count::<Thing<BEHIND>>(1), Some(2));
}

#[test]
fn on_idle_saves_when_the_object_leaves_memory() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, on_idle(1).call(add(4)));
    cluster.settle();
    assert_eq!(cluster.saved_count::<Thing<ON_IDLE>>(1), None);
    idle(&mut cluster);
    assert_eq!(cluster.saved_count::<Thing<ON_IDLE>>(1), Some(4));
    let mut read = cluster.start(0, on_idle(1).call(get()));
    assert_eq!(read.result(), Some(Ok(4)));
}

#[test]
fn a_state_that_is_too_large_is_an_error_and_the_change_before_it_is_saved_whole() {
    for exclusively in [true, false] {
        let mut cluster = Cluster::with(1, CoreConfig { state_len_max: 8_192, ..CoreConfig::default() });
        let small = exclusive(async |thing: &mut Thing<DURABLE>| {
            *thing.count.get_mut() = 5;
            *thing.text.get_mut() = "small ".repeat(50);
            0
        });
        let _ = cluster.start(0, durable(1).call(small));
        cluster.run();
        let mut large = if exclusively {
            let large = exclusive(async |thing: &mut Thing<DURABLE>| {
                *thing.count.get_mut() = 6;
                *thing.text.get_mut() = "large ".repeat(5_000);
                0
            });
            cluster.start(0, durable(1).call(large))
        } else {
            let large = shared(async |thing: &Thing<DURABLE>| {
                thing.count.set(6);
                thing.text.set("large ".repeat(5_000));
                sleep(MS).await;
                0
            });
            cluster.start(0, durable(1).call(large))
        };
        cluster.settle();
        let error = large.result().expect("ended").expect_err("too large");
        assert_eq!(error.executed(), Executed::Yes, "it ran: {error}");
        assert!(
            matches!(&error, CallError::Nested(inner) if matches!(**inner, CallError::Rejected(Rejection::TooLarge(_)))),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("ran, and something is too large: the state of durable/1: 30"),
            "{text}: which object, and how large it is"
        );
        assert!(text.ends_with(" bytes, at most 8192"), "{text}");
        assert_eq!(cluster.saved_count::<Thing<DURABLE>>(1), Some(5));
        assert_eq!(count(&mut cluster, 1), 5, "in the same batch as the image that did not fit");
    }
}

#[test]
fn forgetting_leaves_a_tombstone_and_versions_go_on() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, durable(1).call(add(4)));
    cluster.settle();
    let forget = exclusive(async |thing: &mut Thing<DURABLE>| {
        *thing.count.get_mut() += 1;
        crate::context::forget();
        thing.count.get()
    });
    let mut forgot = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(forget));
    let mut after = cluster.start(0, durable(1).call(get()));
    cluster.run();
    assert_eq!(forgot.result(), None, "gated as any change");
    cluster.settle();
    assert_eq!((forgot.result(), after.result()), (Some(Ok(5)), Some(Ok(0))));
    let (header, count) = cluster.saved::<Thing<DURABLE>>(1).expect("a tombstone");
    assert_eq!((header.kind, header.version, count), (EnvelopeKind::Tombstone, 2, None));
    idle(&mut cluster);
    let _ = cluster.start(0, durable(1).call(add(7)));
    cluster.settle();
    let (header, count) = cluster.saved::<Thing<DURABLE>>(1).expect("a state");
    assert_eq!((header.kind, header.version, count), (EnvelopeKind::State, 3, Some(7)));
}

#[test]
fn forgetting_waits_for_the_last_call_that_holds_the_object() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, durable(1).call(add(4)));
    let long = shared(async |thing: &Thing<DURABLE>| {
        sleep(5 * MS).await;
        thing.count.get()
    });
    cluster.settle();
    let mut long = cluster.start(0, durable(1).call(long));
    let forget = shared(async |thing: &Thing<DURABLE>| {
        crate::context::forget();
        thing.count.get()
    });
    let mut forgot = cluster.start(0, durable(1).call(forget));
    cluster.pass_ms(6);
    assert_eq!((forgot.result(), long.result()), (Some(Ok(4)), Some(Ok(4))));
    assert_eq!(count(&mut cluster, 1), 0);
}

#[test]
fn a_record_that_cannot_be_read_is_never_served() {
    for fault in [Fault::Flip { bit: 300 }, Fault::Short { length: 20 }, Fault::Fail] {
        let mut cluster = Cluster::new(1);
        let _ = cluster.start(0, durable(1).call(add(4)));
        idle(&mut cluster);
        cluster.faults().fault_next(Verb::Load, fault);
        let mut read = cluster.start(0, durable(1).call(get()));
        cluster.settle();
        let error = read.result().expect("answered").expect_err("unreadable");
        assert_eq!(error.executed(), Executed::No);
        assert!(matches!(error, CallError::Unavailable(_)), "{error:?}");
        assert_eq!(count(&mut cluster, 1), 4, "the next call asks again");
    }
}

/// A loop that tries again while `retry_safe()` says so never ended after a change of a layout.
#[test]
fn a_record_that_this_program_cannot_read_is_not_to_be_tried_again() {
    for (schema, layout, told) in [(2, 0, "saved by version 2"), (1, 7, "the layout of version 1")] {
        let mut cluster = Cluster::new(1);
        let key = RecordKey::u64(EntityId::of("durable").0, 1);
        let (partition, key_hash) = (key.as_ref().partition().number(), key.as_ref().hash());
        let (entity, version) = (key.entity, 1);
        let label = ImageLabel { entity, partition, key_hash, epoch: 1, version, schema, layout };
        let mut images = BatchImages::default();
        images.reset(1);
        let written = images.write(|_| Ok::<_, ()>(Some(0))).expect("there is room");
        images.add(&label, KeyView { kind: KeyKind::U64, bytes: &key.bytes }, written);
        let mut batch = Batch::new(BatchName { node: NodeId { id: 1, incarnation: 1 }, number: 1 });
        images.append_to(&mut batch, 0).expect("well formed");
        cluster.store.commit(&batch).expect("memory");
        let mut read = cluster.start(0, durable(1).call(get()));
        cluster.settle();
        let error = read.result().expect("answered").expect_err("unreadable");
        assert_eq!((error.executed(), error.retry_safe()), (Executed::No, false), "{error}");
        let text = error.to_string();
        assert!(text.contains("durable/1 cannot be loaded: ") && text.contains(told), "{text}");
    }
}

#[test]
fn a_core_with_too_much_to_save_runs_no_more_turns_until_the_batch_is_closed() {
    let mut cluster = Cluster::with(1, CoreConfig { dirty_len_max: 10_000, ..CoreConfig::default() });
    let grow = |key: u64| {
        durable(key).call(exclusive(async |thing: &mut Thing<DURABLE>| {
            *thing.text.get_mut() = "x".repeat(1_000);
            0
        }))
    };
    let mut results: Vec<_> = (0..50).map(|key| cluster.start(0, grow(key))).collect();
    cluster.run();
    let done = cluster.cores[0].counters().images;
    assert!((10..20).contains(&done), "{done} images");
    cluster.settle();
    assert!(results.iter_mut().all(|result| result.result() == Some(Ok(0))));
}
