//! The cluster of a test: its folder, its processes, and a client.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use epicserver::cluster::{PartitionState, View};
use epicserver::settings::{DataDir, Settings, TransportKind};
use epicserver::{Node, launch};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::child::{ARGUMENTS, SERVING};
use crate::play::Game;

/// A cluster of processes, and a client of it in this process.
pub(crate) struct World {
    folder: PathBuf,
    threads: &'static str,
    transport: String,
    pub(crate) client: Node,
}

/// What carries calls between the processes of a test, and how much it does there.
#[derive(Clone, Copy)]
pub(crate) struct Over {
    pub(crate) transport: &'static str,
    /// Saves that a game must have had acknowledged to say anything.
    pub(crate) saves_min: u64,
    part: u64,
}

/// All of it, on this machine.
pub(crate) const TCP: Over = Over { transport: "tcp", saves_min: 100, part: 1 };
/// A part, in a guest that may be emulated.
pub(crate) const TIPC: Over = Over { transport: "tipc", saves_min: 1, part: 5 };
/// Less, as all that is different about it takes longer.
#[cfg(feature = "rdma")]
pub(crate) const RDMA: Over = Over { transport: "rdma", part: 10, ..TIPC };

impl Over {
    /// So much of what is done many times.
    pub(crate) fn of(self, count: u64) -> u64 {
        count / self.part
    }
}

/// One process.
pub(crate) struct Process {
    child: Child,
    pub(crate) id: u64,
}

impl World {
    /// Founds a cluster with a data node that serves objects too.
    pub(crate) async fn found(name: &str, threads: &'static str) -> (Self, Process) {
        Self::found_on(TCP, name, threads).await
    }

    /// As [`found`](Self::found), over another transport.
    pub(crate) async fn found_on(over: Over, name: &str, threads: &'static str) -> (Self, Process) {
        let (world, first) = Self::found_with(name, threads, &[("transport", over.transport)]).await;
        world.owned_by(first.id).await;
        (world, first)
    }

    /// Founds a cluster with a data node without objects. The client is like one of another machine: it never keeps the data, so that
    /// the test knows who does.
    pub(crate) async fn found_plain(name: &str, threads: &'static str) -> (Self, Process) {
        let (mut world, first) = Self::found_with(name, threads, &[("binary", "plain")]).await;
        let settings = elsewhere(&world.address(first.id), world.folder.join("cluster.secret"));
        let client = launch::start::<()>(&settings).await.expect("the client joins");
        std::mem::replace(&mut world.client, client).shutdown(PATIENCE).await;
        (world, first)
    }

    /// Founds a cluster over that transport with a data node without objects.
    pub(crate) async fn found_over(name: &str, threads: &'static str, transport: &str) -> (Self, Process) {
        Self::found_with(name, threads, &[("binary", "plain"), ("transport", transport)]).await
    }

    /// Founds a cluster whose keeper takes lives of nodes under so many seconds for short.
    pub(crate) async fn found_wary(name: &str, short_life_s: &str) -> (Self, Process) {
        let (world, first) = Self::found_with(name, "dedicated", &[("short_life", short_life_s)]).await;
        world.owned_by(first.id).await;
        (world, first)
    }

    /// Founds a cluster with a data node of this program.
    pub(crate) async fn found_as(
        over: Over,
        name: &str,
        threads: &'static str,
        binary: &str,
    ) -> (Self, Process) {
        Self::found_with(name, threads, &[("binary", binary), ("transport", over.transport)]).await
    }

