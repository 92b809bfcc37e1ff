//! A store that hangs or is lost: whoever waits for a batch waits no longer than the call it belongs to.

use std::sync::mpsc;
use std::time::Duration;

use epicserver_storage::{Fault, FaultPlan, FaultyStore, MemoryStore, Store, StoreId, Verb};

use super::cluster::{ByHand, Cluster};
use super::remote::{Ledger, Put};
use super::thing::{
    DURABLE, NEVER, Never, Shared, Thing, Ungated, durable, never, note, notes, shared, ungated,
};
use crate::context::{blocking, spawn};
use crate::core::{CoreConfig, Event};
use crate::driver::Wait;
use crate::error::{CallError, Executed, Loss, Rejection};
use crate::node::Node;

const MS: Duration = Duration::from_millis(1);
const TIMEOUT: CallError = CallError::OutcomeUnknown(Loss::Timeout);
const EXPIRED: CallError = CallError::Rejected(Rejection::Expired);

fn tick() -> Shared<DURABLE> {
    shared(async |thing: &Thing<DURABLE>| thing.tick())
}

#[test]
fn a_call_from_outside_whose_batch_hangs_ends_at_its_deadline_and_its_change_stays() {
    let mut cluster = Cluster::new(2);
    for core in 0..2 {
        let key = cluster.key_on(core, 0);
        let mut short = ByHand::start(cluster.outside::<DURABLE>(0, key).call(tick()).within(20 * MS));
        let mut long = ByHand::start(cluster.outside::<DURABLE>(0, key).call(tick()).within(500 * MS));
        cluster.run();
        cluster.pass_ms(18);
        assert_eq!(short.result(), None, "it has time");
        cluster.pass_ms(4);
        assert_eq!((short.result(), long.result()), (Some(Err(TIMEOUT)), None));
        cluster.commit();
        assert_eq!(long.result(), Some(Ok(2)), "nothing was dropped");
        assert_eq!(cluster.saved_count::<Thing<DURABLE>>(key), Some(2));
    }
}

#[test]
fn work_that_cannot_start_in_time_never_starts() {
    let mut cluster = Cluster::new(1);
    let spawns = shared(async |thing: &Thing<DURABLE>| {
        thing.tick();
        let later = async { note(format!("spawned {:?}", blocking(|| note("ran")).await)) };
        spawn(later).expect("room");
        match blocking(|| note("ran")).await {
            Ok(()) => 1,
            Err(error) => {
                note(format!("method {error:?}"));
                2
            }
        }
    });
    let mut called = cluster.start(0, durable(1).call(spawns).within(50 * MS));
    cluster.pass_ms(55);
    assert_eq!(called.result(), Some(Err(TIMEOUT)));
    cluster.leap_ms(10_100);
    assert_eq!(notes(), [format!("spawned {:?}", Err::<(), _>(EXPIRED))], "the method itself was cancelled");
    cluster.commit();
    assert!(cluster.works.is_empty());
    cluster.leap_ms(10_100);
}

fn peek() -> Ungated<DURABLE> {
    ungated(async |thing: &Thing<DURABLE>| thing.count.get())
}

#[test]
fn what_an_ungated_method_tells_leaves_at_once() {
    let mut cluster = Cluster::new(2);
    for core in 0..2 {
        let key = cluster.key_on(core, 0);
        assert_eq!(cluster.start(0, durable(key).call(tick())).result(), Some(Ok(1)));
        let mut told = ByHand::start(cluster.outside::<DURABLE>(0, key).call(peek()));
        let mut gated =
            ByHand::start(cluster.outside::<DURABLE>(0, key).call(shared(async |thing| thing.count.get())));
        cluster.run();
        assert_eq!((told.result(), gated.result()), (Some(Ok(1)), None));
        cluster.commit();
        assert_eq!(gated.result(), Some(Ok(1)));
    }
}

#[test]
fn who_was_told_by_an_ungated_method_outlives_the_batch() {
    let mut cluster = Cluster::new(2);
    for core in 0..2 {
        let (asks, key) = (cluster.key_on(0, 1), cluster.key_on(core, 0));
        assert_eq!(cluster.start(0, durable(key).call(tick())).result(), Some(Ok(1)));
        let ask = shared(async move |thing: &Never| {
            let told = durable(key).call(peek()).await.expect("served");
            thing.count.update(|count| count + told);
            thing.count.get()
        });
        let before = u64::from(core);
        assert_eq!(cluster.start(0, never(asks).call(ask)).result(), Some(Ok(before + 1)));
        cluster.faults().fault_next(Verb::Commit, Fault::Fail);
        cluster.commit();
        let count = shared::<NEVER, _>(async |thing| thing.count.get());
        assert_eq!(cluster.start(0, never(asks).call(count)).result(), Some(Ok(before + 1)));
        assert_eq!(
            cluster.start(0, durable(key).call(peek())).result(),
            Some(Ok(0)),
            "what it was told is gone"
        );
    }
}

