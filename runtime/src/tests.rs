//! Tests of the core through its events and actions, with entities written by hand as the macros would write them.

pub(crate) mod harness;
mod rules;
