//! Looks for damage: in the file itself, in its tables, and in every record. It reads only, and holds one record at a time.
//!
//! The process that asks MUST NOT have the file open otherwise, see `hold.rs`; another one may have it open, and write. What was
//! acknowledged before is looked at; of what is written meanwhile, nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use epicserver_storage::{Envelope, EnvelopeHeader, EnvelopeKind, KeyKind, Partition, RecordKeyRef, StoreId};
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};

use crate::error::OpenError;
use crate::hold::{Held, beside};
use crate::open::{Contents, VALUE_LENGTH_MAX, check_format, io_trouble};

/// Looks at everything in the file; tells each damage once it is found, and now and then how many records it has seen.
///
/// # Errors
/// [`OpenError`] if nothing can be looked at. [`OpenError::Busy`]: the keeper empties its log at this moment, try again;
/// [`OpenError::Outrun`]: it wrote too much meanwhile.
pub fn verify(
    path: &Path,
    damage: &mut dyn FnMut(Damage),
    progress: &mut dyn FnMut(u64),
) -> Result<Verified, OpenError> {
    let held = take_hold(path)?;
    let has_log = beside(path, "-wal").metadata().is_ok_and(|log| log.len() > 0);
    let connection = open_at_rest(path, has_log)?;
    let mut search = Search { damage, progress, fences: BTreeMap::new(), verified: Verified::default() };
    search.look_at_file(&connection);
    if !has_log {
        search.look_at_length(&connection, path);
    }
    match Contents::read(&connection, path) {
        Ok(contents) => search.verified.store = contents.store,
        Err(error) => search.tell(Damage::of_file(error.to_string())),
    }
    search.read_fences(&connection);
    search.look_at_records(&connection);
    let verified = search.verified;
    drop(connection);
    check_whole(&held, path)?;
    Ok(verified)
}

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Which store it is.
    pub store: StoreId,
    /// Records with a state, the damaged ones included.
    pub records: u64,
    /// Records that say that an object was forgotten.
    pub forgotten: u64,
    /// Bytes of all records.
    pub bytes: u64,
    /// How many damages were told.
    pub damaged: u64,
}

impl Default for Verified {
    fn default() -> Self {
        Self { store: StoreId(0), records: 0, forgotten: 0, bytes: 0, damaged: 0 }
    }
}

/// Something is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Whose record, in the spelling of records: the id of the entity, and the key. `None`: not of one record.
    pub record: Option<(u64, String)>,
    /// What is wrong.
    pub reason: String,
}

impl Damage {
    fn of_file(reason: String) -> Self {
        Self { record: None, reason }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.record {
            Some((entity, key)) => write!(f, "{entity:016x}/{key}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// Takes the hold.
pub(crate) fn take_hold(path: &Path) -> Result<Held, OpenError> {
    // Else a wrong name would leave a file there.
    std::fs::metadata(path).map_err(|error| io_trouble(path, &error))?;
    match Held::take(path) {
        Ok(Some(held)) => Ok(held),
        Ok(None) => Err(OpenError::Busy { path: path.into() }),
        Err(error) => Err(io_trouble(path, &error)),
    }
}

/// Refuses what was read if the hold was broken since.
pub(crate) fn check_whole(held: &Held, path: &Path) -> Result<(), OpenError> {
    match held.is_whole() {
        Ok(true) => Ok(()),
        Ok(false) => Err(OpenError::Outrun { path: path.into() }),
        Err(error) => Err(io_trouble(path, &error)),
    }
}

/// Opens the file without any lock of SQLite's, as the hold guards it.
fn open_at_rest(path: &Path, has_log: bool) -> Result<Connection, OpenError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = if has_log {
            Connection::open_with_flags_and_vfs(path, flags, WITHOUT_LOCKS)?
        } else {
            // A log would be made where none is.
            Connection::open_with_flags(immutable(path), flags | OpenFlags::SQLITE_OPEN_URI)?
        };
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_LENGTH_MAX)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.execute_batch(CONFIGURATION)?;
        Ok(connection)
    };
    let connection = open().map_err(|error| crate::open::trouble(path, &error))?;
    if check_format(&connection, path)? {
        return Err(OpenError::Damaged { path: path.into(), reason: "nothing is in it".to_owned() });
    }
    Ok(connection)
}

/// The path as an address that says that nothing there changes.
fn immutable(path: &Path) -> String {
    let mut address = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => address.push(byte.into()),
            _ => address.push_str(&format!("%{byte:02x}")),
        }
    }
    address + "?immutable=1"
}

