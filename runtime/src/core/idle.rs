//! Objects that nobody uses leave memory: each after a while, and the least recently used sooner, while all of them together take
//! more than they may. Not here: how an object leaves (`objects.rs`).
//!
//! The call path notes when an object was last used and what it weighs, nothing else: there is no list in the order of use. While
//! the core is over its budget, 64 objects are drawn that nobody uses, from places spread evenly over the tables; the four of them
//! that were used least recently leave, and so on. So what leaves is among the oldest sixteenth of a sample: near to the order of use,
//! and exactly in it while the tables have no more than 256 places.

use std::cell::{Cell, RefCell};

use rkyv::util::AlignedVec;

use super::{CoreState, count};
use crate::activation::{CatalogEntry, EntityVtable, ObjectPtr, Status};
use crate::codec::{CodecError, Encoder};

/// What a core keeps about objects that nobody uses.
pub(super) struct Idling {
    /// Where the round over all places is that looks for idle objects: the entity, and the place in its table.
    at: Cell<(usize, u32)>,
    /// When it goes on; `u64::MAX`: nothing is in memory.
    round_due: Cell<u64>,
    /// When objects are looked for that leave for the budget; `u64::MAX`: the core keeps to it.
    budget_due: Cell<u64>,
    memory_len: Cell<u64>,
    /// Places looked at for the budget, ever, and since the last choice.
    looks: Cell<(u64, u64)>,
    candidates: RefCell<Vec<Candidate>>,
    /// The activations that there had been when the budget was last looked at.
    activations: Cell<u64>,
    /// Where states are archived to be measured.
    room: RefCell<AlignedVec>,
}

/// An object that nobody used when it was looked at.
struct Candidate {
    last_used: u64,
    object: ObjectPtr,
    generation: u32,
}

impl Default for Idling {
    fn default() -> Self {
        Self {
            at: Cell::default(),
            round_due: Cell::new(u64::MAX),
            budget_due: Cell::new(u64::MAX),
            memory_len: Cell::default(),
            looks: Cell::default(),
            candidates: RefCell::default(),
            activations: Cell::default(),
            room: RefCell::default(),
        }
    }
}

impl Idling {
    /// When there is something to look at next.
    pub(super) fn due(&self) -> Option<u64> {
        let due = self.round_due.get().min(self.budget_due.get());
        (due != u64::MAX).then_some(due)
    }

    pub(super) fn memory_len(&self) -> u64 {
        self.memory_len.get()
    }

    fn reweigh(&self, before: u32, after: u32) {
        self.memory_len.set(self.memory_len.get() - u64::from(before) + u64::from(after));
    }
}

impl CoreState {
    /// An object has come into memory, in its default state.
    pub(super) fn begin_idling(&self, object: ObjectPtr) {
        self.weigh(object, object.vtable.get().state_len_min as usize);
        if self.idling.round_due.get() == u64::MAX {
            self.idling.round_due.set(self.now.get().saturating_add(self.slice_ns(1)));
        }
    }

    /// The archive of the object's state is this long.
    #[inline]
    pub(super) fn weigh(&self, object: ObjectPtr, state_len: usize) {
        object.outweighed.set(false);
        let state_len = u32::try_from(state_len).unwrap_or(u32::MAX);
        let weight = object.vtable.get().fixed_len.saturating_add(state_len);
        if weight == object.weight.get() || object.status.get() == Status::Closing {
            return;
        }
        self.idling.reweigh(object.weight.replace(weight), weight);
        if self.is_over_budget() && self.idling.budget_due.get() == u64::MAX {
            self.idling.budget_due.set(self.now.get());
            self.idling.activations.set(self.counters.activations.get());
        }
    }

    /// The object is on its way out of memory.
    pub(super) fn unweigh(&self, object: ObjectPtr) {
        self.idling.reweigh(object.weight.replace(0), 0);
    }

    fn is_over_budget(&self) -> bool {
        self.idling.memory_len.get() > self.config.memory_len_max
    }

    /// Drops objects that were not used for too long, and while the core is over its budget others: a few at a time.
    pub(super) fn sweep(&self) {
        if self.idling.round_due.get() <= self.now.get() {
            self.drop_idle();
        }
        if self.idling.budget_due.get() <= self.now.get() {
            self.keep_to_budget();
        }
    }

