//! The task runner behind `cargo ci`: one place that knows how this workspace is checked, shown and mended.
//!
//! It is no part of the library and imports no crate of the workspace, so that it builds and runs while they are broken.
//! Everything it does is a cargo command that can be typed by hand, or a rule of `tidy`.
//!
//! Start reading at [`steps`] for what a test run consists of, and at [`tidy`] for the rules of the house.

mod counts;
mod facts;
mod fix;
mod game;
mod guest_tests;
mod invocation;
mod packages;
mod report;
mod sim;
mod steps;
mod test_run;
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::game::Game;

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Test(options) => test_run::run(&options),
        Command::Demo(options) => game::run(Game::Demo, &options),
        Command::Chaos(options) => game::run(Game::Chaos, &options),
        Command::Sim(options) => sim::run(&options),
        Command::Tidy => tidy::run(),
        Command::Fix => fix::run(),
        Command::Vm(options) => vm::run(&options),
    };
    result.unwrap_or_else(|message| {
        eprintln!("error: {message}");
        ExitCode::from(2)
    })
}

/// Checks, shows and mends the Epic Server workspace.
#[derive(Parser)]
#[command(name = "cargo ci", bin_name = "cargo ci", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Test(test_run::Options),
    /// Build in release mode and run the demo of the `epicserver` command.
    ///
    /// All arguments are handed to `epicserver demo`; see `cargo ci demo -- --help` for them. The exit code is the demo's. With
    /// `--transport tipc` on a machine without TIPC it runs in a guest (see `cargo ci vm --help`), with fewer players unless they are given,
    /// since a guest may be emulated.
    Demo(game::Options),
    /// Build in release mode and let the `epicserver` command kill, stop and restart processes under load.
    ///
    /// All arguments are handed to `epicserver chaos`, such as `--minutes 10`; see `cargo ci chaos -- --help` for them. The exit code is that of
    /// chaos. With `--transport tipc` on a machine without TIPC it runs in a guest.
    Chaos(game::Options),
    Sim(sim::Options),
    /// Check the rules of the house: layering, unsafe code, documentation, leftovers.
    ///
    /// Each finding names the file, the line, the rule and what to do about it. Exits with 1 when there is one.
    Tidy,
    /// Format all code and apply what clippy can mend by itself.
    ///
    /// Runs `cargo fmt --all`, then `cargo clippy --fix` on the whole workspace, over uncommitted changes too.
    Fix,
    Vm(vm::Options),
}
