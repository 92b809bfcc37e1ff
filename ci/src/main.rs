//! The task runner behind `cargo ci`: one place that knows how this workspace is checked, shown and mended.
//!
//! It is no part of the library and imports no crate of the workspace, so that it builds and runs while they are broken.
//! Everything it does is a cargo command that can be typed by hand, or a rule of `tidy`.
//!
//! Start reading at [`steps`] for what a test run consists of, and at [`tidy`] for the rules of the house.

mod counts;
mod demo;
mod facts;
mod fix;
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

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Test(options) => test_run::run(&options),
        Command::Demo(options) => demo::run(&options),
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
    Demo(demo::Options),
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
