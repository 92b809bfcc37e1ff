//! Frames arrive, all of them, and what cannot be sent waits.

use super::Fixture;
use super::world::{Pair, World, sample_frame};
use crate::frame::Frame;
use crate::header::{FRAME_ALIGN, FrameHeader, FrameKind, HEADER_LEN};
use crate::link::DownReason;
use crate::transport::{EVENTS_PER_POLL_MAX, SendError, Shape};
use std::collections::{BTreeSet, VecDeque};

pub(super) fn frames_arrive_in_order(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    let units_max = world.a.transport.caps().frame_len_max / FRAME_ALIGN;
    let len_of =
        |number: u32| (2 + (number as usize * number as usize * 7919) % (units_max - 1)) * FRAME_ALIGN;
    world.transfer(pair, 2_000, len_of);
    world.transfer_back(pair, 500, len_of);
}

pub(super) fn every_length_arrives(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    let frame_len_max = world.a.transport.caps().frame_len_max;
    assert!(frame_len_max.is_multiple_of(FRAME_ALIGN));
    let mut lens: Vec<_> = (HEADER_LEN..=frame_len_max.min(8 << 10)).step_by(FRAME_ALIGN).collect();
    lens.extend((8 << 10..frame_len_max).step_by(FRAME_ALIGN * 61));
    lens.extend([frame_len_max - FRAME_ALIGN, frame_len_max]);
    world.transfer(pair, lens.len() as u32, |number| lens[number as usize]);
}

pub(super) fn both_directions_at_once(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    for round in 0..20 {
        let (first, last) = (round * 20, round * 20 + 20);
        let mut there = world.a.frames(first..last, |_| 512);
        let mut back = world.b.frames(first..last, |_| 2048);
        world.until("20 frames each way", |world| {
            world.a.transport.send(pair.at_a, &mut there).expect("taken");
            world.b.transport.send(pair.at_b, &mut back).expect("taken");
            world.b.seen(pair.at_b).received.len() == 20 && world.a.seen(pair.at_a).received.len() == 20
        });
        for number in first..last {
            assert_eq!(world.b.seen(pair.at_b).received.pop_front(), Some(sample_frame(number, 512)));
            assert_eq!(world.a.seen(pair.at_a).received.pop_front(), Some(sample_frame(number, 2048)));
        }
    }
}

/// Far more frames wait than one poll may hand out; the world checks each poll, here it is that none is lost.
pub(super) fn a_poll_is_bounded(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    if world.b.transport.caps().receive_window_frames.is_some() {
        return;
    }
    let count = 3 * EVENTS_PER_POLL_MAX;
    let mut frames = world.a.frames(0..count as u32, |_| HEADER_LEN);
    for _ in 0..STUCK_PASSES {
        world.a.transport.send(pair.at_a, &mut frames).expect("the link is up");
        world.now += 1_000;
        world.a.pass(world.now);
    }
    world.until("all have arrived", |world| {
        world.a.transport.send(pair.at_a, &mut frames).expect("the link is up");
        world.b.seen(pair.at_b).received.len() == count
    });
    for number in 0..count as u32 {
        assert_eq!(world.b.seen(pair.at_b).received.pop_front(), Some(sample_frame(number, HEADER_LEN)));
    }
}

/// A window of the receiver makes this a breach, not back-pressure: such transports are held by `send_window_holds`.
pub(super) fn back_pressure(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    if world.b.transport.caps().receive_window_frames.is_some() {
        return;
    }
    let taken = send_until_stuck(&mut world, pair);
    let writable_before = world.a.seen(pair.at_a).writable_count;
    world.until("everything taken has arrived", |world| world.b.seen(pair.at_b).received.len() == taken);
    world.until("the sender is told of room", |world| {
        world.a.seen(pair.at_a).writable_count > writable_before
    });
    check_received(&mut world, pair, taken);
    world.transfer(pair, 100, |_| 64);
}

