//! Tests of the core through its events and actions, with entities written by hand as the macros would write them.
//!
//! One file for each theme of the rules; a test's name is the rule. Start reading at `cluster.rs` and `thing.rs`.

#[expect(unsafe_code, reason = "an allocator that counts")]
mod bench;
pub(crate) mod by_hand;
mod cancel;
mod checkpoint;
mod cluster;
mod deadline;
mod deadlock;
mod fairness;
mod gate;
pub(crate) mod harness;
mod holds;
mod hooks;
mod idle;
mod in_place;
mod keys;
mod lease;
mod left_behind;
pub(crate) mod log;
mod moving;
mod operations;
mod order;
mod reentry;
mod remote;
mod saving;
mod stop;
mod thing;
mod threads;
mod trace;
mod wakers;
