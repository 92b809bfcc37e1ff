//! Tests of `leases.rs`.

use epicserver_storage::{Member, StoreId};

use super::*;

const ALICE: NodeId = NodeId { id: 1, incarnation: 1 };
const BOB: NodeId = NodeId { id: 2, incarnation: 1 };
const SECOND: u64 = 1_000_000_000;
const STEP: u64 = SECOND / 4;

fn view(members: &[NodeId]) -> View {
    let mut view = View::empty(StoreId(1));
    for &node in members {
        view.put_member(Member { node, address: String::new(), cores: 1, entities: Vec::new() });
    }
    view
}

/// Leases of both from 0 on, with somebody who looks.
fn both() -> KeeperLeases {
    let mut leases = KeeperLeases::new();
    leases.handle_view(0, &view(&[ALICE, BOB]));
    leases
}

/// Looks until then, and gives who was lost at which time.
fn watch(leases: &mut KeeperLeases, from: u64, until: u64) -> Vec<(u64, NodeId)> {
    let mut lost = Vec::new();
    let mut now = from;
    while now <= until {
        leases.handle_timeout(now);
        while let Some(node) = leases.poll_lost() {
            lost.push((now, node));
        }
        now = leases.poll_timeout().map_or(until + 1, |at| at.max(now + 1));
    }
    lost
}

#[test]
fn who_does_not_renew_is_lost_when_its_lease_is_over() {
    let mut leases = both();
    assert_eq!(watch(&mut leases, 0, 3 * SECOND), []);
    assert!(leases.handle_renew(3 * SECOND, ALICE));
    let lost = watch(&mut leases, 3 * SECOND, 20 * SECOND);
    assert_eq!(lost, [(takeover_ns(0), BOB), (takeover_ns(3 * SECOND), ALICE)]);
}

#[test]
fn who_was_named_lost_cannot_renew_any_more() {
    let mut leases = both();
    assert_eq!(watch(&mut leases, 0, takeover_ns(0)).len(), 2);
    assert!(!leases.handle_renew(takeover_ns(0), ALICE));
    leases.handle_view(takeover_ns(0), &view(&[BOB]));
    assert!(!leases.handle_renew(takeover_ns(0), ALICE), "it is no member");
    let again = NodeId { incarnation: 2, ..ALICE };
    leases.handle_view(takeover_ns(0), &view(&[again, BOB]));
    assert!(leases.handle_renew(takeover_ns(0) + 1, again));
}

#[test]
fn a_proof_of_death_needs_no_lease_and_is_heard_once() {
    let mut leases = both();
    leases.handle_proven_dead(BOB);
    leases.handle_proven_dead(NodeId { incarnation: 7, ..ALICE });
    assert!(!leases.handle_renew(1, BOB), "what it sent before it died");
    assert_eq!((leases.poll_lost(), leases.poll_lost()), (Some(BOB), None));
    leases.handle_proven_dead(BOB);
    assert_eq!(leases.poll_lost(), None);
}

#[test]
fn time_in_which_nobody_looked_does_not_count() {
    let mut leases = both();
    assert_eq!(watch(&mut leases, 0, 2 * SECOND), []);
    // The keeper was stopped for a minute.
    let back = 62 * SECOND;
    let looked_at = leases.looked_at.expect("it looked");
    let gap = back - looked_at;
    assert!(leases.handle_renew(back, ALICE));
    let lost = watch(&mut leases, back, back + 20 * SECOND);
    assert_eq!(lost, [(takeover_ns(gap), BOB), (takeover_ns(back), ALICE)]);
}

#[test]
fn a_member_that_comes_has_a_whole_lease() {
    let mut leases = both();
    for now in (0..5 * SECOND).step_by(STEP as usize) {
        leases.handle_timeout(now);
    }
    let carol = NodeId { id: 3, incarnation: 1 };
    leases.handle_view(5 * SECOND, &view(&[ALICE, BOB, carol]));
    let lost = watch(&mut leases, 5 * SECOND, 20 * SECOND);
    assert_eq!(lost.last(), Some(&(takeover_ns(5 * SECOND), carol)));
    assert_eq!(KeeperLeases::new().poll_timeout(), None);
}