    fn drop_idle(&self) {
        let mut at = self.idling.at.get();
        let mut measured_len = 0;
        for _ in 0..PLACES_PER_SLICE {
            let Some(object) = self.next_place(&mut at) else { break };
            if measured_len < MEASURED_PER_SLICE {
                measured_len += self.measure(object);
            }
            if self.is_idle(object) && self.close_object(object) {
                count(&self.counters.idle_dropped);
            }
        }
        self.idling.at.set(at);
        self.idling.round_due.set(self.next_slice());
    }

    fn is_idle(&self, object: ObjectPtr) -> bool {
        let idle_ns = self.idle_ns_of(object.vtable.get());
        object.status.get() == Status::Live && object.last_used.get() < self.now.get().saturating_sub(idle_ns)
    }

    fn next_place(&self, at: &mut (usize, u32)) -> Option<ObjectPtr> {
        for _ in 0..=self.entities.len() {
            let catalog = self.entities.get(at.0).and_then(Option::as_ref).map(CatalogEntry::any);
            if let Some(object) = catalog.and_then(|catalog| catalog.object(at.1)) {
                at.1 += 1;
                return Some(object);
            }
            *at = (if at.0 + 1 < self.entities.len() { at.0 + 1 } else { 0 }, 0);
        }
        None
    }

    /// When the round goes on. One that is behind, as after a long turn, catches up, but not more than one round.
    fn next_slice(&self) -> u64 {
        let catalogs = || self.entities.iter().flatten().map(CatalogEntry::any);
        if catalogs().all(|catalog| catalog.len() == 0) {
            return u64::MAX;
        }
        let slices = self.places().div_ceil(u64::from(PLACES_PER_SLICE)).max(1);
        let next = self.idling.round_due.get().saturating_add(self.slice_ns(slices));
        next.max(self.now.get().saturating_sub(self.round_ns()))
    }

    fn slice_ns(&self, slices: u64) -> u64 {
        (self.round_ns() / slices).max(SLICE_NS_MIN)
    }

    /// The time for one look at all places. With a budget also states are measured that are not saved at once.
    fn round_ns(&self) -> u64 {
        let of_budget = if self.config.memory_len_max == u64::MAX { u64::MAX } else { MEASURING_NS };
        let limits = self.entities.iter().flatten().map(|entry| self.idle_ns_of(entry.vtable));
        (limits.min().unwrap_or(u64::MAX) / ROUNDS_PER_LIMIT).min(of_budget)
    }

    /// How long an object of this entity may lie unused.
    pub(super) fn idle_ns_of(&self, entity: &EntityVtable) -> u64 {
        entity.idle_ns.unwrap_or(self.config.idle_ns)
    }

    /// Places for objects in all tables.
    fn places(&self) -> u64 {
        self.entities.iter().flatten().map(|entry| u64::from(entry.any().places())).sum()
    }

    /// Weighs an object again that was changed and not saved since; gives the bytes that were archived for it.
    fn measure(&self, object: ObjectPtr) -> usize {
        let wanted = object.outweighed.get() && self.config.memory_len_max != u64::MAX;
        if !wanted || object.status.get() != Status::Live || object.lock.get() < 0 {
            return 0;
        }
        let len_max = self.config.state_len_max;
        let (mut scratch, mut room) = (self.scratch.borrow_mut(), self.idling.room.borrow_mut());
        let mut room_len = room.len().max(ROOM_FIRST);
        let len = loop {
            room.resize(room_len, 0);
            match object
                .image(self.form_of(object), &mut Encoder { buffer: &mut room, scratch: &mut scratch })
            {
                Ok(len) => break len,
                Err(CodecError::Full { len }) if len <= len_max => room_len = len,
                // As large as a state gets; whoever saves it tells of it.
                Err(_) => break len_max,
            }
        };
        if room.len() > ROOM_KEPT {
            *room = AlignedVec::new();
        }
        self.weigh(object, len);
        len
    }

