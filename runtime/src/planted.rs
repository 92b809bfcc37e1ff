//! Bugs that the simulator plants where partitions move, to see that its checkers find them.
//!
//! With the feature `planted` a thread can be told to have one; without it there is none, and asking costs nothing. What lies outside
//! of the cores the simulator breaks by itself. Nothing that is asked for every call may ask here.

/// One bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// Of the calls that were parked for a move one is never taken up again.
    DropParked,
    /// Calls that were parked are taken up in the wrong order.
    ReorderParked,
    /// A partition is given away before what was saved of it is durable.
    ShipBeforeDurable,
    /// Calls run in a partition that was given away.
    ServeGivenAway,
    /// Calls do not wait for those that are under way to the owner before.
    SkipHold,
    /// Objects leave memory for a move without their state.
    ForgetImage,
}

#[cfg(feature = "planted")]
mod told {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Cores that this thread steps from now on have this bug, or none.
    pub fn plant(bug: Option<Bug>) {
        BUG.set(bug);
    }

    pub(crate) fn has(bug: Bug) -> bool {
        BUG.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub(crate) use told::has;
#[cfg(feature = "planted")]
pub use told::plant;

/// Whether the cores of this thread have this bug.
#[cfg(not(feature = "planted"))]
#[inline]
pub(crate) const fn has(_: Bug) -> bool {
    false
}
