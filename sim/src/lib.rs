//! A deterministic world of Epic Server nodes, run from one seed.
//!
//! The cores are the real ones, stepped by hand; everything around them (rings, storage thread, store, clients, time) is played
//! by one thread in an order that is drawn from the seed. Checkers watch the laws of the design; a seed that breaks one
//! prints the command that replays it. Same seed, same trace.
//!
//! ```
//! use epicserver_sim::world::{WorldConfig, run};
//!
//! let world = || run(&WorldConfig { seed: 7, ..WorldConfig::default() });
//! let (first, second) = (world(), world());
//! assert!(first.violation.is_none(), "{:?}", first.violation);
//! assert_eq!(first.trace_hash, second.trace_hash, "same seed, same trace");
//! ```
//!
//! The same world is there for objects of your own: start at [`check`](check()) and [`World`].
//!
//! ```
//! use epicserver::prelude::*;
//! use epicserver_sim::World;
//!
//! #[entity(name = "game.Barrel")]
//! #[derive(Default)]
//! struct Barrel {
//!     hits: u32,
//! }
//!
//! #[methods]
//! impl Barrel {
//!     async fn on_hit(&mut self) -> u32 {
//!         self.hits += 1;
//!         self.hits
//!     }
//! }
//!
//! async fn each_hit_counts_once(world: World) -> Result<(), CallError> {
//!     let players: Vec<_> = (0..3)
//!         .map(|_| {
//!             let barrel = world.get::<Barrel>(7);
//!             world.spawn(async move { barrel?.on_hit().await })
//!         })
//!         .collect();
//!     let mut hits = Vec::new();
//!     for player in players {
//!         hits.push(player.await?);
//!     }
//!     hits.sort_unstable();
//!     assert_eq!(hits, [1, 2, 3]);
//!     Ok(())
//! }
//!
//! // In each of 20 worlds, of 1 or 2 nodes, in which nothing but the order is drawn.
//! epicserver_sim::check::<(Barrel,)>().nodes(1..3).seeds(20).calm().run(each_hit_counts_once);
//! ```
//!
//! For the insides: [`world::run`]; the laws are in `checkers`, what the objects do in [`workload`].

mod cast;
mod check;
mod checkers;
mod ledger;
#[expect(unsafe_code, reason = "functions that take the place of the C library's")]
mod outside;
pub mod planted;
mod shrink;
mod stage;
mod tape;
mod trace;
mod witness;
pub mod workload;
pub mod world;

pub use check::{Check, Failure, Passed, Verdict, check};
pub use epicserver_macros::sim;
pub use shrink::{SHRINK_RUNS, Shrunk};
pub use stage::{Task, World};
pub use tape::Edits;

pub use checkers::{ALL_CHECKS, CALLS_ONCE, CHECKS_OF_MOVES, Checks, Violation};

/// The chapter for users, so that its code is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/testing.md")]
struct Chapter;
