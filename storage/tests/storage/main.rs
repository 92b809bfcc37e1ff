//! One binary for the integration tests of the storage contract.

mod buggy;
mod buggy_coordinator;
mod conformance;
mod fuzz;
mod random;
mod recovery;
