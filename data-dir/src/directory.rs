//! The directory: founding a cluster in an empty one, and opening one that is there.
//!
//! Several processes may do this at the same moment, on the same directory. Each file of the founding appears as a whole, and
//! whoever comes second takes what the first one wrote.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::DirectoryError;
use crate::file_system;
use crate::random;
use crate::secret::ClusterIdentity;

/// A directory that this process may use, and whose cluster it knows.
#[derive(Clone, Debug)]
pub struct DataDirectory {
    path: PathBuf,
    identity: ClusterIdentity,
    is_new: bool,
}

impl DataDirectory {
    /// Opens the directory. If it is empty or not there, it becomes the directory of a new cluster, or of the cluster with
    /// this identity.
    ///
    /// # Errors
    /// [`DirectoryError`] says what to do.
    pub fn open_or_found(path: &Path, given: Option<&ClusterIdentity>) -> Result<Self, DirectoryError> {
        check_file_system(path)?;
        let make = DirBuilder::new().recursive(true).mode(0o700).create(path);
        make.and_then(|()| probe(path)).map_err(|error| not_writable(path, &error))?;
        check_version(path)?;
        let (identity, is_new) = Self::identity_at(path, given)?;
        let nodes = DirBuilder::new().recursive(true).mode(0o700).create(path.join(NODES));
        nodes.map_err(|error| not_writable(path, &error))?;
        Ok(Self { path: path.to_owned(), identity, is_new })
    }

    /// Opens one that is there, and writes nothing.
    ///
    /// # Errors
    /// [`DirectoryError`] says what to do; [`DirectoryError::NoDirectory`] if it is none.
    pub fn look_at(path: &Path) -> Result<Self, DirectoryError> {
        if !path.join(VERSION).is_file() {
            return Err(DirectoryError::NoDirectory { path: path.to_owned() });
        }
        read_version(path)?;
        let file = path.join(SECRET);
        if !ClusterIdentity::is_at(&file) {
            return Err(DirectoryError::SecretLost { path: path.to_owned() });
        }
        let identity =
            ClusterIdentity::read(&file).map_err(|error| DirectoryError::Secret { path: file, error })?;
        Ok(Self { path: path.to_owned(), identity, is_new: false })
    }

    /// Makes a directory of the same cluster without data: on any file system, as it may be a backup that is not served from
    /// there. Its files are synced, its name in the folder above is not.
    ///
    /// # Errors
    /// The system's, also if something is there.
    pub fn make_copy(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)?;
        for (name, text) in [(VERSION, VERSION_TEXT), (SECRET, &*self.identity.to_text())] {
            let mut file = create_new(&path.join(name))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
        }
        File::open(path)?.sync_all()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    pub fn identity(&self) -> &ClusterIdentity {
        &self.identity
    }

    /// Whether this call made it.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    fn identity_at(
        path: &Path,
        given: Option<&ClusterIdentity>,
    ) -> Result<(ClusterIdentity, bool), DirectoryError> {
        let file = path.join(SECRET);
        let mut is_new = false;
        if !ClusterIdentity::is_at(&file) {
            // Whoever keeps data has made this file first.
            if given.is_none() && path.join(KEEPER).exists() {
                return Err(DirectoryError::SecretLost { path: path.to_owned() });
            }
            let identity = given.cloned().unwrap_or_else(ClusterIdentity::found);
            is_new = put_whole(&file, &identity.to_text()).map_err(|error| not_writable(path, &error))?;
        }
        let found =
            ClusterIdentity::read(&file).map_err(|error| DirectoryError::Secret { path: file, error })?;
        let path = path.to_owned();
        match given {
            Some(given) if given.cluster != found.cluster => {
                let (directory, given) = (found.cluster, given.cluster);
                Err(DirectoryError::OtherCluster { path, directory, given })
            }
            Some(given) if *given != found => Err(DirectoryError::OtherSecret { path }),
            _ => Ok((found, is_new)),
        }
    }
}

/// Looks at what is there or above, so that nothing is written where nothing should be.
fn check_file_system(path: &Path) -> Result<(), DirectoryError> {
    let absolute = std::path::absolute(path).map_err(|error| not_writable(path, &error))?;
    let existing = absolute.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"));
    match file_system::refused_at(existing) {
        Ok(None) => Ok(()),
        Ok(Some(name)) => Err(DirectoryError::FileSystem { path: existing.to_owned(), name }),
        Err(error) => Err(not_writable(path, &error)),
    }
}

/// Permissions, read-only mounts and full disks have one thing in common.
fn probe(path: &Path) -> io::Result<()> {
    let file = path.join(temporary_name("probe"));
    let written = create_new(&file).and_then(|mut handle| handle.write_all(b"x"));
    written.and(fs::remove_file(&file))
}

fn check_version(path: &Path) -> Result<(), DirectoryError> {
    let file = path.join(VERSION);
    if !file.exists() {
        check_empty(path)?;
        put_whole(&file, VERSION_TEXT).map_err(|error| not_writable(path, &error))?;
    }
    read_version(path)
}

fn read_version(path: &Path) -> Result<(), DirectoryError> {
    let found = fs::read(path.join(VERSION)).map_err(|error| not_writable(path, &error))?;
    if found == VERSION_TEXT.as_bytes() {
        return Ok(());
    }
    let shown = String::from_utf8_lossy(&found[..found.len().min(100)]).trim().to_owned();
    Err(DirectoryError::Version { path: path.to_owned(), found: shown, known: VERSION_TEXT.trim_ascii_end() })
}

/// Files of a founding that is under way, or was cut off, do not count.
fn check_empty(path: &Path) -> Result<(), DirectoryError> {
    let entries = fs::read_dir(path).map_err(|error| not_writable(path, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| not_writable(path, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(TEMPORARY) && ![VERSION, SECRET, NODES, KEEPER].contains(&&*name) {
            return Err(DirectoryError::NotOurs { path: path.to_owned(), found: name });
        }
    }
    Ok(())
}

/// Puts a file there, durably and as a whole; whether this call did, or another process was first.
fn put_whole(path: &Path, text: &str) -> io::Result<bool> {
    let folder = path.parent().expect("a file of a directory has a parent");
    let temporary = folder.join(temporary_name("founding"));
    let written = create_new(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let linked = written.and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error),
    }
    removed?;
    File::open(folder)?.sync_all()?;
    Ok(true)
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// A name that no other process has.
pub(crate) fn temporary_name(what: &str) -> String {
    format!("{TEMPORARY}{what}-{:016x}", u64::from_be_bytes(random::bytes()))
}

fn not_writable(path: &Path, error: &io::Error) -> DirectoryError {
    DirectoryError::NotWritable { path: path.to_owned(), reason: error.to_string() }
}

/// The folder of the nodes' lock files.
pub(crate) const NODES: &str = "nodes";
/// The keeper's lock file.
pub(crate) const KEEPER: &str = "keeper.lock";
/// How names begin that stay only for a moment.
pub(crate) const TEMPORARY: &str = ".epicserver-";
const SECRET: &str = "cluster.secret";
const VERSION: &str = "version";
const VERSION_TEXT: &str = "epicserver data directory 1\n";
