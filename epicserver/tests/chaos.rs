//! Chaos as a user runs it, as long as it takes to kill fifty processes.

use std::process::{Command, Stdio};

use serde_json::Value;

#[test]
fn fifty_kills_lose_nothing_that_was_acknowledged() {
    let output = Command::new(env!("CARGO_BIN_EXE_epicserver"))
        .args(["chaos", "--json", "--kills", "50", "--minutes", "4", "--players", "50", "--seed", "3"])
        .stdin(Stdio::null())
        .output()
        .expect("the command runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let line: Value =
        serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("no line of JSON: {text}\n{errors}"));
    assert!(output.status.success(), "{line}\n{errors}");
    let number = |key: &str| line[key].as_u64().unwrap_or_else(|| panic!("no number {key}: {line}"));
    for key in ["failed_calls", "wrong_answers", "lost_saves", "zombie_saves_accepted"] {
        assert_eq!(number(key), 0, "{key}: {line}");
    }
    assert!(number("killed") >= 50, "{line}");
    for key in ["calls", "acknowledged_saves", "takeovers", "keeper_pauses"] {
        assert!(number(key) > 0, "{key}: {line}");
    }
    assert!(line["faults"]["kill_all"].as_u64() > Some(0), "the seed is to have one: {line}");
}
