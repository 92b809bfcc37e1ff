//! Opening the file, as its keeper.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use epicserver_storage::{Kept, MemoryCoordinator, StoreId, View};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use crate::coordinator::SqliteCoordinator;
use crate::database::Handle;
use crate::error::OpenError;
use crate::generation::{self, FilePlace};
use crate::hold::KeeperHold;
use crate::store::SqliteStore;
use crate::view_bytes;

/// Opens the file, which is made if there is none, and counts the next reign. Only a new file takes the id.
///
/// Only one process may do so at a time; this is guarded, but not decided here.
///
/// # Errors
/// [`OpenError`] says what to do. No reign is counted then.
pub fn open(path: &Path, fresh: StoreId) -> Result<Opened, OpenError> {
    if rusqlite::version_number() < SQLITE_VERSION_MIN {
        return Err(OpenError::OldSqlite { found: rusqlite::version() });
    }
    let mut connection = connect(path).map_err(|error| trouble(path, &error))?;
    let is_empty = check_format(&connection, path)?;
    configure(&connection).map_err(|error| trouble(path, &error))?;
    // Now that the file is ours alone.
    let hold = KeeperHold::open(path).map_err(|error| io_trouble(path, &error))?;
    let seen = hold.reign().map_err(|error| io_trouble(path, &error))?;
    let begun = begin_reign(&mut connection, path, is_empty, fresh, seen)?;
    hold.set_reign(begun.contents.reign).map_err(|error| io_trouble(path, &error))?;
    let Contents { store, reign, view } = begun.contents;
    let handle = Handle::new(connection, hold);
    Ok(Opened {
        reign,
        is_new_generation: begun.is_new_generation,
        coordinator: SqliteCoordinator::new(handle.clone(), MemoryCoordinator::resume(view)),
        store: SqliteStore::new(handle, store),
    })
}

/// An opened file. It is closed when both halves and all their clones are dropped.
#[derive(Debug)]
pub struct Opened {
    /// Counts the openings of the file, this one included; in each generation from a higher number on.
    pub reign: u64,
    /// Whether the file is a copy that was opened for the first time: nobody of the old life can write to it.
    pub is_new_generation: bool,
    /// The one coordinator; all its leases start anew.
    pub coordinator: SqliteCoordinator,
    /// The one store.
    pub store: SqliteStore,
}

impl From<Opened> for Kept {
    fn from(opened: Opened) -> Self {
        let Opened { reign, is_new_generation: _, coordinator, store } = opened;
        Self { reign, coordinator: Box::new(coordinator), store: Box::new(store) }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // States are nobody else's to read; SQLite gives its other files the mode of this one. What is wrong here, it tells.
    // Only where there is no file: closing one that is there would free the locks that this process has on it.
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_millis(BUSY_MS_MAX))?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_LENGTH_MAX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // From the first read on the file is ours alone, and the index of the log lies in our own memory.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    Ok(connection)
}

/// Whether the file is still empty; an error if it is not ours.
pub(crate) fn check_format(connection: &Connection, path: &Path) -> Result<bool, OpenError> {
    let number = |sql| connection.query_row(sql, (), |row| row.get::<_, i64>(0));
    let read = || -> rusqlite::Result<_> {
        let tables = number("SELECT count(*) FROM sqlite_schema")?;
        Ok((tables, number("PRAGMA application_id")?, number("PRAGMA user_version")?))
    };
    match read().map_err(|error| trouble(path, &error))? {
        (0, 0, 0) => Ok(true),
        (_, APPLICATION, FORMAT) => Ok(false),
        (_, APPLICATION, found) => Err(OpenError::Format { path: path.into(), found, known: FORMAT }),
        _ => Err(OpenError::Foreign { path: path.into() }),
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(CONFIGURATION)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    assert_eq!((mode.as_str(), synchronous), ("wal", 2), "this SQLite is built with a log, and syncs it");
    Ok(())
}

/// What the file says of itself.
pub(crate) struct Contents {
    pub(crate) store: StoreId,
    pub(crate) reign: u64,
    /// It may be of another store: of one in memory, while this file keeps the view alone.
    pub(crate) view: View,
}

impl Contents {
    /// Reads and checks it.
    pub(crate) fn read(connection: &Connection, path: &Path) -> Result<Self, OpenError> {
        let damaged = |reason| OpenError::Damaged { path: path.into(), reason };
        let read = || {
            let identity = connection.query_row("SELECT store, reign FROM identity", (), |row| {
                Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?))
            })?;
            let view = connection
                .query_row("SELECT bytes FROM view", (), |row| row.get::<_, Vec<u8>>(0))
                .optional()?;
            Ok((identity, view))
        };
        let ((store, reign), view) = read().map_err(|error| trouble(path, &error))?;
        Self::parse(&store, reign, view.as_deref()).map_err(damaged)
    }

    fn parse(store: &[u8], reign: i64, view: Option<&[u8]>) -> Result<Self, String> {
        let store = <[u8; 16]>::try_from(store).map_err(|_| "the store's id is not 16 bytes long")?;
        let store = StoreId(u128::from_be_bytes(store));
        let reign = u64::try_from(reign).map_err(|_| "the count of reigns is below zero")?;
        let view = match view {
            Some(bytes) => view_bytes::decode(bytes).map_err(|error| error.to_string())?,
            None => View::empty(store),
        };
        Ok(Self { store, reign, view })
    }
}

