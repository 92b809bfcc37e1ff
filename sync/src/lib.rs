//! What threads share: rings, inbox, parking, the batch clock. Everything else in the runtime is owned by one core.
//!
//! ```text
//!   core A --ring--> core B          any thread --inbox--> core         cores <--batch_clock--> storage thread
//!             each sleeper has one `parker`; each producer holds its unparker
//! ```
//! Each file opens with a table: who writes a field, who reads it, with which ordering. Atomics come from one file (`shim`), so
//! that loom can run the same code (`loom_tests`); the crate is one of its own so that the model is built in moments. `unsafe` lives
//! in the three files marked below and nowhere else.
//!
//! ```
//! use epicserver_sync::{parker::Parker, ring::ring};
//!
//! let (mut producer, mut consumer) = ring::<u64>(8);
//! let mut parker = Parker::new();
//! let unparker = parker.unparker();
//! let sender = std::thread::spawn(move || {
//!     producer.try_push(7).expect("there is room");
//!     unparker.unpark_if_parked();
//! });
//! let value = loop {
//!     parker.prepare();
//!     // What came before is seen here, what comes later wakes the sleeper.
//!     match consumer.try_pop() {
//!         Some(value) => break value,
//!         None => parker.park(None),
//!     };
//! };
//! assert_eq!(value, 7);
//! # sender.join().expect("it ends");
//! ```
//!
//! What must never be here: knowledge of entities, calls or frames. Where to start: [`ring`].

pub mod batch_clock;
pub mod inbox;
mod padded;
#[cfg_attr(not(loom), expect(unsafe_code, reason = "futex system calls"))]
pub mod parker;
#[expect(unsafe_code, reason = "processor masks are filled in by the kernel")]
pub mod pin;
#[expect(unsafe_code, reason = "values move through slots that two threads share")]
pub mod ring;
mod shim;

#[cfg(all(test, loom))]
mod loom_tests;