    async fn found_with(name: &str, threads: &'static str, more: &[(&str, &str)]) -> (Self, Process) {
        let folder = std::env::temp_dir().join(format!("epicserver-test-{name}-{}", std::process::id()));
        // Of an earlier run with this process number.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let folder_text = path_text(&folder);
        let given: Vec<_> = [("data_dir", folder_text.as_str())].iter().chain(more).copied().collect();
        let first = start(&given, threads).await;
        let transport = more.iter().find(|(name, _)| *name == "transport");
        let transport = transport.map_or(TransportKind::Tcp, |(_, name)| name.parse().expect("a transport"));
        let settings = Settings { cores: Some(1), transport, ..Settings::in_folder(&folder) };
        let client = launch::start::<()>(&settings).await.expect("the client joins");
        (Self { folder, threads, transport: transport.to_string(), client }, first)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Another process on this machine.
    pub(crate) async fn start(&self) -> Process {
        let folder = path_text(&self.folder);
        let settings = [("data_dir", folder.as_str()), ("transport", &self.transport)];
        start(&settings, self.threads).await
    }

    /// A process on this machine without objects: it keeps the data if nobody else does.
    pub(crate) async fn start_plain(&self) -> Process {
        self.start_as("plain").await
    }

    /// A process of this program, on this machine.
    pub(crate) async fn start_as(&self, binary: &str) -> Process {
        let folder = path_text(&self.folder);
        let settings = [("data_dir", folder.as_str()), ("transport", &self.transport), ("binary", binary)];
        start(&settings, self.threads).await
    }

    /// A process of another version of the program, on this machine.
    pub(crate) async fn start_other(&self) -> Process {
        self.start_as("other").await
    }

    /// Another process that behaves like one of another machine: it shares no data directory with the others.
    pub(crate) async fn start_elsewhere(&self, seed: &str) -> Process {
        let secret = path_text(&self.folder.join("cluster.secret"));
        start(&[("data_dir", "none"), ("seed", seed), ("secret_file", &secret)], self.threads).await
    }

    /// Another process that behaves like one of another machine, and is told nothing but the secret: over TIPC that is enough.
    pub(crate) async fn start_found(&self) -> Process {
        start_with_secret(&self.folder.join("cluster.secret"), "tipc", self.threads).await
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
            let shares: Vec<usize> = ids.iter().map(|id| self.partitions_of(*id)).collect();
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

    /// Waits until this node is a member.
    pub(crate) async fn has_member(&self, id: u64) {
        until("a node is a member", || self.incarnation(id) > 0).await;
    }

    /// How many partitions a node owns, in any of its lives.
    pub(crate) fn partitions_of(&self, id: u64) -> usize {
        let owns = |state: &&PartitionState| state.owner.is_some_and(|owner| owner.id == id);
        self.view().partitions.iter().filter(owns).count()
    }

    /// Which life of a node is a member; 0: none.
    pub(crate) fn incarnation(&self, id: u64) -> u32 {
        let view = self.view();
        let member = view.members.iter().find(|member| member.node.id == id);
        member.map_or(0, |member| member.node.incarnation)
    }

    /// Waits until this node keeps the data.
    pub(crate) async fn kept_by(&self, id: u64) {
        let wait = async {
            // Not waiting for members that stand still.
            while self.client.inspect(LOOK_AGAIN).await.keeper.is_none_or(|keeper| keeper.id != id) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("this node keeps the data in time");
    }

    /// How long the keeper moves nothing for balance.
    pub(crate) async fn balance_waits_ms(&self) -> u64 {
        let nodes = self.client.inspect(PATIENCE).await.nodes;
        nodes.iter().map(|node| node.counters.balance_waits_ms).sum()
    }

    /// Saves that any node took, as the keeper, of nodes that were no members.
    pub(crate) async fn stray_saves(&self) -> u64 {
        self.client.inspect(PATIENCE).await.nodes.iter().map(|node| node.counters.stray_saves).sum()
    }

    /// How many saves of a node the store has refused.
    pub(crate) async fn refused_saves(&self, id: u64) -> u64 {
        let report = self.client.inspect(PATIENCE).await;
        let node = report.nodes.iter().find(|node| node.node.id == id);
        node.map_or(0, |node| node.counters.refused_saves)
    }

    /// How many nodes each of two is linked to; `None`: it does not answer.
    pub(crate) async fn links_of(&self, one: u64, other: u64) -> (Option<u64>, Option<u64>) {
        let report = self.client.inspect(LOOK_PATIENCE).await;
        let links = |id| {
            let node = report.nodes.iter().find(|node| node.node.id == id)?;
            node.stats.map(|_| node.counters.links)
        };
        (links(one), links(other))
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

pub(crate) fn path_text(path: &Path) -> String {
    path.display().to_string()
}

/// A process that is told nothing but the secret.
pub(crate) async fn start_with_secret(secret: &Path, transport: &str, threads: &str) -> Process {
    start(&[("transport", transport), ("secret_file", &path_text(secret))], threads).await
}

async fn start(settings: &[(&str, &str)], threads: &str) -> Process {
    // Both ways to drive the links, and both with and without calls between cores.
    let cores = if threads == "dedicated" { 2 } else { 1 };
    let mut text = format!("threads={threads}\ncores={cores}\n");
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

/// Waits until so many more levels of the game have ended.
pub(crate) async fn play_on(game: &Game, levels: u64) {
    tokio::time::timeout(PATIENCE, game.play_on(levels)).await.expect("the game goes on");
}

/// Waits until no level ends any more.
pub(crate) async fn stands_still(game: &Game) {
    let wait = async {
        let mut before = None;
        while before.replace(game.levels()) != Some(game.levels()) {
            tokio::time::sleep(STILL).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the game stands still");
}

/// Starts a game of so many players.
pub(crate) fn start_game(world: &World, players: usize) -> Game {
    Game::start(world.client.pool(), players, BARRELS_EACH)
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
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
const STILL: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
