//! The store of a cluster, as the storage thread of any of its nodes uses it.
//!
//! While this very node keeps, it is the keeper's store itself. Else each verb is a request to the keeper, sent again when
//! a link came back, the keeper changed, or the answer takes long: every verb may be repeated by contract.
//!
//! *What is known when no answer comes.* A request that was sent and not answered may have been done, now or later. So an
//! error that says "nothing is written" is believed only if it answers the newest request: the keeper drops older ones
//! from then on. While an earlier try is unanswered, [`StoreError::Failed`] becomes [`StoreError::Unknown`].
//!
//! Not here: how a request gets to the keeper, clocks, threads: see [`KeeperLine`].

use epicserver_storage::{
    Batch, BatchName, Committed, Fence, NodeId, Oversize, Record, RecordKey, RecordKeyRef, Store, StoreError,
    StoreId, StoreLimits,
};

use super::shared_store::SharedStore;
use super::store_desk::LIMITS_USUAL;
use crate::wire::control::parts::SaveStream;
use crate::wire::control::store::{FENCES_MAX, LOAD_KEYS_MAX, StoreAnswer, StoreRequest};

/// How requests get to the keeper and answers back. It has one user, which waits in it.
pub trait KeeperLine: Send {
    /// Nanoseconds on a clock that never goes back.
    fn now(&self) -> u64;

    /// Who keeps, as far as this node knows. From then on [`KeeperLine::wait`] tells of changes.
    fn keeping(&mut self) -> Keeping;

    /// Sends a request to the keeper, in the place of one that has not left yet. It may get lost.
    fn send(&mut self, number: u32, request: StoreRequest);

    /// Waits until something happens, or until this time.
    fn wait(&mut self, until: u64) -> LineEvent;
}

/// Who keeps the data.
#[derive(Clone, Debug, Default)]
pub enum Keeping {
    /// Nobody that this node knows of.
    #[default]
    Nobody,
    /// This very node.
    Here(SharedStore),
    /// Another node, over a link.
    There {
        /// The store that it holds.
        store: StoreId,
        /// What that store takes at most.
        limits: StoreLimits,
    },
}

/// What happened on a line.
#[derive(Debug)]
pub enum LineEvent {
    /// The answer to the request of this number.
    Answer(u32, StoreAnswer),
    /// Another keeper, or another link to it: what was sent may be lost.
    Changed,
    /// It is as late as was asked for.
    Late,
    /// The node stops: no answer comes any more.
    Closed,
}

/// A store at the keeper. Each verb ends within [`PATIENCE_NS`].
#[derive(Debug)]
pub struct ClusterStore<L> {
    line: L,
    patience_ns: u64,
    number: u32,
    id: StoreId,
    limits: StoreLimits,
    /// For the keys and envelopes of a batch on its way.
    stream: SaveStream,
}

impl<L: KeeperLine> ClusterStore<L> {
    /// A store at the other end of this line. `store` is its id as far as it is known.
    pub fn new(line: L, store: StoreId) -> Self {
        Self {
            line,
            patience_ns: PATIENCE_NS,
            number: 0,
            id: store,
            limits: LIMITS_USUAL,
            stream: SaveStream::default(),
        }
    }

    /// As long as that, a verb waits for its answer.
    #[must_use]
    pub fn with_patience(mut self, patience_ns: u64) -> Self {
        self.patience_ns = patience_ns;
        self
    }

    /// Starts a verb: where the store is now.
    fn begin(&mut self) -> Verb {
        match self.line.keeping() {
            Keeping::Nobody => {}
            Keeping::Here(store) => (self.id, self.limits) = (store.store_id(), store.limits()),
            Keeping::There { store, limits } => (self.id, self.limits) = (store, limits),
        }
        Verb { store: self.id, deadline: self.line.now().saturating_add(self.patience_ns), unanswered: 0 }
    }

    /// Asks until there is an answer. `Reply::Here`: this node keeps, so the verb is to be done on the spot.
    fn ask(&mut self, verb: &mut Verb, request: &StoreRequest) -> Result<Reply, StoreError> {
        let mut resend_ns = RESEND_NS;
        loop {
            let now = self.line.now();
            let mut until = verb.deadline.min(now.saturating_add(resend_ns));
            match self.line.keeping() {
                Keeping::Nobody => until = verb.deadline,
                Keeping::Here(store) if store.store_id() == verb.store => return Ok(Reply::Here(store)),
                Keeping::There { store, .. } if store == verb.store => {
                    self.number = self.number.wrapping_add(1);
                    self.line.send(self.number, request.clone());
                    verb.unanswered += u32::from(request.may_write());
                }
                Keeping::Here(_) | Keeping::There { .. } => return Err(other_store()),
            }
            if let Some(answer) = self.await_answer(until).map_err(|error| verb.judge(error))? {
                verb.unanswered = verb.unanswered.saturating_sub(u32::from(request.may_write()));
                return match answer {
                    StoreAnswer::Failed(error) => Err(verb.judge(error)),
                    answer => Ok(Reply::Answer(answer)),
                };
            }
            if self.line.now() >= verb.deadline {
                return Err(verb.judge(failed("the keeper does not answer")));
            }
            resend_ns = (resend_ns * 2).min(RESEND_NS_MAX);
        }
    }

