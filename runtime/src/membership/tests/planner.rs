//! The planner, over any history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epicserver_storage::{
    BoundEntity, EarlierForm, Member as MemberRecord, NodeId, PARTITIONS, Partition, StoreId, View,
};
use proptest::prelude::*;

use super::{STORE, node, record};
use crate::membership::{Handover, JoinError, MOVES_MAX, Planner, able_members};

/// A planner, and what was said to it.
struct Cluster {
    planner: Planner,
    leaving: BTreeSet<NodeId>,
    /// Nodes that the next view removes whatever they own.
    lost: BTreeSet<NodeId>,
    is_restless: bool,
    next_id: u64,
}

impl Cluster {
    fn new() -> Self {
        let planner = Planner::new(Arc::new(View::empty(STORE)), STORE);
        Self { planner, leaving: BTreeSet::new(), lost: BTreeSet::new(), is_restless: false, next_id: 1 }
    }

    /// With members of these cores, at rest.
    fn of(cores: &[u8]) -> Self {
        let mut cluster = Self::new();
        for &cores in cores {
            cluster.join(cores, &["a"]);
        }
        cluster.rest();
        cluster
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(self.planner.view())
    }

    fn join(&mut self, cores: u8, entities: &[&str]) -> NodeId {
        let node = node(self.next_id);
        self.next_id += 1;
        self.planner.handle_join(record(node, cores, entities)).expect("there is room");
        node
    }

    fn leave(&mut self, node: NodeId) {
        self.leaving.insert(node);
        self.planner.handle_leave(node);
    }

    fn be_restless(&mut self, is_restless: bool) {
        self.is_restless = is_restless;
        self.planner.handle_restless(is_restless);
    }

    fn lose(&mut self, node: NodeId) {
        self.lost.insert(node);
        self.planner.handle_lost(node);
    }

    /// Hands over so many of the partitions on the move.
    fn hand_over(&mut self, count: usize) {
        let view = self.view();
        for partition in Partition::all().filter(|&at| view.partition(at).moving_to.is_some()).take(count) {
            let state = view.partition(partition);
            let (owner, to) = (state.owner.expect("it moves"), state.moving_to.expect("it moves"));
            self.planner.handle_handed(owner, &[Handover { partition, epoch: state.epoch, to }]);
        }
    }

    /// Takes one view, if there is one to take, and checks it.
    fn step(&mut self) -> bool {
        let before = self.view();
        let Some(mut next) = self.planner.poll_view() else { return false };
        assert_eq!(before.check_successor(&next), Ok(()));
        self.check_assigned(&before, &next);
        self.check_moves(&before, &next);
        next.version += 1;
        self.planner.handle_view(Arc::new(next));
        let view = self.view();
        self.leaving.retain(|&node| view.member(node).is_some());
        self.lost.clear();
        true
    }

    /// Hands over until nothing changes any more, when it is calm.
    fn rest(&mut self) {
        self.be_restless(false);
        let mut steps = 0;
        loop {
            self.hand_over(usize::MAX);
            // They say it again and again.
            self.leaving.iter().for_each(|node| self.planner.handle_leave(*node));
            if !self.step() {
                break;
            }
            steps += 1;
            assert!(steps < 200, "it comes to rest");
        }
        self.check_rest();
    }

    /// Owners change by a hand-over, or where the owner is gone; and nothing is free that could be owned.
    fn check_assigned(&self, before: &View, next: &View) {
        let is_anybody_able = !able_members(next, &self.leaving).is_empty();
        for partition in Partition::all() {
            let (old, new) = (before.partition(partition), next.partition(partition));
            assert!(new.owner.is_some() || !is_anybody_able, "partition {partition} is free");
            let Some(owner) = old.owner.filter(|&owner| next.member(owner).is_some()) else { continue };
            if new.owner != Some(owner) {
                assert_eq!(new.owner, old.moving_to, "{owner} did not hand over {partition} to another");
            }
            let is_given_up =
                old.moving_to.is_some() && new.owner == Some(owner) && new.moving_to != old.moving_to;
            let is_target_gone = old.moving_to.is_some_and(|to| next.member(to).is_none());
            let is_other_store = before.store != next.store;
            assert!(!is_given_up || is_target_gone || is_other_store, "the move of {partition} is given up");
        }
    }

