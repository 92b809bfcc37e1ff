//! What a keeper answers, and what becomes of the view.

use epicserver_storage::{
    Batch, BatchName, BoundEntity, Committed, EnvelopeHeader, Fence, Lease, MemoryCoordinator, MemoryStore,
    Partition, RecordKey, StoreId, takeover_ns,
};

use super::*;
use crate::cluster::report::SavedState;
use crate::membership::{DampingLimits, Handover, WATCH_GAP_NS_MAX};
use crate::tests::log::lines_of;
use crate::wire::control::parts::SaveStream;
use crate::wire::control::store::{StoreAnswer, StoreRequest};

const ALICE: NodeId = NodeId { id: 1, incarnation: 1 };
const BOB: NodeId = NodeId { id: 2, incarnation: 1 };
const SECOND: u64 = 1_000_000_000;
const LIMITS: DampingLimits =
    DampingLimits { short_life_ns: 60 * SECOND, borne: 2, wait_ns_max: 120 * SECOND };

fn member(node: NodeId) -> Member {
    let entities = vec![BoundEntity::new("game.Player", 1, 1)];
    Member { node, address: format!("{}:1", node.id), cores: 1, entities }
}

fn kept(coordinator: impl Coordinator + 'static) -> Kept {
    let store = MemoryStore::new(StoreId(5));
    Kept { reign: 3, coordinator: Box::new(coordinator), store: Box::new(store) }
}

fn keeper() -> KeeperService {
    KeeperService::new(0, kept(MemoryCoordinator::new(StoreId(5))), LIMITS).expect("memory does not fail")
}

fn outputs(keeper: &mut KeeperService) -> Vec<KeeperOutput> {
    std::iter::from_fn(|| keeper.poll_output()).collect()
}

/// What it answers a node; everything else that it wants done is dropped.
fn ask(
    keeper: &mut KeeperService,
    now: u64,
    from: NodeId,
    message: ControlMessage,
) -> Option<ControlMessage> {
    keeper.handle(now, from, 7, message);
    keeper.handle_timeout(now);
    outputs(keeper).into_iter().find_map(|output| match output {
        KeeperOutput::Send { to, number: 7, message } if to == from => Some(message),
        _ => None,
    })
}

fn join(keeper: &mut KeeperService, now: u64, node: NodeId) -> Arc<View> {
    match ask(keeper, now, node, ControlMessage::Join(member(node))) {
        Some(ControlMessage::Joined(view)) => view,
        other => panic!("{node} is not let in: {other:?}"),
    }
}

fn owned(view: &View, node: NodeId) -> usize {
    view.partitions.iter().filter(|state| state.owner == Some(node)).count()
}

fn moves_of(view: &View, node: NodeId) -> Vec<Handover> {
    Partition::all()
        .filter_map(|partition| {
            let state = view.partition(partition);
            let to = state.moving_to.filter(|_| state.owner == Some(node))?;
            Some(Handover { partition, epoch: state.epoch, to })
        })
        .collect()
}

#[test]
fn whoever_has_a_link_is_told_who_keeps() {
    let mut keeper = keeper();
    keeper.handle_peer_up(BOB);
    let announcement = keeper.announcement();
    assert_eq!((announcement.reign, announcement.store), (3, StoreId(5)));
    let message = ControlMessage::Announce(announcement);
    assert_eq!(outputs(&mut keeper), [KeeperOutput::Send { to: BOB, number: 0, message }]);
}

#[test]
fn the_first_node_gets_everything_and_the_view_goes_to_all() {
    let mut keeper = keeper();
    keeper.handle(0, ALICE, 9, ControlMessage::Join(member(ALICE)));
    assert_eq!((keeper.poll_timeout(), outputs(&mut keeper)), (Some(0), vec![]), "more may come with it");
    keeper.handle_timeout(0);
    let outputs = outputs(&mut keeper);
    let [KeeperOutput::Push(view), KeeperOutput::Send { to: ALICE, number: 9, message }] = &outputs[..]
    else {
        panic!("the view, then the answer: {outputs:?}");
    };
    assert_eq!(*message, ControlMessage::Joined(view.clone()));
    assert_eq!(owned(view, ALICE), 4096);
    // It did not hear that.
    assert_eq!(join(&mut keeper, 1, ALICE), *view);
}

