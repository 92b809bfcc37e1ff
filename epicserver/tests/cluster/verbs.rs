//! Clusters over InfiniBand verbs: what befalls the device.

/// What needs a device of InfiniBand verbs.
mod in_guest {
    use tokio::process::Command;

    use crate::play::Outcome;
    use crate::world::{World, play_on, start_game};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_device_that_is_taken_away_under_load_and_given_back_loses_nothing_that_was_acknowledged() {
        let (world, _keeper) = World::found_over("verbs-device", "inline", "rdma").await;
        let node = world.start().await;
        world.owned_by(node.id).await;
        let game = start_game(&world, 5);
        play_on(&game, 10).await;
        // A lease may end meanwhile though nobody died.
        game.excuse(&world.view(), &[node.id].into());
        // The system waits until all processes have let go of it.
        shell("rdma link del rxe0 && rdma link add rxe0 type rxe netdev veth0").await;
        play_on(&game, 20).await;
        let Outcome { findings, failed, .. } = game.end().await;
        assert_eq!((findings.wrong, findings.lost_saves, failed), (0, 0, 0), "{findings:?}");
        assert!(findings.acknowledged_saves > 0, "{findings:?}");
        world.end().await;
    }

    /// Runs it as root of this guest.
    async fn shell(script: &str) {
        let run = Command::new("sh").args(["-c", script]).status().await;
        assert!(run.expect("sh runs").success(), "{script}");
    }
}
