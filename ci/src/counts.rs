//! How many tests ran and failed, read from the summary lines of the test runners.
//!
//! Knows the closing line of cargo-nextest and that of the standard harness, which doc tests use.

use std::ops::AddAssign;

/// Tests that ran, were left out, or failed. A test that exceeded its time counts as failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TestCounts {
    /// Tests that ran and passed.
    pub(crate) passed: u64,
    /// Tests that ran and did not pass, for whatever reason.
    pub(crate) failed: u64,
    /// Tests that were there and did not run.
    pub(crate) skipped: u64,
}

impl TestCounts {
    /// Adds what `line` says, if it is a summary line. Colours are ignored.
    pub(crate) fn read_line(&mut self, line: &str) {
        let line = without_colours(line);
        if let Some(parts) = nextest_parts(&line).or_else(|| harness_parts(&line)) {
            for part in without_parentheses(parts).split([',', ';']) {
                self.add_part(part.trim());
            }
        }
    }

    /// Tests that ran.
    pub(crate) fn run(&self) -> u64 {
        self.passed + self.failed
    }

    fn add_part(&mut self, part: &str) {
        let Some((number, meaning)) = part.split_once(' ') else { return };
        let Ok(number) = number.parse::<u64>() else { return };
        match meaning.trim() {
            "passed" => self.passed += number,
            "skipped" | "ignored" => self.skipped += number,
            "measured" | "filtered out" => {}
            // "failed", "timed out", "exec failed", and whatever nextest may come to say: never taken for a success.
            _ => self.failed += number,
        }
    }
}

impl AddAssign for TestCounts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

fn nextest_parts(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("Summary [")?;
    ["tests run:", "test run:"].iter().find_map(|words| Some(rest.split_once(words)?.1))
}

/// The line is not indented: where nextest shows the output of a failed test, an indented one is part of it.
fn harness_parts(line: &str) -> Option<&str> {
    Some(line.strip_prefix("test result: ")?.split_once(". ")?.1)
}

fn without_parentheses(text: &str) -> String {
    let mut depth = 0_usize;
    let outside = |character: &char| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    };
    text.chars().filter(outside).collect()
}

fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // A colour is `ESC [ numbers m`.
            characters.by_ref().find(|&end| end == 'm');
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &str, passed: u64, failed: u64, skipped: u64) {
        let mut counts = TestCounts::default();
        lines.lines().for_each(|line| counts.read_line(line));
        assert_eq!(counts, TestCounts { passed, failed, skipped }, "{lines}");
    }

    #[test]
    fn nextest_summaries() {
        check("     Summary [   0.010s] 3 tests run: 3 passed, 0 skipped", 3, 0, 0);
        check("     Summary [   0.010s] 1 test run: 1 passed, 2 skipped", 1, 0, 2);
        check(
            "Summary [ 9.1s] 9 tests run: 5 passed (1 slow, 2 leaky), 2 failed, 2 timed out, 1 skipped",
            5,
            4,
            1,
        );
        check("Summary [ 9.1s] 4/9 tests run: 3 passed, 1 exec failed, 0 skipped", 3, 1, 0);
    }

    #[test]
    fn colours_do_not_hide_a_summary() {
        let line = "\u{1b}[31;1m     Summary\u{1b}[0m [ 0.1s] \u{1b}[1m2\u{1b}[0m tests run: \u{1b}[1m1\u{1b}[0m \
                    \u{1b}[32;1mpassed\u{1b}[0m, \u{1b}[1m1\u{1b}[0m \u{1b}[31;1mfailed\u{1b}[0m, 0 skipped";
        check(line, 1, 1, 0);
    }

    #[test]
    fn harness_summaries_add_up() {
        check(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.10s\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
            4,
            2,
            1,
        );
    }

    #[test]
    fn other_lines_count_nothing() {
        check(
            "        PASS [   0.004s] ci counts::tests::nextest_summaries\nrunning 3 tests\n5 failed",
            0,
            0,
            0,
        );
    }
}
