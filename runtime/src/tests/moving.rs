//! What a core does with the objects of a partition that is to move: saved, closed, carried, and given away.

use std::time::Duration;

use epicserver_storage::{EnvelopeKind, Fault, NodeId, RecordKey, Verb};

use super::cluster::Cluster;
use super::thing::{
    BEHIND, DURABLE, HOOKED, NEVER, ON_IDLE, Thing, behind, durable, exclusive, hooked, never, note, notes,
    on_idle, set_on_drop, shared,
};
use crate::context::sleep;
use crate::entity::{Entity, RawRef};
use crate::error::CallError;
use crate::key::StoredKey;
use crate::shipment::Shipment;

const NEXT: Option<NodeId> = Some(NodeId { id: 2, incarnation: 1 });

fn tick<const POLICY: u8>(
    cluster: &mut Cluster,
    of: RawRef<Thing<POLICY>>,
) -> Option<Result<u64, CallError>> {
    let call = async move { of.call(exclusive(async |thing: &mut Thing<POLICY>| thing.tick())).await };
    let mut started = cluster.start(0, call);
    cluster.settle();
    started.result()
}

/// A key whose object lies in another partition than that of 7.
fn key_apart() -> u64 {
    let partition = |key: u64| key.canonical(|key| key.partition());
    (1..).find(|key| partition(*key) != partition(7)).expect("there are many keys")
}

/// The counts in what was given away of the partition of this key.
fn given_away(cluster: &mut Cluster) -> Vec<u64> {
    let drained = cluster.drained.remove(0);
    let partition = drained.handover.partition;
    let shipment =
        Shipment::parse(partition, 2, &drained.records.part(0).bytes).expect("a stream of records");
    let count = |(key, record): &(RecordKey, epicserver_storage::Record)| {
        let (header, payload) = record.open(key.as_ref()).expect("a whole record");
        assert_eq!((header.kind, header.partition), (EnvelopeKind::State, partition));
        crate::codec::decode::<Thing<0>>(payload).expect("a state").count.get()
    };
    shipment.records.iter().map(count).collect()
}

/// Whatever an object's policy is, it moves as it is, after what the policy wants saved was saved.
#[test]
fn objects_of_every_policy_are_given_away_as_they_are() {
    fn check<const POLICY: u8>(of: fn(u64) -> RawRef<Thing<POLICY>>, saved: Option<u64>)
    where
        Thing<POLICY>: Entity<Key = u64>,
    {
        let mut cluster = Cluster::new(1);
        for expected in 1..=3 {
            assert_eq!(tick(&mut cluster, of(7)), Some(Ok(expected)));
        }
        cluster.show_move(7, NEXT);
        cluster.settle();
        assert_eq!(given_away(&mut cluster), [3], "policy {POLICY}");
        assert_eq!(cluster.saved_count::<Thing<POLICY>>(7), saved, "policy {POLICY}");
        assert_eq!(cluster.cores[0].activations(), 0);
    }
    check::<NEVER>(never, None);
    check::<DURABLE>(durable, Some(3));
    check::<BEHIND>(behind, Some(3));
    check::<ON_IDLE>(on_idle, Some(3));
}

#[test]
fn a_partition_is_given_away_when_its_saves_are_durable_and_not_before() {
    let mut cluster = Cluster::new(2);
    let key = cluster.key_on(1, 0);
    let call =
        async move { on_idle(key).call(exclusive(async |thing: &mut Thing<ON_IDLE>| thing.tick())).await };
    let mut started = cluster.start(0, call);
    assert_eq!(started.result(), Some(Ok(1)));
    cluster.show_move(key, NEXT);
    cluster.run();
    assert!(cluster.drained.is_empty() && cluster.cores[1].wants_commit());
    cluster.commit();
    assert_eq!(given_away(&mut cluster), [1]);
}

/// A batch that fails takes along what depends on it; the next owner loads what is durable.
#[test]
fn what_depends_on_a_failed_batch_is_not_given_away() {
    let mut cluster = Cluster::new(1);
    assert_eq!(tick(&mut cluster, durable(7)), Some(Ok(1)));
    let call = async { durable(7).call(exclusive(async |thing: &mut Thing<DURABLE>| thing.tick())).await };
    cluster.start(0, call);
    cluster.show_move(7, NEXT);
    cluster.run();
    assert!(cluster.drained.is_empty());
    cluster.faults().fault_next(Verb::Commit, Fault::Fail);
    cluster.commit();
    cluster.settle();
    assert!(given_away(&mut cluster).is_empty());
    assert_eq!(cluster.saved_count::<Thing<DURABLE>>(7), Some(1));
}