    /// Moves are few, and between two nodes that stay only for balance, when it is calm.
    fn check_moves(&self, before: &View, next: &View) {
        let moving = next.partitions.iter().filter(|state| state.moving_to.is_some()).count();
        assert!(moving <= MOVES_MAX, "{moving} moves at one time");
        let able = shares(next, &self.leaving);
        let held = held(next);
        for partition in Partition::all() {
            let (old, new) = (before.partition(partition), next.partition(partition));
            let is_new = new.moving_to.is_some() && (new.moving_to, new.owner) != (old.moving_to, old.owner);
            let (Some(owner), Some(to)) = (new.owner, new.moving_to.filter(|_| is_new)) else { continue };
            let count = |node| held.get(&node).copied().unwrap_or(0);
            assert!(count(to) <= able[&to].div_ceil(SHARE), "{to} gets more than its share");
            if let Some(share) = able.get(&owner) {
                assert!(!self.is_restless, "{owner} gives to {to} while nodes come and go");
                assert!(count(owner) >= share / SHARE, "{owner} gives of its share");
                assert!(
                    count(owner) + moves_from(next, owner) > share / SHARE,
                    "{owner} had no more than its share"
                );
            }
        }
    }

    fn check_rest(&self) {
        let view = self.view();
        let able = shares(&view, &self.leaving);
        assert!(view.partitions.iter().all(|state| state.moving_to.is_none()));
        if able.is_empty() {
            return;
        }
        let held = held(&view);
        assert_eq!(self.leaving.len(), 0, "those who leave are gone");
        for (node, &share) in &able {
            let count = held.get(node).copied().unwrap_or(0);
            assert!((count * SHARE).abs_diff(share) < SHARE, "{node} holds {count} of {share} / {SHARE}");
        }
        assert!(held.keys().all(|node| able.contains_key(node)), "others own nothing");
    }
}

/// Shares are counted in such parts of a partition.
const SHARE: usize = 1 << 20;

/// The share of each able member by cores, in parts of a partition, rounded down.
fn shares(view: &View, leaving: &BTreeSet<NodeId>) -> BTreeMap<NodeId, usize> {
    let able = able_members(view, leaving);
    let weight: usize = able.iter().map(|member| usize::from(member.cores)).sum();
    let share = |member: &MemberRecord| usize::from(PARTITIONS) * SHARE * usize::from(member.cores) / weight;
    able.into_iter().map(|member| (member.node, share(member))).collect()
}

/// How many partitions each owns and keeps, or gets.
fn held(view: &View) -> BTreeMap<NodeId, usize> {
    let mut held = BTreeMap::new();
    for node in view.partitions.iter().filter_map(|state| state.moving_to.or(state.owner)) {
        *held.entry(node).or_default() += 1;
    }
    held
}

fn moves_from(view: &View, node: NodeId) -> usize {
    view.partitions.iter().filter(|state| state.owner == Some(node) && state.moving_to.is_some()).count()
}

fn changed_owners(before: &View, after: &View) -> usize {
    Partition::all().filter(|&partition| before.owner(partition) != after.owner(partition)).count()
}

#[derive(Clone, Debug)]
enum Deed {
    Join { cores: u8, kind: usize },
    Leave(prop::sample::Index),
    Lose(prop::sample::Index),
    HandOver(usize),
    Restless(bool),
    Store,
    Step,
    Rest,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        4 => (0..6u8, 0..4usize).prop_map(|(cores, kind)| Deed::Join { cores, kind }),
        2 => any::<prop::sample::Index>().prop_map(Deed::Leave),
        2 => any::<prop::sample::Index>().prop_map(Deed::Lose),
        4 => (0..300usize).prop_map(Deed::HandOver),
        1 => any::<bool>().prop_map(Deed::Restless),
        1 => Just(Deed::Store),
        6 => Just(Deed::Step),
        1 => Just(Deed::Rest),
    ];
    prop::collection::vec(deed, 1..24)
}

