//! The suites of the contracts, on the implementations of this crate, and random histories.

use epicserver_storage::conformance::{
    coordinator_sharing_suite, coordinator_suite, run_tape, store_reopen_suite, store_sharing_suite,
    store_suite,
};
use epicserver_storage::{FaultPlan, FaultyStore, MemoryCoordinator, MemoryStore, StoreId, StoreLimits};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, proptest};

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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// Laws 1 and 2, with shrinking.
    #[test]
    fn random_histories(tape in vec(any::<u8>(), 0..800)) {
        run_tape(&mut MemoryStore::new(ID), &tape);
    }
}
