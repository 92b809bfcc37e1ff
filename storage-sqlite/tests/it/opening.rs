//! Opening the file: reigns, the view, and what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use epicserver_storage::{Coordinator, Kept, MachineError, Member, Partition, Store, StoreId, View};
use epicserver_storage_sqlite::{OpenError, open};

use crate::fixture::{ALICE, ID, file, folder, opened};

#[test]
fn every_opening_is_a_reign_and_the_id_stays() {
    let folder = folder();
    for reign in 1..=3 {
        let opened = open(&file(&folder), StoreId(u128::from(reign))).expect("the file opens");
        assert_eq!((opened.reign, opened.store.store_id()), (reign, StoreId(1)));
        let kept = Kept::from(opened);
        assert_eq!((kept.reign, kept.store.store_id()), (reign, StoreId(1)));
    }
    let mode = fs::metadata(file(&folder)).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "states are for the user alone");
}

#[test]
fn the_view_survives_and_leases_start_anew() {
    let folder = folder();
    let mut coordinator = opened(&file(&folder)).coordinator;
    let mut next = View::clone(&coordinator.read().expect("it is read"));
    next.put_member(Member { node: ALICE, address: "127.0.0.1:1".into(), cores: 2, entities: Vec::new() });
    Partition::all().for_each(|partition| next.assign(partition, Some(ALICE)));
    // A view may name a store that is kept elsewhere.
    next.store = StoreId(99);
    let written = coordinator.compare_and_set(0, next).expect("the change is legal");
    coordinator.renew_lease(ALICE, 5).expect("Alice is a member");
    drop(coordinator);

    let mut opened = opened(&file(&folder));
    assert_eq!(opened.coordinator.read(), Ok(written));
    assert_eq!(opened.store.store_id(), ID, "the store's id is its own");
    let leases = opened.coordinator.leases().expect("they are read");
    assert_eq!(leases.iter().map(|lease| (lease.node, lease.renewals)).collect::<Vec<_>>(), [(ALICE, 0)]);
}

#[test]
fn nobody_opens_the_file_twice() {
    let folder = folder();
    let first = opened(&file(&folder));
    let error = open(&file(&folder), ID).expect_err("it is open");
    assert!(matches!(error, OpenError::Busy { .. }), "{error}");
    assert!(MachineError::from(error).is_retryable());
    let half = first.store.clone();
    drop(first);
    assert!(open(&file(&folder), ID).is_err(), "one clone of one half holds it");
    drop(half);
    assert_eq!(opened(&file(&folder)).reign, 2, "a refused opening counts no reign");
}

/// A process that closes any descriptor of a file loses its locks on it (POSIX). Making the file with the right mode once opened and closed
/// it beside SQLite: a second opening was refused, but let every other process in.
#[test]
fn a_refused_opening_takes_no_lock_away() {
    let folder = folder();
    let _first = opened(&file(&folder));
    open(&file(&folder), ID).expect_err("it is open");
    let child = Command::new(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", "opening::child_that_tries_to_open", "--nocapture"])
        .env(CHILD, file(&folder))
        .output()
        .expect("a test can run itself");
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(said.contains("is in use by another program"), "{said}");
}

/// The other process of the test above; alone it does nothing.
#[test]
fn child_that_tries_to_open() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    match open(path.as_ref(), ID) {
        Ok(opened) => println!("opened for reign {}", opened.reign),
        Err(error) => println!("{error}"),
    }
}

#[test]
fn what_is_no_file_of_ours_is_left_alone() {
    let folder = folder();
    let path = file(&folder);
    fs::write(&path, "Once upon a time there was a barrel. ".repeat(100)).expect("it is written");
    let error = open(&path, ID).expect_err("it is no database");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(!MachineError::from(error).is_retryable());

    fs::remove_file(&path).expect("it is there");
    let connection = rusqlite::Connection::open(&path).expect("it is made");
    connection.execute_batch("CREATE TABLE barrels (id INTEGER)").expect("it is made");
    let before = fs::read(&path).expect("it is read");
    let error = open(&path, ID).expect_err("it is another program's");
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert_eq!(fs::read(&path).expect("it is read"), before);

    let error = open(&folder.path().join("no such folder/file"), ID).expect_err("there is no folder");
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}

#[test]
fn a_file_of_a_newer_program_is_refused() {
    let folder = folder();
    let path = file(&folder);
    drop(opened(&path));
    let connection = rusqlite::Connection::open(&path).expect("it opens");
    connection.pragma_update(None, "user_version", 2).expect("it is written");
    drop(connection);
    let error = open(&path, ID).expect_err("it is newer");
    assert!(matches!(error, OpenError::Format { found: 2, known: 1, .. }), "{error}");
}

/// Says in a child process which file it is to open.
const CHILD: &str = "EPICSERVER_TEST_SQLITE_OPEN";
