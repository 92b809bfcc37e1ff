//! What a killed process acknowledged is there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use epicserver_storage::Store;

use crate::fixture::{ALICE, batch, file, folder, open_all_fences, opened, version};

/// Says in a child process which file it is to write to.
const CHILD: &str = "EPICSERVER_TEST_SQLITE_CHILD";
const BATCHES: usize = 50;

#[test]
fn what_a_killed_process_acknowledged_is_there() {
    let folder = folder();
    let mut child = Command::new(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", "crash::child_that_commits_until_it_is_killed", "--nocapture"])
        .env(CHILD, file(&folder))
        .stdout(Stdio::piped())
        .spawn()
        .expect("a test can run itself");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let acknowledged =
        lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("durable ")?.parse().ok());
    let last: u64 = acknowledged.take(BATCHES).last().expect("the child commits");
    child.kill().expect("it is a child of this process");
    child.wait().expect("it is a child of this process");

    let opened = opened(&file(&folder));
    let mut store = opened.store;
    assert_eq!(opened.reign, 2);
    let committed = store.last_committed(ALICE).expect("it is read").expect("something was committed");
    assert!(last >= BATCHES as u64 && committed.number >= last, "{last} acknowledged, {committed} found");
    for number in 0..100 {
        assert_eq!(version(&mut store, number), committed.number, "a batch is whole: record {number}");
    }
}

/// The other process of the test above; alone it does nothing.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let mut store = opened(path.as_ref()).store;
    open_all_fences(&mut store);
    for number in 1.. {
        store.commit(&batch(number, 0..100, number, b"state")).expect("the batch is legal");
        let said = writeln!(std::io::stdout(), "durable {number}");
        // The parent is gone without killing us.
        if said.is_err() {
            return;
        }
    }
}
