//! One command to run: what is run, with which environment, and for how long at most.
//!
//! [`Invocation::run_attached`] shares our terminal with the command; [`Invocation::run_watched`] reads what it prints
//! line by line and ends it when its time is up.

use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead, BufReader, PipeReader};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// A command with its arguments, extra environment and time limit.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    program: OsString,
    /// How the program is called in messages.
    program_shown: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    time_limit: Duration,
}

impl Invocation {
    /// A cargo command; `line` is split at spaces.
    pub(crate) fn cargo(line: &str) -> Self {
        Self {
            program: std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            program_shown: "cargo".to_owned(),
            arguments: line.split_whitespace().map(str::to_owned).collect(),
            environment: Vec::new(),
            time_limit: BUILD_TIME_MAX,
        }
    }

    /// A program that has already been built, shown under `name` in messages.
    pub(crate) fn program(path: &str, name: &str) -> Self {
        Self {
            program: path.into(),
            program_shown: name.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            time_limit: PROGRAM_TIME_MAX,
        }
    }

    /// Adds arguments behind those it has.
    pub(crate) fn with_arguments(mut self, arguments: impl IntoIterator<Item = String>) -> Self {
        self.arguments.extend(arguments);
        self
    }

    /// Sets an environment variable for the command.
    pub(crate) fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Builds a release in less time than what is saved by a faster program that runs for moments.
    pub(crate) fn without_whole_program_optimisation(self) -> Self {
        self.with_environment("CARGO_PROFILE_RELEASE_LTO", "off")
            .with_environment("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
    }

    /// Sets how long [`Self::run_watched`] lets the command run.
    pub(crate) fn with_time_limit(mut self, time_limit: Duration) -> Self {
        self.time_limit = time_limit;
        self
    }

    /// Whether the command is given a filter, in the form of nextest, that picks some tests out of many.
    pub(crate) fn picks_tests(&self) -> bool {
        self.arguments.iter().any(|argument| argument == "-E")
    }

    /// Runs the command on our own terminal, for as long as it takes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn run_attached(&self) -> Result<ExitStatus, String> {
        self.command().status().map_err(|error| self.not_started(&error))
    }

    /// Runs the command quietly and returns whether it succeeded and what it wrote to standard output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn run_captured(&self) -> Result<(bool, Vec<u8>), String> {
        let output =
            self.command().stdin(Stdio::null()).output().map_err(|error| self.not_started(&error))?;
        Ok((output.status.success(), output.stdout))
    }

    /// Runs the command and hands over each line of its output and error output, without the line end.
    ///
    /// # Errors
    /// A sentence that says what happened, when it cannot be started, fails, or exceeds its time.
    pub(crate) fn run_watched(&self, on_line: &mut dyn FnMut(&str)) -> Result<(), String> {
        let deadline = now() + self.time_limit;
        let (mut child, lines) = self.start_watched()?;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(now())) {
                Ok(line) => on_line(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(self.end_overdue(&mut child)),
            }
        }
        let status = child.wait().map_err(|error| format!("`{self}` cannot be waited for: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("`{self}` ended with {status}")) }
    }

    fn start_watched(&self) -> Result<(Child, Receiver<String>), String> {
        let (reader, writer) = std::io::pipe().map_err(|error| self.not_started(&error))?;
        let writer_too = writer.try_clone().map_err(|error| self.not_started(&error))?;
        // The command value owns the write ends: it must be gone before we read, or the end of output never comes.
        let child = self
            .command()
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(writer_too)
            .spawn()
            .map_err(|error| self.not_started(&error))?;
        let (sender, receiver) = sync_channel(LINES_IN_FLIGHT_MAX);
        read_lines_aside(reader, sender);
        Ok((child, receiver))
    }

    fn end_overdue(&self, child: &mut Child) -> String {
        let minutes = self.time_limit.as_secs_f64() / 60.0;
        let ended = child.kill().and_then(|()| child.wait());
        let rest = ended.err().map(|error| format!("; it could not be ended: {error}")).unwrap_or_default();
        format!("`{self}`, or a process it left behind, still ran after {minutes:.1} minutes{rest}")
    }

    fn not_started(&self, error: &std::io::Error) -> String {
        format!("`{self}` cannot be started: {error}")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_about_this_package) {
                command.env_remove(name);
            }
        }
        command
    }
}

