//! Another process on the same directory: this test binary, run again.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use epicserver_data_dir::{DataDirectory, DirectoryMachine, Opening};
use epicserver_storage::{Kept, Machine, MachineError, NodeId};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

pub(crate) const ALICE: NodeId = NodeId { id: 0xA11CE, incarnation: 1 };
pub(crate) const BOB: NodeId = NodeId { id: 0xB0B, incarnation: 1 };

/// A machine with its data in SQLite.
pub(crate) fn machine(path: &Path) -> DirectoryMachine {
    let directory = DataDirectory::open_or_found(path, None).expect("the directory can be used");
    DirectoryMachine::new(&directory, in_sqlite)
}

pub(crate) fn in_sqlite(opening: &Opening<'_>) -> Result<Kept, MachineError> {
    let file = opening.directory.join("epicserver.sqlite");
    Ok(epicserver_storage_sqlite::open(&file, opening.fresh_store)?.into())
}

/// A child that registered Bob, and keeps. It lives until this value is dropped at the latest.
pub(crate) struct Keeper {
    child: Child,
    _stdin: ChildStdin,
}

impl Keeper {
    /// Starts it and waits until it keeps.
    pub(crate) fn start(path: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a test has a file"))
            .args(["--exact", "child::child_that_keeps_until_it_is_ended", "--nocapture"])
            .env(DIRECTORY, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a test can run itself");
        let stdin = child.stdin.take().expect("it is piped");
        let mut lines =
            BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == READY), "the child keeps");
        Self { child, _stdin: stdin }
    }

    /// Ends it with signal 9, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is a child of this process");
        self.child.wait().expect("it is a child of this process");
    }

    /// Stops it with SIGSTOP, and waits until it is stopped.
    pub(crate) fn stop(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).expect("it is a child of this process");
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED)
            .expect("it is a child of this process")
            .expect("this waits");
        assert!(status.stopped(), "{status:?}");
    }

    /// Waits until it is gone, which somebody else sees to.
    pub(crate) fn wait(mut self) {
        self.child.wait().expect("it is a child of this process");
    }
}

/// A stopped child would outlive a failed test.
impl Drop for Keeper {
    fn drop(&mut self) {
        // Both fail if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other process of the tests; alone it does nothing.
#[test]
fn child_that_keeps_until_it_is_ended() {
    let Some(path) = std::env::var_os(DIRECTORY) else { return };
    let mut machine = machine(path.as_ref());
    machine.register(BOB).expect("Bob is new");
    let kept = machine.try_keep(BOB, "127.0.0.1:5000").expect("the directory can be kept");
    assert!(kept.is_some(), "nobody else keeps");
    // The name of the test is on the same line.
    println!("\n{READY}");
    // Ends with the parent, however that one ends.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

const DIRECTORY: &str = "EPICSERVER_TEST_DIRECTORY";
const READY: &str = "the child keeps";
