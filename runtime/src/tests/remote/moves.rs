//! Partitions that move between nodes that live, with what is in them.

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use super::world::{Add, Linger, Nap, Note, Notes, Options, Started, World, post};
use crate::error::{CallError, Loss, Rejection};
use crate::key::StoredKey;

type Number = Result<u64, CallError>;

fn add(world: &mut World, node: usize, key: u64) -> Started<Number> {
    world.start(node, async move { post(key).call(Add { by: 1 }).await })
}

fn count(world: &mut World, node: usize, key: u64) -> Number {
    world.call(node, async move { post(key).call(Add { by: 0 }).await })
}

/// A world whose node 1 owns an object that was counted up, and begins to move it to node 2.
fn moving(counted: u64) -> (World, u64) {
    let mut world = World::new(3);
    let key = world.key_on(1, 0);
    world.call(0, async move { post(key).call(Add { by: counted }).await.unwrap() });
    (world, key)
}

/// Everybody sees that node 2 owns the object, once it has what node 1 gave away.
fn arrive(world: &mut World, key: u64) {
    world.ship(1, 2, key);
    [2, 1, 0].into_iter().for_each(|node| world.show(node, key, 2, 2));
    world.settle();
}

/// Another key of the same partition.
fn neighbour(key: u64) -> u64 {
    let partition = |key: u64| key.canonical(|key| key.partition());
    (1..).find(|other| *other != key && partition(*other) == partition(key)).expect("there are many keys")
}

#[test]
fn an_object_moves_with_its_state_and_no_call_notices() {
    let (mut world, key) = moving(5);
    let mut early = add(&mut world, 0, key);
    world.settle();
    world.show_move(1, key, 1, 1, 2);
    let mut parked = [0, 1, 2].map(|node| add(&mut world, node, key));
    let mut one_way = world.start(0, async move { post(key).call(Add { by: 100 }).send() });
    world.settle();
    assert_eq!((early.result(), one_way.result()), (Some(Ok(6)), Some(Ok(()))));
    assert!(parked.iter_mut().all(|call| call.result().is_none()));
    assert_eq!(world.process(1).cores[0].activations(), 0);
    arrive(&mut world, key);
    let mut counts: Vec<u64> =
        parked.iter_mut().map(|call| call.result().expect("an answer").unwrap()).collect();
    counts.sort_unstable();
    assert!(counts[0] > 6 && counts.windows(2).all(|pair| pair[0] < pair[1]), "{counts:?}");
    assert_eq!(count(&mut world, 0, key), Ok(109));
    assert_eq!((world.process(1).cores[0].activations(), world.process(2).cores[0].activations()), (0, 1));
    world.end();
}

/// Without a shipment, and with one of another epoch, objects begin as they are in the store: this one is in none.
#[test]
fn a_shipment_counts_at_its_own_epoch_only() {
    for (epoch, is_shipped, expected) in [(2, true, 5), (2, false, 0), (3, true, 0)] {
        let (mut world, key) = moving(5);
        world.show_move(1, key, 1, 1, 2);
        world.settle();
        if is_shipped {
            world.ship(1, 2, key);
        }
        [2, 1, 0].into_iter().for_each(|node| world.show(node, key, 2, epoch));
        assert_eq!(count(&mut world, 0, key), Ok(expected), "epoch {epoch}");
        world.end();
    }
}

/// A method holds an object of the partition, and calls by way of another node one that is in it too.
#[test]
fn a_call_by_path_runs_where_its_callers_object_is_held() {
    let (mut world, key) = moving(5);
    let (other, elsewhere) = (neighbour(key), world.key_on(0, 0));
    world.call(0, async move { post(other).call(Add { by: 3 }).await.unwrap() });
    let path = vec![elsewhere, other];
    let mut long = world.start(0, async move { post(key).call(Linger { ms: 10, path }).await });
    world.settle();
    world.show_move(1, key, 1, 1, 2);
    // The one that nobody uses serves on; calls to the one in use wait.
    let (mut served, mut parked) = (add(&mut world, 0, other), add(&mut world, 0, key));
    world.pass_ms(5);
    assert_eq!((long.result(), served.result(), parked.result()), (None, Some(Ok(4)), None));
    assert!(world.drained(1, key).is_none());
    world.pass_ms(8);
    assert_eq!((long.result(), parked.result()), (Some(Ok(2)), None));
    arrive(&mut world, key);
    assert_eq!(parked.result(), Some(Ok(6)));
    assert_eq!(count(&mut world, 1, other), Ok(4));
    world.end();
}

