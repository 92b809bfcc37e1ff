//! Tests of `faulty.rs`.

use super::*;
use crate::envelope::{EnvelopeError, EnvelopeHeader};
use crate::key::RecordKey;
use crate::memory::MemoryStore;
use crate::store::Effect;

const NODE: NodeId = NodeId { id: 1, incarnation: 1 };

fn key() -> RecordKey {
    RecordKey::u64(1, 1)
}

fn batch(number: u64, version: u64) -> Batch {
    let key = key();
    let header = EnvelopeHeader { epoch: 1, version, ..EnvelopeHeader::state(key.as_ref()) };
    let mut batch = Batch::new(BatchName { node: NODE, number });
    batch.push(key.as_ref(), &header, b"state").unwrap();
    batch
}

/// A faulty store over an open fence, and what its delay hook was told.
fn faulty(plan: FaultPlan) -> (FaultyStore<MemoryStore>, Arc<Mutex<Vec<Delay>>>) {
    let mut inner = MemoryStore::new(StoreId(1));
    let partition = key().as_ref().partition();
    inner.open_fences(&[Fence { partition, epoch: 1, holder: NODE }]).unwrap();
    let delays = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&delays);
    (FaultyStore::new(inner, plan, move |delay| heard.lock().unwrap().push(delay)), delays)
}

fn stored_version(store: &mut FaultyStore<MemoryStore>) -> u64 {
    let key = key();
    let found = store.inner_mut().load(&[key.as_ref()]).unwrap();
    found[0].as_ref().map_or(0, |record| record.open(key.as_ref()).unwrap().0.version)
}

#[test]
fn a_failed_commit_wrote_nothing_and_may_be_repeated() {
    let (mut store, _) = faulty(FaultPlan::none().fault(Verb::Commit, 0, Fault::Fail));
    let error = store.commit(&batch(1, 1)).unwrap_err();
    assert_eq!((error.effect(), error.is_retryable()), (Effect::Nothing, true));
    assert_eq!(stored_version(&mut store), 0);
    assert_eq!(store.commit(&batch(1, 1)), Ok(Committed::Now));
    assert_eq!(store.control().calls(Verb::Commit), 2);
    assert_eq!(store.control().faults(), 1);
}

#[test]
fn an_unknown_commit_is_found_out_both_ways() {
    let plan = FaultPlan::none().fault(Verb::Commit, 0, Fault::Unknown { written: false }).fault(
        Verb::Commit,
        1,
        Fault::Unknown { written: true },
    );
    let (mut store, _) = faulty(plan);
    let name = batch(1, 1).name();
    assert_eq!(store.commit(&batch(1, 1)).unwrap_err().effect(), Effect::Unknown);
    assert_eq!(store.last_committed(NODE), Ok(None));
    assert_eq!(store.commit(&batch(1, 1)).unwrap_err().effect(), Effect::Unknown);
    assert_eq!(store.last_committed(NODE), Ok(Some(name)));
    assert_eq!(store.commit(&batch(1, 1)), Ok(Committed::Already));
    assert_eq!(stored_version(&mut store), 1);
}

#[test]
fn an_unknown_answer_never_hides_a_refusal() {
    let (mut store, _) = faulty(FaultPlan::none().fault(Verb::Commit, 0, Fault::Unknown { written: true }));
    assert!(matches!(store.commit(&batch(1, 5)), Err(StoreError::VersionConflict { .. })));
}

#[test]
fn damaged_records_are_found_by_their_envelope() {
    let plan = FaultPlan::none()
        .fault(Verb::Load, 0, Fault::Short { length: 63 })
        .fault(Verb::Load, 1, Fault::Flip { bit: 64 * 8 })
        .fault(Verb::Load, 2, Fault::Short { length: 0 });
    let (mut store, _) = faulty(plan);
    let key = key();
    store.commit(&batch(1, 1)).unwrap();
    let mut load = || store.load(&[key.as_ref()]).unwrap().remove(0).unwrap();
    assert_eq!(load().open(key.as_ref()), Err(EnvelopeError::TooShort { length: 63 }));
    assert!(matches!(load().open(key.as_ref()), Err(EnvelopeError::Checksum { .. })));
    assert_eq!(load().open(key.as_ref()), Err(EnvelopeError::TooShort { length: 0 }));
    assert!(load().open(key.as_ref()).is_ok());
}

