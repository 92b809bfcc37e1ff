//! Owners that are stopped until others took over.

use crate::play::Outcome;
use crate::world::{Over, TCP, TIPC, World, play_on, stands_still, start_game, until};

/// The zombie shares no data directory with the data node, so that nobody can end it. It is stopped while it waits for a save that
/// the data node has not read; that data node is killed, the next one gives the zombie's objects to others, and the zombie comes
/// back and saves. This is done as often as it takes until many such saves were tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_zombie_saves_is_refused() {
    let (world, mut keeper) = World::found_plain("zombies", "dedicated").await;
    let mut next_keeper = world.start_plain().await;
    world.has_member(next_keeper.id).await;
    let seed = world.address(next_keeper.id);
    let zombie = world.start_elsewhere(&seed).await;
    let steady = world.start_elsewhere(&seed).await;
    world.shared_by(&[zombie.id, steady.id]).await;
    let game = start_game(&world, 300);
    let mut tried = 0;
    for _ in 0..ROUNDS_MAX {
        world.shared_by(&[zombie.id, steady.id]).await;
        play_on(&game, 900).await;
        keeper.signal("STOP").await;
        stands_still(&game).await;
        game.excuse(&world.view(), &[zombie.id].into());
        zombie.signal("STOP").await;
        keeper.kill().await;
        // A process that starts now might be quicker at the lock of the data.
        world.kept_by(next_keeper.id).await;
        keeper = std::mem::replace(&mut next_keeper, world.start_plain().await);
        let incarnation = world.incarnation(zombie.id);
        until("others own the zombie's objects", || world.partitions_of(zombie.id) == 0).await;
        zombie.signal("CONT").await;
        // It is told, drops everything, and joins again as another life of itself.
        until("the zombie joins again", || world.incarnation(zombie.id) > incarnation).await;
        tried = world.refused_saves(zombie.id).await;
        assert_eq!(world.stray_saves().await, 0);
        if tried >= TRIED_MIN {
            break;
        }
    }
    play_on(&game, 300).await;
    let Outcome { findings, failed, .. } = game.end().await;
    assert_eq!((findings.wrong, findings.lost_saves, failed), (0, 0, 0), "{findings:?}");
    assert!(tried >= TRIED_MIN, "only {tried} saves of a zombie were tried");
    world.end().await;
}

async fn an_owner_is_stopped(over: Over, name: &str) {
    let (world, mut owner) = World::found_on(over, name, "dedicated").await;
    let next = world.start().await;
    world.shared_by(&[owner.id, next.id]).await;
    let game = start_game(&world, over.of(20) as usize);
    play_on(&game, over.of(50)).await;
    game.excuse(&world.view(), &[owner.id].into());
    owner.signal("STOP").await;
    world.owned_by(next.id).await;
    until("the stopped process is ended", || owner.has_ended()).await;
    let Outcome { findings, failed, .. } = game.end().await;
    assert_eq!((findings.wrong, findings.lost_saves, failed), (0, 0, 0), "{findings:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_owner_of_this_machine_is_ended_after_its_lease() {
    an_owner_is_stopped(TCP, "stopped").await;
}

mod in_guest {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stopped_owner_is_ended_after_its_lease_over_tipc() {
        super::an_owner_is_stopped(super::TIPC, "stopped-tipc").await;
    }
}

/// Saves of a zombie that are to be tried.
const TRIED_MIN: u64 = 20;
const ROUNDS_MAX: usize = 8;
