//! What becomes of the state when the disk does not do as it is told.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use epicserver::prelude::*;
use epicserver::settings::Settings;
use epicserver::{Node, context, launch};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

#[entity(name = "disk.Pile")]
#[derive(Default)]
struct Pile {
    puts: u64,
    bytes: Vec<u8>,
}

#[methods]
impl Pile {
    /// Replaces what lies here by so many bytes; gives how often that was done.
    async fn put(&mut self, length: u64) -> u64 {
        self.puts += 1;
        self.bytes = vec![self.puts as u8; length as usize];
        self.puts
    }

    /// Puts twice, with a checkpoint in between, and does not end.
    async fn put_and_stay(&mut self) -> Result<(), CallError> {
        self.puts += 1;
        context::save(&*self).await?;
        println!("{SAVED}");
        self.puts += 1;
        context::sleep(BUDGET * 10).await;
        Ok(())
    }

    async fn puts(&self) -> u64 {
        assert!(self.bytes.iter().all(|byte| u64::from(*byte) == self.puts), "the state is of one piece");
        self.puts
    }
}

async fn start(folder: &Path) -> Node {
    let settings = Settings { cores: Some(1), ..Settings::in_folder(folder) };
    launch::start::<(Pile,)>(&settings).await.expect("the node starts")
}

/// Puts so many bytes on each pile, all at a time; gives what the callers got.
async fn put_all(pool: &Pool, length: u64) -> Vec<Result<u64, CallError>> {
    let puts = (0..PILES).map(|key| tokio::spawn(pool.get::<Pile>(key).put(length).within(BUDGET)));
    let mut results = Vec::new();
    for put in puts.collect::<Vec<_>>() {
        results.push(put.await.expect("no panic"));
    }
    results
}

/// What a new caller sees.
async fn read_all(node: &Node) -> Vec<u64> {
    let mut counts = Vec::new();
    for key in 0..PILES {
        counts.push(node.pool().get::<Pile>(key).puts().within(BUDGET).await.expect("it is served"));
    }
    counts
}

/// In a process of its own, as it may not write beyond a length of files then.
#[test]
fn a_batch_that_the_disk_does_not_take_leaves_no_trace_and_the_node_goes_on() {
    let folder = Folder::make("full");
    // A write beyond the limit is to be an error, and not the end of the process.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", "child_whose_disk_takes_no_more", "--nocapture"])
        .env(CHILD, &folder.0)
        .output()
        .expect("a test can run itself");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains(CHILD_DONE), "{text}\n{errors}");
}

/// The other process of the test above; alone it does nothing.
#[tokio::test]
async fn child_whose_disk_takes_no_more() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let node = start(&folder).await;
    assert!(put_all(&node.pool(), LENGTH).await.iter().all(|put| *put == Ok(1)));
    let unlimited = getrlimit(Resource::Fsize);
    for _ in 0..3 {
        let log = fs::metadata(folder.join("epicserver.sqlite-wal")).expect("the log").len();
        // In the middle of the first record.
        let limit = Rlimit { current: Some(log + LENGTH / 2), ..unlimited };
        setrlimit(Resource::Fsize, limit).expect("a lower limit");
        let refused = put_all(&node.pool(), LENGTH).await;
        assert!(refused.iter().all(|put| *put == Err(CallError::SaveFailed)), "{refused:?}");
        assert_eq!(read_all(&node).await, [1; PILES as usize], "what nobody was told of never was");
        assert!(node.is_healthy());
    }
    setrlimit(Resource::Fsize, unlimited).expect("what it was");
    assert!(put_all(&node.pool(), LENGTH).await.iter().all(|put| *put == Ok(2)), "there is room again");
    node.shutdown(BUDGET).await;
    let node = start(&folder).await;
    assert_eq!(read_all(&node).await, [2; PILES as usize]);
    node.shutdown(BUDGET).await;
    println!("{CHILD_DONE}");
}

/// In a process of its own, as no sync succeeds there any more, and as the process is to end by itself.
#[tokio::test]
async fn a_failed_sync_stops_the_process_and_nothing_of_its_batch_is_acknowledged() {
    let folder = Folder::make("sync");
    let output = Command::new(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", "child_whose_disk_fails_to_sync", "--nocapture"])
        .env(CHILD, &folder.0)
        .output()
        .expect("a test can run itself");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains(STOPPED), "{text}\n{errors}");
    for words in ["the store could not sync", "the store failed for good"] {
        assert!(errors.contains(words), "{words:?} is not in {errors}");
    }
    // What was acknowledged is there. What was not may be: the file had it, and nobody knows about the disk.
    let node = start(&folder.0).await;
    let puts = read_all(&node).await;
    assert!(puts.iter().all(|puts| (1..=2).contains(puts)), "{puts:?}");
    assert!(put_all(&node.pool(), LENGTH).await.iter().all(Result::is_ok), "a new process goes on");
    node.shutdown(BUDGET).await;
}

