//! Cycles of waiting calls over several chains: found by a probe that follows who waits for whom.
//!
//! The direct path refuses a call that would wait for its own ancestor at once. Two chains that wait for each other are
//! not ancestors; so a call that has been queued for a while sends a probe. Its edges run from a queued call to the
//! holders of its object that exclude it and to the calls queued before it (queues are served in order), and from a running method to
//! the calls it waits for, on this core, on others, and at other nodes. A probe that comes back to where it began has found
//! a cycle, and its initiator gets `Deadlock`.
//!
//! That is the youngest call of the cycle, because a probe does not go on at a queued call that is younger than its initiator:
//! in every cycle one probe comes back, that of its youngest, and nobody has to be told to break it. Each call on the way is
//! looked at after the one that waits for it, and the initiator last, so that what was seen still holds: who waits for a
//! call waits until that call has ended.
//!
//! Probes may be lost on their way. Who still waits sends another one, [`PROBE_INTERVAL_NS`](super::admission::PROBE_INTERVAL_NS)
//! after the last. A method that waits for one of several calls (`select!`) may be taken for part of a cycle: accepted, as a
//! cycle that is missed would wait until its deadline.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{CoreMessage, CoreState};
use crate::error::CallError;
use crate::id::CallId;
use crate::path::conflict;
use crate::slot::{Away, Hold, SlotPtr, State, TaskRef};
use crate::wire::probe::{HOPS_MAX, WAY_LEN_MAX};

/// A search, and where it goes on.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// The queued call that looks for itself.
    pub(super) initiator: CallId,
    /// Tells this search from the initiator's others.
    pub(super) round: u64,
    pub(super) at: TaskRef,
    /// The calls on the way, for the error's text.
    pub(super) way: String,
    /// How often it went on at another core or node.
    pub(super) hops: u8,
}

impl Probe {
    /// The search, one step further.
    fn step(&self, at: SlotPtr) -> Self {
        let mut probe = Self { at: at.task(), ..self.clone() };
        let step = step_text(at);
        let arrow = if probe.way.is_empty() { "" } else { " -> " };
        if probe.way.len() + arrow.len() + step.len() + WAY_CUT.len() <= WAY_LEN_MAX {
            probe.way = format!("{}{arrow}{step}", probe.way);
        } else if !probe.way.ends_with(WAY_CUT) {
            probe.way.push_str(WAY_CUT);
        }
        probe
    }
}

fn rule(slot: SlotPtr) -> (Hold, u32) {
    (slot.vtable.get().hold, slot.vtable.get().id)
}

fn step_text(slot: SlotPtr) -> String {
    let object = slot.object.get().map(crate::activation::ObjectPtr::label).unwrap_or_default();
    format!("{object}.{}", slot.vtable.get().name)
}

/// The searches that came by of late, with what was looked at in each. Without it a search would set out again from a call
/// for every way that leads to it, and ways multiply.
#[derive(Default)]
pub(super) struct ProbeLog(RefCell<VecDeque<Visited>>);

struct Visited {
    initiator: CallId,
    round: u64,
    calls: BTreeSet<usize>,
}

impl ProbeLog {
    /// Takes out what was looked at in a search.
    fn take(&self, probe: &Probe) -> Visited {
        let mut log = self.0.borrow_mut();
        let same = |visited: &Visited| visited.initiator == probe.initiator && visited.round == probe.round;
        let place = log.iter().position(same);
        let fresh = || Visited { initiator: probe.initiator, round: probe.round, calls: BTreeSet::new() };
        place.and_then(|place| log.remove(place)).unwrap_or_else(fresh)
    }

    fn keep(&self, visited: Visited) {
        let mut log = self.0.borrow_mut();
        if log.len() == PROBES_KEPT {
            log.pop_front();
        }
        log.push_back(visited);
    }
}

/// Calls that the probes of one tick of the clock look at, before others must wait for the next.
const PROBED_PER_TICK: usize = 1 << 14;
/// Searches that a core remembers; one that is older goes round in circles for at most [`HOPS_MAX`] hops.
const PROBES_KEPT: usize = 256;
/// Stands for the rest of a way that is too long.
const WAY_CUT: &str = " -> ..";

type Children = BTreeMap<usize, Vec<SlotPtr>>;

impl CoreState {
    /// Whether one more probe may look at the calls of this core now.
    pub(super) fn may_probe(&self) -> bool {
        let tick = self.now.get() / crate::timer::TICK_NS;
        let (of_tick, looked_at) = self.probed.get();
        let looked_at = if of_tick == tick { looked_at } else { 0 };
        self.probed.set((tick, looked_at + self.slots.live()));
        looked_at < PROBED_PER_TICK
    }

