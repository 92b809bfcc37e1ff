//! Hierarchical timer wheel: pure, owned by one core, told the time.
//!
//! ```text
//!   insert(at) -> key     level 0: 64 slots of 1 tick      <- fires from here
//!   cancel(key)           level 1: 64 slots of 64 ticks    <- cascades into level 0 when its time begins
//!   pop_expired(now)      ...
//!   next_deadline()       level 7: 64 slots of 64^7 ticks
//! ```
//! A tick is 2^20 ns, about 1 ms. A timer fires never early and at most one tick late, as seen by a caller that asks at
//! every tick; a caller that asks later gets what is due in the order of ticks, and within a tick in the order of insertion.
//! Eight levels reach over all of u64 nanoseconds: there is no list of far timers.
//!
//! Not a clock, and it calls nobody: [`TimerWheel::pop_expired`] hands out one value at a time, so that a caller can end its
//! borrow of the wheel before it acts on the value, and stop after as many as it likes. A value inserted as already due
//! comes out of the same run of pops: a loop over them needs a bound.
//!
//! Times must not fall from call to call; one that does counts as the latest seen.

/// Values of `T`, each with the time at which it is due.
///
/// Inserting, cancelling and popping cost a few nanoseconds; nothing is allocated while there are no more timers at once
/// than there were before. A timer is moved at most once per level on its way to level 0, together with all of its slot.
#[derive(Debug)]
pub(crate) struct TimerWheel<T> {
    /// The tick the wheel has reached: everything due before was popped, and no occupied slot begins before it.
    elapsed: u64,
    nodes: Vec<Node<T>>,
    /// First of the vacant nodes, linked through `next`.
    vacant: u32,
    len: usize,
    /// Bit n: level n has an occupied slot.
    levels_occupied: u8,
    /// Bit n of level l: slot n is occupied.
    slots_occupied: [u64; LEVELS],
    slots: [List; LEVELS * SLOTS],
}

/// Names one timer: when that has fired or was cancelled, the key names nothing, even if its place is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey {
    index: u32,
    generation: u32,
}

impl<T> TimerWheel<T> {
    /// An empty wheel at `now_ns`.
    pub(crate) fn new(now_ns: u64) -> Self {
        Self {
            elapsed: now_ns >> TICK_BITS,
            nodes: Vec::new(),
            vacant: NONE,
            len: 0,
            levels_occupied: 0,
            slots_occupied: [0; LEVELS],
            slots: [List { first: NONE, last: NONE }; LEVELS * SLOTS],
        }
    }

    /// Timers that wait or are due.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a timer that is due at `at_ns`, which may be past: then it is due now, after what is due already.
    ///
    /// # Panics
    /// With 2^32 - 1 timers in the wheel.
    #[inline]
    pub(crate) fn insert(&mut self, at_ns: u64, value: T) -> TimerKey {
        let tick = at_ns.div_ceil(TICK_NS).max(self.elapsed);
        let index = self.occupy_node(tick, value);
        self.link(index);
        self.len += 1;
        TimerKey { index, generation: self.nodes[index as usize].generation }
    }

