//! What a run says: headers and closing lines for people, one JSON object a step for programs.
//!
//! With `--json` standard output carries the objects alone, and what people read goes to standard error.

use std::time::Duration;

use serde_json::json;

use crate::counts::TestCounts;
use crate::steps::Step;

/// How one step ended.
#[derive(Debug)]
pub(crate) struct StepResult {
    /// The name of the step.
    pub(crate) name: &'static str,
    /// What went wrong, a sentence each; empty when the step succeeded.
    pub(crate) failures: Vec<String>,
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// Tests that it ran.
    pub(crate) counts: TestCounts,
}

impl StepResult {
    /// Whether everything in the step succeeded.
    pub(crate) fn ok(&self) -> bool {
        self.failures.is_empty() && self.counts.failed == 0
    }

    fn to_json(&self) -> String {
        json!({
            "step": self.name,
            "ok": self.ok(),
            "seconds": (self.elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
            "tests_run": self.counts.run(),
            "tests_failed": self.counts.failed,
        })
        .to_string()
    }

    fn closing_line(&self) -> String {
        let word = if self.ok() { "ok" } else { "FAILED" };
        let tests =
            if self.counts.run() > 0 { format!(", tests: {}", self.counts.run()) } else { String::new() };
        format!("== {}: {word} in {:.1} s{tests}", self.name, self.elapsed.as_secs_f64())
    }
}

/// Where a run prints to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    /// Whether standard output is for JSON.
    pub(crate) json: bool,
}

impl Printer {
    /// Prints a line for people.
    pub(crate) fn line(self, line: &str) {
        if self.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }

    /// Announces a step.
    pub(crate) fn start(self, step: &Step) {
        self.line(&format!("\n== {}: {}", step.name, step.about));
    }

    /// Reports the end of a step.
    pub(crate) fn finish(self, result: &StepResult) {
        for failure in &result.failures {
            self.line(&format!("error: {failure}"));
        }
        self.line(&result.closing_line());
        if self.json {
            println!("{}", result.to_json());
        }
    }
}

/// The last lines of a run; the very last one counts tests and names what failed.
pub(crate) fn closing_lines(results: &[StepResult]) -> String {
    let mut counts = TestCounts::default();
    let mut elapsed = Duration::ZERO;
    for result in results {
        counts += result.counts;
        elapsed += result.elapsed;
    }
    let failed: Vec<_> = results.iter().filter(|result| !result.ok()).map(|result| result.name).collect();
    let steps = format!(
        "{} of {} steps ok in {:.0} s",
        results.len() - failed.len(),
        results.len(),
        elapsed.as_secs_f64()
    );
    let skipped = if counts.skipped > 0 { format!(", {} skipped", counts.skipped) } else { String::new() };
    let verdict =
        if failed.is_empty() { String::new() } else { format!("; failed steps: {}", failed.join(", ")) };
    format!("\n{steps}\n{} passed, {} failed{skipped}{verdict}", counts.passed, counts.failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &'static str, failures: &[&str], passed: u64, failed: u64) -> StepResult {
        StepResult {
            name,
            failures: failures.iter().map(|&failure| failure.to_owned()).collect(),
            elapsed: Duration::from_millis(1500),
            counts: TestCounts { passed, failed, skipped: 0 },
        }
    }

    #[test]
    fn the_last_line_counts_the_tests_of_all_steps() {
        let lines = closing_lines(&[
            result("fmt", &[], 0, 0),
            result("doctest", &[], 2, 0),
            result("nextest", &[], 40, 0),
        ]);
        assert_eq!(lines, "\n3 of 3 steps ok in 4 s\n42 passed, 0 failed");
    }

    #[test]
    fn a_failed_step_without_tests_shows_in_the_last_line() {
        let lines =
            closing_lines(&[result("fmt", &["unformatted"], 0, 0), result("nextest", &["bad"], 39, 1)]);
        assert!(lines.ends_with("\n39 passed, 1 failed; failed steps: fmt, nextest"), "{lines}");
    }

    #[test]
    fn json_has_the_promised_fields() {
        let value: serde_json::Value =
            serde_json::from_str(&result("nextest", &[], 39, 1).to_json()).expect("it is JSON");
        let expected =
            json!({"step": "nextest", "ok": false, "seconds": 1.5, "tests_run": 40, "tests_failed": 1});
        assert_eq!(value, expected);
    }
}
