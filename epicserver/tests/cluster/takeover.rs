//! Nodes that are killed under load: others take over what they had, the data included.

use crate::play::Outcome;
use crate::world::{Over, TCP, TIPC, World, play_on, start_game};

/// Kills an owner again and again; each time another process of the machine takes over what it had.
async fn owners_are_killed(over: Over, name: &str, threads: &'static str) {
    let (world, mut owner) = World::found_on(over, name, threads).await;
    let game = start_game(&world, over.of(50) as usize);
    for _ in 0..over.of(10) {
        play_on(&game, over.of(60)).await;
        let next = world.start().await;
        world.shared_by(&[owner.id, next.id]).await;
        game.excuse(&world.view(), &[owner.id].into());
        owner.kill().await;
        world.owned_by(next.id).await;
        owner = next;
    }
    play_on(&game, over.of(60)).await;
    let Outcome { findings, failed, .. } = game.end().await;
    assert_eq!((findings.wrong, findings.lost_saves, failed), (0, 0, 0), "{findings:?}");
    assert!(findings.acknowledged_saves >= over.saves_min, "{findings:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_lose_nothing_that_was_acknowledged_dedicated() {
    owners_are_killed(TCP, "kills-dedicated", "dedicated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_lose_nothing_that_was_acknowledged_inline() {
    owners_are_killed(TCP, "kills-inline", "inline").await;
}

mod in_guest {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn kills_over_tipc_lose_nothing_that_was_acknowledged() {
        super::owners_are_killed(super::TIPC, "kills-tipc", "dedicated").await;
    }

    #[cfg(feature = "rdma")]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn kills_over_verbs_lose_nothing_that_was_acknowledged() {
        super::owners_are_killed(crate::world::RDMA, "kills-rdma", "inline").await;
    }
}
