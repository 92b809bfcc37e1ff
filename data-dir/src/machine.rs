//! The machine over a data directory.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use epicserver_storage::{KeeperRecord, Kept, Machine, MachineError, NodeId, StoreId};

use crate::directory::{DataDirectory, KEEPER, NODES};
use crate::node_file::{self, NodeFile};
use crate::process::ProcessIdentity;
use crate::{keeper_file, random};

/// A [`Machine`] over a [`DataDirectory`].
///
/// Lock files of the dead are removed when a process begins to keep, which remembers whose they were; and when a process
/// registers while more than [`NODE_FILES_MAX`] of them lie there.
pub struct DirectoryMachine {
    path: PathBuf,
    open: Box<dyn FnMut(&Opening<'_>) -> Result<Kept, MachineError> + Send>,
    registered: Option<NodeFile>,
    keeping: Option<Keeping>,
    /// Whose files this process removed.
    proven: BTreeSet<NodeId>,
}

/// What the keeper's opener is told.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The data directory; the opener may use any name that is not in the picture of this crate.
    pub directory: &'a Path,
    /// A random id, for a store that is made now.
    pub fresh_store: StoreId,
}

impl DirectoryMachine {
    /// A machine whose keeper opens the data with `open`, under the directory's lock.
    pub fn new(
        directory: &DataDirectory,
        open: impl FnMut(&Opening<'_>) -> Result<Kept, MachineError> + Send + 'static,
    ) -> Self {
        Self {
            path: directory.path().to_owned(),
            open: Box::new(open),
            registered: None,
            keeping: None,
            proven: BTreeSet::new(),
        }
    }

    fn nodes(&self) -> PathBuf {
        self.path.join(NODES)
    }

    fn failed(&self, error: &io::Error) -> MachineError {
        MachineError::Failed { reason: format!("{}: {error}", self.path.display()) }
    }

    /// A file that cannot be cleaned away does no harm.
    fn clean(&mut self) {
        let room = PROVEN_MAX.saturating_sub(self.proven.len());
        self.proven.extend(node_file::clean(&self.nodes(), room).unwrap_or_default());
    }

    fn is_crowded(&self) -> bool {
        fs::read_dir(self.nodes())
            .is_ok_and(|entries| entries.take(NODE_FILES_MAX + 1).count() > NODE_FILES_MAX)
    }
}

impl Machine for DirectoryMachine {
    fn register(&mut self, me: NodeId) -> Result<(), MachineError> {
        if self.is_crowded() {
            self.clean();
        }
        let own = ProcessIdentity::own().map_err(|error| self.failed(&error))?;
        // The one before is dropped, and so dead, once the new one is there.
        self.registered =
            Some(NodeFile::register(&self.nodes(), me, &own).map_err(|error| self.failed(&error))?);
        Ok(())
    }

    fn try_keep(&mut self, me: NodeId, address: &str) -> Result<Option<Kept>, MachineError> {
        assert!(self.keeping.is_none(), "this process keeps already");
        KeeperRecord::assert_address(address);
        let lock = keeper_file::try_lock(&self.path.join(KEEPER)).map_err(|error| self.failed(&error))?;
        let Some(lock) = lock.map(Arc::new) else { return Ok(None) };
        let fresh_store = StoreId(u128::from_be_bytes(random::bytes()));
        let opened = (self.open)(&Opening { directory: &self.path, fresh_store })?;
        // Its machine may be dropped first.
        let kept = opened.guarded_by(Arc::clone(&lock) as _);
        let record = KeeperRecord { node: me, address: address.to_owned(), renewals: 0 };
        let keeping = Keeping::begin(lock, record).map_err(|error| self.failed(&error))?;
        self.keeping = Some(keeping);
        self.clean();
        Ok(Some(kept))
    }

    fn renew_keeping(&mut self, renewals: u64) -> Result<(), MachineError> {
        let keeping = self.keeping.as_mut().expect("only the keeper renews");
        keeping.record.renewals = renewals;
        keeping.write().map_err(|error| self.failed(&error))
    }

    fn keeper(&mut self) -> Result<Option<KeeperRecord>, MachineError> {
        let newest = keeper_file::read(&self.path.join(KEEPER)).map_err(|error| self.failed(&error))?;
        Ok(newest.map(|(_, record)| record))
    }

    fn is_proven_dead(&mut self, node: NodeId) -> bool {
        self.proven.contains(&node) || node_file::is_proven_dead(&self.nodes(), node)
    }

    fn kill(&mut self, node: NodeId) -> bool {
        ProcessIdentity::own().is_ok_and(|own| node_file::kill(&self.nodes(), node, &own))
    }
}

impl fmt::Debug for DirectoryMachine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DirectoryMachine")
            .field("path", &self.path)
            .field("registered", &self.registered)
            .field("keeping", &self.keeping)
            .finish_non_exhaustive()
    }
}

/// The keeper's side of its lock file.
#[derive(Debug)]
struct Keeping {
    lock: Arc<File>,
    sequence: u64,
    record: KeeperRecord,
}

impl Keeping {
    fn begin(lock: Arc<File>, record: KeeperRecord) -> io::Result<Self> {
        let sequence = keeper_file::newest(&lock)?.map_or(0, |(sequence, _)| sequence);
        let mut keeping = Self { lock, sequence, record };
        keeping.write()?;
        Ok(keeping)
    }

    fn write(&mut self) -> io::Result<()> {
        let next = self.sequence.wrapping_add(1);
        keeper_file::write(&self.lock, next, &self.record)?;
        self.sequence = next;
        Ok(())
    }
}

/// How many lock files may lie in the directory before one who registers cleans up: as many as a cluster has members.
pub const NODE_FILES_MAX: usize = epicserver_storage::MEMBERS_MAX;

/// How many of the dead a process remembers.
const PROVEN_MAX: usize = 64 * NODE_FILES_MAX;
