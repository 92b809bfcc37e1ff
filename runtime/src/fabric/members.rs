//! Who may stay: members of the view with everything, guests with control frames, the removed with nothing.

use std::collections::BTreeMap;

use epicserver_storage::{Member, NodeId};
use epicserver_transport::Addr;

use super::{Command, Dial, Fabric, Output, Peer, Standing, new_session, push_all};
use crate::error::Loss;
use crate::remote::LinkNews;
use crate::session::{SessionConfig, SessionEvent};

/// The lives of nodes that were members and are not: what they say is not heard, as it is too late.
#[derive(Debug, Default)]
pub(super) struct Removed {
    incarnations: BTreeMap<u64, u32>,
}

impl Removed {
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.incarnations.get(&node.id).is_some_and(|last| node.incarnation <= *last)
    }

    fn add(&mut self, node: NodeId) {
        if self.incarnations.len() >= REMOVED_MAX {
            // One that is not known any more is held back like any guest.
            self.incarnations.pop_first();
        }
        self.incarnations.insert(node.id, node.incarnation);
    }
}

impl Fabric {
    /// Takes the members of a new view: links to new ones are made, those of removed ones are closed, and what was under
    /// way to these ends as [`Loss::OwnerLost`]. To be told before the cores get to know the view.
    pub fn handle_members(&mut self, now: u64, members: &[Member]) {
        let me = self.config.me;
        if let Some(own) = members.iter().find(|member| member.node == me) {
            self.config.address = Addr::new(&own.address);
        }
        let others: BTreeMap<u64, &Member> = members
            .iter()
            .filter(|member| member.node.id != me.id)
            .map(|member| (member.node.id, member))
            .collect();
        let is_over = |peer: &&Peer| match (peer.standing, others.get(&peer.id)) {
            (Standing::Member(old), Some(member)) => {
                // A link that leads to the new life already has ended the old one.
                member.node != old && peer.present.is_none_or(|there| there == old)
            }
            (Standing::Member(_), None) => true,
            (Standing::Listed | Standing::Guest, _) => false,
        };
        let over: Vec<u64> = self.peers.iter().filter(is_over).map(|peer| peer.id).collect();
        for id in over {
            match self.peers.get(id) {
                Some(peer) if peer.leads_to_next_life() => self.outlive(id),
                _ => self.dismiss(now, id),
            }
        }
        for member in others.into_values() {
            self.admit(now, member);
        }
    }

    /// Takes a new life of this node, as the last one was evicted: every link ends, and what is sought is sought again.
    pub fn handle_rebirth(&mut self, now: u64, me: NodeId) {
        self.config.me = me;
        // They are members still, as far as is known, and may hear of the new life before this node hears of them.
        let removed = std::mem::take(&mut self.removed);
        for id in self.peers.ids() {
            self.dismiss(now, id);
        }
        self.removed = removed;
        self.restart_strangers(now);
    }

    /// The peer is a member from now on.
    fn admit(&mut self, now: u64, member: &Member) {
        let id = member.node.id;
        let addr = Addr::new(&member.address);
        let is_first = self.config.address < addr;
        let dial = move || if is_first { Dial::new(now, addr) } else { Dial::second(now, addr) };
        if self.peers.get(id).is_none() {
            self.add_peer(id, Standing::Guest, None);
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        if matches!(peer.standing, Standing::Listed) || peer.standing == Standing::Member(member.node) {
            return;
        }
        peer.standing = Standing::Member(member.node);
        let mut dial = dial();
        if peer.link.is_some() {
            dial.pause();
        }
        peer.dial = Some(dial);
        if peer.may_call() {
            peer.deliver_held(self.config.cores, &mut self.outputs);
        }
    }

    /// Takes in a proven node that is no member; `false` if there are as many as may be.
    pub(super) fn take_guest(&mut self, node: NodeId) -> bool {
        let guests = self.peers.iter().filter(|peer| peer.standing == Standing::Guest).count();
        if guests >= self.config.guests_max {
            tracing::warn!(%node, guests, "a node that is no member is sent away");
            return false;
        }
        self.add_peer(node.id, Standing::Guest, None);
        true
    }

    /// A guest without a link is nobody.
    pub(super) fn forget_guest(&mut self, now: u64, id: u64) {
        let is_over = |peer: &Peer| peer.standing == Standing::Guest && peer.link.is_none();
        if self.peers.get(id).is_some_and(is_over) {
            self.remove(now, id);
        }
        self.seek_again(now, id);
    }

    fn add_peer(&mut self, id: u64, standing: Standing, dial: Option<Dial>) {
        let session = SessionConfig { stream: self.rng.u64(..), ..self.config.session };
        let session = new_session(session, self.pool.as_ref(), self.config.bulk.as_ref());
        self.peers.insert(Peer::new(id, standing, session, dial, self.config.cores));
    }

    /// Ends a life of a peer that was a member; the link leads to a later one, which is a guest until it is a member. What it has said and
    /// heard is its own.
    fn outlive(&mut self, id: u64) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if let Standing::Member(gone) = peer.standing {
            push_all(&mut self.outputs, || LinkNews::Gone(gone));
            self.removed.add(gone);
        }
        (peer.standing, peer.dial) = (Standing::Guest, None);
    }

    /// Ends a peer that was a member: its calls, its link, and what it may say.
    fn dismiss(&mut self, now: u64, id: u64) {
        let Some(peer) = self.peers.get(id) else { return };
        let member = match peer.standing {
            Standing::Member(node) => Some(node),
            Standing::Listed | Standing::Guest => None,
        };
        for gone in member.into_iter().chain(peer.present.filter(|there| Some(*there) != member)) {
            tracing::info!(peer = %gone, "a node is no peer any more");
            push_all(&mut self.outputs, || LinkNews::Gone(gone));
        }
        if let Some(node) = member {
            self.removed.add(node);
        }
        self.remove(now, id);
        self.seek_again(now, id);
    }

    /// As when both this node and the peer lose each other and meet again, in the same lives.
    #[cfg(test)]
    pub(crate) fn part_and_meet(&mut self, now: u64, id: u64, address: &str) {
        self.dismiss(now, id);
        self.add_peer(id, Standing::Listed, Some(Dial::new(now, Addr::new(address))));
    }

    fn remove(&mut self, now: u64, id: u64) {
        let Some(mut peer) = self.peers.remove(id) else { return };
        for outputs in &mut self.outputs {
            outputs.retain(|output| match output {
                Output::Call(frame) | Output::Answer(frame) => frame.peer.id != id,
                Output::News(_) => true,
            });
        }
        self.controls.forget(id);
        peer.take_back();
        peer.report_unsent(&mut self.outputs);
        let last_words = peer.end(now);
        if let Some(link) = peer.link {
            self.links.remove(&link);
            self.parting.push((link, last_words));
        }
        while let Some(event) = peer.session.poll_event() {
            if let SessionEvent::Lost(lost) = event {
                peer.lose_calls(Loss::OwnerLost, &lost.not_sent, &mut self.outputs);
            }
        }
        peer.report_taken(&mut self.outputs);
        let links = self.links.iter().filter(|(_, whose)| **whose == id).map(|(link, _)| *link);
        for link in links.collect::<Vec<_>>() {
            self.links.remove(&link);
            self.commands.push_back(Command::Close(link));
        }
    }
}

/// How many removed nodes are remembered.
const REMOVED_MAX: usize = 1024;
