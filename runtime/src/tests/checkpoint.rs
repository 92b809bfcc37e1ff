//! `save(..)`: what a method saves before it ends, and what becomes of that.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use epicserver_storage::{Fault, Verb};

use super::cluster::{ByHand, Cluster};
use super::thing::{
    BEHIND, BEHIND_MS, DURABLE, Exclusive, ON_IDLE, Thing, behind, durable, exclusive, hooked, note, notes,
    on_idle, set_on_activate, shared,
};
use crate::context::{save, sleep};
use crate::core::CoreConfig;
use crate::error::{CallError, Executed, Loss, Rejection};

const MS: Duration = Duration::from_millis(1);

/// One more, a checkpoint, then 10 more and what `end` says.
fn two_steps<const POLICY: u8>(end: impl FnOnce() + 'static) -> Exclusive<POLICY> {
    exclusive(async move |thing: &mut Thing<POLICY>| {
        *thing.count.get_mut() += 1;
        note(format!("saved: {:?}", save(&*thing).await));
        *thing.count.get_mut() += 10;
        sleep(5 * MS).await;
        end();
        thing.count.get()
    })
}

fn count(cluster: &mut Cluster, key: u64) -> u64 {
    let mut count =
        cluster.start(0, durable(key).call(shared(async |thing: &Thing<DURABLE>| thing.count.get())));
    cluster.settle();
    count.result().expect("answered").expect("served")
}

#[test]
fn a_checkpoint_is_durable_when_its_await_ends_and_the_rest_when_the_method_does() {
    let mut cluster = Cluster::new(1);
    let mut outside = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(two_steps(|| ())));
    cluster.run();
    assert_eq!(notes(), Vec::<String>::new(), "it waits for the disk");
    cluster.commit();
    assert_eq!(notes(), ["saved: Ok(())"]);
    assert_eq!(cluster.saved_count::<Thing<DURABLE>>(1), Some(1));
    cluster.pass_ms(6);
    assert_eq!(outside.result(), None, "what came after is not durable yet");
    cluster.settle();
    assert_eq!(outside.result(), Some(Ok(11)));
    let (header, count) = cluster.saved::<Thing<DURABLE>>(1).expect("saved");
    assert_eq!((header.version, count), (2, Some(11)), "versions follow each other");
}

#[test]
fn what_ends_the_method_after_a_checkpoint_takes_back_the_rest_only() {
    let mut cluster = Cluster::new(1);
    let mut panics = cluster.start(0, durable(1).call(two_steps(|| panic!("on purpose"))));
    cluster.settle();
    cluster.pass_ms(6);
    assert_eq!(panics.result(), Some(Err(CallError::Panicked("on purpose".into()))));
    assert_eq!((notes(), count(&mut cluster, 1)), (vec!["saved: Ok(())".to_owned()], 1));
}

#[test]
fn an_image_that_nobody_waited_for_is_saved_as_well() {
    let mut cluster = Cluster::new(1);
    let impatient = exclusive(async |thing: &mut Thing<DURABLE>| {
        *thing.count.get_mut() += 1;
        assert!(poll_once(save(&*thing)).is_pending());
        *thing.count.get_mut() += 10;
        panic!("at once")
    });
    let _ = cluster.start(0, durable(1).call(impatient));
    assert_eq!(count(&mut cluster, 1), 1);
}

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_checkpoint_that_cannot_be_saved_ends_its_method_and_leaves_no_trace() {
    for fault in [Fault::Fail, Fault::RefuseFence] {
        let mut cluster = Cluster::new(1);
        let _ = cluster.start(
            0,
            durable(1).call(exclusive(async |thing| {
                *thing.count.get_mut() = 100;
                0
            })),
        );
        cluster.settle();
        let mut failed = cluster.start(0, durable(1).call(two_steps(|| note("went on"))));
        let mut waiting = cluster.start(0, durable(1).call(two_steps(|| ())));
        cluster.faults().fault_next(Verb::Commit, fault);
        cluster.commit();
        assert_eq!(failed.result(), Some(Err(CallError::SaveFailed)));
        assert_eq!(cluster.saved_count::<Thing<DURABLE>>(1), Some(100));
        cluster.settle();
        cluster.pass_ms(6);
        cluster.settle();
        assert_eq!(waiting.result(), Some(Ok(111)), "the next one starts from the last durable batch");
        assert_eq!(notes(), ["saved: Ok(())"], "that of the second");
    }
}

