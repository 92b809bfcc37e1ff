//! Frames over sockets of the kernel: what transports over TCP, TIPC and the like share.
//!
//! A [`Network`] says how sockets of one family are made and end; [`SocketTransport`] does the rest over it: one thread drives any
//! number of links over non-blocking sockets and one epoll set. Many frames leave in one write and arrive in one read;
//! frames that came in one read are not copied, they share its block. [`Bounds`] are what a link may queue for a slow
//! reader and what it may hold of received blocks.
//!
//! A network carries a stream, or packets of whole frames ([`Network::PACKET_LEN_MAX`]).
//!
//! Start reading at `socket/driver.rs`; `connection` is one socket, `outbox` the batching of writes.

mod bounds;
mod connection;
mod driver;
mod outbox;

use crate::link::Addr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

pub use bounds::Bounds;
pub use driver::SocketTransport;

/// One family of sockets: a listening one, whose descriptor this gives, and how others are made. All of them are non-blocking.
pub trait Network: AsFd + Send + Sized {
    /// What it is made from.
    type Options;
    /// The two ends of a link.
    type Socket: LinkSocket;
    /// Its name in the configuration, such as `tcp`.
    const NAME: &'static str;
    /// Longest packet in bytes, if it carries packets: each write is one, and each read gets one whole. `None`: it carries a
    /// stream.
    const PACKET_LEN_MAX: Option<usize>;

    /// Listens.
    ///
    /// # Errors
    /// The address is in use or not ours, or the system lacks something.
    fn bind(options: &Self::Options) -> io::Result<Self>;

    /// The part of the options that is about links.
    fn bounds(options: &Self::Options) -> Bounds;

    /// Where others reach this one.
    ///
    /// # Errors
    /// The system does not say.
    fn local_addr(&self) -> io::Result<Addr>;

    /// Starts a connection. A second value says that it has failed already, and why.
    ///
    /// # Errors
    /// The address cannot be understood, or there is no socket; nothing began.
    fn connect(&mut self, addr: &Addr) -> io::Result<(Self::Socket, Option<io::ErrorKind>)>;

    /// The next connection that somebody began, and where it comes from.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is none.
    fn accept(&mut self) -> io::Result<(Self::Socket, Addr)>;
}

/// One end of a link.
pub trait LinkSocket: Read + Write + AsFd + Send {
    /// Whether a connection begun here is there. Asked after an edge of writing.
    ///
    /// # Errors
    /// It has failed.
    fn is_connected(&self) -> io::Result<bool>;

    /// Ends the direction to the peer, once all is written. `true`: the socket may be dropped now, and the peer will get all
    /// that was written; `false`: only when the peer has ended its direction too. Asked again after each edge.
    fn finish_writing(&self) -> bool;
}
