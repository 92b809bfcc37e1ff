//! Cycles of waiting calls over several chains: found by a probe that follows who waits for whom.
//!
//! The direct path refuses a call that would wait for its own ancestor at once. Two chains that wait for each other are
//! not ancestors; so a call that has been queued for a while sends a probe. Its edges run from a queued call to the
//! holders of its object that exclude it and to the calls queued before it (queues are served in order), and from a running method to
//! the calls it waits for. A probe that comes back to where it began has found a cycle, and the youngest queued call on
//! its way gets `Deadlock`.
//!
//! A method that waits for one of several calls (`select!`) may be taken for part of a cycle: accepted, as a cycle that is
//! missed would wait until its deadline.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{CoreState, CoreWord};
use crate::error::CallError;
use crate::id::CallId;
use crate::path::conflict;
use crate::slot::{Away, Hold, SlotPtr, State, TaskRef};

/// A search that goes on at another core.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// The queued call that looks for itself.
    initiator: TaskRef,
    /// Tells this search from the initiator's others.
    round: u64,
    /// Where the search goes on.
    at: TaskRef,
    /// The youngest queued call on the way, and the core that has it.
    youngest: (CallId, TaskRef, u16),
    /// The calls on the way, for the error's text.
    way: String,
    hops: u8,
}

fn rule(slot: SlotPtr) -> (Hold, u32) {
    (slot.vtable.get().hold, slot.vtable.get().id)
}

/// The searches that came by of late, with what was looked at in each. Without it a search would set out again from a call
/// for every way that leads to it, and ways multiply.
#[derive(Default)]
pub(super) struct ProbeLog(RefCell<VecDeque<Visited>>);

struct Visited {
    initiator: TaskRef,
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

const HOPS_MAX: u8 = 32;

/// Calls that the probes of one tick look at, before others must wait for the next.
const PROBED_PER_TICK: usize = 1 << 14;
/// Searches that a core remembers; one that is older goes round in circles for at most [`HOPS_MAX`] hops.
const PROBES_KEPT: usize = 256;

type Children = BTreeMap<usize, Vec<SlotPtr>>;

impl CoreState {
    /// Whether one more probe may start at this tick.
    pub(super) fn may_probe(&self) -> bool {
        let looked_at = self.probed.get();
        self.probed.set(looked_at + self.slots.live());
        looked_at < PROBED_PER_TICK
    }

    pub(super) fn start_probe(&self, slot: SlotPtr) {
        let youngest = (self.call_id(slot), slot.task(), self.config.index);
        let round = self.next_counter();
        let way = self.step_text(slot);
        self.search(&Probe { initiator: slot.task(), round, at: slot.task(), youngest, way, hops: 0 });
    }

    pub(super) fn continue_probe(&self, mut probe: Probe) {
        let Some(slot) = probe.at.live() else { return };
        if slot.state.get() == State::Waiting {
            let mine = (self.call_id(slot), slot.task(), self.config.index);
            if mine.0 > probe.youngest.0 {
                probe.youngest = mine;
            }
        }
        probe.way = format!("{} -> {}", probe.way, self.step_text(slot));
        self.search(&probe);
    }

    /// Follows the edges on this core, depth first; each call is looked at once.
    fn search(&self, probe: &Probe) {
        let mut visited = self.probes.take(probe);
        let seen = &mut visited.calls;
        if seen.insert(probe.at.slot.as_raw() as usize) || probe.hops == 0 {
            self.search_from(probe, seen);
        }
        self.probes.keep(visited);
    }

    fn search_from(&self, probe: &Probe, seen: &mut BTreeSet<usize>) {
        let children = self.children();
        let mut stack = vec![probe.clone()];
        while let Some(step) = stack.pop() {
            let Some(slot) = step.at.live() else { continue };
            for next in self.waited_for(slot, &children, seen) {
                if next.task() == step.initiator {
                    return self.found_cycle(&step);
                }
                if seen.insert(next.as_raw() as usize) {
                    self.follow(&step, next, &mut stack);
                }
            }
        }
    }

    fn follow(&self, from: &Probe, next: SlotPtr, stack: &mut Vec<Probe>) {
        let mut probe = Probe { at: next.task(), ..from.clone() };
        if next.home.get() == self.number
            && let Away::Core(core) = next.caller.away.get()
        {
            probe.hops += 1;
            if probe.hops < HOPS_MAX {
                self.tell(core, CoreWord::Probe(Box::new(probe)));
            }
            return;
        }
        if next.state.get() == State::Waiting && self.call_id(next) > probe.youngest.0 {
            probe.youngest = (self.call_id(next), next.task(), self.config.index);
        }
        probe.way = format!("{} -> {}", probe.way, self.step_text(next));
        stack.push(probe);
    }

    /// The calls that `slot` waits for.
    fn waited_for(&self, slot: SlotPtr, children: &Children, seen: &BTreeSet<usize>) -> Vec<SlotPtr> {
        match (slot.state.get(), slot.object.get()) {
            (State::Waiting, Some(object)) => {
                // Whoever stands before it in the queue is in its way, also one that it could share the object with.
                // Those before one that was seen are followed from there: else a long queue is walked for each in it.
                let earlier = std::iter::successors(slot.list_prev.get(), |other| other.list_prev.get())
                    .take_while(|other| !seen.contains(&(other.as_raw() as usize)));
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
            // The state of a slot that is away is another core's to read.
            let taken = slot.caller.away.get() != Away::Here || slot.state.get() != State::Free;
            let waits = taken && !slot.caller.done.get() && !slot.caller.gone.get();
            if waits && let Some(parent) = slot.caller.parent.get().and_then(TaskRef::live) {
                children.entry(parent.as_raw() as usize).or_default().push(slot);
            }
        }
        // In the order in which they were made: where a slot lies depends on what ran in this process before.
        children.values_mut().for_each(|calls| calls.sort_by_key(|slot| slot.counter.get()));
        children
    }

    fn found_cycle(&self, probe: &Probe) {
        let (_, victim, core) = probe.youngest;
        if core == self.config.index {
            self.break_cycle(victim, &probe.way);
        } else {
            self.tell(core, CoreWord::Break(Box::new((victim, probe.way.clone().into()))));
        }
    }

    pub(super) fn break_cycle(&self, victim: TaskRef, way: &str) {
        let Some(slot) = victim.live().filter(|slot| slot.state.get() == State::Waiting) else { return };
        let Some(object) = slot.object.get() else { return };
        self.dequeue(slot, object);
        self.refuse(slot, CallError::Deadlock(format!("calls wait for each other in a circle: {way}")));
        self.grant_waiting(object);
    }

    fn step_text(&self, slot: SlotPtr) -> String {
        let object = slot.object.get().map(crate::activation::ObjectPtr::label).unwrap_or_default();
        format!("{object}.{}", slot.vtable.get().name)
    }
}
