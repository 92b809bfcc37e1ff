//! The node processes of the demo: this very program, started again.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use epicserver::settings::{DataDir, Flags, Settings, TransportKind};
use epicserver::{Node, launch};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use super::Failure;
use super::game::{Barrel, Player};
use super::network::{Hindrance, Network, READY};

/// The folder that all processes share; it goes with this.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("epicserver-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The file with the cluster's secret.
    fn secret(&self) -> PathBuf {
        self.0.join("cluster.secret")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the demo's folder stays behind");
        }
    }
}

/// A process that serves the game; dropping it kills it.
pub(crate) struct Process {
    child: Child,
    /// The id of its node.
    pub(crate) id: u64,
    /// Where it listens.
    pub(crate) address: String,
    /// Whether it was started as [`Home::Elsewhere`].
    pub(crate) is_elsewhere: bool,
    /// Where it is in a network of its own.
    place: Option<NetworkPlace>,
}

/// A process in a network that can be cut.
struct NetworkPlace {
    network: Arc<Network>,
    process: u32,
    address: Ipv4Addr,
}

/// How processes of the game are started.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// Cores of each.
    pub(crate) cores: u16,
    /// What carries calls between them.
    pub(crate) transport: TransportKind,
    /// How much they log.
    pub(crate) log: tracing::Level,
    /// Whether nodes get their share although others came and went again and again.
    pub(crate) chases: bool,
    /// The network that each gets a place of its own in; `None`: they use this machine's.
    pub(crate) network: Option<Arc<Network>>,
}