const KINDS: [&[&str]; 4] = [&["a"], &["a"], &["a", "b"], &[]];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_history_keeps_the_rules_and_comes_to_rest_in_balance(deeds in deeds()) {
        let mut cluster = Cluster::new();
        for deed in deeds {
            let members: Vec<NodeId> = cluster.view().members.iter().map(|member| member.node).collect();
            match deed {
                Deed::Join { cores, kind } => {
                    cluster.join(cores, KINDS[kind]);
                }
                Deed::Leave(index) if !members.is_empty() => cluster.leave(*index.get(&members)),
                Deed::Lose(index) if !members.is_empty() => cluster.lose(*index.get(&members)),
                Deed::Leave(_) | Deed::Lose(_) => {}
                Deed::HandOver(count) => cluster.hand_over(count),
                Deed::Restless(is_restless) => cluster.be_restless(is_restless),
                Deed::Store => {
                    let store = StoreId(cluster.view().store.0 + 1);
                    cluster.planner.handle_store(store);
                }
                Deed::Step => {
                    cluster.step();
                }
                Deed::Rest => cluster.rest(),
            }
        }
        cluster.rest();
    }
}

#[test]
fn a_node_that_joins_gets_its_share_and_nothing_else_moves() {
    let mut cluster = Cluster::of(&[2, 2]);
    let before = cluster.view();
    let third = cluster.join(4, &["a"]);
    cluster.rest();
    let after = cluster.view();
    let gained = Partition::all().filter(|&partition| after.owner(partition) == Some(third)).count();
    assert_eq!((gained, changed_owners(&before, &after)), (2048, 2048));
}

#[test]
fn nothing_is_moved_for_balance_while_nodes_come_and_go() {
    let mut cluster = Cluster::of(&[2, 2]);
    cluster.be_restless(true);
    let third = cluster.join(4, &["a"]);
    while cluster.step() {}
    assert_eq!(held(&cluster.view()).get(&third), None);
    cluster.be_restless(false);
    assert!(cluster.step(), "the share that it waited for");
    cluster.rest();
    assert_eq!(held(&cluster.view())[&third], 2048);
}

#[test]
fn nodes_own_ranges_so_that_their_cores_share_the_load() {
    let mut cluster = Cluster::of(&[2, 2]);
    cluster.join(2, &["a"]);
    cluster.rest();
    let view = cluster.view();
    for member in &view.members {
        let owned: Vec<u16> = Partition::all()
            .filter(|&partition| view.owner(partition) == Some(member.node))
            .map(Partition::number)
            .collect();
        let even = owned.iter().filter(|&&number| number.is_multiple_of(2)).count();
        assert!(even.abs_diff(owned.len() - even) <= 2, "{}: {even} of {}", member.node, owned.len());
    }
}

#[test]
fn a_lost_node_is_replaced_in_one_view_and_only_its_partitions_change() {
    let mut cluster = Cluster::of(&[1, 1, 2]);
    let before = cluster.view();
    cluster.lose(node(3));
    assert!(cluster.step());
    let after = cluster.view();
    assert!(after.member(node(3)).is_none());
    assert_eq!(changed_owners(&before, &after), 2048);
    assert!(after.partitions.iter().all(|state| state.owner.is_some() && state.moving_to.is_none()));
    assert!(!cluster.step());
}

#[test]
fn what_a_lost_node_was_handing_over_goes_where_it_was_going() {
    let mut cluster = Cluster::of(&[1, 1]);
    let third = cluster.join(1, &["a"]);
    assert!(cluster.step());
    let before = cluster.view();
    let moving: Vec<Partition> = Partition::all()
        .filter(|&partition| before.partition(partition).moving_to == Some(third))
        .filter(|&partition| before.owner(partition) == Some(node(2)))
        .collect();
    assert!(!moving.is_empty());
    cluster.lose(node(2));
    assert!(cluster.step());
    assert!(moving.iter().all(|&partition| cluster.view().owner(partition) == Some(third)));
}

