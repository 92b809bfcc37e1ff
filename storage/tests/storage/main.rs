//! One binary for the integration tests of the storage contract.

mod fuzz;
mod random;
