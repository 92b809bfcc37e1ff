//! Wakers outlive their tasks, and slots are used again, on other cores too: no wake may get lost over that.

use std::cell::{Cell, RefCell};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::cluster::Cluster;
use super::thing::{NEVER, Shared, never, shared};
use crate::context::sleep;
use crate::core::Event;

thread_local! {
    static WAKER: RefCell<Option<Waker>> = const { RefCell::new(None) };
    static GO: Cell<bool> = const { Cell::new(false) };
}

/// A call that leaves its waker to the test and ends when it may go.
fn waits() -> Shared<NEVER> {
    shared(async |_| {
        std::future::poll_fn(|context| {
            WAKER.set(Some(context.waker().clone()));
            if GO.get() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        3
    })
}

fn take_waker() -> Waker {
    WAKER.take().expect("the call has run")
}

#[test]
fn a_wake_from_another_thread_reaches_its_task_on_its_core() {
    let mut cluster = Cluster::new(2);
    let far = cluster.key_on(1, 0);
    let mut call = cluster.start(0, never(far).call(waits()));
    assert_eq!(call.result(), None);
    GO.set(true);
    take_waker().wake();
    cluster.run();
    assert_eq!(call.result(), Some(Ok(3)));
}

#[test]
fn a_stale_wake_on_its_way_to_one_core_swallows_no_wake_of_the_slots_next_use_on_another() {
    let mut cluster = Cluster::new(2);
    let (near, far) = (cluster.key_on(0, 0), cluster.key_on(1, 0));
    GO.set(true);
    let mut calls = cluster.start(0, async move {
        let first = never(near).call(waits()).await.expect("served");
        sleep(Duration::from_millis(1)).await;
        first + never(far).call(waits()).await.expect("served")
    });
    let stale = take_waker();
    GO.set(false);
    // The slot is free; the note about it lies on the desk of core 0 while its next use runs on core 1.
    stale.wake();
    cluster.now += 2_000_000;
    cluster.step(0, Event::Tick);
    cluster.step(0, Event::Turns(100));
    cluster.deliver(1);
    cluster.step(1, Event::Turns(100));
    GO.set(true);
    take_waker().wake();
    cluster.run();
    assert_eq!(calls.result(), Some(6));
}

#[test]
fn a_wake_after_the_end_of_its_core_swallows_no_wake_of_the_slots_next_use() {
    GO.set(true);
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, never(1).call(waits()));
    drop(cluster);
    take_waker().wake();
    GO.set(false);
    let mut cluster = Cluster::new(1);
    let mut calls: Vec<_> = (0..200)
        .map(|key| {
            let call = cluster.start(0, never(key).call(waits()));
            (call, take_waker())
        })
        .collect();
    GO.set(true);
    for (call, waker) in &mut calls {
        waker.wake_by_ref();
        cluster.run();
        assert_eq!(call.result(), Some(Ok(3)));
    }
}

#[test]
fn a_stale_wake_of_a_slot_that_is_under_way_or_with_another_core_harms_nobody() {
    let mut cluster = Cluster::new(2);
    let (near, far) = (cluster.key_on(0, 0), cluster.key_on(1, 0));
    GO.set(true);
    let mut calls = cluster.start(0, async move {
        let first = never(near).call(waits()).await.expect("served");
        sleep(Duration::from_millis(1)).await;
        first + never(far).call(waits()).await.expect("served")
    });
    let stale = take_waker();
    GO.set(false);
    cluster.now += 2_000_000;
    cluster.step(0, Event::Tick);
    cluster.step(0, Event::Turns(100));
    stale.wake_by_ref();
    cluster.step(0, Event::Desk);
    cluster.deliver(1);
    cluster.step(1, Event::Turns(100));
    stale.wake_by_ref();
    GO.set(true);
    take_waker().wake();
    cluster.step(1, Event::Desk);
    cluster.step(1, Event::Turns(100));
    stale.wake();
    cluster.run();
    assert_eq!(calls.result(), Some(6));
}