#[test]
fn word_of_another_move_ends_nothing() {
    let mut cluster = Cluster::of(&[1, 1]);
    cluster.join(1, &["a"]);
    assert!(cluster.step());
    let view = cluster.view();
    let partition = Partition::all().find(|&at| view.partition(at).moving_to.is_some()).expect("some move");
    let state = view.partition(partition);
    let (owner, to) = (state.owner.expect("it moves"), state.moving_to.expect("it moves"));
    let right = Handover { partition, epoch: state.epoch, to };
    for (who, wrong) in [
        (owner, Handover { epoch: state.epoch + 1, ..right }),
        (owner, Handover { to: owner, ..right }),
        (owner, Handover { to: node(9), ..right }),
        (to, right),
    ] {
        cluster.planner.handle_handed(who, &[wrong]);
        assert!(!cluster.step(), "{who} says {wrong:?}");
    }
    cluster.planner.handle_handed(owner, &[right]);
    assert!(cluster.step());
    assert_eq!(cluster.view().owner(partition), Some(to));
}

#[test]
fn a_node_that_leaves_stays_until_it_owns_nothing() {
    let mut cluster = Cluster::of(&[1, 1]);
    cluster.leave(node(1));
    while cluster.step() {
        assert!(cluster.view().member(node(1)).is_some(), "it has not said that it owns nothing");
        assert_eq!(cluster.planner.poll_left(), None);
        cluster.hand_over(200);
    }
    assert!(cluster.view().partitions.iter().all(|state| state.owner == Some(node(2))));
    cluster.leave(node(1));
    assert!(cluster.step());
    assert!(cluster.view().member(node(1)).is_none());
    assert_eq!(cluster.planner.poll_left(), Some(node(1)));
}

#[test]
fn the_last_able_nodes_are_told_to_go_with_what_they_have() {
    let mut cluster = Cluster::of(&[1, 1, 0]);
    cluster.leave(node(1));
    cluster.step();
    assert_eq!(cluster.planner.poll_left(), None, "the second could take over");
    cluster.leave(node(2));
    cluster.step();
    assert_eq!([cluster.planner.poll_left(), cluster.planner.poll_left()], [Some(node(1)), Some(node(2))]);
    assert_eq!(cluster.planner.poll_left(), None);
    assert!(cluster.view().member(node(1)).is_some(), "it serves still, so nobody may take its partitions");
    // Asked by one that is no member.
    cluster.planner.handle_leave(node(7));
    assert_eq!(cluster.planner.poll_left(), Some(node(7)));
}

#[test]
fn another_store_raises_every_epoch_and_moves_nothing() {
    let mut cluster = Cluster::of(&[1, 1]);
    let before = cluster.view();
    cluster.planner.handle_store(StoreId(8));
    assert!(cluster.step());
    let after = cluster.view();
    assert_eq!((after.store, changed_owners(&before, &after)), (StoreId(8), 0));
    let rises = |partition| after.partition(partition).epoch == before.partition(partition).epoch + 1;
    assert!(Partition::all().all(rises));
    assert!(!cluster.step());
}

#[test]
fn a_removed_incarnation_never_comes_back_and_the_next_one_does() {
    let mut cluster = Cluster::of(&[1, 1]);
    cluster.lose(node(2));
    assert!(cluster.step());
    assert_eq!(cluster.planner.handle_join(record(node(2), 1, &["a"])), Err(JoinError::Removed(node(2))));
    let again = NodeId { incarnation: 2, ..node(2) };
    assert_eq!(cluster.planner.handle_join(record(again, 1, &["a"])), Ok(()));
    cluster.rest();
    assert!(cluster.view().member(again).is_some());
    // And one that comes back before it was missed takes the place of the one before.
    let third = NodeId { incarnation: 3, ..node(2) };
    cluster.lost.insert(again);
    assert_eq!(cluster.planner.handle_join(record(third, 1, &["a"])), Ok(()));
    assert!(cluster.step());
    assert!(cluster.view().member(again).is_none() && cluster.view().member(third).is_some());
    assert!(matches!(cluster.planner.handle_join(record(again, 1, &["a"])), Err(JoinError::Removed(_))));
}

