//! Tests of `member.rs`.

use epicserver_storage::{LEASE_NS, StoreId};

use super::*;
use crate::membership::{KeeperRequest as Ask, MemberAction as Do};

const ME: NodeId = NodeId { id: 1, incarnation: 1 };
const AGAIN: NodeId = NodeId { id: 1, incarnation: 2 };
const KEEPER: NodeId = NodeId { id: 2, incarnation: 1 };
const OTHER_KEEPER: NodeId = NodeId { id: 3, incarnation: 1 };
const SECOND: u64 = 1_000_000_000;

fn record(node: NodeId) -> MemberRecord {
    MemberRecord { node, address: "x".into(), cores: 2, entities: Vec::new() }
}

/// A view where these partitions are mine, each at its epoch.
fn view_of(me: NodeId, version: u64, store: u128, mine: &[(u16, u64)]) -> Arc<View> {
    let mut view = View::empty(StoreId(store));
    view.version = version;
    for node in [me, KEEPER, OTHER_KEEPER] {
        view.put_member(record(node));
    }
    for &(number, epoch) in mine {
        let state = &mut view.partitions[usize::from(number)];
        (state.owner, state.epoch) = (Some(me), epoch);
    }
    Arc::new(view)
}

fn view(version: u64, mine: &[(u16, u64)]) -> Arc<View> {
    view_of(ME, version, 1, mine)
}

fn without_me(version: u64) -> Arc<View> {
    let mut view = View::clone(&view(version, &[]));
    view.remove_member(ME);
    Arc::new(view)
}

/// With a partition of mine that moves to the keeper's node.
fn moving(version: u64, mine: &[(u16, u64)], number: u16) -> Arc<View> {
    let mut view = View::clone(&view(version, mine));
    view.partitions[usize::from(number)].moving_to = Some(KEEPER);
    Arc::new(view)
}

fn handover(number: u16, epoch: u64) -> Handover {
    Handover { partition: Partition::new(number).expect("in range"), epoch, to: KEEPER }
}

/// A member, and the numbers that it gave last.
struct Node {
    member: Member,
    last: BTreeMap<&'static str, u64>,
}

impl Node {
    fn new() -> Self {
        Self { member: Member::new(record(ME)), last: BTreeMap::new() }
    }

    /// Serving partition 7 at epoch 5 in view 10 with a lease from time 0.
    fn serving() -> Self {
        let mut node = Self::new();
        node.member.handle_announced(0, KEEPER, 1);
        node.does(&["join"]);
        node.answer(0, "join", KeeperAnswer::Joined(view(10, &[(7, 5)])));
        node.does(&["renew", "fences 7@5"]);
        node.fences(0, FencesOutcome::Opened);
        node.does(&[]);
        node.answer(0, "renew", KeeperAnswer::Renewed { view_version: 10 });
        node.does(&["lease 5840000000", "publish 10"]);
        node
    }

    fn answer(&mut self, now: u64, to: &'static str, answer: KeeperAnswer) {
        let number = self.last[to] as u32;
        self.member.handle_answer(now, number, answer);
    }

    fn tell(&mut self, now: u64, view: Arc<View>) {
        self.member.handle_answer(now, 0, KeeperAnswer::View(view));
    }

    fn fences(&mut self, now: u64, outcome: FencesOutcome) {
        self.member.handle_fences(now, self.last["fences"], outcome);
    }

    fn dropped(&mut self, now: u64) {
        self.member.handle_dropped(now, self.last["drop"]);
    }

    /// Takes all actions, which are these.
    #[track_caller]
    fn does(&mut self, expected: &[&str]) {
        let mut found = Vec::new();
        while let Some(action) = self.member.poll_action() {
            found.push(self.describe(action));
        }
        assert_eq!(found, expected);
    }

    fn describe(&mut self, action: MemberAction) -> String {
        match action {
            Do::Send { number, request, .. } => {
                let (name, text) = match request {
                    Ask::Join(record) => {
                        ("join", if record.node == ME { "join" } else { "join again" }.into())
                    }
                    Ask::Renew => ("renew", "renew".into()),
                    Ask::ReadView => ("read", "read".into()),
                    Ask::Leave => ("leave", "leave".into()),
                    Ask::Handed(all) => ("handed", format!("handed {}", all.len())),
                };
                self.last.insert(name, u64::from(number));
                text
            }
            Do::OpenFences { number, fences } => {
                self.last.insert("fences", number);
                let texts: Vec<String> =
                    fences.iter().map(|fence| format!("{}@{}", fence.partition, fence.epoch)).collect();
                assert!(fences.iter().all(|fence| fence.holder == self.member.node()));
                format!("fences {}", texts.join(" "))
            }
            Do::Publish(routes) => format!("publish {}", routes.view().version),
            Do::Lease(until) => format!("lease {until}"),
            Do::Drop { number, me } => {
                self.last.insert("drop", number);
                format!("drop {}", me.incarnation)
            }
            Do::Refused(reason) => format!("refused {reason}"),
            Do::Left => "left".into(),
        }
    }
}

