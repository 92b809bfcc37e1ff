//! The transport contract of Epic Server: frames, links, buffer pools, conformance suite, loopback.

mod frame;
mod header;
mod pool;
mod wake;

pub use frame::{Frame, FrameBuf, ReceiveBlock};
pub use header::{FRAME_ALIGN, FrameHeader, FrameKind, HEADER_LEN, HeaderError, flags};
pub use pool::{BufferPool, SizeClass};
pub use wake::{Signal, Wake};
