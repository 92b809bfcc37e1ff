//! A rolling upgrade: old and new program side by side over the same objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use epicserver::prelude::*;
use tokio::task::JoinHandle;

use crate::veterans::{new, old};
use crate::world::{Over, TCP, TIPC, World, until};

/// Adds points to all veterans, round after round, and knows what each must have.
struct Load {
    is_over: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    task: JoinHandle<BTreeMap<u64, u64>>,
}

impl Load {
    fn start(pool: Pool, veterans: u64) -> Self {
        let (is_over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ends, counted) = (is_over.clone(), rounds.clone());
        let task = tokio::spawn(async move {
            let mut scores = BTreeMap::new();
            while !ends.load(Ordering::Acquire) {
                for key in 0..veterans {
                    let expected = scores.get(&key).copied().unwrap_or(0) + key;
                    // Nothing is lost, doubled or misread, and no call fails.
                    assert_eq!(pool.get::<old::Veteran>(key).add(key).await, Ok(expected), "veteran {key}");
                    scores.insert(key, expected);
                }
                counted.fetch_add(1, Ordering::Release);
            }
            scores
        });
        Self { is_over, rounds, task }
    }

    async fn go_on(&self) {
        let before = self.rounds.load(Ordering::Acquire);
        until("the load goes on", || {
            self.task.is_finished() || self.rounds.load(Ordering::Acquire) > before + 1
        })
        .await;
    }

    async fn end(self) -> BTreeMap<u64, u64> {
        self.is_over.store(true, Ordering::Release);
        self.task.await.expect("every answer was right")
    }
}

async fn nodes_are_upgraded(over: Over, name: &str) {
    let (world, first) = World::found_as(over, name, "dedicated", "old").await;
    let veterans = over.of(40);
    let mut nodes = vec![first, world.start_as("old").await, world.start_as("old").await];
    world.shared_by(&nodes.iter().map(|node| node.id).collect::<Vec<_>>()).await;
    let load = Load::start(world.client.pool(), veterans);
    load.go_on().await;
    // The keeper goes first.
    for _ in 0..3 {
        nodes.push(world.start_as("new").await);
        world.shared_by(&nodes.iter().map(|node| node.id).collect::<Vec<_>>()).await;
        assert_eq!(world.view().schema("game.Veteran"), Some(2), "old nodes still read");
        load.go_on().await;
        assert!(nodes.remove(0).stop().await, "it stops in order");
        load.go_on().await;
    }
    world.shared_by(&nodes.iter().map(|node| node.id).collect::<Vec<_>>()).await;
    assert_eq!(world.view().schema("game.Veteran"), Some(3), "the upgrade is finished");
    load.go_on().await;
    let scores = load.end().await;
    let pool = world.client.pool();
    for key in 0..veterans {
        let rank = pool.get::<new::Veteran>(key).promote(format!("rank {key}")).await;
        assert_eq!(rank.as_deref(), Ok("private"));
    }
    // A process of the old program comes late: it owns nothing, and what only the new one knows stays.
    let late = world.start_as("old").await;
    world.has_member(late.id).await;
    assert_eq!((world.partitions_of(late.id), world.view().schema("game.Veteran")), (0, Some(3)));
    for (key, score) in scores {
        assert_eq!(pool.get::<new::Veteran>(key).score().await, Ok(score));
        let rank = pool.get::<new::Veteran>(key).promote(String::new()).await;
        assert_eq!(rank, Ok(format!("rank {key}")));
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_upgrade_loses_and_misreads_nothing() {
    nodes_are_upgraded(TCP, "upgrade").await;
}

mod in_guest {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_rolling_upgrade_over_tipc_loses_and_misreads_nothing() {
        super::nodes_are_upgraded(super::TIPC, "upgrade-tipc").await;
    }
}
