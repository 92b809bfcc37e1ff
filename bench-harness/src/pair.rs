//! Two processes with a node each: this one calls, and a child of it is called.
//!
//! The child serves until its standard input ends.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use epicserver::settings::Settings;
use epicserver::{Node, launch};
use epicserver_transport_tipc::ServiceAddress;

use crate::callees::{Account, Still};
use crate::child::{Child, say};
use crate::driver::Driver;
use crate::options::{Threads, Transport, WaitMode};
use crate::processors::{self, Halves};
use crate::suite::Failure;

/// What the child is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct Serve {
    #[arg(long)]
    listen: String,
    #[arg(long)]
    peer: String,
    #[arg(long)]
    secret_file: PathBuf,
    #[arg(long)]
    transport: Transport,
    #[arg(long)]
    wait: WaitMode,
    #[arg(long)]
    threads: Threads,
    #[arg(long, value_delimiter = ',')]
    processors: Vec<usize>,
}

/// Both processes.
pub(crate) struct Pair {
    /// The caller's node.
    pub(crate) node: Node,
    child: Child,
}

impl Pair {
    /// Starts both, each with one core, on its half of the processors.
    pub(crate) async fn start(
        transport: Transport,
        wait: WaitMode,
        threads: Threads,
        halves: &Halves,
    ) -> Result<Self, Failure> {
        let (mine, theirs) = (free_address(transport)?, free_address(transport)?);
        let secret = SecretFile::write()?;
        let processors: Vec<_> = halves.callee.iter().map(ToString::to_string).collect();
        let kinds = [transport.to_string(), wait.to_string(), threads.to_string(), processors.join(",")];
        let [transport_name, wait_name, threads_name, processors] = kinds.each_ref().map(String::as_str);
        let place = ["serve", "--listen", &theirs, "--peer", &mine, "--secret-file"].map(OsStr::new);
        let manner = ["--transport", transport_name, "--wait", wait_name, "--threads", threads_name];
        let arguments = place.into_iter().chain([secret.path.as_os_str()]).chain(manner.map(OsStr::new));
        let arguments = arguments.chain(["--processors", processors].map(OsStr::new));
        let mut child = Child::start(&arguments.collect::<Vec<_>>())?;
        let ready = child.hear(START_PATIENCE).await?;
        if ready != READY {
            return Err(format!("the called process did not start: {ready:?}").into());
        }
        processors::stay_on(&halves.caller)?;
        let own = Settings {
            listen: Some(mine),
            peers: vec![theirs],
            secret_file: Some(secret.path.clone()),
            ..Settings::default()
        };
        let node = start_node(own, transport, wait, threads).await?;
        let pair = Self { node, child };
        tokio::time::timeout(START_PATIENCE, pair.wait_for_link()).await??;
        Ok(pair)
    }

    /// Calls objects until one in the other process has answered.
    async fn wait_for_link(&self) -> Result<(), Failure> {
        let pool = self.node.pool();
        for key in 0.. {
            match pool.get::<Still>(key).place().await {
                Ok(place) if place.process != std::process::id() => break,
                Ok(_) => {}
                Err(error) if error.retry_safe() => tokio::time::sleep(RETRY).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Ends both in order.
    pub(crate) async fn finish(self) -> Result<(), Failure> {
        let ended = self.child.finish(END_PATIENCE).await;
        self.node.shutdown(launch::PATIENCE).await;
        ended
    }
}

/// The child: serves objects until its standard input ends.
pub(crate) fn serve(options: Serve) -> Result<(), Failure> {
    processors::stay_on(&options.processors)?;
    launch::init_log(LOG);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Serve { listen, peer, secret_file, transport, wait, threads, .. } = options;
    let own = Settings {
        listen: Some(listen),
        peers: vec![peer],
        secret_file: Some(secret_file),
        ..Settings::default()
    };
    let node = runtime.block_on(start_node(own, transport, wait, threads))?;
    say(READY)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    // The caller measures no more; a node that goes on spinning would only be in its way.
    runtime.block_on(node.shutdown(SHUTDOWN_PATIENCE));
    Ok(())
}

/// Starts a node that is told where it and its peer are.
async fn start_node(
    place: Settings,
    transport: Transport,
    wait: WaitMode,
    threads: Threads,
) -> Result<Node, Failure> {
    let settings = Settings {
        cores: Some(1),
        transport: transport.kind(),
        wait: wait.into(),
        transport_threads: threads.into(),
        log: LOG,
        ..place
    };
    launch::start::<(Driver, Still, Account)>(&settings).await
}

/// An address of this machine that nobody listens on at the moment.
fn free_address(transport: Transport) -> std::io::Result<String> {
    if transport == Transport::Tipc {
        return Ok(ServiceAddress { service: TIPC_SERVICE, instance: fastrand::u32(..) }.to_string());
    }
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// A fresh secret in a file that only this user can read. It is there until both have read it.
struct SecretFile {
    path: PathBuf,
}

impl SecretFile {
    fn write() -> std::io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut secret = [0u8; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
        let path = std::env::temp_dir().join(format!("bench-harness-{}.secret", std::process::id()));
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let this = Self { path };
        for byte in secret {
            write!(file, "{byte:02x}")?;
        }
        Ok(this)
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        // It may be gone already, and is of no use to anybody.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The kind of service that both bind over TIPC.
const TIPC_SERVICE: u32 = 0x4550_4942;
const READY: &str = "ready";
const LOG: tracing::Level = tracing::Level::WARN;
const START_PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(20);
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);
const END_PATIENCE: Duration = Duration::from_secs(30);
