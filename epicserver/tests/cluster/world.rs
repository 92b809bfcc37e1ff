//! The cluster of a test: its folder, its processes, a client, and a game that goes on in the background.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epicserver::cluster::{View, partition_of};
use epicserver::settings::{DataDir, Settings};
use epicserver::{CallError, Executed, Node, Pool, Ref, launch};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::child::{ARGUMENTS, SERVING};
use crate::game::{Barrel, Level, Player};
use crate::ledger::{Findings, Ledger};

/// A cluster of processes, and a client of it in this process.
pub(crate) struct World {
    folder: PathBuf,
    threads: &'static str,
    pub(crate) client: Node,
}

/// One process.
pub(crate) struct Process {
    child: Child,
    pub(crate) id: u64,
}

impl World {
    /// Founds a cluster with a data node that serves objects too.
    pub(crate) async fn found(name: &str, threads: &'static str) -> (Self, Process) {
        let folder = std::env::temp_dir().join(format!("epicserver-test-{name}-{}", std::process::id()));
        // Of an earlier run with this process number.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let first = start(&[("data_dir", &path_text(&folder))], threads).await;
        let settings = Settings { cores: Some(1), ..Settings::in_folder(&folder) };
        let client = launch::start::<()>(&settings).await.expect("the client joins");
        let world = Self { folder, threads, client };
        world.owned_by(first.id).await;
        (world, first)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Another process on this machine.
    pub(crate) async fn start(&self) -> Process {
        start(&[("data_dir", &path_text(&self.folder))], self.threads).await
    }

    /// A process on this machine without objects: it keeps the data if nobody else does.
    pub(crate) async fn start_plain(&self) -> Process {
        start(&[("data_dir", &path_text(&self.folder)), ("plain", "yes")], self.threads).await
    }

    /// Another process that behaves like one of another machine: it shares no data directory with the others.
    pub(crate) async fn start_elsewhere(&self, seed: &str) -> Process {
        let secret = path_text(&self.folder.join("cluster.secret"));
        start(&[("data_dir", "none"), ("seed", seed), ("secret_file", &secret)], self.threads).await
    }

    /// Waits until this node owns all objects.
    pub(crate) async fn owned_by(&self, id: u64) {
        until("one node owns all objects", || {
            self.view().partitions.iter().all(|partition| partition.owner.is_some_and(|owner| owner.id == id))
        })
        .await;
    }

    /// Waits until each of these nodes, and nobody else, has its share of the objects, and nothing moves any more.
    pub(crate) async fn shared_by(&self, ids: &[u64]) {
        until("all nodes have their share", || {
            let view = self.view();
            let all = view.partitions.len();
            let least = all / ids.len();
            let owned = |id: u64| {
                view.partitions.iter().filter(|one| one.owner.is_some_and(|owner| owner.id == id)).count()
            };
            let shares: Vec<usize> = ids.iter().map(|id| owned(*id)).collect();
            let rests = view.partitions.iter().all(|partition| partition.moving_to.is_none());
            rests
                && shares.iter().sum::<usize>() == all
                && shares.iter().all(|share| (least..=least + 1).contains(share))
        })
        .await;
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.client.view()
    }

    /// Where a node listens.
    pub(crate) fn address(&self, id: u64) -> String {
        let view = self.view();
        let member = view.members.iter().find(|member| member.node.id == id);
        member.map(|member| member.address.clone()).expect("a member")
    }

    /// Ends the client; the processes end with their handles.
    pub(crate) async fn end(self) {
        self.client.shutdown(Duration::from_secs(1)).await;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

async fn start(settings: &[(&str, &str)], threads: &str) -> Process {
    let mut text = format!("threads={threads}\n");
    for (name, value) in settings {
        text.push_str(&format!("{name}={value}\n"));
    }
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["child::node_process", "--exact", "--nocapture"])
        .env(ARGUMENTS, text)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let serving = async {
        while let Some(line) = lines.next_line().await.expect("a line") {
            // The test runner begins the line.
            if let Some((_, id)) = line.split_once(SERVING) {
                return u64::from_str_radix(id, 16).expect("a number");
            }
        }
        panic!("the process ended before it served");
    };
    let id = tokio::time::timeout(PATIENCE, serving).await.expect("it serves in time");
    // What it says later must not end it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Process { child, id }
}

impl Process {
    /// Kills it with a signal that it cannot see.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }

    /// Asks it to stop; gives whether it ended well.
    pub(crate) async fn stop(mut self) -> bool {
        self.signal("TERM").await;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends in time");
        status.expect("its status").success()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_some()
    }

    /// Sends a signal by name.
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().await.expect("kill runs");
        assert!(sent.success(), "kill -{name} {pid}: {sent}");
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// A game that goes on in the background until it is ended.
pub(crate) struct Game {
    ledger: Arc<Mutex<Ledger>>,
    pool: Pool,
    levels: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    players: JoinSet<()>,
}

impl Game {
    /// Starts a game of so many players, each of which shoots at barrels of its own, one level after the other.
    pub(crate) fn start(pool: Pool, players: usize) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::new(players * BARRELS_EACH, players)));
        let (levels, failed, refused, stop) = Default::default();
        let mut game = Self { ledger, pool, levels, failed, refused, stop, players: JoinSet::new() };
        for number in 0..players {
            game.players.spawn(play(number, game.share()));
        }
        game
    }

