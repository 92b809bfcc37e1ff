//! The keeper's end of the store verbs: requests of nodes in, answers out.
//!
//! *Old repeats.* A node asks one thing at a time, each time under a higher number, and its requests come in the order of their
//! numbers. One that is not above the newest of its node is a repeat that came late, and is dropped: else a batch that
//! its node has given up might still be committed.

use std::collections::BTreeMap;
use std::hash::Hasher;

use epicserver_storage::{
    Batch, BatchError, BatchName, Committed, EnvelopeHeader, EnvelopeKind, NodeId, Record, RecordKey, Store,
    StoreError, StoreLimits,
};
use siphasher::sip::SipHasher13;

use super::report::SavedState;
use super::shared_store::SharedStore;
use crate::wire::control::parts::{Collected, Collector, Part, read_saves, stream_len_max};
use crate::wire::control::store::{StoreAnswer, StoreRequest};
use crate::wire::control::{ControlError, PART_LEN_MAX};

/// Answers the nodes of a cluster out of one store.
#[derive(Debug)]
pub struct StoreDesk {
    store: SharedStore,
    nodes: BTreeMap<NodeId, Asking>,
    partials_len_max: usize,
    saves: u64,
}

/// What is remembered of a node while its link lasts.
#[derive(Debug, Default)]
struct Asking {
    newest: Option<u32>,
    partial: Option<Collector<BatchName>>,
}

impl StoreDesk {
    /// A desk for this store.
    pub fn new(store: SharedStore) -> Self {
        Self { store, nodes: BTreeMap::new(), partials_len_max: PARTIALS_LEN_MAX, saves: 0 }
    }

    /// So many bytes of unfinished batches may be there next to one of any length.
    #[must_use]
    pub fn with_room(mut self, partials_len_max: usize) -> Self {
        self.partials_len_max = partials_len_max;
        self
    }

    /// The store.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Saves that it has written for nodes.
    pub fn saves(&self) -> u64 {
        self.saves
    }

    /// Answers a request; `None` if it is an old repeat.
    pub fn handle(&mut self, from: NodeId, number: u32, request: StoreRequest) -> Option<StoreAnswer> {
        let asking = self.nodes.entry(from).or_default();
        // The numbers go round; half the way is ahead.
        let is_old = |newest: u32| number.wrapping_sub(newest).cast_signed() <= 0;
        if asking.newest.is_some_and(is_old) {
            return None;
        }
        asking.newest = Some(number);
        Some(match request {
            StoreRequest::Load { keys, offset } => self.load(&keys, offset),
            StoreRequest::Commit { name, part } => self.commit(from, name, part),
            StoreRequest::OpenFences(fences) => {
                answer(self.store.open_fences(&fences).map(|()| StoreAnswer::FencesOpened))
            }
            StoreRequest::Fences => answer(self.store.fences().map(StoreAnswer::Fences)),
            StoreRequest::LastCommitted(node) => {
                answer(self.store.last_committed(node).map(StoreAnswer::LastCommitted))
            }
        })
    }

    /// What the store has of an object, without its state.
    pub fn saved(&mut self, key: &RecordKey) -> SavedState {
        let record = match self.store.load(&[key.as_ref()]) {
            Ok(mut records) => records.pop().flatten(),
            Err(error) => return SavedState::Unreadable(error.to_string()),
        };
        let Some(record) = record else { return SavedState::Nothing };
        match record.open(key.as_ref()) {
            Ok((EnvelopeHeader { kind: EnvelopeKind::Tombstone, version, saved_at_s, .. }, _)) => {
                SavedState::Forgotten { version, saved_at_s }
            }
            Ok((EnvelopeHeader { version, epoch, saved_at_s, .. }, state)) => {
                SavedState::State { version, bytes: state.len() as u64, epoch, saved_at_s }
            }
            Err(error) => SavedState::Unreadable(error.to_string()),
        }
    }

