//! Control connections that others begin.

use super::RdmaTransport;
use crate::link::{Stage, down_reason};
use epicserver_transport::{Addr, Direction, DownReason};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

impl RdmaTransport {
    pub(super) fn accept(&mut self) {
        if self.accept_at.is_none_or(|at| at > self.now) {
            return;
        }
        for _ in 0..ACCEPTS_PER_POLL_MAX {
            match self.listener.accept() {
                Ok((stream, peer)) => self.handle_accepted(stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_at = None;
                    return;
                }
                Err(error) if down_reason(error.kind()) == DownReason::ClosedByPeer => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept control connections");
                    self.accept_at = Some(self.now.saturating_add(ACCEPT_RETRY_NS));
                    return;
                }
            }
        }
    }

    fn handle_accepted(&mut self, stream: TcpStream, peer: SocketAddr) {
        let peer = Addr::new(&peer.to_string());
        let deadline = self.now.saturating_add(self.options.connect_timeout_ns);
        let prepared = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        let added = prepared.and_then(|()| {
            self.add_link(stream, Stage::Greeting { deadline }, Direction::Incoming, peer.clone())
        });
        if let Err(error) = added {
            // Dropping the socket tells the peer.
            tracing::debug!(%peer, %error, "connection refused");
        }
    }
}

pub(super) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(LISTEN_QUEUE_LEN)?;
    Ok(socket.into())
}

const ACCEPTS_PER_POLL_MAX: usize = 64;
const ACCEPT_RETRY_NS: u64 = 100_000_000;
const LISTEN_QUEUE_LEN: i32 = 1024;