#[test]
fn a_record_that_no_view_may_have_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::of(&[1]);
    let mut wrong = record(node(9), 1, &["a"]);
    wrong.address = "x".repeat(1000);
    assert!(matches!(cluster.planner.handle_join(wrong), Err(JoinError::Invalid(_))));
    assert!(!cluster.step());
    let mut full = View::clone(&cluster.view());
    (10..1030).for_each(|id| full.put_member(record(node(id), 0, &[])));
    full.version += 1;
    cluster.planner.handle_view(Arc::new(full));
    for id in 1030..1033 {
        assert_eq!(cluster.planner.handle_join(record(node(id), 0, &[])), Ok(()));
    }
    assert!(matches!(cluster.planner.handle_join(record(node(1033), 0, &[])), Err(JoinError::Invalid(_))));
    assert!(cluster.step());
    assert_eq!(cluster.view().members.len(), 1024);
}

#[test]
fn a_change_that_lost_is_planned_again_on_what_won() {
    let mut cluster = Cluster::of(&[1]);
    cluster.join(1, &["a"]);
    assert!(cluster.planner.poll_view().is_some(), "and is lost");
    assert!(cluster.planner.poll_view().is_none(), "until something happens");
    let mut other = View::clone(&cluster.view());
    other.put_member(record(node(77), 1, &["a"]));
    other.version += 1;
    cluster.planner.handle_view(Arc::new(other));
    cluster.rest();
    let ids: Vec<u64> = cluster.view().members.iter().map(|member| member.node.id).collect();
    assert_eq!(ids, [1, 2, 77]);
}

/// Nodes of version 2 are replaced one by one by nodes of version 3; those of version 3 read and write the older one too.
#[test]
fn states_are_saved_in_the_oldest_version_until_its_last_node_leaves() {
    let with_versions = |id: u64, version: u32, earlier: &[u32]| {
        let mut entity = BoundEntity::new("a", version, u64::from(version));
        entity.earlier =
            earlier.iter().map(|&version| EarlierForm { version, layout: version.into() }).collect();
        MemberRecord { entities: vec![entity], ..record(node(id), 1, &[]) }
    };
    let mut cluster = Cluster::new();
    let join = |cluster: &mut Cluster, record| {
        cluster.planner.handle_join(record).expect("there is room");
        cluster.rest();
    };
    let owned = |cluster: &Cluster, id: u64| {
        cluster.view().partitions.iter().filter(|state| state.owner == Some(node(id))).count()
    };
    (1..=2).for_each(|id| join(&mut cluster, with_versions(id, 2, &[])));
    join(&mut cluster, with_versions(3, 3, &[2]));
    assert_eq!(cluster.view().schema("a"), Some(2));
    assert!(owned(&cluster, 3) > 1000, "one that can write the older version has its share");
    cluster.leave(node(1));
    cluster.rest();
    assert_eq!(cluster.view().schema("a"), Some(2));
    cluster.leave(node(2));
    cluster.rest();
    assert_eq!((cluster.view().schema("a"), owned(&cluster, 3)), (Some(3), usize::from(PARTITIONS)));
    // One that comes late owns nothing.
    join(&mut cluster, with_versions(4, 2, &[]));
    assert_eq!((cluster.view().schema("a"), owned(&cluster, 4)), (Some(3), 0));
}

/// The newer program cannot write the older version: it gets everything in one go, when the last older node leaves.
#[test]
fn a_program_without_a_way_back_takes_over_when_the_last_older_node_leaves() {
    let with_version = |id: u64, version: u32| MemberRecord {
        entities: vec![BoundEntity::new("a", version, version.into())],
        ..record(node(id), 1, &[])
    };
    let mut cluster = Cluster::new();
    for record in [with_version(1, 2), with_version(2, 3)] {
        cluster.planner.handle_join(record).expect("there is room");
        cluster.rest();
    }
    let owners = |cluster: &Cluster| -> BTreeSet<Option<NodeId>> {
        cluster.view().partitions.iter().map(|state| state.owner).collect()
    };
    assert_eq!((cluster.view().schema("a"), owners(&cluster)), (Some(2), [Some(node(1))].into()));
    cluster.leave(node(1));
    cluster.rest();
    assert_eq!((cluster.view().schema("a"), owners(&cluster)), (Some(3), [Some(node(2))].into()));
}
