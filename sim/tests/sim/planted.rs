//! Checkers that find nothing prove nothing: each bug that a world can have is found by the law it breaks. Those of moves need the speed of
//! `cargo ci sim --planted`, which `cargo ci test` runs.

use std::collections::BTreeSet;
use std::process::Command;

use epicserver_sim::planted::Planted;
use epicserver_sim::world::{self, WorldConfig, WorldKind};

/// Seeds within which a bug must be found.
const SEEDS: u64 = 200;

fn law_broken(kind: WorldKind, seed: u64, planted: Option<Planted>) -> Option<u8> {
    let report = world::run(&WorldConfig { seed, kind, planted, ..WorldConfig::default() });
    report.violation.map(|violation| violation.law)
}

#[test]
fn without_a_bug_nothing_is_found() {
    (1..=60).for_each(|seed| assert_eq!(law_broken(WorldKind::Fixed, seed, None), None, "seed {seed}"));
    for kind in [WorldKind::Moving, WorldKind::Parted] {
        (1..=6).for_each(|seed| assert_eq!(law_broken(kind, seed, None), None, "seed {seed}"));
    }
}

#[test]
fn every_bug_of_fixed_nodes_is_found_by_the_laws_it_breaks() {
    for (name, planted) in Planted::ALL {
        let expected: &[u8] = match planted {
            Planted::AckBeforeCommit | Planted::HalfBatch => &[2, 3],
            Planted::FailureAsSuccess | Planted::IgnoreFailure | Planted::ForgetCore => &[2],
            Planted::AckBeforeSync => &[2],
            Planted::KeepTorn => &[3],
            Planted::StaleLoad => &[2],
            Planted::DropMessage | Planted::LeakFrame => &[8],
            Planted::Overtake | Planted::RepeatFrame => &[5],
            Planted::SkipFence
            | Planted::LoseShipment
            | Planted::ForgetView
            | Planted::ChaseFlapping
            | Planted::PastLease
            | Planted::LeaseFromAnswer
            | Planted::Moves(_) => {
                continue;
            }
        };
        let mut broken = BTreeSet::new();
        let found = (1..=SEEDS).any(|seed| {
            broken.extend(law_broken(planted.world(), seed, Some(*planted)));
            expected.iter().all(|law| broken.contains(law))
        });
        assert!(found, "{name}: laws {broken:?} broke in {SEEDS} seeds, {expected:?} are expected");
    }
}

#[test]
fn a_failure_shows_the_law_the_events_and_how_to_see_it_again() {
    let output = Command::new(env!("CARGO_BIN_EXE_epicserver-sim"))
        .args(["--seeds", "20", "--world", "fixed", "--planted", "ack-before-commit"])
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let replay = text.lines().find_map(|line| line.strip_prefix("replay: ")).expect("a command");
    let arguments: Vec<&str> = replay.split(" -- ").nth(1).expect("its arguments").split(' ').collect();
    let again =
        Command::new(env!("CARGO_BIN_EXE_epicserver-sim")).args(arguments).output().expect("it starts");
    let again = String::from_utf8_lossy(&again.stdout).into_owned();
    let smaller = text.lines().find_map(|line| line.strip_prefix("smaller after ")).expect("it was shrunk");
    let (_, law) = smaller.split_once(": ").expect("and by what it breaks");
    assert!(again.contains(&format!(" breaks {law}")), "{law} is not seen again:\n{again}");
    let trace = text.lines().find_map(|line| line.split_once(", trace ")).expect("its trace").1;
    assert!(again.contains(&format!(", trace {trace}")), "{trace} is another one:\n{again}");
    assert!(again.contains(replay), "a smaller run is not shrunk again:\n{again}");
}

#[test]
fn a_run_that_breaks_a_law_gets_smaller_and_breaks_it_still() {
    let bugs = [
        Planted::DropMessage,
        Planted::AckBeforeCommit,
        Planted::RepeatFrame,
        Planted::StaleLoad,
        Planted::ForgetCore,
    ];
    for planted in bugs {
        let config = |seed| WorldConfig { seed, planted: Some(planted), ..WorldConfig::default() };
        let runs = (1..=SEEDS).map(|seed| world::run(&config(seed)));
        let found = runs.into_iter().find(|report| report.violation.is_some()).expect("it is found");
        let before = found.violation.as_ref().expect("a law");
        let shrunk = world::shrink(&config(found.seed), &found, 100).expect("it fails");
        assert_eq!((shrunk.tape_len.0, shrunk.events.0), (found.tape_len, found.events));
        assert!(shrunk.tape_len.1 < shrunk.tape_len.0 && shrunk.events.1 <= shrunk.events.0, "{shrunk:?}");
        let again = world::run(&WorldConfig { edits: shrunk.edits.clone(), ..config(found.seed) });
        let violation = again.violation.expect("it is broken still");
        assert_eq!((violation.law, violation.to_string()), (before.law, shrunk.what));
        assert_eq!((again.trace_hash, again.events), (shrunk.trace_hash, shrunk.events.1));
    }
    assert!(world::shrink(&WorldConfig::default(), &world::run(&WorldConfig::default()), 10).is_none());
}

#[test]
fn what_was_shrunk_is_in_the_json_unless_it_is_not_wanted() {
    let line = |more: &[&str]| -> serde_json::Value {
        let output = Command::new(env!("CARGO_BIN_EXE_epicserver-sim"))
            .args(["--seeds", "20", "--world", "fixed", "--planted", "ack-before-commit", "--json"])
            .args(more)
            .output()
            .expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(text.lines().next().expect("a failure")).expect("one object a line")
    };
    let shrunk = line(&[]);
    let number = |name: &str| shrunk["shrunk"][name].as_u64().expect("a number");
    assert!(number("tape_len") < number("tape_len_before"), "{shrunk}");
    assert!(number("events") <= number("events_before"), "{shrunk}");
    let tape = shrunk["shrunk"]["tape"].as_str().expect("the edits");
    assert!(shrunk["replay"].as_str().is_some_and(|replay| replay.ends_with(&format!(" --tape {tape}"))));
    assert!(line(&["--no-shrink"])["shrunk"].is_null());
}

#[test]
fn a_check_that_is_never_made_fails_the_run() {
    // Too few seeds say nothing; the list of checks is complete over many.
    let output = Command::new(env!("CARGO_BIN_EXE_epicserver-sim"))
        .args(["--seeds", "150", "--world", "fixed", "--json"])
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let totals: serde_json::Value = serde_json::from_str(&text).expect("one object");
    assert_eq!(
        (&totals["checks_never_made"], &totals["failed"]),
        (&serde_json::json!([]), &serde_json::json!([]))
    );
    let of_moves = epicserver_sim::CHECKS_OF_MOVES.len();
    assert_eq!(
        totals["checks"].as_object().map(serde_json::Map::len),
        Some(epicserver_sim::ALL_CHECKS.len() - of_moves)
    );
    assert_eq!(output.status.code(), Some(0));
}
