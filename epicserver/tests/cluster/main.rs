//! Real processes: they join, leave, are killed, are stopped and come back, and nothing acknowledged is lost.
//!
//! The nodes are processes of this test program that serve the entities of `game.rs`. The test is a client of their cluster
//! and keeps a ledger of what was acknowledged, outside of all of them. Tests here may take seconds of real time, as leases do;
//! none judges by it.

mod bad_input;
mod child;
mod game;
mod inspect;
mod ledger;
mod moves;
mod takeover;
mod world;
mod zombies;