struct Search<'a> {
    damage: &'a mut dyn FnMut(Damage),
    progress: &'a mut dyn FnMut(u64),
    /// The epoch of each fence.
    fences: BTreeMap<i64, i64>,
    verified: Verified,
}

impl Search<'_> {
    fn tell(&mut self, damage: Damage) {
        self.verified.damaged += 1;
        (self.damage)(damage);
    }

    /// What SQLite itself finds wrong with its pages and trees.
    fn look_at_file(&mut self, connection: &Connection) {
        let sql = format!("PRAGMA integrity_check({FINDINGS_MAX})");
        let mut look = || -> rusqlite::Result<()> {
            let mut statement = connection.prepare(&sql)?;
            let mut rows = statement.query(())?;
            while let Some(row) = rows.next()? {
                let found: String = row.get(0)?;
                if found != "ok" {
                    self.tell(Damage::of_file(format!("the file: {found}")));
                }
            }
            Ok(())
        };
        if let Err(error) = look() {
            self.tell(Damage::of_file(format!("the file: {error}")));
        }
    }

    /// Behind what SQLite looks at. While there is a log the file may have any length.
    fn look_at_length(&mut self, connection: &Connection, path: &Path) {
        let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).ok();
        let pages = number("page_count").zip(number("page_size"));
        let (found, expected) = (
            path.metadata().ok().map(|file| file.len()),
            pages.map(|(count, size)| (count * size).cast_unsigned()),
        );
        if found != expected {
            self.tell(Damage::of_file(format!(
                "the file: it has {} bytes, and its pages {}",
                found.unwrap_or_default(),
                expected.unwrap_or_default()
            )));
        }
    }

    fn read_fences(&mut self, connection: &Connection) {
        let read = || -> rusqlite::Result<BTreeMap<i64, i64>> {
            let mut statement = connection.prepare("SELECT partition, epoch FROM fences")?;
            statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        match read() {
            Ok(fences) => self.fences = fences,
            Err(error) => self.tell(Damage::of_file(format!("the fences: {error}"))),
        }
    }

    fn look_at_records(&mut self, connection: &Connection) {
        let mut last = "the first one".to_owned();
        let mut look = || -> rusqlite::Result<()> {
            let mut statement =
                connection.prepare("SELECT entity, kind, key, partition, version, envelope FROM records")?;
            let mut rows = statement.query(())?;
            while let Some(row) = rows.next()? {
                let (entity, key) = self.look_at_record(row)?;
                last = format!("{entity:016x}/{key}");
            }
            Ok(())
        };
        if let Err(error) = look() {
            self.tell(Damage::of_file(format!("the records behind {last} cannot be read: {error}")));
        }
    }

    /// Gives the name of the record.
    fn look_at_record(&mut self, row: &Row<'_>) -> rusqlite::Result<(u64, String)> {
        let found = Found::read(row)?;
        self.verified.bytes += found.envelope.map_or(0, <[u8]>::len) as u64;
        let name = found.name();
        match found.check(&self.fences) {
            Ok(EnvelopeHeader { kind: EnvelopeKind::Tombstone, .. }) => self.verified.forgotten += 1,
            Ok(_) => self.verified.records += 1,
            Err(reason) => {
                self.verified.records += 1;
                self.tell(Damage { record: Some(name.clone()), reason });
            }
        }
        let seen = self.verified.records + self.verified.forgotten;
        if seen.is_multiple_of(PROGRESS_RECORDS) {
            (self.progress)(seen);
        }
        Ok(name)
    }
}

