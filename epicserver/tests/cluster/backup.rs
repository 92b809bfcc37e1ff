//! Backups of a cluster that runs: taken under load, verified, started from.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use epicserver::cluster::{NodeId, View};
use epicserver::settings::Settings;
use epicserver::{Executed, launch};
use tokio::process::Command;

use crate::game::{Barrel, Player};
use crate::play::Outcome;
use crate::world::{World, path_text, play_on, start_game, until};

async fn command(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_epicserver")).args(arguments).stdin(Stdio::null()).output();
    let Output { status, stdout, stderr } = output.await.expect("the command runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.success(), text(stdout), text(stderr))
}

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).expect("one object a line")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_running_cluster_starts_with_what_was_acknowledged() {
    let (world, _first) = World::found("backup", "dedicated").await;
    let game = start_game(&world, 40);
    play_on(&game, 200).await;
    let scored = world.client.pool().get::<Player>("player 1").score().await.expect("it answers");
    let (folder, copy) = (path_text(world.folder()), path_text(&world.folder().with_extension("copy")));
    let (good, text, said) = command(&["backup", &copy, "--data-dir", &folder, "--json"]).await;
    assert!(good, "{said}");
    let records = json(&text)["records"].as_u64().expect("a count");
    assert!(records > 0, "{text}");
    // The game goes on meanwhile, and the cluster is verified beside it.
    play_on(&game, 100).await;
    let (good, text, said) = command(&["verify", &folder, "--json"]).await;
    assert!(good, "{text}{said}");
    let Outcome { findings, failed, .. } = game.end().await;
    assert_eq!((findings.wrong, findings.lost_saves, findings.unknown, failed), (0, 0, 0, 0), "{findings:?}");

    check_files(Path::new(&copy));
    let (good, text, said) = command(&["verify", &copy, "--json"]).await;
    assert!(good, "{text}{said}");
    assert_eq!((json(&text)["records"].as_u64(), json(&text)["damaged"].as_u64()), (Some(records), Some(0)));
    let (good, _, said) = command(&["backup", &copy, "--data-dir", &folder]).await;
    assert!(!good && said.contains("is not empty"), "{said}");
    start_from(Path::new(&copy), scored, &world).await;
    fs::remove_dir_all(&copy).expect("removed");
    world.end().await;
}

