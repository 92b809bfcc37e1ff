//! A peer that speaks no protocol: for tests of what foreign bytes do.

use super::LoopbackNetwork;
use super::endpoint::{ConnectRequest, Delivery, Endpoint, Lane};
use crate::frame::Frame;
use crate::link::{Addr, LinkId};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// One link on a [`LoopbackNetwork`] whose bytes are not checked when they are sent.
pub struct LoopbackRaw {
    endpoint: Arc<Endpoint>,
    peer: Arc<Endpoint>,
    to_peer: Arc<Lane>,
    peer_link: Option<LinkId>,
    down: bool,
}

impl LoopbackNetwork {
    /// A raw link to who is bound to `addr`.
    ///
    /// # Errors
    /// `ConnectionRefused` if nobody is.
    pub fn connect_raw(&self, addr: &Addr) -> io::Result<LoopbackRaw> {
        let peer = self.find(addr).ok_or(io::ErrorKind::ConnectionRefused)?;
        let (endpoint, to_peer) = (Arc::new(Endpoint::default()), Arc::new(Lane::default()));
        let request = ConnectRequest {
            from: Arc::clone(&endpoint),
            from_link: LinkId::new(0, 0),
            from_addr: Addr::new("raw"),
            to_connector: Arc::new(Lane::default()),
            from_connector: Arc::clone(&to_peer),
        };
        if !peer.deliver_now(Delivery::Connect(request)) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(LoopbackRaw { endpoint, peer, to_peer, peer_link: None, down: false })
    }
}

impl LoopbackRaw {
    /// Sends `bytes` as they are, as one packet. `false` if the link is not up (yet, or any more) and nothing was sent.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.look();
        let Some(link) = self.peer_link else { return false };
        if self.down {
            return false;
        }
        let Ok(frame) = self.to_peer.place(&Frame::copy_from(bytes)) else { return false };
        self.peer.deliver_now(Delivery::Frame { link, frame })
    }

    /// Whether the other side has ended the link.
    pub fn is_down(&mut self) -> bool {
        self.look();
        self.down
    }

    fn look(&mut self) {
        let mut arrived = VecDeque::new();
        self.endpoint.take_arrived(&mut arrived);
        for delivery in arrived {
            match delivery {
                Delivery::Accepted { peer_link, .. } => self.peer_link = Some(peer_link),
                Delivery::Down { .. } => self.down = true,
                Delivery::Connect(_) | Delivery::Frame { .. } | Delivery::Writable { .. } => {}
            }
        }
    }
}

impl Drop for LoopbackRaw {
    fn drop(&mut self) {
        self.look();
        if let Some(link) = self.peer_link {
            let reason = crate::link::DownReason::ClosedByPeer;
            self.peer.deliver_now(Delivery::Down { link, reason });
        }
        for delivery in self.endpoint.shut() {
            delivery.refuse();
        }
    }
}
