//! Epic Server frames over Linux TIPC: [`TipcTransport`] implements the contract of `epicserver-transport`, and [`Topology`] tells
//! who else is on the network, so that nobody needs to be told addresses.
//!
//! Links are connected `SOCK_SEQPACKET` sockets: in order, held back by the kernel when the reader does not read, and with an end that
//! is told at once when the peer's process ends. Many frames leave in one packet, since the receiver's window counts packets
//! rather than bytes. One thread drives any number of links; how is shared with other networks of the kernel, see
//! `epicserver_transport::socket`.
//!
//! What is not here: pings (the session's; the kernel asks after a silent peer once an hour), and encryption, which TIPC does by itself
//! when its nodes are given keys.
//!
//! Start reading at `network`; `topology` and `discovery` are who is there, `startup` what a machine may lack, `sys` the kernel's header.
//!
//! ```no_run
//! use epicserver_transport::Transport;
//! use epicserver_transport_tipc::{TipcOptions, TipcTransport, bound_sockets};
//!
//! let options = TipcOptions { service: 4711, ..TipcOptions::default() };
//! let mut transport = TipcTransport::bind(options)?;
//! for other in bound_sockets(4711, 0..=u32::MAX)? {
//!     if epicserver_transport::Addr::from(other.address) != *transport.local_addr() {
//!         transport.connect(&other.address.into(), 0)?;
//!     }
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

mod address;
mod closer;
mod discovery;
mod network;
mod packets;
mod startup;
mod sys;
mod topology;

pub use address::{NotAnAddress, ServiceAddress};
pub use discovery::TipcDiscovery;
pub use network::{Importance, TipcNetwork, TipcOptions, TipcSocket};
pub use packets::{PacketListener, PacketSocket};
pub use startup::why_only_here;
pub use sys::{PACKET_LEN_MAX, SocketNumber};
pub use topology::{Bound, Topology, TopologyEvent, bound_sockets};

/// Frames over TIPC: one listening socket and any number of connections.
pub type TipcTransport = epicserver_transport::socket::SocketTransport<TipcNetwork>;
