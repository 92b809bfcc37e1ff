//! The rules of the coordinator, one check each.

use super::fixture::{ALICE, BOB};
use crate::coordinator::{Coordinator, CoordinatorError};
use crate::id::{NodeId, Partition, StoreId};
use crate::view::{Member, PartitionState, View, ViewError};

/// Each on a fresh coordinator.
pub(super) const CHECKS: &[fn(&mut dyn Coordinator)] = &[
    a_fresh_view_is_empty,
    a_change_is_read_back,
    a_stale_change_gets_the_winner,
    a_refused_view_changes_nothing,
    epochs_never_fall,
    a_move_is_kept,
    another_store_needs_new_epochs,
    only_members_hold_leases,
    leases_count_renewals,
    a_lease_ends_with_its_member,
];

/// Each on two connections to a fresh coordinator.
pub(super) const SHARING_CHECKS: &[fn(&mut dyn Coordinator, &mut dyn Coordinator)] =
    &[one_of_two_changes_wins, connections_see_each_others_leases];

const SEVEN: Partition = Partition::from_hash(7);

fn a_fresh_view_is_empty(coordinator: &mut dyn Coordinator) {
    let view = coordinator.read().expect("no faults");
    assert_eq!((view.version, view.members.len()), (0, 0), "the first view is empty");
    assert!(Partition::all().all(|partition| view.owner(partition).is_none()), "nobody owns anything");
    assert_eq!(coordinator.leases(), Ok(Vec::new()));
}

fn a_change_is_read_back(coordinator: &mut dyn Coordinator) {
    let mut next = view_of(coordinator);
    next.put_member(member(ALICE));
    next.assign(SEVEN, Some(ALICE));
    next.version = 77;
    let now = coordinator.compare_and_set(0, next.clone()).expect("a legal change succeeds");
    next.version = 1;
    assert_eq!(*now, next, "the coordinator sets the version, and nothing else");
    assert_eq!(view_of(coordinator), next, "a read sees every change that ended before it");
}

fn a_stale_change_gets_the_winner(coordinator: &mut dyn Coordinator) {
    let empty = view_of(coordinator);
    let winner = join(coordinator, ALICE);
    let mut late = empty.clone();
    late.put_member(member(BOB));
    for expected in [0, 2, u64::MAX] {
        match coordinator.compare_and_set(expected, late.clone()) {
            Err(CoordinatorError::Conflict { found }) => {
                assert_eq!(*found, winner, "the error has the winner")
            }
            other => panic!("a change of version {expected} conflicts with version 1: {other:?}"),
        }
    }
    assert_eq!(view_of(coordinator), winner, "a change that lost changes nothing");
}

fn a_refused_view_changes_nothing(coordinator: &mut dyn Coordinator) {
    let before = join(coordinator, ALICE);
    let mut next = before.clone();
    next.assign(SEVEN, Some(BOB));
    assert_eq!(
        coordinator.compare_and_set(before.version, next),
        Err(CoordinatorError::Invalid(ViewError::OwnerIsNoMember { partition: SEVEN, owner: BOB })),
        "owners are members"
    );
    assert_eq!(view_of(coordinator), before);
}

fn epochs_never_fall(coordinator: &mut dyn Coordinator) {
    let mut next = join(coordinator, ALICE);
    next.assign(SEVEN, Some(ALICE));
    next.partitions[SEVEN.index()].epoch = 9;
    let before = set(coordinator, next);
    let mut falling = before.clone();
    falling.partitions[SEVEN.index()].epoch = 8;
    assert_eq!(
        coordinator.compare_and_set(before.version, falling),
        Err(CoordinatorError::Invalid(ViewError::EpochFalls { partition: SEVEN, stored: 9, given: 8 }))
    );
    let mut freed = before.clone();
    freed.partitions[SEVEN.index()].owner = None;
    assert_eq!(
        coordinator.compare_and_set(before.version, freed),
        Err(CoordinatorError::Invalid(ViewError::SameEpoch { partition: SEVEN, epoch: 9 })),
        "an epoch has one owner"
    );
    assert_eq!(view_of(coordinator), before);
}

fn a_move_is_kept(coordinator: &mut dyn Coordinator) {
    join(coordinator, ALICE);
    let mut next = join(coordinator, BOB);
    next.assign(SEVEN, Some(ALICE));
    let before = set(coordinator, next);
    let mut moving = before.clone();
    moving.move_to(SEVEN, Some(BOB));
    let moving = set(coordinator, moving);
    assert_eq!(moving.partition(SEVEN).moving_to, Some(BOB), "the view says who comes next");
    assert_eq!(view_of(coordinator), moving);
    let mut nowhere = moving.clone();
    let stranger = NodeId { incarnation: ALICE.incarnation + 1, ..ALICE };
    nowhere.move_to(SEVEN, Some(stranger));
    assert_eq!(
        coordinator.compare_and_set(moving.version, nowhere),
        Err(CoordinatorError::Invalid(ViewError::MoveToNobody { partition: SEVEN, to: stranger })),
        "partitions move to members"
    );
    let mut handed = moving.clone();
    handed.assign(SEVEN, Some(BOB));
    let handed = set(coordinator, handed);
    let state = PartitionState { owner: Some(BOB), epoch: 2, moving_to: None };
    assert_eq!(handed.partition(SEVEN), state, "a hand-over ends the move");
    assert_eq!(view_of(coordinator), handed);
}

