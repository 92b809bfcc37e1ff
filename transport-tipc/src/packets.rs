//! Sockets that carry packets without frames: what a transport is measured against, and tested with.

use crate::address::ServiceAddress;
use crate::startup;
use crate::sys;
use socket2::{Socket, Type};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A connected socket.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
}

/// A socket that others connect to.
#[derive(Debug)]
pub struct PacketListener {
    socket: Socket,
}

impl PacketListener {
    /// Binds that address.
    ///
    /// # Errors
    /// The machine lacks something; in words.
    pub fn bind(address: ServiceAddress) -> io::Result<Self> {
        let socket = startup::socket(Type::SEQPACKET)?;
        socket.bind(&sys::service_address(address)).map_err(startup::cannot_bind)?;
        socket.listen(1)?;
        Ok(Self { socket })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The system's.
    pub fn accept(&self) -> io::Result<PacketSocket> {
        let (socket, _) = self.socket.accept()?;
        Ok(PacketSocket { socket })
    }
}

impl PacketSocket {
    /// Connects, and waits until it is.
    ///
    /// # Errors
    /// Nobody is there, or the machine lacks something.
    pub fn connect(address: ServiceAddress) -> io::Result<Self> {
        let socket = startup::socket(Type::SEQPACKET)?;
        socket.connect(&sys::service_address(address))?;
        Ok(Self { socket })
    }

    /// Begins to connect, and waits for nothing, also later: until the peer has accepted, sending fails with
    /// [`io::ErrorKind::NotConnected`].
    ///
    /// # Errors
    /// Nobody is there, or the machine lacks something.
    pub fn begin(address: ServiceAddress) -> io::Result<Self> {
        let socket = startup::socket(Type::SEQPACKET.nonblocking())?;
        match socket.connect(&sys::service_address(address)) {
            Err(error) if !startup::is_under_way(&error) => Err(error),
            _ => Ok(Self { socket }),
        }
    }

    /// How long sending and receiving wait at most; `None`: not at all.
    ///
    /// # Errors
    /// The system's.
    pub fn set_waits(&self, time_max: Option<Duration>) -> io::Result<()> {
        self.socket.set_nonblocking(time_max.is_none())?;
        self.socket.set_read_timeout(time_max)?;
        self.socket.set_write_timeout(time_max)
    }

    /// Sends one packet.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::WouldBlock`] if it would have to wait.
    pub fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        (&self.socket).write(packet).map(|_| ())
    }

    /// Receives one packet; its length, or 0 at the end. What does not fit is lost.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::WouldBlock`] if it would have to wait.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.socket).read(buffer)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