#[test]
fn nobody_joins_for_another() {
    let mut keeper = keeper();
    let refused = ask(&mut keeper, 0, BOB, ControlMessage::Join(member(ALICE)));
    assert!(matches!(refused, Some(ControlMessage::Refused(_))), "{refused:?}");
    assert!(keeper.view().members.is_empty());
}

#[test]
fn a_member_renews_and_others_are_told_that_they_are_none() {
    let mut keeper = keeper();
    let view_version = join(&mut keeper, 0, ALICE).version;
    assert_eq!(
        ask(&mut keeper, 1, ALICE, ControlMessage::Renew),
        Some(ControlMessage::Renewed { view_version })
    );
    assert_eq!(ask(&mut keeper, 1, BOB, ControlMessage::Renew), Some(ControlMessage::Evicted));
    let old = NodeId { incarnation: 0, ..ALICE };
    assert_eq!(ask(&mut keeper, 1, old, ControlMessage::Renew), Some(ControlMessage::Evicted));
    let view = keeper.view().clone();
    assert_eq!(ask(&mut keeper, 1, BOB, ControlMessage::ReadView), Some(ControlMessage::View(view)));
}

/// Looks as often as it wants to be asked, so that time counts.
fn wait(keeper: &mut KeeperService, from: u64, until: u64) {
    let mut now = from;
    while now < until {
        now = (now + WATCH_GAP_NS_MAX / 2).min(until);
        keeper.handle_timeout(now);
    }
}

#[test]
fn a_member_that_does_not_renew_is_killed_removed_and_never_comes_back_in_that_life() {
    let mut keeper = keeper();
    join(&mut keeper, 0, ALICE);
    join(&mut keeper, 0, BOB);
    let end = takeover_ns(0);
    wait(&mut keeper, 0, end - 1);
    assert_eq!(outputs(&mut keeper), []);
    assert!(matches!(
        ask(&mut keeper, end - 1, ALICE, ControlMessage::Renew),
        Some(ControlMessage::Renewed { .. })
    ));
    keeper.handle_timeout(end);
    let outputs = outputs(&mut keeper);
    let [KeeperOutput::Kill(BOB), KeeperOutput::Push(view)] = &outputs[..] else {
        panic!("first it is ended, then everybody is told: {outputs:?}");
    };
    assert_eq!((view.member(BOB), owned(view, ALICE)), (None, 4096));
    assert_eq!(ask(&mut keeper, end, BOB, ControlMessage::Renew), Some(ControlMessage::Evicted));
    assert_eq!(ask(&mut keeper, end, BOB, ControlMessage::Join(member(BOB))), Some(ControlMessage::Evicted));
    join(&mut keeper, end, NodeId { incarnation: 2, ..BOB });
}

#[test]
fn a_proven_death_needs_no_lease() {
    let mut keeper = keeper();
    join(&mut keeper, 0, ALICE);
    join(&mut keeper, 0, BOB);
    keeper.handle_proven_dead(1, BOB);
    assert_eq!(owned(keeper.view(), ALICE), 4096);
}

/// Each start after an orderly stop warned of a member that was gone: the last process of a cluster has nobody who could take what it
/// has, and stays in the view.
#[test]
fn only_a_member_that_is_lost_is_a_warning() {
    let check = |line: &str, run: &dyn Fn(&mut KeeperService)| {
        let mut view = View::empty(StoreId(5));
        view.put_member(member(ALICE));
        view.put_member(member(BOB));
        let coordinator = MemoryCoordinator::resume(view);
        let mut keeper = KeeperService::new(0, kept(coordinator), LIMITS).expect("memory does not fail");
        let lines = lines_of(|| run(&mut keeper));
        let told: Vec<_> = lines.iter().filter(|line| line.contains("member ")).collect();
        assert_eq!(told, [line], "{lines:?}");
    };
    let carol = NodeId { id: 3, incarnation: 1 };
    check(&format!("INFO a member of a life before is gone node={ALICE}"), &|keeper| {
        keeper.handle_peer_up(carol);
        keeper.handle_proven_dead(1, ALICE);
    });
    check(&format!("WARN a member is lost node={ALICE}"), &|keeper| {
        keeper.handle_peer_up(BOB);
        keeper.handle_proven_dead(1, ALICE);
    });
    check(&format!("WARN a member is lost node={carol}"), &|keeper| {
        join(keeper, 0, carol);
        keeper.handle_proven_dead(1, carol);
    });
    check(&format!("INFO a member that was told to stop is gone node={ALICE}"), &|keeper| {
        keeper.handle_peer_up(ALICE);
        for node in [BOB, ALICE] {
            keeper.handle(1, node, 8, ControlMessage::Leave);
        }
        keeper.handle_timeout(1);
        assert!(keeper.view().member(ALICE).is_some(), "nobody can take what it has");
        keeper.handle_proven_dead(2, ALICE);
    });
}

