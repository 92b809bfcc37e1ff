//! The transport contract of Epic Server: how whole frames cross between processes, and everything that is needed to
//! use, write and test a transport.
//!
//! A [`Transport`] opens links to peers and moves [`Frame`]s over them; a driver, which is one thread or one loop, calls it
//! and gets [`Event`]s. The bytes of a frame live in reference-counted buffers of a [`BufferPool`], so that the path from
//! the socket to the code that reads a message has no copy.
//!
//! What is here:
//! * the contract: [`Transport`], [`Caps`], [`Event`], [`LinkId`], [`Wake`];
//! * frames: [`FrameHeader`] (32 bytes on the wire), [`FrameBuf`] (writable), [`Frame`] (shared, read only);
//! * help for implementing it: [`LinkTable`], the [`Deframer`] for byte streams, [`Epoll`] and [`EventFd`] to sleep with;
//! * two transports of its own: [`LoopbackNetwork`] inside the process, with a strict mode that behaves like verbs, and
//!   [`Faulty`], which adds faults to any other;
//! * `conformance` (feature of that name): the suite that every transport passes; `fuzz` (likewise): fuzz targets;
//! * [`Discovery`], for networks that tell who is there.
//!
//! What is not here: sessions. Hello, credits, counts, resending and pings are the runtime's.
//!
//! ```
//! use epicserver_transport::{Event, Frame, FrameHeader, FrameKind, LoopbackNetwork, LoopbackOptions, Transport};
//! use std::collections::VecDeque;
//!
//! let network = LoopbackNetwork::new();
//! let mut alice = network.bind("alice", LoopbackOptions::plain())?;
//! let mut bob = network.bind("bob", LoopbackOptions::plain())?;
//! let mut events = Vec::new();
//! let mut now_ns = 0;
//!
//! // A link is up when both sides have said so.
//! let link = alice.connect(bob.local_addr(), now_ns)?;
//! bob.poll(now_ns, &mut events);
//! alice.poll(now_ns, &mut events);
//! assert!(events.iter().all(|event| matches!(event, Event::LinkUp { .. })));
//!
//! // A frame is written into a buffer of the pool, frozen, and handed over.
//! let mut buffer = alice.pool().alloc(48).expect("nothing else is in use");
//! let mut header = FrameHeader::new(FrameKind::OneWay);
//! header.payload_len.set(5);
//! assert!(header.write_to(&mut buffer));
//! buffer[32..].copy_from_slice(b"hello\0\0\0\0\0\0\0\0\0\0\0");
//! let mut frames = VecDeque::from([buffer.freeze()]);
//! alice.send(link, &mut frames)?;
//! alice.flush();
//! assert!(frames.is_empty(), "what stays is back-pressure");
//!
//! now_ns += 1_000;
//! events.clear();
//! bob.poll(now_ns, &mut events);
//! let Some(Event::Receive { frame, .. }) = events.pop() else { panic!("{events:?}") };
//! assert_eq!(FrameHeader::payload_bytes(&frame), Some(&b"hello"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "conformance")]
pub mod conformance;
mod deframer;
mod discovery;
mod faulty;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod header;
mod link;
mod long;
mod loopback;
mod memory;
mod pool;
mod readiness;
pub mod socket;
mod transport;
mod wake;

pub use deframer::Deframer;
pub use discovery::Discovery;
pub use faulty::{FaultCounts, FaultPlan, Faulty};
pub use frame::{Frame, FrameBuf, Keeper, ReceiveBlock};
pub use header::{FRAME_ALIGN, FrameHeader, FrameKind, HEADER_LEN, HeaderError, flags};
pub use link::{Addr, Direction, DownReason, Event, LinkId, LinkTable};
pub use loopback::{LoopbackNetwork, LoopbackOptions, LoopbackRaw, LoopbackTransport};
pub use pool::{BufferPool, SizeClass};
pub use readiness::{Asleep, Epoll, EventFd, Readiness, TOKEN_MAX};
pub use transport::{Caps, EVENTS_PER_POLL_MAX, SendError, Shape, Sleeper, Transport};
pub use wake::{Signal, Wake};
