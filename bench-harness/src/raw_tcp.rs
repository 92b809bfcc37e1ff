//! Raw frames over TCP, by plain socket calls.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::raw_line::Line;

/// A connection.
pub(crate) struct TcpLine {
    socket: TcpStream,
}

impl TcpLine {
    pub(crate) fn new(control: &TcpStream) -> io::Result<Self> {
        Ok(Self { socket: control.try_clone()? })
    }
}

impl Line for TcpLine {
    fn write(&mut self, bytes: &[u8], park: bool) -> io::Result<usize> {
        if park {
            return self.socket.write(bytes);
        }
        let sent = send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        sent.map_err(io::Error::from).or_else(none_if_blocked)
    }

    fn read(&mut self, bytes: &mut [u8], park: bool) -> io::Result<usize> {
        let len = if park {
            self.socket.read(bytes)?
        } else {
            match recv(&self.socket, bytes, RecvFlags::DONTWAIT) {
                Ok((_, len)) => len,
                Err(error) => return none_if_blocked(error.into()),
            }
        };
        if len == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(len) }
    }
}

/// Whether a byte has come, which is taken.
pub(crate) fn look(control: &TcpStream) -> io::Result<bool> {
    match recv(control, &mut [0], RecvFlags::DONTWAIT) {
        Ok((0, _)) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(true),
        Err(error) => none_if_blocked(error.into()).map(|_| false),
    }
}

/// A socket that has nothing, or no room, is no failure.
pub(crate) fn none_if_blocked(error: io::Error) -> io::Result<usize> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(0),
        _ => Err(error),
    }
}
