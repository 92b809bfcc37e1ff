//! Epic Server frames over TCP: [`TcpTransport`] implements the contract of `epicserver-transport`.
//!
//! One thread drives any number of links; how is shared with other networks of the kernel, see `epicserver_transport::socket`. What
//! is here is what TCP has of its own: how connections are made and end.
//!
//! What is not here: names (addresses are numbers and a port), encryption, keep-alive (the session pings).
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

mod network;

pub use network::{TcpNetwork, TcpOptions, TcpSocket};

/// Frames over TCP: one listening socket and any number of connections.
pub type TcpTransport = epicserver_transport::socket::SocketTransport<TcpNetwork>;

#[cfg(test)]
mod tests;
