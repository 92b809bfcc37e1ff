//! The one connection, and its transactions.
//!
//! Every verb of store and coordinator goes through a [`Handle`]. A write is one transaction that ends with a sync of the log.
//! The log is copied into the file by the writer itself, before a transaction, once it is [`LOG_PAGES_MAX`] long: there is no
//! second thread and no second connection. While somebody has the hold (`hold.rs`) the log grows instead. After a failed sync nothing works any more, see [`Database::check_sound`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, DEFAULT_NAME, TransactionBehavior};

use crate::error::{Fault, Trouble};
use crate::hold::{KeeperHold, LOG_HELD_PAGES_MAX};
use crate::open::FORMAT;

/// A shared way to the connection.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    database: Arc<Mutex<Database>>,
}

impl Handle {
    pub(crate) fn new(connection: Connection, hold: KeeperHold) -> Self {
        Self { database: Arc::new(Mutex::new(Database { connection, hold, log_pages: 0, broken: None })) }
    }

    /// A transaction is rolled back when a panic passes it, so a panic of another holder of the lock does not matter.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct Database {
    connection: Connection,
    /// Dropped after the connection, which may empty the log at its end.
    hold: KeeperHold,
    /// How long the log was after the last transaction.
    log_pages: i32,
    /// Why nothing works any more.
    broken: Option<String>,
}

impl Database {
    /// Whether this process may still use the file.
    pub(crate) fn check_sound(&self) -> Result<(), Fault> {
        match &self.broken {
            Some(reason) => Err(Fault::Unsynced(reason.clone())),
            None => Ok(()),
        }
    }

    /// Reads. Nobody else writes meanwhile: the handle is locked.
    pub(crate) fn read<T, E>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, Trouble<E>>,
    ) -> Result<T, Trouble<E>> {
        self.check_sound()?;
        work(&self.connection)
    }

    /// Runs `work` in a transaction: when it succeeds everything is durable, when it fails nothing is there.
    pub(crate) fn write<T, E>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, Trouble<E>>,
    ) -> Result<T, Trouble<E>> {
        self.check_sound()?;
        let result = self.empty_long_log().map_err(Trouble::from).and_then(|()| self.transact(work));
        if let Err(Trouble::Fault(Fault::Unsynced(reason))) = &result {
            self.give_up(reason.clone());
        } else if !self.connection.is_autocommit() {
            self.give_up("a transaction could not be rolled back".to_owned());
        }
        result
    }

    fn transact<T, E>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, Trouble<E>>,
    ) -> Result<T, Trouble<E>> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = work(&transaction)?;
        transaction.commit().map_err(|error| Fault::at_commit(&error))?;
        // Only asks. Where it fails, the next transaction empties the log to be sure.
        let log = self.connection.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::NOOP);
        self.log_pages = log.map_or(i32::MAX, |(pages, _)| pages);
        Ok(value)
    }

    /// Copies the log into the file once it is long, and begins it anew: whoever takes the hold afterwards finds a log that only
    /// grows.
    fn empty_long_log(&mut self) -> Result<(), Fault> {
        let breaks_holds = self.log_pages >= LOG_HELD_PAGES_MAX;
        if self.log_pages < LOG_PAGES_MAX || !self.hold.take(breaks_holds) {
            return Ok(());
        }
        let checkpoint = self.connection.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::PASSIVE);
        checkpoint.map_err(|error| Fault::before_commit(&error))?;
        // The first transaction behind the copying begins the log anew. One that changes nothing would not.
        let begun = self.connection.pragma_update(None, "user_version", FORMAT);
        begun.map_err(|error| Fault::at_commit(&error))?;
        let log = self.connection.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::NOOP);
        if let Ok((pages, 0)) = log {
            self.log_pages = pages;
            self.hold.release();
        }
        Ok(())
    }

    /// What lies in log and file stays as it is, for a new process to read.
    fn give_up(&mut self, reason: String) {
        // Without effect if it fails: the connection is not used any more.
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        self.broken = Some(reason);
    }

    #[cfg(test)]
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    #[cfg(test)]
    pub(crate) fn pretend_long_log(&mut self) {
        self.log_pages = LOG_HELD_PAGES_MAX;
    }

    #[cfg(test)]
    pub(crate) fn fail_sync(&mut self) {
        let failed = self.write(|_| Err::<(), _>(Trouble::<()>::Fault(Fault::Unsynced("a test".into()))));
        assert!(failed.is_err());
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // SQLite copies the log into the file when it closes it.
        if !self.hold.take(false) {
            self.give_up("it is closed".to_owned());
        }
    }
}

/// How long the log grows before it is copied into the file, in pages of 4 KiB: 16 MiB.
pub(crate) const LOG_PAGES_MAX: i32 = 4096;
