//! Damaged files: an error or the damaged record, never a panic and never a guess.

use std::fs;
use std::path::Path;

use epicserver_storage::{Coordinator, EnvelopeError, Member, RecordKey, Store, View};
use epicserver_storage_sqlite::{Damage, OpenError, open, verify};
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

/// Each record has another byte flipped: each is an error for its own object, and no other.
#[test]
fn a_flipped_bit_at_any_byte_of_a_record_is_found() {
    let folder = folder();
    let path = file(&folder);
    let mut store = opened(&path).store;
    open_all_fences(&mut store);
    let payload = b"the state of an object";
    let length = 64 + payload.len() as u64;
    store.commit(&batch(1, 0..length + 10, 1, payload)).expect("the batch is legal");
    drop(store);
    flip_bytes(&path, length);

    let found = damages(&path);
    let expected: Vec<String> = (0..length).map(|number| number.to_string()).collect();
    let mut keys: Vec<String> =
        found.iter().filter_map(|damage| damage.record.clone()).map(|(_, key)| key).collect();
    keys.sort_by_key(|key| key.parse::<u64>().expect("a number"));
    assert_eq!(keys, expected, "{found:?}");
    assert!(found.iter().all(|damage| damage.to_string().starts_with("0000000000000007/")), "{found:?}");
    let mut store = opened(&path).store;
    for number in 0..length {
        let key = key(number);
        let record = store.load(&[key.as_ref()]).expect("it is read").remove(0).expect("it is not left out");
        record.open(key.as_ref()).expect_err("a flipped bit is found");
    }
    assert!((length..length + 10).all(|number| version(&mut store, number) == 1), "the others are served");
}

/// Flips a bit of byte N of the record with key N.
fn flip_bytes(path: &Path, length: u64) {
    let connection = Connection::open(path).expect("it opens");
    for number in 0..length {
        let named = key(number).bytes;
        let mut envelope: Vec<u8> = connection
            .query_row("SELECT envelope FROM records WHERE key = ?1", [&named], |row| row.get(0))
            .expect("it is there");
        envelope[number as usize] ^= 1 << (number % 8);
        let changed = connection
            .execute("UPDATE records SET envelope = ?2 WHERE key = ?1", rusqlite::params![named, envelope]);
        assert_eq!(changed, Ok(1));
    }
}

fn damages(path: &Path) -> Vec<Damage> {
    let mut found = Vec::new();
    let verified = verify(path, &mut |damage| found.push(damage), &mut |_| {}).expect("it can be looked at");
    assert_eq!(verified.damaged, found.len() as u64);
    found
}

#[test]
fn an_intact_file_has_no_damage_and_is_only_read() {
    let folder = folder();
    let path = file(&folder);
    write_file(&path);
    let before = fs::read(&path).expect("it is read");
    let mut told = 0;
    let verified = verify(&path, &mut |_| told += 1, &mut |_| {}).expect("it can be looked at");
    assert_eq!((told, verified.records, verified.forgotten, verified.store), (0, 50, 0, ID));
    assert_eq!(verified.bytes, 50 * 164);
    assert_eq!(fs::read(&path).expect("it is read"), before);
    assert!(!folder.path().join("epicserver.sqlite-wal").exists());
}

#[test]
fn what_does_not_fit_its_row_is_found() {
    let row = "WHERE key = x'0300000000000000'";
    for (change, words) in [
        ("key = x'6300000000000000'", "belongs to another key"),
        ("key = x'63'", "not a key of kind U64"),
        ("kind = 3", "belongs to another key"),
        ("kind = 9", "no kind of key"),
        ("entity = 8", "belongs to entity"),
        ("partition = (partition + 1) % 4096", "its row says partition"),
        ("partition = 4096", "its row says partition"),
        ("version = 2", "its row says version 2, its envelope 1"),
        ("envelope = substr(envelope, 1, 20)", "cut off"),
        ("envelope = CAST(envelope || x'00' AS BLOB)", "announces a payload of 100 bytes and has 101"),
    ] {
        let folder = folder();
        write_file(&file(&folder));
        run_sql(&file(&folder), &format!("UPDATE records SET {change} {row}"));
        let found = damages(&file(&folder));
        assert!(found.len() == 1 && found[0].reason.contains(words), "{change}: {found:?}");
        assert!(found[0].record.is_some(), "{found:?}");
    }
    for (change, words) in [
        ("UPDATE fences SET epoch = 0", "above the fence"),
        ("DELETE FROM fences", "has no fence"),
        ("UPDATE view SET bytes = zeroblob(40)", "magic"),
        ("UPDATE identity SET store = x'00'", "16 bytes"),
        ("DROP TABLE records", "cannot be read"),
        ("DROP TABLE fences", "the fences"),
    ] {
        let folder = folder();
        write_file(&file(&folder));
        run_sql(&file(&folder), change);
        let found = damages(&file(&folder));
        assert!(found.iter().any(|damage| damage.reason.contains(words)), "{change}: {found:?}");
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_found() {
    let folder = folder();
    let path = file(&folder);
    write_file(&path);
    let bytes = fs::read(&path).expect("it is read");
    for length in (0..bytes.len()).step_by(509) {
        fs::write(&path, &bytes[..length]).expect("it is written");
        let mut told = 0;
        let verified = verify(&path, &mut |_| told += 1, &mut |_| {});
        assert!(verified.is_err() || told > 0, "{length} of {} bytes", bytes.len());
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
        // It knows that this file is older than the last one.
        let _ = fs::remove_file(folder.path().join("epicserver.sqlite-hold"));
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
