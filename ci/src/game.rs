//! `cargo ci demo` and `cargo ci chaos`: build the `epicserver` command in release mode and run its game.
//!
//! Arguments, standard output and the exit code belong to the game. Only the transport is looked at: where this machine lacks
//! it, the game runs in a guest; and InfiniBand verbs have to be built in.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::facts::Workspace;
use crate::invocation::{Invocation, exit_code};
use crate::{packages, vm};

/// What the `epicserver` command does with its game.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Game {
    /// It is played to show what the cluster survives.
    Demo,
    /// It is played for as long as one likes, with faults at random.
    Chaos,
}

impl Game {
    /// The subcommand of `epicserver`.
    fn command(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Chaos => "chaos",
        }
    }

    /// A game that a guest plays in a minute.
    fn small(self) -> &'static [&'static str] {
        match self {
            Self::Demo => &["--players", "100", "--barrels", "2000"],
            Self::Chaos => &["--players", "20"],
        }
    }
}

/// What a game is told.
#[derive(Args)]
pub(crate) struct Options {
    /// Print one JSON object on standard output instead of text for people.
    #[arg(long)]
    json: bool,
    /// What carries calls between the processes.
    #[arg(long)]
    transport: Option<String>,
    /// What else the game is given.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

/// Runs the game and returns its exit code.
pub(crate) fn run(game: Game, options: &Options) -> Result<ExitCode, String> {
    if options.is_over_verbs() {
        packages::install_headers()?;
    }
    if let Some(missing) = missing_for(options.transport.as_deref()) {
        return run_in_guest(game, options, missing);
    }
    if game == Game::Chaos
        && let Err(problem) = packages::install_nft()
    {
        eprintln!("{problem}");
    }
    eprintln!("building the epicserver command (release), then running its {}", game.command());
    let status = invocation(game, options).run_attached()?;
    Ok(exit_code(status))
}

impl Options {
    fn is_over_verbs(&self) -> bool {
        self.transport.as_deref() == Some(VERBS)
    }

    /// What of the command is built that a plain build leaves out.
    fn features(&self) -> &'static str {
        if self.is_over_verbs() { " --features rdma" } else { "" }
    }
}

fn run_in_guest(game: Game, options: &Options, missing: &str) -> Result<ExitCode, String> {
    eprintln!(
        "building the epicserver command (release), then running its {} in a guest: {missing}",
        game.command()
    );
    let build = format!("build --release -p epicserver --bin epicserver{}", options.features());
    let status = Invocation::cargo(&build).run_attached()?;
    if !status.success() {
        return Ok(exit_code(status));
    }
    let program = Workspace::read()?.target_folder.join("release/epicserver");
    let words = [program.to_string_lossy().into_owned(), game.command().to_owned()];
    let command: Vec<_> =
        words.into_iter().chain(arguments(options)).chain(fewer_players(game, options)).collect();
    vm::run_one(&command)
}

/// Why nothing can go over that transport on this machine.
fn missing_for(transport: Option<&str>) -> Option<&'static str> {
    match transport? {
        "tipc" => {
            let protocols = std::fs::read_to_string("/proc/net/protocols").unwrap_or_default();
            (!has_tipc(&protocols)).then_some("this kernel has no TIPC")
        }
        VERBS => (!has_entries(Path::new(DEVICES))).then_some("this machine has no RDMA device"),
        _ => None,
    }
}

/// Whether there is such a folder, and something in it.
fn has_entries(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// Whether the kernel knows the protocol, by its list of those that it knows.
fn has_tipc(protocols: &str) -> bool {
    protocols.lines().any(|line| line.split_whitespace().next() == Some("TIPC"))
}

fn invocation(game: Game, options: &Options) -> Invocation {
    let features = options.features();
    let line = format!("run --release -p epicserver --bin epicserver{features} -- {}", game.command());
    Invocation::cargo(&line).with_arguments(arguments(options))
}

fn arguments(options: &Options) -> Vec<String> {
    let mut arguments = Vec::new();
    if options.json {
        arguments.push("--json".to_owned());
    }
    if let Some(transport) = &options.transport {
        arguments.extend(["--transport".to_owned(), transport.clone()]);
    }
    arguments.extend_from_slice(&options.arguments);
    arguments
}

/// A game that a guest plays in a minute, where none was asked for.
fn fewer_players(game: Game, options: &Options) -> Vec<String> {
    let is_given = options
        .arguments
        .iter()
        .any(|argument| argument.starts_with("--players") || argument.starts_with("--barrels"));
    if is_given { Vec::new() } else { game.small().iter().map(|word| (*word).to_owned()).collect() }
}

/// The transport that a plain build leaves out.
const VERBS: &str = "rdma";
/// Where the kernel lists RDMA devices.
const DEVICES: &str = "/sys/class/infiniband";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn check(line: &[&str], expected: &str) {
        let line =
            Line::try_parse_from([&["demo"], line].concat()).expect("the line is a valid command line");
        let shown = invocation(Game::Demo, &line.options).to_string();
        let (features, expected) = expected.split_once('|').unwrap_or(("", expected));
        let begin = format!("cargo run --release -p epicserver --bin epicserver{features} -- demo");
        assert_eq!(shown, format!("{begin}{expected}"));
    }

    #[test]
    fn arguments_reach_the_game_in_order() {
        check(&[], "");
        check(&["--json"], " --json");
        check(&["--json", "--players", "5"], " --json --players 5");
        check(&["--players", "5", "--json"], " --players 5 --json");
        check(&["--transport", "tipc", "--players", "5"], " --transport tipc --players 5");
        check(&["--", "--help"], " --help");
    }

    #[test]
    fn verbs_are_built_in_where_they_are_asked_for() {
        check(&["--transport", "rdma"], " --features rdma| --transport rdma");
    }

    #[test]
    fn a_guest_plays_with_few_unless_told_otherwise() {
        let line = |words: &[&str]| Line::try_parse_from(words).expect("a valid command line").options;
        assert_eq!(fewer_players(Game::Demo, &line(&["demo", "--transport", "tipc"])).len(), 4);
        assert!(fewer_players(Game::Demo, &line(&["demo", "--transport", "tipc", "--players=7"])).is_empty());
    }

    #[test]
    fn a_machine_without_a_folder_of_devices_has_none() {
        let folder = std::env::temp_dir().join(format!("epicserver-ci-devices-{}", std::process::id()));
        assert!(!has_entries(&folder));
        std::fs::create_dir_all(&folder).expect("a folder");
        assert!(!has_entries(&folder));
        std::fs::create_dir_all(folder.join("rxe0")).expect("a folder");
        assert!(has_entries(&folder));
        std::fs::remove_dir_all(&folder).expect("it was there");
    }

    #[test]
    fn the_kernel_says_whether_it_has_tipc() {
        assert!(has_tipc("protocol  size sockets\nTCP 1 2\nTIPC      1536      0\n"));
        assert!(!has_tipc("protocol  size sockets\nTCP 1 2\n") && !has_tipc(""));
    }
}
