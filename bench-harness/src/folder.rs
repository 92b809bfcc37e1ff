//! The folder of a run that writes to the disk.

use std::path::{Path, PathBuf};

use crate::suite::Failure;

/// A folder for this run that is removed at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn make(beside: &Path) -> Result<Self, Failure> {
        let path = beside.join(format!("epicserver-bench-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} is left: {error}", self.0.display());
        }
    }
}
