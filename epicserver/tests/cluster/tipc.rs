//! Clusters over TIPC: their processes need no addresses.

/// What needs a kernel with TIPC.
mod in_guest {
    use crate::world::{World, until};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_secret_is_enough_to_find_a_cluster() {
        let (world, first) = World::found_over("tipc-found", "inline", "tipc").await;
        let found = world.start_found().await;
        world.has_member(found.id).await;
        for id in [first.id, found.id] {
            assert!(world.address(id).starts_with("tipc:"), "{}", world.address(id));
        }
        let id = found.id;
        found.kill().await;
        until("a killed node is no member", || world.incarnation(id) == 0).await;
        world.end().await;
    }
}
