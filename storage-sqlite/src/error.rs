//! What SQLite's errors mean for the state.

use std::path::PathBuf;

use epicserver_storage::{CoordinatorError, MachineError, StoreError};
use rusqlite::{ErrorCode, ffi};

/// The file cannot be opened. Nothing in it changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The linked SQLite has a known defect that damages files.
    #[error(
        "this program is linked with SQLite {found}, which can damage its files; build it with 3.51.3 or newer"
    )]
    OldSqlite {
        /// The linked version.
        found: &'static str,
    },
    /// Another connection has the file, though nobody should.
    #[error("{} is in use by another program; end that one first", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// A database, but not one of ours.
    #[error("{} is a database of another program; move it away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer program.
    #[error("{} has format {found}, and this program reads format {known}; start a newer one", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: i64,
        /// The newest format that this program reads.
        known: i64,
    },
    /// What is there is not what was written.
    #[error("{} is damaged ({reason}); put a backup in its place", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// An older copy was put in the place of a newer file: what was acknowledged since is not in it, and nodes may live that have
    /// seen it.
    #[error(
        "{} is older than what was here before: it was opened {found} times, and this folder has seen reign {seen}; put the newer \
         file back, or go on from this one as from a backup: `epicserver backup NEW --data-dir OLD`, and start with NEW",
        path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its reign.
        found: u64,
        /// The newest reign that was seen beside it.
        seen: u64,
    },
    /// While it was read more was written than the keeper keeps apart.
    #[error(
        "so much was written to {} meanwhile that it could not be read as of one moment; try again when less is written",
        path.display()
    )]
    Outrun {
        /// The file.
        path: PathBuf,
    },
    /// The disk or the file system refused.
    #[error("{} cannot be opened: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

impl From<OpenError> for MachineError {
    fn from(error: OpenError) -> Self {
        let reason = error.to_string();
        match error {
            OpenError::Busy { .. } | OpenError::Io { .. } => Self::Failed { reason },
            _ => Self::Unusable { reason },
        }
    }
}

/// What became of a call that the disk did not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is written.
    Nothing(String),
    /// Nobody knows what is on the disk.
    Unsynced(String),
}

impl Fault {
    /// An error before the transaction's end: it is rolled back, unless it was a sync that failed.
    pub(crate) fn before_commit(error: &rusqlite::Error) -> Self {
        let reason = error.to_string();
        if is_sync(error) { Self::Unsynced(reason) } else { Self::Nothing(reason) }
    }

    /// An error of COMMIT itself. Where the log took no more, for want of room or as a quota or a read-only file system forbids
    /// it, the last frame is not whole, without which the others do not count; and on a busy file none was written. After
    /// any other error the frames may be in the log though this process does not count them: they would be back after a crash.
    pub(crate) fn at_commit(error: &rusqlite::Error) -> Self {
        let reason = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => Self::Nothing(reason),
            _ if is_write(error) => Self::Nothing(reason),
            _ => Self::Unsynced(reason),
        }
    }
}

/// Why a transaction did not come to its end.
#[derive(Debug)]
pub(crate) enum Trouble<E> {
    /// The contract refuses it.
    Verdict(E),
    /// The disk did.
    Fault(Fault),
}

impl<E> From<rusqlite::Error> for Trouble<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Fault(Fault::before_commit(&error))
    }
}

impl<E> From<Fault> for Trouble<E> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

pub(crate) fn store_error(trouble: Trouble<StoreError>) -> StoreError {
    match trouble {
        Trouble::Verdict(error) => error,
        Trouble::Fault(Fault::Nothing(reason)) => StoreError::Failed { reason },
        Trouble::Fault(Fault::Unsynced(reason)) => StoreError::SyncFailed { reason },
    }
}

/// For a verb that reads: it changed nothing, whatever happened.
pub(crate) fn read_error(fault: Fault) -> CoordinatorError {
    let (Fault::Nothing(reason) | Fault::Unsynced(reason)) = fault;
    CoordinatorError::Failed { reason }
}

pub(crate) fn write_error(trouble: Trouble<CoordinatorError>) -> CoordinatorError {
    match trouble {
        Trouble::Verdict(error) => error,
        Trouble::Fault(Fault::Nothing(reason)) => CoordinatorError::Failed { reason },
        Trouble::Fault(Fault::Unsynced(reason)) => CoordinatorError::Unknown { reason },
    }
}

fn is_sync(error: &rusqlite::Error) -> bool {
    matches!(extended_code(error), Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC))
}

fn is_write(error: &rusqlite::Error) -> bool {
    extended_code(error) == Some(ffi::SQLITE_IOERR_WRITE)
}

fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn only_what_surely_wrote_nothing_is_called_so() {
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_BUSY, ffi::SQLITE_IOERR_READ, ffi::SQLITE_CORRUPT] {
            assert!(matches!(Fault::before_commit(&error(code)), Fault::Nothing(_)), "{code}");
        }
        for code in [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC] {
            assert!(matches!(Fault::before_commit(&error(code)), Fault::Unsynced(_)), "{code}");
        }
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_BUSY, ffi::SQLITE_IOERR_WRITE] {
            assert!(matches!(Fault::at_commit(&error(code)), Fault::Nothing(_)), "{code}");
        }
        for code in [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR, ffi::SQLITE_NOMEM] {
            assert!(matches!(Fault::at_commit(&error(code)), Fault::Unsynced(_)), "{code}");
        }
    }
}
