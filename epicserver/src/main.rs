//! The `epicserver` command.

mod demo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Virtual objects that call each other with plain async methods.
#[derive(Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Plays the game of barrels on one process and then on two, and checks every answer.
    Demo(demo::Options),
    /// The second process of the demo.
    #[command(hide = true)]
    DemoPeer(epicserver::settings::Flags),
}

fn main() -> ExitCode {
    match Command::parse().what {
        What::Demo(options) => demo::run(&options),
        What::DemoPeer(flags) => demo::peer::run(&flags),
    }
}
