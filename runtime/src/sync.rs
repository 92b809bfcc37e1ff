//! What threads share: rings, inbox, parking, the batch clock. Everything else in this crate is owned by one core.
//!
//! ```text
//!   core A --ring--> core B          any thread --inbox--> core         cores <--batch_clock--> storage thread
//!             each sleeper has one `parker`; each producer holds its unparker
//! ```
//! Each file opens with a table: who writes a field, who reads it, with which ordering. Atomics come from [`shim`] only, so
//! that loom can run the same code (`loom_tests`). `unsafe` lives in the three files marked below and nowhere else.
//!
//! What must never be here: knowledge of entities, calls or frames. Where to start: [`ring`].

pub(crate) mod batch_clock;
pub(crate) mod inbox;
mod padded;
#[cfg_attr(not(loom), expect(unsafe_code, reason = "futex system calls"))]
pub(crate) mod parker;
#[expect(unsafe_code, reason = "processor masks are filled in by the kernel")]
pub(crate) mod pin;
#[expect(unsafe_code, reason = "values move through slots that two threads share")]
pub(crate) mod ring;
mod shim;

#[cfg(all(test, loom))]
mod loom_tests;