#[test]
fn a_batch_that_fails_later_leaves_the_checkpoint() {
    let mut cluster = Cluster::new(1);
    let mut failed = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(two_steps(|| ())));
    cluster.run();
    cluster.commit();
    cluster.pass_ms(6);
    cluster.faults().fault_next(Verb::Commit, Fault::Fail);
    cluster.commit();
    assert_eq!((failed.result(), notes().len()), (Some(Err(CallError::SaveFailed)), 1));
    assert_eq!(count(&mut cluster, 1), 1);
}

#[test]
fn a_checkpoint_of_a_weaker_policy_saves_at_once() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, behind(1).call(two_steps::<BEHIND>(|| ())));
    let _ = cluster.start(0, on_idle(1).call(two_steps::<ON_IDLE>(|| ())));
    cluster.settle();
    cluster.pass_ms(6);
    assert_eq!(notes(), ["saved: Ok(())"; 2]);
    assert_eq!(cluster.saved_count::<Thing<BEHIND>>(1), Some(1));
    assert_eq!(cluster.saved_count::<Thing<ON_IDLE>>(1), Some(1));
    cluster.pass_ms(BEHIND_MS + 2);
    cluster.settle();
    assert_eq!(cluster.saved_count::<Thing<BEHIND>>(1), Some(11), "the rest as the policy says");
    assert_eq!(cluster.saved_count::<Thing<ON_IDLE>>(1), Some(1));
}

#[test]
fn a_shared_method_saves_what_was_changed_and_nothing_else() {
    let mut cluster = Cluster::new(1);
    let saves = || shared(async |thing: &Thing<BEHIND>| u64::from(save(thing).await.is_err()));
    let ticks = shared(async |thing: &Thing<BEHIND>| {
        thing.tick();
        save(thing).await.expect("saved");
        thing.tick()
    });
    let mut unchanged = cluster.start(0, behind(1).call(saves()));
    cluster.run();
    assert_eq!((unchanged.result(), cluster.cores[0].counters().images), (Some(Ok(0)), 0));
    let mut changed = cluster.start(0, behind(1).call(ticks));
    cluster.run();
    assert_eq!((changed.result(), cluster.cores[0].counters().images), (None, 1));
    let mut beside = cluster.start(0, behind(1).call(saves()));
    assert_eq!(beside.result(), None, "it is in the batch that nobody knows of yet");
    cluster.commit();
    assert_eq!((beside.result(), changed.result()), (Some(Ok(0)), Some(Ok(2))));
    assert_eq!(cluster.saved_count::<Thing<BEHIND>>(1), Some(1));
    cluster.pass_ms(BEHIND_MS + 2);
    cluster.settle();
    assert_eq!(cluster.cores[0].counters().images, 2, "one for each change");
    assert_eq!(cluster.saved_count::<Thing<BEHIND>>(1), Some(2));
}

#[test]
fn an_answer_waits_for_the_image_of_a_checkpoint_that_nobody_awaited() {
    let mut cluster = Cluster::new(1);
    let impatient = shared(async |thing: &Thing<DURABLE>| {
        let count = thing.tick();
        assert!(poll_once(save(thing)).is_pending());
        count
    });
    let mut outside = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(impatient));
    cluster.run();
    assert_eq!((outside.result(), cluster.cores[0].counters().images), (None, 1));
    cluster.commit();
    assert_eq!(outside.result(), Some(Ok(1)));
}

