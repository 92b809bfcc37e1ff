//! A copy of the file for a new place, also while a keeper writes.
//!
//! The keeper has the only connection, and its lock lets nobody else in; so it is not asked. The files are copied as plain bytes
//! under the hold (`hold.rs`), at the speed of the disks, and the keeper is never in anybody's way: what it writes meanwhile
//! goes into its log. Then the copied log is copied into the copied file. In it is everything that was
//! acknowledged before the copying began, and a prefix of what was acknowledged meanwhile.
//!
//! SQLite's own ways were left: its online backup and `VACUUM INTO` have to go over the keeper's connection, which would be in use by
//! one long read, or by a statement that lets no save pass until it is done.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error::OpenError;
use crate::generation::FilePlace;
use crate::hold::beside;
use crate::open::{check_format, io_trouble, trouble};
use crate::verify::{WITHOUT_LOCKS, check_whole, take_hold};

/// Copies the file to a new one, which is synced; its name in its folder is not. When the copy is opened it begins a new
/// generation. Tells now and then how many bytes are copied.
///
/// The process that asks MUST NOT have the file open; another one may have it open, and write. After an error a part of
/// the copy may be there.
///
/// # Errors
/// [`OpenError`]. [`OpenError::Busy`]: the keeper empties its log at this moment, try again; [`OpenError::Outrun`]: it
/// wrote too much meanwhile.
pub fn copy(from: &Path, to: &Path, progress: &mut dyn FnMut(u64)) -> Result<Copied, OpenError> {
    let held = take_hold(from)?;
    let mut copied = 0;
    let mut count = |bytes: u64| {
        copied += bytes;
        progress(copied);
    };
    copy_bytes(from, to, &mut count).map_err(|error| io_trouble(to, &error))?;
    let (log, log_copy) = (beside(from, "-wal"), beside(to, "-wal"));
    if log.exists() {
        copy_bytes(&log, &log_copy, &mut count).map_err(|error| io_trouble(&log_copy, &error))?;
    }
    check_whole(&held, from)?;
    drop(held);
    let copied = finish(to)?;
    File::open(to).and_then(|file| file.sync_all()).map_err(|error| io_trouble(to, &error))?;
    Ok(copied)
}

/// What is in a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Records, those of forgotten objects included.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Copies the log into the file, which then says that it was never opened where it is.
fn finish(path: &Path) -> Result<Copied, OpenError> {
    let sql = |error: rusqlite::Error| trouble(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // Nobody knows of it yet, and a backup may lie where locks do not work.
    let connection = Connection::open_with_flags_and_vfs(path, flags, WITHOUT_LOCKS).map_err(sql)?;
    connection.execute_batch(CONFIGURATION).map_err(sql)?;
    if check_format(&connection, path)? {
        return Err(OpenError::Damaged { path: path.into(), reason: "nothing is in it".to_owned() });
    }
    FilePlace::NOWHERE.write(&connection).map_err(sql)?;
    let records: i64 =
        connection.query_row("SELECT count(*) FROM records", (), |row| row.get(0)).map_err(sql)?;
    // The log ends with the connection, and is gone then.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(sql)?;
    connection.close().map_err(|(_, error)| sql(error))?;
    if beside(path, "-wal").exists() {
        let reason = "the log of the copy could not be copied into it".to_owned();
        return Err(OpenError::Io { path: path.into(), reason });
    }
    let bytes = path.metadata().map_err(|error| io_trouble(path, &error))?.len();
    Ok(Copied { records: records.cast_unsigned(), bytes })
}

fn copy_bytes(from: &Path, to: &Path, count: &mut dyn FnMut(u64)) -> io::Result<()> {
    let source = File::open(from)?;
    // What is appended meanwhile was not acknowledged before.
    let length = source.metadata()?.len();
    let mut source = source.take(length);
    // States are nobody else's to read.
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let mut buffer = vec![0; PIECE_LENGTH];
    loop {
        let length = match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        target.write_all(&buffer[..length])?;
        count(length as u64);
    }
}

/// Bytes that are copied at once.
const PIECE_LENGTH: usize = 1 << 20;

const CONFIGURATION: &str = "
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA synchronous = FULL;
    PRAGMA mmap_size = 0;
    PRAGMA cell_size_check = ON;
    PRAGMA trusted_schema = OFF;
";