/// A row as it is; what has another type than it should is `None`.
struct Found<'a> {
    entity: Option<i64>,
    kind: Option<i64>,
    key: Option<&'a [u8]>,
    partition: Option<i64>,
    version: Option<i64>,
    envelope: Option<&'a [u8]>,
}

impl<'a> Found<'a> {
    fn read(row: &'a Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            entity: integer(row.get_ref(0)?),
            kind: integer(row.get_ref(1)?),
            key: blob(row.get_ref(2)?),
            partition: integer(row.get_ref(3)?),
            version: integer(row.get_ref(4)?),
            envelope: blob(row.get_ref(5)?),
        })
    }

    fn key_kind(&self) -> Option<KeyKind> {
        self.kind.and_then(|kind| u8::try_from(kind).ok()).and_then(KeyKind::from_number)
    }

    fn name(&self) -> (u64, String) {
        let entity = self.entity.unwrap_or_default().cast_unsigned();
        let bytes = self.key.unwrap_or_default();
        let kind = self.key_kind().unwrap_or(KeyKind::Bytes);
        let spelled = RecordKeyRef { entity, kind, bytes }.to_string();
        let key = spelled.split_once('/').map_or(spelled.as_str(), |(_, key)| key);
        (entity, key.to_owned())
    }

    fn check(&self, fences: &BTreeMap<i64, i64>) -> Result<EnvelopeHeader, String> {
        let other_type = || "a column of its row has a value of another type".to_owned();
        let (Some(entity), Some(bytes), Some(envelope)) = (self.entity, self.key, self.envelope) else {
            return Err(other_type());
        };
        let (Some(partition), Some(version)) = (self.partition, self.version) else {
            return Err(other_type());
        };
        let kind = self.key_kind().ok_or_else(|| format!("no kind of key has the number {:?}", self.kind))?;
        let key =
            RecordKeyRef::new(entity.cast_unsigned(), kind, bytes).map_err(|error| error.to_string())?;
        let (header, _) = Envelope::open(key, envelope).map_err(|error| error.to_string())?;
        if u16::try_from(partition).ok().and_then(Partition::new) != Some(header.partition) {
            return Err(format!("its row says partition {partition}, its envelope {}", header.partition));
        }
        if version.cast_unsigned() != header.version {
            return Err(format!("its row says version {version}, its envelope {}", header.version));
        }
        match fences.get(&partition) {
            Some(&fence) if fence.cast_unsigned() >= header.epoch => Ok(header),
            Some(fence) => Err(format!("it was saved at epoch {}, above the fence at {fence}", header.epoch)),
            None => Err(format!("it was saved in partition {partition}, which has no fence")),
        }
    }
}

fn integer(value: ValueRef<'_>) -> Option<i64> {
    value.as_i64().ok()
}

fn blob(value: ValueRef<'_>) -> Option<&[u8]> {
    value.as_blob().ok()
}

/// The part of SQLite that reads and writes files, in a form that takes no locks.
pub(crate) const WITHOUT_LOCKS: &str = "unix-none";

/// How many records are seen between two words of progress.
const PROGRESS_RECORDS: u64 = 100_000;

/// How much SQLite tells of its own structures.
const FINDINGS_MAX: u32 = 100;

/// The index of the log lies in our own memory; the cache is given in KiB.
const CONFIGURATION: &str = "
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA mmap_size = 0;
    PRAGMA cache_size = -16384;
    PRAGMA cell_size_check = ON;
    PRAGMA trusted_schema = OFF;
    PRAGMA temp_store = MEMORY;
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_a_file_is_taken_for_something_else() {
        assert_eq!(
            immutable(Path::new("/a b/c?d#e%/f.sqlite")),
            "file:/a%20b/c%3fd%23e%25/f.sqlite?immutable=1"
        );
    }
}