/// Where a process belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Home<'a> {
    /// It shares the folder, and keeps the data if nobody else does.
    Shared,
    /// As `Shared`, and it listens at this address.
    At(&'a str),
    /// Like one of another machine: it knows the secret and these addresses, separated by commas, and never keeps the data. Nobody
    /// can tell whether it is dead or only stands still.
    Elsewhere(&'a str),
}

impl Launch {
    /// Starts a process and waits until it serves.
    pub(crate) async fn start(&self, folder: &Folder, home: Home<'_>) -> Result<Process, Failure> {
        let program = std::env::current_exe()?;
        let mut command = match &self.network {
            Some(network) => network.command(program.as_os_str()),
            None => Command::new(program),
        };
        command.arg("demo-node").args(["--cores", &self.cores.to_string(), "--log", self.log.as_str()]);
        command.args(["--transport", &self.transport.to_string()]);
        if self.chases {
            command.args(["--short-life", "0"]);
        }
        let listen = match (home, &self.network) {
            (Home::At(address), _) => Some(address.to_owned()),
            (_, Some(network)) => Some(network.address().to_string()),
            (_, None) => None,
        };
        if let Some(listen) = &listen {
            command.args(["--listen", listen]);
        }
        match home {
            Home::Shared | Home::At(_) => command.arg("--data-dir").arg(folder.path()),
            Home::Elsewhere(seeds) => command
                .args(["--data-dir", "none", "--seed", seeds])
                .arg("--secret-file")
                .arg(folder.secret()),
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("a node process has no output")?).lines();
        let mut place = None;
        if let (Some(network), Some(listen)) = (&self.network, &listen) {
            let address = *listen.parse::<SocketAddrV4>()?.ip();
            let id = child.id().ok_or("a process ended before it was in its network")?;
            let said = tokio::time::timeout(START_PATIENCE, lines.next_line());
            let said = said.await.map_err(|_| "a network namespace takes too long")??;
            if said.as_deref() != Some(READY) {
                return Err("a process ended before it was in its network: see above".into());
            }
            network.join(id, address).await?;
            place = Some(NetworkPlace { network: network.clone(), process: id, address });
        }
        // It begins where it waited for its network; else nobody reads this.
        child.stdin.take().ok_or("a node process has no input")?.write_all(b"go\n").await?;
        let line = tokio::time::timeout(START_PATIENCE, lines.next_line())
            .await
            .map_err(|_| "a node process did not serve in time")??;
        let (id, address) = line
            .as_deref()
            .and_then(read_serving)
            .ok_or("a node process ended before it served: see its log above")?;
        Ok(Process { child, id, address, place, is_elsewhere: matches!(home, Home::Elsewhere(_)) })
    }

    /// A member without objects, in this process; like one of another machine, so that it never keeps the data.
    pub(crate) async fn client(&self, folder: &Folder, seeds: &[Process]) -> Result<Node, Failure> {
        let settings = Settings {
            cores: Some(1),
            transport: self.transport,
            listen: self.network.as_ref().map(|network| network.own_address()),
            log: self.log,
            data_dir: DataDir::Nowhere,
            seed: seeds.iter().map(|seed| seed.address.clone()).collect(),
            secret_file: Some(folder.secret()),
            ..Settings::default()
        };
        Ok(launch::start::<()>(&settings).await.map_err(|error| error.to_string())?)
    }
}

impl Process {
    /// Kills it with a signal that it cannot see.
    pub(crate) async fn kill(mut self) -> Result<(), Failure> {
        Ok(self.child.kill().await?)
    }

    /// Whether it was killed, as members are whose lease is over; an error if it ended in another way.
    pub(crate) fn was_killed(&mut self) -> Result<bool, Failure> {
        match self.child.try_wait()? {
            None => Ok(false),
            Some(status) if status.signal() == Some(Signal::KILL.as_raw()) => Ok(true),
            Some(status) => {
                Err(format!("a node process ended by itself with {status}: see its log above").into())
            }
        }
    }

    /// Waits until somebody has ended it.
    pub(crate) async fn has_ended(&mut self) -> Result<(), Failure> {
        let ended = tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await;
        ended.map_err(|_| "a process that stood still was not ended in time")??;
        Ok(())
    }

    /// Drops so many of a hundred of the packets that come to it from this process; from all if there is none.
    pub(crate) async fn drop_packets(&self, from: Option<&Self>, percent: u8) -> Result<(), Failure> {
        let Some(NetworkPlace { network, process, .. }) = &self.place else { return Err(NO_NETWORK.into()) };
        let from: Vec<Ipv4Addr> =
            from.and_then(|from| from.place.as_ref()).map(|place| place.address).into_iter().collect();
        network.drop_packets(*process, &from, percent).await
    }

    /// Holds up what it sends.
    pub(crate) async fn hinder(&self, hindrance: Hindrance) -> Result<(), Failure> {
        let Some(NetworkPlace { network, process, .. }) = &self.place else { return Err(NO_NETWORK.into()) };
        network.hinder(*process, hindrance).await
    }

    /// Lets all its packets through again.
    pub(crate) async fn mend(&self) -> Result<(), Failure> {
        let Some(NetworkPlace { network, process, .. }) = &self.place else { return Err(NO_NETWORK.into()) };
        network.mend(*process).await
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let id = self.child.id().and_then(|id| Pid::from_raw(id as i32));
        Ok(rustix::process::kill_process(id.ok_or("a node process has ended by itself")?, signal)?)
    }

    /// Asks it to stop, and waits until it has ended.
    pub(crate) async fn stop(mut self) -> Result<ExitStatus, Failure> {
        self.signal(Signal::TERM)?;
        let ended = tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await;
        Ok(ended.map_err(|_| "a node process did not stop in time")??)
    }
}

/// A node process: serves the game until it is told to stop, or until the demo itself is gone.
pub(crate) fn serve(flags: &Flags) -> ExitCode {
    let parent = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
    let settings = Settings::load(flags, std::iter::empty());
    match parent.map_err(|error| error.to_string()).and(settings.map_err(|error| error.to_string())) {
        Ok(settings) => launch::serve::<(Player, Barrel)>(&settings, |node| {
            let (id, view) = (node.id().id, node.view());
            let own = view.members.iter().find(|member| member.node.id == id);
            println!("{SERVING}{id:016x} at {}", own.map_or("", |member| member.address.as_str()));
        }),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

const NO_NETWORK: &str = "the process has no network of its own";

/// Id and address in what a process says when it serves.
fn read_serving(line: &str) -> Option<(u64, String)> {
    let (id, address) = line.strip_prefix(SERVING)?.split_once(" at ")?;
    Some((u64::from_str_radix(id, 16).ok()?, address.to_owned()))
}

/// What a process says on its output when it serves, before the id of its node and its address.
const SERVING: &str = "serving as node ";
const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(60);
