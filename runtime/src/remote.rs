//! Calls between nodes, as a core sees them: frames to and from peers, and what the links say.

use epicserver_storage::NodeId;
use epicserver_transport::Frame;

/// A frame from or for another node.
#[derive(Clone, Debug)]
pub struct PeerFrame {
    /// The other node.
    pub peer: NodeId,
    /// The whole frame: header, extension, payload.
    pub frame: Frame,
}

/// What the links say of requests that were under way.
#[derive(Debug)]
pub enum LinkNews {
    /// These frames never left, or certainly did not run.
    NotSent(NodeId, Vec<Frame>),
    /// Whether these ran is not known.
    Unknown(NodeId, Vec<Frame>),
    /// The node is gone for good: everything that it was to answer has an unknown outcome.
    Gone(NodeId),
}

/// Where the reply of a call goes that came from another node.
#[derive(Clone, Debug)]
pub(crate) struct Inbound {
    pub(crate) peer: NodeId,
    pub(crate) core: u8,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}
