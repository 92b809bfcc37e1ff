//! What does not belong to the cluster, and what cannot work.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use epicserver::{Executed, launch};
use epicserver_data_dir::DataDirectory;

use crate::other_game;
use crate::play::Outcome;
use crate::world::{World, elsewhere, play_on, start_game};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_harm_nobody() {
    let (world, first) = World::found("strangers", "dedicated").await;
    let game = start_game(&world, 20);
    let address = world.address(first.id);
    // Ten thousand who say nothing, as many at a time as a process may have files.
    for _ in 0..20 {
        let half_open: Vec<_> = (0..500).filter_map(|_| TcpStream::connect(&address).ok()).collect();
        assert!(half_open.len() > 400, "only {} were let in", half_open.len());
    }
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
    play_on(&game, 200).await;
    let wrong = world.folder().join("wrong-secret");
    let text = std::fs::read_to_string(world.folder().join("cluster.secret")).expect("the cluster's secret");
    std::fs::write(&wrong, with_another_secret(&text)).expect("written");
    let refused = launch::start::<()>(&elsewhere(&address, wrong)).await;
    let refused = refused.map(drop).expect_err("a node with a wrong secret joined").to_string();
    assert!(refused.contains("both have the same secret"), "{refused}");
    let Outcome { findings, failed, .. } = game.end().await;
    assert_eq!((findings.wrong, findings.lost_saves, findings.unknown, failed), (0, 0, 0, 0), "{findings:?}");
    world.end().await;
}

/// A cluster's secret file with every digit of the secret changed, whatever digits it happens to have.
fn with_another_secret(text: &str) -> String {
    let (before, secret) = text.split_once("secret = ").expect("a line with the secret");
    let digit = |digit: char| digit.to_digit(16).and_then(|value| char::from_digit(15 - value, 16));
    before.to_owned()
        + "secret = "
        + &secret.chars().map(|letter| digit(letter).unwrap_or(letter)).collect::<String>()
}

#[test]
fn another_secret_differs_in_every_digit() {
    let text = with_another_secret("cluster = 9aaa\nsecret = be90f\n");
    assert_eq!(text, "cluster = 9aaa\nsecret = 416f0\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_of_the_program_owns_nothing_and_is_never_misread() {
    let (world, first) = World::found("versions", "dedicated").await;
    let game = start_game(&world, 20);
    play_on(&game, 50).await;
    let other = world.start_other().await;
    world.has_member(other.id).await;
    play_on(&game, 100).await;
    assert_eq!((world.partitions_of(other.id), world.partitions_of(first.id)), (0, 4096));
    let pool = world.client.pool();
    let misread = pool.get::<other_game::Player>("player 1").score().await;
    assert!(misread.as_ref().is_err_and(|error| error.executed() == Executed::No), "{misread:?}");
    let Outcome { findings, failed, .. } = game.end().await;
    assert_eq!((findings.wrong, findings.lost_saves, findings.unknown, failed), (0, 0, 0, 0), "{findings:?}");
    world.end().await;
}

/// Runs a node that cannot start; gives what it says.
fn refused_node(arguments: &[&str]) -> String {
    let command = Command::new(env!("CARGO_BIN_EXE_epicserver")).arg("node").args(arguments).output();
    let output = command.expect("the command runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?}: {text}");
    text
}

#[test]
fn what_cannot_work_is_refused_in_words() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    let folder = std::env::temp_dir().join(format!("epicserver-test-words-{}", std::process::id()));
    let path = |name: &str| folder.join(name).display().to_string();
    let (mine, theirs) = (path("mine"), path("theirs"));
    for founded in [&mine, &theirs] {
        DataDirectory::open_or_found(founded.as_ref(), None).expect("a new directory");
    }
    let theirs = path("theirs/cluster.secret");
    let (missing, garbled) = (path("missing.secret"), path("garbled.secret"));
    std::fs::write(&garbled, "hello\n").expect("written");
    // A label of more than 63 letters, for which no resolver asks the network.
    let nowhere = format!("{}:7000", "a".repeat(64));
    let cases: [(&[&str], &str); 8] = [
        (&["--data-dir", &mine, "--listen", &address], "already in use"),
        (&["--data-dir", &mine, "--secret-file", &theirs], "belongs to cluster"),
        (&["--data-dir", &mine, "--seed", &address], "secret_file"),
        (&["--seed", &address, "--secret-file", &missing], "missing.secret: it cannot be read: No such file"),
        (&["--seed", &address, "--secret-file", &garbled], "garbled.secret: line 1 is not"),
        (&["--seed", &nowhere, "--secret-file", &theirs], "cannot be resolved"),
        (&["--data-dir", "/proc/epicserver"], "/proc/epicserver"),
        (&["--tipc-importance", "urgent"], "use \"low\", \"medium\", \"high\" or \"critical\""),
    ];
    for (arguments, words) in cases {
        let text = refused_node(arguments);
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
    std::fs::remove_dir_all(&folder).expect("removed");
}

/// One that has it would serve.
#[test]
fn a_machine_without_tipc_is_told_how_to_get_it() {
    let protocols = std::fs::read_to_string("/proc/net/protocols").unwrap_or_default();
    if protocols.lines().any(|line| line.starts_with("TIPC ")) {
        return;
    }
    let folder = std::env::temp_dir().join(format!("epicserver-test-no-tipc-{}", std::process::id()));
    let text = refused_node(&["--transport", "tipc", "--data-dir", &folder.display().to_string()]);
    assert!(text.contains("error: this kernel has no TIPC") && text.contains("`modprobe tipc`"), "{text}");
    std::fs::remove_dir_all(&folder).expect("removed");
}
