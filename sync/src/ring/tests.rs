//! Ordinary tests of the ring; the interleavings are in `loom_tests`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use proptest::prelude::*;

use super::{Consumer, Producer, ring};

/// Counts its drops; two pointers and an `Arc` wide, so that a double or a missing drop cannot hide.
struct Counted(Arc<AtomicUsize>, Box<u64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn counted(drops: &Arc<AtomicUsize>, value: u64) -> Counted {
    Counted(Arc::clone(drops), Box::new(value))
}

fn push(producer: &mut Producer<Counted>, value: Counted) {
    assert!(producer.try_push(value).is_ok(), "the ring has room");
}

#[test]
fn values_come_out_in_order_over_many_laps() {
    let (mut producer, mut consumer) = ring(4);
    for lap in 0..100_u64 {
        for value in 0..4 {
            producer.try_push(lap * 4 + value).expect("drained after each lap");
        }
        for value in 0..4 {
            assert_eq!(consumer.try_pop(), Some(lap * 4 + value));
        }
        assert_eq!(consumer.try_pop(), None);
    }
}

#[test]
fn full_ring_gives_the_value_back_and_takes_it_later() {
    let (mut producer, mut consumer) = ring(2);
    producer.try_push(1).expect("empty");
    producer.try_push(2).expect("one of two");
    assert_eq!(producer.try_push(3), Err(3));
    assert_eq!(consumer.try_pop(), Some(1));
    producer.try_push(3).expect("one was popped; a ring of two publishes each pop");
    assert_eq!(producer.try_push(4), Err(4));
    assert_eq!(consumer.try_pop(), Some(2));
    assert_eq!(consumer.try_pop(), Some(3));
}

#[test]
fn lazily_published_head_hides_less_than_half_a_ring() {
    let (mut producer, mut consumer) = ring(8);
    for value in 0..8 {
        producer.try_push(value).expect("eight slots");
    }
    for value in 0..3 {
        assert_eq!(consumer.try_pop(), Some(value));
    }
    assert_eq!(producer.try_push(8), Err(8), "three pops are not published yet");
    assert_eq!(consumer.try_pop(), Some(3));
    for value in 8..12 {
        producer.try_push(value).expect("the fourth pop published four");
    }
}

#[test]
fn empty_ring_shows_all_its_room() {
    for drain_check in [|consumer: &mut Consumer<u64>| consumer.try_pop().is_none(), Consumer::is_empty] {
        let (mut producer, mut consumer) = ring(8);
        producer.try_push(0).expect("empty");
        assert_eq!(consumer.try_pop(), Some(0));
        assert!(drain_check(&mut consumer));
        for value in 1..=8 {
            producer.try_push(value).expect("finding nothing published the pop");
        }
    }
}

#[test]
fn want_room_is_answered_once_and_publishes_the_head() {
    let (mut producer, mut consumer) = ring(8);
    for value in 0..8 {
        producer.try_push(value).expect("eight slots");
    }
    assert!(!consumer.room_wanted());
    assert!(!producer.want_room());
    assert_eq!(consumer.try_pop(), Some(0));
    assert!(consumer.room_wanted());
    assert!(!consumer.room_wanted());
    assert!(producer.has_room());
    assert!(producer.want_room(), "room at once");
    assert!(!consumer.room_wanted(), "and then nobody waits");
}

#[test]
fn dropping_the_consumer_drops_what_it_did_not_pop() {
    let drops = Arc::new(AtomicUsize::new(0));
    let (mut producer, mut consumer) = ring(8);
    for value in 0..5 {
        push(&mut producer, counted(&drops, value));
    }
    assert_eq!(*consumer.try_pop().expect("five are there").1, 0);
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    assert!(!producer.is_disconnected());
    drop(consumer);
    assert_eq!(drops.load(Ordering::Relaxed), 5);
    assert!(producer.is_disconnected());
    push(&mut producer, counted(&drops, 5));
    assert_eq!(drops.load(Ordering::Relaxed), 5);
    drop(producer);
    assert_eq!(drops.load(Ordering::Relaxed), 6, "what came too late goes with the producer");
}

#[test]
fn dropping_the_producer_leaves_its_values_to_the_consumer() {
    let drops = Arc::new(AtomicUsize::new(0));
    let (mut producer, mut consumer) = ring(4);
    for value in 0..3 {
        push(&mut producer, counted(&drops, value));
    }
    drop(producer);
    assert!(consumer.is_disconnected());
    assert_eq!(*consumer.try_pop().expect("three are left").1, 0);
    drop(consumer);
    assert_eq!(drops.load(Ordering::Relaxed), 3);
}

/// Panics in its own drop, once.
struct Bomb(Arc<AtomicUsize>, bool);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        assert!(!self.1, "the bomb");
    }
}

#[test]
fn value_whose_drop_panics_is_dropped_once() {
    let drops = Arc::new(AtomicUsize::new(0));
    let (mut producer, consumer) = ring(8);
    for bomb in [false, true, false] {
        assert!(producer.try_push(Bomb(Arc::clone(&drops), bomb)).is_ok());
    }
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(consumer)));
    assert!(outcome.is_err());
    drop(producer);
    assert_eq!(drops.load(Ordering::Relaxed), 3);
}

#[test]
#[should_panic(expected = "ring of 3 slots")]
fn capacity_must_be_a_power_of_two() {
    drop(ring::<u8>(3));
}

#[test]
fn two_threads_lose_nothing_and_keep_order() {
    const VALUES: u64 = 50_000;
    let drops = Arc::new(AtomicUsize::new(0));
    let (mut producer, mut consumer) = ring(16);
    thread::scope(|scope| {
        scope.spawn(|| {
            for value in 0..VALUES {
                let mut message = counted(&drops, value);
                while let Err(back) = producer.try_push(message) {
                    message = back;
                    thread::yield_now();
                }
            }
        });
        scope.spawn(move || {
            let mut expected = 0;
            while expected < VALUES {
                match consumer.try_pop() {
                    Some(message) => {
                        assert_eq!(*message.1, expected);
                        expected += 1;
                    }
                    None => thread::yield_now(),
                }
            }
        });
    });
    assert_eq!(drops.load(Ordering::Relaxed) as u64, VALUES);
}

proptest! {
    /// Against a queue: what the ring holds is what was pushed and not popped; it refuses only when it is at least half full.
    #[test]
    fn behaves_like_a_bounded_queue(capacity_bits in 1_u32..6, pushes in proptest::collection::vec(any::<bool>(), 0..400)) {
        let capacity = 1_usize << capacity_bits;
        let (mut producer, mut consumer) = ring(capacity);
        let mut model = std::collections::VecDeque::new();
        for (step, is_push) in pushes.into_iter().enumerate() {
            if is_push {
                match producer.try_push(step) {
                    Ok(()) => {
                        model.push_back(step);
                        prop_assert!(model.len() <= capacity);
                    }
                    Err(back) => {
                        prop_assert_eq!(back, step);
                        prop_assert!(model.len() > capacity / 2);
                    }
                }
            } else {
                prop_assert_eq!(consumer.try_pop(), model.pop_front());
            }
        }
    }
}
