//! `cargo ci demo`: builds the `epicserver` command in release mode and runs its demo.
//!
//! Nothing is interpreted here: arguments, standard output and the exit code belong to the demo.

use std::process::ExitCode;

use clap::Args;

use crate::invocation::{Invocation, exit_code};

/// Build in release mode and run the demo of the `epicserver` command.
///
/// All arguments are handed to `epicserver demo`; see `cargo ci demo -- --help` for them. The exit code is the demo's.
#[derive(Args)]
pub(crate) struct Options {
    /// Let the demo print one JSON object on standard output instead of text for people.
    #[arg(long)]
    json: bool,
    /// What else `epicserver demo` is given.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

/// Runs the demo and returns its exit code.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    eprintln!("building the epicserver command (release), then running its demo");
    let status = invocation(options).run_attached()?;
    Ok(exit_code(status))
}

fn invocation(options: &Options) -> Invocation {
    let mut arguments = options.arguments.clone();
    if options.json {
        arguments.insert(0, "--json".to_owned());
    }
    Invocation::cargo("run --release -p epicserver --bin epicserver -- demo").with_arguments(arguments)
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

    fn check(line: &[&str], expected: &str) {
        let line =
            Line::try_parse_from([&["demo"], line].concat()).expect("the line is a valid command line");
        let shown = invocation(&line.options).to_string();
        assert_eq!(shown, format!("cargo run --release -p epicserver --bin epicserver -- demo{expected}"));
    }

    #[test]
    fn arguments_reach_the_demo_in_order() {
        check(&[], "");
        check(&["--json"], " --json");
        check(&["--json", "--players", "5"], " --json --players 5");
        check(&["--players", "5", "--json"], " --players 5 --json");
        check(&["--", "--help"], " --help");
    }
}