    /// Looks whether this queued call waits for itself.
    pub(super) fn start_probe(&self, slot: SlotPtr) {
        let (initiator, round) = (self.call_id(slot), self.next_counter());
        let probe = Probe { initiator, round, at: slot.task(), way: String::new(), hops: 0 };
        self.search(probe.step(slot));
    }

    /// A search goes on at a call of this core.
    pub(super) fn continue_probe(&self, probe: Probe) {
        let Some(slot) = self.here(probe.at) else { return };
        if self.is_initiator(&probe, slot) {
            return self.break_cycle(slot, &probe.way);
        }
        if self.goes_on_at(&probe, slot) {
            self.search(probe.step(slot));
        }
    }

    /// Follows the edges on this core, depth first; each call is looked at once in a search.
    fn search(&self, probe: Probe) {
        let mut visited = self.probes.take(&probe);
        if visited.calls.insert(probe.at.slot.as_raw() as usize) {
            self.search_from(probe, &mut visited.calls);
        }
        self.probes.keep(visited);
    }

    fn search_from(&self, probe: Probe, seen: &mut BTreeSet<usize>) {
        let children = self.children();
        let mut stack = vec![probe];
        while let Some(step) = stack.pop() {
            let Some(slot) = step.at.live() else { continue };
            for next in self.waited_for(slot, &children, seen) {
                if self.is_initiator(&step, next) {
                    return self.break_cycle(next, &step.way);
                }
                // One that is left out is not seen: from those before it in its queue the search may go on.
                if self.goes_on_at(&step, next) && seen.insert(next.as_raw() as usize) {
                    self.follow(&step, next, &mut stack);
                }
            }
        }
    }

    fn follow(&self, from: &Probe, next: SlotPtr, stack: &mut Vec<Probe>) {
        let further = Probe { at: next.task(), hops: from.hops + 1, ..from.clone() };
        match next.caller.away.get() {
            Away::Here => stack.push(from.step(next)),
            _ if further.hops >= HOPS_MAX => {}
            Away::Core(core) => self.tell(core, CoreMessage::probe(further)),
            Away::Node(place) => self.send_probe(place, &further),
        }
    }

    /// Whether the search has come back to the call that it began with.
    fn is_initiator(&self, probe: &Probe, slot: SlotPtr) -> bool {
        self.is_queued_here(slot) && self.call_id(slot) == probe.initiator
    }

    /// Whether a cycle through this call is for this search to find: else it is for that of a younger one.
    fn goes_on_at(&self, probe: &Probe, slot: SlotPtr) -> bool {
        !self.is_queued_here(slot) || self.call_id(slot) < probe.initiator
    }

    fn is_queued_here(&self, slot: SlotPtr) -> bool {
        slot.state.get() == State::Waiting
    }

    /// The calls that `slot` waits for.
    fn waited_for(&self, slot: SlotPtr, children: &Children, seen: &BTreeSet<usize>) -> Vec<SlotPtr> {
        match (slot.state.get(), slot.object.get()) {
            (State::Waiting, Some(object)) => {
                // Whoever stands before it in the queue is in its way, also one that it could share the object with.
                // Those before one that was seen are followed from there: else a long queue is walked for each in it. That
                // one itself may be the initiator.
                let mut at_seen = false;
                let earlier = std::iter::successors(slot.list_prev.get(), |other| other.list_prev.get())
                    .take_while(|other| {
                        !std::mem::replace(&mut at_seen, seen.contains(&(other.as_raw() as usize)))
                    });
                let excludes = |holder: &SlotPtr| conflict(rule(slot), rule(*holder));
                object.running.iter().filter(excludes).chain(earlier).collect()
            }
            (State::Running | State::Granted, _) => {
                children.get(&(slot.as_raw() as usize)).cloned().unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// The calls under way of each task of this core.
    fn children(&self) -> Children {
        let mut children = Children::new();
        for slot in self.slots.all() {
            let waits = slot.state.get() != State::Free && !slot.caller.done.get() && !slot.caller.gone.get();
            if waits && let Some(parent) = slot.caller.parent.get().and_then(TaskRef::live) {
                children.entry(parent.as_raw() as usize).or_default().push(slot);
            }
        }
        // In the order in which they were made: where a slot lies depends on what ran in this process before.
        children.values_mut().for_each(|calls| calls.sort_by_key(|slot| slot.counter.get()));
        children
    }

    /// The queued call waits for itself.
    fn break_cycle(&self, slot: SlotPtr, way: &str) {
        let Some(object) = slot.object.get() else { return };
        self.dequeue(slot, object);
        self.refuse(slot, CallError::Deadlock(format!("calls wait for each other in a circle: {way}")));
        self.grant_waiting(object);
    }
}