    fn share(&self) -> Share {
        Share {
            ledger: self.ledger.clone(),
            pool: self.pool.clone(),
            levels: self.levels.clone(),
            failed: self.failed.clone(),
            refused: self.refused.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Waits until so many more levels have ended.
    pub(crate) async fn play_on(&self, levels: u64) {
        let target = self.levels.load(Ordering::Relaxed) + levels;
        until("the game goes on", || self.levels.load(Ordering::Relaxed) >= target).await;
    }

    /// What was on this node may be forgotten, as far as it lives in memory only.
    pub(crate) fn excuse(&self, view: &View, node: u64) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let barrels = ledger.barrels();
        let on_node = |barrel: &usize| {
            view.owner(partition_of::<Barrel>(*barrel as u64)).is_some_and(|owner| owner.id == node)
        };
        ledger.killed((0..barrels).filter(on_node));
    }

    /// How many calls of the client did not run, and were made again.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Ends the game, asks every player for the score once more, and gives what the ledger found and how many calls failed
    /// though it was safe to make them again.
    pub(crate) async fn end(mut self) -> (Findings, u64) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.players.join_next().await {
            ended.expect("a player plays to the end");
        }
        let players = self.ledger.lock().unwrap_or_else(PoisonError::into_inner).players();
        for number in 0..players {
            let player = player(&self.pool, number);
            let score = retrying(&self.refused, || player.score()).await.expect("a score");
            self.ledger.lock().unwrap_or_else(PoisonError::into_inner).score(number, score);
        }
        let findings = self.ledger.lock().unwrap_or_else(PoisonError::into_inner).findings;
        (findings, self.failed.load(Ordering::Relaxed))
    }
}

struct Share {
    ledger: Arc<Mutex<Ledger>>,
    pool: Pool,
    levels: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

async fn play(number: usize, share: Share) {
    let player = player(&share.pool, number);
    let block: Vec<usize> = (number * BARRELS_EACH..(number + 1) * BARRELS_EACH).collect();
    let barrels: Vec<_> = block.iter().map(|barrel| share.pool.get::<Barrel>(*barrel as u64)).collect();
    while !share.stop.load(Ordering::Relaxed) {
        let level: Result<Level, CallError> =
            retrying(&share.refused, || player.enter_level(barrels.clone())).await;
        let mut ledger = share.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        match level {
            Ok(level) => ledger.level(number, &block, &level),
            Err(error) if error.executed() == Executed::Unknown => {
                eprintln!("a level of player {number}: {error}");
                ledger.unknown_level(number, &block);
            }
            Err(_) => drop(share.failed.fetch_add(1, Ordering::Relaxed)),
        }
        drop(ledger);
        share.levels.fetch_add(1, Ordering::Relaxed);
    }
}

fn player(pool: &Pool, number: usize) -> Ref<Player> {
    pool.get::<Player>(&format!("player {number}"))
}

/// Calls again while that is certainly safe, and counts how often.
async fn retrying<M, T>(
    refused: &AtomicU64,
    mut call: impl FnMut() -> epicserver::Call<M>,
) -> Result<T, CallError>
where
    M: epicserver::Method<Output = Result<T, CallError>>,
{
    for _ in 0..TRIES {
        match call().within(BUDGET).await {
            Err(error) if error.retry_safe() => {
                eprintln!("a call of the client did not run: {error}");
                refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            result => return result,
        }
    }
    call().within(BUDGET).await
}

/// The settings of a client elsewhere.
pub(crate) fn elsewhere(seed: &str, secret: PathBuf) -> Settings {
    Settings {
        cores: Some(1),
        data_dir: DataDir::Nowhere,
        seed: vec![seed.to_owned()],
        secret_file: Some(secret),
        ..Settings::default()
    }
}

const BARRELS_EACH: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const BUDGET: Duration = Duration::from_secs(20);
const TRIES: u32 = 1000;
