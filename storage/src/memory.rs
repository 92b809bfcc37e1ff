//! Store, coordinator and machine in memory: for tests, for the simulator, and for `data_dir = none`.
//!
//! Store and coordinator are handles: a clone is another connection to the same contents, which live as long as the last handle.

mod coordinator;
mod machine;
mod store;

pub use coordinator::MemoryCoordinator;
pub use machine::MemoryMachine;
pub use store::MemoryStore;