#[test]
fn a_node_that_comes_and_goes_gets_nothing_for_balance_until_it_is_calm_but_what_is_free() {
    let mut keeper = keeper();
    join(&mut keeper, 0, ALICE);
    for incarnation in 1..=3 {
        let bob = NodeId { incarnation, ..BOB };
        join(&mut keeper, 0, bob);
        assert!(!moves_of(keeper.view(), ALICE).is_empty(), "life {incarnation} is given its share");
        keeper.handle_proven_dead(SECOND, bob);
    }
    assert_eq!(keeper.balance_waits_ns(SECOND), LIMITS.short_life_ns);
    let fourth = NodeId { incarnation: 4, ..BOB };
    let carol = NodeId { id: 3, incarnation: 1 };
    join(&mut keeper, SECOND, fourth);
    join(&mut keeper, SECOND, carol);
    assert_eq!(moves_of(keeper.view(), ALICE), []);
    keeper.handle_proven_dead(SECOND, ALICE);
    assert_eq!(
        (owned(keeper.view(), fourth), owned(keeper.view(), carol)),
        (2048, 2048),
        "taken over at once"
    );
    let alice = NodeId { incarnation: 2, ..ALICE };
    join(&mut keeper, SECOND, alice);
    assert_eq!(moves_of(keeper.view(), carol), []);
    let calm_at = SECOND + keeper.balance_waits_ns(SECOND);
    assert_eq!(calm_at, SECOND + 2 * LIMITS.short_life_ns, "the life that ended just now was short too");
    let mut now = SECOND;
    while now < calm_at {
        now += WATCH_GAP_NS_MAX / 2;
        for node in [alice, carol, fourth] {
            keeper.handle(now, node, 7, ControlMessage::Renew);
        }
        keeper.handle_timeout(now);
    }
    assert!(!moves_of(keeper.view(), carol).is_empty(), "it is calm");
}

#[test]
fn partitions_change_hands_when_their_owner_says_so_and_no_sooner() {
    let mut keeper = keeper();
    join(&mut keeper, 0, ALICE);
    join(&mut keeper, 0, BOB);
    assert_eq!(owned(keeper.view(), BOB), 0, "nothing was handed over");
    let moves = moves_of(keeper.view(), ALICE);
    assert!(!moves.is_empty());
    let stale: Vec<Handover> =
        moves.iter().map(|handover| Handover { epoch: handover.epoch + 1, ..*handover }).collect();
    ask(&mut keeper, 1, ALICE, ControlMessage::Handed(stale));
    ask(&mut keeper, 1, BOB, ControlMessage::Handed(moves.clone()));
    assert_eq!(owned(keeper.view(), BOB), 0, "of another epoch, and by somebody else");
    let answer = ask(&mut keeper, 1, ALICE, ControlMessage::Handed(moves.clone()));
    assert_eq!(owned(keeper.view(), BOB), moves.len());
    assert_eq!(answer, Some(ControlMessage::View(keeper.view().clone())));
    // It did not hear that.
    ask(&mut keeper, 2, ALICE, ControlMessage::Handed(moves.clone()));
    assert_eq!(owned(keeper.view(), BOB), moves.len());
}

