//! Damaged files: an error or the damaged record, never a panic and never a guess.

use std::fs;
use std::path::Path;

use epicserver_storage::{Coordinator, EnvelopeError, Member, RecordKey, Store, View};
use epicserver_storage_sqlite::{OpenError, open};
use rusqlite::Connection;

use crate::fixture::{ALICE, ID, batch, file, folder, key, open_all_fences, opened, version};

/// A closed file with a view, and 50 records at version 1.
fn write_file(path: &Path) {
    write_records(path);
    let mut opened = opened(path);
    let mut next = View::clone(&opened.coordinator.read().expect("it is read"));
    next.put_member(Member { node: ALICE, address: "127.0.0.1:1".into(), cores: 2, entities: Vec::new() });
    opened.coordinator.compare_and_set(0, next).expect("the change is legal");
}

fn write_records(path: &Path) {
    let mut store = opened(path).store;
    open_all_fences(&mut store);
    store.commit(&batch(1, 0..50, 1, &[7; 100])).expect("the batch is legal");
}

fn run_sql(path: &Path, sql: &str) {
    Connection::open(path)
        .and_then(|connection| connection.execute_batch(sql))
        .expect("the statement is right");
}

#[test]
fn a_damaged_record_is_handed_out_as_it_is() {
    let folder = folder();
    write_file(&file(&folder));
    run_sql(
        &file(&folder),
        "UPDATE records SET envelope = substr(envelope, 1, 20) WHERE key = x'0300000000000000'",
    );
    let mut store = opened(&file(&folder)).store;
    let (damaged, intact) = (key(3), key(4));
    let found = store.load(&[damaged.as_ref(), intact.as_ref()]).expect("both are read");
    let record = found[0].as_ref().expect("it is not left out");
    assert_eq!(record.open(damaged.as_ref()), Err(EnvelopeError::TooShort { length: 20 }));
    assert_eq!(version(&mut store, 4), 1, "an error for this object alone");
}

#[test]
fn a_damaged_view_is_no_empty_view() {
    for sql in [
        "UPDATE view SET bytes = zeroblob(40)",
        "UPDATE view SET bytes = substr(bytes, 1, length(bytes) - 1)",
        "UPDATE identity SET store = x'00'",
        "DELETE FROM identity",
        "DROP TABLE view",
    ] {
        let folder = folder();
        write_file(&file(&folder));
        run_sql(&file(&folder), sql);
        let error = open(&file(&folder), ID).expect_err("it is damaged");
        assert!(matches!(error, OpenError::Damaged { .. }), "{sql}: {error}");
    }
}

/// Whatever bytes are damaged: no verb panics, and no record is served that was not saved.
#[test]
fn fuzz_damaged_file() {
    let folder = folder();
    let path = file(&folder);
    // Most of a file with a view is the view, whose checksum would end most rounds at the opening.
    write_records(&path);
    let bytes = fs::read(&path).expect("it is there");
    let keys: Vec<RecordKey> = (0..60).map(key).collect();
    let mut random = fastrand::Rng::with_seed(0xDA3A6E);
    let mut survived = 0;
    for _ in 0..200 {
        let mut damaged = bytes.clone();
        for _ in 0..random.usize(1..20) {
            let place = random.usize(0..damaged.len());
            damaged[place] = random.u8(..);
        }
        damaged.truncate(if random.u8(..) < 32 { random.usize(0..damaged.len()) } else { damaged.len() });
        fs::write(&path, &damaged).expect("it is written");
        let Ok(mut opened) = open(&path, ID) else { continue };
        for key in &keys {
            let Ok(found) = opened.store.load(&[key.as_ref()]) else { continue };
            if let Some(Ok((header, payload))) = found[0].as_ref().map(|record| record.open(key.as_ref())) {
                assert_eq!((header.version, payload), (1, &[7; 100][..]), "an intact record is a saved one");
                survived += 1;
            }
        }
        let _ = (opened.store.fences(), opened.store.last_committed(ALICE), opened.coordinator.read());
        let _ = opened.store.commit(&batch(2, 0..60, 2, b"next"));
        let _ = opened.coordinator.leases();
    }
    assert!(survived > 1_000, "the damage leaves something to read: {survived}");
}
