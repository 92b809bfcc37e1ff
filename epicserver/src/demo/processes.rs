//! The node processes of the demo: this very program, started again.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use epicserver::launch;
use epicserver::settings::{Flags, Settings};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::game::{Barrel, Player};
use super::{Failure, Options};

/// The folder that all processes share; it goes with this.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("epicserver-demo-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
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
}

impl Process {
    /// Starts a process and waits until it serves.
    pub(crate) async fn start(folder: &Folder, options: &Options) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("demo-node").arg("--data-dir").arg(folder.path());
        command.args(["--cores", &options.cores.to_string(), "--log", options.log.as_str()]);
        command.args(["--transport", &options.transport.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("a node process has no output")?).lines();
        let line = tokio::time::timeout(START_PATIENCE, lines.next_line())
            .await
            .map_err(|_| "a node process did not serve in time")??;
        let id = line.as_deref().and_then(|line| line.strip_prefix(SERVING));
        let id = id.and_then(|id| u64::from_str_radix(id, 16).ok());
        Ok(Self { child, id: id.ok_or("a node process ended before it served: see its log above")? })
    }

    /// Kills it with a signal that it cannot see.
    pub(crate) async fn kill(mut self) -> Result<(), Failure> {
        Ok(self.child.kill().await?)
    }

    /// Asks it to stop, and waits until it has ended.
    pub(crate) async fn stop(mut self) -> Result<ExitStatus, Failure> {
        let id = self.child.id().and_then(|id| Pid::from_raw(id as i32));
        rustix::process::kill_process(id.ok_or("a node process has ended by itself")?, Signal::TERM)?;
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
            println!("{SERVING}{:016x}", node.id().id);
        }),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a process says on its output when it serves, before the id of its node.
const SERVING: &str = "serving as node ";
const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(60);
