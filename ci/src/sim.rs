//! `cargo ci sim`: builds the simulator in release mode and runs it.
//!
//! Nothing is interpreted here: arguments, standard output and the exit code belong to the simulator.

use std::process::ExitCode;

use clap::Args;

use crate::invocation::{Invocation, exit_code};

/// Build in release mode and run simulated clusters, each from a seed.
///
/// All arguments are handed to `epicserver-sim`; see `cargo ci sim -- --help` for them. The exit code is the simulator's.
#[derive(Args)]
pub(crate) struct Options {
    /// What `epicserver-sim` is given.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

/// Runs the simulator and returns its exit code.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    eprintln!("building the simulator (release), then running it");
    let status = invocation(options).run_attached()?;
    Ok(exit_code(status))
}

fn invocation(options: &Options) -> Invocation {
    Invocation::cargo("run --release -p epicserver-sim --").with_arguments(options.arguments.clone())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn arguments_reach_the_simulator_in_order() {
        let line = Line::try_parse_from(["sim", "--seeds", "5", "--json"]).expect("a valid command line");
        let shown = invocation(&line.options).to_string();
        assert_eq!(shown, "cargo run --release -p epicserver-sim -- --seeds 5 --json");
    }
}
