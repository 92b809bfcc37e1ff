//! The suites that every implementation of the contracts passes.
//!
//! An implementation calls them from its own tests; each check runs on a fresh store or coordinator, and panics with a
//! sentence that names the broken rule. A store that keeps its data over its own end runs the reopening suites too; one
//! that takes several connections, the sharing suites.
//!
//! ```
//! use epicserver_storage::conformance::{coordinator_suite, store_suite};
//! use epicserver_storage::{MemoryCoordinator, MemoryStore, StoreId};
//!
//! store_suite(|| MemoryStore::new(StoreId(1)));
//! coordinator_suite(|| MemoryCoordinator::new(StoreId(1)));
//! ```
//!
//! Not here: faults below the store (a full disk, a failed sync, a crash in the middle). Those need the implementation's
//! own disk; what has to be true afterwards is said at [`Store`].

use crate::coordinator::Coordinator;
use crate::machine::Machine;
use crate::store::Store;

mod coordinator;
mod fixture;
mod machine;
mod model;
mod store;

pub use model::{run_tape, tape_of_seed};

/// Every rule of [`Store`] on one connection, and [`STORE_SEEDS`] random histories against a naive model. `make` gives a
/// fresh, empty store at each call; small limits make the checks of limits cheap.
///
/// # Panics
/// If the store breaks a rule.
pub fn store_suite<S: Store>(mut make: impl FnMut() -> S) {
    for check in store::CHECKS {
        check(&mut make());
    }
    let accepted: usize =
        (0..STORE_SEEDS).map(|seed| run_tape(&mut make(), &tape_of_seed(seed, STORE_TAPE_LENGTH))).sum();
    assert!(accepted > 30 * STORE_SEEDS as usize, "the histories do something: {accepted} saves accepted");
}

/// What survives when a store is closed and opened again. `make` gives a fresh store's opener; the opener is only called
/// after what it gave before is dropped.
///
/// # Panics
/// If the store breaks a rule.
pub fn store_reopen_suite<S: Store + 'static, O: FnMut() -> S>(mut make: impl FnMut() -> O) {
    for check in store::REOPEN_CHECKS {
        let mut open = make();
        check(&mut || Box::new(open()));
    }
}

/// What two connections to one store see of each other. `make` gives two connections to a fresh store.
///
/// # Panics
/// If the store breaks a rule.
pub fn store_sharing_suite<S: Store>(mut make: impl FnMut() -> (S, S)) {
    for check in store::SHARING_CHECKS {
        let (mut first, mut second) = make();
        check(&mut first, &mut second);
    }
}

/// Every rule of [`Coordinator`] on one connection. `make` gives a fresh coordinator with the empty view at each call.
///
/// # Panics
/// If the coordinator breaks a rule.
pub fn coordinator_suite<C: Coordinator>(mut make: impl FnMut() -> C) {
    for check in coordinator::CHECKS {
        check(&mut make());
    }
}

/// What two connections to one coordinator see of each other. `make` gives two connections to a fresh one.
///
/// # Panics
/// If the coordinator breaks a rule.
pub fn coordinator_sharing_suite<C: Coordinator>(mut make: impl FnMut() -> (C, C)) {
    for check in coordinator::SHARING_CHECKS {
        let (mut first, mut second) = make();
        check(&mut first, &mut second);
    }
}

/// The rules of [`Machine`] that can be tried in one process. `make` gives fresh ground at each call: what gives a machine on it,
/// as often as it is called, with data that the next keeper finds again. What needs a second process (a real end, a stopped one, a kill) is
/// for the implementation's own tests.
///
/// # Panics
/// If the machine breaks a rule.
pub fn machine_suite<M: Machine + 'static, O: FnMut() -> M>(mut make: impl FnMut() -> O) {
    for check in machine::CHECKS {
        let mut another = make();
        check(&mut || Box::new(another()));
    }
}

/// How many random histories [`store_suite`] runs.
pub const STORE_SEEDS: u64 = 64;

/// How many choices one of them draws.
const STORE_TAPE_LENGTH: usize = 3000;
