//! The thread-per-core runtime of Epic Server: objects, calls, saving, sessions between nodes.
//!
//! Users come through the `epicserver` crate, whose macros write what the traits in [`entity`] ask for. This crate knows the
//! contracts of transport and storage and no implementation beyond memory.
//!
//! Its heart is [`core`](mod@core): one execution thread's world as pure logic, which is told the time and what happened
//! and says what it wants done. A [`Node`] runs cores on real threads; the simulator steps the same cores by hand:
//!
//! ```
//! use std::sync::Arc;
//!
//! use epicserver_runtime::core::{Core, CoreConfig, Event};
//! use epicserver_runtime::routes::Routes;
//! use epicserver_storage::NodeId;
//!
//! let me = NodeId { id: 1, incarnation: 1 };
//! let config = CoreConfig::default().for_node(1).remove(0);
//! let mut core = Core::new(0, config, &[], Arc::new(Routes::solo(me, 1)));
//!
//! let mut actions = Vec::new();
//! core.step(1_000_000, Event::Tick, &mut actions);
//! assert!(actions.is_empty() && core.is_quiet());
//! ```
//!
//! Where to start: `core.rs`, then `core/turn.rs`; `slot.rs` for how a call lies in memory; ARCHITECTURE.md for the map.
//! What must never be here: a transport, a database, a decision in `driver` that is not one of threads and waiting.

#[expect(unsafe_code, reason = "activations are found and borrowed by address")]
mod activation;
mod bytes;
mod call;
pub mod cluster;
pub mod codec;
pub mod core;
#[expect(unsafe_code, reason = "a thread finds its core through a pointer")]
mod current;
mod driver;
pub mod entity;
mod entry;
mod error;
pub mod fabric;
#[expect(unsafe_code, reason = "the interior-mutable cell of state")]
mod field;
pub mod id;
pub mod key;
#[expect(unsafe_code, reason = "archives in receive buffers are read by address")]
pub mod lent;
pub mod membership;
mod node;
#[expect(unsafe_code, reason = "messages and replies are moved without their types")]
mod parcel;
mod path;
pub mod planted;
mod pool;
mod registry;
pub mod remote;
pub mod routes;
pub mod saving;
pub mod script;
pub mod session;
pub mod shipment;
#[expect(unsafe_code, reason = "calls live in recycled untyped memory")]
mod slot;
pub mod stepping;
#[expect(unsafe_code, reason = "the typed operations on untyped slots")]
mod task;
#[allow(dead_code, reason = "the driver uses it")]
mod timer;
mod transient;
#[expect(unsafe_code, reason = "wakers are slot addresses")]
mod waker;
pub mod wire;

pub use bytes::Bytes;
pub use call::{BUDGET_DEFAULT, Call, DEPTH_MAX};
pub use core::operations as context;
pub use driver::{ClusterConfig, LinksConfig, TransportThreads, Wait};
pub use entity::{Entity, Ref};
pub use error::{CallError, Executed, Loss, MethodError, NESTING_MAX, Rejection};
pub use field::Field;
pub use node::{CORES_MAX, FindError, JoinError, Node, NodeBuilder, StartError, Stats};
pub use pool::Pool;
pub use transient::Transient;

#[cfg(test)]
mod tests;
