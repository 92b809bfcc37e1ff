//! Raw frames over TIPC: as many in a packet as fit, by plain socket calls.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use epicserver_transport_tipc::{PACKET_LEN_MAX, PacketListener, PacketSocket, ServiceAddress};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::raw_line::{Carrier, Line, PATIENCE};
use crate::raw_tcp::none_if_blocked;

/// What the caller binds, for the callee to connect to.
pub(crate) type Beginning = PacketListener;

/// A connection.
pub(crate) struct TipcLine {
    socket: PacketSocket,
    frame_len: usize,
}

/// Binds an address, and tells the callee which.
pub(crate) fn begin(mut control: &TcpStream) -> io::Result<Beginning> {
    let instance = fastrand::u32(..);
    let listener = PacketListener::bind(ServiceAddress { service: SERVICE, instance })?;
    control.write_all(&instance.to_le_bytes())?;
    Ok(listener)
}

impl TipcLine {
    /// The caller's end, once the callee has connected.
    pub(crate) fn finish(beginning: &Beginning, carrier: &Carrier) -> io::Result<Self> {
        Self::new(beginning.accept()?, carrier)
    }

    /// The callee's end; it is of use when the caller has accepted.
    pub(crate) fn connect(mut control: &TcpStream, carrier: &Carrier) -> io::Result<Self> {
        let mut instance = [0; size_of::<u32>()];
        control.read_exact(&mut instance)?;
        let address = ServiceAddress { service: SERVICE, instance: u32::from_le_bytes(instance) };
        Self::new(PacketSocket::begin(address)?, carrier)
    }

    fn new(socket: PacketSocket, carrier: &Carrier) -> io::Result<Self> {
        socket.set_waits(Some(PATIENCE))?;
        Ok(Self { socket, frame_len: carrier.frame_len as usize })
    }
}

impl Line for TipcLine {
    fn write(&mut self, bytes: &[u8], park: bool) -> io::Result<usize> {
        // Of a frame that fits in no packet each has as much as fits.
        let len_max = if self.frame_len > PACKET_LEN_MAX {
            PACKET_LEN_MAX
        } else {
            PACKET_LEN_MAX / self.frame_len * self.frame_len
        };
        let packet = &bytes[..bytes.len().min(len_max)];
        let flags = if park { SendFlags::empty() } else { SendFlags::DONTWAIT };
        send(&self.socket, packet, flags).map_err(io::Error::from).or_else(none_if_blocked)
    }

    fn read(&mut self, bytes: &mut [u8], park: bool) -> io::Result<usize> {
        let flags = if park { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        match recv(&self.socket, bytes, flags) {
            Ok((0, _)) => Err(ErrorKind::UnexpectedEof.into()),
            Ok((_, len)) => Ok(len),
            Err(error) => none_if_blocked(error.into()),
        }
    }
}

/// The kind of service that callers bind for a moment.
const SERVICE: u32 = 0x4550_4952;
