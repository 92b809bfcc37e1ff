//! Probes on their way between nodes. They name a call by the record of its request, as cancels do, and may be lost.

use epicserver_transport::{FrameHeader, FrameKind};

use crate::core::cycle::Probe;
use crate::core::{Action, CoreState};
use crate::remote::PeerFrame;
use crate::wire::assembly::assemble_bare;
use crate::wire::probe::ProbeWord;

impl CoreState {
    /// Has a search go on at the node that was asked by the request in this place.
    pub(in crate::core) fn send_probe(&self, place: u32, probe: &Probe) {
        let pending = self.remote.pending.borrow();
        let Some(name) = pending.name(place) else { return };
        let Some(entry) = pending.get(name) else { return };
        let mut header = FrameHeader::new(FrameKind::Probe);
        header.source_core = self.config.index as u8;
        header.target_core = self.routes.borrow().core_at(entry.call.node, entry.call.partition);
        header.slot.set(name.slot);
        header.generation.set(name.generation);
        let Probe { initiator, round, hops, ref way, .. } = *probe;
        let word = ProbeWord { initiator, round, hops, way };
        let frame = assemble_bare(self.config.frames.as_ref(), header, &word.to_bytes());
        // Not gated: it tells who waits for whom, and nothing of what anybody has seen.
        self.act(Action::Frame(PeerFrame::new(entry.call.node, frame)));
    }

    /// A search of another node goes on at a call that it made; one that has ended meanwhile waits for nobody.
    pub(super) fn handle_probe(&self, header: &FrameHeader, frame: &PeerFrame) {
        let payload = FrameHeader::payload_bytes(&frame.frame).unwrap_or_default();
        let word = match ProbeWord::parse(payload) {
            Ok(word) => word,
            Err(error) => return tracing::warn!(peer = %frame.peer, %error, "a probe is malformed"),
        };
        // Others are asked about often enough to be left out; this core has its own searches and its calls.
        if let Some(at) = self.find_inbound(header, frame.peer).filter(|_| self.may_probe()) {
            let ProbeWord { initiator, round, hops, way } = word;
            self.continue_probe(Probe { initiator, round, at, way: way.to_owned(), hops });
        }
    }
}
