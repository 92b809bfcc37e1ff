//! What a core counts while it runs, and tells.

use std::cell::Cell;

/// Counts of what a core did, ever increasing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of methods that were started.
    pub calls: u64,
    /// Turns of user code.
    pub turns: u64,
    /// Calls that were sent to another core of the node.
    pub cross_core_calls: u64,
    /// Calls that were sent to another node.
    pub remote_calls: u64,
    /// Activations made.
    pub activations: u64,
    /// Images of changed objects taken.
    pub images: u64,
    /// Calls that came from other nodes.
    pub calls_from_nodes: u64,
    /// Objects dropped as nobody used them for a while.
    pub idle_dropped: u64,
    /// Objects dropped as all of them took more memory than they may.
    pub budget_dropped: u64,
}

/// The counts of a core while it runs.
#[derive(Default)]
pub(super) struct CounterCells {
    /// Calls that ran in their caller's poll; they count as calls and as turns. Their own counter, as two neighbours that are
    /// counted together and apart are stores and loads of different widths, which wait for each other.
    pub(super) in_place: Cell<u64>,
    pub(super) calls: Cell<u64>,
    pub(super) turns: Cell<u64>,
    pub(super) cross_core_calls: Cell<u64>,
    pub(super) remote_calls: Cell<u64>,
    pub(super) activations: Cell<u64>,
    pub(super) images: Cell<u64>,
    pub(super) calls_from_nodes: Cell<u64>,
    pub(super) idle_dropped: Cell<u64>,
    pub(super) budget_dropped: Cell<u64>,
}

impl CounterCells {
    pub(super) fn read(&self) -> Counters {
        Counters {
            calls: self.calls.get() + self.in_place.get(),
            turns: self.turns.get() + self.in_place.get(),
            cross_core_calls: self.cross_core_calls.get(),
            remote_calls: self.remote_calls.get(),
            activations: self.activations.get(),
            images: self.images.get(),
            calls_from_nodes: self.calls_from_nodes.get(),
            idle_dropped: self.idle_dropped.get(),
            budget_dropped: self.budget_dropped.get(),
        }
    }
}

/// One more.
#[inline]
pub(super) fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}