/// The other process of the test above; alone it does nothing.
#[test]
fn child_whose_disk_fails_to_sync() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let settings = Settings { cores: Some(1), ..Settings::in_folder(&folder) };
    let (told, results) = std::sync::mpsc::channel();
    let code = launch::serve::<(Pile,)>(&settings, |node| {
        let pool = node.pool();
        tokio::spawn(async move {
            assert!(put_all(&pool, LENGTH).await.iter().all(|put| *put == Ok(1)));
            fail_all_syncs();
            told.send(put_all(&pool, LENGTH).await)
        });
    });
    assert_eq!(
        format!("{code:?}"),
        format!("{:?}", ExitCode::FAILURE),
        "it stops by itself, and says that it failed"
    );
    let refused = results.recv().expect("every caller is told something");
    assert!(refused.iter().all(Result::is_err), "{refused:?}");
    println!("{STOPPED}");
}

/// From now on every sync of this process ends with EIO, as one of a broken disk does.
fn fail_all_syncs() {
    let syncs = [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync_file_range];
    let failing = SeccompAction::Errno(libc::EIO as u32);
    let architecture = std::env::consts::ARCH.try_into().expect("a processor that the filter knows");
    let rules = syncs.map(|call| (call, Vec::new())).into();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, failing, architecture).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a short filter");
    seccompiler::apply_filter_all_threads(&program).expect("a kernel with seccomp");
}

#[tokio::test]
async fn what_a_checkpoint_saved_outlives_a_killed_process_and_nothing_else_of_its_method() {
    let folder = Folder::make("checkpoint");
    let mut child = Command::new(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", "child_that_is_killed_behind_its_checkpoint", "--nocapture"])
        .env(CHILD, &folder.0)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a test can run itself");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let saved = lines.any(|line| line.is_ok_and(|line| line == SAVED));
    child.kill().expect("it is a child of this process");
    child.wait().expect("it is a child of this process");
    assert!(saved);
    let node = start(&folder.0).await;
    assert_eq!(node.pool().get::<Pile>(0).puts().within(BUDGET).await, Ok(1));
    node.shutdown(BUDGET).await;
}

/// The other process of the test above; alone it does nothing.
#[tokio::test]
async fn child_that_is_killed_behind_its_checkpoint() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let node = start(&folder).await;
    println!();
    let ended = node.pool().get::<Pile>(0).put_and_stay().within(BUDGET).await;
    panic!("it was not killed: {ended:?}");
}

#[tokio::test]
async fn a_data_directory_that_is_copied_under_a_running_node_starts_with_what_was_acknowledged() {
    let folder = Folder::make("copied");
    let (original, copy) = (folder.0.join("original"), folder.0.join("copy"));
    let node = start(&original).await;
    let acknowledged = put_all(&node.pool(), LENGTH).await;
    assert!(acknowledged.iter().all(|put| *put == Ok(1)));
    let pool = node.pool();
    let writer = tokio::spawn(async move {
        for _ in 0..10 {
            pool.get::<Pile>(0).put(LENGTH).within(BUDGET).await?;
        }
        Ok::<_, CallError>(())
    });
    copy_folder(&original, &copy);
    writer.await.expect("no panic").expect("the copy disturbs nobody");
    let second = start(&copy).await;
    let copied = read_all(&second).await;
    assert!((1..=11).contains(&copied[0]) && copied[1..].iter().all(|puts| *puts == 1), "{copied:?}");
    assert!(put_all(&second.pool(), LENGTH).await.iter().all(Result::is_ok), "it is a cluster of its own");
    second.shutdown(BUDGET).await;
    let mut expected = [1; PILES as usize];
    expected[0] = 11;
    assert_eq!(read_all(&node).await, expected, "nothing of the copy's comes here");
    assert!(put_all(&node.pool(), LENGTH).await.iter().all(Result::is_ok));
    node.shutdown(BUDGET).await;
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new folder");
    for entry in fs::read_dir(from).expect("it is there") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        let target = to.join(name);
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).expect("it is copied");
        }
    }
}

/// A folder that is removed at the end of its test.
struct Folder(PathBuf);

impl Folder {
    fn make(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("epicserver-test-{name}-{}", std::process::id()));
        // Of an earlier run with this process number.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left there harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

const CHILD: &str = "EPICSERVER_TEST_DISK";
const SAVED: &str = "the checkpoint is saved";
const CHILD_DONE: &str = "the disk was full and is not any more";
const STOPPED: &str = "the process stopped when a sync failed";
const PILES: u64 = 16;
/// The bytes of a pile: several pages of the file.
const LENGTH: u64 = 32 << 10;
const BUDGET: Duration = Duration::from_secs(60);
