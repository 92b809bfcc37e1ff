//! What a killed process acknowledged is there, also if the one that comes after it is killed too.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use epicserver_storage::Store;
use epicserver_storage_sqlite::SqliteStore;

use crate::fixture::{ALICE, batch, file, folder, open_all_fences, opened, version};

#[test]
fn what_a_killed_process_acknowledged_is_there() {
    let folder = folder();
    let last = commit_and_be_killed(&file(&folder), 0);
    let opened = opened(&file(&folder));
    assert_eq!(opened.reign, 2);
    check_whole_from(opened.store, last);
}

/// The log is long when the second process comes, which is killed anywhere between its start and its end; and so is the third one.
#[test]
fn who_is_killed_while_it_opens_the_file_takes_nothing_away() {
    let folder = folder();
    let path = file(&folder);
    let mut last = 0;
    for round in 0..ROUNDS {
        last = commit_and_be_killed(&path, last);
        for attempt in 0..ATTEMPTS {
            let (mut child, mut lines) = start("child_that_opens_until_it_is_killed", path.as_os_str());
            assert!(lines.any(|line| line.is_ok_and(|line| line == OPENING)), "it says so");
            (0..(round * ATTEMPTS + attempt) * YIELDS).for_each(|_| thread::yield_now());
            kill(&mut child);
        }
    }
    check_whole_from(opened(&path).store, last);
}

/// Recovery takes as long as the log is, whose length is bounded, and not as there are objects.
#[test]
fn recovery_reads_the_log_and_not_the_objects() {
    let folder = folder();
    let path = file(&folder);
    let (mut child, mut lines) = start("child_that_fills_until_it_is_killed", path.as_os_str());
    assert!(lines.any(|line| line.is_ok_and(|line| line == FULL)), "it says so");
    kill(&mut child);
    let length = |path: &Path| std::fs::metadata(path).expect("the file is there").len();
    let (objects, log) = (length(&path), length(&path.with_extension("sqlite-wal")));
    let before = bytes_read();
    let mut store = opened(&path).store;
    let read = bytes_read() - before;
    assert_eq!(version(&mut store, OBJECTS - 1), 1, "everything is there");
    assert!(log < objects / 2, "a log of {log} bytes beside {objects} of objects: these are to be many");
    assert!(read < objects / 2, "{read} bytes read, of a log of {log} and objects of {objects}");
}

/// What this thread has read of files, in bytes.
fn bytes_read() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").expect("the kernel counts");
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|number| number.parse().ok()).expect("the kernel counts what is read")
}

/// Has a process commit so many batches more, and kills it in the midst of it. Gives the number of the last one that it acknowledged.
fn commit_and_be_killed(path: &Path, before: u64) -> u64 {
    let (mut child, lines) = start("child_that_commits_until_it_is_killed", path.as_os_str());
    let acknowledged =
        lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("durable ")?.parse().ok());
    let last: u64 = acknowledged.take(BATCHES).last().expect("the child commits");
    kill(&mut child);
    assert!(last >= before + BATCHES as u64, "{last} acknowledged, {before} before");
    last
}

fn check_whole_from(mut store: SqliteStore, acknowledged: u64) {
    let committed = store.last_committed(ALICE).expect("it is read").expect("something was committed");
    assert!(committed.number >= acknowledged, "{acknowledged} acknowledged, {committed} found");
    for number in 0..RECORDS {
        assert_eq!(version(&mut store, number), committed.number, "a batch is whole: record {number}");
    }
}

fn start(test: &str, path: &OsStr) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", &format!("crash::{test}"), "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a test can run itself");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    (child, lines)
}

fn kill(child: &mut Child) {
    child.kill().expect("it is a child of this process");
    child.wait().expect("it is a child of this process");
}

/// The other process of the tests above; alone it does nothing.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let mut store = opened(path.as_ref()).store;
    open_all_fences(&mut store);
    let before = store.last_committed(ALICE).expect("it is read").map_or(0, |name| name.number);
    for number in before + 1.. {
        store.commit(&batch(number, 0..RECORDS, number, b"state")).expect("the batch is legal");
        // The parent is gone without killing us.
        if writeln!(std::io::stdout(), "durable {number}").is_err() {
            return;
        }
    }
}

/// As the one above.
#[test]
fn child_that_fills_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let mut store = opened(path.as_ref()).store;
    open_all_fences(&mut store);
    for (number, first) in (1..).zip((0..OBJECTS).step_by(TOGETHER)) {
        let batch = batch(number, first..first + TOGETHER as u64, 1, &[7; 100]);
        store.commit(&batch).expect("the batch is legal");
    }
    println!("{FULL}");
    std::thread::park();
}

/// As the one above.
#[test]
fn child_that_opens_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    println!("\n{OPENING}");
    drop(opened(path.as_ref()));
}

/// Says in a child process which file it is to work on.
const CHILD: &str = "EPICSERVER_TEST_SQLITE_CHILD";
const OPENING: &str = "opening";
const FULL: &str = "full";
const OBJECTS: u64 = 300_000;
const TOGETHER: usize = 1_000;
const BATCHES: usize = 50;
const RECORDS: u64 = 100;
const ROUNDS: usize = 3;
const ATTEMPTS: usize = 8;
/// How much longer each process is left alone than the one before it.
const YIELDS: usize = 100;
