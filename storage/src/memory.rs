//! Store and coordinator in memory: for tests, for the simulator, and for `data_dir = none`.
//!
//! Both are handles: a clone is another connection to the same contents, which live as long as the last handle.

mod coordinator;
mod store;

pub use coordinator::MemoryCoordinator;
pub use store::MemoryStore;