/// Two partitions move, of one node or of two, and methods in each wait for objects of the other: none has to wait for the other's
/// move.
#[test]
fn partitions_that_move_at_the_same_time_do_not_wait_for_each_other() {
    for second_owner in [1, 0] {
        let mut world = World::new(3);
        let one = world.key_on(1, 0);
        let two = world.key_on(second_owner, 1);
        let mut calls = [(one, neighbour(two)), (two, neighbour(one))].map(|(key, other)| {
            let path = vec![other];
            world.start(0, async move { post(key).call(Linger { ms: 10, path }).await })
        });
        world.settle();
        for node in 0..3 {
            world.show_move(node, one, 1, 1, 2);
            world.show_move(node, two, second_owner, 1, 2);
        }
        world.pass_ms(15);
        assert!(calls.iter_mut().all(|call| call.result() == Some(Ok(1))));
        assert!(world.has_drained(1, one) && world.has_drained(second_owner, two));
        world.end();
    }
}

/// Calls that were queued when the move began run before it; calls of others within the node wait for it.
#[test]
fn what_is_queued_runs_and_what_comes_later_is_parked() {
    let (mut world, key) = moving(5);
    let mut long = world.start(1, async move { post(key).call(Linger { ms: 10, path: Vec::new() }).await });
    let mut queued = add(&mut world, 1, key);
    world.settle();
    world.show_move(1, key, 1, 1, 2);
    let mut parked = add(&mut world, 1, key);
    world.pass_ms(15);
    assert_eq!((long.result(), queued.result(), parked.result()), (Some(Ok(0)), Some(Ok(6)), None));
    arrive(&mut world, key);
    assert_eq!(parked.result(), Some(Ok(7)));
    world.end();
}

/// A method runs for ten seconds: it ends by itself, its partition serves meanwhile but for moments, and moves then.
#[test]
fn a_move_waits_for_a_long_method_and_others_are_served_meanwhile() {
    for is_shared in [true, false] {
        let (mut world, key) = moving(5);
        let other = neighbour(key);
        let mut long = world.start(0, async move {
            let within = Duration::from_secs(60);
            if is_shared {
                post(key).call(Nap { ms: 10_000 }).within(within).await.map(drop)
            } else {
                post(key).call(Linger { ms: 10_000, path: Vec::new() }).within(within).await.map(drop)
            }
        });
        world.settle();
        world.show_move(1, key, 1, 1, 2);
        let mut served = [0, 1].map(|node| add(&mut world, node, other));
        let mut behind = world.start(0, async move {
            let within = Duration::from_secs(60);
            post(key).call(Nap { ms: 1 }).within(within).await.map(drop)
        });
        world.settle();
        assert!(served.iter_mut().all(|call| call.result().is_some_and(|count| count.is_ok())));
        assert_eq!(behind.result(), None);
        // After a while the attempt ends: shared methods run beside the long one, exclusive ones behind it as without a move.
        world.pass_ms(2_050);
        assert_eq!((behind.result(), long.result()), (is_shared.then_some(Ok(())), None));
        let mut meanwhile = add(&mut world, 0, other);
        world.settle();
        assert_eq!((meanwhile.result(), long.result()), (Some(Ok(3)), None));
        world.pass_ms(17_000);
        assert_eq!(long.result(), Some(Ok(())), "shared: {is_shared}");
        arrive(&mut world, key);
        assert_eq!(behind.result(), (!is_shared).then_some(Ok(())));
        // A nap counts.
        let counted = 6 + u64::from(is_shared);
        assert_eq!((count(&mut world, 0, key), count(&mut world, 1, other)), (Ok(counted), Ok(3)));
        world.end();
    }
}

