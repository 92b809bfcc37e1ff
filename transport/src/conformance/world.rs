//! Two transports driven from one thread, with the checks that hold for every event.

use super::Fixture;
use crate::frame::Frame;
use crate::header::{FRAME_ALIGN, FrameHeader, FrameKind, HEADER_LEN};
use crate::link::{Addr, Direction, DownReason, Event, LinkId};
use crate::transport::{EVENTS_PER_POLL_MAX, Transport};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Two ends and a clock that moves with every pass.
pub(super) struct World {
    pub(super) a: End,
    pub(super) b: End,
    pub(super) now: u64,
}

/// A transport and what happened on it.
pub(super) struct End {
    pub(super) transport: Box<dyn Transport>,
    pub(super) links: BTreeMap<LinkId, Seen>,
    /// Keep frames instead of copies of their bytes.
    pub(super) holds_frames: bool,
    events: Vec<Event>,
}

/// What happened on one link.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) up: Option<(Direction, Addr)>,
    pub(super) down: Option<DownReason>,
    pub(super) received: VecDeque<Vec<u8>>,
    pub(super) held: Vec<Frame>,
    pub(super) writable_count: usize,
}

/// A link by its two names.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub(super) at_a: LinkId,
    pub(super) at_b: LinkId,
}

impl World {
    pub(super) fn new(fixture: &mut dyn Fixture) -> Self {
        Self { a: End::new(fixture.transport()), b: End::new(fixture.transport()), now: 1_000_000 }
    }

    /// A world with one link.
    pub(super) fn linked(fixture: &mut dyn Fixture) -> (Self, Pair) {
        let mut world = Self::new(fixture);
        let pair = world.connect();
        (world, pair)
    }

    /// A link from a to b, up on both sides.
    pub(super) fn connect(&mut self) -> Pair {
        let known: Vec<_> = self.b.links.keys().copied().collect();
        let at_a = self.a.connect(&self.b.addr(), self.now);
        self.until("the link is up at the connecting end", |world| world.a.is_up(at_a));
        let mut at_b = None;
        self.until("the link is up at the accepting end", |world| {
            at_b = world.b.links.keys().copied().find(|link| !known.contains(link) && world.b.is_up(*link));
            at_b.is_some()
        });
        Pair { at_a, at_b: at_b.expect("seen above") }
    }

    /// Drives both ends once; rests for a moment if nothing happened.
    pub(super) fn pass(&mut self) {
        self.now += NS_PER_PASS;
        let happened = self.a.pass(self.now) + self.b.pass(self.now);
        if happened == 0 {
            self.a.rest(self.now);
        }
    }

    /// Passes until `done`.
    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..PASSES_MAX {
            if done(self) {
                return;
            }
            self.pass();
        }
        panic!("after {PASSES_MAX} passes: not {what}");
    }

    /// Sends `count` frames from a to b within b's window, and checks that they arrive as they were.
    pub(super) fn transfer(&mut self, pair: Pair, count: u32, len_of: impl Fn(u32) -> usize) {
        let Self { a, b, now } = self;
        transfer(a, pair.at_a, b, pair.at_b, now, count, len_of);
    }

    /// As [`World::transfer`], from b to a.
    pub(super) fn transfer_back(&mut self, pair: Pair, count: u32, len_of: impl Fn(u32) -> usize) {
        let Self { a, b, now } = self;
        transfer(b, pair.at_b, a, pair.at_a, now, count, len_of);
    }
}

impl End {
    pub(super) fn new(transport: Box<dyn Transport>) -> Self {
        Self { transport, links: BTreeMap::new(), holds_frames: false, events: Vec::new() }
    }

    pub(super) fn addr(&self) -> Addr {
        self.transport.local_addr().clone()
    }

    pub(super) fn connect(&mut self, addr: &Addr, now: u64) -> LinkId {
        let link = self.transport.connect(addr, now).expect("the address is well-formed");
        assert!(!self.links.contains_key(&link), "an id came twice");
        self.links.insert(link, Seen::default());
        link
    }

    pub(super) fn seen(&mut self, link: LinkId) -> &mut Seen {
        self.links.get_mut(&link).expect("a link of this end")
    }

    pub(super) fn is_up(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(|seen| seen.up.is_some() && seen.down.is_none())
    }

    pub(super) fn down(&self, link: LinkId) -> Option<DownReason> {
        self.links.get(&link).and_then(|seen| seen.down)
    }

    /// Frames for the peer, from the pool while it has some.
    pub(super) fn frames(
        &self,
        numbers: std::ops::Range<u32>,
        len_of: impl Fn(u32) -> usize,
    ) -> VecDeque<Frame> {
        numbers.map(|number| self.frame(number, len_of(number))).collect()
    }

