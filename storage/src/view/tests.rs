//! Tests of `view.rs`.

use super::*;

const ALICE: NodeId = NodeId { id: 1, incarnation: 3 };
const BOB: NodeId = NodeId { id: 2, incarnation: 1 };

fn member(node: NodeId) -> Member {
    Member { node, address: "127.0.0.1:1".into(), cores: 2, entities: Vec::new() }
}

/// Alice and Bob are members, Alice owns partition 7 at epoch 5.
fn sample() -> View {
    let mut view = View::empty(StoreId(9));
    view.put_member(member(BOB));
    view.put_member(member(ALICE));
    view.partitions[7] = PartitionState { owner: Some(ALICE), epoch: 5, moving_to: None };
    view
}

fn refused(change: impl FnOnce(&mut View)) -> ViewError {
    let view = sample();
    let mut next = view.clone();
    change(&mut next);
    view.check_successor(&next).unwrap_err()
}

#[test]
fn an_unchanged_view_may_follow() {
    assert_eq!(sample().check_successor(&sample()), Ok(()));
    assert_eq!(View::empty(StoreId(9)).check_successor(&sample()), Ok(()));
}

#[test]
fn assigning_and_removing_keep_the_rules() {
    let view = sample();
    let seven = Partition::from_hash(7);
    let mut next = view.clone();
    next.assign(seven, Some(BOB));
    assert_eq!(view.check_successor(&next), Ok(()));
    assert_eq!((next.owner(seven), next.partition(seven).epoch), (Some(BOB), 6));

    let mut next = view.clone();
    next.remove_member(ALICE);
    assert_eq!(view.check_successor(&next), Ok(()));
    assert_eq!((next.owner(seven), next.partition(seven).epoch), (None, 6));
    assert_eq!((next.member(ALICE), next.member(BOB).map(|member| member.node)), (None, Some(BOB)));
}

#[test]
fn a_move_changes_nothing_until_the_hand_over() {
    let view = sample();
    let seven = Partition::from_hash(7);
    let mut moving = view.clone();
    moving.move_to(seven, Some(BOB));
    assert_eq!(view.check_successor(&moving), Ok(()));
    assert_eq!(
        moving.partition(seven),
        PartitionState { owner: Some(ALICE), epoch: 5, moving_to: Some(BOB) }
    );

    let mut given_up = moving.clone();
    given_up.remove_member(BOB);
    assert_eq!(moving.check_successor(&given_up), Ok(()));
    assert_eq!(
        given_up.partition(seven),
        view.partition(seven),
        "its owner keeps it, and need not open its fence again"
    );

    let mut handed = moving.clone();
    handed.assign(seven, Some(BOB));
    assert_eq!(moving.check_successor(&handed), Ok(()));
    assert_eq!(handed.partition(seven), PartitionState { owner: Some(BOB), epoch: 6, moving_to: None });
}

#[test]
fn another_store_needs_new_epochs_for_what_is_owned() {
    let view = sample();
    let mut next = view.clone();
    next.store = StoreId(10);
    let seven = Partition::from_hash(7);
    assert_eq!(
        view.check_successor(&next),
        Err(ViewError::SameEpochInNewStore { partition: seven, epoch: 5 })
    );
    next.assign(seven, Some(ALICE));
    assert_eq!(view.check_successor(&next), Ok(()));
}

#[test]
fn a_member_is_found_in_its_own_incarnation_only() {
    let mut view = sample();
    let again = NodeId { incarnation: 4, ..ALICE };
    assert!(view.member(again).is_none());
    view.put_member(member(again));
    assert!(view.member(ALICE).is_none());
    assert!(view.member(again).is_some());
    assert_eq!(view.members.len(), 2);
}

#[test]
fn each_rule_is_named() {
    let seven = Partition::from_hash(7);
    assert_eq!(
        refused(|view| view.partitions[7].epoch = 4),
        ViewError::EpochFalls { partition: seven, stored: 5, given: 4 }
    );
    assert_eq!(
        refused(|view| view.partitions[7].epoch = COUNT_MAX + 1),
        ViewError::EpochTooHigh { partition: seven, given: COUNT_MAX + 1 }
    );
    assert_eq!(
        refused(|view| view.partitions[7].owner = Some(BOB)),
        ViewError::SameEpoch { partition: seven, epoch: 5 }
    );
    assert_eq!(
        refused(|view| view.partitions[7].owner = None),
        ViewError::SameEpoch { partition: seven, epoch: 5 }
    );
    assert_eq!(
        refused(|view| view.put_member(member(NodeId { incarnation: 4, ..ALICE }))),
        ViewError::OwnerIsNoMember { partition: seven, owner: ALICE }
    );
    assert_eq!(
        refused(|view| view.partitions[8].moving_to = Some(BOB)),
        ViewError::MoveWithoutOwner { partition: Partition::from_hash(8) }
    );
    for to in [ALICE, NodeId { id: 3, incarnation: 1 }, NodeId { incarnation: 2, ..BOB }] {
        assert_eq!(
            refused(|view| view.partitions[7].moving_to = Some(to)),
            ViewError::MoveToNobody { partition: seven, to }
        );
    }
    assert_eq!(
        refused(|view| view.put_member(member(NodeId { incarnation: 2, ..ALICE }))),
        ViewError::IncarnationFalls { id: 1, stored: 3, given: 2 }
    );
    assert_eq!(refused(|view| view.members.swap(0, 1)), ViewError::MemberOrder { first: BOB, second: ALICE });
    assert_eq!(
        refused(|view| view.members[0].address = "x".repeat(257)),
        ViewError::TooMany { what: "bytes of an address", given: 257, limit: 256 }
    );
    let crowd = |id| member(NodeId { id, incarnation: 3 });
    assert_eq!(
        refused(|view| view.members = (0..1025).map(crowd).collect()),
        ViewError::TooMany { what: "members", given: 1025, limit: 1024 }
    );
}

#[test]
fn the_version_of_a_state_never_falls_and_is_never_forgotten() {
    let mut view = sample();
    view.raise_schema("b", 3);
    view.raise_schema("a", 2);
    view.raise_schema("b", 1);
    assert_eq!((view.schema("a"), view.schema("b"), view.schema("c")), (Some(2), Some(3), None));
    assert_eq!(sample().check_successor(&view), Ok(()));
    for (given, change) in [(2, Some(2)), (0, None)] {
        let mut next = view.clone();
        match change {
            Some(version) => next.schemas[1].version = version,
            None => drop(next.schemas.pop()),
        }
        let expected = ViewError::SchemaFalls { entity: "b".to_owned(), stored: 3, given };
        assert_eq!(view.check_successor(&next), Err(expected));
    }
    for names in [["b", "a"], ["a", "a"]] {
        let schemas = names.map(|entity| Schema { entity: entity.to_owned(), version: 3 }).to_vec();
        assert_eq!(refused(|next| next.schemas = schemas.clone()), ViewError::SchemaOrder);
    }
}

#[test]
fn an_entity_says_in_which_versions_it_can_be_saved() {
    let mut entity = BoundEntity::new("a", 3, 30);
    entity.earlier.push(EarlierForm { version: 2, layout: 20 });
    assert_eq!([1, 2, 3, 4].map(|version| entity.layout_at(version)), [None, Some(20), Some(30), None]);
}