/// Sends from a while b does not poll until a takes no more for long, and returns how many frames it took.
fn send_until_stuck(world: &mut World, pair: Pair) -> usize {
    let (mut number, mut stuck_passes) = (0, 0);
    let mut waiting = VecDeque::new();
    while stuck_passes < STUCK_PASSES {
        if waiting.is_empty() {
            waiting = world.a.frames(number..number + 16, |_| PRESSURE_FRAME_LEN);
            number += 16;
        }
        let before = waiting.len();
        world.a.transport.send(pair.at_a, &mut waiting).expect("the link is up");
        world.now += 1_000;
        world.a.pass(world.now);
        stuck_passes = if waiting.len() == before { stuck_passes + 1 } else { 0 };
        assert!(number as usize * PRESSURE_FRAME_LEN < TAKEN_LEN_MAX, "the sender takes without end");
    }
    let next = waiting.front().map(|frame| frame.to_vec());
    let taken = number as usize - waiting.len();
    assert_eq!(
        next,
        Some(sample_frame(taken as u32, PRESSURE_FRAME_LEN)),
        "what stays is not the rest in order"
    );
    taken
}

fn check_received(world: &mut World, pair: Pair, count: usize) {
    for number in 0..count {
        let frame = world.b.seen(pair.at_b).received.pop_front();
        assert!(
            frame == Some(sample_frame(number as u32, PRESSURE_FRAME_LEN)),
            "frame {number} is not what was sent"
        );
    }
}

pub(super) fn send_window_holds(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    let Some(window) = world.a.transport.caps().send_window_frames else { return };
    let room = world.b.transport.caps().receive_window_frames.unwrap_or(usize::MAX);
    let count = room.min(window + 8);
    assert!(window < room, "a send window that cannot be filled without a breach");
    let mut frames = world.a.frames(0..count as u32, |_| 64);
    world.a.transport.send(pair.at_a, &mut frames).expect("taken");
    assert!(frames.len() >= count - window, "more than the window was taken at once");
    world.until("the rest is taken and arrives", |world| {
        world.a.transport.send(pair.at_a, &mut frames).expect("taken");
        world.b.seen(pair.at_b).received.len() == count
    });
}

pub(super) fn receive_window_breach(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    let Some(window) = world.b.transport.caps().receive_window_frames else { return };
    let other = world.connect();
    let mut frames = world.a.frames(0..window as u32 + 1, |_| 64);
    for _ in 0..window {
        world.a.transport.send(pair.at_a, &mut frames).unwrap_or(());
        world.now += 1_000;
        world.a.pass(world.now);
    }
    world.until("down on both sides", |world| {
        world.a.down(pair.at_a).is_some() && world.b.down(pair.at_b).is_some()
    });
    assert_eq!(world.a.down(pair.at_a), Some(DownReason::WindowExceeded));
    assert_eq!(world.b.down(pair.at_b), Some(DownReason::WindowExceeded));
    world.transfer(other, 3 * window as u32, |_| 64);
}

pub(super) fn malformed_frames_stay(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    let frame_len_max = world.a.transport.caps().frame_len_max;
    let good = |number| Frame::copy_from(&sample_frame(number, 64));
    let too_long = Frame::copy_from(&sample_frame(0, frame_len_max + FRAME_ALIGN));
    let mut header = FrameHeader::new(FrameKind::Ping);
    header.payload_len.set(100);
    let announces_more = Frame::copy_from(&header.to_bytes());
    let no_header = Frame::copy_from(&[0; 64]);
    for (number, bad) in [too_long, announces_more, no_header, Frame::copy_from(&[])].into_iter().enumerate()
    {
        let number = number as u32;
        let mut frames = VecDeque::from([good(number), bad.clone(), good(99)]);
        let mut result = Ok(());
        world.until("the bad frame is named", |world| {
            result = world.a.transport.send(pair.at_a, &mut frames);
            result.is_err()
        });
        let is_named = match result {
            Err(SendError::TooLong { len, .. }) => len == bad.len() && bad.len() > frame_len_max,
            Err(SendError::Malformed(_)) => bad.len() <= frame_len_max,
            _ => false,
        };
        assert!(is_named, "{result:?} for a bad frame of {} bytes", bad.len());
        assert_eq!((frames.len(), frames.front()), (2, Some(&bad)), "the bad frame stays in front");
        world.until("the good frame arrives", |world| world.b.seen(pair.at_b).received.len() == 1);
        assert_eq!(world.b.seen(pair.at_b).received.pop_front(), Some(sample_frame(number, 64)));
    }
    world.transfer(pair, 10, |_| 64);
}

