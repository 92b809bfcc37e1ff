//! Rows of saving, and that nothing of their data directory is left behind.

use crate::harness::{KEYS, rows, run, text};

#[test]
fn each_policy_has_its_row_and_the_folder_is_left_as_it_was() {
    let folder = std::env::temp_dir().join(format!("epicserver-bench-test-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder");
    let rows = rows("save", &["--folder", folder.to_str().expect("a name in Unicode")]);
    std::fs::remove_dir(&folder).expect("it is empty again");
    let of = |case: &str, outstanding: u64| {
        let is_it = |row: &&serde_json::Value| text(row, "case") == case && row["outstanding"] == outstanding;
        rows.iter().find(is_it).unwrap_or_else(|| panic!("no row {case} with {outstanding} under way"))
    };
    for row in &rows {
        // Allocations are not counted here, and the row says so instead of 0.
        assert!(
            KEYS.iter().all(|key| row.get(*key).is_some_and(|of| of.is_null() == (*key == "allocations"))),
            "{row}"
        );
        assert!(row["n"].as_u64() > Some(0) && row["msgs_per_s"].as_u64() > Some(0), "{row}");
    }
    let (one, raw) = (of("durable", 1), of("raw-append-sync", 1));
    assert_eq!(one["batches"], one["n"], "one alone is one batch a call");
    assert!(raw["raw"] == true && raw["payload"] == 512 && one["ratio"].as_f64() > Some(0.0));
    let many = of("durable", 256);
    assert!(many["batches"].as_u64() < many["n"].as_u64(), "many share batches: {many}");
    let three = of("durable-from-three", 768);
    assert_eq!((text(three, "placement"), text(three, "transport")), ("cross-process", "tcp"));
    assert!(
        three["batches"].as_u64() > Some(0) && three["batches"].as_u64() < three["n"].as_u64(),
        "{three}"
    );
    assert!(
        three["p50_ns"].as_u64() > Some(0) && three["p50_ns"].as_u64() <= three["max_ns"].as_u64(),
        "{three}"
    );
    for (case, policy) in [("never", "never"), ("behind", "behind(\"50ms\")")] {
        assert_eq!((text(of(case, 1), "policy"), of(case, 1)["ratio"].is_null()), (policy, false));
    }
    assert_eq!(text(of("activate", 64), "policy"), "durable");
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let output = run(&["save", "--quick", "--folder", "no/such/folder"]);
    assert!(!output.status.success() && output.stdout.is_empty());
}
