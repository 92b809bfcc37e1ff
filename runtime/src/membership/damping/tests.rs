//! Tests of `damping.rs`.

use epicserver_storage::{Member, StoreId};

use super::*;

const SECOND: u64 = 1_000_000_000;
const LIMITS: DampingLimits =
    DampingLimits { short_life_ns: 60 * SECOND, borne: 2, wait_ns_max: 120 * SECOND };

/// A keeper's node and what else is there.
struct Cluster {
    damping: Damping,
    members: Vec<NodeId>,
    lives: u32,
}

impl Cluster {
    /// Of so many nodes that were there before the reign.
    fn of(nodes: u64) -> Self {
        let members = (1..=nodes).map(|id| NodeId { id, incarnation: 1 }).collect();
        let mut cluster = Self { damping: Damping::new(LIMITS), members, lives: 1 };
        cluster.show(0);
        cluster
    }

    fn show(&mut self, now: u64) {
        let mut view = View::empty(StoreId(1));
        for &node in &self.members {
            view.put_member(Member { node, address: String::new(), cores: 1, entities: Vec::new() });
        }
        self.damping.handle_view(now, &view);
    }

    fn come(&mut self, now: u64) -> NodeId {
        self.lives += 1;
        let node = NodeId { id: 100 + u64::from(self.lives), incarnation: 1 };
        self.members.push(node);
        self.show(now);
        node
    }

    fn go(&mut self, now: u64, node: NodeId) {
        self.members.retain(|member| *member != node);
        self.show(now);
    }

    /// A node comes, and goes after so long.
    fn flap(&mut self, now: u64, life: u64) {
        let node = self.come(now);
        self.go(now + life, node);
    }

    fn is_restless(&mut self, now: u64) -> bool {
        self.damping.handle_timeout(now);
        self.damping.is_restless()
    }
}

#[test]
fn two_short_lives_are_borne_and_the_third_has_moves_wait_until_it_is_forgotten() {
    let mut cluster = Cluster::of(3);
    cluster.flap(10 * SECOND, SECOND);
    cluster.flap(20 * SECOND, SECOND);
    assert!(!cluster.is_restless(21 * SECOND));
    assert_eq!(cluster.damping.poll_timeout(), None);
    cluster.flap(30 * SECOND, SECOND);
    // What was put in at 11 s has flowed out for 20 s.
    let calm_at = 71 * SECOND;
    assert_eq!(cluster.damping.poll_timeout(), Some(calm_at));
    assert!(cluster.is_restless(calm_at - 1));
    assert!(!cluster.is_restless(calm_at));
    assert_eq!(cluster.damping.poll_timeout(), None);
}

#[test]
fn whoever_was_there_for_long_costs_nothing_and_neither_do_many_at_once() {
    let mut cluster = Cluster::of(8);
    let came: Vec<NodeId> = (0..8).map(|_| cluster.come(SECOND)).collect();
    cluster.members.retain(|node| !came.contains(node));
    cluster.show(SECOND + LIMITS.short_life_ns);
    assert!(!cluster.is_restless(SECOND + LIMITS.short_life_ns), "each was there for a minute");
    cluster.members.clear();
    cluster.show(62 * SECOND);
    assert!(!cluster.is_restless(62 * SECOND), "they were there before the reign");
}

#[test]
fn whoever_leaves_in_order_costs_nothing() {
    let mut cluster = Cluster::of(3);
    for time in 0..10 {
        let node = cluster.come(time * SECOND);
        cluster.damping.handle_leave(node);
        cluster.go(time * SECOND + 1, node);
    }
    assert!(!cluster.is_restless(10 * SECOND));
    cluster.damping.handle_leave(NodeId { id: 77, incarnation: 1 });
}

#[test]
fn several_short_lives_that_end_in_one_view_count_each() {
    let mut cluster = Cluster::of(1);
    let came: Vec<NodeId> = (0..3).map(|_| cluster.come(SECOND)).collect();
    cluster.members.retain(|node| !came.contains(node));
    cluster.show(2 * SECOND);
    assert_eq!(cluster.damping.poll_timeout(), Some(62 * SECOND));
}

#[test]
fn the_wait_has_an_end_however_many_there_were() {
    let mut cluster = Cluster::of(3);
    (0..1000).for_each(|time| cluster.flap(time * SECOND, SECOND / 2));
    let last = 999 * SECOND + SECOND / 2;
    assert_eq!(cluster.damping.poll_timeout(), Some(last + LIMITS.wait_ns_max));
}

#[test]
fn a_node_whose_short_lives_and_absences_take_less_than_the_measure_is_found_out_and_a_slower_one_is_borne() {
    for (period, is_found) in [(50, true), (59, true), (61, false)] {
        let mut cluster = Cluster::of(3);
        let mut seen = false;
        for time in 0..200 {
            let now = time * period * SECOND;
            cluster.flap(now, 10 * SECOND);
            seen |= cluster.is_restless(now + 10 * SECOND);
        }
        assert_eq!(seen, is_found, "every {period} s");
    }
}

#[test]
fn with_no_measure_nothing_ever_waits() {
    let mut cluster = Cluster::of(1);
    cluster.damping.limits.short_life_ns = 0;
    (0..10).for_each(|time| cluster.flap(time, 0));
    assert!(!cluster.is_restless(10));
}