/// A view takes its time, in which much is said: renewals among it, which are not to wait for a view each.
#[test]
fn what_comes_together_makes_one_view() {
    let mut keeper = keeper();
    join(&mut keeper, 0, ALICE);
    join(&mut keeper, 0, BOB);
    let before = keeper.view().version;
    let moves = moves_of(keeper.view(), ALICE);
    for (number, handover) in (1..).zip(&moves) {
        keeper.handle(1, ALICE, number, ControlMessage::Handed(vec![*handover]));
    }
    keeper.handle_timeout(1);
    assert_eq!((keeper.view().version, owned(keeper.view(), BOB)), (before + 1, moves.len()));
    let answers: Vec<_> = outputs(&mut keeper)
        .into_iter()
        .filter_map(|output| match output {
            KeeperOutput::Send { to: ALICE, number, message } => Some((number, message)),
            _ => None,
        })
        .collect();
    let expected: Vec<_> =
        (1..).zip(&moves).map(|(number, _)| (number, ControlMessage::View(keeper.view().clone()))).collect();
    assert_eq!(answers, expected, "each is answered");
}

#[test]
fn a_node_that_leaves_hears_when_it_may() {
    let mut keeper = keeper();
    join(&mut keeper, 0, ALICE);
    join(&mut keeper, 0, BOB);
    keeper.handle(1, ALICE, 8, ControlMessage::Leave);
    keeper.handle_timeout(1);
    let is_left = |output: &KeeperOutput| {
        matches!(output, KeeperOutput::Send { to: ALICE, message: ControlMessage::Left, .. })
    };
    let mut rounds = 0;
    while keeper.view().member(ALICE).is_some() {
        assert!(!outputs(&mut keeper).iter().any(is_left), "it has something still");
        let moves = moves_of(keeper.view(), ALICE);
        keeper.handle(2, ALICE, 9, ControlMessage::Handed(moves));
        keeper.handle_timeout(2);
        // It says it again and again; the last time it has seen that it owns nothing.
        keeper.handle(2, ALICE, 10, ControlMessage::Leave);
        keeper.handle_timeout(2);
        rounds += 1;
        assert!(rounds <= 20, "it never ends");
    }
    assert!(outputs(&mut keeper).iter().any(is_left));
    assert_eq!(owned(keeper.view(), BOB), 4096);
}

#[test]
fn the_store_answers_and_forgets_a_node_whose_link_is_gone() {
    let mut keeper = keeper();
    let fences = || ControlMessage::Store(StoreRequest::Fences);
    let empty = ControlMessage::StoreAnswer(StoreAnswer::Fences(Vec::new()));
    assert_eq!(ask(&mut keeper, 0, BOB, fences()), Some(empty.clone()));
    assert_eq!(ask(&mut keeper, 0, BOB, fences()), None, "it is a repeat");
    keeper.handle_peer_down(BOB);
    assert_eq!(ask(&mut keeper, 0, BOB, fences()), Some(empty));
    assert_eq!(keeper.store().clone().last_committed(BOB), Ok(None::<BatchName>));
}

/// A coordinator whose first changes go wrong like this.
struct Flaky {
    inner: MemoryCoordinator,
    faults: Vec<CoordinatorFault>,
}

#[derive(Clone, Copy, Debug)]
enum CoordinatorFault {
    Fails,
    LosesAnswer,
    IsChangedByAnother,
}

impl Coordinator for Flaky {
    fn read(&mut self) -> Result<Arc<View>, CoordinatorError> {
        self.inner.read()
    }

    fn compare_and_set(&mut self, expected: u64, next: View) -> Result<Arc<View>, CoordinatorError> {
        let reason = || "a planned fault".to_owned();
        match self.faults.pop() {
            None => self.inner.compare_and_set(expected, next),
            Some(CoordinatorFault::Fails) => Err(CoordinatorError::Failed { reason: reason() }),
            Some(CoordinatorFault::LosesAnswer) => {
                self.inner.compare_and_set(expected, next)?;
                Err(CoordinatorError::Unknown { reason: reason() })
            }
            Some(CoordinatorFault::IsChangedByAnother) => {
                let current = self.inner.read()?;
                self.inner.compare_and_set(current.version, View::clone(&current))?;
                self.inner.compare_and_set(expected, next)
            }
        }
    }

    fn renew_lease(&mut self, node: NodeId, now_ns: u64) -> Result<Lease, CoordinatorError> {
        self.inner.renew_lease(node, now_ns)
    }

