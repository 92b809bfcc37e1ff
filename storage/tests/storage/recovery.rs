//! What a node does with errors, played against a store that fails by seed: nothing acknowledged is lost or doubled.

use epicserver_storage::{
    Batch, BatchName, Effect, EnvelopeHeader, FaultPlan, FaultRates, FaultyStore, Fence, MemoryStore, NodeId,
    RecordKey, Store, StoreError, StoreId, Verb,
};

const NODE: NodeId = NodeId { id: 1, incarnation: 1 };
const SAVES: u64 = 50;

/// Every answer may be lost or an error, and the store is found in the one state that the acknowledgements allow. The node
/// takes each of the two ways that the contract offers after an unknown end: asking, or committing again.
#[test]
fn a_node_that_asks_or_repeats_loses_and_doubles_nothing() {
    let rates = FaultRates { fail_per_mille: 200, unknown_per_mille: 300, ..FaultRates::default() };
    let (mut faults, mut commits) = (0, 0);
    for seed in 0..200 {
        let key = RecordKey::u64(1, seed);
        let mut inner = MemoryStore::new(StoreId(1));
        let fence = Fence { partition: key.as_ref().partition(), epoch: 1, holder: NODE };
        inner.open_fences(&[fence]).unwrap();
        let mut store = FaultyStore::new(inner.clone(), FaultPlan::seeded(seed, rates), |_| ());
        for version in 1..=SAVES {
            save(&mut store, &batch(&key, version), seed % 2 == 0);
            let found =
                inner.load(&[key.as_ref()]).unwrap().remove(0).expect("an acknowledged save is there");
            let (header, payload) = found.open(key.as_ref()).unwrap();
            assert_eq!((header.version, payload), (version, &version.to_le_bytes()[..]), "seed {seed}");
        }
        faults += store.control().faults();
        commits += store.control().calls(Verb::Commit);
    }
    assert!(faults > 1000 && commits > 200 * SAVES, "{faults} faults in {commits} commits");
}

/// Returns once the batch is known to be committed.
fn save(store: &mut impl Store, batch: &Batch, asks: bool) {
    loop {
        match store.commit(batch) {
            Ok(_) => return,
            Err(error) => match error.effect() {
                Effect::Unknown if asks && is_committed(store, batch.name()) => return,
                Effect::Unknown | Effect::Nothing => assert!(error.is_retryable(), "{error}"),
                Effect::StopNode => panic!("no sync fails here: {error}"),
            },
        }
    }
}

fn is_committed(store: &mut impl Store, name: BatchName) -> bool {
    loop {
        match store.last_committed(name.node) {
            Ok(last) => return last == Some(name),
            Err(StoreError::Failed { .. }) => {}
            Err(error) => panic!("asking changes nothing: {error}"),
        }
    }
}

fn batch(key: &RecordKey, version: u64) -> Batch {
    let header = EnvelopeHeader { epoch: 1, version, ..EnvelopeHeader::state(key.as_ref()) };
    let mut batch = Batch::new(BatchName { node: NODE, number: version });
    batch.push(key.as_ref(), &header, &version.to_le_bytes()).unwrap();
    batch
}