    /// The link of a node is gone, and with it everything that it had under way.
    pub fn handle_down(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    fn load(&mut self, keys: &[RecordKey], offset: u32) -> StoreAnswer {
        let mut found = Vec::new();
        let mut len = 0;
        for key in keys {
            // One by one, so that no more is in memory than goes into the answer.
            let record = match self.store.load(&[key.as_ref()]) {
                Ok(mut records) => records.pop().flatten(),
                Err(error) => return StoreAnswer::Failed(error),
            };
            let record_len = record.as_ref().map_or(0, |record| record.bytes().len());
            if let Some(record) = &record
                && found.is_empty()
                && (offset > 0 || record_len > PART_LEN_MAX)
            {
                return piece(record, offset);
            }
            len += record_len;
            if len > PART_LEN_MAX {
                break;
            }
            found.push(record);
        }
        StoreAnswer::Loaded(found)
    }

    fn commit(&mut self, from: NodeId, name: BatchName, part: Part) -> StoreAnswer {
        let len_max = stream_len_max(&self.store.limits());
        let partial_len = |asking: &Asking| asking.partial.as_ref().map_or(0, Collector::len);
        let of_others: usize =
            self.nodes.iter().filter(|(node, _)| **node != from).map(|(_, asking)| partial_len(asking)).sum();
        let Some(asking) = self.nodes.get_mut(&from) else { return StoreAnswer::PartsMissing };
        let together = of_others + partial_len(asking) + part.bytes.len();
        if !part.is_last && of_others > 0 && together > self.partials_len_max {
            // It starts over, and by then others have committed theirs.
            asking.partial = None;
            return StoreAnswer::PartsMissing;
        }
        let number = part.number;
        match Collector::take(&mut asking.partial, name, part, len_max) {
            Collected::Taken => StoreAnswer::PartTaken(number),
            Collected::Missing => StoreAnswer::PartsMissing,
            Collected::Whole(stream) => {
                let batch = match read_batch(name, &stream) {
                    Ok(batch) => batch,
                    Err(error) => return failed(error.to_string()),
                };
                drop(stream);
                let committed = self.store.commit(&batch);
                if committed == Ok(Committed::Now) {
                    self.saves += batch.len() as u64;
                }
                answer(committed.map(StoreAnswer::Committed))
            }
        }
    }
}

/// A batch out of its stream. Every envelope in it is checked.
fn read_batch(name: BatchName, stream: &[u8]) -> Result<Batch, SaveError> {
    let mut batch = Batch::new(name);
    read_saves(stream, |key, envelope| batch.push_envelope(key, envelope).map_err(SaveError::Batch))?;
    Ok(batch)
}

#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error(transparent)]
    Stream(#[from] ControlError),
    #[error(transparent)]
    Batch(BatchError),
}

fn piece(record: &Record, offset: u32) -> StoreAnswer {
    let bytes = record.bytes();
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    let start = (offset as usize).min(bytes.len());
    let end = (start + PART_LEN_MAX).min(bytes.len());
    let Ok(total) = u32::try_from(bytes.len()) else {
        return failed(format!("a record of {} bytes is too long to be sent", bytes.len()));
    };
    StoreAnswer::LoadedPiece { total, stamp: hasher.finish(), bytes: bytes[start..end].to_vec() }
}

fn failed(reason: String) -> StoreAnswer {
    StoreAnswer::Failed(StoreError::Failed { reason })
}

fn answer(result: Result<StoreAnswer, StoreError>) -> StoreAnswer {
    result.unwrap_or_else(StoreAnswer::Failed)
}

/// What a store behind a desk is taken to allow before its keeper said so.
pub const LIMITS_USUAL: StoreLimits =
    StoreLimits { envelope_length_max: 64 + (16 << 20), batch_saves_max: 1 << 20, batch_length_max: 1 << 30 };

/// Bytes of unfinished batches of all nodes together, beyond one that may always be there.
const PARTIALS_LEN_MAX: usize = 1 << 30;
