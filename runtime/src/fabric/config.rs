//! What a fabric is told at its start, and what it gives to those who drive it.

use epicserver_storage::NodeId;
use epicserver_transport::{Addr, BufferPool, Caps, LinkId};

use super::{FixedMembers, fingerprint};
use crate::session::SessionConfig;
use crate::wire::hello::{Agreement, ClusterSecret};

/// What a fabric is told of its node.
#[derive(Clone, Debug)]
pub struct FabricConfig {
    /// This node, in this life.
    pub me: NodeId,
    /// How many cores it has.
    pub cores: u16,
    /// The other nodes of a fixed list: their ids, and where they listen.
    pub peers: Vec<(u64, Addr)>,
    /// How many proven nodes that are no members may be there at a time. 0: the list of peers is fixed, everybody else is
    /// refused, and there are no control frames.
    pub guests_max: usize,
    /// The address of this node as the others know it.
    pub address: Addr,
    /// What all nodes have in common.
    pub agreement: Agreement,
    /// The cluster's secret.
    pub secret: ClusterSecret,
    /// The bounds of each session; its `stream` is drawn anew for each.
    pub session: SessionConfig,
    /// Whether frames are copied out of their receive buffers before a core gets them, as links with counted receives
    /// need it: there a buffer that is kept is a receive that is not posted.
    pub copies: bool,
    /// Where long fragments lie, if the transport carries such: its [`bulk_pool`](epicserver_transport::Transport::bulk_pool).
    pub bulk: Option<BufferPool>,
    /// Where nonces, streams and jitter come from. Of a real node it must be unpredictable.
    pub seed: u64,
}

impl FabricConfig {
    /// The usual bounds over a transport with these capabilities, for a fixed list of nodes.
    pub fn new(
        me: NodeId,
        cores: u16,
        members: &FixedMembers,
        cluster: u128,
        secret: &[u8; 32],
        caps: &Caps,
    ) -> Self {
        let peers = members.peers();
        Self { peers, guests_max: 0, ..Self::open(me, cores, members.own_address(), cluster, secret, caps) }
    }

    /// The usual bounds over a transport with these capabilities, for a node that is told its peers by
    /// [`handle_members`](super::Fabric::handle_members).
    pub fn open(
        me: NodeId,
        cores: u16,
        address: Addr,
        cluster: u128,
        secret: &[u8; 32],
        caps: &Caps,
    ) -> Self {
        let mut session = SessionConfig::for_transport(0, caps);
        session.without_link_max_ns = WITHOUT_LINK_NS;
        Self {
            me,
            cores,
            peers: Vec::new(),
            guests_max: GUESTS_MAX,
            address,
            agreement: Agreement {
                version: crate::wire::hello::PROTOCOL_VERSION,
                fingerprint: fingerprint(),
                cluster,
            },
            secret: ClusterSecret::new(secret),
            session,
            copies: caps.receive_window_frames.is_some(),
            bulk: None,
            seed: 0,
        }
    }
}

/// What a fabric wants of its transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect to a peer; say how that went with [`Fabric::handle_connect`](super::Fabric::handle_connect).
    Connect {
        /// The peer's node id; `None` while only its address is known.
        peer: Option<u64>,
        /// Where it listens.
        addr: Addr,
    },
    /// Close the link, after what was transmitted.
    Close(LinkId),
}

/// What happened to the link of a proven node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerNews {
    /// A link works. What was sent to the node over an older one may have got lost.
    Up(NodeId),
    /// It works no more.
    Down(NodeId),
}

/// How many nodes that are no members may be there at a time, unless configured otherwise.
const GUESTS_MAX: usize = 64;
/// How long calls wait for a link before they end as not sent or unknown, in nanoseconds.
const WITHOUT_LINK_NS: u64 = 3_000_000_000;
