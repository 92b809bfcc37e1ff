//! The verbs of [`Store`](epicserver_storage::Store) between a node and the keeper, with their answers and errors.
//!
//! What is longer than [`PART_LEN_MAX`] goes in parts: a batch as a stream of saves (`parts.rs`), a single long record from
//! an offset that the reader names.

use epicserver_storage::{
    BatchName, Committed, Fence, NodeId, Oversize, PARTITIONS, Record, RecordKey, StoreError,
};

use super::bytes::{Reader, Writer};
use super::parts::{Part, put_part, read_part};
use super::{ControlError, PART_LEN_MAX, TEXT_LEN_MAX};

/// What a node asks of the store that the keeper holds. Each may be asked again at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreRequest {
    /// Read these records, at most [`LOAD_KEYS_MAX`]; of the first one only what comes behind `offset` bytes.
    Load {
        /// Which records.
        keys: Vec<RecordKey>,
        /// How much of the first one is known already, in bytes.
        offset: u32,
    },
    /// Take a part of a batch; with the last one, commit it.
    Commit {
        /// Which batch.
        name: BatchName,
        /// A part of its saves.
        part: Part,
    },
    /// Open these fences, all or none; at most [`FENCES_MAX`].
    OpenFences(Vec<Fence>),
    /// Tell every fence.
    Fences,
    /// Tell the last committed batch of this node id.
    LastCommitted(NodeId),
}

/// What the keeper answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAnswer {
    /// The answers for the first of the keys, as many as fit one message; at least one if there was a key.
    Loaded(Vec<Option<Record>>),
    /// A piece of the first key's record, which is longer than a message.
    LoadedPiece {
        /// Length of the whole record, in bytes.
        total: u32,
        /// A hash of the whole record: pieces of different hashes are not of one record.
        stamp: u64,
        /// What comes at the offset that was asked for.
        bytes: Vec<u8>,
    },
    /// The part with this number is kept until the last one comes.
    PartTaken(u32),
    /// The parts before this one are not there (any more): start over.
    PartsMissing,
    /// The batch is committed.
    Committed(Committed),
    /// The fences are open.
    FencesOpened,
    /// All fences.
    Fences(Vec<Fence>),
    /// The last committed batch.
    LastCommitted(Option<BatchName>),
    /// The store's own error.
    Failed(StoreError),
}

pub(super) fn put_request(writer: &mut Writer, request: &StoreRequest) {
    match request {
        StoreRequest::Load { keys, offset } => {
            writer.u8(0);
            writer.list(keys, |writer, key| writer.key(key.as_ref()));
            writer.u32(*offset);
        }
        StoreRequest::Commit { name, part } => {
            writer.u8(1);
            writer.batch_name(name);
            put_part(writer, part);
        }
        StoreRequest::OpenFences(fences) => {
            writer.u8(2);
            writer.list(fences, Writer::fence);
        }
        StoreRequest::Fences => writer.u8(3),
        StoreRequest::LastCommitted(node) => {
            writer.u8(4);
            writer.node(*node);
        }
    }
}

pub(super) fn read_request(reader: &mut Reader<'_>) -> Result<StoreRequest, ControlError> {
    Ok(match reader.u8()? {
        0 => StoreRequest::Load {
            keys: reader.list(LOAD_KEYS_MAX, KEY_LEN_MIN, Reader::key)?,
            offset: reader.u32()?,
        },
        1 => StoreRequest::Commit { name: reader.batch_name()?, part: read_part(reader)? },
        2 => StoreRequest::OpenFences(reader.list(FENCES_MAX, FENCE_LEN, Reader::fence)?),
        3 => StoreRequest::Fences,
        4 => StoreRequest::LastCommitted(reader.node()?),
        other => return Err(ControlError::Kind(other)),
    })
}

pub(super) fn put_answer(writer: &mut Writer, answer: &StoreAnswer) {
    match answer {
        StoreAnswer::Loaded(records) => {
            writer.u8(0);
            writer.list(records, |writer, record| {
                writer.option(record.as_ref(), |writer, record| writer.bytes(record.bytes()));
            });
        }
        StoreAnswer::LoadedPiece { total, stamp, bytes } => {
            writer.u8(1);
            writer.u32(*total);
            writer.u64(*stamp);
            writer.bytes(bytes);
        }
        StoreAnswer::PartTaken(number) => {
            writer.u8(2);
            writer.u32(*number);
        }
        StoreAnswer::PartsMissing => writer.u8(3),
        StoreAnswer::Committed(committed) => {
            writer.u8(4);
            writer.bool(*committed == Committed::Already);
        }
        StoreAnswer::FencesOpened => writer.u8(5),
        StoreAnswer::Fences(fences) => {
            writer.u8(6);
            writer.list(fences, Writer::fence);
        }
        StoreAnswer::LastCommitted(name) => {
            writer.u8(7);
            writer.option(name.as_ref(), Writer::batch_name);
        }
        StoreAnswer::Failed(error) => {
            writer.u8(8);
            put_error(writer, error);
        }
    }
}