    /// Removes the timer and returns its value, or `None` if it fired or was cancelled.
    #[inline]
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let node = self.nodes.get(key.index as usize)?;
        if node.generation != key.generation || node.value.is_none() {
            return None;
        }
        self.unlink(key.index);
        Some(self.vacate_node(key.index))
    }

    /// Takes the next value that is due at `now_ns`, or `None` if there is no more.
    #[inline]
    pub(crate) fn pop_expired(&mut self, now_ns: u64) -> Option<T> {
        let now = now_ns >> TICK_BITS;
        while let Some(next) = self.next_slot().filter(|next| next.start <= now || next.start <= self.elapsed)
        {
            // Never back: a slot that holds what came too late begins where the wheel stands.
            self.elapsed = self.elapsed.max(next.start);
            if next.slot < SLOTS {
                let index = self.slots[next.slot].first;
                self.unlink(index);
                return Some(self.vacate_node(index));
            }
            self.cascade(next.slot);
        }
        self.elapsed = self.elapsed.max(now);
        None
    }

    /// A time, in nanoseconds, before which nothing is due; `None` if the wheel is empty.
    ///
    /// Exact up to the tick for timers before the next multiple of 64 ticks. For farther ones it may be early, at most once
    /// per level: the caller wakes, pops nothing and asks again.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.next_slot().map(|next| next.start.saturating_mul(TICK_NS))
    }

    /// The occupied slot that begins first. Every occupied slot of a level begins before all those of the levels above,
    /// because a timer lies on the lowest level whose current round includes it.
    #[inline]
    fn next_slot(&self) -> Option<NextSlot> {
        if self.levels_occupied == 0 {
            return None;
        }
        let level = self.levels_occupied.trailing_zeros();
        let slot = u64::from(self.slots_occupied[level as usize].trailing_zeros());
        let round_start = self.elapsed >> ((level + 1) * SLOT_BITS) << ((level + 1) * SLOT_BITS);
        let start = round_start | slot << (level * SLOT_BITS);
        Some(NextSlot { start, slot: level as usize * SLOTS + slot as usize })
    }

    /// Spreads a slot that begins now over the levels below, keeping its order.
    fn cascade(&mut self, slot: usize) {
        let mut index = self.slots[slot].first;
        self.slots[slot] = List { first: NONE, last: NONE };
        self.mark_vacant(slot);
        while index != NONE {
            let next = self.nodes[index as usize].next;
            self.link(index);
            index = next;
        }
    }

    /// Appends the node to the slot that its tick belongs to, as seen from `elapsed`.
    #[inline]
    fn link(&mut self, index: u32) {
        let tick = self.nodes[index as usize].tick;
        let slot = slot_of(tick, self.elapsed);
        let list = &mut self.slots[slot];
        let previous = std::mem::replace(&mut list.last, index);
        if previous == NONE {
            list.first = index;
            self.slots_occupied[slot / SLOTS] |= 1 << (slot % SLOTS);
            self.levels_occupied |= 1 << (slot / SLOTS);
        } else {
            self.nodes[previous as usize].next = index;
        }
        let node = &mut self.nodes[index as usize];
        node.slot = slot as u32;
        node.previous = previous;
        node.next = NONE;
    }

    #[inline]
    fn unlink(&mut self, index: u32) {
        let Node { previous, next, slot, .. } = self.nodes[index as usize];
        let slot = slot as usize;
        match next {
            NONE => self.slots[slot].last = previous,
            next => self.nodes[next as usize].previous = previous,
        }
        match previous {
            NONE => self.slots[slot].first = next,
            previous => self.nodes[previous as usize].next = next,
        }
        if self.slots[slot].first == NONE {
            self.mark_vacant(slot);
        }
    }

    #[inline]
    fn mark_vacant(&mut self, slot: usize) {
        let level = slot / SLOTS;
        self.slots_occupied[level] &= !(1 << (slot % SLOTS));
        if self.slots_occupied[level] == 0 {
            self.levels_occupied &= !(1 << level);
        }
    }

    #[inline]
    fn occupy_node(&mut self, tick: u64, value: T) -> u32 {
        let index = self.vacant;
        if index == NONE {
            return self.add_node(tick, value);
        }
        let node = &mut self.nodes[index as usize];
        self.vacant = node.next;
        node.tick = tick;
        node.value = Some(value);
        index
    }

    #[cold]
    fn add_node(&mut self, tick: u64, value: T) -> u32 {
        let index = u32::try_from(self.nodes.len()).ok().filter(|index| *index != NONE);
        let index = index.expect("a caller bounds its timers far below 2^32");
        self.nodes.push(Node {
            tick,
            generation: 0,
            slot: 0,
            previous: NONE,
            next: NONE,
            value: Some(value),
        });
        index
    }

    /// Ends the life of an unlinked node and returns its value.
    #[inline]
    fn vacate_node(&mut self, index: u32) -> T {
        let node = &mut self.nodes[index as usize];
        node.generation = node.generation.wrapping_add(1);
        node.next = self.vacant;
        self.vacant = index;
        self.len -= 1;
        node.value.take().expect("only occupied nodes are linked")
    }
}

#[derive(Debug)]
struct Node<T> {
    tick: u64,
    generation: u32,
    slot: u32,
    previous: u32,
    next: u32,
    /// `None`: the node is vacant.
    value: Option<T>,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

struct NextSlot {
    /// The tick at which the slot begins.
    start: u64,
    /// Index into `slots`.
    slot: usize,
}

/// The slot for `tick` as seen from `elapsed <= tick`: the level is that of the highest digit, base 64, in which they differ.
#[inline]
fn slot_of(tick: u64, elapsed: u64) -> usize {
    let level = (63 - ((tick ^ elapsed) | 1).leading_zeros()) / SLOT_BITS;
    let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
    level as usize * SLOTS + slot
}

/// Nanoseconds per tick: what [`TimerWheel`] rounds up to.
pub(crate) const TICK_NS: u64 = 1 << TICK_BITS;
const TICK_BITS: u32 = 20;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Enough that the last level holds the last tick of u64 nanoseconds.
const LEVELS: usize = 8;
const _: () = assert!(LEVELS as u32 * SLOT_BITS > u64::BITS - TICK_BITS);
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests;
