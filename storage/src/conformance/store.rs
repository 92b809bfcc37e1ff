//! The rules of the store, one check each.

use super::fixture::{
    ALICE, BOB, Wanted, assert_conflict, assert_refused, batch, commit, fence, key, open_for_alice,
    partition, save, save_of, stored, tombstone, version,
};
use crate::batch::BatchName;
use crate::envelope::{ENVELOPE_HEADER_LENGTH, EnvelopeKind, PAYLOAD_LENGTH_MAX};
use crate::id::{COUNT_MAX, NodeId};
use crate::key::RecordKey;
use crate::store::{Committed, Effect, Oversize, Store, StoreError};

/// Each on a fresh store.
pub(super) const CHECKS: &[fn(&mut dyn Store)] = &[
    an_empty_store_knows_nothing,
    what_is_committed_is_loaded_byte_for_byte,
    keys_of_each_kind_and_entity_are_apart,
    payloads_of_every_size_come_back,
    a_load_answers_in_the_order_of_its_keys,
    versions_have_no_gap_and_no_fork,
    a_batch_is_whole_or_not_at_all,
    an_object_may_come_twice_in_a_batch,
    tombstones_go_on_counting,
    nobody_saves_without_the_fence,
    a_refused_fence_refuses_the_whole_batch,
    a_refused_fence_goes_before_a_version_conflict,
    fences_never_fall_and_have_one_holder,
    fences_open_all_or_none_and_in_order,
    a_new_owner_shuts_out_the_last,
    a_batch_is_committed_once,
    a_repeat_is_recognised_whatever_happened_since,
    late_names_are_refused,
    names_of_nodes_and_incarnations_are_apart,
    an_empty_batch_leaves_its_name,
    limits_hold,
];

