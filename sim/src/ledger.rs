//! What the store has committed, as the world saw it happen: the truth that checkers compare with.

use std::collections::BTreeMap;

use epicserver_runtime::codec;
use epicserver_storage::{Batch, EnvelopeKind, RecordKey, Save};

use crate::workload::{Account, Change};

/// The committed state of every account.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: BTreeMap<u64, Committed>,
}

/// The committed state of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) version: u64,
    pub(crate) epoch: u64,
    pub(crate) changes: Vec<Change>,
}

impl Ledger {
    /// The account as it was last committed.
    pub(crate) fn account(&self, key: u64) -> &Committed {
        static NOTHING: Committed = Committed { version: 0, epoch: 0, changes: Vec::new() };
        self.accounts.get(&key).unwrap_or(&NOTHING)
    }

    /// All accounts that were ever saved.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = (u64, &Committed)> {
        self.accounts.iter().map(|(key, committed)| (*key, committed))
    }

    pub(crate) fn put(&mut self, key: u64, committed: Committed) {
        self.accounts.insert(key, committed);
    }
}

/// What a batch says of accounts, in its order; an error for what it says of anything else.
pub(crate) fn read_batch(batch: &Batch) -> Result<Vec<(u64, Committed)>, String> {
    batch.saves().map(|save| read_save(&save)).collect()
}

fn read_save(save: &Save<'_>) -> Result<(u64, Committed), String> {
    let record = epicserver_storage::Record::new(save.envelope);
    let key = save.key.to_owned();
    let committed = read_record(&key, &record)?;
    Ok((account_key(&key)?, committed))
}

/// What a record says of an account.
pub(crate) fn read_record(key: &RecordKey, record: &epicserver_storage::Record) -> Result<Committed, String> {
    let (header, payload) = record.open(key.as_ref()).map_err(|error| format!("{key}: {error}"))?;
    if header.kind != EnvelopeKind::State {
        return Err(format!("{key} is a {:?}, and nobody forgot it", header.kind));
    }
    let account = codec::decode::<Account>(payload).map_err(|error| format!("{key}: {error}"))?;
    Ok(Committed { version: header.version, epoch: header.epoch, changes: account.into_changes() })
}

/// How the record of an account is found.
pub(crate) fn record_key(key: u64) -> RecordKey {
    RecordKey::u64(epicserver_storage::entity_id("sim.Account"), key)
}

fn account_key(key: &RecordKey) -> Result<u64, String> {
    let number = <[u8; 8]>::try_from(&*key.bytes).map(u64::from_le_bytes);
    match number {
        Ok(number) if *key == record_key(number) => Ok(number),
        _ => Err(format!("{key:?} is saved, but it is no account, such as {:?}", record_key(1))),
    }
}
