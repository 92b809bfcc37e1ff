//! Generations: a file that is a copy of another begins a new one, so that nobody of the old life can write there.
//!
//! The file says where it is: which inode, made when. Where it finds itself elsewhere it is a copy, or came back from one. Then,
//! in the transaction that begins the reign:
//! * the store gets a new id, so that what nodes have in memory goes;
//! * every partition is free, at an epoch above each that the old life ever had or will have, and its fence is of nobody;
//! * there are no members, and versions of the view and reigns go on above those of the old life too.
//!
//! *Above* without knowing what the old life did since the copy: the upper half of each of these counts is the generation, and
//! no life counts 2^32 of anything. Records stay as they are.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use epicserver_storage::{Partition, PartitionState, StoreId, View};
use rusqlite::{Connection, OptionalExtension, params};

use crate::view_bytes;

/// Which file this is, for as long as nobody copies it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FilePlace {
    inode: i64,
    /// When it was made, in nanoseconds; 0 where the file system does not say.
    born_ns: i64,
}

impl FilePlace {
    /// Of no file: what a copy says until it is opened.
    pub(crate) const NOWHERE: Self = Self { inode: 0, born_ns: 0 };

    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let born_ns = born.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        Ok(Self { inode: metadata.ino().cast_signed(), born_ns })
    }

    /// What the file says of itself; `None`: nothing yet.
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Option<Self>> {
        connection.execute_batch(TABLE)?;
        connection
            .query_row("SELECT inode, born_ns FROM place", (), |row| {
                Ok(Self { inode: row.get(0)?, born_ns: row.get(1)? })
            })
            .optional()
    }

    pub(crate) fn write(self, connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch(TABLE)?;
        let values = params![self.inode, self.born_ns];
        connection.execute("REPLACE INTO place (only, inode, born_ns) VALUES (1, ?1, ?2)", values)?;
        Ok(())
    }
}

/// What a new generation begins with; fences and view are written, identity and reign are the caller's.
pub(crate) fn found(connection: &Connection, old: &View, store: StoreId) -> rusqlite::Result<View> {
    let highest: Option<i64> = connection.query_row("SELECT max(epoch) FROM fences", (), |row| row.get(0))?;
    let of_view = old.partitions.iter().map(|state| state.epoch).max().unwrap_or(0);
    let epoch = above(of_view.max(highest.map_or(0, i64::cast_unsigned)));
    let mut view = View::empty(store);
    view.version = above(old.version);
    // The states are saved in these, whoever reads them.
    view.schemas.clone_from(&old.schemas);
    view.partitions.fill(PartitionState { owner: None, epoch, moving_to: None });
    let mut fence = connection
        .prepare("REPLACE INTO fences (partition, epoch, holder, incarnation) VALUES (?1, ?2, 0, 0)")?;
    for partition in Partition::all() {
        fence.execute(params![partition.number(), epoch.cast_signed()])?;
    }
    let bytes = view_bytes::encode(&view);
    connection.execute("REPLACE INTO view (only, bytes) VALUES (1, ?1)", [bytes])?;
    Ok(view)
}

/// The first count of the next generation.
pub(crate) fn above(count: u64) -> u64 {
    ((count >> GENERATION_SHIFT) + 1) << GENERATION_SHIFT
}

const GENERATION_SHIFT: u32 = 32;

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS place (
        only INTEGER PRIMARY KEY CHECK (only = 1), inode INTEGER NOT NULL, born_ns INTEGER NOT NULL
    ) STRICT;
";
