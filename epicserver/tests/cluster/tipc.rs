//! Clusters over TIPC: their processes need no addresses.

/// What needs a kernel with TIPC.
mod in_guest {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use epicserver_transport_tipc::{PacketListener, PacketSocket, ServiceAddress};

    use crate::play::Outcome;
    use crate::world::{World, play_on, start_game, until};

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

    /// Some bind the cluster's service and are none of it, some connect to its nodes and say nothing, or nonsense.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn strangers_on_the_network_are_refused_and_harm_nobody() {
        let (world, keeper) = World::found_over("tipc-strangers", "dedicated", "tipc").await;
        let service = service_of(&world, keeper.id);
        let foreign = ServiceAddress { service: service.service, instance: service.instance ^ 1 };
        let babbler = Babbler::start(foreign);
        let node = world.start_found().await;
        world.owned_by(node.id).await;
        let game = start_game(&world, 5);
        // Where the guest is slow a lease may end though nobody died.
        game.excuse(&world.view(), &[node.id].into());
        let address = service_of(&world, node.id);
        for _ in 0..2 {
            let silent: Vec<_> = (0..200).filter_map(|_| PacketSocket::begin(address).ok()).collect();
            assert!(silent.len() > 100, "only {} were let in", silent.len());
            for garbage in GARBAGE {
                // Behind all those it may not have its turn in time.
                let Ok(mut stranger) = PacketSocket::connect(address) else { continue };
                stranger.set_waits(Some(WAIT_MAX)).expect("a time limit");
                // Whatever it says, it is hung up on, and maybe before.
                let _ = stranger.send(garbage);
                while stranger.receive(&mut [0; 1024]).is_ok_and(|len| len > 0) {}
            }
            play_on(&game, 10).await;
        }
        let second = world.start_found().await;
        world.shared_by(&[node.id, second.id]).await;
        assert!(babbler.asked.load(Ordering::Acquire) > 0, "nobody has asked the stranger");
        let Outcome { findings, failed, .. } = game.end().await;
        assert_eq!((findings.wrong, findings.lost_saves, failed), (0, 0, 0), "{findings:?}");
        world.end().await;
    }

    /// Binds an address and tells nonsense to whoever connects, until it is dropped.
    struct Babbler {
        address: ServiceAddress,
        /// How many have connected.
        asked: Arc<AtomicUsize>,
        is_over: Arc<AtomicBool>,
    }

    impl Babbler {
        fn start(address: ServiceAddress) -> Self {
            let babbler = Self { address, asked: Arc::default(), is_over: Arc::default() };
            let (asked, is_over) = (babbler.asked.clone(), babbler.is_over.clone());
            let listener = PacketListener::bind(address).expect("a kernel with TIPC");
            tokio::task::spawn_blocking(move || {
                while !is_over.load(Ordering::Acquire) {
                    let Ok(mut socket) = listener.accept() else { continue };
                    let number = asked.fetch_add(1, Ordering::Release);
                    // One that has hung up already needs to be told nothing.
                    let _ = socket.send(GARBAGE[number % GARBAGE.len()]);
                }
            });
            babbler
        }
    }

    impl Drop for Babbler {
        /// The runtime waits for the listener, which waits for somebody.
        fn drop(&mut self) {
            self.is_over.store(true, Ordering::Release);
            drop(PacketSocket::connect(self.address));
        }
    }

    fn service_of(world: &World, id: u64) -> ServiceAddress {
        world.address(id).parse().expect("an address of TIPC")
    }

    const GARBAGE: [&[u8]; 4] = [&[0; 64], &[0xff; 4096], b"GET / HTTP/1.1\r\n\r\n", &u32::MAX.to_le_bytes()];
    const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(30);
}
