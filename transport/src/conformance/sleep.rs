//! Sleeping until something happens, and being woken from other threads.

use super::Fixture;
use super::world::{End, Pair, World, sample_frame};
use crate::link::Event;
use crate::transport::Transport;
use std::collections::VecDeque;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

pub(super) fn wake_ends_wait(fixture: &mut dyn Fixture) {
    let (mut world, _) = World::linked(fixture);
    settle(&mut world);
    for _ in 0..20 {
        let waker = world.a.transport.waker();
        let transport = &mut world.a.transport;
        let (go, started) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                started.recv().expect("the sleeper tells");
                waker.wake();
            });
            go.send(()).expect("the waker waits");
            assert!(!transport.arm() || transport.wait(LONG), "the wake did not end the wait");
        });
    }
}

pub(super) fn wake_before_wait_counts(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    settle(&mut world);
    world.a.transport.waker().wake();
    assert!(!world.a.transport.arm() || world.a.transport.wait(LONG), "the wake was lost");
    // A poll in between does not swallow it.
    world.a.transport.waker().wake();
    world.a.pass(world.now);
    assert!(!world.a.transport.arm() || world.a.transport.wait(LONG), "a poll swallowed the wake");
    world.transfer(pair, 10, |_| 64);
}

pub(super) fn wait_times_out(fixture: &mut dyn Fixture) {
    let (mut world, _) = World::linked(fixture);
    settle(&mut world);
    let timed_out =
        (0..50).any(|_| world.a.transport.arm() && !world.a.transport.wait(Duration::from_millis(1)));
    assert!(timed_out, "nothing happens and the wait never lasts");
}

pub(super) fn frame_ends_wait(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    settle(&mut world);
    for number in 0..20 {
        let mut frames = world.b.frames(number..number + 1, |_| 64);
        let World { a, b, now } = &mut world;
        let b_now = *now;
        let (go, started) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                started.recv().expect("the sleeper tells");
                while !frames.is_empty() {
                    b.transport.send(pair.at_b, &mut frames).expect("taken");
                    b.pass(b_now);
                }
            });
            go.send(()).expect("the sender waits");
            sleep_until_received(&mut *a.transport, now);
        });
    }
}

pub(super) fn nothing_is_slept_over(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    settle(&mut world);
    let mut frames = world.b.frames(0..1, |_| 64);
    while !frames.is_empty() {
        world.b.transport.send(pair.at_b, &mut frames).expect("taken");
        world.b.pass(world.now);
    }
    // The frame is there, unpolled.
    sleep_until_received(&mut *world.a.transport, &mut world.now);
}

/// Request and answer between two threads that sleep whenever there is nothing to do.
pub(super) fn two_threads_exchange(fixture: &mut dyn Fixture) {
    const ROUNDS: u32 = 300;
    let (mut world, Pair { at_a, at_b }) = World::linked(fixture);
    settle(&mut world);
    let World { a, b, now } = &mut world;
    let start = *now;
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut answered, mut now) = (0, start);
            let mut frames = VecDeque::new();
            sleep_until_end(b, &mut now, |b| {
                while let Some(bytes) = b.seen(at_b).received.pop_front() {
                    assert!(bytes == sample_frame(answered, 128));
                    frames.extend(b.frames(answered..answered + 1, |_| 256));
                    answered += 1;
                }
                b.transport.send(at_b, &mut frames).expect("taken");
                answered == ROUNDS && frames.is_empty()
            });
        });
        let (mut asked, mut now) = (0, start);
        let mut frames = VecDeque::new();
        sleep_until_end(a, &mut now, |a| {
            let answers = a.seen(at_a).received.len() as u32;
            if answers == asked && asked < ROUNDS {
                frames.extend(a.frames(asked..asked + 1, |_| 128));
                asked += 1;
            }
            a.transport.send(at_a, &mut frames).expect("taken");
            answers == ROUNDS
        });
    });
}

