//! Control frames in and out, and news of peers: for the part of the node that knows about members and the store.
//!
//! What waits here is bounded: control frames by the windows of their sessions, as their room is given back when they are
//! taken; news by the number of peers, as a link that came and went untold is not told at all.
//!
//! All of it is taken in the order in which it happened. A node that is told to be gone has said its last: whoever believed a word
//! of it that came later would wait for its end for ever.

use std::collections::{BTreeMap, VecDeque};

use epicserver_storage::NodeId;
use epicserver_transport::Frame;

use super::{Fabric, PeerNews};

/// Something for the part of the node that knows about members and the store.
#[derive(Clone, Debug)]
pub enum ControlInput {
    /// A link works, or does not any more.
    News(PeerNews),
    /// What a node says.
    Frame(NodeId, Frame),
}

/// What waits to be taken.
#[derive(Debug, Default)]
pub(super) struct Controls {
    inputs: VecDeque<ControlInput>,
    /// Which life of each node has been told to be there.
    told: BTreeMap<u64, NodeId>,
    /// Which life of each node is there now.
    there: BTreeMap<u64, NodeId>,
}

impl Controls {
    pub(super) fn take(&mut self, from: NodeId, frame: Frame) {
        self.inputs.push_back(ControlInput::Frame(from, frame));
    }

    pub(super) fn note_up(&mut self, node: NodeId) {
        // A link that was lost and is back is told as both, since what was sent over the old one may be lost.
        self.note_down(node.id);
        self.there.insert(node.id, node);
        self.inputs.push_back(ControlInput::News(PeerNews::Up(node)));
    }

    pub(super) fn note_down(&mut self, id: u64) {
        let Some(node) = self.there.remove(&id) else { return };
        let is_untold =
            |input: &ControlInput| matches!(input, ControlInput::News(PeerNews::Up(up)) if up.id == id);
        if let Some(place) = self.inputs.iter().position(is_untold) {
            // What it said then nobody hears, as it is not there by then.
            self.inputs.remove(place);
        } else {
            self.inputs.push_back(ControlInput::News(PeerNews::Down(node)));
        }
    }

    /// Drops what came from a node.
    pub(super) fn forget(&mut self, id: u64) {
        self.inputs.retain(|input| !matches!(input, ControlInput::Frame(from, _) if from.id == id));
        self.note_down(id);
    }

    /// The next input, and whether it is to be told: a frame only if its node is told to be there.
    fn poll(&mut self) -> Option<(ControlInput, bool)> {
        let input = self.inputs.pop_front()?;
        let is_told = match &input {
            ControlInput::News(PeerNews::Up(node)) => self.told.insert(node.id, *node).is_none(),
            ControlInput::News(PeerNews::Down(node)) => self.told.remove(&node.id).is_some(),
            ControlInput::Frame(from, _) => self.told.get(&from.id) == Some(from),
        };
        Some((input, is_told))
    }
}

impl Fabric {
    /// Takes a control frame for a node. `false` if no link to this life of it works, or too many wait: it is lost then, as it
    /// may get lost on its way.
    pub fn handle_control(&mut self, now: u64, node: NodeId, frame: Frame) -> bool {
        let Some(peer) = self.peers.get_mut(node.id) else { return false };
        if peer.present != Some(node) || !peer.session.is_up() {
            return false;
        }
        let queued = peer.session.queue(now, frame);
        let was_refused = std::mem::replace(&mut peer.refuses_control, queued.is_err());
        if let Err(error) = &queued
            && !was_refused
        {
            tracing::warn!(peer = %node, %error, "control frames cannot be sent");
        }
        queued.is_ok()
    }

    /// The next control frame that came, and from whom, or change of who is there. Taking a frame gives the peer its room back. Only
    /// where the peers are not a fixed list.
    pub fn poll_control(&mut self) -> Option<ControlInput> {
        loop {
            let (input, is_told) = self.controls.poll()?;
            let ControlInput::Frame(from, frame) = input else { return Some(input) };
            let Some(peer) = self.peers.get_mut(from.id) else { continue };
            peer.session.release_controls(1);
            if is_told && peer.present == Some(from) {
                return Some(ControlInput::Frame(from, super::unpin(&self.config, frame)));
            }
        }
    }

    /// Whether control frames or news wait to be taken.
    pub fn has_control(&self) -> bool {
        !self.controls.inputs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use epicserver_transport::{FrameHeader, FrameKind};

    use super::*;
    use crate::wire::assembly::assemble_bare;

    const NODE: NodeId = NodeId { id: 7, incarnation: 1 };
    const AGAIN: NodeId = NodeId { id: 7, incarnation: 2 };

    fn say(controls: &mut Controls, from: NodeId) {
        controls.take(from, assemble_bare(None, FrameHeader::new(FrameKind::Control), &[]));
    }

    /// What is told, a frame as its node.
    fn told(controls: &mut Controls) -> Vec<Result<PeerNews, NodeId>> {
        let mut told = Vec::new();
        while let Some((input, is_told)) = controls.poll() {
            match input {
                ControlInput::News(news) => {
                    assert!(is_told, "{news:?}");
                    told.push(Ok(news));
                }
                ControlInput::Frame(from, _) => told.extend(is_told.then_some(Err(from))),
            }
        }
        told
    }

    /// A data node that stopped was met once more on its way out. Its end was told before its last word, that it keeps: whoever
    /// heard it waited for a keeper that was gone.
    #[test]
    fn nothing_is_heard_of_a_node_that_came_and_went_untold() {
        let mut controls = Controls::default();
        controls.note_up(NODE);
        say(&mut controls, NODE);
        controls.note_down(NODE.id);
        assert_eq!(told(&mut controls), []);
    }

    #[test]
    fn the_last_words_of_a_node_come_before_its_end() {
        let mut controls = Controls::default();
        controls.note_up(NODE);
        assert_eq!(told(&mut controls), [Ok(PeerNews::Up(NODE))]);
        say(&mut controls, NODE);
        controls.note_down(NODE.id);
        // It comes back, and is gone, and comes back in another life: the end of the first link is told once.
        controls.note_up(NODE);
        say(&mut controls, NODE);
        controls.note_down(NODE.id);
        controls.note_up(AGAIN);
        say(&mut controls, AGAIN);
        let all = [Err(NODE), Ok(PeerNews::Down(NODE)), Ok(PeerNews::Up(AGAIN)), Err(AGAIN)];
        assert_eq!(told(&mut controls), all);
    }

    #[test]
    fn a_link_that_flaps_untold_takes_no_room() {
        let mut controls = Controls::default();
        controls.note_up(NODE);
        assert_eq!(told(&mut controls).len(), 1);
        for _ in 0..100 {
            controls.note_down(NODE.id);
            controls.note_up(NODE);
        }
        assert_eq!(told(&mut controls), [Ok(PeerNews::Down(NODE)), Ok(PeerNews::Up(NODE))]);
    }
}
