//! Copies that are made while a keeper writes, and what becomes of them.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use epicserver_storage::{Coordinator, Fence, NodeId, Partition, Store, StoreError, StoreId, View};
use epicserver_storage_sqlite::{OpenError, Opened, SqliteStore, copy, open, verify};

use crate::fixture::{ALICE, ID, batch, file, folder, key, open_all_fences, opened, version};

/// Whenever a piece is copied the writer goes on a little, so that it would have emptied its log several times while the files are
/// copied, and begun it anew.
#[test]
fn a_copy_has_all_that_was_acknowledged_before_and_no_half_batch() {
    let folder = folder();
    let mut writer = Writer::start(&file(&folder));
    for round in 0..COPIES {
        let acknowledged = writer.goes_on(1 + round);
        let target = folder.path().join(format!("copy {round}"));
        let copied = when_not_busy(|| copy(&file(&folder), &target, &mut |_| _ = writer.goes_on(1)));
        assert_eq!(
            (copied.records, copied.bytes),
            (RECORDS, fs::metadata(&target).expect("it is there").len())
        );
        assert!(!folder.path().join(format!("copy {round}-wal")).exists());
        no_damage(&target);
        let mut store = opened(&target).store;
        let found = store.last_committed(ALICE).expect("it is read").expect("something was committed").number;
        assert!(found >= acknowledged, "{acknowledged} acknowledged, {found} found");
        for number in 0..RECORDS {
            assert_eq!(version(&mut store, number), found, "a batch is whole: record {number}");
        }
        fs::remove_file(&target).expect("it is there");
    }
    writer.end();
}

#[test]
fn a_file_that_is_written_to_is_looked_at() {
    let folder = folder();
    let mut writer = Writer::start(&file(&folder));
    for _ in 0..2 * COPIES {
        writer.goes_on(2);
        no_damage(&file(&folder));
    }
    writer.end();
    // Of the killed process a log is left.
    assert!(fs::metadata(folder.path().join("epicserver.sqlite-wal")).expect("a log").len() > 0);
    no_damage(&file(&folder));
}

#[test]
fn a_copy_begins_a_generation_in_which_nobody_of_the_old_life_writes() {
    let folder = folder();
    let path = file(&folder);
    write(&path);
    let target = folder.path().join("copy");
    copy(&path, &target, &mut |_| {}).expect("nobody has it open");
    let copied = open(&target, StoreId(99)).expect("it opens");
    assert!(copied.is_new_generation);
    new_life(copied, 1 << 32);
    let again = open(&target, StoreId(5)).expect("it opens");
    assert!(!again.is_new_generation, "the second time it is at home");
    assert_eq!((again.store.store_id(), again.reign), (StoreId(99), (1 << 32) + 2));
    drop(again);
    // A copy of a copy is a generation more.
    let second = folder.path().join("second");
    copy(&target, &second, &mut |_| {}).expect("nobody has it open");
    new_life(open(&second, StoreId(99)).expect("it opens"), 2 << 32);
    let original = open(&path, StoreId(99)).expect("it opens");
    assert_eq!((original.reign, original.is_new_generation, original.store.store_id()), (2, false, ID));
}

/// Whoever copies the file by other means gets a new generation too.
#[test]
fn a_file_that_was_copied_by_hand_begins_a_generation() {
    let folder = folder();
    write(&file(&folder));
    let target = folder.path().join("copy");
    fs::copy(file(&folder), &target).expect("it is copied");
    new_life(open(&target, StoreId(99)).expect("it opens"), 1 << 32);
    let moved = folder.path().join("moved");
    fs::rename(file(&folder), &moved).expect("it is moved");
    assert!(!opened(&moved).is_new_generation, "one that was moved is the same");
}

#[test]
fn an_older_file_is_refused_where_a_newer_one_was() {
    let folder = folder();
    let path = file(&folder);
    write(&path);
    let old = fs::read(&path).expect("it is read");
    drop(opened(&path));
    fs::write(&path, &old).expect("it is written");
    let error = open(&path, ID).expect_err("it is older");
    assert!(matches!(error, OpenError::Older { found: 1, seen: 2, .. }), "{error}");
    assert!(error.to_string().contains("epicserver backup"), "{error}");
    assert_eq!(fs::read(&path).expect("it is read"), old);
    // What the error says to do.
    let target = folder.path().join("copy");
    copy(&path, &target, &mut |_| {}).expect("nobody has it open");
    new_life(open(&target, StoreId(99)).expect("it opens"), 1 << 32);
}