    /// Drops objects until the core keeps to its budget, or until this pass has done its part: more than what the passes since
    /// the last time have brought into memory.
    fn keep_to_budget(&self) {
        let activations = self.counters.activations.get();
        let fresh = activations - self.idling.activations.replace(activations);
        let mut next = u64::MAX;
        for _ in 0..CHOICES_PER_PASS + fresh / DROPPED_PER_CHOICE {
            if !self.is_over_budget() {
                break;
            }
            next = self.now.get();
            if self.draw_candidates() && !self.drop_oldest() {
                // All are in use, or all that are not were drawn in vain.
                next = next.saturating_add(BUDGET_AGAIN_NS);
                break;
            }
        }
        self.idling.budget_due.set(if self.is_over_budget() { next } else { u64::MAX });
    }

    /// Looks at some places; gives whether there are enough candidates, or no more.
    fn draw_candidates(&self) -> bool {
        let places = self.places();
        let is_small = places <= LOOKS_PER_DRAW;
        let mut candidates = self.idling.candidates.borrow_mut();
        for _ in 0..if is_small { places } else { LOOKS_PER_DRAW } {
            if !is_small && candidates.len() >= CANDIDATES {
                break;
            }
            let (ever, since) = self.idling.looks.get();
            self.idling.looks.set((ever.wrapping_add(1), since + 1));
            let place = if is_small { since % places } else { spread(ever, places) };
            if let Some(object) = self.object_in(place).filter(|object| object.is_unused()) {
                let (last_used, generation) = (object.last_used.get(), object.generation.get());
                candidates.push(Candidate { last_used, object, generation });
            }
        }
        let (_, since) = self.idling.looks.get();
        is_small || candidates.len() >= CANDIDATES || since >= places.saturating_mul(2)
    }

    /// The object in this place, counted over all tables.
    fn object_in(&self, mut place: u64) -> Option<ObjectPtr> {
        for entry in self.entities.iter().flatten() {
            let places = u64::from(entry.any().places());
            if place < places {
                return entry.any().object(place as u32);
            }
            place -= places;
        }
        None
    }

    /// Drops the least recently used of the candidates; gives whether any could be dropped.
    fn drop_oldest(&self) -> bool {
        let mut candidates = std::mem::take(&mut *self.idling.candidates.borrow_mut());
        let (ever, _) = self.idling.looks.get();
        self.idling.looks.set((ever, 0));
        candidates.sort_by_key(|candidate| candidate.last_used);
        let dropped_max = (candidates.len() / ONE_OF).max(1);
        let mut dropped = 0;
        for Candidate { last_used, object, generation } in candidates.drain(..) {
            if dropped == dropped_max || !self.is_over_budget() {
                break;
            }
            let same = object.generation.get() == generation && object.last_used.get() == last_used;
            if same && self.close_object(object) {
                count(&self.counters.budget_dropped);
                dropped += 1;
            }
        }
        // The memory is used again.
        *self.idling.candidates.borrow_mut() = candidates;
        dropped > 0
    }
}

/// The place of a number of which neighbours lie far apart and all together evenly: multiples of the golden ratio.
fn spread(number: u64, places: u64) -> u64 {
    ((u128::from(number.wrapping_mul(GOLDEN)) * u128::from(places)) >> 64) as u64
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Places looked at in one slice of the round that looks for idle objects.
const PLACES_PER_SLICE: u32 = 64;
/// Rounds in the shortest time that an object may lie unused: it stays so much longer at most.
const ROUNDS_PER_LIMIT: u64 = 8;
const SLICE_NS_MIN: u64 = 1_000_000;
/// The time for a round where states are to be measured.
const MEASURING_NS: u64 = 5_000_000_000;
/// Bytes archived in one slice to measure states, but for the last one.
const MEASURED_PER_SLICE: usize = 256 << 10;
const ROOM_FIRST: usize = 4 << 10;
const ROOM_KEPT: usize = 64 << 10;

/// Candidates that a choice is made from.
const CANDIDATES: usize = 64;
/// One of so many candidates is dropped.
const ONE_OF: usize = 16;
const DROPPED_PER_CHOICE: u64 = (CANDIDATES / ONE_OF) as u64;
/// Places looked at in one go.
const LOOKS_PER_DRAW: u64 = 256;
/// Choices in one pass, beyond those for what was activated meanwhile.
const CHOICES_PER_PASS: u64 = 8;
/// When a core is looked at again that is over its budget with all that it has in use.
const BUDGET_AGAIN_NS: u64 = 10_000_000;