/// The command as it would be typed in a shell.
impl fmt::Display for Invocation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.environment {
            write!(formatter, "{name}={} ", quoted(value))?;
        }
        write!(formatter, "{}", self.program_shown)?;
        self.arguments.iter().try_for_each(|argument| write!(formatter, " {}", quoted(argument)))
    }
}

/// Our own exit code for the end of a command whose exit code is passed on.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    // No code means that a signal ended it; it is our failure then.
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The time, for measuring steps and for their limits.
#[expect(clippy::disallowed_methods, reason = "the task runner is a driver: it measures real commands")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Reads on a thread of its own, because a pipe has no read with a time limit. The thread ends with the pipe.
#[expect(
    clippy::disallowed_methods,
    reason = "the task runner is a driver: a pipe has no read with a time limit"
)]
fn read_lines_aside(reader: PipeReader, sender: SyncSender<String>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// Whether `cargo run` set this variable to describe the `ci` package. Passed on, it would reach build scripts, and
/// artefacts built here would not be the ones that the same command builds when typed by hand.
fn is_about_this_package(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn quoted(argument: &str) -> String {
    let plain = |character: char| character.is_alphanumeric() || "-_=./,:+".contains(character);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

/// Longest time for a command that may build a large part of the workspace on a slow machine.
const BUILD_TIME_MAX: Duration = Duration::from_secs(30 * 60);
/// Longest time for one finished program, such as an example.
const PROGRAM_TIME_MAX: Duration = Duration::from_secs(2 * 60);
/// Lines read but not yet shown; a command that prints faster waits.
const LINES_IN_FLIGHT_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Invocation {
        Invocation::program("/bin/sh", "sh").with_arguments(["-c".to_owned(), script.to_owned()])
    }

    fn lines_of(invocation: &Invocation) -> (Result<(), String>, Vec<String>) {
        let mut lines = Vec::new();
        let result = invocation.run_watched(&mut |line| lines.push(line.to_owned()));
        (result, lines)
    }

    #[test]
    fn both_outputs_arrive_line_by_line_in_order() {
        let (result, lines) = lines_of(&shell("echo one; echo two >&2; printf three"));
        assert_eq!(result, Ok(()));
        assert_eq!(lines, ["one", "two", "three"]);
    }

    #[test]
    fn a_failure_names_the_command_and_its_status() {
        let (result, _) = lines_of(&shell("exit 7"));
        assert_eq!(result, Err("`sh -c 'exit 7'` ended with exit status: 7".to_owned()));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let (result, _) = lines_of(&Invocation::program("/nowhere/at/all", "nowhere"));
        assert!(result.is_err_and(|message| message.starts_with("`nowhere` cannot be started")));
    }

    #[test]
    fn an_overdue_command_is_ended() {
        // The script would wait for ever on its own pipe; only the limit ends it.
        let overdue = shell("exec cat /dev/zero >/dev/null").with_time_limit(Duration::from_millis(20));
        let (result, _) = lines_of(&overdue);
        assert!(result.is_err_and(|message| message.contains("still ran after")));
    }

    #[test]
    fn the_environment_reaches_the_command_without_that_of_this_package() {
        let invocation = shell("echo \"$COLOUR${CARGO_PKG_NAME-none}\"").with_environment("COLOUR", "green");
        assert_eq!(lines_of(&invocation).1, ["greennone"]);
    }

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let invocation = Invocation::cargo("nextest run -E")
            .with_arguments(["test(loom)".to_owned()])
            .with_environment("RUSTFLAGS", "--cfg loom");
        assert_eq!(invocation.to_string(), "RUSTFLAGS='--cfg loom' cargo nextest run -E 'test(loom)'");
    }
}
