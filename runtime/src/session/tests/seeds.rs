//! Thousands of seeded runs with cuts, restarts and long pauses.

use std::collections::BTreeSet;

use epicserver_transport::FrameKind;
use fastrand::Rng;

use crate::session::SessionConfig;
use crate::session::tests::pair::{Fate, Pair};

const SEEDS: u64 = 1_500;

#[test]
fn every_call_arrives_once_and_in_order_or_is_reported() {
    // A failing seed is named by the assertion's context: run `Run::new(seed).go()` alone to replay it.
    let mut most_link_frames = 0;
    let (mut resumed, mut lost) = (0, 0);
    for seed in 0..SEEDS {
        let context = Context(seed);
        let run = Run::new(seed).go();
        most_link_frames = most_link_frames.max(run.pair.most_link_frames);
        let events = || run.pair.ends.iter().flat_map(|end| &end.events);
        resumed += events().filter(|event| event.starts_with("Up") && event.ends_with("true")).count();
        lost += events().filter(|event| event.starts_with("Lost")).count();
        std::mem::forget(context);
    }
    // The runs went through what they are for.
    assert!(resumed > SEEDS as usize / 2 && lost > SEEDS as usize / 4, "{resumed} resumed, {lost} lost");
    assert!(most_link_frames >= 4, "{most_link_frames}");
}

/// Says which seed it was when a check fails.
struct Context(u64);

impl Drop for Context {
    fn drop(&mut self) {
        eprintln!("failing seed: {}", self.0);
    }
}

struct Run {
    pair: Pair,
    rng: Rng,
    next_number: u32,
    has_faults: bool,
    has_restarts: bool,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut rng = Rng::with_seed(seed);
        let has_faults = rng.bool();
        let configs = [1, 2].map(|stream| {
            let mut config = SessionConfig::new(stream * 1_000_000, rng.u32(16..40) * 16 + rng.u32(0..16));
            config.window_calls = rng.u32(1..12);
            config.window_answers = rng.u32(1..12);
            config.window_controls = rng.u32(1..12);
            config.payload_len_max = 6_000;
            config.queue_calls_max = rng.usize(1..20);
            config.queue_answers_max = rng.usize(1..20);
            config.queue_controls_max = rng.usize(1..20);
            if !has_faults {
                // Slow is no fault here: nothing moves between steps.
                (config.silence_max_ns, config.stall_max_ns) = (u64::MAX, u64::MAX);
            }
            config
        });
        let mut pair = Pair::new(configs);
        pair.connect(0);
        pair.settle();
        Run { pair, has_faults, has_restarts: rng.bool(), rng, next_number: 0 }
    }

    fn go(mut self) -> Run {
        for _ in 0..self.rng.usize(50..400) {
            self.step();
            self.check_bounds();
        }
        self.heal();
        self.check_books();
        self
    }

    fn step(&mut self) {
        let end = self.rng.usize(0..2);
        match self.rng.u32(0..100) {
            0..35 => self.queue(end),
            35..60 => {
                let frames_max = self.rng.usize(1..8);
                self.pair.transmit(end, frames_max);
            }
            60..82 => {
                let frames_max = self.rng.usize(1..8);
                self.pair.deliver(end, frames_max);
            }
            82..92 => {
                let end = &mut self.pair.ends[end];
                let released = self.rng.u32(0..=end.unreleased);
                end.unreleased -= released;
                end.session.release_calls(released);
                let released = self.rng.u32(0..=end.unreleased_answers);
                end.unreleased_answers -= released;
                end.session.release_answers(released);
                let released = self.rng.u32(0..=end.unreleased_controls);
                end.unreleased_controls -= released;
                end.session.release_controls(released);
            }
            92..95 => self.pair.advance(self.rng.u64(0..1_500_000_000)),
            _ if self.has_faults => self.fault(end),
            _ => {}
        }
    }

    fn queue(&mut self, end: usize) {
        use FrameKind::{Cancel, Control, Error, Moved, OneWay, Reply, Request};
        let kinds = [Request, Request, Request, OneWay, Cancel, Reply, Error, Moved, Control];
        let kind = kinds[self.rng.usize(0..kinds.len())];
        let payload_len = match self.rng.u32(0..10) {
            0 => self.rng.usize(0..=6_000),
            1..4 => self.rng.usize(200..700),
            _ => self.rng.usize(0..100),
        };
        self.pair.ends[end].queue(self.pair.now, kind, self.next_number, payload_len);
        self.next_number += 1;
    }

    fn fault(&mut self, end: usize) {
        match self.rng.u32(0..20) {
            0..6 => self.pair.cut(),
            6..8 => {
                self.pair.cut();
                self.pair.notice(end);
            }
            8..17 => self.pair.connect(end),
            17 => self.pair.advance(self.rng.u64(0..20_000_000_000)),
            18 if self.has_restarts => self.pair.restart(end, true),
            19 if self.has_restarts => self.pair.restart(end, false),
            _ => {}
        }
    }

    fn check_bounds(&self) {
        for (index, end) in self.pair.ends.iter().enumerate() {
            let window = self.pair.ends[1 - index].config.window_calls as usize;
            let kept = end.session.calls().count();
            assert!(kept <= end.config.queue_calls_max + window, "{kept} kept");
        }
    }

    /// A last link without faults: everything must come to its end.
    fn heal(&mut self) {
        if self.has_faults {
            self.pair.connect(0);
        }
        self.pair.settle();
        for _ in 0..3 {
            // Time for the last counts to be told.
            self.pair.advance(1_100_000_000);
            self.pair.settle();
        }
        for end in &self.pair.ends {
            assert!(end.session.is_up(), "{:?}", end.events);
            assert_eq!(end.session.calls().count(), 0, "a call is still kept");
        }
    }

    fn check_books(&self) {
        for (sender, receiver) in [(0, 1), (1, 0)] {
            let (sender, receiver) = (&self.pair.ends[sender], &self.pair.ends[receiver]);
            let got: BTreeSet<u32> = receiver.got.iter().copied().collect();
            let events = [&sender.events, &receiver.events];
            assert_eq!(got.len(), receiver.got.len(), "a call arrived twice: {:?} {events:#?}", receiver.got);
            assert!(receiver.got.is_sorted(), "calls arrived out of order");
            for (number, fate) in &sender.calls {
                let has_arrived = got.contains(number);
                match fate {
                    Fate::Queued => assert!(has_arrived, "call {number} vanished"),
                    Fate::NotSent => assert!(!has_arrived, "call {number} arrived and was called not sent"),
                    Fate::Unknown | Fate::Orphan => {}
                }
            }
            assert!(receiver.got_answers.is_sorted(), "answers arrived out of order");
            assert!(receiver.got_controls.is_sorted(), "control frames arrived out of order");
            if !self.has_faults {
                assert!(sender.events.iter().all(|event| event.starts_with("Up")), "{:?}", sender.events);
                assert!(sender.calls.values().all(|fate| *fate == Fate::Queued));
            }
        }
    }
}
