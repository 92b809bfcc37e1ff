//! The rules of the machine that can be tried in one process, one check each.

use super::fixture::{ALICE, BOB};
use crate::id::NodeId;
use crate::machine::{KeeperRecord, Kept, Machine};
use crate::view::{MEMBER_NAME_LENGTH_MAX, Member, View};

/// Each on fresh ground; the argument gives another machine on it.
pub(super) const CHECKS: &[fn(Another<'_>)] = &[
    strangers_are_neither_dead_nor_killed,
    an_incarnation_lives_until_the_next_or_its_machine_ends,
    keeping_is_apart_from_being_registered,
    one_keeps_until_machine_and_both_halves_are_dropped,
    every_keeper_reigns_higher_and_leases_start_anew,
    the_record_is_the_last_keepers,
    the_keeper_remembers_the_dead,
];

type Another<'a> = &'a mut dyn FnMut() -> Box<dyn Machine>;

fn strangers_are_neither_dead_nor_killed(another: Another<'_>) {
    let mut machine = another();
    assert_eq!(machine.keeper(), Ok(None), "nobody ever kept");
    assert!(!machine.is_proven_dead(ALICE), "who was never here is not proven dead");
    assert!(!machine.kill(ALICE), "who was never here is not killed");
}

fn an_incarnation_lives_until_the_next_or_its_machine_ends(another: Another<'_>) {
    let (mut first, mut second) = (another(), another());
    let next = NodeId { incarnation: 2, ..ALICE };
    first.register(ALICE).expect("nothing is in the way");
    second.register(BOB).expect("nothing is in the way");
    for machine in [&mut first, &mut second] {
        assert!(!machine.is_proven_dead(ALICE) && !machine.is_proven_dead(BOB), "both live");
        assert!(!machine.is_proven_dead(next), "it is not there yet");
        assert!(!machine.kill(ALICE) && !machine.kill(BOB), "no process ends itself");
    }
    first.register(next).expect("nothing is in the way");
    assert!(second.is_proven_dead(ALICE), "who registered anew is dead in the incarnation before");
    assert!(!second.is_proven_dead(next) && !first.is_proven_dead(BOB), "both live");
    drop(first);
    assert!(second.is_proven_dead(next), "whose machine is gone is dead");
    assert!(!second.is_proven_dead(BOB), "who asks lives");
}

fn keeping_is_apart_from_being_registered(another: Another<'_>) {
    let (mut first, mut second) = (another(), another());
    first.register(ALICE).expect("nothing is in the way");
    drop(keep(&mut *first, ALICE));
    first.register(NodeId { incarnation: 2, ..ALICE }).expect("nothing is in the way");
    assert!(is_kept(&mut *second), "who registers anew still keeps");
    drop(first);
    assert!(!is_kept(&mut *second));
}

fn one_keeps_until_machine_and_both_halves_are_dropped(another: Another<'_>) {
    for last in 0..3 {
        let mut machine = another();
        let Kept { coordinator, store, .. } = keep(&mut *machine, ALICE);
        let mut parts = (Some(machine), Some(coordinator), Some(store));
        let mut other = another();
        for part in (0..3).filter(|&part| part != last).chain([last]) {
            assert!(is_kept(&mut *other), "part {last} of three holds the lock");
            match part {
                0 => parts.0 = None,
                1 => parts.1 = None,
                _ => parts.2 = None,
            }
        }
        assert!(!is_kept(&mut *other), "nothing is left that keeps");
    }
}

fn every_keeper_reigns_higher_and_leases_start_anew(another: Another<'_>) {
    let mut reign = 0;
    for round in 0..3 {
        let mut machine = another();
        let mut kept = keep(&mut *machine, ALICE);
        assert!(kept.reign > reign, "reign {} comes after {reign}", kept.reign);
        reign = kept.reign;
        let mut next = View::clone(&kept.coordinator.read().expect("a read succeeds"));
        assert_eq!(next.version, round, "the view stays");
        let fresh = kept.coordinator.leases().expect("a read succeeds");
        assert!(fresh.iter().all(|lease| lease.renewed_at_ns.is_none()), "leases start anew");
        next.put_member(Member { node: ALICE, address: "a".into(), cores: 1, entities: Vec::new() });
        kept.coordinator.compare_and_set(round, next).expect("a legal change succeeds");
        kept.coordinator.renew_lease(ALICE, 1).expect("a member renews");
    }
}

fn the_record_is_the_last_keepers(another: Another<'_>) {
    let mut reader = another();
    let long = "a".repeat(MEMBER_NAME_LENGTH_MAX);
    for (node, address) in [(ALICE, &*long), (BOB, "b"), (ALICE, "")] {
        let mut machine = another();
        let _kept = machine.try_keep(node, address).expect("nothing is in the way").expect("nobody keeps");
        for renewals in 0..5 {
            let record = KeeperRecord { node, address: address.to_owned(), renewals };
            assert_eq!(reader.keeper(), Ok(Some(record.clone())), "others read what the keeper wrote");
            assert_eq!(machine.keeper(), Ok(Some(record)), "so does the keeper");
            machine.renew_keeping(renewals + 1).expect("the keeper renews");
        }
    }
}

fn the_keeper_remembers_the_dead(another: Another<'_>) {
    let mut machine = another();
    machine.register(ALICE).expect("nothing is in the way");
    let mut gone = another();
    gone.register(BOB).expect("nothing is in the way");
    drop(gone);
    let _kept = keep(&mut *machine, ALICE);
    assert!(machine.is_proven_dead(BOB), "the keeper knows who died before it kept");
    assert!(!machine.is_proven_dead(ALICE));
}

fn keep(machine: &mut dyn Machine, node: NodeId) -> Kept {
    machine.try_keep(node, "somewhere").expect("nothing is in the way").expect("nobody keeps")
}

/// Whether somebody else keeps. Called on a machine that did not find out otherwise before.
fn is_kept(machine: &mut dyn Machine) -> bool {
    machine.try_keep(BOB, "").expect("nothing is in the way").is_none()
}
