//! A second store, as plain as can be, with bugs to switch on.
//!
//! It passes the suite without a bug, and fails it with any one of them: that proves that each check bites.

use epicserver_storage::{
    Batch, BatchName, COUNT_MAX, Committed, EnvelopeKind, Fence, NodeId, Oversize, Record, RecordKey,
    RecordKeyRef, Save, Store, StoreError, StoreId, StoreLimits,
};

/// One mistake that an implementation could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    FenceNotChecked,
    LaterEpochAccepted,
    EarlierEpochAccepted,
    HolderNotChecked,
    OnlyFirstFenceChecked,
    FenceCheckedAfterVersions,
    HalfBatch,
    GapAccepted,
    SameVersionAccepted,
    RepeatedObjectCheckedAgainstTheStart,
    NameNotRecorded,
    NameOfRefusedBatchRecorded,
    RepeatWrittenAgain,
    RepeatNeedsFence,
    LateNameAccepted,
    NumberZeroAccepted,
    IncarnationIgnored,
    NameOfAnyNode,
    EmptyBatchSkipped,
    FenceFalls,
    FenceChangesHands,
    EpochZeroOpens,
    EpochBeyondTheLimitOpens,
    FencesOneByOne,
    FencesUnordered,
    SameFenceRefused,
    TombstoneRemovesRecord,
    TombstoneKeepsState,
    AbsentAnswersLeftOut,
    AnswersUnordered,
    KindIgnored,
    EntityIgnored,
    EnvelopeCut,
    LoadOneCommitBehind,
    LimitsIgnored,
}

impl Bug {
    pub(crate) const ALL: [Self; 35] = [
        Self::FenceNotChecked,
        Self::LaterEpochAccepted,
        Self::EarlierEpochAccepted,
        Self::HolderNotChecked,
        Self::OnlyFirstFenceChecked,
        Self::FenceCheckedAfterVersions,
        Self::HalfBatch,
        Self::GapAccepted,
        Self::SameVersionAccepted,
        Self::RepeatedObjectCheckedAgainstTheStart,
        Self::NameNotRecorded,
        Self::NameOfRefusedBatchRecorded,
        Self::RepeatWrittenAgain,
        Self::RepeatNeedsFence,
        Self::LateNameAccepted,
        Self::NumberZeroAccepted,
        Self::IncarnationIgnored,
        Self::NameOfAnyNode,
        Self::EmptyBatchSkipped,
        Self::FenceFalls,
        Self::FenceChangesHands,
        Self::EpochZeroOpens,
        Self::EpochBeyondTheLimitOpens,
        Self::FencesOneByOne,
        Self::FencesUnordered,
        Self::SameFenceRefused,
        Self::TombstoneRemovesRecord,
        Self::TombstoneKeepsState,
        Self::AbsentAnswersLeftOut,
        Self::AnswersUnordered,
        Self::KindIgnored,
        Self::EntityIgnored,
        Self::EnvelopeCut,
        Self::LoadOneCommitBehind,
        Self::LimitsIgnored,
    ];
}

pub(crate) struct BuggyStore {
    bug: Option<Bug>,
    limits: StoreLimits,
    records: Vec<Row>,
    records_before: Vec<Row>,
    fences: Vec<Fence>,
    committed: Vec<BatchName>,
}

#[derive(Clone)]
struct Row {
    key: RecordKey,
    version: u64,
    envelope: Vec<u8>,
}