#[test]
fn parked_calls_end_at_their_deadlines_and_with_their_callers() {
    let (mut world, key) = moving(5);
    world.show_move(1, key, 1, 1, 2);
    let within = Duration::from_millis(50);
    let mut late = [0, 1]
        .map(|node| world.start(node, async move { post(key).call(Add { by: 10 }).within(within).await }));
    let mut dropped = [0, 1].map(|node| {
        world.start(node, async move {
            let mut call = Box::pin(post(key).call(Add { by: 100 }));
            let made = std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending()));
            assert!(made.await);
            crate::context::sleep(Duration::from_millis(20)).await;
            drop(call);
        })
    });
    world.pass_ms(60);
    let [from_elsewhere, from_here] = late.each_mut().map(Started::result);
    assert_eq!(from_here, Some(Err(CallError::Rejected(Rejection::Expired))));
    assert!(matches!(
        from_elsewhere,
        Some(Err(CallError::Rejected(Rejection::Expired) | CallError::OutcomeUnknown(Loss::Timeout)))
    ));
    assert!(dropped.iter_mut().all(|call| call.result().is_some()));
    assert!(
        [0, 1].into_iter().all(|node| world.process(node).cores[0].is_quiet()),
        "nothing is parked any more"
    );
    arrive(&mut world, key);
    assert_eq!(count(&mut world, 0, key), Ok(5));
    world.end();
}

#[test]
fn so_many_calls_are_parked_and_no_more() {
    let core = crate::core::CoreConfig { waiting_max: 3, ..Default::default() };
    let mut world = World::with(3, Options { core, ..Options::default() });
    let key = world.key_on(1, 0);
    world.show_move(1, key, 1, 1, 2);
    let mut calls = [0; 4].map(|_| add(&mut world, 1, key));
    world.settle();
    let refused: Vec<_> = calls.iter_mut().filter_map(Started::result).collect();
    assert_eq!(refused, [Err(CallError::Rejected(Rejection::Overloaded))]);
    arrive(&mut world, key);
    assert_eq!(count(&mut world, 0, key), Ok(3));
    world.end();
}

/// The next owner is gone before it has the partition: it stays, and loses nothing, whether it was given away already or not.
#[test]
fn a_move_that_is_given_up_leaves_everything_where_it_was() {
    for is_busy in [false, true] {
        let (mut world, key) = moving(5);
        let ms = if is_busy { 50 } else { 0 };
        let mut long = world.start(0, async move { post(key).call(Linger { ms, path: Vec::new() }).await });
        world.pass_ms(5);
        world.show_move(1, key, 1, 1, 2);
        let mut parked = [0, 1].map(|node| add(&mut world, node, key));
        world.pass_ms(5);
        assert_eq!(world.drained(1, key).is_some(), !is_busy);
        world.show(1, key, 1, 1);
        world.pass_ms(60);
        assert_eq!(long.result(), Some(Ok(0)));
        assert!(parked.iter_mut().all(|call| call.result().is_some_and(|result| result.is_ok())));
        assert_eq!(count(&mut world, 0, key), Ok(7));
        // Another move begins at the same epoch.
        world.show_move(1, key, 1, 1, 2);
        world.settle();
        arrive(&mut world, key);
        assert_eq!(count(&mut world, 0, key), Ok(7));
        world.end();
    }
}

/// The partition goes on to a third node before anybody called its objects at the second.
#[test]
fn what_nobody_asked_for_moves_on_too() {
    let (mut world, key) = moving(5);
    world.show_move(1, key, 1, 1, 2);
    world.settle();
    arrive(&mut world, key);
    [0, 1, 2].into_iter().for_each(|node| world.show_move(node, key, 2, 2, 0));
    world.settle();
    assert_eq!(world.process(2).cores[0].activations(), 0);
    let drained = world.drained(2, key).expect("it is drained");
    assert!(!drained.records.is_empty());
    world.end();
}

/// A one-way call that is under way when its object has moved is passed on by the node that had it.
#[test]
fn a_one_way_call_to_the_old_owner_is_passed_on() {
    let (mut world, key) = moving(5);
    world.show_move(1, key, 1, 1, 2);
    world.settle();
    world.ship(1, 2, key);
    [2, 1].into_iter().for_each(|node| world.show(node, key, 2, 2));
    let mut sent = world.start(0, async move { post(key).call(Add { by: 1 }).send() });
    world.settle();
    assert_eq!(sent.result(), Some(Ok(())));
    world.show(0, key, 2, 2);
    assert_eq!(count(&mut world, 0, key), Ok(6));
    world.end();
}

/// The owner changes without a hand-over while the partition moves: it died for the others. What it has carried is void.
#[test]
fn what_is_carried_goes_with_its_epoch() {
    let (mut world, key) = moving(5);
    world.show_move(1, key, 1, 1, 2);
    world.settle();
    world.show(1, key, 1, 2);
    world.show(0, key, 1, 2);
    assert_eq!(count(&mut world, 0, key), Ok(0));
    world.end();
}

