//! The suites of the contracts, on the implementations of this crate, and random histories.

use std::panic::{AssertUnwindSafe, catch_unwind};

use epicserver_storage::conformance::{
    STORE_SEEDS, coordinator_sharing_suite, coordinator_suite, machine_suite, run_tape, store_reopen_suite,
    store_sharing_suite, store_suite, tape_of_seed,
};
use epicserver_storage::{
    FaultPlan, FaultyStore, MemoryCoordinator, MemoryMachine, MemoryStore, StoreId, StoreLimits,
};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, proptest};

use crate::buggy::{Bug, BuggyStore};
use crate::buggy_coordinator::{BuggyCoordinator, CoordinatorBug};
use crate::buggy_machine::{BuggyMachine, MachineBug};

const ID: StoreId = StoreId(1);
const SMALL: StoreLimits =
    StoreLimits { envelope_length_max: 70_000, batch_saves_max: 20, batch_length_max: 100_000 };

#[test]
fn memory_store() {
    store_suite(|| MemoryStore::new(ID));
    store_suite(|| MemoryStore::with_limits(ID, SMALL));
}

#[test]
fn memory_store_shared_and_reopened() {
    store_sharing_suite(|| {
        let store = MemoryStore::new(ID);
        (store.clone(), store)
    });
    store_reopen_suite(|| {
        let store = MemoryStore::new(ID);
        move || store.clone()
    });
}

#[test]
fn faulty_store_with_an_empty_plan() {
    let wrap =
        |inner| FaultyStore::new(inner, FaultPlan::none(), |delay| panic!("nothing is slow: {delay:?}"));
    store_suite(|| wrap(MemoryStore::with_limits(ID, SMALL)));
    store_sharing_suite(|| {
        let store = MemoryStore::new(ID);
        (wrap(store.clone()), wrap(store))
    });
}

#[test]
fn memory_coordinator() {
    coordinator_suite(|| MemoryCoordinator::new(ID));
    coordinator_sharing_suite(|| {
        let coordinator = MemoryCoordinator::new(ID);
        (coordinator.clone(), coordinator)
    });
}

#[test]
fn memory_machine() {
    machine_suite(|| {
        let first = MemoryMachine::new(ID);
        move || first.another()
    });
}

/// Planted bugs: the suite passes a correct second store and fails each broken one.
#[test]
fn the_suite_bites() {
    store_suite(|| BuggyStore::new(None, SMALL));
    let missed: Vec<Bug> = Bug::ALL
        .into_iter()
        .filter(|&bug| !panics(|| store_suite(|| BuggyStore::new(Some(bug), SMALL))))
        .collect();
    assert_eq!(missed, [], "the suite misses these bugs");
}

/// The random histories alone find every bug in what they do at all.
#[test]
fn the_model_bites() {
    let beyond_the_model = [
        Bug::KindIgnored,
        Bug::EntityIgnored,
        Bug::EnvelopeCut,
        Bug::LimitsIgnored,
        Bug::EpochBeyondTheLimitOpens,
    ];
    let run = |bug, seed| {
        run_tape(&mut BuggyStore::new(Some(bug), SMALL), &tape_of_seed(seed, 3000));
    };
    let finds = |bug| (0..STORE_SEEDS).any(|seed| panics(|| run(bug, seed)));
    let missed: Vec<Bug> = Bug::ALL
        .into_iter()
        .filter(|bug| !beyond_the_model.contains(bug))
        .filter(|&bug| !finds(bug))
        .collect();
    assert_eq!(missed, [], "the random histories miss these bugs");
}

#[test]
fn the_coordinator_suite_bites() {
    coordinator_suite(|| BuggyCoordinator::new(None));
    let missed: Vec<CoordinatorBug> = CoordinatorBug::ALL
        .into_iter()
        .filter(|&bug| !panics(|| coordinator_suite(|| BuggyCoordinator::new(Some(bug)))))
        .collect();
    assert_eq!(missed, [], "the suite misses these bugs");
}

#[test]
fn the_machine_suite_bites() {
    let run = |bug| {
        machine_suite(|| {
            let first = MemoryMachine::new(ID);
            move || BuggyMachine::new(bug, first.another())
        });
    };
    run(None);
    let missed: Vec<MachineBug> =
        MachineBug::ALL.into_iter().filter(|&bug| !panics(|| run(Some(bug)))).collect();
    assert_eq!(missed, [], "the suite misses these bugs");
}

fn panics(run: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// Laws 1 and 2, with shrinking. How much a history does is for the suite to judge; here it may be nothing.
    #[test]
    fn random_histories(tape in vec(any::<u8>(), 0..2000)) {
        run_tape(&mut MemoryStore::new(ID), &tape);
    }
}
