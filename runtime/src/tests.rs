//! Tests of the core through its events and actions, with entities written by hand as the macros would write them.

#[expect(unsafe_code, reason = "an allocator that counts")]
mod bench;
pub(crate) mod harness;
mod rules;
mod threads;