fn check_files(copy: &Path) {
    let mut names: Vec<_> =
        fs::read_dir(copy).expect("it is there").map(|entry| entry.expect("a name").file_name()).collect();
    names.sort();
    assert_eq!(names, ["cluster.secret", "epicserver.sqlite", "version"]);
    for name in ["cluster.secret", "epicserver.sqlite"] {
        let mode = fs::metadata(copy.join(name)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// While the old cluster still runs: it is another life.
async fn start_from(copy: &Path, scored: u64, old: &World) {
    let before = old.view();
    let settings = Settings { cores: Some(1), ..Settings::in_folder(copy) };
    let node = launch::start::<(Player, Barrel)>(&settings).await.expect("it starts");
    let found = node.pool().get::<Player>("player 1").score().await.expect("it answers");
    assert!(found >= scored, "{scored} were acknowledged before, {found} found");
    let view = node.view();
    let highest = before.partitions.iter().map(|state| state.epoch).max();
    assert!(view.partitions.iter().all(|state| Some(state.epoch) > highest));
    assert_ne!(view.store, before.store);
    assert_eq!(view.members.len(), 1, "nobody of the old life");
    node.shutdown(launch::PATIENCE).await;
    // What it saved is intact, and it is at home there now.
    let (good, text, said) = command(&["verify", &path_text(copy)]).await;
    assert!(good && text.contains("no damage"), "{text}{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_told_and_is_an_error_of_its_object_alone() {
    let (world, first) = World::found("damage", "dedicated").await;
    let barrels: Vec<_> = (0..3).map(|key| world.client.pool().get::<Barrel>(key)).collect();
    for name in ["Ann", "Bob", "Ann", "Bob"] {
        let player = world.client.pool().get::<Player>(name);
        player.enter_level(barrels.clone()).await.expect("it answers");
    }
    let path = world.folder().to_owned();
    // Else the client would keep the data when the node is gone.
    world.client.shutdown(launch::PATIENCE).await;
    assert!(first.stop().await);
    flip_a_bit_of("Ann", &path.join("epicserver.sqlite"));
    let folder = path_text(&path);
    let (good, text, said) = command(&["verify", &folder]).await;
    assert!(!good, "{said}");
    assert!(
        text.contains("/\"Ann\": the envelope is damaged") && text.contains("1 damage was found"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 2, "{text}");
    let (good, text, _) = command(&["verify", &folder, "--json"]).await;
    let line = json(text.lines().next().expect("a line"));
    assert_eq!((good, line["key"].as_str()), (false, Some("\"Ann\"")), "{text}");

    let settings = Settings { cores: Some(1), ..Settings::in_folder(&path) };
    let node = launch::start::<(Player, Barrel)>(&settings).await.expect("it starts");
    let error = node.pool().get::<Player>("Ann").score().await.expect_err("a damaged state is never served");
    assert_eq!(error.executed(), Executed::No, "{error}");
    assert_eq!(node.pool().get::<Player>("Bob").score().await, Ok(3));
    node.shutdown(launch::PATIENCE).await;
    fs::remove_dir_all(&path).expect("removed");
}

/// A node of another machine outlives the data node, with states that are newer than the backup, and finds the new one where the old one
/// was. It is told that it is of an old life: it drops what it has, and serves what is in the backup.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_outlives_the_data_joins_the_new_generation_and_brings_nothing() {
    let (world, first) = World::found_plain("generation", "dedicated").await;
    let (folder, seed) = (world.folder().to_owned(), world.address(first.id));
    let survivor = world.start_elsewhere(&seed).await;
    world.owned_by(survivor.id).await;
    let barrels: Vec<_> = (0..3).map(|key| world.client.pool().get::<Barrel>(key)).collect();
    let ann = world.client.pool().get::<Player>("Ann");
    let mut score = 0;
    for _ in 0..5 {
        score = ann.enter_level(barrels.clone()).await.expect("it answers").after;
    }
    // An empty directory is as good as none, however it is spelled.
    let copy = folder.with_extension("copy");
    fs::create_dir(&copy).expect("a new directory");
    let target = format!("{}/", copy.display());
    let (good, _, said) = command(&["backup", &target, "--data-dir", &path_text(&folder)]).await;
    assert!(good, "{said}");
    let later = ann.enter_level(barrels).await.expect("it answers").after;
    assert!(later > score && score > 0, "{later} after {score}");
    let before = world.view();
    world.client.shutdown(launch::PATIENCE).await;
    first.kill().await;

    let settings = Settings { cores: Some(1), listen: Some(seed), ..Settings::in_folder(&copy) };
    let node = launch::start::<()>(&settings).await.expect("it starts");
    let owns_all = |view: &View, life| {
        let owner = Some(NodeId { id: survivor.id, incarnation: life });
        view.partitions.iter().all(|state| state.owner == owner)
    };
    until("the survivor owns all objects in its second life", || owns_all(&node.view(), 2)).await;
    assert!(node.view().version > before.version && node.view().store != before.store);
    assert_eq!(node.pool().get::<Player>("Ann").score().await, Ok(score));
    node.shutdown(launch::PATIENCE).await;
    for folder in [&folder, &copy] {
        fs::remove_dir_all(folder).expect("removed");
    }
}

/// The store was put back under a cluster that is ahead of it, or is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_used_is_refused_at_once_in_words() {
    let (world, first) = World::found_plain("older", "dedicated").await;
    let (folder, store) = (world.folder().to_owned(), world.folder().join("epicserver.sqlite"));
    world.client.shutdown(launch::PATIENCE).await;
    assert!(first.stop().await);
    let old = fs::read(&store).expect("it is there");
    let settings = Settings { cores: Some(1), ..Settings::in_folder(&folder) };
    launch::start::<()>(&settings).await.expect("it starts").shutdown(launch::PATIENCE).await;
    for (bytes, words) in
        [(&old[..], "is older than what was here before"), (b"Once upon a time", "is damaged")]
    {
        fs::write(&store, bytes).expect("it is written");
        let (good, _, said) = command(&["node", "--data-dir", &path_text(&folder)]).await;
        assert!(
            !good && said.contains("error: the cluster's data cannot be used") && said.contains(words),
            "{said}"
        );
    }
    fs::remove_dir_all(&folder).expect("removed");
}

/// In the payload of its record: a row has the key, two numbers, and then the envelope.
fn flip_a_bit_of(key: &str, store: &Path) {
    let mut bytes = fs::read(store).expect("it is there");
    let place = |from: usize, what: &[u8], bytes: &[u8]| {
        let found = bytes[from..].windows(what.len()).position(|window| window == what);
        from + found.expect("it is there")
    };
    let at = place(0, key.as_bytes(), &bytes);
    let envelope = place(at, b"EPSV", &bytes);
    assert!(envelope - at < 20, "the next thing in the row");
    bytes[envelope + 66] ^= 4;
    fs::write(store, bytes).expect("it is written");
}

#[tokio::test]
async fn what_has_no_data_is_refused() {
    let folder = std::env::temp_dir().join(format!("epicserver-test-no-data-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    let (nowhere, target) = (path_text(&folder), path_text(&folder.join("target")));
    let (good, _, said) = command(&["verify", &nowhere]).await;
    assert!(!good && said.contains("is no data directory"), "{said}");
    let (good, _, said) = command(&["backup", &target, "--data-dir", &nowhere]).await;
    assert!(!good && said.contains("is no data directory"), "{said}");
    let (good, _, said) = command(&["backup", &target, "--data-dir", "none"]).await;
    assert!(!good && said.contains("--data-dir"), "{said}");
    assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 0);
    fs::remove_dir_all(&folder).expect("removed");
}
