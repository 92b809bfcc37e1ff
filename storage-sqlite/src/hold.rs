//! The hold: while somebody copies or checks the file, it stays as it is, also under a keeper that writes.
//!
//! ```text
//!   <file>        changes only while the keeper copies its log into it
//!   <file>-wal    the log; only grows, but for the moment after that
//!   <file>-hold   locked exclusively by the keeper for both of these moments, shared by whoever reads the two files above
//!                 0 magic "EPHD" | 4 zero u32 | 8 reign u64 | 16 holds that were broken u64
//! ```
//! So whoever has the hold may read file and log as plain bytes, from *another* process: the file as it was when the log was
//! emptied last, and a log that holds everything acknowledged since. Nobody waits: a keeper that finds a hold lets its log grow
//! on. When the log has [`LOG_HELD_PAGES_MAX`] pages it breaks the hold and says so in the file, so that who has it finds out. The
//! kernel frees the lock when a process ends, on both sides.
//!
//! The reign in it is the newest that this directory has seen: an older file that is put back shows.
//!
//! All integers little-endian. Another process, since POSIX frees all locks of a process on a file when it closes any
//! descriptor of it, and SQLite's own lock is of that kind; the lock on the `-hold` file is not.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The keeper's side.
#[derive(Debug)]
pub(crate) struct KeeperHold {
    file: File,
    breaks: u64,
    is_taken: bool,
}

impl KeeperHold {
    /// For the one process that has the file open.
    pub(crate) fn open(store: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path_of(store))?;
        let breaks = read_number(&file, BREAKS_PLACE)?;
        Ok(Self { file, breaks, is_taken: false })
    }

    /// The newest reign that was written here; 0 if none was.
    pub(crate) fn reign(&self) -> io::Result<u64> {
        read_number(&self.file, REIGN_PLACE)
    }

    /// Writes which reign this is.
    pub(crate) fn set_reign(&self, reign: u64) -> io::Result<()> {
        self.file.write_all_at(&MAGIC, 0)?;
        self.file.write_all_at(&reign.to_le_bytes(), REIGN_PLACE)
    }

    /// Whether the file may be changed now: nobody else has the hold, or it is to be broken.
    pub(crate) fn take(&mut self, breaks_others: bool) -> bool {
        if self.is_taken {
            return true;
        }
        match self.file.try_lock() {
            Ok(()) => self.is_taken = true,
            Err(TryLockError::WouldBlock) if !breaks_others => {}
            // Where there are no locks there are no readers who could wait for one.
            Err(_) => return self.break_others(),
        }
        self.is_taken
    }

    /// The file stays as it is from now on, and the log grows.
    pub(crate) fn release(&mut self) {
        if std::mem::take(&mut self.is_taken) {
            // What cannot be freed is freed with the process.
            let _ = self.file.unlock();
        }
    }

    fn break_others(&mut self) -> bool {
        self.breaks += 1;
        self.file.write_all_at(&self.breaks.to_le_bytes(), BREAKS_PLACE).is_ok()
    }
}

/// The side of whoever reads the files; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    /// `None` where nothing can be written: so nobody does.
    file: Option<File>,
    breaks: u64,
}

impl Held {
    /// Takes the hold, or `None` while the keeper empties its log.
    pub(crate) fn take(store: &Path) -> io::Result<Option<Self>> {
        let Some(file) = open_to_read(&path_of(store))? else {
            return Ok(Some(Self { file: None, breaks: 0 }));
        };
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let breaks = read_number(&file, BREAKS_PLACE)?;
        Ok(Some(Self { file: Some(file), breaks }))
    }

    /// Whether all that was read until now is of one piece.
    pub(crate) fn is_whole(&self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(true) };
        Ok(read_number(file, BREAKS_PLACE)? == self.breaks)
    }
}

fn open_to_read(path: &Path) -> io::Result<Option<File>> {
    let opened = File::open(path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
        }
        _ => Err(error),
    });
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) && !path.exists() =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What is not there yet is 0.
fn read_number(file: &File, place: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    match file.read_exact_at(&mut bytes, place) {
        Ok(()) => Ok(u64::from_le_bytes(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(error),
    }
}

fn path_of(store: &Path) -> PathBuf {
    beside(store, "-hold")
}

/// A file that belongs to another one.
pub(crate) fn beside(store: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(store);
    name.push(ending);
    name.into()
}

/// How long the log grows while somebody has the hold, in pages of 4 KiB: 1 GiB.
pub(crate) const LOG_HELD_PAGES_MAX: i32 = 1 << 18;

const MAGIC: [u8; 4] = *b"EPHD";
const REIGN_PLACE: u64 = 8;
const BREAKS_PLACE: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_rests_while_somebody_has_the_hold() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("file");
        let mut keeper = KeeperHold::open(&store).unwrap();
        assert!(keeper.take(false), "nobody has it");
        assert!(Held::take(&store).unwrap().is_none(), "the keeper has it");
        keeper.release();

        let held = Held::take(&store).unwrap().unwrap();
        let second = Held::take(&store).unwrap().unwrap();
        assert!(!keeper.take(false));
        drop(second);
        assert!(!keeper.take(false), "one is enough");
        assert!(held.is_whole().unwrap());
        drop(held);
        assert!(keeper.take(false));
    }

    #[test]
    fn a_broken_hold_shows() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("file");
        let mut keeper = KeeperHold::open(&store).unwrap();
        let held = Held::take(&store).unwrap().unwrap();
        assert!(keeper.take(true));
        assert!(!held.is_whole().unwrap());
        assert!(Held::take(&store).unwrap().unwrap().is_whole().unwrap(), "a later one is whole again");
    }

    #[test]
    fn the_newest_reign_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("file");
        assert_eq!(KeeperHold::open(&store).unwrap().reign().unwrap(), 0);
        KeeperHold::open(&store).unwrap().set_reign(7).unwrap();
        assert_eq!(KeeperHold::open(&store).unwrap().reign().unwrap(), 7);
    }
}
