//! One keeper at a time, and what the others read of it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use epicserver_data_dir::{DataDirectory, DirectoryMachine};
use epicserver_storage::conformance::machine_suite;
use epicserver_storage::{KeeperRecord, Machine, MachineError};

use crate::child::{ALICE, BOB, in_sqlite, machine};

#[test]
fn directory_machine() {
    machine_suite(|| {
        let folder = tempfile::tempdir().unwrap();
        move || machine(folder.path())
    });
}

#[test]
fn the_record_goes_from_keeper_to_keeper() {
    let folder = tempfile::tempdir().unwrap();
    let (mut one, mut reader) = (machine(folder.path()), machine(folder.path()));
    let record =
        |node, address: &str, renewals| Ok(Some(KeeperRecord { node, address: address.into(), renewals }));
    assert_eq!(reader.keeper(), Ok(None));
    let long = "a".repeat(256);
    let kept = one.try_keep(ALICE, &long).unwrap();
    assert_eq!(reader.keeper(), record(ALICE, &long, 0));
    for renewals in 1..=5 {
        one.renew_keeping(renewals).unwrap();
        assert_eq!(reader.keeper(), record(ALICE, &long, renewals));
    }
    drop((one, kept));
    assert_eq!(reader.keeper(), record(ALICE, &long, 5), "a record stays");
    let mut two = machine(folder.path());
    assert!(two.try_keep(BOB, "b").unwrap().is_some());
    assert_eq!(reader.keeper(), record(BOB, "b", 0), "a new keeper's record is the newest");
}

#[test]
fn who_cannot_open_the_data_does_not_keep() {
    let folder = tempfile::tempdir().unwrap();
    let directory = DataDirectory::open_or_found(folder.path(), None).unwrap();
    let works = Arc::new(AtomicBool::new(false));
    let (asked, path) = (Arc::clone(&works), folder.path().to_owned());
    let mut offered = Vec::new();
    let mut one = DirectoryMachine::new(&directory, move |opening| {
        assert_eq!(opening.directory, path);
        assert!(!offered.contains(&opening.fresh_store), "every opening offers another id");
        offered.push(opening.fresh_store);
        let broken = MachineError::Unusable { reason: "it is broken".into() };
        if asked.load(Ordering::Relaxed) { in_sqlite(opening) } else { Err(broken) }
    });
    assert_eq!(
        one.try_keep(ALICE, "").unwrap_err(),
        MachineError::Unusable { reason: "it is broken".into() }
    );
    assert_eq!(one.keeper(), Ok(None));
    let mut two = machine(folder.path());
    let kept = two.try_keep(BOB, "").unwrap().expect("nobody keeps");
    let (reign, id) = (kept.reign, kept.store.store_id());
    drop((two, kept));
    works.store(true, Ordering::Relaxed);
    let kept = one.try_keep(ALICE, "").unwrap().expect("nobody keeps");
    assert_eq!((kept.reign, kept.store.store_id()), (reign + 1, id));
}

#[test]
fn a_keeper_file_of_anything_is_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = machine(folder.path());
    fs::write(folder.path().join("keeper.lock"), [0xA5; 5000]).unwrap();
    assert_eq!(one.keeper(), Ok(None));
    assert!(one.try_keep(ALICE, "here").unwrap().is_some());
    assert_eq!(one.keeper().unwrap().unwrap().address, "here");
}

#[test]
#[should_panic(expected = "this process keeps already")]
fn keeping_twice_is_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = machine(folder.path());
    let _kept = one.try_keep(ALICE, "").unwrap();
    let _ = one.try_keep(ALICE, "");
}
