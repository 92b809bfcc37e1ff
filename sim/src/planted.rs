//! Bugs that a world can be told to have, to prove that the checkers bite.
//!
//! All of them lie in what the world does around the cores, in the parts that the drivers do in production: telling cores of
//! batches, carrying messages, playing the storage thread. The runtime itself is never touched.

/// One bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Planted {
    /// Cores are told that a batch is durable when it is closed, before it is committed.
    AckBeforeCommit,
    /// The storage thread closes a batch without waiting for the last core to pass it.
    ForgetCore,
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
}

impl Planted {
    /// Every bug, with the name that the command takes.
    pub const ALL: &[(&str, Self)] = &[
        ("ack-before-commit", Self::AckBeforeCommit),
        ("forget-core", Self::ForgetCore),
        ("ignore-failure", Self::IgnoreFailure),
        ("failure-as-success", Self::FailureAsSuccess),
        ("drop-message", Self::DropMessage),
        ("half-batch", Self::HalfBatch),
        ("stale-load", Self::StaleLoad),
        ("overtake", Self::Overtake),
        ("repeat-frame", Self::RepeatFrame),
    ];

    /// The bug of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, planted)| *planted)
    }
}
