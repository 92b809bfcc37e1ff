//! Tests of the wheel, against an ordered map where the order matters.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{TICK_NS, TimerKey, TimerWheel};

const HOUR_NS: u64 = 3_600_000_000_000;

fn drain(wheel: &mut TimerWheel<u64>, now_ns: u64) -> Vec<u64> {
    std::iter::from_fn(|| wheel.pop_expired(now_ns)).collect()
}

#[test]
fn timer_fires_at_the_next_tick_and_never_before_its_time() {
    let start = 5 * TICK_NS + 17;
    for delay in
        [1, 16, TICK_NS - 17, TICK_NS, 63 * TICK_NS, 64 * TICK_NS, 65 * TICK_NS + 1, HOUR_NS, 24 * HOUR_NS]
    {
        let mut wheel = TimerWheel::new(start);
        let at = start + delay;
        wheel.insert(at, 1);
        assert_eq!(wheel.pop_expired(at - 1), None, "delay {delay}");
        assert_eq!(wheel.pop_expired(at + TICK_NS - 1), Some(1), "delay {delay}");
        assert_eq!(wheel.len(), 0);
        assert_eq!(wheel.next_deadline(), None);
    }
}

#[test]
fn past_timers_are_due_at_once_after_what_is_due_already() {
    let mut wheel = TimerWheel::new(100 * TICK_NS);
    wheel.insert(100 * TICK_NS, 1);
    wheel.insert(3, 2);
    wheel.insert(50 * TICK_NS, 3);
    assert_eq!(drain(&mut wheel, 100 * TICK_NS), [1, 2, 3]);
}

#[test]
fn timers_fire_in_order_of_ticks_then_of_insertion_across_levels() {
    let mut wheel = TimerWheel::new(0);
    wheel.insert(5000 * TICK_NS, 5);
    wheel.insert(70 * TICK_NS, 2);
    wheel.insert(5000 * TICK_NS, 6);
    wheel.insert(70 * TICK_NS - 5, 3);
    wheel.insert(3 * TICK_NS, 1);
    assert_eq!(drain(&mut wheel, 69 * TICK_NS), [1]);
    wheel.insert(70 * TICK_NS, 4);
    assert_eq!(drain(&mut wheel, 6000 * TICK_NS), [2, 3, 4, 5, 6]);
}

#[test]
fn value_inserted_between_pops_takes_its_place_in_the_order() {
    let mut wheel = TimerWheel::new(0);
    wheel.insert(10 * TICK_NS, 1);
    wheel.insert(30 * TICK_NS, 3);
    assert_eq!(wheel.pop_expired(40 * TICK_NS), Some(1));
    wheel.insert(20 * TICK_NS, 2);
    assert_eq!(drain(&mut wheel, 40 * TICK_NS), [2, 3]);
}

#[test]
fn key_of_a_timer_that_is_gone_names_nothing() {
    let mut wheel = TimerWheel::new(0);
    let first = wheel.insert(TICK_NS, 1);
    assert_eq!(wheel.cancel(first), Some(1));
    assert_eq!(wheel.cancel(first), None);
    let second = wheel.insert(TICK_NS, 2);
    assert_ne!(first, second);
    assert_eq!(wheel.cancel(first), None, "the place is used again, under another generation");
    assert_eq!(wheel.pop_expired(TICK_NS), Some(2));
    assert_eq!(wheel.cancel(second), None);
}

#[test]
fn nodes_are_recycled() {
    let mut wheel = TimerWheel::new(0);
    for round in 0..1000 {
        let keys = [1, 100, 10_000].map(|ticks| wheel.insert((round + ticks) * TICK_NS, round));
        assert_eq!(wheel.cancel(keys[1]), Some(round));
        assert_eq!(wheel.cancel(keys[2]), Some(round));
        assert_eq!(drain(&mut wheel, (round + 1) * TICK_NS), [round]);
    }
    assert_eq!(wheel.nodes.len(), 3);
}

#[test]
fn last_nanosecond_is_a_deadline_that_never_comes() {
    let mut wheel = TimerWheel::new(u64::MAX - HOUR_NS);
    let key = wheel.insert(u64::MAX, 1);
    assert!(wheel.next_deadline() > Some(u64::MAX - HOUR_NS));
    assert_eq!(wheel.pop_expired(u64::MAX), None);
    assert_eq!(wheel.next_deadline(), Some(u64::MAX));
    assert_eq!(wheel.cancel(key), Some(1));
}

#[test]
fn time_that_falls_pops_nothing_that_is_not_due() {
    let mut wheel = TimerWheel::new(0);
    assert_eq!(wheel.pop_expired(100 * TICK_NS), None);
    wheel.insert(150 * TICK_NS, 1);
    assert_eq!(wheel.pop_expired(0), None);
    assert_eq!(wheel.pop_expired(150 * TICK_NS), Some(1));
}

