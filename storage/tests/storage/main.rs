//! One binary for the integration tests of the storage contract.

mod buggy;
mod buggy_coordinator;
mod buggy_machine;
mod conformance;
mod fuzz;
mod random;
mod recovery;
