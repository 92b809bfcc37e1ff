//! A whole node on real threads: calls from outside, across cores, and an orderly end.

use std::time::Duration;

use super::bench::{Account, Deposit};
use super::harness::{Add, Get, Nested, Node as Object, Spin, node as object};
use crate::core::CoreConfig;
use crate::driver::Wait;
use crate::node::Node;

fn start(cores: u16, wait: Wait) -> Node {
    Node::builder()
        .bind::<(Object,)>()
        .cores(cores)
        .wait(wait)
        .pin(false)
        .core_config(CoreConfig::default())
        .start()
        .expect("a node in memory starts")
}

#[tokio::test]
async fn calls_from_outside_reach_objects_on_every_core() {
    let node = start(2, Wait::Park);
    let pool = node.pool();
    for key in 0..100u64 {
        assert_eq!(pool.get::<Object>(key).call(Add { by: key }).await, Ok(key));
    }
    for key in 0..100u64 {
        assert_eq!(pool.get::<Object>(key).call(Get {}).await, Ok(key));
    }
    let path: Vec<u64> = (2..20).step_by(2).collect();
    assert_eq!(pool.get::<Object>(0).call(Nested { path }).await, Ok(9));
    // A core tells what it did when it has done it, which is after its answers.
    let told = async {
        while node.stats().calls < 210 {
            tokio::task::yield_now().await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(5), told).await;
    let stats = node.stats();
    assert!(told.is_ok() && stats.cross_core_calls > 0, "{stats:?}");
    assert!(node.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_node_keeps_to_its_memory_budget_and_forgets_no_state() {
    let budget = 200_000;
    let node =
        Node::builder().bind::<(Account,)>().cores(2).wait(Wait::Park).pin(false).memory_budget(budget);
    let node = node.start().expect("a node in memory starts");
    let pool = node.pool();
    for key in 0..3_000u64 {
        assert_eq!(pool.get::<Account>(key).call(Deposit { amount: key }).await, Ok(key));
    }
    let kept = async {
        while node.stats().budget_dropped < 1_000 || node.stats().memory_len > budget {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), kept).await.is_ok(), "{:?}", node.stats());
    assert!(node.stats().objects > 100, "no more than it must: {:?}", node.stats());
    for key in 0..3_000u64 {
        assert_eq!(pool.get::<Account>(key).call(Deposit { amount: 1 }).await, Ok(key + 1));
    }
    assert!(node.shutdown(Duration::from_secs(5)).await);
}

/// The demo once stood still for a second now and then: messages that had waited for room in a full ring were pushed
/// later without waking the other core, and the core that waited for room looked for it the wrong way round.
#[tokio::test]
async fn a_burst_beyond_the_rings_loses_no_wake_up() {
    let node = start(2, Wait::Park);
    let pool = node.pool();
    for _ in 0..20 {
        let calls: Vec<_> = (0..1000u64)
            .map(|key| {
                let object = pool.get::<Object>(key * 2);
                // Even keys are called shared: nobody waits for anybody but for room in the rings.
                let path = (key * 2 + 2..key * 2 + 42).step_by(2).collect();
                tokio::spawn(async move { object.call(Nested { path }).await })
            })
            .collect();
        for call in calls {
            assert!(call.await.expect("no panic").is_ok());
        }
    }
    assert!(node.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_call_after_the_end_of_its_node_is_an_error_and_no_hang() {
    let node = start(1, Wait::Auto);
    let reference = node.pool().get::<Object>(1);
    drop(node);
    let error = reference.call(Get {}).await.expect_err("no node");
    assert!(error.retry_safe(), "{error}");
}

#[tokio::test]
async fn bench_cross_core() {
    if cfg!(debug_assertions) {
        return;
    }
    for wait in [Wait::Spin, Wait::Park] {
        let node = start(2, wait);
        let pool = node.pool();
        // The callers' objects live on core `partition % 2`: take one caller, and callees of each core apart.
        let of_core = |core: u16| {
            move |key: &u64| crate::key::StoredKey::canonical(key, |view| view.partition()) % 2 == core
        };
        let caller = (0..100u64).find(of_core(0)).expect("half of all keys");
        for (name, core) in [("same core", 0), ("cross core", 1)] {
            let callees: Vec<_> = (1000..3000u64).filter(of_core(core)).take(1000).map(object).collect();
            let calls = if wait == Wait::Spin || core == 0 { 1_000_000 } else { 20_000 };
            let start = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
            let call =
                pool.get::<Object>(caller).call(Spin { callees, calls }).within(Duration::from_secs(100));
            assert_eq!(call.await, Ok(0));
            let took = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970") - start;
            eprintln!("{wait:?} {name}: {:.1} ns a call", took.as_nanos() as f64 / calls as f64);
        }
    }
}
