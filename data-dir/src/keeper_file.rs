//! The keeper's lock file: who keeps the data, where, and that it runs.
//!
//! The lock is on the file itself, so the file is never replaced; it is written in place. It holds two records, and the one
//! that is *not* the newest is written over: the newest is always whole, for a reader in the middle of a write as well
//! as after a crash.
//!
//! ```text
//! each 512 bytes:  0 magic "EPKR" | 4 crc32 of all that follows, to the record's end | 8 sequence u64
//!                 16 node id u64 | 24 renewals u64 | 32 incarnation u32 | 36 length of the address u16 | 38 address
//! ```
//! All integers little-endian. The sequence counts the writes of all keepers.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use epicserver_storage::{KeeperRecord, MEMBER_NAME_LENGTH_MAX, NodeId};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Opens the file, and takes its lock if nobody has it. The lock is held as long as the file is open.
pub(crate) fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The newest record, with its sequence; `None` if there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<(u64, KeeperRecord)>> {
    match File::open(path) {
        Ok(file) => newest(&file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The newest record of an open file.
pub(crate) fn newest(file: &File) -> io::Result<Option<(u64, KeeperRecord)>> {
    let mut newest = None;
    for slot in 0..SLOTS {
        let mut bytes = [0; SLOT_LENGTH];
        let length = read_slot(file, slot, &mut bytes)?;
        let found = decode(&bytes[..length]);
        if found.as_ref().map(|(sequence, _)| *sequence) > newest.as_ref().map(|(sequence, _)| *sequence) {
            newest = found;
        }
    }
    Ok(newest)
}

/// Writes the record over the older one. Only for who has the lock.
pub(crate) fn write(file: &File, sequence: u64, record: &KeeperRecord) -> io::Result<()> {
    file.write_all_at(&encode(sequence, record), sequence % SLOTS * SLOT_LENGTH as u64)
}

fn read_slot(file: &File, slot: u64, bytes: &mut [u8; SLOT_LENGTH]) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], slot * SLOT_LENGTH as u64 + length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn encode(sequence: u64, record: &KeeperRecord) -> Vec<u8> {
    let KeeperRecord { node, address, renewals } = record;
    let length = u16::try_from(address.len()).expect("the address was checked");
    let mut out = Vec::with_capacity(SLOT_LENGTH);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&node.id.to_le_bytes());
    out.extend_from_slice(&renewals.to_le_bytes());
    out.extend_from_slice(&node.incarnation.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(address.as_bytes());
    let checksum = crc32fast::hash(&out[8..]);
    out[4..8].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// `None` for whatever is not a whole record.
fn decode(bytes: &[u8]) -> Option<(u64, KeeperRecord)> {
    let mut rest = bytes;
    let magic: [u8; 4] = take(&mut rest)?;
    let checksum = u32::from_le_bytes(take(&mut rest)?);
    let checked = rest;
    let sequence = u64::from_le_bytes(take(&mut rest)?);
    let id = u64::from_le_bytes(take(&mut rest)?);
    let renewals = u64::from_le_bytes(take(&mut rest)?);
    let incarnation = u32::from_le_bytes(take(&mut rest)?);
    let length = usize::from(u16::from_le_bytes(take(&mut rest)?));
    let address = rest.get(..length).filter(|_| length <= MEMBER_NAME_LENGTH_MAX)?;
    let checked = &checked[..checked.len() - rest.len() + length];
    if magic != MAGIC || crc32fast::hash(checked) != checksum {
        return None;
    }
    let address = str::from_utf8(address).ok()?.to_owned();
    Some((sequence, KeeperRecord { node: NodeId { id, incarnation }, address, renewals }))
}

fn take<const LENGTH: usize>(rest: &mut &[u8]) -> Option<[u8; LENGTH]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*taken)
}

const MAGIC: [u8; 4] = *b"EPKR";
const SLOTS: u64 = 2;
const SLOT_LENGTH: usize = 512;
const HEAD_LENGTH: usize = 38;
const _: () = assert!(HEAD_LENGTH + MEMBER_NAME_LENGTH_MAX <= SLOT_LENGTH);

#[cfg(test)]
mod tests {
    use super::*;

    fn record(renewals: u64) -> KeeperRecord {
        // Addresses of several letters and lengths, so that an old one shines through where a check is missing.
        let letter = char::from(b'a' + (renewals % 26) as u8).to_string();
        let address = letter.repeat(renewals as usize * 37 % (MEMBER_NAME_LENGTH_MAX + 1));
        KeeperRecord { node: NodeId { id: u64::MAX, incarnation: 3 }, address, renewals }
    }

    #[test]
    fn the_newest_record_is_read_whatever_became_of_the_older() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.lock");
        assert_eq!(read(&path).unwrap(), None);
        let file = try_lock(&path).unwrap().unwrap();
        assert_eq!(read(&path).unwrap(), None);
        for sequence in 1..=100 {
            write(&file, sequence, &record(sequence)).unwrap();
            assert_eq!(read(&path).unwrap(), Some((sequence, record(sequence))));
        }
    }

    #[test]
    fn half_a_write_at_any_place_leaves_the_record_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.lock");
        let file = try_lock(&path).unwrap().unwrap();
        for renewals in [1, 2, 5, 6, 7] {
            write(&file, 8, &record(renewals)).unwrap();
            write(&file, 9, &record(renewals + 1)).unwrap();
            let next = encode(10, &record(renewals + 2));
            for length in 0..next.len() {
                file.write_all_at(&next[..length], 0).unwrap();
                assert_eq!(newest(&file).unwrap(), Some((9, record(renewals + 1))), "{length} bytes");
            }
            file.write_all_at(&next, 0).unwrap();
            assert_eq!(newest(&file).unwrap(), Some((10, record(renewals + 2))));
        }
    }

    #[test]
    fn fuzz_keeper_file() {
        let mut random = fastrand::Rng::with_seed(0x4EE9);
        let good = encode(7, &record(5));
        assert_eq!(decode(&good), Some((7, record(5))));
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            let (place, bit) = (random.usize(0..bytes.len()), random.u8(0..8));
            bytes[place] ^= 1 << bit;
            assert_eq!(decode(&bytes), None, "byte {place}, bit {bit}");
            bytes.truncate(random.usize(0..bytes.len()));
            assert_eq!(decode(&bytes), None);
            let mut strange = vec![0; random.usize(0..600)];
            random.fill(&mut strange);
            assert_eq!(decode(&strange), None);
        }
    }
}