#[test]
fn what_a_checkpoint_could_not_save_is_tried_again_as_the_policy_says() {
    let mut cluster = Cluster::with(1, CoreConfig { state_len_max: 4_000, ..CoreConfig::default() });
    let grows = exclusive(async |thing: &mut Thing<BEHIND>| {
        *thing.text.get_mut() = "large ".repeat(5_000);
        thing.tick()
    });
    let saves = shared(async |thing: &Thing<BEHIND>| u64::from(save(thing).await.is_err()));
    let _ = cluster.start(0, behind(1).call(grows));
    let mut too_large = cluster.start(0, behind(1).call(saves));
    assert_eq!((too_large.result(), cluster.cores[0].counters().images), (Some(Ok(1)), 1));
    cluster.pass_ms(BEHIND_MS + 2);
    assert_eq!(cluster.cores[0].counters().images, 2);
}

#[test]
fn a_checkpoint_gives_up_at_the_deadline_of_its_call_and_may_be_saved_later() {
    let mut cluster = Cluster::new(1);
    let mut late = cluster.start(0, durable(1).call(two_steps(|| ())).within(20 * MS));
    cluster.pass_ms(25);
    assert_eq!(late.result(), Some(Err(CallError::OutcomeUnknown(Loss::Timeout))));
    let timeout = CallError::OutcomeUnknown(Loss::Timeout);
    assert_eq!(notes(), [format!("saved: {:?}", Err::<(), _>(timeout))]);
    cluster.pass_ms(10);
    assert_eq!(count(&mut cluster, 1), 11);
}

#[test]
fn a_state_that_is_too_large_is_told_and_the_method_goes_on() {
    let mut cluster = Cluster::with(1, CoreConfig { state_len_max: 8_192, ..CoreConfig::default() });
    let grows = exclusive(async |thing: &mut Thing<DURABLE>| {
        *thing.text.get_mut() = "large ".repeat(5_000);
        let error = save(&*thing).await.expect_err("too large");
        assert!(matches!(&error, CallError::Rejected(Rejection::TooLarge(_))), "{error:?}");
        assert_eq!(error.executed(), Executed::No);
        assert!(error.to_string().ends_with(" bytes, at most 8192"), "{error}");
        thing.text.get_mut().clear();
        *thing.count.get_mut() = 7;
        thing.count.get()
    });
    let mut grows = cluster.start(0, durable(1).call(grows));
    assert_eq!((grows.result(), count(&mut cluster, 1)), (Some(Ok(7)), 7));
}

#[test]
fn a_hook_may_save_too() {
    set_on_activate(|thing| {
        Box::pin(async move {
            *thing.count.get_mut() += 1;
            note(format!("saved: {:?}", save(&*thing).await));
            0
        })
    });
    let mut cluster = Cluster::new(1);
    let mut read = cluster.start(0, hooked(1).call(shared(async |thing| thing.count.get())));
    cluster.run();
    assert_eq!((notes(), read.result()), (vec![], None));
    cluster.settle();
    assert_eq!((notes(), read.result()), (vec!["saved: Ok(())".to_owned()], Some(Ok(1))));
}

#[test]
fn another_object_cannot_be_saved() {
    let mut cluster = Cluster::new(1);
    let other = exclusive(async |_: &mut Thing<DURABLE>| {
        let other = Thing::<DURABLE>::default();
        save(&other).await.map_or(1, |()| 0)
    });
    let mut refused = cluster.start(0, durable(1).call(other));
    cluster.settle();
    let text = "save() is for the methods of durable, and for their own object: save(&*self)";
    assert_eq!(refused.result(), Some(Err(CallError::Panicked(text.into()))));
    assert!(cluster.saved::<Thing<DURABLE>>(1).is_none());
}

#[test]
fn polling_again_and_again_queues_once() {
    let mut cluster = Cluster::new(1);
    let busy = exclusive(async |thing: &mut Thing<DURABLE>| {
        *thing.count.get_mut() += 1;
        let mut save = pin!(save(&*thing));
        std::future::poll_fn(|context| {
            for _ in 0..100 {
                if let Poll::Ready(saved) = save.as_mut().poll(context) {
                    return Poll::Ready(u64::from(saved.is_err()));
                }
            }
            Poll::Pending
        })
        .await
    });
    let mut busy = cluster.start(0, durable(1).call(busy));
    assert_eq!(cluster.cores[0].state().gated(), 1);
    cluster.settle();
    assert_eq!(busy.result(), Some(Ok(0)));
}
