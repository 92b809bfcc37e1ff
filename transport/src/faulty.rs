//! A transport that does what networks do: waits, refuses, breaks, lies.
//!
//! [`Faulty`] wraps any [`Transport`]. What it does comes from a [`FaultPlan`] and its seed, or is told by the caller
//! (`fail_link`, `refuse_sends`, `corrupt_next`); the same seed and the same calls give the same faults. It keeps the
//! contract in every case: with a plan of [`FaultPlan::legal`] it passes the conformance suite, and what such a transport
//! upsets is wrong in who uses it.

use crate::frame::Frame;
use crate::header::FrameHeader;
use crate::link::{Addr, DownReason, Event, LinkId};
use crate::pool::BufferPool;
use crate::transport::{Caps, EVENTS_PER_POLL_MAX, SendError, Sleeper, Transport};
use crate::wake::Wake;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

/// What goes wrong how often. Chances are in parts of a million.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultPlan {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// How long each event is held back, in nanoseconds; events of one link keep their order. Empty: not at all.
    pub delay_ns: Range<u64>,
    /// A call of `send` takes nothing.
    pub refuse_send_ppm: u32,
    /// A call of `send` takes only some of the frames.
    pub partial_send_ppm: u32,
    /// One bit of a received frame is flipped.
    pub corrupt_ppm: u32,
    /// A link fails when a frame is received on it.
    pub fail_link_ppm: u32,
}

impl FaultPlan {
    /// Nothing goes wrong unless it is told.
    #[must_use]
    pub const fn calm(seed: u64) -> Self {
        Self {
            seed,
            delay_ns: 0..0,
            refuse_send_ppm: 0,
            partial_send_ppm: 0,
            corrupt_ppm: 0,
            fail_link_ppm: 0,
        }
    }

    /// Delays of up to 100 us and much back-pressure: nothing that any transport may not do on a good day.
    #[must_use]
    pub const fn legal(seed: u64) -> Self {
        let mut plan = Self::calm(seed);
        plan.delay_ns = 0..100_000;
        plan.refuse_send_ppm = 100_000;
        plan.partial_send_ppm = 200_000;
        plan
    }

    /// As legal, and now and then a link fails or a bit flips.
    #[must_use]
    pub const fn rough(seed: u64) -> Self {
        let mut plan = Self::legal(seed);
        plan.corrupt_ppm = 200;
        plan.fail_link_ppm = 200;
        plan
    }
}

/// How often what went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Events held back.
    pub delayed: u64,
    /// Calls of `send` that took nothing.
    pub refused: u64,
    /// Calls of `send` that took only some.
    pub partial: u64,
    /// Frames with a flipped bit.
    pub corrupted: u64,
    /// Links that failed without having been corrupted.
    pub failed: u64,
}

/// A transport with faults.
pub struct Faulty<T> {
    inner: T,
    plan: FaultPlan,
    random: fastrand::Rng,
    counts: FaultCounts,
    /// Events on their way, in the order in which they are due.
    held: BTreeMap<(u64, u64), Event>,
    next_number: u64,
    /// When the last held event of a link is due.
    last_due: BTreeMap<LinkId, u64>,
    /// Links whose `LinkUp` was handed out and whose `LinkDown` was not.
    up: BTreeSet<LinkId>,
    /// Links that failed here and whose end the inner transport has not reported yet.
    killed: BTreeSet<LinkId>,
    /// Links on which a `send` was cut short.
    refused: BTreeSet<LinkId>,
    refusals_left: u32,
    corrupt_next: BTreeMap<LinkId, usize>,
    now: u64,
    inner_events: Vec<Event>,
}

impl<T: Transport> Faulty<T> {
    /// Wraps a transport that has no links yet.
    #[must_use]
    pub fn new(inner: T, plan: FaultPlan) -> Self {
        Self {
            inner,
            random: fastrand::Rng::with_seed(plan.seed),
            plan,
            counts: FaultCounts::default(),
            held: BTreeMap::new(),
            next_number: 0,
            last_due: BTreeMap::new(),
            up: BTreeSet::new(),
            killed: BTreeSet::new(),
            refused: BTreeSet::new(),
            refusals_left: 0,
            corrupt_next: BTreeMap::new(),
            now: 0,
            inner_events: Vec::new(),
        }
    }

