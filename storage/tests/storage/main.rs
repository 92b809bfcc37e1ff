//! One binary for the integration tests of the storage contract.

mod conformance;
mod fuzz;
mod random;
