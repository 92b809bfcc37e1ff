//! The suites of the contracts.

use epicserver_storage::conformance::{
    coordinator_sharing_suite, coordinator_suite, store_reopen_suite, store_sharing_suite, store_suite,
};
use epicserver_storage::{FaultPlan, FaultyStore};
use epicserver_storage_sqlite::Opened;

use crate::fixture::{file, folder, opened};

#[test]
fn sqlite_store() {
    store_suite(|| fresh().store);
}

#[test]
fn sqlite_store_shared_and_reopened() {
    store_sharing_suite(|| {
        let store = fresh().store;
        (store.clone(), store)
    });
    store_reopen_suite(|| {
        let folder = folder();
        move || opened(&file(&folder)).store
    });
}

#[test]
fn faulty_store_with_an_empty_plan() {
    let wrap =
        |inner| FaultyStore::new(inner, FaultPlan::none(), |delay| panic!("nothing is slow: {delay:?}"));
    store_suite(|| wrap(fresh().store));
}

#[test]
fn sqlite_coordinator() {
    coordinator_suite(|| fresh().coordinator);
    coordinator_sharing_suite(|| {
        let coordinator = fresh().coordinator;
        (coordinator.clone(), coordinator)
    });
}

/// A new file whose folder is removed at once: the files live on while they are open.
fn fresh() -> Opened {
    opened(&file(&folder()))
}
