//! Control frames in and out, and news of peers: for the part of the node that knows about members and the store.
//!
//! What waits here is bounded: control frames by the windows of their sessions, as their room is given back when they are
//! taken; news by the number of peers, of each of which only the last state is told.

use std::collections::{BTreeMap, VecDeque};

use epicserver_storage::NodeId;
use epicserver_transport::Frame;

use super::{Fabric, PeerNews};

/// What waits to be taken.
#[derive(Debug, Default)]
pub(super) struct Controls {
    frames: VecDeque<(NodeId, Frame)>,
    /// Which life of each node has been told to be there.
    told: BTreeMap<u64, NodeId>,
    /// Which life of each node is there now.
    there: BTreeMap<u64, NodeId>,
    /// Nodes whose link is another one than when they were told last.
    changed: VecDeque<u64>,
}

impl Controls {
    pub(super) fn take(&mut self, from: NodeId, frame: Frame) {
        self.frames.push_back((from, frame));
    }

    pub(super) fn note_up(&mut self, node: NodeId) {
        self.there.insert(node.id, node);
        self.change(node.id);
    }

    pub(super) fn note_down(&mut self, id: u64) {
        if self.there.remove(&id).is_some() {
            self.change(id);
        }
    }

    /// Drops what came from a node.
    pub(super) fn forget(&mut self, id: u64) {
        self.frames.retain(|(from, _)| from.id != id);
        self.note_down(id);
    }

    fn change(&mut self, id: u64) {
        if !self.changed.contains(&id) {
            self.changed.push_back(id);
        }
    }

    fn poll_news(&mut self) -> Option<PeerNews> {
        while let Some(id) = self.changed.front().copied() {
            // A link that was lost and is back is told as both, since what was sent over the old one may be lost.
            if let Some(before) = self.told.remove(&id) {
                return Some(PeerNews::Down(before));
            }
            self.changed.pop_front();
            if let Some(node) = self.there.get(&id).copied() {
                self.told.insert(id, node);
                return Some(PeerNews::Up(node));
            }
        }
        None
    }
}

impl Fabric {
    /// Takes a control frame for a node. `false` if no link to this life of it works, or too many wait: it is lost then, as it
    /// may get lost on its way.
    pub fn handle_control(&mut self, now: u64, node: NodeId, frame: Frame) -> bool {
        let Some(peer) = self.peers.get_mut(&node.id) else { return false };
        if peer.present != Some(node) || !peer.session.is_up() {
            return false;
        }
        match peer.session.queue(now, frame) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(peer = %node, %error, "a control frame cannot be sent");
                false
            }
        }
    }

    /// The next control frame that came, and from whom. Taking it gives the peer its room back.
    pub fn poll_control(&mut self) -> Option<(NodeId, Frame)> {
        loop {
            let (from, frame) = self.controls.frames.pop_front()?;
            let Some(peer) = self.peers.get_mut(&from.id) else { continue };
            peer.session.release_controls(1);
            if peer.present == Some(from) {
                return Some((from, self.unpin(frame)));
            }
        }
    }

    /// The next change of who is there. Only where the peers are not a fixed list.
    pub fn poll_peer_news(&mut self) -> Option<PeerNews> {
        self.controls.poll_news()
    }

    /// Whether control frames or news wait to be taken.
    pub fn has_control(&self) -> bool {
        !self.controls.frames.is_empty() || !self.controls.changed.is_empty()
    }
}
