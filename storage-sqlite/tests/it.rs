//! One binary for the integration tests of the SQLite store.

#[path = "it/conformance.rs"]
mod conformance;
#[path = "it/copying.rs"]
mod copying;
#[path = "it/crash.rs"]
mod crash;
#[path = "it/damage.rs"]
mod damage;
#[path = "it/fixture.rs"]
mod fixture;
#[path = "it/opening.rs"]
mod opening;
