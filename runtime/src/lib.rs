//! The thread-per-core runtime of Epic Server: objects, calls, fabric.

#[expect(unsafe_code, reason = "activations are found and borrowed by address")]
mod activation;
mod call;
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
mod node;
mod path;
mod pool;
mod registry;
pub mod remote;
pub mod routes;
pub mod saving;
pub mod session;
#[expect(unsafe_code, reason = "calls live in recycled untyped memory")]
mod slot;
pub mod stepping;
#[allow(dead_code, reason = "the driver uses it")]
mod sync;
#[expect(unsafe_code, reason = "the typed operations on untyped slots")]
mod task;
#[allow(dead_code, reason = "the driver uses it")]
mod timer;
#[expect(unsafe_code, reason = "wakers are slot addresses")]
mod waker;
pub mod wire;

pub use call::{BUDGET_DEFAULT, Call, DEPTH_MAX};
pub use core::operations as context;
pub use driver::{LinksConfig, Wait};
pub use entity::{Entity, Ref};
pub use error::{CallError, Executed, Loss, MethodError, NESTING_MAX, Rejection};
pub use field::Field;
pub use node::{Node, NodeBuilder, StartError, Stats};
pub use pool::Pool;

#[cfg(test)]
mod tests;
