//! The program as a person runs it.

use std::process::{Command, Output};

use serde_json::Value;

/// The rows of a short run.
pub(crate) fn rows(suite: &str, options: &[&str]) -> Vec<Value> {
    let output = run(&[&[suite, "--quick", "--json"], options].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let rows: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert!(!rows.is_empty());
    rows
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench-harness")).args(arguments).output().expect("the program starts")
}

pub(crate) fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().expect("a text")
}

/// Such options are refused, with these words.
#[track_caller]
pub(crate) fn check_refused(options: &[&str], named: &[&str]) {
    let output = run(&[&["rtt"], options].concat());
    assert!(!output.status.success(), "{options:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for name in named {
        assert!(text.contains(name), "{name} is not in: {text}");
    }
}

/// What every row has.
pub(crate) const KEYS: [&str; 17] = [
    "suite",
    "case",
    "transport",
    "placement",
    "wait",
    "payload",
    "outstanding",
    "n",
    "mean_ns",
    "p50_ns",
    "p99_ns",
    "p999_ns",
    "max_ns",
    "msgs_per_s",
    "raw",
    "allocations",
    "threads",
];
