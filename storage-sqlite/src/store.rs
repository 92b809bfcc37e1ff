//! The store: records, fences and names of batches in tables.

use std::collections::BTreeMap;

use epicserver_storage::{
    Batch, BatchName, COUNT_MAX, Committed, ENVELOPE_HEADER_LENGTH, Fence, NodeId, PAYLOAD_LENGTH_MAX,
    Partition, Record, RecordKeyRef, Save, Store, StoreError, StoreId, StoreLimits,
};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::database::Handle;
use crate::error::{Trouble, store_error};

/// A [`Store`] in an SQLite file, from [`crate::open`]. A clone is another handle to the same connection.
///
/// What a verb reported as done survives the death of the process and of the machine.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    handle: Handle,
    id: StoreId,
}

impl SqliteStore {
    pub(crate) fn new(handle: Handle, id: StoreId) -> Self {
        Self { handle, id }
    }

    #[cfg(test)]
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Store for SqliteStore {
    fn store_id(&self) -> StoreId {
        self.id
    }

    fn limits(&self) -> StoreLimits {
        SQLITE_LIMITS
    }

    fn load(&mut self, keys: &[RecordKeyRef<'_>]) -> Result<Vec<Option<Record>>, StoreError> {
        SQLITE_LIMITS.check_load(keys)?;
        self.handle.lock().read(|connection| load(connection, keys)).map_err(store_error)
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        SQLITE_LIMITS.check_batch(batch)?;
        self.handle.lock().write(|connection| commit(connection, batch)).map_err(store_error)
    }

    fn open_fences(&mut self, fences: &[Fence]) -> Result<(), StoreError> {
        let open =
            |connection: &Connection| fences.iter().try_for_each(|&fence| open_fence(connection, fence));
        self.handle.lock().write(open).map_err(store_error)
    }

    fn fences(&mut self) -> Result<Vec<Fence>, StoreError> {
        self.handle.lock().read(all_fences).map_err(store_error)
    }

    fn last_committed(&mut self, node: NodeId) -> Result<Option<BatchName>, StoreError> {
        self.handle.lock().read(|connection| Ok(last_name(connection, node.id)?)).map_err(store_error)
    }
}

type Outcome<T> = Result<T, Trouble<StoreError>>;

fn load(connection: &Connection, keys: &[RecordKeyRef<'_>]) -> Outcome<Vec<Option<Record>>> {
    let mut select = connection
        .prepare_cached("SELECT envelope FROM records WHERE entity = ?1 AND kind = ?2 AND key = ?3")?;
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let mut rows = select.query(params![key.entity.cast_signed(), key.kind as u8, key.bytes])?;
        // Whatever bytes are there: only the envelope can tell whether they are what was saved.
        let record = rows.next()?.map(|row| row.get_ref(0)?.as_blob().map(Record::new).map_err(other_type));
        found.push(record.transpose()?);
    }
    Ok(found)
}

/// In the order that the contract demands.
fn commit(connection: &Connection, batch: &Batch) -> Outcome<Committed> {
    let name = batch.name();
    let committed = last_name(connection, name.node.id)?;
    if committed == Some(name) {
        return Ok(Committed::Already);
    }
    if !(1..=COUNT_MAX).contains(&name.number) || committed > Some(name) {
        return Err(Trouble::Verdict(StoreError::OutOfOrder { given: name, committed }));
    }
    check_fences(connection, batch)?;
    apply(connection, batch)?;
    connection
        .prepare_cached("REPLACE INTO committed (node, incarnation, number) VALUES (?1, ?2, ?3)")?
        .execute(params![name.node.id.cast_signed(), name.node.incarnation, name.number.cast_signed()])?;
    Ok(Committed::Now)
}

/// Reads the fence of each partition once, however many saves stand under it.
fn check_fences(connection: &Connection, batch: &Batch) -> Outcome<()> {
    let mut known = BTreeMap::new();
    for save in batch.saves() {
        let stored = match known.get(&save.partition) {
            Some(&stored) => stored,
            None => *known.entry(save.partition).or_insert(stored_fence(connection, save.partition)?),
        };
        let given = Fence { partition: save.partition, epoch: save.epoch, holder: batch.name().node };
        if stored != Some(given) {
            return Err(Trouble::Verdict(StoreError::Refused { given, stored }));
        }
    }
    Ok(())
}

fn apply(connection: &Connection, batch: &Batch) -> Outcome<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO records (entity, kind, key, partition, version, envelope) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT DO NOTHING",
    )?;
    let mut update = connection.prepare_cached(
        "UPDATE records SET partition = ?4, version = ?5, envelope = ?6 \
         WHERE entity = ?1 AND kind = ?2 AND key = ?3 AND version = ?5 - 1",
    )?;
    for save in batch.saves() {
        let statement = match save.version {
            1 => &mut insert,
            2..=COUNT_MAX => &mut update,
            _ => return Err(conflict(connection, &save)?),
        };
        let changed = statement.execute(params![
            save.key.entity.cast_signed(),
            save.key.kind as u8,
            save.key.bytes,
            save.partition.number(),
            save.version.cast_signed(),
            save.envelope,
        ])?;
        if changed != 1 {
            return Err(conflict(connection, &save)?);
        }
    }
    Ok(())
}