/// Truth and time of the seeded world below.
struct Wanderer {
    random: fastrand::Rng,
    /// Owner, epoch, next owner: one after the other.
    truths: Vec<(usize, u64, Option<usize>)>,
    /// How far each node has come in them.
    seen: Vec<usize>,
    key: u64,
}

impl Wanderer {
    fn truth(&self) -> (usize, u64, Option<usize>) {
        *self.truths.last().expect("there is always one")
    }

    /// Lets a node see the next view.
    fn advance(&mut self, world: &mut World, node: usize) {
        let Some((owner, epoch, to)) = self.truths.get(self.seen[node] + 1).copied() else { return };
        self.seen[node] += 1;
        match to {
            Some(to) => world.show_move(node, self.key, owner, epoch, to),
            None => world.show(node, self.key, owner, epoch),
        }
    }

    /// Begins a move, gives one up, or ends the one that has its objects out; all after the owner has seen what was before.
    fn go_on(&mut self, world: &mut World) {
        let (owner, epoch, to) = self.truth();
        if self.seen[owner] + 1 < self.truths.len() {
            return;
        }
        let Some(to) = to else {
            // What was given away for a move that was given up is of no use for this one.
            world.pass();
            world.drained(owner, self.key);
            let to = (owner + self.random.usize(1..world.nodes.len())) % world.nodes.len();
            return self.truths.push((owner, epoch, Some(to)));
        };
        if self.random.u8(..8) == 0 {
            self.truths.push((owner, epoch, None));
        } else if world.has_drained(owner, self.key) {
            // The next owner has seen everything before, and gets its objects before it sees that they are its own.
            while self.seen[to] + 1 < self.truths.len() {
                self.advance(world, to);
            }
            world.ship(owner, to, self.key);
            self.truths.push((to, epoch + 1, None));
        }
    }
}

fn wander(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let cores = random.u16(1..3);
    let mut world = World::with(3, Options { cores, ..Options::default() });
    let home = world.key_on(random.usize(..3), random.usize(..4));
    let owner =
        (0..3).find(|node| (0..8).any(|nth| world.key_on(*node, nth) == home)).expect("somebody has it");
    let mut wanderer = Wanderer { random, truths: vec![(owner, 1, None)], seen: vec![0; 3], key: home };
    let mut calls: Vec<(usize, u64, Started<Result<(), CallError>>)> = Vec::new();
    let mut next = 0;
    for _ in 0..200 {
        let node = wanderer.random.usize(..3);
        match wanderer.random.u8(..10) {
            0..4 => {
                let number = next;
                next += 1;
                let call = world.start(node, async move { post(home).call(Note { number }).await });
                calls.push((node, number, call));
            }
            4 => drop(world.start(node, async move { post(home).call(Nap { ms: 3 }).await })),
            5 => wanderer.go_on(&mut world),
            6 => wanderer.advance(&mut world, node),
            7 => world.pass_ms(1),
            _ => drop(world.pass()),
        }
    }
    // Long enough for a move that is tried again.
    for _ in 0..60 {
        (0..3).for_each(|node| wanderer.advance(&mut world, node));
        world.pass_ms(5);
        if wanderer.truth().2.is_some() {
            wanderer.go_on(&mut world);
        }
    }
    let notes = world.call(0, async move { post(home).call(Notes {}).await }).expect("the object answers");
    let mut expected: Vec<Vec<u64>> = vec![Vec::new(); 3];
    for (node, number, call) in &mut calls {
        match call.result() {
            Some(Ok(())) => expected[*node].push(*number),
            // Moved too often in too short a time: it did not run.
            Some(Err(CallError::Rejected(Rejection::Moving))) => {}
            other => panic!("seed {seed}: call {number} of node {node}: {other:?}"),
        }
    }
    for (node, expected) in expected.into_iter().enumerate() {
        let of_node = |number: &&u64| calls.iter().any(|(caller, of, _)| caller == &node && of == *number);
        let found: Vec<u64> = notes.iter().filter(of_node).copied().collect();
        assert_eq!(
            found, expected,
            "seed {seed}: what node {node} called, once each and in order; all: {notes:?}"
        );
    }
    world.end();
}

/// Whatever the order in which nodes see views and objects come: each call runs once, those of a core in order, and no state is lost.
#[test]
fn objects_that_wander_lose_nothing() {
    for seed in 0..150 {
        wander(seed);
    }
}