fn another_store_needs_new_epochs(coordinator: &mut dyn Coordinator) {
    let mut next = join(coordinator, ALICE);
    next.assign(SEVEN, Some(ALICE));
    let before = set(coordinator, next);
    let mut next = before.clone();
    next.store = StoreId(before.store.0.wrapping_add(1));
    assert_eq!(
        coordinator.compare_and_set(before.version, next.clone()),
        Err(CoordinatorError::Invalid(ViewError::SameEpochInNewStore { partition: SEVEN, epoch: 1 }))
    );
    next.assign(SEVEN, Some(ALICE));
    let now = set(coordinator, next.clone());
    assert_eq!((now.store, now.partition(SEVEN)), (next.store, next.partition(SEVEN)));
    assert_eq!(view_of(coordinator), now, "the view keeps the id of the store");
}

fn only_members_hold_leases(coordinator: &mut dyn Coordinator) {
    assert_evicted(coordinator, ALICE);
    join(coordinator, ALICE);
    assert!(coordinator.renew_lease(ALICE, 5).is_ok());
    assert_evicted(coordinator, BOB);
    assert_evicted(coordinator, NodeId { incarnation: 2, ..ALICE });
}

fn leases_count_renewals(coordinator: &mut dyn Coordinator) {
    join(coordinator, ALICE);
    join(coordinator, BOB);
    let fresh = coordinator.leases().expect("no faults");
    let nodes: Vec<NodeId> = fresh.iter().map(|lease| lease.node).collect();
    assert_eq!(nodes, [BOB, ALICE], "every member has a lease from the start, ordered by node");
    assert!(fresh.iter().all(|lease| lease.renewals == 0 && lease.renewed_at_ns.is_none()));
    for (now_ns, renewed_at_ns, renewals) in [(100, 100, 1), (300, 300, 2), (200, 300, 3)] {
        let lease = coordinator.renew_lease(ALICE, now_ns).expect("a member renews");
        assert_eq!((lease.node, lease.renewals, lease.renewed_at_ns), (ALICE, renewals, Some(renewed_at_ns)));
        assert_eq!(coordinator.leases().expect("no faults")[1], lease, "the leases are what was renewed");
    }
}

fn a_lease_ends_with_its_member(coordinator: &mut dyn Coordinator) {
    join(coordinator, ALICE);
    coordinator.renew_lease(ALICE, 100).expect("a member renews");
    let mut next = view_of(coordinator);
    next.remove_member(ALICE);
    set(coordinator, next);
    assert_eq!(coordinator.leases(), Ok(Vec::new()));
    assert_evicted(coordinator, ALICE);
    let again = NodeId { incarnation: 2, ..ALICE };
    join(coordinator, again);
    let lease = coordinator.renew_lease(again, 50).expect("a member renews");
    assert_eq!((lease.renewals, lease.renewed_at_ns), (1, Some(50)), "a new incarnation's lease starts anew");
}

fn one_of_two_changes_wins(first: &mut dyn Coordinator, second: &mut dyn Coordinator) {
    let (mut one, mut two) = (view_of(first), view_of(second));
    assert_eq!(one, two, "two connections to one coordinator see one view");
    one.put_member(member(ALICE));
    two.put_member(member(BOB));
    let winner = first.compare_and_set(0, one).expect("the first change wins");
    match second.compare_and_set(0, two) {
        Err(CoordinatorError::Conflict { found }) => assert_eq!(found, winner, "the second gets the winner"),
        other => panic!("the second change of one version conflicts: {other:?}"),
    }
    assert_eq!(view_of(second), *winner);
}

fn connections_see_each_others_leases(first: &mut dyn Coordinator, second: &mut dyn Coordinator) {
    join(first, ALICE);
    let lease = second.renew_lease(ALICE, 100).expect("a member renews");
    assert_eq!(first.leases(), Ok(vec![lease]));
}

fn view_of(coordinator: &mut dyn Coordinator) -> View {
    View::clone(&*coordinator.read().expect("a read without faults succeeds"))
}

fn set(coordinator: &mut dyn Coordinator, next: View) -> View {
    let expected = next.version;
    View::clone(&*coordinator.compare_and_set(expected, next).expect("a legal change succeeds"))
}

fn join(coordinator: &mut dyn Coordinator, node: NodeId) -> View {
    let mut next = view_of(coordinator);
    next.put_member(member(node));
    set(coordinator, next)
}

fn member(node: NodeId) -> Member {
    Member { node, address: "127.0.0.1:1".into(), cores: 1, entities: Vec::new() }
}

fn assert_evicted(coordinator: &mut dyn Coordinator, asked: NodeId) {
    let current = view_of(coordinator);
    match coordinator.renew_lease(asked, 1) {
        Err(CoordinatorError::Evicted { node, found }) => {
            assert_eq!((node, &*found), (asked, &current), "the error names the node and has the view");
        }
        other => panic!("{asked} is no member and renews nothing: {other:?}"),
    }
}