#[test]
fn a_node_joins_gets_a_lease_opens_its_fences_and_only_then_shows_the_view() {
    let mut node = Node::serving();
    assert_eq!(node.member.phase(), Phase::Serving);
    node.tell(1, view(11, &[(7, 5), (8, 2), (9, 3)]));
    node.does(&["fences 8@2 9@3"]);
    assert_eq!(node.member.view().map(|view| view.version), Some(10));
    node.fences(2, FencesOutcome::Opened);
    node.does(&["publish 11"]);
}

#[test]
fn only_newer_views_are_shown() {
    let mut node = Node::serving();
    node.tell(1, view(12, &[(7, 5)]));
    node.tell(1, view(11, &[(7, 5)]));
    node.tell(1, without_me(10));
    node.does(&["publish 12"]);
}

#[test]
fn a_view_whose_fences_are_opened_is_shown_though_a_newer_one_waits() {
    let mut node = Node::serving();
    node.tell(1, view(11, &[(7, 5), (8, 1)]));
    node.tell(1, view(12, &[(7, 5), (8, 1), (9, 1)]));
    node.tell(1, view(13, &[(7, 5), (8, 1), (10, 1)]));
    node.does(&["fences 8@1"]);
    node.fences(2, FencesOutcome::Opened);
    node.does(&["publish 11", "fences 10@1"]);
    node.fences(2, FencesOutcome::Opened);
    node.does(&["publish 13"]);
}

#[test]
fn fences_that_failed_are_tried_again_and_refused_ones_evict() {
    let mut node = Node::serving();
    node.tell(SECOND, view(11, &[(7, 5), (8, 1)]));
    node.does(&["fences 8@1"]);
    node.fences(SECOND, FencesOutcome::Failed);
    node.does(&[]);
    assert_eq!(node.member.poll_timeout(), Some(SECOND + FENCES_RETRY_NS));
    node.member.handle_timeout(SECOND + FENCES_RETRY_NS);
    node.does(&["fences 8@1"]);
    node.fences(SECOND, FencesOutcome::Refused);
    node.does(&["lease 0", "drop 2"]);
}

#[test]
fn a_lease_runs_from_when_its_renewal_was_sent() {
    let mut node = Node::serving();
    node.member.handle_timeout(2 * SECOND);
    node.does(&["renew"]);
    let first = node.last["renew"] as u32;
    node.member.handle_timeout(4 * SECOND);
    node.does(&["renew"]);
    // The answer to the first, late.
    node.member.handle_answer(5 * SECOND, first, KeeperAnswer::Renewed { view_version: 10 });
    node.does(&[&format!("lease {}", holder_deadline_ns(2 * SECOND))]);
    // It is taken once; an answer to nothing says nothing.
    node.member.handle_answer(6 * SECOND, first, KeeperAnswer::Renewed { view_version: 10 });
    node.member.handle_answer(6 * SECOND, 0, KeeperAnswer::Renewed { view_version: 10 });
    node.does(&[]);
}

#[test]
fn without_a_keeper_it_serves_on_and_a_new_reign_is_asked_at_once() {
    let mut node = Node::serving();
    node.member.handle_peer_down(KEEPER);
    node.member.handle_timeout(10 * LEASE_NS);
    node.does(&[]);
    assert_eq!((node.member.phase(), node.member.poll_timeout()), (Phase::Serving, None));
    node.member.handle_announced(10 * LEASE_NS, OTHER_KEEPER, 2);
    node.does(&["read", "renew"]);
    node.answer(10 * LEASE_NS, "renew", KeeperAnswer::Renewed { view_version: 10 });
    node.does(&[&format!("lease {}", holder_deadline_ns(10 * LEASE_NS))]);
    // The keeper of the reign before comes back too late.
    node.member.handle_announced(10 * LEASE_NS, KEEPER, 1);
    node.does(&[]);
    assert_eq!(node.member.keeper(), Some(OTHER_KEEPER));
}