pub(super) fn frames_outlive_everything(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    world.b.holds_frames = true;
    let mut frames = world.a.frames(0..8, |number| 64 + number as usize * 64);
    world.until("eight are held", |world| {
        world.a.transport.send(pair.at_a, &mut frames).expect("taken");
        world.b.seen(pair.at_b).held.len() == 8
    });
    let held = std::mem::take(&mut world.b.seen(pair.at_b).held);
    world.a.transport.close(pair.at_a);
    world.until("down", |world| world.b.down(pair.at_b).is_some());
    drop(world);
    for (number, frame) in held.into_iter().enumerate() {
        assert_eq!(*frame, *sample_frame(number as u32, 64 + number * 64));
    }
}

/// A receiver that holds every frame stops the link at a bound; dropping them starts it again, and nothing is lost.
pub(super) fn held_frames_stop_a_link(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    if world.b.transport.caps().receive_window_frames.is_some() {
        return;
    }
    world.b.holds_frames = true;
    let mut frames = VecDeque::new();
    let (mut number, mut quiet_passes, mut held_before) = (0, 0, 0);
    while quiet_passes < STUCK_PASSES && number < HELD_FRAMES_MAX {
        if frames.is_empty() {
            frames = world.a.frames(number..number + 16, |_| PRESSURE_FRAME_LEN);
            number += 16;
        }
        world.a.transport.send(pair.at_a, &mut frames).expect("the link is up");
        world.pass();
        let held = world.b.seen(pair.at_b).held.len();
        quiet_passes = if held == held_before { quiet_passes + 1 } else { 0 };
        held_before = held;
    }
    let caps = world.b.transport.caps().clone();
    let buffers: BTreeSet<_> = world.b.seen(pair.at_b).held.iter().map(Frame::buffer_id).collect();
    // Where frames cross by reference, the sender's pool is the bound.
    assert!(
        caps.shape == Shape::Packet || buffers.len() <= caps.receive_buffers_per_link,
        "{} held",
        buffers.len()
    );
    let mut arrived = 0;
    world.until("everything has arrived", |world| {
        world.a.transport.send(pair.at_a, &mut frames).expect("the link is up");
        for frame in std::mem::take(&mut world.b.seen(pair.at_b).held) {
            assert!(
                *frame == *sample_frame(arrived, PRESSURE_FRAME_LEN),
                "frame {arrived} is not what was sent"
            );
            arrived += 1;
        }
        arrived == number
    });
}

pub(super) fn every_buffer_returns(fixture: &mut dyn Fixture) {
    let mut world = World::new(fixture);
    let pools = [world.a.transport.pool().clone(), world.b.transport.pool().clone()];
    for _ in 0..3 {
        let pair = world.connect();
        let window = world.b.transport.caps().receive_window_frames.unwrap_or(64) as u32;
        world.transfer(pair, 3 * window, |number| 32 + (number as usize % 60) * 16);
        // Some are still on their way when the link ends.
        let mut frames = world.a.frames(0..8, |_| 1024);
        world.a.transport.send(pair.at_a, &mut frames).expect("the link is up");
        drop(frames);
        world.a.transport.close(pair.at_a);
        world.until("down on both sides", |world| {
            world.a.down(pair.at_a).is_some() && world.b.down(pair.at_b).is_some()
        });
    }
    let pair = world.connect();
    let mut frames = world.b.frames(0..4, |_| 64);
    world.b.transport.send(pair.at_b, &mut frames).expect("the link is up");
    drop((frames, world));
    assert_eq!(pools.map(|pool| pool.outstanding()), [0, 0], "buffers that nobody has did not return");
}

const PRESSURE_FRAME_LEN: usize = 4096;
/// Passes without progress that count as stuck.
pub(super) const STUCK_PASSES: usize = 300;
/// Far more than any socket and queue together hold.
const TAKEN_LEN_MAX: usize = 64 << 20;
const HELD_FRAMES_MAX: u32 = 4 << 10;