impl BuggyStore {
    pub(crate) fn new(bug: Option<Bug>, limits: StoreLimits) -> Self {
        let (records, records_before, fences, committed) = Default::default();
        Self { bug, limits, records, records_before, fences, committed }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn same_key(&self, row: &RecordKey, asked: RecordKeyRef<'_>) -> bool {
        let entity = row.entity == asked.entity || self.has(Bug::EntityIgnored);
        let kind = row.kind == asked.kind || self.has(Bug::KindIgnored);
        entity && kind && *row.bytes == *asked.bytes
    }

    fn last(&self, node: NodeId) -> Option<BatchName> {
        let same = |name: &&BatchName| name.node.id == node.id || self.has(Bug::NameOfAnyNode);
        self.committed.iter().rev().find(same).copied()
    }

    fn check_name(&self, given: BatchName) -> Result<Committed, StoreError> {
        let committed = self.last(given.node);
        let same = match committed {
            Some(last) if self.has(Bug::IncarnationIgnored) => last.number == given.number,
            last => last == Some(given),
        };
        if same && !self.has(Bug::RepeatWrittenAgain) {
            return Ok(Committed::Already);
        }
        let late = committed > Some(given) && !self.has(Bug::LateNameAccepted);
        if late || given.number > COUNT_MAX || given.number == 0 && !self.has(Bug::NumberZeroAccepted) {
            return Err(StoreError::OutOfOrder { given, committed });
        }
        Ok(Committed::Now)
    }

    fn check_fence(&self, holder: NodeId, save: &Save<'_>) -> Result<(), StoreError> {
        let given = Fence { partition: save.partition, epoch: save.epoch, holder };
        let stored = self.fences.iter().find(|fence| fence.partition == save.partition).copied();
        let allowed = stored.is_some_and(|stored| {
            let epoch = stored.epoch == given.epoch
                || given.epoch > stored.epoch && self.has(Bug::LaterEpochAccepted)
                || given.epoch < stored.epoch && self.has(Bug::EarlierEpochAccepted);
            epoch && (stored.holder == holder || self.has(Bug::HolderNotChecked))
        });
        if allowed || self.has(Bug::FenceNotChecked) {
            return Ok(());
        }
        Err(StoreError::Refused { given, stored })
    }

    fn check_fences(&self, batch: &Batch) -> Result<(), StoreError> {
        let count = if self.has(Bug::OnlyFirstFenceChecked) { 1 } else { batch.len() };
        batch.saves().take(count).try_for_each(|save| self.check_fence(batch.name().node, &save))
    }

    fn apply(&mut self, save: &Save<'_>, start: &[Row]) -> Result<(), StoreError> {
        let place = self.records.iter().position(|row| self.same_key(&row.key, save.key));
        let mut stored = place.map_or(0, |place| self.records[place].version);
        if self.has(Bug::RepeatedObjectCheckedAgainstTheStart) {
            stored = start.iter().find(|row| row.key.as_ref() == save.key).map_or(0, |row| row.version);
        }
        let follows = stored + 1 == save.version
            || save.version > stored && self.has(Bug::GapAccepted)
            || save.version == stored && self.has(Bug::SameVersionAccepted);
        if !follows {
            let key = save.key.to_owned();
            return Err(StoreError::VersionConflict { key, stored, given: save.version });
        }
        self.put(place, save);
        Ok(())
    }

    fn put(&mut self, place: Option<usize>, save: &Save<'_>) {
        let mut envelope = save.envelope.to_vec();
        if self.has(Bug::EnvelopeCut) {
            envelope.truncate(4096);
        }
        let tombstone = save.kind == EnvelopeKind::Tombstone;
        let row = Row { key: save.key.to_owned(), version: save.version, envelope };
        match place {
            Some(place) if tombstone && self.has(Bug::TombstoneRemovesRecord) => {
                self.records.remove(place);
            }
            Some(place) if tombstone && self.has(Bug::TombstoneKeepsState) => {
                self.records[place].version = save.version;
            }
            Some(place) => self.records[place] = row,
            None => self.records.push(row),
        }
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if !self.has(Bug::FenceCheckedAfterVersions) {
            self.check_fences(batch)?;
        }
        let start = self.records.clone();
        let applied = batch.saves().try_for_each(|save| self.apply(&save, &start));
        let result = applied.and_then(|()| self.check_fences(batch));
        if result.is_err() && !self.has(Bug::HalfBatch) {
            self.records = start;
        } else {
            self.records_before = start;
        }
        result
    }
}

impl Store for BuggyStore {
    fn store_id(&self) -> StoreId {
        StoreId(1)
    }

    fn limits(&self) -> StoreLimits {
        self.limits
    }

    fn load(&mut self, keys: &[RecordKeyRef<'_>]) -> Result<Vec<Option<Record>>, StoreError> {
        if keys.len() > self.limits.batch_saves_max && !self.has(Bug::LimitsIgnored) {
            let (given, limit) = (keys.len(), self.limits.batch_saves_max);
            return Err(StoreError::TooLarge { what: Oversize::LoadKeys, given, limit });
        }
        let records = if self.has(Bug::LoadOneCommitBehind) { &self.records_before } else { &self.records };
        let find = |&key: &RecordKeyRef<'_>| {
            let row = records.iter().find(|row| self.same_key(&row.key, key));
            row.map(|row| Record::new(&row.envelope))
        };
        let mut found: Vec<_> = keys.iter().map(find).collect();
        if self.has(Bug::AbsentAnswersLeftOut) {
            found.retain(Option::is_some);
        }
        if self.has(Bug::AnswersUnordered) {
            found.reverse();
        }
        Ok(found)
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        if !self.has(Bug::LimitsIgnored) {
            self.limits.check_batch(batch)?;
        }
        if batch.is_empty() && self.has(Bug::EmptyBatchSkipped) {
            return Ok(Committed::Now);
        }
        if self.has(Bug::RepeatNeedsFence) {
            self.check_fences(batch)?;
        }
        if self.check_name(batch.name())? == Committed::Already {
            return Ok(Committed::Already);
        }
        let written = self.write(batch);
        if (written.is_ok() && !self.has(Bug::NameNotRecorded)) || self.has(Bug::NameOfRefusedBatchRecorded) {
            self.committed.push(batch.name());
        }
        written.map(|()| Committed::Now)
    }

    fn open_fences(&mut self, fences: &[Fence]) -> Result<(), StoreError> {
        let start = self.fences.clone();
        for &given in fences {
            let place = self.fences.iter().position(|fence| fence.partition == given.partition);
            let stored = place.map(|place| self.fences[place]);
            let allowed = stored.map_or(given.epoch > 0 || self.has(Bug::EpochZeroOpens), |stored| {
                given.epoch > stored.epoch
                    || given == stored && !self.has(Bug::SameFenceRefused)
                    || given.epoch < stored.epoch && self.has(Bug::FenceFalls)
                    || given.epoch == stored.epoch && self.has(Bug::FenceChangesHands)
            });
            if !allowed || given.epoch > COUNT_MAX && !self.has(Bug::EpochBeyondTheLimitOpens) {
                if !self.has(Bug::FencesOneByOne) {
                    self.fences = start;
                }
                return Err(StoreError::Refused { given, stored });
            }
            place.map(|place| self.fences.remove(place));
            self.fences.push(given);
        }
        Ok(())
    }

    fn fences(&mut self) -> Result<Vec<Fence>, StoreError> {
        let mut fences = self.fences.clone();
        if !self.has(Bug::FencesUnordered) {
            fences.sort();
        }
        Ok(fences)
    }

    fn last_committed(&mut self, node: NodeId) -> Result<Option<BatchName>, StoreError> {
        Ok(self.last(node))
    }
}
