//! Owners that are stopped until others took over.

use crate::world::{Game, World, until};

/// The owner shares no data directory with the data node, so that nobody can end it: it comes back with what it had not saved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_zombie_would_save_is_refused() {
    let (world, first) = World::found("zombies", "dedicated").await;
    let keeper = world.start_plain().await;
    let one = world.start_elsewhere(&world.address(first.id)).await;
    world.shared_by(&[first.id, one.id]).await;
    first.kill().await;
    world.owned_by(one.id).await;
    let two = world.start_elsewhere(&world.address(keeper.id)).await;
    world.shared_by(&[one.id, two.id]).await;
    let game = Game::start(world.client.pool(), 100);
    game.play_on(500).await;
    game.excuse(&world.view(), one.id);
    one.signal("STOP").await;
    world.owned_by(two.id).await;
    game.play_on(100).await;
    one.signal("CONT").await;
    // It notices, drops everything, and joins again as another life of itself.
    let is_back =
        |member: &epicserver::cluster::Member| member.node.id == one.id && member.node.incarnation > 1;
    until("the zombie joins again", || world.view().members.iter().any(is_back)).await;
    game.play_on(100).await;
    let (findings, failed) = game.end().await;
    assert_eq!((findings.wrong, findings.lost_saves, failed), (0, 0, 0), "{findings:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_owner_of_this_machine_is_ended_after_its_lease() {
    let (world, mut owner) = World::found("stopped", "dedicated").await;
    let next = world.start().await;
    world.shared_by(&[owner.id, next.id]).await;
    let game = Game::start(world.client.pool(), 20);
    game.play_on(50).await;
    game.excuse(&world.view(), owner.id);
    owner.signal("STOP").await;
    world.owned_by(next.id).await;
    until("the stopped process is ended", || owner.has_ended()).await;
    let (findings, failed) = game.end().await;
    assert_eq!((findings.wrong, findings.lost_saves, failed), (0, 0, 0), "{findings:?}");
    world.end().await;
}
