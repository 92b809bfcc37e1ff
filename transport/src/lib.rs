//! The transport contract of Epic Server: frames, links, buffer pools, conformance suite, loopback.

#[cfg(feature = "conformance")]
pub mod conformance;
mod deframer;
mod faulty;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod header;
mod link;
mod loopback;
mod pool;
mod transport;
mod wake;

pub use deframer::Deframer;
pub use frame::{Frame, FrameBuf, ReceiveBlock};
pub use header::{FRAME_ALIGN, FrameHeader, FrameKind, HEADER_LEN, HeaderError, flags};
pub use link::{Addr, Direction, DownReason, Event, LinkId, LinkTable};
pub use loopback::{LoopbackNetwork, LoopbackOptions, LoopbackRaw, LoopbackTransport};
pub use pool::{BufferPool, SizeClass};
pub use transport::{Caps, EVENTS_PER_POLL_MAX, SendError, Shape, Transport};
pub use wake::{Signal, Wake};