struct Begun {
    contents: Contents,
    is_new_generation: bool,
}

/// Makes the tables if there are none, counts the reign, and reads what is there: all in one transaction. A reign that cannot begin is
/// not counted. `seen` is the newest reign that was ever seen beside the file.
fn begin_reign(
    connection: &mut Connection,
    path: &Path,
    is_empty: bool,
    fresh: StoreId,
    seen: u64,
) -> Result<Begun, OpenError> {
    let sql = |error: rusqlite::Error| trouble(path, &error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    if is_empty {
        make_tables(&transaction, fresh).map_err(sql)?;
    }
    let mut contents = Contents::read(&transaction, path)?;
    let here = FilePlace::of(path).map_err(|error| io_trouble(path, &error))?;
    let said = FilePlace::read(&transaction).map_err(sql)?;
    let is_new_generation = said.is_some_and(|said| said != here);
    if is_new_generation {
        contents.view = generation::found(&transaction, &contents.view, fresh).map_err(sql)?;
        contents.store = fresh;
        contents.reign = generation::above(contents.reign.max(seen));
    } else if contents.reign < seen && !is_empty {
        return Err(OpenError::Older { path: path.into(), found: contents.reign, seen });
    }
    contents.reign += 1;
    here.write(&transaction).map_err(sql)?;
    let identity = params![contents.store.0.to_be_bytes(), contents.reign.cast_signed()];
    transaction.execute("UPDATE identity SET store = ?1, reign = ?2", identity).map_err(sql)?;
    transaction.commit().map_err(sql)?;
    Ok(Begun { contents, is_new_generation })
}

fn make_tables(connection: &Connection, fresh: StoreId) -> rusqlite::Result<()> {
    connection.execute_batch(TABLES)?;
    connection.pragma_update(None, "application_id", APPLICATION)?;
    connection.pragma_update(None, "user_version", FORMAT)?;
    connection.execute("INSERT INTO identity VALUES (1, ?1, 0)", [fresh.0.to_be_bytes()])?;
    Ok(())
}

pub(crate) fn io_trouble(path: &Path, error: &io::Error) -> OpenError {
    OpenError::Io { path: path.into(), reason: error.to_string() }
}

pub(crate) fn trouble(path: &Path, error: &rusqlite::Error) -> OpenError {
    let (path, reason) = (path.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Busy { path },
        Some(ErrorCode::SystemIoFailure | ErrorCode::DiskFull | ErrorCode::CannotOpen)
        | Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::OutOfMemory) => {
            OpenError::Io { path, reason }
        }
        _ => OpenError::Damaged { path, reason },
    }
}

/// The oldest SQLite that is used, as its own version number: before 3.51.3 a log that was begun anew could damage the
/// file.
pub const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// How long a verb waits for a lock on the file that another program holds, in milliseconds.
pub const BUSY_MS_MAX: u64 = 2_000;

/// "EPSV", which tells our files from others'.
const APPLICATION: i64 = 0x4550_5356;

/// Grows when what lies in the tables changes.
pub(crate) const FORMAT: i64 = 1;

/// The longest value in a row, in bytes: an envelope, or the view of a very large cluster.
pub(crate) const VALUE_LENGTH_MAX: i32 = 64 << 20;

/// How many prepared statements are kept; there are fewer.
const STATEMENTS_MAX: usize = 32;

/// Every value is here, also where it is the default, so that nobody has to know how SQLite was built. The cache is given in
/// KiB, the length to which the log is cut after a large batch in bytes.
const CONFIGURATION: &str = "
    PRAGMA synchronous = FULL;
    PRAGMA wal_autocheckpoint = 0;
    PRAGMA journal_size_limit = 67108864;
    PRAGMA mmap_size = 0;
    PRAGMA cache_size = -65536;
    PRAGMA cell_size_check = ON;
    PRAGMA trusted_schema = OFF;
    PRAGMA temp_store = MEMORY;
";

/// Unsigned numbers of 64 bits are kept as signed ones with the same bits. Records lie in the tree of their keys.
const TABLES: &str = "
    CREATE TABLE identity (
        only INTEGER PRIMARY KEY CHECK (only = 1), store BLOB NOT NULL, reign INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE view (only INTEGER PRIMARY KEY CHECK (only = 1), bytes BLOB NOT NULL) STRICT;
    CREATE TABLE fences (
        partition INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, holder INTEGER NOT NULL, incarnation INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE committed (
        node INTEGER PRIMARY KEY, incarnation INTEGER NOT NULL, number INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE records (
        entity INTEGER NOT NULL, kind INTEGER NOT NULL, key BLOB NOT NULL,
        partition INTEGER NOT NULL, version INTEGER NOT NULL, envelope BLOB NOT NULL,
        PRIMARY KEY (entity, kind, key)
    ) STRICT, WITHOUT ROWID;
";