pub(super) fn read_answer(reader: &mut Reader<'_>) -> Result<StoreAnswer, ControlError> {
    Ok(match reader.u8()? {
        0 => StoreAnswer::Loaded(reader.list(LOAD_KEYS_MAX, 1, |reader| {
            reader.option(|reader| reader.bytes(PART_LEN_MAX).map(Record::new))
        })?),
        1 => StoreAnswer::LoadedPiece {
            total: reader.u32()?,
            stamp: reader.u64()?,
            bytes: reader.bytes(PART_LEN_MAX)?.to_vec(),
        },
        2 => StoreAnswer::PartTaken(reader.u32()?),
        3 => StoreAnswer::PartsMissing,
        4 => StoreAnswer::Committed(if reader.bool()? { Committed::Already } else { Committed::Now }),
        5 => StoreAnswer::FencesOpened,
        6 => StoreAnswer::Fences(reader.list(usize::from(PARTITIONS), FENCE_LEN, Reader::fence)?),
        7 => StoreAnswer::LastCommitted(reader.option(Reader::batch_name)?),
        8 => StoreAnswer::Failed(read_error(reader)?),
        other => return Err(ControlError::Kind(other)),
    })
}

fn put_error(writer: &mut Writer, error: &StoreError) {
    match error {
        StoreError::Refused { given, stored } => {
            writer.u8(0);
            writer.fence(given);
            writer.option(stored.as_ref(), Writer::fence);
        }
        StoreError::VersionConflict { key, stored, given } => {
            writer.u8(1);
            writer.key(key.as_ref());
            writer.u64(*stored);
            writer.u64(*given);
        }
        StoreError::OutOfOrder { given, committed } => {
            writer.u8(2);
            writer.batch_name(given);
            writer.option(committed.as_ref(), Writer::batch_name);
        }
        StoreError::TooLarge { what, given, limit } => {
            writer.u8(3);
            let number = OVERSIZES.iter().position(|oversize| oversize == what);
            writer.u8(number.map_or(0, |number| number as u8));
            writer.size(*given);
            writer.size(*limit);
        }
        StoreError::Failed { reason } => put_reason(writer, 4, reason),
        StoreError::Unknown { reason } => put_reason(writer, 5, reason),
        StoreError::SyncFailed { reason } => put_reason(writer, 6, reason),
    }
}

fn put_reason(writer: &mut Writer, kind: u8, reason: &str) {
    writer.u8(kind);
    writer.text(reason, TEXT_LEN_MAX);
}

fn read_error(reader: &mut Reader<'_>) -> Result<StoreError, ControlError> {
    Ok(match reader.u8()? {
        0 => StoreError::Refused { given: reader.fence()?, stored: reader.option(Reader::fence)? },
        1 => StoreError::VersionConflict { key: reader.key()?, stored: reader.u64()?, given: reader.u64()? },
        2 => StoreError::OutOfOrder {
            given: reader.batch_name()?,
            committed: reader.option(Reader::batch_name)?,
        },
        3 => {
            let number = usize::from(reader.u8()?);
            let what = *OVERSIZES.get(number).ok_or(ControlError::Value("a limit"))?;
            StoreError::TooLarge { what, given: reader.size()?, limit: reader.size()? }
        }
        4 => StoreError::Failed { reason: reader.text(TEXT_LEN_MAX)? },
        5 => StoreError::Unknown { reason: reader.text(TEXT_LEN_MAX)? },
        6 => StoreError::SyncFailed { reason: reader.text(TEXT_LEN_MAX)? },
        other => return Err(ControlError::Kind(other)),
    })
}

/// Keys of one request, at most.
pub const LOAD_KEYS_MAX: usize = 256;
/// Fences of one request, at most: a few for each partition.
pub const FENCES_MAX: usize = 2 * PARTITIONS as usize;

const OVERSIZES: [Oversize; 4] =
    [Oversize::Envelope, Oversize::BatchSaves, Oversize::BatchLength, Oversize::LoadKeys];
const KEY_LEN_MIN: usize = 8 + 1 + 4;
const FENCE_LEN: usize = 2 + 8 + 12;
