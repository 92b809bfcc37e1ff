//! The command that looks at a running cluster.

use std::process::Stdio;

use tokio::process::Command;

use crate::game::{Barrel, Player};
use crate::world::World;

async fn inspect(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_epicserver"))
        .arg("inspect")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the command runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text")).concat();
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_shows_members_and_where_an_object_lives() {
    let (world, first) = World::found("inspect", "dedicated").await;
    let folder = world.folder().display().to_string();
    let (good, text) = inspect(&["--data-dir", &folder, "--json"]).await;
    assert!(good, "{text}");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
    assert_eq!(
        (lines[0]["members"].as_u64(), lines[0]["partitions_unowned"].as_u64()),
        (Some(2), Some(0)),
        "{text}"
    );
    let owner = format!("{:016x}.1", first.id);
    let owner_line = lines.iter().find(|line| line["node"] == owner.as_str()).expect("the owner");
    assert_eq!(
        (owner_line["partitions"].as_u64(), owner_line["answered"].as_bool()),
        (Some(4096), Some(true)),
        "{text}"
    );
    for count in ["memory_bytes", "idle_dropped", "budget_dropped"] {
        assert!(owner_line[count].is_u64(), "{count}: {text}");
    }
    assert!(owner_line["local_share"].is_null() || owner_line["local_share"].is_f64(), "{text}");
    for count in ["frames_sent", "frames_received"] {
        assert!(owner_line[count].as_u64() > Some(0), "{count}: {text}");
    }

    let ask = |key: &'static str| {
        let folder = folder.clone();
        async move { inspect(&["object", "game.Player", key, "--data-dir", &folder, "--json"]).await }
    };
    let (good, text) = ask("player 1").await;
    assert!(good && text.contains(&owner), "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).expect("one object");
    assert_eq!((line["saved"].as_str(), line["policy"].as_str()), (Some("never"), Some("durable")), "{text}");
    let barrels: Vec<_> = (0..2).map(|key| world.client.pool().get::<Barrel>(key)).collect();
    for _ in 0..4 {
        let player = world.client.pool().get::<Player>("player 1");
        player.enter_level(barrels.clone()).await.expect("it answers");
    }
    let (good, text) = ask("player 1").await;
    let line: serde_json::Value = serde_json::from_str(&text).expect("one object");
    // Its score is 8 bytes, and each time a barrel fell was a save, or one with the next.
    assert!(good && line["version"].as_u64() > Some(1) && line["saved"] == "saved", "{text}");
    assert_eq!(
        (line["bytes"].as_u64(), line["saved_at"].as_u64() > Some(1_700_000_000)),
        (Some(8), true),
        "{text}"
    );
    let (good, text) = inspect(&["object", "game.Barrel", "1", "--data-dir", &folder]).await;
    assert!(good && text.contains("saved: never\npolicy: never"), "{text}");
    let (good, text) = inspect(&["object", "game.Dragon", "1", "--data-dir", &folder]).await;
    assert!(!good && text.contains("game.Barrel, game.Player"), "{text}");
    world.end().await;
}

#[tokio::test]
async fn it_says_what_is_missing() {
    let (good, text) = inspect(&["--data-dir", "no/such/folder"]).await;
    assert!(!good && text.contains("no/such/folder"), "{text}");
    let (good, text) = inspect(&[]).await;
    assert!(!good && text.contains("--data-dir"), "{text}");
}