#[test]
fn caller_that_sleeps_until_each_deadline_wakes_a_few_times_and_in_time() {
    let mut wheel = TimerWheel::new(0);
    let at = 30 * 24 * HOUR_NS + 12_345;
    wheel.insert(at, 1);
    for wakes in 1.. {
        let now = wheel.next_deadline().expect("one timer waits");
        if wheel.pop_expired(now).is_some() {
            assert!((at..at + TICK_NS).contains(&now));
            assert!(wakes <= 8, "{wakes} wakes");
            break;
        }
        assert!(now < at);
    }
}

/// The wheel beside what it should be: values ordered by (tick, order of insertion).
struct Pair {
    wheel: TimerWheel<u64>,
    model: BTreeMap<(u64, u64), TimerKey>,
    /// The wheel's position: the tick of the last pop, or of the last time at which nothing was due.
    reached: u64,
    now_ns: u64,
    inserted: u64,
    gone: Vec<TimerKey>,
}

impl Pair {
    fn new(now_ns: u64) -> Self {
        Self {
            wheel: TimerWheel::new(now_ns),
            model: BTreeMap::new(),
            reached: now_ns / TICK_NS,
            now_ns,
            inserted: 0,
            gone: Vec::new(),
        }
    }

    fn insert(&mut self, at_ns: u64) {
        let tick = at_ns.div_ceil(TICK_NS).max(self.reached);
        let key = self.wheel.insert(at_ns, self.inserted);
        self.model.insert((tick, self.inserted), key);
        self.inserted += 1;
    }

    fn cancel(&mut self, nth: usize) {
        let Some((&place, &key)) = self.model.iter().nth(nth % self.model.len().max(1)) else { return };
        self.model.remove(&place);
        assert_eq!(self.wheel.cancel(key), Some(place.1));
        self.gone.push(key);
    }

    /// Returns whether something was due.
    fn pop(&mut self) -> bool {
        let now = self.now_ns / TICK_NS;
        let due = self.model.first_key_value().map(|(&place, _)| place).filter(|&(tick, _)| tick <= now);
        assert_eq!(self.wheel.pop_expired(self.now_ns), due.map(|(_, value)| value));
        match due {
            Some(place) => {
                self.reached = place.0;
                self.gone.extend(self.model.remove(&place));
            }
            None => self.reached = now,
        }
        due.is_some()
    }

    fn check(&mut self) {
        assert_eq!(self.wheel.len(), self.model.len());
        let first = self.model.first_key_value().map(|((tick, _), _)| tick.saturating_mul(TICK_NS));
        let bound = self.wheel.next_deadline();
        assert_eq!(bound.is_some(), first.is_some());
        assert!(bound <= first, "{bound:?} is after {first:?}");
        if first < Some((self.reached / 64 + 1) * 64 * TICK_NS) {
            assert_eq!(bound, first, "exact within the round of level 0");
        }
        if let Some(&key) = self.gone.last() {
            assert_eq!(self.wheel.cancel(key), None);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    InsertIn(u64),
    InsertAgo(u64),
    Cancel(usize),
    AdvanceBy(u64),
    AdvanceToDeadline,
    PopOne,
    PopAll,
}

/// Spans of every size, from below a tick to years.
fn span_ns() -> impl Strategy<Value = u64> {
    (0_u32..56, any::<u64>()).prop_map(|(bits, noise)| noise & ((1 << bits) - 1))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => span_ns().prop_map(Step::InsertIn),
        2 => (0..200 * TICK_NS).prop_map(Step::InsertIn),
        1 => span_ns().prop_map(Step::InsertAgo),
        3 => any::<usize>().prop_map(Step::Cancel),
        2 => span_ns().prop_map(Step::AdvanceBy),
        2 => (0..100 * TICK_NS).prop_map(Step::AdvanceBy),
        2 => Just(Step::AdvanceToDeadline),
        4 => Just(Step::PopOne),
        2 => Just(Step::PopAll),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn behaves_like_an_ordered_map(start in span_ns(), steps in proptest::collection::vec(step(), 1..200)) {
        let mut pair = Pair::new(start);
        for step in steps {
            match step {
                Step::InsertIn(span) => pair.insert(pair.now_ns.saturating_add(span)),
                Step::InsertAgo(span) => pair.insert(pair.now_ns.saturating_sub(span)),
                Step::Cancel(nth) => pair.cancel(nth),
                Step::AdvanceBy(span) => pair.now_ns = pair.now_ns.saturating_add(span),
                Step::AdvanceToDeadline => {
                    pair.now_ns = pair.now_ns.max(pair.wheel.next_deadline().unwrap_or(0));
                }
                Step::PopOne => {
                    pair.pop();
                }
                Step::PopAll => while pair.pop() {},
            }
            pair.check();
        }
    }
}
