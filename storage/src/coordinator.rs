//! The coordinator: the linearizable keeper of the view and of leases.
//!
//! A contract, no implementation; `memory.rs` has the plainest one. What a coordinator never does: decide who should own a
//! partition, read clocks, or judge whether a node is alive. It is asked rarely, so every verb moves whole views.

use std::sync::Arc;

use crate::id::NodeId;
use crate::lease::Lease;
use crate::view::{View, ViewError};

/// Keeps the one current [`View`].
///
/// # What every implementation MUST keep
/// 1. *Linearizable*: all verbs take effect one after the other, over all connections; a read sees every change that ended before it
///    began.
/// 2. *Durable*: a view that was handed out is never taken back. Leases need not be: after a restart every member's lease
///    starts anew with no renewal seen, so that nobody is taken for gone because the keeper was.
/// 3. *Guarded*: a view that [`View::check_successor`] refuses never becomes current.
pub trait Coordinator: Send {
    /// The current view.
    ///
    /// # Errors
    /// [`CoordinatorError::Failed`].
    fn read(&mut self) -> Result<Arc<View>, CoordinatorError>;

    /// Replaces the view of version `expected` by `next`, and gives back what is current now: `next` with version
    /// `expected + 1`, whatever version it was given with. Leases of nodes that are no longer members end.
    ///
    /// # Errors
    /// [`CoordinatorError::Conflict`] with the view that won, [`CoordinatorError::Invalid`]: nothing changed.
    /// [`CoordinatorError::Unknown`]: read, and plan again from what is there.
    fn compare_and_set(&mut self, expected: u64, next: View) -> Result<Arc<View>, CoordinatorError>;

    /// Renews the lease of a member, seen at `now_ns` on the clock of the caller's process. A time before the last one counts as the
    /// last one.
    ///
    /// # Errors
    /// [`CoordinatorError::Evicted`] if this incarnation is no member: it stops serving at once.
    fn renew_lease(&mut self, node: NodeId, now_ns: u64) -> Result<Lease, CoordinatorError>;

    /// The lease of every member of the current view, ordered by node.
    ///
    /// # Errors
    /// [`CoordinatorError::Failed`].
    fn leases(&mut self) -> Result<Vec<Lease>, CoordinatorError>;
}

/// Why a verb did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorError {
    /// Another change came first. Nothing changed.
    #[error("the view is at version {} already", found.version)]
    Conflict {
        /// The current view.
        found: Arc<View>,
    },
    /// The new view breaks a rule. Nothing changed.
    #[error("the view is refused: {0}")]
    Invalid(#[from] ViewError),
    /// The node is not, or no longer, a member in this incarnation.
    #[error("node {node} is no member of view {}", found.version)]
    Evicted {
        /// Who asked.
        node: NodeId,
        /// The current view.
        found: Arc<View>,
    },
    /// Not reached, or not answering. Nothing changed.
    #[error("the coordinator failed, nothing changed: {reason}")]
    Failed {
        /// For the log.
        reason: String,
    },
    /// The answer is lost. It may have changed: read.
    #[error("the coordinator may have changed the view: {reason}")]
    Unknown {
        /// For the log.
        reason: String,
    },
}
