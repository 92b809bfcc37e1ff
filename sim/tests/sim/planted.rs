//! Checkers that find nothing prove nothing: each bug that a world can have is found by the law it breaks.

use std::collections::BTreeSet;
use std::process::Command;

use epicserver_runtime::planted::Bug;
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
            Planted::StaleLoad => &[2],
            Planted::DropMessage => &[8],
            Planted::Overtake | Planted::RepeatFrame => &[5],
            Planted::SkipFence
            | Planted::LoseShipment
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

/// Those that show themselves in most worlds; the rarer ones need the speed of `cargo ci sim --planted`.
#[test]
fn bugs_of_moves_are_found() {
    let bugs = [
        Planted::SkipFence,
        Planted::LoseShipment,
        Planted::PastLease,
        Planted::Moves(Bug::DropParked),
        Planted::Moves(Bug::ReorderParked),
        Planted::Moves(Bug::ServeGivenAway),
        Planted::Moves(Bug::SkipHold),
        Planted::Moves(Bug::ForgetImage),
    ];
    for planted in bugs {
        let found = (1..=SEEDS).any(|seed| law_broken(planted.world(), seed, Some(planted)).is_some());
        assert!(found, "{} is not found", planted.name());
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
    let law = text.lines().find(|line| line.contains(" breaks law ")).expect("the law");
    assert!(again.contains(law), "{law} is not seen again:\n{again}");
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