/// The hook that runs before an object leaves memory runs, and what it changes goes along.
#[test]
fn the_hook_runs_before_the_object_moves() {
    set_on_drop(|thing| {
        Box::pin(async {
            note("on_drop");
            thing.tick()
        })
    });
    let mut cluster = Cluster::new(1);
    assert_eq!(tick(&mut cluster, hooked(7)), Some(Ok(1)));
    notes();
    cluster.show_move(7, NEXT);
    cluster.settle();
    assert_eq!(notes(), ["on_drop"]);
    assert_eq!(given_away(&mut cluster), [2]);
    assert_eq!(cluster.saved_count::<Thing<HOOKED>>(7), Some(2));
}

/// When the move is given up, objects go on from what is carried: the store is not asked, and versions have no gap.
#[test]
fn a_move_that_is_given_up_needs_no_store() {
    let mut cluster = Cluster::new(1);
    assert_eq!((tick(&mut cluster, durable(7)), tick(&mut cluster, never(7))), (Some(Ok(1)), Some(Ok(1))));
    cluster.show_move(7, NEXT);
    cluster.settle();
    assert_eq!(given_away(&mut cluster).len(), 2);
    cluster.show_move(7, None);
    let call = async { durable(7).call(shared(async |thing: &Thing<DURABLE>| thing.tick())).await };
    let mut started = cluster.start(0, call);
    assert!(cluster.storage.loads.is_empty());
    assert_eq!(started.result(), Some(Ok(2)));
    cluster.settle();
    assert_eq!(tick(&mut cluster, never(7)), Some(Ok(2)));
    let (header, count) = cluster.saved::<Thing<DURABLE>>(7).expect("it is saved");
    assert_eq!((header.version, count), (2, Some(2)));
}

/// What is carried and not asked for is forgotten like an object that is idle.
#[test]
fn what_is_carried_is_forgotten_in_time() {
    let config = crate::core::CoreConfig { idle_ns: 50_000_000, ..Default::default() };
    let mut cluster = Cluster::with(1, config);
    assert_eq!((tick(&mut cluster, durable(7)), tick(&mut cluster, never(7))), (Some(Ok(1)), Some(Ok(1))));
    cluster.show_move(7, NEXT);
    cluster.settle();
    cluster.pass_ms(100);
    cluster.show_move(7, None);
    cluster.pass_ms(100);
    assert_eq!((tick(&mut cluster, durable(7)), tick(&mut cluster, never(7))), (Some(Ok(2)), Some(Ok(1))));
}

#[test]
fn a_partition_without_objects_is_given_away_at_once() {
    let mut cluster = Cluster::new(1);
    assert_eq!(tick(&mut cluster, never(key_apart())), Some(Ok(1)));
    cluster.show_move(7, NEXT);
    assert_eq!(cluster.drained.len(), 1);
    assert!(cluster.drained[0].records.is_empty());
    assert_eq!(cluster.cores[0].activations(), 1);
}

/// An object left memory just before its partition moves, and its last save is not written yet: the next owner must not have the
/// partition before it is, as this node could not save it afterwards.
#[test]
fn what_was_dropped_before_the_move_is_saved_before_it_too() {
    let config = crate::core::CoreConfig { idle_ns: 5_000_000, ..Default::default() };
    let mut cluster = Cluster::with(1, config);
    assert_eq!(tick(&mut cluster, on_idle(7)), Some(Ok(1)));
    cluster.pass_ms(10);
    assert_eq!(cluster.cores[0].activations(), 0);
    cluster.show_move(7, NEXT);
    cluster.run();
    assert!(cluster.drained.is_empty());
    cluster.commit();
    assert!(given_away(&mut cluster).is_empty());
    assert_eq!(cluster.saved_count::<Thing<ON_IDLE>>(7), Some(1));
}

/// An object comes back for a caller that holds one of a partition that moves too, changes, and is closed again at the next look. By then
/// the partition waited for an earlier batch alone, and its new state left although its own batch could fail.
#[test]
fn what_came_back_for_a_moment_is_saved_before_the_move_too() {
    let mut cluster = Cluster::new(1);
    let change = || durable(7).call(exclusive(async |thing: &mut Thing<DURABLE>| thing.tick()));
    let other = key_apart();
    let hold = exclusive(async move |_: &mut Thing<NEVER>| {
        sleep(Duration::from_millis(2)).await;
        change().await.expect("it runs")
    });
    let mut holder = cluster.start(0, async move { never(other).call(hold).await });
    assert_eq!(cluster.start(0, async move { change().await }).result(), Some(Ok(1)));
    cluster.show_moves(&[7, other], NEXT);
    cluster.publish();
    cluster.tell(0);
    cluster.run();
    assert_eq!(cluster.cores[0].activations(), 1, "the first one is closed, and waits for its batch");
    cluster.pass_ms(3);
    assert_eq!(holder.result(), Some(Ok(2)));
    cluster.write();
    assert!(cluster.drained.is_empty(), "the second change is not durable");
    cluster.commit();
    let mut counts: Vec<u64> = given_away(&mut cluster);
    counts.extend(given_away(&mut cluster));
    counts.sort_unstable();
    assert_eq!((counts, cluster.saved_count::<Thing<DURABLE>>(7)), (vec![0, 2], Some(2)));
}