    /// What went wrong so far.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// Replaces the plan from here on; the course of chance goes on where it was.
    pub fn set_plan(&mut self, plan: FaultPlan) {
        self.plan = plan;
    }

    /// Fails a link now, as if the network had: both sides hear of it, what is on its way is lost.
    pub fn fail_link(&mut self, link: LinkId) {
        if self.kill(link, DownReason::Failed(io::ErrorKind::ConnectionReset)) {
            self.counts.failed += 1;
        }
    }

    /// Lets the next `count` calls of `send` take nothing.
    pub fn refuse_sends(&mut self, count: u32) {
        self.refusals_left = count;
    }

    /// Flips the lowest bit of the byte at `at`, modulo the length, of the next frame that arrives on `link`.
    pub fn corrupt_next(&mut self, link: LinkId, at: usize) {
        self.corrupt_next.insert(link, at);
    }

    fn happens(&mut self, chance_ppm: u32) -> bool {
        chance_ppm > 0 && self.random.u32(..1_000_000) < chance_ppm
    }

    /// Holds an event back for as long as chance says, behind the earlier ones of its link.
    fn hold(&mut self, event: Event) {
        let delay =
            if self.plan.delay_ns.is_empty() { 0 } else { self.random.u64(self.plan.delay_ns.clone()) };
        self.counts.delayed += u64::from(delay > 0);
        let last_due = self.last_due.entry(event.link()).or_insert(0);
        *last_due = self.now.saturating_add(delay).max(*last_due);
        let number = self.next_number;
        self.next_number += 1;
        self.held.insert((*last_due, number), event);
    }

    /// Forgets what is held of a link; `true` if its end was among that.
    fn forget(&mut self, link: LinkId) -> bool {
        let mut had_end = false;
        self.held.retain(|_, event| {
            had_end |= matches!(event, Event::LinkDown { link: ended, .. } if *ended == link);
            event.link() != link
        });
        self.refused.remove(&link);
        had_end
    }

    /// Ends a link with a reason of ours.
    fn kill(&mut self, link: LinkId, reason: DownReason) -> bool {
        let is_known = self.up.contains(&link) || self.last_due.contains_key(&link);
        if !is_known || self.killed.contains(&link) {
            return false;
        }
        if !self.forget(link) {
            self.inner.close(link);
            self.killed.insert(link);
        }
        // Who has not heard of an incoming link need not hear of its end.
        if self.up.contains(&link) {
            self.hold(Event::LinkDown { link, reason });
        }
        true
    }

    fn handle_inner(&mut self, event: Event) {
        let link = event.link();
        if self.killed.contains(&link) {
            if matches!(event, Event::LinkDown { .. }) {
                self.killed.remove(&link);
            }
            return;
        }
        if matches!(event, Event::LinkDown { .. }) {
            self.refused.remove(&link);
        }
        let Event::Receive { frame, .. } = event else { return self.hold(event) };
        if self.happens(self.plan.fail_link_ppm) {
            return self.fail_link(link);
        }
        let flipped = self.corrupt_next.remove(&link).map(|at| (at % frame.len(), 1)).or_else(|| {
            let is_hit = self.happens(self.plan.corrupt_ppm);
            is_hit.then(|| (self.random.usize(..frame.len()), 1 << self.random.u8(..8)))
        });
        match flipped {
            None => self.hold(Event::Receive { link, frame }),
            Some((at, bits)) => self.hold_corrupted(link, &frame, at, bits),
        }
    }

    /// What a transport does with a frame that was changed on its way: it sees only what breaks the header.
    fn hold_corrupted(&mut self, link: LinkId, frame: &Frame, at: usize, bits: u8) {
        self.counts.corrupted += 1;
        let mut bytes = frame.to_vec();
        bytes[at] ^= bits;
        match FrameHeader::parse_frame(&bytes) {
            Ok(_) => self.hold(Event::Receive { link, frame: Frame::copy_from(&bytes) }),
            Err(error) => {
                self.kill(link, DownReason::Garbage(error));
            }
        }
    }