/// Each on a fresh store that is closed and opened again.
pub(super) const REOPEN_CHECKS: &[fn(Open<'_>)] = &[everything_acknowledged_survives, a_repeat_survives];

/// Each on two connections to a fresh store.
pub(super) const SHARING_CHECKS: &[fn(&mut dyn Store, &mut dyn Store)] =
    &[connections_see_each_other, a_connection_is_fenced_by_another];

type Open<'a> = &'a mut dyn FnMut() -> Box<dyn Store>;

fn an_empty_store_knows_nothing(store: &mut dyn Store) {
    assert_eq!(store.store_id(), store.store_id(), "a store's id is constant");
    assert_eq!(store.load(&[]), Ok(Vec::new()), "a load of nothing is legal");
    assert_eq!(stored(store, &key(1)), None, "an object that was never saved is not there");
    assert_eq!(store.fences(), Ok(Vec::new()), "no fence is open in an empty store");
    assert_eq!(store.last_committed(ALICE), Ok(None), "nobody has committed in an empty store");
    assert_eq!(store.open_fences(&[]), Ok(()), "opening no fences is legal");
}

fn what_is_committed_is_loaded_byte_for_byte(store: &mut dyn Store) {
    open_for_alice(store, &[1, 2]);
    let saves = [save(1, 1, 1), save(2, 1, 1)];
    commit(store, ALICE, 1, &saves);
    for wanted in &saves {
        assert_eq!(stored(store, &wanted.key), Some(wanted.envelope()), "a load sees every earlier commit");
    }
    let later = save(1, 1, 2);
    commit(store, ALICE, 2, std::slice::from_ref(&later));
    assert_eq!(stored(store, &key(1)), Some(later.envelope()), "a load sees the last commit");
}

fn keys_of_each_kind_and_entity_are_apart(store: &mut dyn Store) {
    let eight = 1u64.to_le_bytes();
    let keys = [
        RecordKey::u64(1, 1),
        RecordKey::u64(2, 1),
        RecordKey::u64(u64::MAX, 1),
        RecordKey::u128(1, 1),
        RecordKey::string(1, "\u{1}\0\0\0\0\0\0\0").expect("short"),
        RecordKey::bytes(1, &eight).expect("short"),
        RecordKey::bytes(1, &[]).expect("short"),
        RecordKey::string(1, "").expect("short"),
        RecordKey::string(1, "Bob: Slayer of armoured cylinders").expect("short"),
        RecordKey::bytes(1, &[0xFF; 512]).expect("as long as a key may be"),
        RecordKey::bytes(1, &[0xFF; 511]).expect("short"),
    ];
    let saves: Vec<Wanted> =
        keys.iter().enumerate().map(|(place, key)| save_of(key, 1, 1, &[place as u8])).collect();
    for (place, key) in keys.iter().enumerate() {
        let partition = key.as_ref().partition();
        let open = store.open_fences(&[crate::store::Fence { partition, epoch: 1, holder: ALICE }]);
        assert_eq!(open, Ok(()), "a fence opens again for its own holder");
        assert_eq!(stored(store, key), None, "a save of one key does not make another: key {place}");
        commit(store, ALICE, place as u64 + 1, &saves[place..=place]);
    }
    for wanted in &saves {
        assert_eq!(stored(store, &wanted.key), Some(wanted.envelope()), "each key has its own record");
    }
}

fn payloads_of_every_size_come_back(store: &mut dyn Store) {
    open_for_alice(store, &[1]);
    let room = store.limits().envelope_length_max.min(1 << 20) - ENVELOPE_HEADER_LENGTH;
    let sizes = [0, 1, 15, 16, 17, 4095, 4096, 65_537, room];
    for (size, version) in sizes.into_iter().filter(|&size| size <= room).zip(1..) {
        let payload: Vec<u8> = (0..size).map(|place| (place % 251) as u8).collect();
        let wanted = save_of(&key(1), 1, version, &payload);
        commit(store, ALICE, version, std::slice::from_ref(&wanted));
        assert_eq!(stored(store, &key(1)), Some(wanted.envelope()), "a payload of {size} bytes comes back");
    }
}

fn a_load_answers_in_the_order_of_its_keys(store: &mut dyn Store) {
    let numbers: Vec<u64> = (0..100).collect();
    open_for_alice(store, &numbers);
    let saves: Vec<Wanted> =
        numbers.iter().filter(|&number| number % 3 != 0).map(|&number| save(number, 1, 1)).collect();
    saves.chunks(10).zip(1..).for_each(|(saves, number)| commit(store, ALICE, number, saves));

    let asked: Vec<RecordKey> = numbers.iter().rev().chain(&[5, 5, 6]).map(|&number| key(number)).collect();
    let refs: Vec<_> = asked.iter().map(RecordKey::as_ref).collect();
    let found: Vec<_> = refs.chunks(10).flat_map(|keys| store.load(keys).expect("within limits")).collect();
    assert_eq!(found.len(), asked.len(), "a load answers every key, repeated ones too");
    for (asked, found) in asked.iter().zip(found) {
        let expected = saves.iter().find(|wanted| wanted.key == *asked).map(Wanted::envelope);
        let found = found.map(|record| record.bytes().to_vec());
        assert_eq!(found, expected, "each answer is in the place of its key");
    }
}

fn versions_have_no_gap_and_no_fork(store: &mut dyn Store) {
    open_for_alice(store, &[1]);
    for given in [0, 2, u64::MAX] {
        assert_conflict(store, &batch(ALICE, 1, &[save(1, 1, given)]), 1, 0, given);
    }
    commit(store, ALICE, 1, &[save(1, 1, 1)]);
    commit(store, ALICE, 2, &[save(1, 1, 2)]);
    for given in [0, 1, 2, 4, u64::MAX] {
        assert_conflict(store, &batch(ALICE, 3, &[save(1, 1, given)]), 1, 2, given);
        assert_eq!(version(store, 1), 2, "a refused save changes nothing");
    }
    commit(store, ALICE, 3, &[save(1, 1, 3)]);
}

fn a_batch_is_whole_or_not_at_all(store: &mut dyn Store) {
    open_for_alice(store, &[1, 2, 3]);
    commit(store, ALICE, 1, &[save(2, 1, 1)]);
    let broken = batch(ALICE, 2, &[save(1, 1, 1), save(2, 1, 2), save(3, 1, 2)]);
    assert_conflict(store, &broken, 3, 0, 2);
    let versions = [1, 2, 3].map(|number| version(store, number));
    assert_eq!(versions, [0, 1, 0], "nothing of a refused batch is there");
    assert_eq!(
        store.last_committed(ALICE),
        Ok(Some(BatchName { node: ALICE, number: 1 })),
        "a refused batch leaves no name"
    );
    commit(store, ALICE, 2, &[save(1, 1, 1), save(2, 1, 2), save(3, 1, 1)]);
}

fn an_object_may_come_twice_in_a_batch(store: &mut dyn Store) {
    open_for_alice(store, &[1, 2]);
    commit(store, ALICE, 1, &[save(1, 1, 1), tombstone(1, 1, 2), save(1, 1, 3)]);
    assert_eq!(stored(store, &key(1)), Some(save(1, 1, 3).envelope()), "the last save of an object stays");
    assert_conflict(store, &batch(ALICE, 2, &[save(1, 1, 4), save(1, 1, 4)]), 1, 4, 4);
    assert_conflict(
        store,
        &batch(ALICE, 2, &[save(2, 1, 1), save(1, 1, 4), save(2, 1, 2), save(1, 1, 6)]),
        1,
        4,
        6,
    );
    assert_eq!([version(store, 1), version(store, 2)], [3, 0], "every save of a refused batch is taken back");
}

fn tombstones_go_on_counting(store: &mut dyn Store) {
    open_for_alice(store, &[1]);
    commit(store, ALICE, 1, &[save(1, 1, 1)]);
    let forgotten = tombstone(1, 1, 2);
    commit(store, ALICE, 2, std::slice::from_ref(&forgotten));
    assert_eq!(stored(store, &key(1)), Some(forgotten.envelope()), "a forgotten object has its tombstone");
    let found = store.load(&[key(1).as_ref()]).expect("no faults");
    let record = found[0].as_ref().expect("a tombstone is a record");
    let (header, _) = record.open(key(1).as_ref()).expect("a tombstone is an intact envelope");
    assert_eq!((header.kind, header.version), (EnvelopeKind::Tombstone, 2));
    assert_conflict(store, &batch(ALICE, 3, &[save(1, 1, 1)]), 1, 2, 1);
    commit(store, ALICE, 3, &[save(1, 1, 3)]);
}

fn nobody_saves_without_the_fence(store: &mut dyn Store) {
    assert_refused(store, &batch(ALICE, 1, &[save(1, 0, 1)]), "epoch 0 of a fence that was never opened");
    assert_refused(store, &batch(ALICE, 1, &[save(1, 1, 1)]), "a fence that was never opened");
    let open = fence(1, 5, ALICE);
    assert_eq!(store.open_fences(&[open]), Ok(()));
    for epoch in [0, 4, 6, u64::MAX] {
        let given = crate::store::Fence { epoch, ..open };
        assert_eq!(
            store.commit(&batch(ALICE, 1, &[save(1, epoch, 1)])),
            Err(StoreError::Refused { given, stored: Some(open) }),
            "a save at another epoch is refused, and the error has both"
        );
    }
    assert_refused(store, &batch(BOB, 1, &[save(1, 5, 1)]), "another node than the holder");
    let again = NodeId { incarnation: 2, ..ALICE };
    assert_refused(store, &batch(again, 1, &[save(1, 5, 1)]), "another incarnation than the holder");
    assert_eq!(version(store, 1), 0, "a refused save is not there");
    commit(store, ALICE, 1, &[save(1, 5, 1)]);
}

fn a_refused_fence_refuses_the_whole_batch(store: &mut dyn Store) {
    open_for_alice(store, &[1, 3]);
    for saves in
        [[save(1, 1, 1), save(2, 1, 1), save(3, 1, 1)], [save(3, 1, 1), save(1, 1, 1), save(2, 1, 1)]]
    {
        let whole = batch(ALICE, 1, &saves);
        assert_refused(store, &whole, "a batch with one partition that is another's");
        let versions = [1, 2, 3].map(|number| version(store, number));
        assert_eq!(versions, [0, 0, 0], "never half a batch");
    }
}

fn a_refused_fence_goes_before_a_version_conflict(store: &mut dyn Store) {
    open_for_alice(store, &[1]);
    let both = batch(ALICE, 1, &[save(1, 1, 9), save(2, 1, 1)]);
    assert_refused(store, &both, "a batch that breaks both rules");
    let result = store.commit(&both);
    assert_eq!(result.map_err(|error| error.effect()), Err(Effect::Nothing), "a refusal wrote nothing");
}

fn fences_never_fall_and_have_one_holder(store: &mut dyn Store) {
    let refused = |store: &mut dyn Store, given, stored| {
        let result = store.open_fences(&[given]);
        assert_eq!(
            result,
            Err(StoreError::Refused { given, stored }),
            "an epoch never falls nor changes hands"
        );
    };
    refused(store, fence(1, 0, ALICE), None);
    let five = fence(1, 5, ALICE);
    assert_eq!(store.open_fences(&[five]), Ok(()));
    assert_eq!(store.open_fences(&[five]), Ok(()), "opening what is open for the same holder succeeds");
    refused(store, fence(1, 0, ALICE), Some(five));
    refused(store, fence(1, 4, ALICE), Some(five));
    refused(store, fence(1, 5, BOB), Some(five));
    refused(store, fence(1, 5, NodeId { incarnation: 2, ..ALICE }), Some(five));
    refused(store, fence(1, COUNT_MAX + 1, ALICE), Some(five));
    let last = fence(1, COUNT_MAX, BOB);
    assert_eq!(store.open_fences(&[last]), Ok(()), "epochs may jump");
    refused(store, fence(1, 6, ALICE), Some(last));
    assert_eq!(store.fences(), Ok(vec![last]), "the fences can be listed");
}

fn fences_open_all_or_none_and_in_order(store: &mut dyn Store) {
    assert_eq!(store.open_fences(&[fence(1, 5, ALICE)]), Ok(()));
    let result = store.open_fences(&[fence(2, 1, ALICE), fence(1, 4, ALICE), fence(3, 1, ALICE)]);
    assert!(matches!(result, Err(StoreError::Refused { .. })), "one falling epoch refuses all: {result:?}");
    assert_eq!(store.fences(), Ok(vec![fence(1, 5, ALICE)]), "fences open all or none");

    let result = store.open_fences(&[fence(2, 3, ALICE), fence(2, 2, ALICE)]);
    assert!(matches!(result, Err(StoreError::Refused { .. })), "fences open in order: {result:?}");
    assert_eq!(store.open_fences(&[fence(2, 2, ALICE), fence(2, 3, BOB)]), Ok(()));

    let mut expected = vec![fence(1, 5, ALICE), fence(2, 3, BOB)];
    expected.sort_by_key(|fence| fence.partition);
    assert_eq!(store.fences(), Ok(expected), "fences are listed by partition");
}

fn a_new_owner_shuts_out_the_last(store: &mut dyn Store) {
    open_for_alice(store, &[1, 2]);
    commit(store, ALICE, 1, &[save(1, 1, 1), save(2, 1, 1)]);
    assert_eq!(store.open_fences(&[fence(1, 2, BOB)]), Ok(()));
    assert_refused(store, &batch(ALICE, 2, &[save(1, 1, 2)]), "a save of the owner before");
    assert_refused(store, &batch(ALICE, 2, &[save(2, 1, 2), save(1, 1, 2)]), "a batch with such a save");
    commit(store, BOB, 1, &[save(1, 2, 2)]);
    assert_eq!([version(store, 1), version(store, 2)], [2, 1]);
    commit(store, ALICE, 2, &[save(2, 1, 2)]);
}

fn a_batch_is_committed_once(store: &mut dyn Store) {
    open_for_alice(store, &[1]);
    let first = batch(ALICE, 1, &[save(1, 1, 1)]);
    assert_eq!(store.commit(&first), Ok(Committed::Now));
    assert_eq!(store.last_committed(ALICE), Ok(Some(first.name())));
    assert_eq!(store.commit(&first), Ok(Committed::Already), "a repeat of the last batch is recognised");
    assert_eq!(version(store, 1), 1);
    commit(store, ALICE, 100, &[save(1, 1, 2)]);
    assert_eq!(
        store.last_committed(ALICE),
        Ok(Some(BatchName { node: ALICE, number: 100 })),
        "numbers may have gaps"
    );
}

fn a_repeat_is_recognised_whatever_happened_since(store: &mut dyn Store) {
    open_for_alice(store, &[1]);
    let first = batch(ALICE, 1, &[save(1, 1, 1)]);
    assert_eq!(store.commit(&first), Ok(Committed::Now));
    assert_eq!(store.open_fences(&[fence(1, 2, BOB)]), Ok(()));
    commit(store, BOB, 1, &[save(1, 2, 2)]);
    assert_eq!(store.commit(&first), Ok(Committed::Already), "what is committed stays so after a takeover");
    assert_eq!(version(store, 1), 2, "a repeat writes nothing");

    let refused = batch(ALICE, 2, &[save(1, 1, 3)]);
    assert_refused(store, &refused, "a save of the owner before");
    assert_refused(store, &refused, "a repeat of a refused batch");
}

fn late_names_are_refused(store: &mut dyn Store) {
    let zero = batch(ALICE, 0, &[]);
    let late = |given: &crate::batch::Batch, committed| {
        Err(StoreError::OutOfOrder { given: given.name(), committed })
    };
    assert_eq!(store.commit(&zero), late(&zero, None), "number 0 names no batch");
    let beyond = batch(ALICE, COUNT_MAX + 1, &[]);
    assert_eq!(store.commit(&beyond), late(&beyond, None), "numbers end at COUNT_MAX");
    commit(store, BOB, COUNT_MAX, &[]);
    open_for_alice(store, &[1]);
    commit(store, ALICE, 5, &[save(1, 1, 1)]);
    let last = Some(BatchName { node: ALICE, number: 5 });
    for number in [0, 1, 4] {
        let given = batch(ALICE, number, &[save(1, 1, 2)]);
        assert_eq!(store.commit(&given), late(&given, last), "a number below the last is refused");
    }
    assert_eq!((version(store, 1), store.last_committed(ALICE)), (1, Ok(last)));
}

fn names_of_nodes_and_incarnations_are_apart(store: &mut dyn Store) {
    commit(store, ALICE, 5, &[]);
    commit(store, BOB, 1, &[]);
    let again = NodeId { incarnation: 2, ..ALICE };
    commit(store, again, 1, &[]);
    let last = Some(BatchName { node: again, number: 1 });
    assert_eq!(store.last_committed(again), Ok(last), "a new incarnation counts anew");
    assert_eq!(store.last_committed(ALICE), Ok(last), "the answer is the id's last, of any incarnation");
    let late = batch(ALICE, 6, &[]);
    assert_eq!(
        store.commit(&late),
        Err(StoreError::OutOfOrder { given: late.name(), committed: last }),
        "an earlier incarnation comes too late"
    );
    assert_eq!(store.last_committed(BOB), Ok(Some(BatchName { node: BOB, number: 1 })));
}

fn an_empty_batch_leaves_its_name(store: &mut dyn Store) {
    commit(store, ALICE, 3, &[]);
    assert_eq!(store.commit(&batch(ALICE, 3, &[])), Ok(Committed::Already));
    assert_eq!(store.last_committed(ALICE), Ok(Some(BatchName { node: ALICE, number: 3 })));
}

/// Limits that are too large to be reached in a test are not tried.
fn limits_hold(store: &mut dyn Store) {
    let limits = store.limits();
    open_for_alice(store, &[1]);
    let mut expect = |saves: &[Wanted], what| {
        let result = store.commit(&batch(ALICE, 1, saves));
        assert!(
            matches!(&result, Err(StoreError::TooLarge { what: found, .. }) if *found == what),
            "{what:?} beyond its limit is refused: {result:?}"
        );
        assert_eq!(store.last_committed(ALICE), Ok(None), "nothing of it is written");
        assert_eq!(version(store, 1), 0, "nothing of it is written");
    };
    if limits.envelope_length_max < ENVELOPE_HEADER_LENGTH + PAYLOAD_LENGTH_MAX {
        let payload = vec![0; limits.envelope_length_max + 1 - ENVELOPE_HEADER_LENGTH];
        expect(&[save_of(&key(1), 1, 1, &payload)], Oversize::Envelope);
    }
    if limits.batch_saves_max < 10_000 {
        let saves: Vec<Wanted> =
            (1..=limits.batch_saves_max as u64 + 1).map(|next| save(1, 1, next)).collect();
        expect(&saves, Oversize::BatchSaves);
        let keys = vec![saves[0].key.as_ref(); saves.len()];
        let result = store.load(&keys);
        assert!(matches!(result, Err(StoreError::TooLarge { what: Oversize::LoadKeys, .. })), "{result:?}");
    }
}

fn everything_acknowledged_survives(open: Open<'_>) {
    let mut store = open();
    let id = store.store_id();
    open_for_alice(&mut *store, &[1, 2, 3]);
    let saves = [save(1, 1, 1), tombstone(2, 1, 1)];
    commit(&mut *store, ALICE, 7, &saves);
    assert_refused(&mut *store, &batch(BOB, 1, &[save(3, 1, 1)]), "a save of nobody's");
    drop(store);

    let mut store = open();
    let store = &mut *store;
    assert_eq!(store.store_id(), id, "a store that kept its data kept its id");
    for wanted in &saves {
        assert_eq!(stored(store, &wanted.key), Some(wanted.envelope()), "an acknowledged save survives");
    }
    assert_eq!(stored(store, &key(3)), None, "a refused save does not appear later");
    let result = store.open_fences(&[fence(1, 1, BOB)]);
    assert!(matches!(result, Err(StoreError::Refused { .. })), "fences survive: {result:?}");
    assert_conflict(store, &batch(ALICE, 8, &[save(2, 1, 1)]), 2, 1, 1);
    commit(store, ALICE, 8, &[save(1, 1, 2), save(2, 1, 2)]);
}

fn a_repeat_survives(open: Open<'_>) {
    let mut store = open();
    open_for_alice(&mut *store, &[1]);
    let last = batch(ALICE, 7, &[save(1, 1, 1)]);
    assert_eq!(store.commit(&last), Ok(Committed::Now));
    drop(store);

    let mut store = open();
    assert_eq!(store.last_committed(ALICE), Ok(Some(last.name())), "the last name survives");
    assert_eq!(store.commit(&last), Ok(Committed::Already), "a repeat is recognised after a restart");
    assert_eq!(version(&mut *store, 1), 1);
}

fn connections_see_each_other(first: &mut dyn Store, second: &mut dyn Store) {
    assert_eq!(first.store_id(), second.store_id(), "two connections to one store see one id");
    open_for_alice(first, &[1]);
    commit(second, ALICE, 1, &[save(1, 1, 1)]);
    assert_eq!(stored(first, &key(1)), Some(save(1, 1, 1).envelope()));
    assert_eq!(first.commit(&batch(ALICE, 1, &[save(1, 1, 1)])), Ok(Committed::Already));
    assert_eq!(first.last_committed(ALICE), second.last_committed(ALICE));
    assert_eq!(first.fences(), second.fences());
}

fn a_connection_is_fenced_by_another(first: &mut dyn Store, second: &mut dyn Store) {
    open_for_alice(first, &[1]);
    commit(first, ALICE, 1, &[save(1, 1, 1)]);
    assert_eq!(second.open_fences(&[fence(1, 2, BOB)]), Ok(()));
    assert_refused(first, &batch(ALICE, 2, &[save(1, 1, 2)]), "a save of the owner before");
    commit(second, BOB, 1, &[save(1, 2, 2)]);
    let fences = first.fences().expect("no faults");
    assert_eq!(fences.first().map(|fence| fence.partition), Some(partition(1)));
    assert_eq!(version(first, 1), 2);
}
