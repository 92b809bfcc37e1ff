//! Opening the file, as its keeper.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use epicserver_storage::{Kept, MemoryCoordinator, StoreId, View};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};

use crate::coordinator::SqliteCoordinator;
use crate::database::Handle;
use crate::error::OpenError;
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
    let begun = begin_reign(&mut connection, is_empty, fresh).map_err(|error| trouble(path, &error))?;
    let (store, view) = begun.parse().map_err(|reason| OpenError::Damaged { path: path.into(), reason })?;
    let handle = Handle::new(connection);
    Ok(Opened {
        reign: begun.reign.cast_unsigned(),
        coordinator: SqliteCoordinator::new(handle.clone(), MemoryCoordinator::resume(view)),
        store: SqliteStore::new(handle, store),
    })
}

/// An opened file. It is closed when both halves and all their clones are dropped.
#[derive(Debug)]
pub struct Opened {
    /// How often the file was opened, this time included.
    pub reign: u64,
    /// The one coordinator; all its leases start anew.
    pub coordinator: SqliteCoordinator,
    /// The one store.
    pub store: SqliteStore,
}

impl From<Opened> for Kept {
    fn from(opened: Opened) -> Self {
        let Opened { reign, coordinator, store } = opened;
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
fn check_format(connection: &Connection, path: &Path) -> Result<bool, OpenError> {
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

/// What the file says of itself, unchecked.
struct Begun {
    store: Vec<u8>,
    reign: i64,
    view: Option<Vec<u8>>,
}

impl Begun {
    /// The view may be of another store: of one in memory, while this file keeps the view alone.
    fn parse(&self) -> Result<(StoreId, View), String> {
        let store = <[u8; 16]>::try_from(&*self.store).map_err(|_| "the store's id is not 16 bytes long")?;
        let store = StoreId(u128::from_be_bytes(store));
        let view = match &self.view {
            Some(bytes) => view_bytes::decode(bytes).map_err(|error| error.to_string())?,
            None => View::empty(store),
        };
        Ok((store, view))
    }
}

/// Makes the tables if there are none, counts the reign, and reads what is there: all in one transaction.
fn begin_reign(connection: &mut Connection, is_empty: bool, fresh: StoreId) -> rusqlite::Result<Begun> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if is_empty {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
        transaction.execute("INSERT INTO identity VALUES (1, ?1, 0)", [fresh.0.to_be_bytes()])?;
    }
    let begun = transaction.query_row(
        "UPDATE identity SET reign = reign + 1 WHERE reign >= 0 RETURNING store, reign",
        (),
        |row| Ok(Begun { store: row.get(0)?, reign: row.get(1)?, view: None }),
    )?;
    let view = transaction.query_row("SELECT bytes FROM view", (), |row| row.get(0)).optional()?;
    let begun = Begun { view, ..begun };
    // A reign that cannot begin is not counted: the transaction is rolled back.
    if begun.parse().is_ok() {
        transaction.commit()?;
    }
    Ok(begun)
}

fn trouble(path: &Path, error: &rusqlite::Error) -> OpenError {
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
const FORMAT: i64 = 1;

/// The longest value in a row, in bytes: an envelope, or the view of a very large cluster.
const VALUE_LENGTH_MAX: i32 = 64 << 20;

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
