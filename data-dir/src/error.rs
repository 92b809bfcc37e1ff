//! Why a directory cannot be used, in words for the user.

use std::path::PathBuf;

use crate::secret::SecretError;

/// The directory cannot be used. Nothing of a cluster in it changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be made, or nothing can be put there.
    #[error(
        "the data directory {} cannot be written ({reason}); give this user the right to, or name another one",
        path.display()
    )]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Locks and syncs cannot be relied on there.
    #[error(
        "the data directory {} is on {name}, where a lock does not say whether its process lives; \
         name a directory on a local disk",
        path.display()
    )]
    FileSystem {
        /// The directory, or what is above it.
        path: PathBuf,
        /// Which file system.
        name: &'static str,
    },
    /// Somebody else's files are there.
    #[error(
        "{} is neither empty nor a data directory (`{found}` is there); name an empty one, or one that does not exist",
        path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// One of the files in it.
        found: String,
    },
    /// There is none at this place.
    #[error(
        "{} is no data directory: it has no file `version`; name the folder that a node was given as its data directory, or a backup",
        path.display()
    )]
    NoDirectory {
        /// The place.
        path: PathBuf,
    },
    /// Another version of the program made it.
    #[error(
        "the data directory {} says `{found}`, and this program reads `{known}`; start the program that made it",
        path.display()
    )]
    Version {
        /// The directory.
        path: PathBuf,
        /// What its version file says.
        found: String,
        /// What this program would write.
        known: &'static str,
    },
    /// The data is of one cluster, and the given secret of another.
    #[error(
        "the data directory {} belongs to cluster {directory:032x}, and the given secret to cluster {given:032x}; \
         name the directory or the secret of the other one",
        path.display()
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        directory: u128,
        /// The other one.
        given: u128,
    },
    /// One cluster, two secrets.
    #[error(
        "the given secret is not that of the data directory {}, though both are of one cluster; \
         copy its `cluster.secret` once more",
        path.display()
    )]
    OtherSecret {
        /// The directory.
        path: PathBuf,
    },
    /// The directory's own secret is gone, and a new one would be another cluster.
    #[error(
        "the data directory {} has lost its `cluster.secret`; copy it back from another machine or a backup",
        path.display()
    )]
    SecretLost {
        /// The directory.
        path: PathBuf,
    },
    /// A file with id and secret is not what it should be.
    #[error("{}: {error}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: SecretError,
    },
}
