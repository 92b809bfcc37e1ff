//! The rule about entities.

use std::collections::BTreeSet;

use epicserver_storage::{BoundEntity, EarlierForm, Member as MemberRecord, Partition, View};

use super::{STORE, node, record};
use crate::membership::able_members;

fn with_layout(mut record: MemberRecord, layout: u64) -> MemberRecord {
    for entity in &mut record.entities {
        entity.layout = layout;
    }
    record
}

/// A node whose entity `a` has this version and can be saved in these earlier ones; the layout is ten times the version.
fn with_versions(id: u64, version: u32, earlier: &[u32]) -> MemberRecord {
    let form = |version: u32| EarlierForm { version, layout: u64::from(version) * 10 };
    let mut entity = BoundEntity::new("a", version, form(version).layout);
    entity.earlier = earlier.iter().copied().map(form).collect();
    MemberRecord { entities: vec![entity], ..record(node(id), 1, &[]) }
}

/// The ids of the able ones, where the first owns everything.
fn check(members: &[MemberRecord], leaving: &[u64], expected: &[u64]) {
    check_at(None, members, leaving, expected);
}

/// As above, where states of `a` are saved in this version.
fn check_at(schema: Option<u32>, members: &[MemberRecord], leaving: &[u64], expected: &[u64]) {
    let mut view = View::empty(STORE);
    schema.into_iter().for_each(|version| view.raise_schema("a", version));
    for member in members {
        view.put_member(member.clone());
    }
    for partition in Partition::all() {
        view.assign(partition, members.first().map(|member| member.node));
    }
    let leaving: BTreeSet<_> = leaving.iter().map(|&id| node(id)).collect();
    let able: Vec<u64> = able_members(&view, &leaving).iter().map(|member| member.node.id).collect();
    assert_eq!(able, expected);
}

#[test]
fn who_binds_nothing_or_has_no_cores_owns_nothing() {
    check(&[], &[], &[]);
    check(&[record(node(1), 2, &[]), record(node(2), 0, &["a"])], &[], &[]);
    check(&[record(node(1), 2, &[]), record(node(2), 0, &["a"]), record(node(3), 1, &["a"])], &[], &[3]);
}

#[test]
fn who_binds_less_owns_nothing_once_somebody_binds_everything() {
    let (less, more) = (record(node(1), 2, &["a"]), record(node(2), 2, &["b", "a"]));
    check(&[less.clone(), more.clone()], &[], &[2]);
    check(&[less.clone(), more.clone()], &[2], &[1]);
    check(&[less, more.clone(), record(node(3), 1, &["a", "b"])], &[], &[2, 3]);
    // A node that runs nothing does not set the standard.
    check(&[more, record(node(3), 0, &["a", "b", "c"])], &[], &[2]);
}

#[test]
fn while_nobody_binds_everything_those_who_own_go_on() {
    let (left, right) = (record(node(2), 2, &["a", "b"]), record(node(1), 2, &["b", "c"]));
    check(&[left.clone(), right.clone()], &[], &[2]);
    check(&[right.clone(), left.clone()], &[], &[1]);
    check(&[left, right, record(node(3), 1, &["c", "b", "a"])], &[], &[3]);
}

#[test]
fn other_layouts_own_nothing_while_those_who_own_stay() {
    let old = record(node(2), 1, &["a", "b"]);
    let new = with_layout(record(node(1), 4, &["a", "b"]), 9);
    let same = record(node(3), 1, &["b", "a"]);
    check(&[old.clone(), new.clone(), same.clone()], &[], &[2, 3]);
    check(&[old.clone(), new.clone(), same.clone()], &[2, 3], &[1]);
    check(&[new, old], &[], &[1]);
}

#[test]
fn a_layout_may_be_listed_with_more_beside_it() {
    let mut more = record(node(2), 1, &["a", "b"]);
    more.entities.push(BoundEntity::new("b", 1, 1));
    check(&[record(node(1), 1, &["a", "b"]), more], &[], &[1, 2]);
}

#[test]
fn who_can_save_in_the_version_of_the_view_owns_its_share() {
    let (old, both, ahead) = (with_versions(1, 2, &[]), with_versions(2, 3, &[2]), with_versions(3, 3, &[]));
    let all = [old, both, ahead];
    check_at(Some(2), &all, &[], &[1, 2]);
    check_at(Some(2), &all, &[1, 2], &[]);
    check_at(Some(3), &all, &[], &[2, 3]);
    check_at(Some(4), &all, &[], &[]);
}

#[test]
fn an_earlier_version_in_another_layout_is_another_one() {
    let mut other = with_versions(2, 3, &[2]);
    other.entities[0].earlier[0].layout += 1;
    check_at(Some(2), &[with_versions(1, 2, &[]), other], &[], &[1]);
}
