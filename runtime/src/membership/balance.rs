//! How many partitions each node is to own.

use epicserver_storage::{NodeId, PARTITIONS};

/// A node that may own partitions, and how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) node: NodeId,
    /// Its weight.
    pub(super) cores: u8,
    /// What it owns and will keep, and what moves to it.
    pub(super) held: usize,
    /// What it is to hold.
    pub(super) target: usize,
}

/// Sets the targets: together all partitions, each at most one away from the share by cores.
///
/// What is left after rounding down goes first to those that hold more already, so that nothing moves for a rounding.
pub(super) fn set_targets(holders: &mut [Holder]) {
    let weight: usize = holders.iter().map(|holder| usize::from(holder.cores)).sum();
    if weight == 0 {
        return;
    }
    let share = |holder: &Holder| usize::from(PARTITIONS) * usize::from(holder.cores);
    let mut rest = usize::from(PARTITIONS);
    for holder in holders.iter_mut() {
        holder.target = share(holder) / weight;
        rest -= holder.target;
    }
    for holds_more in [true, false] {
        for holder in holders.iter_mut() {
            let rounded = share(holder) / weight;
            let is_turn = (holder.held > rounded) == holds_more && !share(holder).is_multiple_of(weight);
            if rest > 0 && is_turn {
                holder.target = rounded + 1;
                rest -= 1;
            }
        }
    }
}