    /// The answer to the newest request; `None` if it is time to ask again.
    fn await_answer(&mut self, until: u64) -> Result<Option<StoreAnswer>, StoreError> {
        loop {
            match self.line.wait(until) {
                LineEvent::Answer(number, answer) if number == self.number => return Ok(Some(answer)),
                LineEvent::Answer(..) => {}
                LineEvent::Changed | LineEvent::Late => return Ok(None),
                LineEvent::Closed => return Err(failed("the node stops")),
            }
        }
    }

    /// Reads the first of these keys, and as many of the next as come with it.
    fn load_some(
        &mut self,
        verb: &mut Verb,
        keys: &[RecordKeyRef<'_>],
    ) -> Result<Vec<Option<Record>>, StoreError> {
        let keys = &keys[..keys.len().min(LOAD_KEYS_MAX)];
        let mut pieces = Pieces::default();
        loop {
            let offset = pieces.bytes.len() as u32;
            // While a record comes in pieces nothing else is asked for.
            let asked = if offset > 0 { &keys[..1] } else { keys };
            let keys: Vec<RecordKey> = asked.iter().map(RecordKeyRef::to_owned).collect();
            match self.ask(verb, &StoreRequest::Load { keys, offset })? {
                Reply::Here(mut store) => return store.load(asked),
                Reply::Answer(StoreAnswer::Loaded(found)) if is_some_of(&found, asked) => return Ok(found),
                Reply::Answer(StoreAnswer::LoadedPiece { total, stamp, bytes }) => {
                    if let Some(record) = pieces.take(total as usize, stamp, &bytes, self.limits)? {
                        return Ok(vec![Some(record)]);
                    }
                }
                Reply::Answer(answer) => return Err(verb.judge(strange(&answer))),
            }
        }
    }

    /// Sends the parts of the batch in `stream`; starts over when the keeper says so.
    fn commit_parts(&mut self, verb: &mut Verb, batch: &Batch) -> Result<Committed, StoreError> {
        let mut number = 0;
        loop {
            let part = self.stream.part(number);
            let request = StoreRequest::Commit { name: batch.name(), part };
            match self.ask(verb, &request)? {
                // A try that the keeper of before did not answer is seen by its store.
                Reply::Here(mut store) => return store.commit(batch).map_err(|error| verb.judge(error)),
                Reply::Answer(StoreAnswer::Committed(committed)) => return Ok(committed),
                Reply::Answer(StoreAnswer::PartTaken(taken)) if taken == number => number += 1,
                Reply::Answer(StoreAnswer::PartsMissing) => {
                    number = 0;
                    self.pause(verb)?;
                }
                Reply::Answer(answer) => return Err(verb.judge(strange(&answer))),
            }
        }
    }

    /// A moment, so that a keeper without room is not asked in a loop.
    fn pause(&mut self, verb: &Verb) -> Result<(), StoreError> {
        let until = self.line.now().saturating_add(PAUSE_NS);
        if until >= verb.deadline {
            return Err(verb.judge(failed("the keeper does not take the batch")));
        }
        // An answer that comes now is one to an older try.
        while let LineEvent::Answer(..) = self.line.wait(until) {}
        Ok(())
    }
}

impl<L: KeeperLine> Store for ClusterStore<L> {
    /// The id of the store that the last verb began with.
    fn store_id(&self) -> StoreId {
        self.id
    }

    fn limits(&self) -> StoreLimits {
        self.limits
    }

