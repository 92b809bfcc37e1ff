//! The data directory of Epic Server: what the processes of one machine share, and how they know of each other.
//!
//! ```text
//!   <directory>/              0700
//!     version                 what these files mean
//!     cluster.secret          0600: id and secret of the cluster; a copy of it is all that another machine needs
//!     keeper.lock             locked by the one process that keeps the data; says who that is, where, and that it runs
//!     nodes/<node>.lock       locked while that incarnation lives; says which process it is
//!     ..                      what the keeper's opener puts there: the data itself
//! ```
//! * [`DataDirectory`] opens a directory, or founds a cluster in an empty one; [`ClusterIdentity`] is the file with the secret.
//! * [`DirectoryMachine`] is the [`epicserver_storage::Machine`] over it. Everything that it says rests on kernel locks (`flock`),
//!   which the kernel frees when a process ends, however it ends; and on nothing else. So a file system whose locks reach
//!   over a network or into a virtual machine is refused.
//!
//! Not here: what the data is (an opener is given), and when any verb is called. Start reading at `machine.rs`;
//! `node_file.rs` says what is proof of a death, and what makes a kill safe.
//!
//! ```
//! use epicserver_data_dir::{DataDirectory, DirectoryMachine, Opening};
//! use epicserver_storage::{Kept, Machine, MemoryCoordinator, MemoryStore, NodeId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let place = tempfile::tempdir()?;
//! # let path = place.path().join("data");
//! let directory = DataDirectory::open_or_found(&path, None)?;
//! let in_memory = |opening: &Opening<'_>| {
//!     let id = opening.fresh_store;
//!     Ok(Kept { reign: 1, coordinator: Box::new(MemoryCoordinator::new(id)), store: Box::new(MemoryStore::new(id)) })
//! };
//! let mut machine = DirectoryMachine::new(&directory, in_memory);
//!
//! let me = NodeId { id: 7, incarnation: 1 };
//! machine.register(me)?;
//! let kept = machine.try_keep(me, "127.0.0.1:5000")?.expect("nobody else keeps");
//! machine.renew_keeping(1)?;
//! assert_eq!(machine.keeper()?.map(|record| (record.node, record.renewals)), Some((me, 1)));
//! assert!(!machine.is_proven_dead(me));
//! # drop(kept);
//! # Ok(())
//! # }
//! ```

mod directory;
mod error;
mod file_system;
mod keeper_file;
mod machine;
mod node_file;
mod process;
mod random;
mod secret;

pub use directory::DataDirectory;
pub use error::DirectoryError;
pub use machine::{DirectoryMachine, NODE_FILES_MAX, Opening};
pub use secret::{ClusterIdentity, SecretError};
