//! The `epicserver` command.

mod chaos;
#[cfg(feature = "sqlite")]
mod data;
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
    /// Copies the data of a cluster to a new directory, while it runs or while it does not.
    #[cfg(feature = "sqlite")]
    Backup(data::BackupOptions),
    /// Looks for damage in a data directory or a backup, in every record.
    #[cfg(feature = "sqlite")]
    Verify(data::VerifyOptions),
    /// Plays a game on processes that come and go, one killed among them, and checks every answer.
    Demo(demo::Options),
    /// Plays a game on processes that are killed, stopped and restarted at random, and checks every answer.
    Chaos(chaos::Options),
    /// A process of the demo.
    #[command(hide = true)]
    DemoNode(Flags),
}

fn main() -> ExitCode {
    match Command::parse().what {
        What::Node(flags) => node(&flags),
        What::Inspect(options) => inspect::run(&options),
        #[cfg(feature = "sqlite")]
        What::Backup(options) => data::backup(&options),
        #[cfg(feature = "sqlite")]
        What::Verify(options) => data::verify(&options),
        What::Demo(options) => demo::run(&options),
        What::Chaos(options) => chaos::run(&options),
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
