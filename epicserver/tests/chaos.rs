//! Chaos as a user runs it, for a short while.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn chaos(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_epicserver"))
        .args(["chaos", "--json", "--players", "50"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the command runs")
}

/// The line of a run, in which nothing may be wrong.
fn all_is_right(output: &Output) -> Value {
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let line: Value =
        serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("no line of JSON: {text}\n{errors}"));
    assert!(output.status.success(), "{line}\n{errors}");
    for key in ["failed_calls", "wrong_answers", "lost_saves", "zombie_saves_accepted"] {
        assert_eq!(line[key].as_u64(), Some(0), "{key}: {line}");
    }
    for key in ["calls", "acknowledged_saves"] {
        assert!(line[key].as_u64() > Some(0), "{key}: {line}");
    }
    line
}

#[test]
fn fifty_kills_lose_nothing_that_was_acknowledged() {
    let faults = "kill,kill_keeper,kill_all,pause_keeper,rolling_restart";
    let output = chaos(&["--kills", "50", "--minutes", "12", "--seed", "8", "--faults", faults]);
    let line = all_is_right(&output);
    assert!(line["killed"].as_u64() >= Some(50), "{line}");
    for key in ["takeovers", "keeper_pauses"] {
        assert!(line[key].as_u64() > Some(0), "{key}: {line}");
    }
    for fault in faults.split(',') {
        assert!(line["faults"][fault].as_u64() > Some(0), "the seed is to have {fault}: {line}");
    }
}

/// Where the network cannot be cut, it is said why.
#[test]
fn a_network_that_is_cut_loses_nothing_that_was_acknowledged() {
    let faults = "part,part_one_way,isolate,lose_packets,throttle";
    let output = chaos(&["--network", "on", "--minutes", "0.4", "--faults", faults]);
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("error: cutting the network needs") {
        assert!(!output.status.success(), "{errors}");
        return;
    }
    let line = all_is_right(&output);
    let count = |fault: &str| line["faults"][fault].as_u64().unwrap_or(0);
    assert!(faults.split(',').map(count).sum::<u64>() > 0, "{line}");
}

#[test]
fn one_that_is_told_to_stop_says_what_came_of_it() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_epicserver"))
        .args([
            "chaos",
            "--json",
            "--players",
            "50",
            "--minutes",
            "10",
            "--network",
            "off",
            "--faults",
            "kill",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut lines = BufReader::new(program.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("one is killed")), "it begins");
    let id = program.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().is_ok_and(|status| status.success()));
    let errors: Vec<String> = lines.collect();
    let mut output = program.wait_with_output().expect("it ends");
    output.stderr = errors.join("\n").into_bytes();
    all_is_right(&output);
}

#[test]
fn a_fault_that_does_not_exist_is_refused_with_those_that_do() {
    let output = chaos(&["--faults", "kil"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("kill_keeper"), "{errors}");
}

#[test]
fn kills_without_an_end_and_without_a_fault_that_kills_are_refused() {
    let output = chaos(&["--kills", "1", "--faults", "pause_keeper", "--network", "off"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("say --minutes too"), "{errors}");
}