#[test]
fn a_refused_fence_names_the_partition_and_writes_nothing() {
    let (mut store, _) = faulty(FaultPlan::none().fault(Verb::Commit, 0, Fault::RefuseFence));
    let Err(StoreError::Refused { given, stored: Some(stored) }) = store.commit(&batch(1, 1)) else {
        panic!("the fence was to be refused");
    };
    assert_eq!((given.partition, given.epoch, given.holder), (key().as_ref().partition(), 1, NODE));
    assert_eq!(stored.epoch, 2);
    assert_ne!(stored.holder, NODE);
    assert_eq!(stored_version(&mut store), 0);
}

#[test]
fn after_a_failed_sync_nothing_works_any_more() {
    for written in [false, true] {
        let (mut store, _) = faulty(FaultPlan::none().fault(Verb::Commit, 0, Fault::SyncFailed { written }));
        assert_eq!(store.commit(&batch(1, 1)).unwrap_err().effect(), Effect::StopNode);
        assert_eq!(store.commit(&batch(1, 1)).unwrap_err().effect(), Effect::StopNode);
        assert_eq!(store.load(&[]).unwrap_err().effect(), Effect::StopNode);
        assert_eq!(store.last_committed(NODE).unwrap_err().effect(), Effect::StopNode);
        assert_eq!(stored_version(&mut store), u64::from(written));
    }
}

#[test]
fn delays_reach_the_hook_and_nobody_sleeps() {
    let (mut store, delays) = faulty(FaultPlan::none().delay(Verb::Commit, 1, u64::MAX));
    store.commit(&batch(1, 1)).unwrap();
    store.commit(&batch(2, 2)).unwrap();
    store.control().delay_next(Verb::Load, 5);
    store.load(&[]).unwrap();
    assert_eq!(
        *delays.lock().unwrap(),
        [
            Delay { verb: Verb::Commit, index: 1, delay_ns: u64::MAX },
            Delay { verb: Verb::Load, index: 0, delay_ns: 5 }
        ]
    );
}

#[test]
fn the_control_reaches_a_store_that_was_given_away() {
    let (store, _) = faulty(FaultPlan::none());
    let control = store.control();
    let mut given_away: Box<dyn Store> = Box::new(store);
    given_away.commit(&batch(1, 1)).unwrap();
    control.fault_next(Verb::Commit, Fault::Fail);
    assert!(given_away.commit(&batch(2, 2)).is_err());
    assert_eq!(given_away.commit(&batch(2, 2)), Ok(Committed::Now));
    control.set_plan(FaultPlan::none().fault(Verb::Commit, 3, Fault::Fail));
    assert!(given_away.commit(&batch(3, 3)).is_err());
}

#[test]
fn a_seeded_plan_is_a_function_of_its_seed() {
    let rates = FaultRates {
        fail_per_mille: 100,
        unknown_per_mille: 100,
        short_per_mille: 100,
        flip_per_mille: 100,
        refuse_fence_per_mille: 100,
        sync_failed_per_mille: 100,
        delay_per_mille: 500,
        delay_ns_max: 1000,
    };
    let fates = |seed| {
        let plan = FaultPlan::seeded(seed, rates);
        Verb::ALL.map(|verb| (0..1000).map(|index| plan.at(verb, index)).collect::<Vec<_>>())
    };
    assert_eq!(fates(7), fates(7));
    assert_ne!(fates(7), fates(8));
    let [loads, commits, _, _, names] = fates(7);
    let faults = |calls: &[(u64, Option<Fault>)]| calls.iter().filter(|(_, fault)| fault.is_some()).count();
    assert!((200..400).contains(&faults(&loads)), "{}", faults(&loads));
    assert!((300..500).contains(&faults(&commits)), "{}", faults(&commits));
    assert!((50..150).contains(&faults(&names)), "{}", faults(&names));
    assert!(commits.iter().all(|&(delay_ns, _)| delay_ns <= 1000));
    assert!(commits.iter().any(|(_, fault)| *fault == Some(Fault::Unknown { written: true })));
    assert!(commits.iter().any(|(_, fault)| *fault == Some(Fault::Unknown { written: false })));
}