#[test]
fn calls_that_are_held_up_by_what_waits_to_be_saved_end_at_their_deadlines() {
    let config = CoreConfig { dirty_len_max: 8, ..CoreConfig::default() };
    let mut cluster = Cluster::with(1, config);
    let mut first = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(tick()).within(100 * MS));
    cluster.run();
    let mut second = ByHand::start(cluster.outside::<DURABLE>(0, 2).call(tick()).within(100 * MS));
    let mut third = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(tick()).within(100 * MS));
    cluster.run();
    assert!(!cluster.cores[0].is_ready(), "nothing may change any more");
    cluster.pass_ms(200);
    let results = [first.result(), second.result(), third.result()];
    assert_eq!(results, [Some(Err(TIMEOUT)), Some(Err(EXPIRED)), Some(Err(EXPIRED))]);
    cluster.commit();
    let mut again = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(tick()));
    cluster.settle();
    assert_eq!(again.result(), Some(Ok(2)), "what ran is there, and nothing else");
}

#[test]
fn when_the_store_is_lost_everything_that_waits_is_told_and_nothing_starts() {
    let mut cluster = Cluster::new(1);
    let mut waiting = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(tick()));
    cluster.run();
    cluster.step(0, Event::StoreLost);
    cluster.run();
    assert_eq!(waiting.result(), Some(Err(CallError::OutcomeUnknown(Loss::OwnerLost))));
    // No lease that is renewed mends it.
    cluster.step(0, Event::Lease(u64::MAX));
    let mut fresh = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(tick()));
    cluster.run();
    let error = fresh.result().expect("at once").expect_err("nothing starts");
    assert!(error.executed() == Executed::No && error.to_string().contains("store"), "{error}");
}

fn node(store: impl epicserver_storage::Store + 'static) -> Node {
    let builder = Node::builder().bind::<(Ledger,)>().cores(2).wait(Wait::Park).pin(false);
    builder.store(store).start().expect("a node in memory starts")
}

/// A day: what ends before it does not end by it.
const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_node_whose_store_is_lost_ends_every_call_and_says_that_it_is_not_well() {
    let plan = FaultPlan::none().fault(Verb::Commit, 0, Fault::SyncFailed { written: true });
    let node = node(FaultyStore::new(MemoryStore::new(StoreId(1)), plan, |_| {}));
    let pool = node.pool();
    let first = pool.get::<Ledger>(1).call(Put { by: 1 }).within(DAY).await;
    assert_eq!(first, Err(CallError::OutcomeUnknown(Loss::OwnerLost)));
    assert!(!node.is_healthy());
    for key in 0..10 {
        // Their core may not have heard of it yet; then they wait for their state, which nobody fetches any more.
        let error = pool.get::<Ledger>(key).call(Put { by: 1 }).within(DAY).await.expect_err("it is lost");
        let told = matches!(error, CallError::Unavailable(_) | CallError::OutcomeUnknown(Loss::OwnerLost));
        assert!(told, "{error}");
    }
    drop(node);
}

#[tokio::test]
async fn a_node_whose_store_hangs_can_be_dropped() {
    let (hangs, begun) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    let plan = FaultPlan::none().delay(Verb::Commit, 0, 1);
    let ends = std::sync::Mutex::new(ends);
    let hang = move |_| {
        hangs.send(()).expect("the test waits for it");
        let _ = ends.lock().expect("no panic").recv();
    };
    let node = node(FaultyStore::new(MemoryStore::new(StoreId(1)), plan, hang));
    let call = tokio::spawn(node.pool().get::<Ledger>(1).call(Put { by: 1 }).within(DAY));
    tokio::task::spawn_blocking(move || begun.recv()).await.expect("no panic").expect("it commits");
    assert!(!call.is_finished());
    drop(node);
    assert_eq!(call.await.expect("no panic"), Err(CallError::OutcomeUnknown(Loss::OwnerLost)));
    drop(end);
}

#[tokio::test]
async fn a_store_of_a_nodes_own_outlives_the_node() {
    let store = MemoryStore::new(StoreId(1));
    for before in 0..3 {
        let node = node(store.clone());
        let pool = node.pool();
        assert_eq!(pool.get::<Ledger>(1).call(Put { by: 1 }).within(DAY).await, Ok(before + 1));
        assert!(node.shutdown(DAY).await, "it stops in order");
        // What is still under way from there is refused.
        let stored = store.clone().fences().expect("memory");
        assert!(stored.iter().all(|fence| fence.epoch == before + 1), "{:?}", stored.first());
    }
}