    fn load(&mut self, keys: &[RecordKeyRef<'_>]) -> Result<Vec<Option<Record>>, StoreError> {
        let mut verb = self.begin();
        self.limits.check_load(keys)?;
        let mut found = Vec::with_capacity(keys.len());
        while found.len() < keys.len() {
            let some = self.load_some(&mut verb, &keys[found.len()..])?;
            found.extend(some);
        }
        Ok(found)
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        let mut verb = self.begin();
        self.limits.check_batch(batch)?;
        if let Keeping::Here(mut store) = self.line.keeping() {
            return store.commit(batch);
        }
        self.stream.clear();
        for save in batch.saves() {
            self.stream.push(save.key, save.envelope);
        }
        let committed = self.commit_parts(&mut verb, batch);
        self.stream.clear();
        committed
    }

    fn open_fences(&mut self, fences: &[Fence]) -> Result<(), StoreError> {
        let mut verb = self.begin();
        if fences.len() > FENCES_MAX {
            let (what, given) = (Oversize::BatchSaves, fences.len());
            return Err(StoreError::TooLarge { what, given, limit: FENCES_MAX });
        }
        match self.ask(&mut verb, &StoreRequest::OpenFences(fences.to_vec()))? {
            Reply::Here(mut store) => store.open_fences(fences).map_err(|error| verb.judge(error)),
            Reply::Answer(StoreAnswer::FencesOpened) => Ok(()),
            Reply::Answer(answer) => Err(verb.judge(strange(&answer))),
        }
    }

    fn fences(&mut self) -> Result<Vec<Fence>, StoreError> {
        let mut verb = self.begin();
        match self.ask(&mut verb, &StoreRequest::Fences)? {
            Reply::Here(mut store) => store.fences(),
            Reply::Answer(StoreAnswer::Fences(fences)) => Ok(fences),
            Reply::Answer(answer) => Err(strange(&answer)),
        }
    }

    fn last_committed(&mut self, node: NodeId) -> Result<Option<BatchName>, StoreError> {
        let mut verb = self.begin();
        match self.ask(&mut verb, &StoreRequest::LastCommitted(node))? {
            Reply::Here(mut store) => store.last_committed(node),
            Reply::Answer(StoreAnswer::LastCommitted(name)) => Ok(name),
            Reply::Answer(answer) => Err(strange(&answer)),
        }
    }
}

impl StoreRequest {
    /// Whether it may change the store.
    fn may_write(&self) -> bool {
        match self {
            Self::Commit { part, .. } => part.is_last,
            Self::OpenFences(_) => true,
            Self::Load { .. } | Self::Fences | Self::LastCommitted(_) => false,
        }
    }
}

enum Reply {
    Here(SharedStore),
    Answer(StoreAnswer),
}

/// A verb under way.
struct Verb {
    /// The store that it began with.
    store: StoreId,
    deadline: u64,
    /// Requests that may have changed the store, and whose answer did not come.
    unanswered: u32,
}

impl Verb {
    /// What an error means after the tries before it. Only one that wrote nothing and says nothing of them changes: for all
    /// others the store has looked at what those did.
    fn judge(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Failed { reason } if self.unanswered > 0 => StoreError::Unknown { reason },
            error => error,
        }
    }
}

/// A long record, as far as it has come.
#[derive(Default)]
struct Pieces {
    stamp: u64,
    bytes: Vec<u8>,
}

impl Pieces {
    /// Takes the next piece; gives the record with the last one. Of another record than before, it begins anew.
    fn take(
        &mut self,
        total: usize,
        stamp: u64,
        bytes: &[u8],
        limits: StoreLimits,
    ) -> Result<Option<Record>, StoreError> {
        if total > limits.envelope_length_max {
            return Err(failed("a record is longer than the store's limit"));
        }
        if !self.bytes.is_empty() && self.stamp != stamp {
            self.bytes.clear();
            return Ok(None);
        }
        if bytes.is_empty() || self.bytes.len() + bytes.len() > total {
            return Err(failed("a record came in pieces that do not fit"));
        }
        self.stamp = stamp;
        self.bytes.extend_from_slice(bytes);
        Ok((self.bytes.len() == total).then(|| Record::new(&self.bytes)))
    }
}

/// Whether these can be the answers to the first of the keys.
fn is_some_of(found: &[Option<Record>], keys: &[RecordKeyRef<'_>]) -> bool {
    (1..=keys.len()).contains(&found.len())
}

/// The keeper is of the same code, or so the handshake said.
fn strange(answer: &StoreAnswer) -> StoreError {
    let answer = format!("{answer:?}");
    let start: String = answer.chars().take(80).collect();
    failed(&format!("the keeper gave an answer to something else: {start}"))
}

/// The one that the verb began with lived in a process that is gone, and went with it.
fn other_store() -> StoreError {
    failed("the keeper has another store than before")
}

fn failed(reason: &str) -> StoreError {
    StoreError::Failed { reason: reason.to_owned() }
}

/// How long a verb waits for its answer: longer than it takes until another keeper serves.
pub const PATIENCE_NS: u64 = 10_000_000_000;
/// After this time without an answer it is asked for again, then after twice as long, and so on.
const RESEND_NS: u64 = 500_000_000;
const RESEND_NS_MAX: u64 = 4_000_000_000;
const PAUSE_NS: u64 = 20_000_000;

#[cfg(test)]
mod tests;
