//! The rule about entities.

use std::collections::BTreeSet;

use epicserver_storage::{BoundEntity, Member as MemberRecord, Partition, View};

use super::{STORE, node, record};
use crate::membership::able_members;

fn with_layout(mut record: MemberRecord, layout: u64) -> MemberRecord {
    for entity in &mut record.entities {
        entity.layout = layout;
    }
    record
}

/// The ids of the able ones, where the first owns everything.
fn check(members: &[MemberRecord], leaving: &[u64], expected: &[u64]) {
    let mut view = View::empty(STORE);
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
    more.entities.push(BoundEntity { name: "b".into(), layout: 1 });
    check(&[record(node(1), 1, &["a", "b"]), more], &[], &[1, 2]);
}
