//! How TIPC sockets are made and end, and the settings of a transport over them.

use crate::address::{NotAnAddress, ServiceAddress};
use crate::closer;
use crate::startup;
use crate::sys::{self, SocketNumber};
use crate::topology::bound_sockets;
use epicserver_transport::Addr;
use epicserver_transport::socket::{Bounds, LinkSocket, Network};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Socket, Type};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// Settings, with defaults for nodes of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TipcOptions {
    /// The kind of service that all nodes of the cluster bind; not below 64.
    pub service: u32,
    /// What tells this node from others. `None`: a number that nobody has, so that a process which starts again is another
    /// one.
    pub instance: Option<u32>,
    /// How much the kernel favours our packets where a link is congested.
    pub importance: Importance,
    /// How much links may take. A receive block holds one packet at least.
    pub bounds: Bounds,
}

impl Default for TipcOptions {
    fn default() -> Self {
        Self {
            service: 0x4550_4943,
            instance: None,
            importance: Importance::Medium,
            bounds: Bounds::default(),
        }
    }
}

/// How much the kernel favours packets where a link is congested: each has a queue of its own there, from low to critical for 2, 4, 6 and
/// 8 times as many packets as the link has under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// What sockets have that say nothing.
    Low,
    /// Before those.
    Medium,
    /// Before most.
    High,
    /// Before all.
    Critical,
}

/// TIPC with one listening socket, bound to a service address.
#[derive(Debug)]
pub struct TipcNetwork {
    listener: Socket,
    address: ServiceAddress,
    importance: Importance,
}

/// One end of a TIPC connection, which carries packets.
#[derive(Debug)]
pub struct TipcSocket {
    /// Taken by the drop.
    socket: Option<Socket>,
}

impl Network for TipcNetwork {
    type Options = TipcOptions;
    type Socket = TipcSocket;
    const NAME: &'static str = "tipc";
    const PACKET_LEN_MAX: Option<usize> = Some(sys::PACKET_LEN_MAX);

    /// Binds the service address. The kernel would give several sockets the same one, and connections to each in turn, so it is looked
    /// whether ours is the only one.
    fn bind(options: &TipcOptions) -> io::Result<Self> {
        let instance = options.instance.map_or_else(random_instance, Ok)?;
        // Parsed to be checked: numbers of the kernel's own are no addresses.
        let address = ServiceAddress { service: options.service, instance };
        let address: ServiceAddress = address.to_string().parse().map_err(invalid)?;
        let listener = new_socket(options.importance)?;
        listener.bind(&sys::service_address(address)).map_err(startup::cannot_bind)?;
        listener.listen(LISTEN_QUEUE_LEN)?;
        let network = Self { listener, address, importance: options.importance };
        let own = network.socket_number()?;
        match bound_sockets(address.service, address.instance..=address.instance)?
            .into_iter()
            .find(|found| found.socket != own)
        {
            None => Ok(network),
            Some(other) => Err(startup::taken(address, other.socket)),
        }
    }

    fn bounds(options: &TipcOptions) -> Bounds {
        options.bounds.clone()
    }

    fn local_addr(&self) -> io::Result<Addr> {
        Ok(self.address.into())
    }

    fn connect(&mut self, addr: &Addr) -> io::Result<(TipcSocket, Option<io::ErrorKind>)> {
        let target: ServiceAddress = addr.as_str().parse().map_err(invalid)?;
        let socket = new_socket(self.importance)?;
        let failed =
            socket.connect(&sys::service_address(target)).err().filter(|error| !startup::is_under_way(error));
        Ok((TipcSocket::new(socket), failed.map(|error| refused_if_nobody_is_there(error).kind())))
    }

    fn accept(&mut self) -> io::Result<(TipcSocket, Addr)> {
        let (socket, peer) = self.listener.accept()?;
        socket.set_nonblocking(true)?;
        let peer = sys::socket_number(&peer).map_or_else(
            || "tipc-socket".to_owned(),
            |SocketNumber { port, node }| format!("tipc-socket:{port}@{node:x}"),
        );
        Ok((TipcSocket::new(socket), Addr::new(&peer)))
    }
}

impl TipcNetwork {
    /// Our own listening socket, as others see it.
    fn socket_number(&self) -> io::Result<SocketNumber> {
        let address = self.listener.local_addr()?;
        sys::socket_number(&address).ok_or_else(|| io::Error::other("the kernel does not say who we are"))
    }
}

impl AsFd for TipcNetwork {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl TipcSocket {
    fn new(socket: Socket) -> Self {
        Self { socket: Some(socket) }
    }

    fn open(&self) -> &Socket {
        self.socket.as_ref().expect("only the drop takes it")
    }
}

impl LinkSocket for TipcSocket {
    fn is_connected(&self) -> io::Result<bool> {
        match self.open().take_error()? {
            None => Ok(self.open().peer_addr().is_ok()),
            Some(error) => Err(refused_if_nobody_is_there(error)),
        }
    }

    /// What was written is with the peer, or on its way over links that lose nothing. Only where it may take long is not yet the
    /// time to close.
    fn finish_writing(&self) -> bool {
        closer::takes_packets(self)
    }
}

impl Drop for TipcSocket {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            closer::close(socket);
        }
    }
}

impl Read for TipcSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Not by libc, which looks before and after whether the thread is to end: most reads find nothing, and many follow each other.
        Ok(recv(self.open(), buffer, RecvFlags::empty())?.0)
    }
}

impl Write for TipcSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.open(), bytes, SendFlags::NOSIGNAL)?)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.open().write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for TipcSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.open().as_fd()
    }
}

fn new_socket(importance: Importance) -> io::Result<Socket> {
    let socket = startup::socket(Type::SEQPACKET.nonblocking())?;
    sys::set_importance(&socket, importance as u32)?;
    Ok(socket)
}

fn random_instance() -> io::Result<u32> {
    let mut bytes = [0; size_of::<u32>()];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u32::from_ne_bytes(bytes))
}

fn invalid(error: NotAnAddress) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// An address that nobody binds cannot be reached, says the kernel; to others that is a refusal.
fn refused_if_nobody_is_there(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::HostUnreachable => io::ErrorKind::ConnectionRefused.into(),
        _ => error,
    }
}

/// Connections that wait to be accepted.
const LISTEN_QUEUE_LEN: i32 = 4096;
