//! Circles of calls that wait for each other over several nodes and several chains.

use epicserver_transport::{FrameHeader, FrameKind};

use super::world::{Add, Linger, Options, Started, World, post};
use crate::error::CallError;
use crate::id::CallId;
use crate::wire::assembly::assemble_bare;
use crate::wire::probe::ProbeWord;

type Chain = Started<Result<u64, CallError>>;

/// A chain that holds one object for a few milliseconds and then wants another: 1 if it got that, 1,000 if the wait for it
/// was a deadlock.
fn holds_then_wants(world: &mut World, node: usize, holds: u64, wants: u64) -> Chain {
    let chain = world.start(node, async move { post(holds).call(Linger { ms: 5, path: vec![wants] }).await });
    world.pass_ms(2);
    chain
}

fn probes_that_came(world: &mut World, node: usize) -> usize {
    world.process(node).came.iter().filter(|kind| **kind == FrameKind::Probe).count()
}

fn linked(count: usize, options: Options) -> World {
    let mut world = World::with(count, options);
    world.pass_ms(50);
    world
}

#[test]
fn a_cycle_of_two_roots_over_two_nodes_is_found_and_the_youngest_gives_up() {
    for (cores, oldest) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        let mut world = linked(2, Options { cores, ..Options::default() });
        let keys = [world.key_on(0, 1), world.key_on(1, 1)];
        let mut chains =
            [oldest, 1 - oldest].map(|node| holds_then_wants(&mut world, node, keys[node], keys[1 - node]));
        world.pass_ms(40);
        assert!(chains.iter_mut().all(|chain| chain.result().is_none()), "a short wait is left alone");
        world.pass_ms(30);
        let results = chains.each_mut().map(Started::result);
        assert_eq!(results, [Some(Ok(1)), Some(Ok(1_000))], "{cores} cores, node {oldest} began");
        world.end();
    }
}

#[test]
fn a_cycle_of_three_roots_over_three_nodes_is_found() {
    for youngest in 0..3 {
        let mut world = linked(3, Options::default());
        let keys = [0, 1, 2].map(|node| world.key_on(node, 0));
        let mut chains = [1, 2, 3].map(|step| {
            let node = (youngest + step) % 3;
            holds_then_wants(&mut world, node, keys[node], keys[(node + 1) % 3])
        });
        world.pass_ms(80);
        assert_eq!(chains.each_mut().map(Started::result), [Some(Ok(1)), Some(Ok(1)), Some(Ok(1_000))]);
        world.end();
    }
}

#[test]
fn chains_that_only_queue_for_a_slow_one_are_no_cycle() {
    let mut world = linked(2, Options::default());
    let (a, b) = (world.key_on(0, 0), world.key_on(1, 0));
    let mut slow = world.start(1, async move { post(b).call(Linger { ms: 300, path: Vec::new() }).await });
    let mut first = holds_then_wants(&mut world, 0, a, b);
    let mut second = holds_then_wants(&mut world, 1, a, b);
    world.pass_ms(400);
    assert_eq!(slow.result(), Some(Ok(0)));
    assert_eq!((first.result(), second.result()), (Some(Ok(1)), Some(Ok(1))));
    assert!(probes_that_came(&mut world, 1) > 2, "somebody looked for a cycle");
    world.end();
}

#[test]
fn a_probe_that_is_lost_is_asked_again() {
    let mut world = linked(2, Options::default());
    let (a, b) = (world.key_on(0, 0), world.key_on(1, 0));
    for node in 0..2 {
        world.process(node).losses = vec![FrameKind::Probe; 2];
    }
    let mut older = holds_then_wants(&mut world, 0, a, b);
    let mut younger = holds_then_wants(&mut world, 1, b, a);
    world.pass_ms(80);
    assert_eq!((older.result(), younger.result()), (None, None), "the first ones were lost");
    world.pass_ms(300);
    assert_eq!((older.result(), younger.result()), (Some(Ok(1)), Some(Ok(1_000))));
    world.end();
}

#[test]
fn probes_that_are_wrong_or_come_late_do_nothing_and_none_waits_for_a_link() {
    let mut world = linked(2, Options::default());
    let key = world.key_on(1, 0);
    let mut held = world.start(0, async move { post(key).call(Linger { ms: 50, path: Vec::new() }).await });
    let word = ProbeWord { initiator: CallId(u128::MAX), round: 1, hops: 0, way: "" };
    let deep = ProbeWord { hops: 32, ..word };
    for (slot, payload) in [(0, word.to_bytes()), (0, deep.to_bytes()), (7, word.to_bytes()), (0, vec![1; 9])]
    {
        let mut header = FrameHeader::new(FrameKind::Probe);
        header.slot.set(slot);
        world.send_raw(0, 1, assemble_bare(None, header, &payload));
    }
    world.pass_ms(20);
    assert_eq!(probes_that_came(&mut world, 1), 4);
    world.pass_ms(60);
    assert_eq!(held.result(), Some(Ok(0)));
    let flood = |world: &mut World| {
        for _ in 0..10_000 {
            world.send_raw(0, 1, assemble_bare(None, FrameHeader::new(FrameKind::Probe), &word.to_bytes()));
        }
    };
    flood(&mut world);
    world.settle();
    let came = probes_that_came(&mut world, 1);
    assert!(came < 1_100, "{came} probes waited before answers");
    world.cut(0);
    world.settle();
    flood(&mut world);
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(1));
    assert_eq!(probes_that_came(&mut world, 1), came, "none waited for the link");
    world.end();
}
