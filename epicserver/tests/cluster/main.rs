//! Real processes: they join, leave, are killed, are stopped and come back, and nothing acknowledged is lost.
//!
//! The nodes are processes of this test program that serve the game of the demo. The test is a client of their cluster
//! and keeps a ledger of what was acknowledged, outside of all of them. Tests here may take seconds of real time, as leases do;
//! none judges by it.

mod backup;
mod bad_input;
mod child;
#[path = "../../src/demo/game.rs"]
mod game;
mod inspect;
#[path = "../../src/demo/ledger.rs"]
mod ledger;
mod machines;
mod moves;
mod other_game;
#[path = "../../src/demo/play.rs"]
#[expect(dead_code, reason = "the demo uses all of it")]
mod play;
mod stuck;
mod takeover;
mod tipc;
mod upgrade;
#[cfg(feature = "rdma")]
mod verbs;
mod veterans;
mod world;
mod zombies;
