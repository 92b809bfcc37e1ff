//! Rows of one process.

use crate::harness::{KEYS, check_refused, rows, run, text};

#[test]
fn rows_have_all_keys_and_a_baseline_beside_them() {
    let rows = rows("rtt", &["--payload", "64", "--outstanding", "1,8"]);
    for row in &rows {
        for key in KEYS {
            assert!(row.get(key).is_some(), "{key} is missing in {row}");
        }
        assert!(row["n"].as_u64() > Some(0) && row["mean_ns"].as_f64() > Some(0.0), "{row}");
        assert!(row["p50_ns"].as_u64() <= row["p99_ns"].as_u64(), "{row}");
        assert!(row["p999_ns"].as_u64() <= row["max_ns"].as_u64(), "{row}");
        assert!(text(row, "command").starts_with("bench-harness rtt --transport loopback"), "{row}");
    }
    for placement in ["same-core", "cross-core"] {
        for wait in ["spin", "park"] {
            let here = |raw: bool| {
                let rows = rows.iter().filter(move |row| row["raw"] == raw);
                let rows = rows.filter(|row| row["placement"] == placement && row["wait"] == wait);
                rows.map(|row| text(row, "case")).collect::<Vec<_>>()
            };
            assert!(here(false).contains(&"call") && here(false).contains(&"call-durable"));
            let baseline = if placement == "same-core" { "raw-box-future" } else { "raw-ping-pong" };
            assert!(here(true).contains(&baseline), "{placement} {wait}: {:?}", here(true));
        }
    }
}

#[test]
fn calls_on_one_core_allocate_nothing_and_the_count_is_alive() {
    let rows = rows("rtt", &["--placement", "same-core", "--wait", "park", "--case", "call,call-durable"]);
    let ours = rows.iter().filter(|row| row["raw"] == false);
    for row in ours {
        assert_eq!(row["allocations"], 0.0, "{row}");
    }
    // With a counter that stands still the above would always hold.
    let boxed = rows.iter().find(|row| row["case"] == "raw-box-future").expect("a baseline");
    assert_eq!(boxed["allocations"], 1.0, "{boxed}");
}

#[test]
fn payload_is_what_was_asked_for() {
    for payload in ["0", "4096"] {
        let options = ["--payload", payload, "--placement", "same-core", "--wait", "park", "--case", "call"];
        for row in rows("rtt", &options) {
            assert_eq!(row["payload"].to_string(), payload);
        }
    }
}

#[test]
fn table_names_the_command_that_makes_it() {
    let output = run(&["rtt", "--quick", "--placement", "same-core", "--wait", "park", "--case", "call"]);
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).expect("text");
    assert!(
        table.contains(
            "--placement same-core --wait park --payload 64 --outstanding 1,64 --case call --quick"
        )
    );
    assert!(table.contains("mean_ns") && table.contains("raw-function"), "{table}");
}

#[test]
fn bad_values_are_named_with_what_is_allowed() {
    check_refused(&["--transport", "pigeon"], &["pigeon", "loopback"]);
    check_refused(&["--placement", "moon"], &["moon", "same-core", "cross-core"]);
    check_refused(&["--payload", "63"], &["63", "0, 64, 1024, 4096"]);
    check_refused(&["--outstanding", "257"], &["257", "1..=256"]);
    check_refused(&["--seconds", "0"], &["0.001 to 3600"]);
    check_refused(&["--case", "cal"], &["cal", "call-durable"]);
}

#[test]
fn list_names_every_case_of_a_run() {
    let output = run(&["list"]);
    let list = String::from_utf8(output.stdout).expect("text");
    for name in ["rtt", "throughput", "call", "call-durable", "call-million", "call-durable-million", "echo"]
    {
        assert!(list.split_whitespace().any(|word| word.trim_end_matches(':') == name), "{name}: {list}");
    }
    for name in ["raw-box-future", "raw-function", "raw-ping-pong", "raw-tcp"] {
        assert!(list.contains(name), "{name}: {list}");
    }
}
