//! Epic Server frames over TCP: [`TcpTransport`] implements the contract of `epicserver-transport`.
//!
//! One thread drives any number of links over non-blocking sockets and one epoll set. Many frames leave in one write and
//! arrive in one read of up to a block; frames that came in one read are not copied, they share its block. Bounds are in
//! [`TcpOptions`]: what a link may queue for a slow reader, what it may hold of received blocks.
//!
//! What is not here: names (addresses are numbers and a port), encryption, keep-alive (the session pings).
//! Start reading at `transport`; `connection` is one socket, `outbox` the batching of writes.
//!
//! ```
//! use epicserver_transport::{Event, Frame, FrameHeader, FrameKind, Transport};
//! use epicserver_transport_tcp::{TcpOptions, TcpTransport};
//! use std::collections::VecDeque;
//! use std::time::Duration;
//!
//! let mut server = TcpTransport::bind(TcpOptions::default())?;
//! let mut client = TcpTransport::bind(TcpOptions::default())?;
//! let link = client.connect(server.local_addr(), 0)?;
//! let mut frames = VecDeque::from([Frame::copy_from(&FrameHeader::new(FrameKind::Ping).to_bytes())]);
//! let mut events = Vec::new();
//! let mut pass = 0;
//! while !events.iter().any(|event| matches!(event, Event::Receive { .. })) {
//!     pass += 1;
//!     assert!(pass < 10_000, "the frame did not arrive");
//!     let now_ns = pass * 1_000_000;
//!     client.poll(now_ns, &mut events);
//!     client.send(link, &mut frames)?; // takes nothing until the link is up
//!     client.flush();
//!     if server.arm() {
//!         server.wait(Duration::from_millis(1));
//!     }
//!     server.poll(now_ns, &mut events);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod connection;
mod options;
mod outbox;
mod transport;

pub use options::TcpOptions;
pub use transport::TcpTransport;