#[test]
fn what_is_no_file_of_ours_is_not_copied() {
    let folder = folder();
    let target = folder.path().join("copy");
    let error = copy(&file(&folder), &target, &mut |_| {}).expect_err("it is not there");
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
    fs::write(file(&folder), "Once upon a time there was a barrel. ".repeat(100)).expect("it is written");
    copy(&file(&folder), &target, &mut |_| {}).expect_err("it is no database");
    fs::write(file(&folder), "").expect("it is written");
    copy(&file(&folder), &folder.path().join("another"), &mut |_| {}).expect_err("nothing is in it");
}

fn write(path: &Path) {
    let Opened { mut store, mut coordinator, .. } = opened(path);
    let view = coordinator.read().expect("it is read");
    let mut next = View::clone(&view);
    next.raise_schema("game.Player", 3);
    coordinator.compare_and_set(view.version, next).expect("it is the next view");
    open_all_fences(&mut store);
    store.commit(&batch(1, 0..10, 1, b"state")).expect("the batch is legal");
}

/// All records are there, and neither saves nor fences of the old life are taken.
fn new_life(mut opened: Opened, epoch: u64) {
    assert!(opened.is_new_generation);
    assert_eq!((opened.reign, opened.store.store_id()), (epoch + 1, StoreId(99)));
    let view = opened.coordinator.read().expect("it is read");
    assert_eq!((view.version, view.store, view.members.len()), (epoch, StoreId(99), 0));
    assert_eq!(view.schema("game.Player"), Some(3), "states stay in the version that they are saved in");
    assert!(view.partitions.iter().all(|state| state.epoch == epoch && state.owner.is_none()));
    let store = &mut opened.store;
    assert!((0..10).all(|number| version(store, number) == 1));
    let refused = store.commit(&batch(2, 0..10, 2, b"next"));
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    // However far the old life went on.
    let refused = store.open_fences(&fences(epoch - 1, ALICE));
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    check_next_owner(store, epoch + 1);
}

fn check_next_owner(store: &mut SqliteStore, epoch: u64) {
    let bob = NodeId { id: 5, incarnation: 1 };
    assert_eq!(store.open_fences(&fences(epoch, bob)), Ok(()));
    assert!(store.load(&[key(1).as_ref()]).is_ok());
}

fn fences(epoch: u64, holder: NodeId) -> Vec<Fence> {
    Partition::all().map(|partition| Fence { partition, epoch, holder }).collect()
}

fn no_damage(path: &Path) {
    let mut found = Vec::new();
    let verified = when_not_busy(|| verify(path, &mut |damage| found.push(damage), &mut |_| {}));
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(verified.records, RECORDS);
}

fn when_not_busy<T>(mut work: impl FnMut() -> Result<T, OpenError>) -> T {
    loop {
        match work() {
            Err(OpenError::Busy { .. }) => std::thread::yield_now(),
            other => return other.expect("it can be read"),
        }
    }
}

/// A process that commits until it is killed.
struct Writer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    seen: u64,
}

impl Writer {
    fn start(path: &PathBuf) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a test has a file"))
            .args(["--exact", "copying::child_that_commits", "--nocapture"])
            .env(CHILD, path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a test can run itself");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines, seen: 0 }
    }

    /// Waits until so many more batches are acknowledged; gives the number of the last one.
    fn goes_on(&mut self, more: u64) -> u64 {
        let numbers = self.lines.by_ref().map_while(Result::ok);
        let mut numbers = numbers.filter_map(|line| line.strip_prefix("durable ")?.parse::<u64>().ok());
        self.seen = numbers.find(|number| *number >= self.seen + more).expect("the child commits");
        self.seen
    }

    fn end(mut self) {
        self.child.kill().expect("it is a child of this process");
        self.child.wait().expect("it is a child of this process");
    }
}

/// The other process of the tests above; alone it does nothing.
#[test]
fn child_that_commits() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let mut store = opened(path.as_ref()).store;
    open_all_fences(&mut store);
    for number in 1.. {
        store.commit(&batch(number, 0..RECORDS, number, &[number as u8; 8000])).expect("the batch is legal");
        // The parent is gone without killing us.
        if writeln!(std::io::stdout(), "durable {number}").is_err() {
            return;
        }
    }
}

/// Says in a child process which file it is to write to.
const CHILD: &str = "EPICSERVER_TEST_SQLITE_COPYING";
/// A batch is some 4 MiB in the log, which is emptied when it has 16.
const RECORDS: u64 = 500;
const COPIES: u64 = 4;