#[test]
fn a_node_that_is_no_member_any_more_drops_everything_and_then_joins_anew() {
    let by_answer = |node: &mut Node| {
        node.member.handle_timeout(2 * SECOND);
        node.does(&["renew"]);
        node.answer(2 * SECOND, "renew", KeeperAnswer::Evicted);
    };
    let by_view = |node: &mut Node| node.tell(2 * SECOND, without_me(11));
    for learn in [&by_answer as &dyn Fn(&mut Node), &by_view] {
        let mut node = Node::serving();
        learn(&mut node);
        node.does(&["lease 0", "drop 2"]);
        assert_eq!((node.member.phase(), node.member.node()), (Phase::Evicted, AGAIN));
        node.tell(2 * SECOND, view_of(AGAIN, 12, 1, &[(7, 7)]));
        node.member.handle_timeout(5 * SECOND);
        node.does(&[]);
        node.dropped(5 * SECOND);
        node.does(&["join again"]);
        node.answer(5 * SECOND, "join", KeeperAnswer::Joined(view_of(AGAIN, 13, 1, &[(7, 7)])));
        node.does(&["renew", "fences 7@7"]);
    }
}

#[test]
fn word_of_an_earlier_life_means_nothing() {
    let mut node = Node::serving();
    node.tell(1, view(11, &[(7, 5), (8, 1)]));
    node.member.handle_timeout(2 * SECOND);
    node.does(&["fences 8@1", "renew"]);
    let (fences, renew) = (node.last["fences"], node.last["renew"] as u32);
    node.tell(2 * SECOND, without_me(12));
    node.does(&["lease 0", "drop 2"]);
    node.member.handle_fences(2 * SECOND, fences, FencesOutcome::Opened);
    node.member.handle_answer(2 * SECOND, renew, KeeperAnswer::Renewed { view_version: 99 });
    node.member.handle_answer(2 * SECOND, renew, KeeperAnswer::Evicted);
    node.does(&[]);
    node.dropped(3 * SECOND);
    node.does(&["join again"]);
    node.member.handle_answer(3 * SECOND, renew, KeeperAnswer::Evicted);
    node.does(&[]);
}

#[test]
fn with_another_store_all_is_dropped_and_fenced_anew_before_it_serves_again() {
    let mut node = Node::serving();
    node.tell(SECOND, view_of(ME, 11, 2, &[(7, 6)]));
    node.does(&["lease 0", "drop 1"]);
    // Meanwhile the lease is renewed, and a newer view comes.
    node.member.handle_timeout(2 * SECOND);
    node.does(&["renew"]);
    node.answer(2 * SECOND, "renew", KeeperAnswer::Renewed { view_version: 11 });
    node.tell(2 * SECOND, view_of(ME, 12, 2, &[(7, 6), (8, 1)]));
    node.does(&[]);
    node.dropped(2 * SECOND);
    node.does(&["fences 7@6 8@1"]);
    node.fences(2 * SECOND, FencesOutcome::Opened);
    node.does(&[&format!("lease {}", holder_deadline_ns(2 * SECOND)), "publish 12"]);
}

#[test]
fn a_store_that_changes_twice_is_dropped_for_twice() {
    let mut node = Node::serving();
    node.tell(1, view_of(ME, 11, 2, &[(7, 6)]));
    node.does(&["lease 0", "drop 1"]);
    let first = node.last["drop"];
    node.tell(1, view_of(ME, 12, 3, &[(7, 7)]));
    node.does(&["drop 1"]);
    node.member.handle_dropped(1, first);
    node.does(&[]);
    node.dropped(1);
    node.does(&["fences 7@7"]);
}

#[test]
fn hand_overs_are_told_together_and_until_a_view_shows_them() {
    let mut node = Node::serving();
    let mut both = View::clone(&moving(11, &[(7, 5), (8, 5)], 7));
    both.partitions[8].moving_to = Some(KEEPER);
    node.tell(1, Arc::new(both));
    node.does(&["fences 8@5"]);
    node.fences(1, FencesOutcome::Opened);
    node.does(&["publish 11"]);
    node.member.handle_shipped(2, handover(7, 5));
    node.member.handle_shipped(2, handover(8, 4));
    node.does(&[]);
    assert_eq!(node.member.poll_timeout(), Some(2 + HANDED_DELAY_NS));
    node.member.handle_timeout(2 + HANDED_DELAY_NS);
    node.does(&["handed 1"]);
    // The last one waits for no other.
    node.member.handle_shipped(SECOND, handover(8, 5));
    node.does(&["handed 2"]);
    node.tell(SECOND, moving(12, &[(8, 5)], 8));
    node.does(&["publish 12"]);
    node.member.handle_peer_down(KEEPER);
    node.member.handle_announced(SECOND, OTHER_KEEPER, 2);
    node.does(&["read", "renew", "handed 1"]);
    node.tell(SECOND, view(13, &[(8, 5)]));
    node.does(&["publish 13"]);
    node.member.handle_timeout(3 * SECOND);
    node.does(&["renew"]);
}

