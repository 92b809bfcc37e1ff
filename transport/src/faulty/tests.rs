//! Each fault does what it says, and the same seed does it again.

use super::*;
use crate::header::{FrameKind, HEADER_LEN, HeaderError};
use crate::loopback::{LoopbackNetwork, LoopbackOptions, LoopbackTransport};

/// Two faulty ends with one link, a clock, and everything that was reported.
struct Pair {
    a: Faulty<LoopbackTransport>,
    b: Faulty<LoopbackTransport>,
    at_a: LinkId,
    at_b: LinkId,
    now: u64,
    trace: Vec<(u64, char, Event)>,
}

impl Pair {
    fn new(plan: FaultPlan) -> Self {
        let network = LoopbackNetwork::new();
        let bind = |name| network.bind(name, LoopbackOptions::plain()).expect("the name is free");
        let (mut a, b) = (Faulty::new(bind("a"), plan.clone()), Faulty::new(bind("b"), plan));
        let at_a = a.connect(&Addr::new("b"), 0).expect("room for a link");
        let mut pair = Self { a, b, at_a, at_b: at_a, now: 0, trace: Vec::new() };
        pair.passes(20);
        let up = |event: &(u64, char, Event)| matches!(event, (_, 'b', Event::LinkUp { .. }));
        pair.at_b = pair.trace.iter().find(|event| up(event)).expect("up at b").2.link();
        pair
    }

    fn passes(&mut self, count: usize) {
        for _ in 0..count {
            self.now += 10_000;
            for (name, end) in [('a', &mut self.a), ('b', &mut self.b)] {
                let mut events = Vec::new();
                end.flush();
                end.poll(self.now, &mut events);
                self.trace.extend(events.into_iter().map(|event| (self.now, name, event)));
            }
        }
    }

    fn send(&mut self, frames: &mut VecDeque<Frame>) -> Result<(), SendError> {
        self.a.send(self.at_a, frames)
    }

    fn received(&self) -> Vec<Frame> {
        let frames = self.trace.iter().filter_map(|(_, name, event)| match event {
            Event::Receive { frame, .. } if *name == 'b' => Some(frame.clone()),
            _ => None,
        });
        frames.collect()
    }

    fn downs(&self, end: char) -> Vec<DownReason> {
        let reasons = self.trace.iter().filter_map(|(_, name, event)| match event {
            Event::LinkDown { reason, .. } if *name == end => Some(*reason),
            _ => None,
        });
        reasons.collect()
    }
}

fn frames(numbers: Range<u32>) -> VecDeque<Frame> {
    let frame = |number| {
        let mut header = FrameHeader::new(FrameKind::OneWay);
        header.slot.set(number);
        header.payload_len.set(16);
        let mut bytes = vec![0; HEADER_LEN + 16];
        assert!(header.write_to(&mut bytes));
        Frame::copy_from(&bytes)
    };
    numbers.map(frame).collect()
}

#[test]
fn the_same_seed_makes_the_same_faults() {
    let run = |seed| {
        let mut pair = Pair::new(FaultPlan::legal(seed));
        let mut waiting = VecDeque::new();
        for first in (0..500).step_by(5) {
            waiting.extend(frames(first..first + 5));
            pair.send(&mut waiting).expect("the link is up");
            pair.passes(1);
        }
        while !waiting.is_empty() {
            pair.send(&mut waiting).expect("the link is up");
            pair.passes(1);
        }
        pair.passes(20);
        assert_eq!(pair.received(), Vec::from(frames(0..500)));
        (pair.trace.clone(), pair.a.counts(), pair.b.counts())
    };
    let first = run(1);
    assert!(first == run(1), "the same seed went another way");
    assert!(first.0 != run(2).0, "the seed does not matter");
    assert!(first.2.delayed > 0 && first.1.refused > 0 && first.1.partial > 0, "{:?} {:?}", first.1, first.2);
}

#[test]
fn refused_sends_take_nothing_and_then_there_is_room() {
    let mut pair = Pair::new(FaultPlan::calm(1));
    pair.a.refuse_sends(2);
    let mut waiting = frames(0..3);
    for _ in 0..2 {
        pair.send(&mut waiting).expect("the link is up");
        assert_eq!(waiting, frames(0..3));
    }
    pair.passes(1);
    let writable = (pair.now, 'a', Event::Writable { link: pair.at_a });
    assert!(pair.trace.contains(&writable));
    pair.send(&mut waiting).expect("the link is up");
    pair.passes(1);
    assert_eq!(pair.received(), Vec::from(frames(0..3)));
    assert_eq!(pair.a.counts(), FaultCounts { refused: 2, ..FaultCounts::default() });
}

#[test]
fn a_failed_link_ends_once_on_both_sides() {
    let mut pair = Pair::new(FaultPlan::calm(1));
    pair.a.fail_link(pair.at_a);
    pair.a.fail_link(pair.at_a);
    let mut waiting = frames(0..1);
    assert_eq!(pair.send(&mut waiting), Err(SendError::NoSuchLink));
    pair.passes(5);
    assert_eq!(pair.downs('a'), [DownReason::Failed(io::ErrorKind::ConnectionReset)]);
    assert_eq!(pair.downs('b'), [DownReason::ClosedByPeer]);
    assert_eq!(pair.a.counts().failed, 1);
}

#[test]
fn a_flipped_bit_reaches_the_receiver_or_ends_the_link() {
    let mut pair = Pair::new(FaultPlan::calm(1));
    pair.b.corrupt_next(pair.at_b, HEADER_LEN + 3);
    pair.send(&mut frames(0..2)).expect("the link is up");
    pair.passes(2);
    let received = pair.received();
    let good = frames(0..2);
    assert_eq!((received[0][HEADER_LEN + 3], good[0][HEADER_LEN + 3]), (1, 0));
    assert_eq!(received[1], good[1]);
    // The lowest bit of the length's third byte: the header announces more than there is.
    pair.b.corrupt_next(pair.at_b, 2);
    pair.send(&mut frames(2..4)).expect("the link is up");
    pair.passes(5);
    assert_eq!(pair.received().len(), 2, "a frame behind the broken one was given out");
    let announced = (HEADER_LEN + 16 + (1 << 16)) as u64;
    assert_eq!(pair.downs('b'), [DownReason::Garbage(HeaderError::LengthMismatch { announced, len: 48 })]);
    assert_eq!(pair.downs('a'), [DownReason::ClosedByPeer]);
    assert_eq!(pair.b.counts().corrupted, 2);
}

#[test]
fn rough_plans_break_links_and_nothing_else() {
    let (mut failed, mut corrupted) = (0, 0);
    for seed in 0..20 {
        let mut pair =
            Pair::new(FaultPlan { fail_link_ppm: 5_000, corrupt_ppm: 5_000, ..FaultPlan::rough(seed) });
        let mut waiting = frames(0..300);
        for _ in 0..400 {
            if pair.send(&mut waiting).is_err() {
                break;
            }
            pair.passes(1);
        }
        pair.passes(50);
        let (at_a, at_b) = (pair.downs('a').len(), pair.downs('b').len());
        assert!(at_a == at_b && at_a <= 1, "seed {seed}: {at_a} and {at_b} ends of one link");
        assert!(at_a == 1 || pair.received().len() == 300, "seed {seed}: frames lost on a link that is up");
        failed += pair.b.counts().failed;
        corrupted += pair.b.counts().corrupted;
    }
    assert!(failed > 0 && corrupted > 0, "{failed} failed, {corrupted} corrupted");
}
