//! The conformance suite over real sockets.

use epicserver_transport::conformance::{Fixture, RawPeer, suite};
use epicserver_transport::socket::Bounds;
use epicserver_transport::{Addr, Transport};
use epicserver_transport_tipc::{PacketSocket, ServiceAddress, TipcOptions, TipcTransport};
use std::io;

#[test]
fn tipc() {
    suite(|| Tipc { bounds: Bounds { links_max: 32, ..Bounds::default() } });
}

#[test]
fn tipc_with_little_memory() {
    suite(|| Tipc {
        bounds: Bounds {
            links_max: 4,
            frame_len_max: 8 << 10,
            outbox_len_max: 16 << 10,
            receive_block_len: 68 << 10,
            receive_blocks_per_link_max: 4,
            send_buffers_max: 8,
            ..Bounds::default()
        },
    });
}

struct Tipc {
    bounds: Bounds,
}

impl Fixture for Tipc {
    fn transport(&mut self) -> Box<dyn Transport> {
        let options = TipcOptions { bounds: self.bounds.clone(), ..TipcOptions::default() };
        Box::new(TipcTransport::bind(options).expect("a kernel with TIPC"))
    }

    fn vacant_addr(&mut self) -> Addr {
        ServiceAddress { service: TipcOptions::default().service + 1, instance: 1 }.into()
    }

    fn raw_peer(&mut self, addr: &Addr) -> Option<Box<dyn RawPeer>> {
        let address = addr.as_str().parse().expect("an address of TIPC");
        Some(Box::new(Packets(PacketSocket::begin(address).expect("somebody listens"))))
    }
}

/// A peer that sends any bytes, as one packet.
struct Packets(PacketSocket);

impl RawPeer for Packets {
    fn write(&mut self, bytes: &[u8]) -> bool {
        match self.0.send(bytes) {
            Ok(()) => true,
            Err(error) => {
                assert!(
                    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected),
                    "{error}"
                );
                false
            }
        }
    }

    fn is_down(&mut self) -> bool {
        match self.0.receive(&mut [0; 1]) {
            Ok(len) => len == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}
