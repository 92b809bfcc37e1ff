//! Rows of two processes, and that none of these is left behind.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::harness::{KEYS, check_refused, rows, text};

#[test]
fn each_way_to_wait_and_drive_has_a_row_and_a_baseline_beside_it() {
    let options = [&TCP[..], &["--threads", "inline,dedicated", "--payload", "64", "--outstanding", "1"]];
    let rows = rows("rtt", &options.concat());
    for row in &rows {
        for key in KEYS {
            assert!(row.get(key).is_some(), "{key} is missing in {row}");
        }
        assert!(row["n"].as_u64() > Some(0) && row["mean_ns"].as_f64() > Some(0.0), "{row}");
        assert!(text(row, "command").starts_with("bench-harness rtt --transport tcp"), "{row}");
    }
    for wait in ["spin", "park"] {
        for threads in ["inline", "dedicated"] {
            let is_here = |row: &&serde_json::Value| row["wait"] == wait && row["threads"] == threads;
            let cases: Vec<_> =
                rows.iter().filter(is_here).map(|row| (text(row, "case"), row["raw"] == true)).collect();
            assert_eq!(cases, [("echo", false), ("raw-tcp", true)], "{wait} {threads}");
        }
    }
}

#[test]
fn throughput_has_many_calls_under_way_and_says_who_drives() {
    let rows = rows("throughput", &[&TCP[..], &["--wait", "park", "--payload", "4096"]].concat());
    let of = |key: &str| rows.iter().map(|row| row[key].to_string()).collect::<Vec<_>>();
    assert_eq!(of("payload"), ["4096"; 4]);
    assert_eq!(of("outstanding"), ["64", "64", "256", "256"]);
    assert_eq!(of("suite"), [r#""throughput""#; 4]);
    assert_eq!(of("threads"), [r#""auto""#; 4]);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    check_refused(&["--transport", "tcp", "--placement", "same-core"], &["same-core", "cross-process"]);
    check_refused(&["--placement", "cross-process"], &["cross-process", "same-core"]);
    check_refused(&["--threads", "inline"], &["--transport tcp"]);
}

/// A process that is killed can stop nobody: the one that it had started must see that by itself.
#[test]
fn a_killed_harness_leaves_no_process_behind() {
    let many = vec!["64"; 500].join(",");
    let mut harness = Command::new(env!("CARGO_BIN_EXE_bench-harness"))
        .args(["rtt", "--json", "--seconds", "0.001", "--wait", "park", "--outstanding", "1"])
        .args(["--payload", &many])
        .args(TCP)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut first_row = String::new();
    let output = harness.stdout.take().expect("a pipe");
    BufReader::new(output).read_line(&mut first_row).expect("text");
    assert!(first_row.contains("echo"), "{first_row}");
    harness.kill().expect("it runs");
    harness.wait().expect("it was started here");
    // Both write to this pipe: it ends when the last of them does.
    let mut errors = harness.stderr.take().expect("a pipe");
    errors.read_to_end(&mut Vec::new()).expect("the end of both");
}

/// What needs a kernel with TIPC, and a device of InfiniBand verbs.
mod in_guest {
    use super::*;

    #[test]
    fn rows_over_tipc_have_raw_ones_and_those_over_tcp_beside_them() {
        check("tipc");
    }

    /// A run whose packets do not all find a receive fails.
    #[cfg(feature = "rdma")]
    #[test]
    fn rows_over_verbs_have_raw_ones_and_those_over_tcp_beside_them() {
        check("rdma");
    }

    #[cfg(feature = "rdma")]
    #[test]
    fn each_peer_over_verbs_pins_as_much_whatever_their_number() {
        let rows = rows("peers", &["--peers", "1,3"]);
        let [one, three] = &rows[..] else { panic!("two rows: {rows:?}") };
        assert_eq!((&one["peers"], &three["peers"]), (&1.into(), &3.into()));
        for row in &rows {
            // 64 receives of 8 KiB, 2 buffers of 256 KiB for long messages, and what tells buffers apart.
            assert!((1 << 20..9 << 17).contains(&row["pinned_per_peer"].as_u64().unwrap_or(0)), "{row}");
            assert!(row["pinned"].as_u64() > row["pinned_per_peer"].as_u64(), "{row}");
            assert!(row["round_trip_ns"].as_f64() > Some(0.0) && row["raw_ns"].as_f64() > Some(0.0), "{row}");
        }
    }

    fn check(transport: &str) {
        let options = ["--transport", transport, "--placement", "cross-process", "--wait", "park"];
        let rows = rows("rtt", &[&options[..], &["--threads", "inline", "--outstanding", "64"]].concat());
        let cases: Vec<_> = rows.iter().map(|row| (text(row, "case"), text(row, "transport"))).collect();
        let raw = format!("raw-{transport}");
        let expected = [("echo", transport), (&raw, transport), ("echo", "tcp"), ("raw-tcp", "tcp")];
        assert_eq!(cases, expected);
        for row in &rows {
            assert!(row["n"].as_u64() > Some(0) && text(row, "path") == "intra-kernel", "{row}");
        }
    }
}

const TCP: [&str; 4] = ["--transport", "tcp", "--placement", "cross-process"];
