//! Rows of moves.

use crate::harness::{KEYS, rows, text};

#[test]
fn partitions_move_under_load_and_no_call_fails() {
    let folder = std::env::temp_dir().join(format!("epicserver-bench-moves-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder");
    let rows = rows("move", &["--folder", folder.to_str().expect("a name in Unicode")]);
    std::fs::remove_dir(&folder).expect("it is empty again");
    let [moves, stays] = &rows[..] else { panic!("two rows: {rows:?}") };
    assert_eq!((text(moves, "case"), text(stays, "case")), ("planned-move", "no-move"));
    for row in &rows {
        assert!(KEYS.iter().all(|key| row.get(*key).is_some()), "{row}");
        assert!(row["n"].as_u64() > Some(0) && row["calls"].as_u64() >= Some(8 * 50), "{row}");
        for key in ["failed_calls", "unknown_outcomes", "wrong_answers"] {
            assert_eq!(row[key], 0, "{row}");
        }
    }
    // Of 8 partitions some move there, and the same ones back.
    assert!(moves["n"].as_u64().is_some_and(|moves| moves % 2 == 0 && moves <= 16), "{moves}");
    assert_eq!(stays["n"], 16, "{stays}");
}
