//! `cargo ci test`: runs the steps, one after the other.
//!
//! It keeps going after a failure, so that one run tells everything that is wrong, and lists the failed steps at the
//! end. What the steps are is decided in [`crate::steps`], what is printed in [`crate::report`].

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;

use crate::counts::TestCounts;
use crate::facts::Workspace;
use crate::guest_tests;
use crate::invocation::{Invocation, now};
use crate::packages;
use crate::report::{Printer, StepResult, closing_lines};
use crate::steps::{self, Step, Work};
use crate::tidy;

/// Run everything that must hold before a change goes in.
///
/// Runs all steps even when one fails, lists the failed ones at the end, and exits with 1 if there are any. The last
/// line counts the tests of all steps. A fresh machine needs nothing but Rust: what else it takes
/// (cargo-nextest, headers of rdma-core, libclang, QEMU) is installed if missing, with apt where it is not of Rust.
#[derive(Args)]
pub(crate) struct Options {
    /// Print one JSON object a step on standard output: step, ok, seconds, tests_run, tests_failed.
    #[arg(long)]
    json: bool,
    /// Run only this step; may be given several times.
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// List the steps instead of running them.
    #[arg(long)]
    list: bool,
}

/// Runs or lists the steps; the exit code says whether all of them succeeded.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let workspace = Workspace::read()?;
    let loom_packages = tidy::packages_that_mention(&workspace, "loom::model")?;
    let guest_packages = tidy::packages_that_mention(&workspace, "mod in_guest")?;
    let steps = steps::plan(&workspace, &loom_packages, &guest_packages);
    if options.list {
        list(&steps);
        return Ok(ExitCode::SUCCESS);
    }
    let printer = Printer { json: options.json };
    let steps = steps::select(steps, &options.only)?;
    if steps.iter().any(Step::needs_nextest) {
        install_nextest(printer)?;
    }
    if steps.iter().any(Step::needs_headers) {
        packages::install_headers()?;
    }
    let results: Vec<_> = steps.iter().map(|step| run_step(step, &workspace, printer)).collect();
    printer.line(&closing_lines(&results));
    Ok(if results.iter().all(StepResult::ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list(steps: &[Step]) {
    for step in steps {
        let when = if step.on_request { "  [only with --only]" } else { "" };
        println!("{:9} {}{when}", step.name, step.about);
    }
}

fn install_nextest(printer: Printer) -> Result<(), String> {
    if Invocation::cargo("nextest --version").run_captured()?.0 {
        return Ok(());
    }
    let install = Invocation::cargo("install --locked cargo-nextest");
    printer.line(&format!("cargo-nextest is missing and is installed once, with `{install}`"));
    install.run_watched(&mut |line| printer.line(line))
}

fn run_step(step: &Step, workspace: &Workspace, printer: Printer) -> StepResult {
    printer.start(step);
    let start = now();
    let mut counts = TestCounts::default();
    let failures = match &step.work {
        Work::Commands(commands) => run_commands(commands, &mut counts, printer),
        Work::Tidy => tidy::check(workspace).unwrap_or_else(|error| vec![error]),
        Work::Programs(build, package) => run_programs(build, package, &mut counts, printer),
        Work::Guest(build) => guest_tests::run(build, &mut counts, printer),
    };
    let result = StepResult { name: step.name, failures, elapsed: start.elapsed(), counts };
    printer.finish(&result);
    result
}

fn run_commands(commands: &[Invocation], counts: &mut TestCounts, printer: Printer) -> Vec<String> {
    let run = |command: &Invocation| {
        printer.line(&format!("$ {command}"));
        let mut its_counts = TestCounts::default();
        let result = coloured(command.clone()).run_watched(&mut |line| {
            its_counts.read_line(line);
            printer.line(line);
        });
        if command.picks_tests() {
            // The others are left to another step, and nextest calls them skipped.
            its_counts.skipped = 0;
        }
        *counts += its_counts;
        result
    };
    commands.iter().try_for_each(run).err().into_iter().collect()
}

fn run_programs(build: &Invocation, package: &str, counts: &mut TestCounts, printer: Printer) -> Vec<String> {
    printer.line(&format!("$ {build}"));
    let mut programs = Vec::new();
    let built = build.run_watched(&mut |line| match line.starts_with('{') {
        true => programs.extend(built_program(line, package)),
        false => printer.line(line),
    });
    if let Err(failure) = built {
        return vec![failure];
    }
    programs.sort();
    let mut failures = Vec::new();
    for (name, path) in programs {
        printer.line(&format!("$ {name}"));
        // Each run begins with nothing, and leaves nothing.
        let program = Invocation::program(&path, &name).with_environment("EPICSERVER_DATA_DIR", "none");
        match program.run_watched(&mut |line| printer.line(line)) {
            Ok(()) => counts.passed += 1,
            Err(failure) => {
                counts.failed += 1;
                failures.push(failure);
            }
        }
    }
    failures
}

/// The name and path of the program that this line of cargo's JSON announces, if it is one of that package.
fn built_program(line: &str, package: &str) -> Option<(String, String)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str().filter(|_| message["profile"]["test"] != true)?;
    let name = message["target"]["name"].as_str()?;
    // A package id is `path+file:///folder#name@version`, or ends in `#version` where the folder has the name.
    let id = message["package_id"].as_str()?;
    id.contains(&format!("#{package}@")).then(|| (name.to_owned(), path.to_owned()))
}

/// Our children write to a pipe, and would print without colours although a person is looking.
fn coloured(command: Invocation) -> Invocation {
    let wanted = std::io::stdout().is_terminal() && std::env::var_os("CARGO_TERM_COLOR").is_none();
    if wanted { command.with_environment("CARGO_TERM_COLOR", "always") } else { command }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn programs_of_the_package_are_found_among_what_was_built() {
        let built = |package: &str, executable: Option<&str>, test: bool| {
            json!({
                "reason": "compiler-artifact", "executable": executable, "target": {"name": "chat"},
                "package_id": format!("path+file:///w/examples#{package}@0.1.0"), "profile": {"test": test},
            })
            .to_string()
        };
        let found = built_program(&built("pond", Some("/t/chat"), false), "pond");
        assert_eq!(found, Some(("chat".to_owned(), "/t/chat".to_owned())));
        assert_eq!(built_program(&built("pond", Some("/t/chat"), true), "pond"), None);
        assert_eq!(built_program(&built("other", Some("/t/chat"), false), "pond"), None);
        assert_eq!(built_program(&built("pond", None, false), "pond"), None);
        assert_eq!(built_program("{not json", "pond"), None);
    }

    #[test]
    fn commands_stop_at_the_first_failure_and_their_tests_are_counted() {
        let shell = |script: &str| {
            Invocation::program("/bin/sh", "sh").with_arguments(["-c".to_owned(), script.to_owned()])
        };
        let summary = "echo 'Summary [ 0.1s] 3 tests run: 2 passed, 1 failed, 0 skipped'";
        let commands = [shell(&format!("{summary}; exit 1")), shell(summary)];
        let mut counts = TestCounts::default();
        let failures = run_commands(&commands, &mut counts, Printer { json: false });
        assert_eq!(counts, TestCounts { passed: 2, failed: 1, skipped: 0 });
        assert_eq!(failures.len(), 1, "{failures:?}");
    }

    #[test]
    fn tests_left_to_another_step_are_not_skipped() {
        let skipped_by = |argument: &str| {
            let script = "echo 'Summary [ 0.1s] 1 test run: 1 passed, 4 skipped'";
            let arguments = ["-c", script, "sh", argument].map(str::to_owned);
            let mut counts = TestCounts::default();
            let command = Invocation::program("/bin/sh", "sh").with_arguments(arguments);
            assert!(run_commands(&[command], &mut counts, Printer { json: false }).is_empty());
            counts.skipped
        };
        assert_eq!(skipped_by("--workspace"), 4);
        assert_eq!(skipped_by("-E"), 0);
    }
}
