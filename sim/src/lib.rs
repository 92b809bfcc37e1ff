//! A deterministic world of Epic Server nodes, run from one seed.
//!
//! The cores are the real ones, stepped by hand; everything around them (rings, storage thread, store, clients, time) is played
//! by one thread in an order that is drawn from the seed. Checkers watch the laws of the design; a seed that breaks one
//! prints the command that replays it. Same seed, same trace.
//!
//! ```
//! use epicserver_sim::world::{WorldConfig, run};
//!
//! let world = || run(WorldConfig { seed: 7, ..WorldConfig::default() });
//! let (first, second) = (world(), world());
//! assert!(first.violation.is_none(), "{:?}", first.violation);
//! assert_eq!(first.trace_hash, second.trace_hash, "same seed, same trace");
//! ```
//!
//! Start at [`world::run`]; the laws are in `checkers`, what the objects do in [`workload`].

mod checkers;
mod ledger;
pub mod planted;
mod trace;
mod witness;
pub mod workload;
pub mod world;

pub use checkers::{ALL_CHECKS, CALLS_ONCE, CHECKS_OF_MOVES, Checks, Violation};