/// What is stored instead of the version that this save follows.
fn conflict(connection: &Connection, save: &Save<'_>) -> rusqlite::Result<Trouble<StoreError>> {
    let stored: Option<i64> = connection
        .prepare_cached("SELECT version FROM records WHERE entity = ?1 AND kind = ?2 AND key = ?3")?
        .query_row(params![save.key.entity.cast_signed(), save.key.kind as u8, save.key.bytes], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(Trouble::Verdict(StoreError::VersionConflict {
        key: save.key.to_owned(),
        stored: stored.unwrap_or(0).cast_unsigned(),
        given: save.version,
    }))
}

fn open_fence(connection: &Connection, given: Fence) -> Outcome<()> {
    let stored = stored_fence(connection, given.partition)?;
    let follows = stored.is_none_or(|stored| given.epoch > stored.epoch || given == stored);
    if !follows || !(1..=COUNT_MAX).contains(&given.epoch) {
        return Err(Trouble::Verdict(StoreError::Refused { given, stored }));
    }
    let Fence { partition, epoch, holder } = given;
    connection
        .prepare_cached(
            "REPLACE INTO fences (partition, epoch, holder, incarnation) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            partition.number(),
            epoch.cast_signed(),
            holder.id.cast_signed(),
            holder.incarnation
        ])?;
    Ok(())
}

fn stored_fence(connection: &Connection, partition: Partition) -> rusqlite::Result<Option<Fence>> {
    connection
        .prepare_cached("SELECT partition, epoch, holder, incarnation FROM fences WHERE partition = ?1")?
        .query_row([partition.number()], fence_of_row)
        .optional()
}

fn all_fences(connection: &Connection) -> Outcome<Vec<Fence>> {
    let mut select = connection
        .prepare_cached("SELECT partition, epoch, holder, incarnation FROM fences ORDER BY partition")?;
    Ok(select.query_map((), fence_of_row)?.collect::<rusqlite::Result<_>>()?)
}

fn fence_of_row(row: &Row<'_>) -> rusqlite::Result<Fence> {
    let number: u16 = row.get(0)?;
    let partition =
        Partition::new(number).ok_or(rusqlite::Error::IntegralValueOutOfRange(0, number.into()))?;
    let holder = NodeId { id: row.get::<_, i64>(2)?.cast_unsigned(), incarnation: row.get(3)? };
    Ok(Fence { partition, epoch: row.get::<_, i64>(1)?.cast_unsigned(), holder })
}

fn last_name(connection: &Connection, id: u64) -> rusqlite::Result<Option<BatchName>> {
    connection
        .prepare_cached("SELECT incarnation, number FROM committed WHERE node = ?1")?
        .query_row([id.cast_signed()], |row| {
            let node = NodeId { id, incarnation: row.get(0)? };
            Ok(BatchName { node, number: row.get::<_, i64>(1)?.cast_unsigned() })
        })
        .optional()
}

fn other_type(error: rusqlite::types::FromSqlError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, Box::new(error))
}

/// What a [`SqliteStore`] takes at most.
pub const SQLITE_LIMITS: StoreLimits = StoreLimits {
    envelope_length_max: ENVELOPE_HEADER_LENGTH + PAYLOAD_LENGTH_MAX,
    batch_saves_max: 1 << 20,
    batch_length_max: 1 << 28,
};
