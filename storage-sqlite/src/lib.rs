//! State and agreement of Epic Server in one SQLite file.
//!
//! ```text
//!   SqliteCoordinator --\                       records    entity, kind, key | partition, version, envelope
//!    (leases in memory)  >-- one connection --> fences     partition | epoch, holder
//!   SqliteStore --------/    WAL, FULL          committed  node | incarnation, number
//!                                               view       the whole view, with a checksum
//!   verify, copy: other processes, which read   identity   store id, reign
//!   the files while the keeper lets them rest   place      which inode this is
//! ```
//! * [`open`] opens the file as its keeper: it counts the next reign and gives a [`SqliteStore`] and a
//!   [`SqliteCoordinator`], which share the one connection. A clone of either is another handle to it. The file is locked
//!   for everybody else while a handle lives: it is never opened twice, in this process or another.
//! * *Durable* means: written to the log and synced, before a verb returns. It survives the death of the process, and that of the
//!   machine if the disk keeps what it acknowledged.
//! * One batch is one transaction. Putting many saves into a batch is the caller's, and is where the speed comes from.
//! * [`copy()`] makes a copy while the keeper writes, [`verify()`] looks for damage. A copy that is opened begins a new *generation*,
//!   in which nobody of the old life can write; so does a file that was copied in any other way.
//! * A failed sync is the end: every later verb fails with [`StoreError::SyncFailed`], and the process is to stop.
//!
//! No verb waits for anything but the disk, and for at most [`BUSY_MS_MAX`] for a lock that nobody should have.
//!
//! Not here: the lock that says who may open the file (`data-dir`), and the meaning of what is saved. Start reading at
//! `store.rs`; `database.rs` has the connection and says what each error means for the state, `hold.rs` how others may read beside it.
//!
//! ```
//! use epicserver_storage::{Coordinator, Store, StoreId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let path = directory.path().join("epicserver.sqlite");
//!
//! // The id is taken by the first opening only; the store keeps it for life.
//! let mut first = epicserver_storage_sqlite::open(&path, StoreId(0x5EED))?;
//! assert_eq!((first.reign, first.coordinator.read()?.version), (1, 0));
//! drop(first);
//!
//! let second = epicserver_storage_sqlite::open(&path, StoreId(0xBAD))?;
//! assert_eq!((second.reign, second.store.store_id()), (2, StoreId(0x5EED)));
//! # Ok(())
//! # }
//! ```

mod coordinator;
mod copy;
mod database;
mod error;
mod generation;
mod hold;
mod open;
mod store;
mod verify;
mod view_bytes;

pub use coordinator::SqliteCoordinator;
pub use copy::{Copied, copy};
#[cfg(doc)]
use epicserver_storage::StoreError;
pub use error::OpenError;
pub use open::{BUSY_MS_MAX, Opened, SQLITE_VERSION_MIN, open};
pub use store::{SQLITE_LIMITS, SqliteStore};
pub use verify::{Damage, Verified, verify};

#[cfg(test)]
mod tests;
