//! What does not belong to the cluster, and what cannot work.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use epicserver::launch;
use epicserver::settings::Settings;

use crate::world::{Game, World, elsewhere};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_harm_nobody() {
    let (world, first) = World::found("strangers", "dedicated").await;
    let game = Game::start(world.client.pool(), 20);
    let address = world.address(first.id);
    let half_open: Vec<_> = (0..500).filter_map(|_| TcpStream::connect(&address).ok()).collect();
    for garbage in [&[0u8; 64][..], &[0xff; 4096], b"GET / HTTP/1.1\r\n\r\n", &u32::MAX.to_le_bytes()] {
        let mut stranger = TcpStream::connect(&address).expect("the port is open");
        stranger.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stranger.write_all(garbage).expect("written");
        let mut answer = Vec::new();
        // Whatever it says, it hangs up.
        let _ = stranger.read_to_end(&mut answer);
    }
    drop(half_open);
    game.play_on(200).await;
    let wrong = world.folder().join("wrong-secret");
    let text = std::fs::read_to_string(world.folder().join("cluster.secret")).expect("the cluster's secret");
    let other: String = text.chars().map(|letter| if letter == 'a' { 'b' } else { letter }).collect();
    std::fs::write(&wrong, other).expect("written");
    let refused = launch::start::<()>(&elsewhere(&address, wrong)).await;
    assert!(refused.is_err(), "a node with a wrong secret joined");
    let (findings, failed) = game.end().await;
    assert_eq!((findings.wrong, findings.lost_saves, findings.unknown, failed), (0, 0, 0, 0), "{findings:?}");
    world.end().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_refused_in_words() {
    let settings = Settings::in_folder(std::path::Path::new("/proc/epicserver"));
    let error = launch::start::<()>(&settings).await.expect_err("nothing can be written there");
    assert!(error.to_string().contains("/proc/epicserver"), "{error}");
}
