//! Virtual objects that call each other with plain async methods.

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
pub mod prelude;

pub use epicserver_macros::{entity, message, methods};
pub use epicserver_runtime::entity::Entities;
pub use epicserver_runtime::{Call, CallError, Entity, Field, Ref};
