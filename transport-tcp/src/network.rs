//! How TCP sockets are made and end, and the settings of a transport over them.

use epicserver_transport::Addr;
use epicserver_transport::socket::{Bounds, LinkSocket, Network};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// Settings, with defaults for nodes of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Address to be reached at; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// How much links may take.
    pub bounds: Bounds,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), bounds: Bounds::default() }
    }
}

/// TCP with one listening socket.
#[derive(Debug)]
pub struct TcpNetwork {
    listener: TcpListener,
}

/// One end of a TCP connection. Nothing waits for more to be sent along.
#[derive(Debug)]
pub struct TcpSocket {
    stream: TcpStream,
}

impl Network for TcpNetwork {
    type Options = TcpOptions;
    type Socket = TcpSocket;
    const NAME: &'static str = "tcp";
    const PACKET_LEN_MAX: Option<usize> = None;

    /// As [`TcpListener::bind`], with a longer queue: the kernel lets newcomers behind a full one wait for a second and more.
    fn bind(options: &TcpOptions) -> io::Result<Self> {
        let domain = Domain::for_address(options.listen);
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&options.listen.into())?;
        socket.listen(LISTEN_QUEUE_LEN)?;
        Ok(Self { listener: socket.into() })
    }

    fn bounds(options: &TcpOptions) -> Bounds {
        options.bounds.clone()
    }

    fn local_addr(&self) -> io::Result<Addr> {
        Ok(Addr::new(&self.listener.local_addr()?.to_string()))
    }

    fn connect(&mut self, addr: &Addr) -> io::Result<(TcpSocket, Option<io::ErrorKind>)> {
        let target: SocketAddr = addr.as_str().parse().map_err(|_| {
            let text = format!("`{addr}` is not an IP address and port, such as 127.0.0.1:7000");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let failed = socket.connect(&target.into()).err().filter(|error| !is_under_way(error));
        Ok((TcpSocket { stream: socket.into() }, failed.map(|error| error.kind())))
    }

    fn accept(&mut self) -> io::Result<(TcpSocket, Addr)> {
        let (stream, peer) = self.listener.accept()?;
        // A connection that takes no option is broken, and whoever reads will see that.
        let _ = stream.set_nodelay(true);
        stream.set_nonblocking(true)?;
        Ok((TcpSocket { stream }, Addr::new(&peer.to_string())))
    }
}

impl AsFd for TcpNetwork {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl TcpSocket {
    /// The socket itself.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl LinkSocket for TcpSocket {
    fn is_connected(&self) -> io::Result<bool> {
        match self.stream.take_error()? {
            None => Ok(self.stream.peer_addr().is_ok()),
            Some(error) => Err(error),
        }
    }

    /// Only once the peer has ended its direction too may the socket be closed: closed over unread bytes it would take back what was
    /// written.
    fn finish_writing(&self) -> bool {
        // An error does not matter: the connection ends anyway.
        let _ = self.stream.shutdown(Shutdown::Write);
        false
    }
}

impl Read for TcpSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Not by libc, which looks before and after whether the thread is to end: most reads find nothing, and many follow each other.
        Ok(recv(&self.stream, buffer, RecvFlags::empty())?.0)
    }
}

impl Write for TcpSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.stream, bytes, SendFlags::NOSIGNAL)?)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for TcpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS) || error.kind() == io::ErrorKind::WouldBlock
}

/// Connections that wait to be accepted; the kernel takes no more than `net.core.somaxconn`, 4096 by default.
const LISTEN_QUEUE_LEN: i32 = 4096;
