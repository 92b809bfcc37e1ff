//! What is asked of a queue pair, what it uses for that, and what comes of it.

use super::device::Region;
use epicserver_transport::{Frame, ReceiveBlock};
use std::sync::Arc;

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// The tag of the queue pair.
    pub(crate) tag: u32,
    pub(crate) kind: CompletionKind,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompletionKind {
    /// This send, and every one before it on the same queue pair.
    Sent { sequence: u32 },
    /// A packet of `len` bytes with these immediate bits lies in this posted receive.
    Received { slot: u16, len: u32, immediate: u32 },
    /// The queue pair works no more. The number is one of `enum ibv_wc_status`.
    Failed { status: u32 },
}

/// Where everything lies that a queue pair uses.
pub(crate) struct Memory {
    /// Frames that are sent, unless the device copies them.
    pub(crate) send: [Arc<Region>; 2],
    /// Blocks to receive packets into.
    pub(crate) receive: Region,
    /// Blocks to read the peer's long frames into.
    pub(crate) read: Option<Region>,
    /// Long frames, each in a region of its own, for the peer to read.
    pub(crate) shown: Option<Arc<Vec<Region>>>,
}

/// What a request uses until it is done.
pub(super) enum Held {
    /// Nothing: the device has its own copy.
    Nothing,
    Frame(Frame),
    /// A packet of several frames: the first, and how many more, which are in a list of their own.
    Frames(Frame, u32),
    /// Bytes of the peer come into it.
    Read {
        block: ReceiveBlock,
        len: usize,
    },
    /// A window closes over the frame.
    Closing {
        window: usize,
        frame: Frame,
    },
}

impl Held {
    /// The packet has one frame more.
    pub(super) fn add_one(&mut self) {
        *self = match std::mem::replace(self, Self::Nothing) {
            Self::Frame(frame) => Self::Frames(frame, 1),
            Self::Frames(frame, more) => Self::Frames(frame, more + 1),
            other => other,
        };
    }
}

/// What a request came to, if anybody waits for that.
#[derive(Debug)]
pub(crate) enum Done {
    /// The peer's frame is here.
    Read(ReceiveBlock),
    /// Nobody can read an offered frame any more, and its buffer is free.
    Closed,
}

/// How much a queue pair holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueuePairSizes {
    pub(crate) sends: usize,
    pub(crate) receives: usize,
    /// Frames that the peer may read at a time.
    pub(crate) windows: usize,
    /// What is asked for; the device may give less, or more.
    pub(crate) inline_len: u32,
}

/// The other end, as it described itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) number: u32,
    /// Sequence number of its first packet, 24 bits.
    pub(crate) first_packet: u32,
    pub(crate) destination: Destination,
}

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// On Ethernet, or beyond the subnet.
    Gid { gid: [u8; 16], source_index: u8 },
    /// Within the subnet of InfiniBand.
    Lid(u16),
}

/// One packet to send, or the next part of it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The bytes; `None` for an empty packet.
    pub(crate) frame: Option<Frame>,
    /// Those of a packet are those of its first part.
    pub(crate) immediate: u32,
    /// The device reports when it is done: said with any of its parts.
    pub(crate) is_signalled: bool,
    /// The bytes go in the same packet as those before. Of a packet there are [`PARTS_MAX`](super::PARTS_MAX) parts at most.
    pub(crate) is_continued: bool,
}

/// What a peer with bad intentions may ask of the device.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hostile {
    /// A packet with so many bytes more than the frame has.
    LongSend { extra: u32 },
    /// To read memory of the other end.
    Read { address: u64, key: u32 },
    /// To write it.
    Write { address: u64, key: u32 },
}
