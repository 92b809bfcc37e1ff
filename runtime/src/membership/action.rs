//! What a member says and hears: the words between it, the keeper and its driver.

use std::sync::Arc;

use epicserver_storage::{Fence, Member as MemberRecord, NodeId, Partition, PartitionState, View};

use crate::routes::Routes;

/// What a member wants done, in this order.
#[derive(Clone, Debug)]
pub enum MemberAction {
    /// Send this to the keeper; its answer comes back with the number. It may get lost, then it is sent again in time.
    Send {
        /// To whom.
        keeper: NodeId,
        /// Names the question; never 0.
        number: u32,
        /// What.
        request: KeeperRequest,
    },
    /// Open these fences, all or none, and tell the outcome with [`Member::handle_fences`](super::Member::handle_fences).
    OpenFences {
        /// Names the task.
        number: u64,
        /// The partitions that are to be shown as mine; never empty.
        fences: Vec<Fence>,
    },
    /// Show this to all cores.
    Publish(Arc<Routes>),
    /// The cores may serve until this time, in nanoseconds; 0: stop at once.
    Lease(u64),
    /// Drop every object, call and unsaved change of all cores, and every shipment; then be `me` and call
    /// [`Member::handle_dropped`](super::Member::handle_dropped). Where `me` is a new incarnation, it is registered with the machine after
    /// that and before the call.
    Drop {
        /// Names the task.
        number: u64,
        /// Who this node is from then on.
        me: NodeId,
    },
    /// The keeper did not take this node in, for the log; it is asked again in time.
    Refused(String),
    /// This node is, or may be, out of the cluster: finish what runs and stop. Nothing comes after that.
    Left,
}

/// What a member asks of the keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperRequest {
    /// Make me a member.
    Join(MemberRecord),
    /// I am alive.
    Renew,
    /// Tell me the current view.
    ReadView,
    /// Move my partitions away, then remove me.
    Leave,
    /// The next owners have everything of these partitions.
    Handed(Vec<Handover>),
}

/// What the keeper answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperAnswer {
    /// You are a member of this view.
    Joined(Arc<View>),
    /// You are not, for this reason.
    Refused(String),
    /// Your lease runs anew; this is the version of the current view.
    Renewed {
        /// A member with an older view reads it.
        view_version: u64,
    },
    /// You are not, or no longer, a member in this incarnation.
    Evicted,
    /// The current view, asked for or not.
    View(Arc<View>),
    /// Nothing will be moved from you any more: stop.
    Left,
}

/// A partition whose objects the next owner has acknowledged.
///
/// All three are needed to know which move it was: when a target is lost, its move is given up and another one begins at the
/// same epoch, and word of the first must not end the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handover {
    /// Which partition.
    pub partition: Partition,
    /// The epoch of the owner that hands it over.
    pub epoch: u64,
    /// Who has its objects now.
    pub to: NodeId,
}

impl Handover {
    /// Whether the view has the very move of this owner that this ends.
    pub fn ends_move_in(&self, view: &View, owner: NodeId) -> bool {
        let Self { partition, epoch, to } = *self;
        view.partition(partition) == PartitionState { owner: Some(owner), epoch, moving_to: Some(to) }
    }
}

/// What became of opening fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FencesOutcome {
    /// All are open.
    Opened,
    /// The store knows of a later owner.
    Refused,
    /// Not known, or not reached: to be tried again.
    Failed,
}
