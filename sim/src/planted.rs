//! Bugs that a world can be told to have, to prove that the checkers bite.
//!
//! Most lie in what the world does around the cores, in the parts that the drivers do in production: telling cores of batches,
//! carrying messages, playing the storage thread and the cluster thread. Those of moves that lie in the cores are the runtime's
//! own ([`epicserver_runtime::planted`]), which are there for the simulator only.

use epicserver_runtime::planted::Bug;

use crate::world::WorldKind;

/// One bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Planted {
    /// Cores are told that a batch is durable when it is closed, before it is committed.
    AckBeforeCommit,
    /// The storage thread closes a batch without waiting for the last core to pass it.
    ForgetCore,
    /// A batch is told as durable that is written, and not synced before a while.
    AckBeforeSync,
    /// A store that opens takes the part that it finds of a batch for a batch.
    KeepTorn,
    /// A core is not told of failed batches.
    IgnoreFailure,
    /// A failed batch is told as a durable one.
    FailureAsSuccess,
    /// A message between cores is lost now and then.
    DropMessage,
    /// The images of one core are left out of a batch now and then.
    HalfBatch,
    /// A load finds nothing now and then.
    StaleLoad,
    /// Messages between two cores overtake each other.
    Overtake,
    /// A frame for another node is sent twice now and then.
    RepeatFrame,
    /// A frame for another node never comes back to its pool, now and then.
    LeakFrame,
    /// Fences are said to be open that were never opened.
    SkipFence,
    /// The objects of a partition that moved are thrown away when they have come.
    LoseShipment,
    /// One core is not told of a view, now and then.
    ForgetView,
    /// Cores are told that the lease of their node never ends.
    PastLease,
    /// The lease of a node runs from when its renewal was answered, and not from when it was sent.
    LeaseFromAnswer,
    /// Partitions move for balance however often nodes come and go.
    ChaseFlapping,
    /// One of the runtime's own.
    Moves(Bug),
}

impl Planted {
    /// Every bug, with the name that the command takes.
    pub const ALL: &[(&str, Self)] = &[
        ("ack-before-commit", Self::AckBeforeCommit),
        ("forget-core", Self::ForgetCore),
        ("ack-before-sync", Self::AckBeforeSync),
        ("keep-torn", Self::KeepTorn),
        ("ignore-failure", Self::IgnoreFailure),
        ("failure-as-success", Self::FailureAsSuccess),
        ("drop-message", Self::DropMessage),
        ("half-batch", Self::HalfBatch),
        ("stale-load", Self::StaleLoad),
        ("overtake", Self::Overtake),
        ("repeat-frame", Self::RepeatFrame),
        ("leak-frame", Self::LeakFrame),
        ("skip-fence", Self::SkipFence),
        ("lose-shipment", Self::LoseShipment),
        ("forget-view", Self::ForgetView),
        ("past-lease", Self::PastLease),
        ("lease-from-answer", Self::LeaseFromAnswer),
        ("chase-flapping", Self::ChaseFlapping),
        ("drop-parked", Self::Moves(Bug::DropParked)),
        ("reorder-parked", Self::Moves(Bug::ReorderParked)),
        ("ship-before-durable", Self::Moves(Bug::ShipBeforeDurable)),
        ("serve-given-away", Self::Moves(Bug::ServeGivenAway)),
        ("skip-hold", Self::Moves(Bug::SkipHold)),
        ("forget-image", Self::Moves(Bug::ForgetImage)),
    ];

    /// What the cores of its world have.
    pub(crate) fn of_cores(self) -> Option<Bug> {
        match self {
            Self::Moves(bug) => Some(bug),
            _ => None,
        }
    }

    /// The kind of world where it shows itself.
    pub fn world(self) -> WorldKind {
        match self {
            // Leases that run out, and moves that others look on late.
            Self::PastLease
            | Self::LeaseFromAnswer
            | Self::Moves(Bug::ReorderParked | Bug::ShipBeforeDurable) => WorldKind::Parted,
            Self::SkipFence
            | Self::LoseShipment
            | Self::ForgetView
            | Self::ChaseFlapping
            | Self::Moves(_) => WorldKind::Moving,
            _ => WorldKind::Fixed,
        }
    }

    /// The name that the command takes.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, planted)| *planted == self).map_or("", |(name, _)| name)
    }

    /// The bug of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, planted)| *planted)
    }
}
