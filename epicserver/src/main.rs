//! The `epicserver` command.

mod demo;
mod inspect;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use epicserver::launch;
use epicserver::settings::{Flags, Settings};

/// Virtual objects that call each other with plain async methods.
#[derive(Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Runs a node without objects of its own: it keeps the cluster's data if nobody else does, until it is told to stop.
    Node(Flags),
    /// Shows the members of a running cluster and what they do, or where one object lives.
    Inspect(inspect::Options),
    /// Plays a game on processes that come and go, one killed among them, and checks every answer.
    Demo(demo::Options),
    /// A process of the demo.
    #[command(hide = true)]
    DemoNode(Flags),
}

fn main() -> ExitCode {
    match Command::parse().what {
        What::Node(flags) => node(&flags),
        What::Inspect(options) => inspect::run(&options),
        What::Demo(options) => demo::run(&options),
        What::DemoNode(flags) => demo::processes::serve(&flags),
    }
}

fn node(flags: &Flags) -> ExitCode {
    match Settings::load(flags, std::env::vars()) {
        Ok(settings) => launch::serve::<()>(&settings, |_| {}),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
