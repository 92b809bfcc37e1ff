//! The second process of the demo: how it is started, and what it does.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use epicserver::settings::{Flags, Settings};
use epicserver::{Node, launch};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use super::Failure;
use super::game::{Barrel, Player};

/// This process and a second one, linked.
pub(crate) struct Pair {
    pub(crate) node: Node,
    child: Child,
    output: BufReader<ChildStdout>,
    secret: PathBuf,
}

/// What the second process did.
pub(crate) struct PeerStats {
    pub(crate) objects: u64,
    pub(crate) remote_calls: u64,
}

impl Pair {
    /// Starts both and waits until they reach each other.
    pub(crate) async fn start(cores: u16, log: tracing::Level) -> Result<Self, Failure> {
        let (mine, theirs) = (free_address()?, free_address()?);
        let secret = write_secret()?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("demo-peer")
            .args(["--cores", &cores.to_string(), "--log", log.as_str()])
            .args(["--listen", &theirs, "--peers", &mine])
            .arg("--secret-file")
            .arg(&secret)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut output = BufReader::new(child.stdout.take().ok_or("the second process has no output")?);
        let mut ready = String::new();
        tokio::time::timeout(START_PATIENCE, output.read_line(&mut ready)).await??;
        if ready.trim() != READY {
            return Err(format!("the second process did not start: {ready:?}").into());
        }
        let settings = Settings {
            cores: Some(cores),
            listen: Some(mine),
            peers: vec![theirs],
            secret_file: Some(secret.clone()),
            ..Settings::default()
        };
        let node = launch::start::<(Player, Barrel)>(&settings).await.map_err(|error| error.to_string())?;
        let pair = Self { node, child, output, secret };
        pair.wait_for_link().await?;
        Ok(pair)
    }

    /// Calls objects until one on the other side has answered.
    async fn wait_for_link(&self) -> Result<(), Failure> {
        let pool = self.node.pool();
        let reach_all = async {
            for key in 0..16 {
                let player = pool.get::<Player>(&format!("probe {key}"));
                while let Err(error) = player.score().await {
                    if !error.retry_safe() {
                        return Err(error);
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
            Ok(())
        };
        Ok(tokio::time::timeout(START_PATIENCE, reach_all).await??)
    }

    /// Ends both in order.
    pub(crate) async fn finish(mut self) -> Result<PeerStats, Failure> {
        drop(self.child.stdin.take());
        let mut line = String::new();
        tokio::time::timeout(START_PATIENCE, self.output.read_line(&mut line)).await??;
        let stats: serde_json::Value = serde_json::from_str(&line)?;
        let status = tokio::time::timeout(START_PATIENCE, self.child.wait()).await??;
        if !status.success() {
            return Err(format!("the second process ended with {status}").into());
        }
        self.node.shutdown(launch::PATIENCE).await;
        std::fs::remove_file(&self.secret)?;
        let number = |key: &str| stats.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
        Ok(PeerStats { objects: number("objects"), remote_calls: number("remote_calls") })
    }
}

/// The second process: serves objects until its standard input ends, then says what it did.
pub(crate) fn run(flags: &Flags) -> ExitCode {
    let settings = match Settings::load(flags, std::iter::empty()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    launch::init_log(settings.log);
    let served = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| {
            let served = runtime.block_on(serve(&settings));
            // The thread that waits for standard input may still wait.
            runtime.shutdown_background();
            served
        });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: &Settings) -> Result<(), Failure> {
    let node = launch::start::<(Player, Barrel)>(settings).await.map_err(|error| error.to_string())?;
    println!("{READY}");
    std::io::stdout().flush()?;
    let mut input = tokio::io::stdin();
    let mut ignored = Vec::new();
    tokio::select! {
        read = input.read_to_end(&mut ignored) => { read?; }
        () = launch::stop_signal() => {}
    }
    let stats = node.stats();
    println!("{}", serde_json::json!({"objects": stats.objects, "remote_calls": stats.remote_calls}));
    std::io::stdout().flush()?;
    node.shutdown(launch::PATIENCE).await;
    Ok(())
}

/// An address of this machine that nobody listens on at the moment.
fn free_address() -> std::io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// A fresh secret in a file that only this user can read.
fn write_secret() -> std::io::Result<PathBuf> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let mut secret = [0u8; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let path = std::env::temp_dir().join(format!("epicserver-demo-{}.secret", std::process::id()));
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    for byte in secret {
        write!(file, "{byte:02x}")?;
    }
    Ok(path)
}

const READY: &str = "ready";
const START_PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(20);
