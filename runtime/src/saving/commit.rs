//! Committing a batch until it is known what became of it.

use epicserver_storage::{Batch, Effect, Store, StoreError};

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is durable.
    Durable,
    /// Nothing of it is written, and nothing ever will be: what depends on it may be told so.
    Failed(StoreError),
    /// Nobody knows. The node must stop, and whoever waits must not be told anything.
    Unknown(StoreError),
}

/// Commits a batch. While its outcome is not known the same batch is committed again, which the store recognises.
pub fn commit_until_known(store: &mut (impl Store + ?Sized), batch: &Batch) -> Committed {
    let mut doubted = false;
    let mut tries = 0;
    loop {
        tries += 1;
        let error = match store.commit(batch) {
            Ok(_) => return Committed::Durable,
            Err(error) => error,
        };
        match (&error, error.effect()) {
            (_, Effect::StopNode) => return Committed::Unknown(error),
            // This try wrote nothing, which says nothing of the tries before it.
            (StoreError::Failed { .. }, _) if doubted => {}
            // The store compares names first: it would have recognised the batch.
            (_, Effect::Nothing) => return Committed::Failed(error),
            (_, Effect::Unknown) => doubted = true,
        }
        if tries == TRIES_MAX {
            return Committed::Unknown(error);
        }
    }
}

/// How often a batch of unknown outcome is committed.
const TRIES_MAX: u32 = 10;

#[cfg(test)]
mod tests {
    use epicserver_storage::{
        BatchName, EnvelopeHeader, Fault, FaultPlan, FaultyStore, Fence, MemoryStore, NodeId, RecordKey,
        StoreId, Verb,
    };

    use super::*;

    const NODE: NodeId = NodeId { id: 1, incarnation: 1 };

    /// Commits one save while the first calls of the store go wrong like this; also says whether it is written.
    fn commit(faults: &[Fault]) -> (Committed, bool) {
        let key = RecordKey::u64(1, 1);
        let partition = key.as_ref().partition();
        let mut memory = MemoryStore::new(StoreId(1));
        memory.open_fences(&[Fence { partition, epoch: 1, holder: NODE }]).expect("it is fresh");
        let mut batch = Batch::new(BatchName { node: NODE, number: 1 });
        let header = EnvelopeHeader { epoch: 1, version: 1, ..EnvelopeHeader::state(key.as_ref()) };
        batch.push(key.as_ref(), &header, b"state").expect("it is well formed");
        let plan = faults
            .iter()
            .zip(0..)
            .fold(FaultPlan::none(), |plan, (fault, index)| plan.fault(Verb::Commit, index, *fault));
        let mut store = FaultyStore::new(memory, plan, |_| {});
        let committed = commit_until_known(&mut store, &batch);
        (committed, store.inner_mut().record_count() == 1)
    }

    #[test]
    fn a_batch_fails_only_if_it_is_certainly_not_written() {
        assert_eq!(commit(&[]), (Committed::Durable, true));
        assert!(matches!(commit(&[Fault::Fail]), (Committed::Failed(_), false)));
        assert!(matches!(commit(&[Fault::RefuseFence]), (Committed::Failed(_), false)));
        for written in [false, true] {
            let unknown = Fault::Unknown { written };
            assert_eq!(commit(&[unknown]), (Committed::Durable, true));
            assert!(matches!(commit(&[Fault::SyncFailed { written }]), (Committed::Unknown(_), _)));
            assert!(matches!(commit(&[unknown; 10]), (Committed::Unknown(_), _)));
        }
    }

    /// Found in the simulator: the answer of the first try was lost, the second failed before it did anything, and callers
    /// were told that their changes, which were in the store, are gone.
    #[test]
    fn a_try_that_fails_says_nothing_of_the_one_before_it() {
        let unknown = Fault::Unknown { written: true };
        assert_eq!(commit(&[unknown, Fault::Fail]), (Committed::Durable, true));
        assert!(matches!(
            commit(&[unknown, Fault::SyncFailed { written: false }]),
            (Committed::Unknown(_), true)
        ));
    }
}
