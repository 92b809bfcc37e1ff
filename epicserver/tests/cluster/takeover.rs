//! Nodes that are killed or stop under load: the node that stands by takes over, the data included.

use crate::world::{Game, World};

/// Ends the owner of all objects again and again; each time another process of the machine takes over what it had.
async fn owners_end(name: &str, threads: &'static str, rounds: usize, in_order: bool) {
    let (world, mut owner) = World::found(name, threads).await;
    let game = Game::start(world.client.pool(), 50);
    for _ in 0..rounds {
        game.play_on(60).await;
        let next = world.start().await;
        world.has_member(next.id).await;
        game.excuse(&world.view(), owner.id);
        if in_order {
            assert!(owner.stop().await, "a node that is told to stop ends well");
        } else {
            owner.kill().await;
        }
        world.owned_by(next.id).await;
        owner = next;
    }
    game.play_on(60).await;
    let (findings, failed) = game.end().await;
    assert_eq!((findings.lost_saves, failed), (0, 0), "{findings:?}");
    // Barrels live in memory only, and may begin again more than once while their node lets go of them.
    assert!(in_order || findings.wrong == 0, "{findings:?}");
    assert!(findings.acknowledged_saves > 100, "{findings:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_lose_nothing_that_was_acknowledged_dedicated() {
    owners_end("kills-dedicated", "dedicated", 10, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_lose_nothing_that_was_acknowledged_inline() {
    owners_end("kills-inline", "inline", 10, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_leave_lose_nothing() {
    owners_end("leave", "dedicated", 2, true).await;
}
