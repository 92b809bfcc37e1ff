//! The tests that need another kernel: all modules of the workspace's tests that are named `in_guest`, in one guest.

use crate::counts::TestCounts;
use crate::invocation::Invocation;
use crate::report::Printer;

use std::time::Duration;

/// Builds all tests with `build`, runs those that need it in a guest, and gives the failures.
pub(crate) fn run(build: &Invocation, counts: &mut TestCounts, printer: Printer) -> Vec<String> {
    printer.line(&format!("$ {build}"));
    let mut programs = Vec::new();
    let built = build.run_watched(&mut |line| match line.starts_with('{') {
        true => programs.extend(built_tests(line)),
        false => printer.line(line),
    });
    let run = built.and_then(|()| {
        programs.sort();
        let mut needing = Vec::new();
        for program in programs {
            if has_tests(&program)? {
                needing.push(program);
            }
        }
        Ok(in_guest(&needing))
    });
    let result = run.and_then(|invocation| {
        printer.line(&format!("$ {invocation}"));
        invocation.run_watched(&mut |line| {
            counts.read_line(line);
            printer.line(line);
        })
    });
    result.err().into_iter().collect()
}

/// The path of the test program that this line of cargo's JSON announces.
fn built_tests(line: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str().filter(|_| message["profile"]["test"] == true)?;
    Some(path.to_owned())
}

/// Whether a test program has any test for a guest.
fn has_tests(program: &str) -> Result<bool, String> {
    let list = [FILTER, "--list"].map(str::to_owned);
    let (success, output) = Invocation::program(program, program).with_arguments(list).run_captured()?;
    // Programs that are no test harness may not know the words; those have no tests either.
    Ok(success && String::from_utf8_lossy(&output).lines().any(|line| line.ends_with(": test")))
}

/// One guest that runs them one after the other, and fails if any of them does.
fn in_guest(programs: &[String]) -> Invocation {
    let deadline = DEADLINE.as_secs().to_string();
    let script = format!(
        "status=0; for program; do echo \"$ $program {FILTER}\"; \"$program\" {FILTER} --test-threads=1 || status=1; done; exit $status"
    );
    let arguments = ["vm", "--deadline", &deadline, "--", "sh", "-c", &script, "sh"].map(str::to_owned);
    let guest = Invocation::program(THIS_PROGRAM, "cargo ci").with_arguments(arguments);
    // The guest ends by itself before that, but what it needs may have to be downloaded first.
    guest.with_arguments(programs.iter().cloned()).with_time_limit(DEADLINE + DOWNLOAD_TIME_MAX)
}

/// Not by its name: a step before may have built another one in its place.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// How tests for a guest are called.
const FILTER: &str = "in_guest::";
/// Some times what they take where the guest is emulated on a slow machine.
const DEADLINE: Duration = Duration::from_secs(900);
const DOWNLOAD_TIME_MAX: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn test_programs_are_found_among_what_was_built() {
        let built = |test: bool| {
            json!({"reason": "compiler-artifact", "executable": "/t/it-1", "profile": {"test": test}})
                .to_string()
        };
        assert_eq!(built_tests(&built(true)), Some("/t/it-1".to_owned()));
        assert_eq!(built_tests(&built(false)), None);
        assert_eq!(built_tests("{not json"), None);
    }

    #[test]
    fn one_guest_runs_all_programs() {
        let shown = in_guest(&["/t/a-1".to_owned(), "/t/b-2".to_owned()]).to_string();
        assert!(shown.starts_with("cargo ci vm --deadline 900 -- sh -c "), "{shown}");
        assert!(shown.ends_with(" sh /t/a-1 /t/b-2"), "{shown}");
    }
}