    fn hand_out(&mut self, event: Event, events: &mut Vec<Event>) {
        let link = event.link();
        match event {
            Event::LinkUp { .. } => {
                self.up.insert(link);
            }
            Event::LinkDown { .. } => {
                self.up.remove(&link);
                self.refused.remove(&link);
                self.last_due.remove(&link);
                self.corrupt_next.remove(&link);
            }
            Event::Receive { .. } | Event::Writable { .. } => {}
        }
        events.push(event);
    }

    /// How many of `len` frames this call of `send` may take.
    fn allowed(&mut self, len: usize) -> usize {
        if self.refusals_left > 0 || self.happens(self.plan.refuse_send_ppm) {
            self.refusals_left = self.refusals_left.saturating_sub(1);
            self.counts.refused += 1;
            return 0;
        }
        if len > 1 && self.happens(self.plan.partial_send_ppm) {
            self.counts.partial += 1;
            return self.random.usize(1..len);
        }
        len
    }
}

impl<T: Transport> Transport for Faulty<T> {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn local_addr(&self) -> &Addr {
        self.inner.local_addr()
    }

    fn pool(&self) -> &BufferPool {
        self.inner.pool()
    }

    fn bulk_pool(&self) -> Option<&BufferPool> {
        self.inner.bulk_pool()
    }

    fn connect(&mut self, addr: &Addr, now: u64) -> io::Result<LinkId> {
        self.inner.connect(addr, now)
    }

    fn close(&mut self, link: LinkId) {
        if self.forget(link) {
            // It has ended inside, and now it has ended here.
            self.hold(Event::LinkDown { link, reason: DownReason::ClosedHere });
        } else if !self.killed.contains(&link) {
            self.inner.close(link);
        }
    }

    fn send(&mut self, link: LinkId, frames: &mut VecDeque<Frame>) -> Result<(), SendError> {
        if self.killed.contains(&link) || !self.up.contains(&link) {
            // The inner transport may know it up already, while here its `LinkUp` is still on its way.
            let is_coming =
                !self.killed.contains(&link) && self.inner.send(link, &mut VecDeque::new()).is_ok();
            return if is_coming { Ok(()) } else { Err(SendError::NoSuchLink) };
        }
        let allowed = self.allowed(frames.len());
        let kept = frames.split_off(allowed);
        let result = self.inner.send(link, frames);
        if !kept.is_empty() && result.is_ok() && frames.is_empty() {
            self.refused.insert(link);
        }
        frames.extend(kept);
        result
    }

    fn flush(&mut self) {
        self.inner.flush();
    }

    fn poll(&mut self, now: u64, events: &mut Vec<Event>) {
        self.now = self.now.max(now);
        if self.held.len() < HELD_EVENTS_MAX {
            let mut inner_events = std::mem::take(&mut self.inner_events);
            self.inner.poll(now, &mut inner_events);
            for event in inner_events.drain(..) {
                self.handle_inner(event);
            }
            self.inner_events = inner_events;
        }
        for link in std::mem::take(&mut self.refused) {
            self.hold(Event::Writable { link });
        }
        let events_max = events.len() + EVENTS_PER_POLL_MAX;
        while events.len() < events_max
            && let Some(entry) = self.held.first_entry()
            && entry.key().0 <= self.now
        {
            let event = entry.remove();
            self.hand_out(event, events);
        }
    }

    fn poll_timeout(&self) -> Option<u64> {
        let first_due = self.held.keys().next().map(|&(due, _)| due);
        first_due.into_iter().chain(self.inner.poll_timeout()).min()
    }

    fn arm(&mut self) -> bool {
        let is_due = self.held.keys().next().is_some_and(|&(due, _)| due <= self.now);
        let is_full = self.held.len() >= HELD_EVENTS_MAX;
        self.refused.is_empty() && !is_due && (is_full || self.inner.arm())
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        self.inner.wait(timeout)
    }

    fn sleeper(&self) -> Option<Box<dyn Sleeper>> {
        self.inner.sleeper()
    }

    fn end_sleep(&mut self) {
        self.inner.end_sleep();
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }

    fn event_fd(&self) -> Option<RawFd> {
        self.inner.event_fd()
    }
}

/// Bound on held events, above which the inner transport is not polled: its own back-pressure then holds the peer.
const HELD_EVENTS_MAX: usize = 8 * EVENTS_PER_POLL_MAX;

#[cfg(test)]
mod tests;