    fn leases(&mut self) -> Result<Vec<Lease>, CoordinatorError> {
        self.inner.leases()
    }
}

#[test]
fn a_coordinator_that_fails_is_asked_again() {
    for fault in
        [CoordinatorFault::Fails, CoordinatorFault::LosesAnswer, CoordinatorFault::IsChangedByAnother]
    {
        let inner = MemoryCoordinator::new(StoreId(5));
        let flaky = Flaky { inner, faults: vec![fault] };
        let mut keeper = KeeperService::new(0, kept(flaky), LIMITS).expect("reading does not fail");
        keeper.handle(0, ALICE, 9, ControlMessage::Join(member(ALICE)));
        wait(&mut keeper, 0, 2 * READ_AGAIN_NS);
        assert_eq!(owned(keeper.view(), ALICE), 4096, "{fault:?}");
        let is_answer = |output: &KeeperOutput| {
            matches!(output, KeeperOutput::Send { number: 9, message: ControlMessage::Joined(_), .. })
        };
        assert_eq!(outputs(&mut keeper).iter().filter(|output| is_answer(output)).count(), 1, "{fault:?}");
    }
}

#[test]
fn what_is_saved_of_an_object_is_told_without_its_state() {
    let mut keeper = keeper();
    let view = join(&mut keeper, 0, ALICE);
    let (key, other) = (RecordKey::u64(7, 7), RecordKey::u64(7, 8));
    let epoch = view.partition(key.as_ref().partition()).epoch;
    let fence = Fence { partition: key.as_ref().partition(), epoch, holder: ALICE };
    let mut store = keeper.store().clone();
    store.open_fences(&[fence]).expect("nobody has it");
    let mut saved = |keeper: &mut KeeperService, number: u64, header: EnvelopeHeader, state: &[u8]| {
        let mut batch = Batch::new(BatchName { node: ALICE, number });
        let header = EnvelopeHeader { epoch, version: number, saved_at_s: 9, ..header };
        batch.push(key.as_ref(), &header, state).expect("it is legal");
        store.commit(&batch).expect("the fence is open");
        ask(keeper, 1, BOB, ControlMessage::FindSaved(key.clone()))
    };
    let state = EnvelopeHeader::state(key.as_ref());
    let told = SavedState::State { version: 1, bytes: 5, epoch, saved_at_s: 9 };
    assert_eq!(saved(&mut keeper, 1, state, b"hello"), Some(ControlMessage::FoundSaved(told)));
    let gone = EnvelopeHeader::tombstone(key.as_ref());
    let told = SavedState::Forgotten { version: 2, saved_at_s: 9 };
    assert_eq!(saved(&mut keeper, 2, gone, b""), Some(ControlMessage::FoundSaved(told)));
    let told = ask(&mut keeper, 1, BOB, ControlMessage::FindSaved(other));
    assert_eq!(told, Some(ControlMessage::FoundSaved(SavedState::Nothing)));
}

#[test]
fn saves_of_a_node_that_is_no_member_are_counted_should_the_fences_ever_let_them_in() {
    let mut keeper = keeper();
    join(&mut keeper, 0, ALICE);
    let save = |keeper: &mut KeeperService, node: NodeId, epoch: u64| {
        let key = RecordKey::u64(7, 7);
        let fence = Fence { partition: key.as_ref().partition(), epoch, holder: node };
        keeper.store().clone().open_fences(&[fence]).expect("the epoch is new");
        let mut batch = Batch::new(BatchName { node, number: 1 });
        let header = EnvelopeHeader { epoch, version: epoch, ..EnvelopeHeader::state(key.as_ref()) };
        batch.push(key.as_ref(), &header, b"hello").expect("it is legal");
        let mut stream = SaveStream::default();
        batch.saves().for_each(|save| stream.push(save.key, save.envelope));
        let request = StoreRequest::Commit { name: batch.name(), part: stream.part(0) };
        let answer = ask(keeper, 1, node, ControlMessage::Store(request));
        assert_eq!(answer, Some(ControlMessage::StoreAnswer(StoreAnswer::Committed(Committed::Now))));
        keeper.stray_saves()
    };
    assert_eq!(save(&mut keeper, ALICE, 1), 0);
    assert_eq!(save(&mut keeper, BOB, 2), 1);
}
