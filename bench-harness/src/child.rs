//! Processes that take part in a measurement: this program again, with a part of its own.
//!
//! A child is told what to do on its standard input, says what came of it on its standard output, a line each, and ends when its input
//! ends. It does so when the measuring process ends, in whatever way: no child is left behind.

use std::ffi::OsStr;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};

use crate::suite::Failure;

/// A process of a measurement.
pub(crate) struct Child {
    part: String,
    process: tokio::process::Child,
    orders: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts this program again with these arguments, of which the first is its part.
    pub(crate) fn start(arguments: &[impl AsRef<OsStr>]) -> Result<Self, Failure> {
        let part = arguments.first().map(|part| part.as_ref().to_string_lossy().into_owned());
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let orders = process.stdin.take().ok_or("a child without an input")?;
        let output = process.stdout.take().ok_or("a child without an output")?;
        Ok(Self { part: part.unwrap_or_default(), process, orders, output: BufReader::new(output).lines() })
    }

    /// The next line that it says, which has to come within this time.
    pub(crate) async fn hear(&mut self, patience: Duration) -> Result<String, Failure> {
        let line = tokio::time::timeout(patience, self.output.next_line())
            .await
            .map_err(|_| format!("the process for {:?} said nothing for {patience:?}", self.part))??;
        line.ok_or_else(|| format!("the process for {:?} ended early", self.part).into())
    }

    /// Gives it a line.
    pub(crate) async fn tell(&mut self, order: &str) -> Result<(), Failure> {
        Ok(self.orders.write_all(format!("{order}\n").as_bytes()).await?)
    }

    /// Ends it in order, which may take this long.
    pub(crate) async fn finish(self, patience: Duration) -> Result<(), Failure> {
        let Self { part, mut process, orders, .. } = self;
        drop(orders);
        let status = tokio::time::timeout(patience, process.wait())
            .await
            .map_err(|_| format!("the process for {part:?} did not end in {patience:?}"))??;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the process for {part:?} ended with {status}").into())
        }
    }
}

/// Says a line, as a child.
pub(crate) fn say(line: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}
