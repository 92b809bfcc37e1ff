//! The lock file of an incarnation: `nodes/<id>.<incarnation>.lock`.
//!
//! * *Alive.* The file is locked before it has its name, and stays locked until the process ends or drops it. So whoever finds
//!   it and can lock it has the proof that this incarnation is gone, and nobody ever locks it again. Readers lock it shared, so that
//!   two of them do not take each other for the owner.
//! * *Kill.* The file says which process it is. First a handle to the process that has the number now (a pidfd) is taken, then it
//!   is checked that this process started when the file says, on this boot, and that the file is still locked; then the
//!   signal goes to the handle. Between any two of these steps the process may end and its number be given
//!   out again: the handle does not follow the number.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use epicserver_storage::NodeId;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::directory::temporary_name;
use crate::process::ProcessIdentity;

/// This process' claim that an incarnation lives in it; ends when it is dropped. The file stays, as the proof.
#[derive(Debug)]
pub(crate) struct NodeFile {
    _locked: File,
}

impl NodeFile {
    /// Makes the lock file of an incarnation that was never registered before.
    pub(crate) fn register(folder: &Path, node: NodeId, own: &ProcessIdentity) -> io::Result<Self> {
        let mut result = Err(io::ErrorKind::NotFound.into());
        for _ in 0..ATTEMPTS_MAX {
            result = Self::try_register(folder, node, own);
            // Somebody who cleans may take away what is not locked yet.
            match &result {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock) => {
                }
                _ => break,
            }
        }
        result
    }

    fn try_register(folder: &Path, node: NodeId, own: &ProcessIdentity) -> io::Result<Self> {
        let temporary = folder.join(temporary_name("node"));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let named = flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .and_then(|()| file.write_all(own.to_string().as_bytes()))
            .and_then(|()| fs::hard_link(&temporary, path(folder, node)));
        let removed = fs::remove_file(&temporary);
        named.and(removed)?;
        Ok(Self { _locked: file })
    }
}

/// Whether the incarnation's file is there and nobody holds its lock.
pub(crate) fn is_proven_dead(folder: &Path, node: NodeId) -> bool {
    File::open(path(folder, node)).is_ok_and(|file| state(&file) == LockState::Free)
}

/// Ends the process of an incarnation; whether the signal was sent.
pub(crate) fn kill(folder: &Path, node: NodeId, own: &ProcessIdentity) -> bool {
    let Some((file, process)) = read(folder, node) else { return false };
    if !process.shares_numbers_with(own) || process.pid == own.pid {
        return false;
    }
    let Some(handle) = process.number().and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return false;
    };
    let is_this_process = process.has_its_number() && state(&file) == LockState::Held;
    is_this_process && pidfd_send_signal(&handle, Signal::KILL).is_ok()
}

/// Removes the files of the dead, and gives back whose they were; at most so many.
pub(crate) fn clean(folder: &Path, limit: usize) -> io::Result<Vec<NodeId>> {
    let mut gone = Vec::new();
    for entry in fs::read_dir(folder)? {
        if gone.len() == limit {
            break;
        }
        let entry = entry?;
        let path = entry.path();
        // One that cannot be opened or removed is left; it harms nobody.
        let is_dead = entry.file_type().is_ok_and(|kind| kind.is_file())
            && File::open(&path).is_ok_and(|file| state(&file) == LockState::Free);
        if is_dead && fs::remove_file(&path).is_ok() {
            gone.extend(node_of(&path));
        }
    }
    Ok(gone)
}

fn read(folder: &Path, node: NodeId) -> Option<(File, ProcessIdentity)> {
    let file = File::open(path(folder, node)).ok()?;
    let mut text = String::new();
    (&file).take(TEXT_LENGTH_MAX).read_to_string(&mut text).ok()?;
    Some((file, text.parse().ok()?))
}

#[derive(PartialEq, Eq)]
enum LockState {
    Free,
    Held,
    /// Whoever does not know claims nothing.
    Unknown,
}

/// Takes the lock shared if it can; it is given back with the file.
fn state(file: &File) -> LockState {
    match flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => LockState::Free,
        Err(Errno::WOULDBLOCK) => LockState::Held,
        Err(_) => LockState::Unknown,
    }
}

fn path(folder: &Path, node: NodeId) -> PathBuf {
    folder.join(format!("{node}.lock"))
}

/// The node whose file has this path, and no other spelling of it.
fn node_of(path: &Path) -> Option<NodeId> {
    let (id, incarnation) = path.file_name()?.to_str()?.strip_suffix(".lock")?.split_once('.')?;
    let node = NodeId { id: u64::from_str_radix(id, 16).ok()?, incarnation: incarnation.parse().ok()? };
    (self::path(path.parent()?, node) == path).then_some(node)
}

/// How often somebody who cleans may be in the way.
const ATTEMPTS_MAX: usize = 8;
const TEXT_LENGTH_MAX: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_name_nodes() {
        let folder = Path::new("nodes");
        for node in [NodeId { id: 0, incarnation: 1 }, NodeId { id: u64::MAX, incarnation: u32::MAX }] {
            assert_eq!(node_of(&path(folder, node)), Some(node));
        }
        for strange in
            ["x.lock", "+000000000000001.1.lock", "0000000000000001.+1.lock", "1.1.lock", "1.1", ""]
        {
            assert_eq!(node_of(&folder.join(strange)), None, "{strange}");
        }
    }
}