    fn frame(&self, number: u32, len: usize) -> Frame {
        let bytes = sample_frame(number, len);
        let is_bulk = len > self.transport.caps().frame_len_max;
        let bulk = self.transport.bulk_pool().filter(|_| is_bulk);
        match bulk.unwrap_or(self.transport.pool()).alloc(len) {
            None => Frame::copy_from(&bytes),
            Some(mut buffer) => {
                buffer.copy_from_slice(&bytes);
                buffer.freeze()
            }
        }
    }

    /// Polls once and returns how many events there were.
    pub(super) fn pass(&mut self, now: u64) -> usize {
        self.transport.flush();
        let mut events = std::mem::take(&mut self.events);
        self.transport.poll(now, &mut events);
        let count = events.len();
        assert!(count <= EVENTS_PER_POLL_MAX, "{count} events in one poll");
        for event in events.drain(..) {
            self.handle(event);
        }
        self.events = events;
        // What was received is dropped: this makes receive buffers of it before the peer sends more.
        self.transport.flush();
        count
    }

    /// Lets the network work for a moment.
    fn rest(&mut self, now: u64) {
        let timeout = self.transport.poll_timeout();
        let timeout = timeout.map_or(REST, |due| REST.min(Duration::from_nanos(due.saturating_sub(now))));
        if self.transport.arm() {
            self.transport.wait(timeout);
        }
    }

    fn handle(&mut self, event: Event) {
        let link = event.link();
        if let Event::LinkUp { direction: Direction::Incoming, .. } = event {
            assert!(!self.links.contains_key(&link), "an id came twice");
            self.links.insert(link, Seen::default());
        }
        let frame_len_max = self.transport.caps().bulk_len_max;
        let seen = self.links.get_mut(&link).expect("an event of a link that nobody heard of");
        assert_eq!(seen.down, None, "{event:?} after the link went down");
        match event {
            Event::LinkUp { direction, peer, .. } => {
                assert_eq!(seen.up.replace((direction, peer)), None, "up twice");
            }
            Event::LinkDown { reason, .. } => seen.down = Some(reason),
            Event::Writable { .. } => seen.writable_count += 1,
            Event::Receive { frame, .. } => {
                assert!(seen.up.is_some(), "a frame before the link was up");
                assert!(frame.as_ptr().addr().is_multiple_of(FRAME_ALIGN), "a frame that is not aligned");
                assert!(frame.len() <= frame_len_max, "a frame that is too long");
                FrameHeader::parse_frame(&frame).expect("a whole frame");
                if self.holds_frames {
                    seen.held.push(frame);
                } else {
                    seen.received.push_back(frame.to_vec());
                }
            }
        }
    }
}

fn transfer(
    from: &mut End,
    from_link: LinkId,
    to: &mut End,
    to_link: LinkId,
    now: &mut u64,
    count: u32,
    len_of: impl Fn(u32) -> usize,
) {
    let window = to.transport.caps().receive_window_frames.unwrap_or(WINDOW_MAX).min(WINDOW_MAX) as u32;
    let (mut sent, mut arrived, mut vain_passes) = (0, 0, 0);
    let mut waiting = VecDeque::new();
    while arrived < count {
        let allowed = (arrived + window).min(count);
        waiting.extend(from.frames(sent..allowed, &len_of));
        sent = allowed;
        from.transport.send(from_link, &mut waiting).expect("the link takes frames");
        *now += NS_PER_PASS;
        let happened = from.pass(*now) + to.pass(*now);
        vain_passes += 1;
        while let Some(bytes) = to.seen(to_link).received.pop_front() {
            assert!(bytes == sample_frame(arrived, len_of(arrived)), "frame {arrived} is not what was sent");
            arrived += 1;
            vain_passes = 0;
        }
        assert!(vain_passes < PASSES_MAX, "{arrived} of {count} frames arrived, then nothing");
        if happened == 0 {
            to.rest(*now);
        }
    }
    assert!(waiting.is_empty());
    assert_eq!(to.seen(to_link).received.len(), 0, "more frames than were sent");
}

/// A valid frame of `len` bytes, a multiple of 16, whose bytes depend on `number`.
pub(super) fn sample_frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    fastrand::Rng::with_seed(u64::from(number)).fill(&mut frame[HEADER_LEN..]);
    let padding = if len > HEADER_LEN { number as usize % FRAME_ALIGN } else { 0 };
    let mut header = FrameHeader::new(FrameKind::Request);
    header.payload_len.set((len - HEADER_LEN - padding) as u32);
    header.slot.set(number);
    assert!(header.write_to(&mut frame));
    frame
}

/// Frames under way where the transport itself names no window.
const WINDOW_MAX: usize = 256;
const NS_PER_PASS: u64 = 20_000;
const REST: Duration = Duration::from_micros(200);
/// Passes after which what has not happened never will: seconds of resting.
pub(super) const PASSES_MAX: u32 = 20_000;
