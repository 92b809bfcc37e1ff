//! Nodes that join and leave under load: objects move, with what is in them, and nobody notices.

use crate::ledger::Findings;
use crate::play::{Game, Outcome};
use crate::world::{World, play_on, start_game};

/// Ends a game in which nothing may have gone wrong: not one answer, not one call, not one object that is only in memory.
async fn end_well(game: Game) {
    let Outcome { findings, failed, retried } = game.end().await;
    let Findings { wrong, lost_saves, forgotten, unknown, acknowledged_saves, .. } = findings;
    assert_eq!((wrong, lost_saves, forgotten, unknown), (0, 0, 0, 0), "{findings:?}");
    assert_eq!((failed, retried), (0, 0), "{findings:?}");
    assert!(acknowledged_saves > 100, "{findings:?}");
}

async fn nodes_join(name: &str, threads: &'static str) {
    let (world, first) = World::found(name, threads).await;
    let game = start_game(&world, 50);
    play_on(&game, 100).await;
    let second = world.start().await;
    world.shared_by(&[first.id, second.id]).await;
    play_on(&game, 100).await;
    let third = world.start().await;
    world.shared_by(&[first.id, second.id, third.id]).await;
    play_on(&game, 100).await;
    end_well(game).await;
    world.end().await;
}

/// The first to leave owns objects only, the second keeps the data as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_leave_lose_nothing() {
    let (world, first) = World::found("leave", "dedicated").await;
    let (second, third) = (world.start().await, world.start().await);
    world.shared_by(&[first.id, second.id, third.id]).await;
    let game = start_game(&world, 50);
    play_on(&game, 100).await;
    assert!(second.stop().await, "a node that is told to stop ends well");
    world.shared_by(&[first.id, third.id]).await;
    play_on(&game, 100).await;
    assert!(first.stop().await, "and so does the keeper");
    world.owned_by(third.id).await;
    play_on(&game, 100).await;
    end_well(game).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_takes_its_share_dedicated() {
    nodes_join("join-dedicated", "dedicated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_takes_its_share_inline() {
    nodes_join("join-inline", "inline").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_may_have_the_name_of_a_host() {
    let (world, first) = World::found("named", "dedicated").await;
    let address = world.address(first.id);
    let (_, port) = address.rsplit_once(':').expect("an address with a port");
    let second = world.start_elsewhere(&format!("localhost:{port}")).await;
    world.shared_by(&[first.id, second.id]).await;
    assert!(second.stop().await, "a node that is told to stop ends well");
    world.end().await;
}

/// Each is given its share and killed, until the keeper has seen enough of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_killed_soon_after_each_start_get_nothing_more() {
    let (world, first) = World::found_wary("come-and-go", "600").await;
    let game = start_game(&world, 10);
    for _ in 0..3 {
        let next = world.start().await;
        world.shared_by(&[first.id, next.id]).await;
        game.excuse(&world.view(), &[next.id].into());
        next.kill().await;
        world.owned_by(first.id).await;
    }
    let fourth = world.start().await;
    world.has_member(fourth.id).await;
    play_on(&game, 100).await;
    let view = world.view();
    assert!(view.partitions.iter().all(|partition| partition.moving_to.is_none()), "nothing moves");
    assert_eq!(world.partitions_of(fourth.id), 0);
    assert!(world.balance_waits_ms().await > 0);
    let Outcome { findings, failed, .. } = game.end().await;
    assert_eq!((findings.wrong, findings.lost_saves, failed), (0, 0, 0), "{findings:?}");
    world.end().await;
}