#[test]
fn a_node_leaves_when_all_is_handed_over_and_shows_that_view_before() {
    let mut node = Node::serving();
    node.member.handle_leave(SECOND, 30 * SECOND);
    node.does(&["renew", "leave"]);
    node.tell(SECOND, moving(11, &[(7, 5)], 7));
    node.does(&["publish 11"]);
    node.member.handle_shipped(SECOND, handover(7, 5));
    node.does(&["handed 1"]);
    node.tell(SECOND, without_me(12));
    node.does(&["publish 12", "left"]);
    assert_eq!((node.member.phase(), node.member.poll_timeout()), (Phase::Left, None));
    node.member.handle_announced(SECOND, KEEPER, 3);
    node.does(&[]);
}

/// It is a member as long as it may have answers to give.
#[test]
fn a_node_that_handed_everything_over_gives_its_last_answers_first() {
    let mut node = Node::serving();
    node.member.handle_leave(SECOND, 30 * SECOND);
    node.does(&["renew", "leave"]);
    node.member.handle_rested(SECOND);
    node.does(&[]);
    node.tell(SECOND, view(11, &[]));
    node.does(&["publish 11"]);
    node.member.handle_timeout(3 * SECOND);
    node.does(&["renew"]);
    node.member.handle_rested(4 * SECOND);
    node.does(&["renew", "leave"]);
    node.member.handle_rested(4 * SECOND);
    node.does(&[]);
    // Until it is heard.
    node.member.handle_timeout(6 * SECOND);
    node.does(&["renew", "leave"]);
}

#[test]
fn a_node_leaves_at_its_deadline_or_when_told_to_without_giving_up_its_lease() {
    let mut node = Node::serving();
    node.member.handle_leave(SECOND, 3 * SECOND);
    node.does(&["renew", "leave"]);
    node.member.handle_timeout(2 * SECOND);
    node.does(&[]);
    node.member.handle_timeout(3 * SECOND);
    node.does(&["left"]);

    let mut node = Node::serving();
    node.member.handle_answer(1, 0, KeeperAnswer::Left);
    node.does(&[]);
    node.member.handle_leave(SECOND, 9 * SECOND);
    node.does(&["renew", "leave"]);
    node.member.handle_answer(SECOND, 0, KeeperAnswer::Left);
    node.does(&["left"]);
}

#[test]
fn a_node_that_is_evicted_while_it_leaves_stops_at_once() {
    let mut node = Node::serving();
    node.member.handle_leave(SECOND, 30 * SECOND);
    node.does(&["renew", "leave"]);
    node.tell(SECOND, without_me(11));
    node.does(&["lease 0", "left"]);
}

#[test]
fn a_node_that_never_was_a_member_leaves_at_once() {
    let mut node = Node::new();
    node.member.handle_leave(0, SECOND);
    node.does(&["left"]);
}

#[test]
fn joining_is_tried_again_and_needs_a_keeper() {
    let mut node = Node::new();
    node.member.handle_announced(0, KEEPER, 1);
    node.does(&["join"]);
    node.answer(0, "join", KeeperAnswer::Refused("full".into()));
    node.does(&["refused full"]);
    node.member.handle_timeout(RENEW_INTERVAL_NS);
    node.does(&["join"]);
    node.member.handle_peer_down(KEEPER);
    assert_eq!((node.member.phase(), node.member.poll_timeout()), (Phase::Seeking, None));
    // What others see of the cluster is no business of a node that is not in it.
    node.tell(1, without_me(5));
    node.does(&[]);
}

#[test]
fn a_push_that_was_missed_is_read() {
    let mut node = Node::serving();
    node.member.handle_timeout(2 * SECOND);
    node.does(&["renew"]);
    node.answer(2 * SECOND, "renew", KeeperAnswer::Renewed { view_version: 11 });
    node.does(&[&format!("lease {}", holder_deadline_ns(2 * SECOND)), "read"]);
}
