//! What a session says about itself: how much it received and how much may come. Carried by Credit, Ping and Pong.

use epicserver_transport::{BufferPool, Frame, FrameHeader, FrameKind};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::assembly::assemble_bare;

/// Counts that only grow, so that none is lost with the frame that carried it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Status {
    /// Calls received in the peer's stream.
    pub(crate) received: U64,
    /// Frames of calls that may come on this link, from its start.
    pub(crate) granted_calls: U64,
    /// Frames of answers that may come on this link, from its start.
    pub(crate) granted_answers: U64,
    /// Control frames that may come on this link, from its start.
    pub(crate) granted_controls: U64,
    /// Of a ping, any number; of a pong, that of the ping.
    pub(crate) token: U64,
}

impl Status {
    pub(crate) fn frame(&self, pool: Option<&BufferPool>, kind: FrameKind) -> Frame {
        assemble_bare(pool, FrameHeader::new(kind), self.as_bytes())
    }

    pub(crate) fn parse(payload: &[u8]) -> Option<Status> {
        Status::read_from_bytes(payload).ok()
    }
}
