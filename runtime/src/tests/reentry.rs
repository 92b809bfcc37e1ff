//! Destructors and wakers are user code that runs in the middle of things: what they do comes back to the core.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use epicserver_storage::{Fault, Verb};

use super::cluster::{ByHand, Cluster};
use super::thing::{
    Bomb, HOOKED, NEVER, Never, Shared, Thing, durable, exclusive, hooked, never, note, notes, set_on_drop,
    shared,
};
use crate::context::{sleep, spawn, this};
use crate::core::CoreConfig;
use crate::error::CallError;

const MS: Duration = Duration::from_millis(1);

fn get() -> Shared<NEVER> {
    shared(async |thing| thing.count.get())
}

/// Calls of every kind still work, which they do not once a slot is in two lists.
fn check(cluster: &mut Cluster) {
    for round in 0..3 {
        let mut calls: Vec<_> =
            (100..200).map(|key| cluster.start_later(0, never(key).call(get()))).collect();
        cluster.run();
        assert!(calls.iter_mut().all(|call| call.result() == Some(Ok(0))), "round {round}");
    }
}

#[test]
fn a_panic_ends_a_spawned_future_that_waits_for_its_own_object_once() {
    let mut cluster = Cluster::new(1);
    let mut spawns = cluster.start(
        0,
        never(1).call(shared(async |_| {
            let object = this::<Never>();
            spawn(async move {
                let _bomb = Bomb { name: "spawned", panics: false };
                sleep(MS).await;
                let _ = object.call(get()).await;
                note("not reached");
            })
            .expect("room");
            0
        })),
    );
    assert_eq!(spawns.result(), Some(Ok(0)));
    let panics = exclusive(async |_| {
        sleep(3 * MS).await;
        panic!("on purpose")
    });
    let mut panics = cluster.start(0, never(1).call(panics));
    cluster.pass_ms(5);
    assert!(matches!(panics.result(), Some(Err(CallError::Panicked(_)))));
    assert_eq!(notes(), ["spawned dropped"]);
    check(&mut cluster);
}

#[test]
fn an_object_that_leaves_ends_a_spawned_future_that_waits_for_it_once() {
    set_on_drop(|_| {
        Box::pin(async {
            sleep(20 * MS).await;
            0
        })
    });
    let mut cluster = Cluster::with(1, CoreConfig { idle_ns: 5_000_000, ..CoreConfig::default() });
    let mut spawns = cluster.start(
        0,
        hooked(1).call(shared(async |_| {
            let object = this::<Thing<HOOKED>>();
            spawn(async move {
                let _bomb = Bomb { name: "spawned", panics: false };
                sleep(12 * MS).await;
                let _ = object.call(shared(async |thing| thing.count.get())).await;
                note("not reached");
            })
            .expect("room");
            0
        })),
    );
    assert_eq!(spawns.result(), Some(Ok(0)));
    cluster.pass_ms(40);
    cluster.settle();
    assert_eq!(notes(), ["spawned dropped"]);
    check(&mut cluster);
}

/// Wakes the task it is dropped in, as the guard of a mutex does when another branch of the task waits for it.
struct WakesOwnTask(Waker);

impl Drop for WakesOwnTask {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}

async fn wakes_own_task() -> WakesOwnTask {
    poll_fn(|context| Poll::Ready(WakesOwnTask(context.waker().clone()))).await
}

fn naps(ms: u32) -> Shared<NEVER> {
    shared(async move |_| {
        let _guard = wakes_own_task().await;
        sleep(ms * MS).await;
        0
    })
}

#[test]
fn a_future_that_wakes_its_own_task_while_it_is_dropped_stays_dropped() {
    let mut cluster = Cluster::new(1);
    // Cancelled.
    let mut cancels = cluster.start(0, async {
        let mut call = Box::pin(never(1).call(naps(20)));
        poll_fn(|context| {
            assert!(call.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        sleep(2 * MS).await;
    });
    cluster.pass_ms(4);
    assert_eq!(cancels.result(), Some(()));
    check(&mut cluster);
    // A panic, that of another call of its object, and the end of what the object had spawned.
    let mut others = cluster.start(0, never(2).call(naps(20)));
    let panics = shared(async |_| {
        spawn(async {
            let _guard = wakes_own_task().await;
            sleep(20 * MS).await;
        })
        .expect("room");
        let _guard = wakes_own_task().await;
        sleep(MS).await;
        panic!("on purpose")
    });
    let mut panics = cluster.start(0, never(2).call(panics));
    cluster.pass_ms(3);
    assert!(matches!(panics.result(), Some(Err(CallError::Panicked(_)))));
    assert!(matches!(others.result(), Some(Err(CallError::OutcomeUnknown(_)))));
    check(&mut cluster);
}

type Stashed = Pin<Box<dyn Future<Output = Result<u64, CallError>>>>;

thread_local! {
    static STASH: RefCell<Option<Stashed>> = const { RefCell::new(None) };
}

/// Drops the call in the stash.
struct DropsStash;

impl Drop for DropsStash {
    fn drop(&mut self) {
        let call = STASH.take();
        drop(call);
    }
}

#[test]
fn a_failed_batch_may_drop_arguments_whose_destructor_cancels_another_of_its_calls() {
    let mut cluster = Cluster::new(1);
    let mut holds = cluster.start(
        0,
        never(1).call(exclusive(async |_| {
            sleep(5 * MS).await;
            0
        })),
    );
    // Both wait for the held object, and depend on a batch that fails.
    let caller = durable(1).call(exclusive(async |thing| {
        thing.count.set(1);
        0
    }));
    let _ = cluster.start(0, async {
        assert_eq!(caller.await, Ok(0));
        let stash = DropsStash;
        let mut first = Box::pin(never(1).call(shared(async move |_| {
            let _stash = stash;
            0
        })));
        let mut second: Stashed = Box::pin(never(1).call(get()));
        poll_fn(|context| {
            assert!(first.as_mut().poll(context).is_pending());
            assert!(second.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        STASH.set(Some(second));
        note(format!("{:?}", first.await));
    });
    let mut behind = cluster.start(0, never(1).call(get()));
    cluster.faults().fault_next(Verb::Commit, Fault::Fail);
    cluster.commit();
    cluster.pass_ms(6);
    assert_eq!(notes(), ["Err(SaveFailed)"]);
    assert_eq!((holds.result(), behind.result()), (Some(Ok(0)), Some(Ok(0))));
    check(&mut cluster);
}

#[test]
fn a_call_that_is_followed_by_a_desk_without_room_is_cancelled() {
    let mut cluster = Cluster::new(1);
    let mut made = cluster.start(0, async {
        let mut call = never(1).call(naps(1_000));
        poll_fn(|context| {
            assert!(Pin::new(&mut call).poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        // Boxed, as the block would otherwise be a future of a future.
        Box::new(Some(call))
    });
    let call = made.result().expect("made").expect("just put there");
    let desk = cluster.cores[0].desk().clone();
    while desk.leave(Box::new(|_| ())).is_ok() {}
    let mut followed = ByHand::started(call);
    assert!(matches!(followed.result(), Some(Err(CallError::OutcomeUnknown(_)))));
    cluster.pass_ms(2);
    assert_eq!(cluster.live(), 0);
}
