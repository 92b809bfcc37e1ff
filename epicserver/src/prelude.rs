//! What a program of entities needs: `use epicserver::prelude::*;`.

pub use epicserver_macros::{entity, message, methods};
pub use epicserver_runtime::{Bytes, Call, CallError, Entity, Field, Node, Pool, Ref, Transient};
pub use rkyv::Archived;
