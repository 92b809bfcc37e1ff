//! The conformance suite over real sockets of this machine.

use epicserver_transport::conformance::{Fixture, RawPeer, suite};
use epicserver_transport::socket::Bounds;
use epicserver_transport::{Addr, Transport};
use epicserver_transport_tcp::{TcpOptions, TcpTransport};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

#[test]
fn tcp() {
    suite(|| Tcp { bounds: Bounds { links_max: 32, ..Bounds::default() } });
}

#[test]
fn tcp_with_little_memory() {
    suite(|| Tcp {
        bounds: Bounds {
            links_max: 4,
            frame_len_max: 8 << 10,
            outbox_len_max: 16 << 10,
            receive_block_len: 8 << 10,
            receive_blocks_per_link_max: 4,
            send_buffers_max: 8,
            ..Bounds::default()
        },
    });
}

struct Tcp {
    bounds: Bounds,
}

impl Fixture for Tcp {
    fn transport(&mut self) -> Box<dyn Transport> {
        let options = TcpOptions { bounds: self.bounds.clone(), ..TcpOptions::default() };
        Box::new(TcpTransport::bind(options).expect("a free port"))
    }

    fn vacant_addr(&mut self) -> Addr {
        // Nobody listens on it once this is dropped.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Addr::new(&listener.local_addr().expect("bound").to_string())
    }

    fn raw_peer(&mut self, addr: &Addr) -> Option<Box<dyn RawPeer>> {
        let stream = TcpStream::connect(addr.as_str()).expect("somebody listens");
        stream.set_nonblocking(true).expect("a socket");
        Some(Box::new(Raw { stream, sent_len: 0 }))
    }
}

struct Raw {
    stream: TcpStream,
    /// Bytes of the write under way that are sent.
    sent_len: usize,
}

impl RawPeer for Raw {
    fn write(&mut self, bytes: &[u8]) -> bool {
        match self.stream.write(&bytes[self.sent_len..]) {
            Ok(len) => self.sent_len += len,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let is_whole = self.sent_len == bytes.len();
        if is_whole {
            self.sent_len = 0;
        }
        is_whole
    }

    fn is_down(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }
}
