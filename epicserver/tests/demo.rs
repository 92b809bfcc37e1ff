//! The demo as a user runs it, with few objects.

use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs the demo; gives whether it found everything right, and what it says.
fn demo(more: &[&str]) -> (bool, Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_epicserver"))
        .args(["demo", "--json", "--players", "100", "--barrels", "2000", "--levels", "3"])
        .args(more)
        .stdin(Stdio::null())
        .output()
        .expect("the command runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let line =
        serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("no line of JSON: {text}\n{errors}"));
    (output.status.success(), line, errors.into_owned())
}

#[test]
fn nothing_is_lost_when_processes_come_and_go() {
    let (good, line, errors) = demo(&[]);
    assert!(good, "{line}\n{errors}");
    let number = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("no number {key}: {line}"));
    for key in ["failed_calls", "wrong_answers", "lost_saves"] {
        assert_eq!(number(key), 0.0, "{key}: {line}");
    }
    for key in [
        "cores",
        "objects",
        "calls_per_s",
        "checked_answers",
        "takeover_ms",
        "restart_ms",
        "acknowledged_saves",
    ] {
        assert!(number(key) > 0.0, "{key}: {line}");
    }
    for (key, exactly) in [("nodes", 9.0), ("joined", 1.0), ("killed", 6.0), ("stopped", 1.0)] {
        assert_eq!(number(key), exactly, "{key}: {line}");
    }
    assert_eq!(number("zombie_saves_accepted"), 0.0, "{line}");
    assert!(number("remote_calls") * 3.0 >= number("calls"), "{line}");
    assert!(number("forgotten_objects") <= number("forgotten_allowed"), "{line}");
    assert_eq!(line["transport"], "tcp", "{line}");
}

#[test]
fn one_forgotten_object_too_many_fails_it() {
    let (good, line, _) = demo(&["--plant-a-loss"]);
    assert!(!good && line["wrong_answers"].as_u64() > Some(0), "{line}");
}
