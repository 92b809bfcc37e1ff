//! What is proof that a process is gone, and who may be killed.

use std::fs;
use std::path::Path;

use epicserver_data_dir::NODE_FILES_MAX;
use epicserver_storage::{Machine, MachineError, NodeId};

use crate::child::{ALICE, BOB, Keeper, machine};

#[test]
fn a_killed_process_is_proven_dead_and_its_place_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = machine(folder.path());
    assert!(!machine.is_proven_dead(BOB), "nobody knows Bob");
    let keeper = Keeper::start(folder.path());
    assert!(!machine.is_proven_dead(BOB));
    assert!(machine.try_keep(ALICE, "").unwrap().is_none());
    keeper.kill();
    assert!(machine.is_proven_dead(BOB));
    assert!(!machine.is_proven_dead(NodeId { incarnation: 2, ..BOB }), "that one never was here");
    let kept = machine.try_keep(ALICE, "").unwrap().expect("the kernel has freed the lock");
    assert_eq!(kept.reign, 2, "the data is opened anew");
    assert!(machine.is_proven_dead(BOB), "the keeper remembers what it cleaned away");
    assert_eq!(lock_files(folder.path()), 0);
    assert!(!machine.kill(BOB));
}

#[test]
fn a_stopped_process_is_not_dead_and_can_be_killed() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(folder.path());
    let mut machine = machine(folder.path());
    keeper.stop();
    assert!(!machine.is_proven_dead(BOB), "a stopped process proves nothing");
    assert!(machine.try_keep(ALICE, "").unwrap().is_none());
    assert_eq!(machine.keeper().unwrap().unwrap().node, BOB, "a record is read without its writer");
    assert!(machine.kill(BOB));
    keeper.wait();
    assert!(machine.is_proven_dead(BOB));
    assert!(!machine.kill(BOB), "who is gone gets no signal");
    assert!(machine.try_keep(ALICE, "").unwrap().is_some());
}

/// The file of a dead process names a number that another process has now.
#[test]
fn a_stranger_with_the_number_of_a_node_is_not_killed() {
    let folder = tempfile::tempdir().unwrap();
    let stranger = Keeper::start(folder.path());
    let mut machine = machine(folder.path());
    let text = fs::read_to_string(lock_file(folder.path(), BOB)).unwrap();
    let started = text.lines().find_map(|line| line.strip_prefix("started = ")).unwrap();
    let earlier = (started.parse::<u64>().unwrap() - 1).to_string();
    let boot = text.lines().find_map(|line| line.strip_prefix("boot = ")).unwrap();
    let wrong = [
        text.replace(started, &earlier),
        text.replace(boot, "00000000-0000-0000-0000-000000000000"),
        text.replace("pid:[", "pid:[1"),
        text.lines().take(3).collect(),
        String::new(),
    ];
    for text in wrong {
        // Written in place: the lock stays held.
        fs::write(lock_file(folder.path(), BOB), &text).unwrap();
        assert!(!machine.kill(BOB), "{text}");
    }
    // All is right, but nobody holds the lock: the process may have registered anew.
    fs::write(lock_file(folder.path(), ALICE), &text).unwrap();
    assert!(!machine.kill(ALICE));
    fs::write(lock_file(folder.path(), BOB), &text).unwrap();
    assert!(machine.kill(BOB), "the same file unchanged");
    stranger.wait();
}

#[test]
fn no_process_kills_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (mut one, mut two) = (machine(folder.path()), machine(folder.path()));
    one.register(ALICE).unwrap();
    assert!(!one.kill(ALICE) && !two.kill(ALICE));
}

#[test]
fn an_incarnation_ends_with_the_next_or_with_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let (mut one, mut two) = (machine(folder.path()), machine(folder.path()));
    let again = NodeId { incarnation: 2, ..ALICE };
    one.register(ALICE).unwrap();
    assert!(!one.is_proven_dead(ALICE) && !two.is_proven_dead(ALICE));
    let refused = two.register(ALICE);
    assert!(
        matches!(refused, Err(MachineError::Failed { .. })),
        "an incarnation is registered once: {refused:?}"
    );
    assert!(!two.is_proven_dead(ALICE), "a refused one takes nothing away");
    one.register(again).unwrap();
    assert!(two.is_proven_dead(ALICE) && !two.is_proven_dead(again));
    assert!(one.register(ALICE).is_err(), "it is not used again");
    assert!(!two.is_proven_dead(again), "what was registered stays when registering fails");
    drop(one);
    assert!(two.is_proven_dead(again));
}

#[test]
fn files_of_the_dead_are_cleaned_before_they_are_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let (mut one, mut two) = (machine(folder.path()), machine(folder.path()));
    two.register(BOB).unwrap();
    let mut most = 0;
    for incarnation in 1..=NODE_FILES_MAX as u32 + 20 {
        one.register(NodeId { incarnation, ..ALICE }).unwrap();
        most = most.max(lock_files(folder.path()));
    }
    assert!(most <= NODE_FILES_MAX + 1, "{most}");
    assert!(lock_files(folder.path()) < 100);
    assert!(!one.is_proven_dead(BOB), "the living stay");
    assert!(one.is_proven_dead(ALICE));
}

/// What a process left behind that died while it registered.
#[test]
fn unfinished_files_are_cleaned_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = machine(folder.path());
    fs::write(folder.path().join("nodes/.epicserver-node-1"), "half").unwrap();
    fs::create_dir(folder.path().join("nodes/strange")).unwrap();
    machine.register(ALICE).unwrap();
    let kept = machine.try_keep(ALICE, "").unwrap();
    assert!(kept.is_some());
    let mut left: Vec<_> =
        fs::read_dir(folder.path().join("nodes")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["00000000000a11ce.1.lock", "strange"]);
}

fn lock_file(folder: &Path, node: NodeId) -> std::path::PathBuf {
    folder.join(format!("nodes/{node}.lock"))
}

fn lock_files(folder: &Path) -> usize {
    fs::read_dir(folder.join("nodes")).unwrap().count()
}
