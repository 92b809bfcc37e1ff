//! The tests that need another kernel: all modules of the workspace's tests that are named `in_guest`, in one guest, and those named
//! `in_three_guests`, in three on one wire.

use crate::counts::TestCounts;
use crate::invocation::Invocation;
use crate::packages;
use crate::report::Printer;

use std::time::Duration;

/// Builds all tests with `build`, runs those that need it in a guest, and gives the failures.
pub(crate) fn run(build: &Invocation, counts: &mut TestCounts, printer: Printer) -> Vec<String> {
    // The root of a guest is that of this machine.
    if let Err(failure) = packages::install_nft() {
        return vec![failure];
    }
    printer.line(&format!("$ {build}"));
    let mut programs = Vec::new();
    let built = build.run_watched(&mut |line| match line.starts_with('{') {
        true => programs.extend(built_tests(line)),
        false => printer.line(line),
    });
    if let Err(failure) = built {
        return vec![failure];
    }
    programs.sort();
    let mut failures = Vec::new();
    for kind in [ONE, THREE] {
        let result = kind.run_of(&programs).and_then(|invocation| {
            printer.line(&format!("$ {invocation}"));
            invocation.run_watched(&mut |line| {
                // Each of several guests says it, behind its number; the first stands for all.
                counts.read_line(line.strip_prefix("1| ").unwrap_or(line));
                printer.line(line);
            })
        });
        failures.extend(result.err());
    }
    failures
}

/// Tests that need so many guests.
#[derive(Clone, Copy, Debug)]
struct Kind {
    guests: u8,
    /// How their modules are called.
    filter: &'static str,
    /// Of each guest, in MiB.
    memory: u32,
}

const ONE: Kind = Kind { guests: 1, filter: "in_guest::", memory: 3072 };
const THREE: Kind = Kind { guests: 3, filter: "in_three_guests::", memory: 1024 };

impl Kind {
    /// The run of those of the programs that have such tests.
    fn run_of(self, programs: &[String]) -> Result<Invocation, String> {
        let mut needing = Vec::new();
        for program in programs {
            if self.has_tests(program)? {
                needing.push(program.clone());
            }
        }
        Ok(self.in_guests(&needing))
    }
}

/// The path of the test program that this line of cargo's JSON announces.
fn built_tests(line: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str().filter(|_| message["profile"]["test"] == true)?;
    Some(path.to_owned())
}

impl Kind {
    /// Whether a test program has any such test.
    fn has_tests(self, program: &str) -> Result<bool, String> {
        let list = [self.filter, "--list"].map(str::to_owned);
        let (success, output) = Invocation::program(program, program).with_arguments(list).run_captured()?;
        // Programs that are no test harness may not know the words; those have no tests either.
        Ok(success && String::from_utf8_lossy(&output).lines().any(|line| line.ends_with(": test")))
    }

    /// Guests each of which runs them one after the other, and that fail if any of them does.
    fn in_guests(self, programs: &[String]) -> Invocation {
        let Self { guests, filter, memory } = self;
        let [deadline, guests, memory] =
            [DEADLINE.as_secs(), guests.into(), memory.into()].map(|number: u64| number.to_string());
        let script = format!(
            "status=0; for program; do echo \"$ $program {filter}\"; \"$program\" {filter} --test-threads=1 || status=1; done; exit $status"
        );
        let options = ["vm", "--guests", &guests, "--memory", &memory, "--deadline", &deadline];
        let command = ["--", "sh", "-c", &script, "sh"];
        let arguments = options.iter().chain(&command).map(|word| (*word).to_owned());
        let run = Invocation::program(THIS_PROGRAM, "cargo ci").with_arguments(arguments);
        // The guests end by themselves before that, but what they need may have to be downloaded first.
        run.with_arguments(programs.iter().cloned()).with_time_limit(DEADLINE + DOWNLOAD_TIME_MAX)
    }
}

/// Not by its name: a step before may have built another one in its place.
const THIS_PROGRAM: &str = "/proc/self/exe";
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
    fn guests_run_all_programs() {
        for (kind, begin) in
            [(ONE, "cargo ci vm --guests 1 --memory 3072"), (THREE, "cargo ci vm --guests 3 --memory 1024")]
        {
            let shown = kind.in_guests(&["/t/a-1".to_owned(), "/t/b-2".to_owned()]).to_string();
            assert!(shown.starts_with(&format!("{begin} --deadline 900 -- sh -c ")), "{shown}");
            assert!(shown.contains(kind.filter) && shown.ends_with(" sh /t/a-1 /t/b-2"), "{shown}");
        }
    }
}
