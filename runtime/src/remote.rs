//! Calls between nodes, as a core sees them: frames to and from peers, and what the links say.
//!
//! Not here: what the core does with them (`core/remote.rs`), and how they cross (`fabric`, `session`).

use std::sync::Arc;

use epicserver_storage::NodeId;
use epicserver_transport::{Frame, FrameHeader, FrameKind};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Loss;
use crate::session::intern::Target;

/// A frame from or for another node.
#[derive(Clone, Debug)]
pub struct PeerFrame {
    /// The other node. Of a frame that came in, with the incarnation that sent it; of one that goes out, incarnation 0
    /// means whichever life of the node is there.
    pub peer: NodeId,
    /// The whole frame: header, extension, payload.
    pub frame: Frame,
    /// The object of a request that came in with a handle and without its key.
    pub target: Option<Arc<Target>>,
}

impl PeerFrame {
    /// A frame that says itself what it is for.
    #[inline]
    pub fn new(peer: NodeId, frame: Frame) -> Self {
        Self { peer, frame, target: None }
    }

    /// Whether it may be left out when there is no room for it: it is sent again in a while.
    pub fn may_be_left_out(&self) -> bool {
        FrameHeader::parse(&self.frame).is_ok_and(|header| header.kind() == FrameKind::Probe)
    }
}

/// The name of a request among those of the core that made it: slot and generation of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRef {
    /// Index of the call record.
    pub slot: u32,
    /// Which use of that record.
    pub generation: u32,
}

/// What the links say of what was under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkNews {
    /// These requests never left, or certainly did not run.
    NotSent(NodeId, Vec<CallRef>),
    /// Whether these requests ran is not known, and no answer will come.
    Unknown(NodeId, Loss, Vec<CallRef>),
    /// So many one-ways and cancels left the core's window: they are the link's now.
    Taken(NodeId, u32),
    /// This process is gone for good: nobody waits for what it asked.
    Gone(NodeId),
    /// The handles that this core gave out for this node are not known: each is to be sent with its key again.
    Unbound(NodeId),
}

/// What a core gets of the links.
#[derive(Debug)]
pub enum LinkInput {
    /// A frame of a peer.
    Frame(PeerFrame),
    /// What became of calls.
    News(Box<LinkNews>),
}

/// Where the reply of a call goes that came from another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Inbound {
    pub(crate) peer: NodeId,
    pub(crate) core: u8,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// The payload of a `Moved` frame: who owns the partition, as far as the sender knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct MovedBytes {
    pub(crate) owner: U64,
    pub(crate) incarnation: U32,
    /// 0: nobody owns it.
    pub(crate) is_owned: U32,
    pub(crate) epoch: U64,
    pub(crate) view: U64,
}

impl MovedBytes {
    pub(crate) fn new(owner: Option<NodeId>, epoch: u64, view: u64) -> Self {
        let node = owner.unwrap_or(NodeId { id: 0, incarnation: 0 });
        Self {
            owner: node.id.into(),
            incarnation: node.incarnation.into(),
            is_owned: u32::from(owner.is_some()).into(),
            epoch: epoch.into(),
            view: view.into(),
        }
    }

    pub(crate) fn owner(&self) -> Option<NodeId> {
        (self.is_owned.get() != 0)
            .then_some(NodeId { id: self.owner.get(), incarnation: self.incarnation.get() })
    }
}

/// Requests and one-ways that one core may have under way to one node at a time, unless configured otherwise.
pub const WINDOW_MAX: usize = 1024;