/// One thread sleeps, and another one sends meanwhile: the answer ends the sleep.
pub(super) fn others_send_while_one_sleeps(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    settle(&mut world);
    for number in 0..20 {
        let World { a, b, now } = &mut world;
        let Some(mut sleeper) = a.transport.sleeper() else { return };
        while !a.transport.arm() {
            *now += 10_000;
            a.pass(*now);
        }
        let mut frames = a.frames(number..number + 1, |_| 64);
        let is_sent = thread::scope(|scope| {
            let asleep = scope.spawn(move || sleeper.sleep(LONG));
            a.transport.send(pair.at_a, &mut frames).expect("the link is up");
            a.transport.flush();
            let is_sent = frames.is_empty() && a.transport.arm();
            if is_sent {
                answer(b, pair, number, now);
            } else {
                a.transport.waker().wake();
            }
            assert!(asleep.join().expect("it sleeps"), "slept over what happened");
            is_sent
        });
        a.transport.end_sleep();
        while !frames.is_empty() {
            *now += 10_000;
            a.transport.send(pair.at_a, &mut frames).expect("the link is up");
            a.pass(*now);
        }
        if !is_sent {
            answer(b, pair, number, now);
        }
        for _ in 0..SLEEPS_MAX {
            *now += 10_000;
            a.pass(*now);
            if a.seen(pair.at_a).received.len() > number as usize {
                break;
            }
        }
        assert_eq!(a.seen(pair.at_a).received.len(), number as usize + 1, "the answer was lost");
    }
}

/// Waits for a frame of this number, and sends one back.
fn answer(end: &mut End, pair: Pair, number: u32, now: &mut u64) {
    let mut frames = end.frames(number..number + 1, |_| 64);
    for _ in 0..SLEEPS_MAX {
        *now += 10_000;
        end.pass(*now);
        if end.seen(pair.at_b).received.len() > number as usize {
            end.transport.send(pair.at_b, &mut frames).expect("the link is up");
            end.transport.flush();
        }
        if frames.is_empty() {
            return;
        }
    }
    panic!("after {SLEEPS_MAX} passes: no frame");
}

/// A driver's pass over one end, asleep when nothing happens, until `done`.
fn sleep_until_end(end: &mut End, now: &mut u64, mut done: impl FnMut(&mut End) -> bool) {
    for _ in 0..SLEEPS_MAX {
        *now += 10_000;
        let happened = end.pass(*now);
        if done(end) {
            end.pass(*now);
            return;
        }
        end.transport.flush();
        if happened == 0 && end.transport.arm() {
            sleep(&mut *end.transport, *now);
        }
    }
    panic!("after {SLEEPS_MAX} passes: not done");
}

/// Sleeps between polls until one brings a frame.
fn sleep_until_received(transport: &mut dyn Transport, now: &mut u64) {
    let mut events = Vec::new();
    for _ in 0..SLEEPS_MAX {
        if transport.arm() {
            sleep(transport, *now);
        }
        *now += 10_000;
        transport.poll(*now, &mut events);
        if events.iter().any(|event| matches!(event, Event::Receive { .. })) {
            return;
        }
    }
    panic!("woken {SLEEPS_MAX} times, and nothing arrived");
}

/// Sleeps until the transport wants to be polled; to sleep the whole time of [`LONG`] is a failure.
fn sleep(transport: &mut dyn Transport, now: u64) {
    let deadline = transport.poll_timeout();
    let timeout =
        deadline.map_or(LONG, |deadline| LONG.min(Duration::from_nanos(deadline.saturating_sub(now))));
    assert!(transport.wait(timeout) || timeout < LONG, "slept over what arrived");
}

/// Until what belongs to the links coming up has happened.
fn settle(world: &mut World) {
    (0..20).for_each(|_| world.pass());
}

/// Never waited for in full unless a case fails.
const LONG: Duration = Duration::from_secs(30);
const SLEEPS_MAX: usize = 100_000;
