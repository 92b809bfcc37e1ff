//! The coordinator: the view in the file, the leases in memory.

use std::sync::Arc;

use epicserver_storage::{Coordinator, CoordinatorError, Lease, MemoryCoordinator, NodeId, View};
use rusqlite::Connection;

use crate::database::Handle;
use crate::error::{Trouble, read_error, write_error};
use crate::view_bytes;

/// A [`Coordinator`] in an SQLite file, from [`crate::open`]. A clone is another handle to the same connection.
///
/// A view survives the death of the process and of the machine. Leases do not: after opening, all start anew.
#[derive(Clone, Debug)]
pub struct SqliteCoordinator {
    handle: Handle,
    /// What is in the file, and the leases. Changed only while the handle is locked, and after the file.
    memory: MemoryCoordinator,
}

impl SqliteCoordinator {
    pub(crate) fn new(handle: Handle, memory: MemoryCoordinator) -> Self {
        Self { handle, memory }
    }
}

impl Coordinator for SqliteCoordinator {
    fn read(&mut self) -> Result<Arc<View>, CoordinatorError> {
        let database = self.handle.lock();
        database.check_sound().map_err(read_error)?;
        self.memory.read()
    }

    fn compare_and_set(&mut self, expected: u64, mut next: View) -> Result<Arc<View>, CoordinatorError> {
        let mut database = self.handle.lock();
        database.check_sound().map_err(read_error)?;
        let current = self.memory.read()?;
        if current.version != expected {
            return Err(CoordinatorError::Conflict { found: current });
        }
        current.check_successor(&next)?;
        next.version = expected + 1;
        let bytes = view_bytes::encode(&next);
        database.write(|connection| write_view(connection, &bytes)).map_err(write_error)?;
        self.memory.compare_and_set(expected, next)
    }

    fn renew_lease(&mut self, node: NodeId, now_ns: u64) -> Result<Lease, CoordinatorError> {
        let database = self.handle.lock();
        database.check_sound().map_err(read_error)?;
        self.memory.renew_lease(node, now_ns)
    }

    fn leases(&mut self) -> Result<Vec<Lease>, CoordinatorError> {
        let database = self.handle.lock();
        database.check_sound().map_err(read_error)?;
        self.memory.leases()
    }
}

fn write_view(connection: &Connection, bytes: &[u8]) -> Result<(), Trouble<CoordinatorError>> {
    connection.prepare_cached("REPLACE INTO view (only, bytes) VALUES (1, ?1)")?.execute([bytes])?;
    Ok(())
}
