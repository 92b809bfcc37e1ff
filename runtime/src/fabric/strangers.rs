//! Links of which it is not known yet who is at the other end: those that were accepted, and those that were dialled to an
//! address alone.
//!
//! What a stranger costs is bounded: accepted links by [`STRANGERS_MAX`], dialled ones by [`SEEKS_MAX`], each by the few short
//! frames of a handshake and its deadline.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use epicserver_storage::NodeId;
use epicserver_transport::{Addr, Frame, LinkId};

use super::{Command, Dial, Fabric, Standing};
use crate::wire::handshake::{Handshake, HandshakeConfig, HelloError};
use crate::wire::hello::{CloseReason, Identity, NONCE_LEN, WHOLE_NODE};

/// Links without a known node, and the addresses that are dialled for the sake of whoever is there.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    links: BTreeMap<LinkId, Stranger>,
    seeks: BTreeMap<Addr, Seek>,
    /// Which address a link was dialled to.
    dialled: BTreeMap<LinkId, Addr>,
    nonces: u64,
    /// Links that turned out to lead from this node to itself, and whose dialling end has not noticed.
    self_links: u32,
}

#[derive(Debug)]
struct Stranger {
    handshake: Handshake,
    transmits: VecDeque<Frame>,
    has_dialled: bool,
    /// It was refused, and its link is being closed.
    is_over: bool,
}

#[derive(Debug)]
struct Seek {
    dial: Dial,
    /// Who was there.
    found: Option<u64>,
    /// Until when it is dialled while nobody is found there, unless it is sought again.
    until: u64,
}

impl Seek {
    /// Nobody is there any more: it is dialled again.
    fn lose(&mut self, now: u64, rng: &mut fastrand::Rng) {
        (self.found, self.until) = (None, now + SEEK_NS);
        self.dial.failed(now, rng);
    }
}

impl Strangers {
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let handshakes = self.links.values().filter_map(|stranger| stranger.handshake.poll_timeout());
        let dials = self.seeks.values().filter_map(|seek| seek.dial.poll_timeout());
        handshakes.chain(dials).min()
    }

    pub(super) fn transmit(&mut self, send: &mut impl FnMut(LinkId, &mut VecDeque<Frame>)) {
        for (link, stranger) in &mut self.links {
            if !stranger.transmits.is_empty() {
                send(*link, &mut stranger.transmits);
            }
        }
    }

    /// How many links there are of which it is not known whose they are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.links.len() + self.dialled.len()
    }

    /// Forgets every link; gives them, to be closed.
    pub(super) fn end(&mut self) -> impl Iterator<Item = LinkId> + use<> {
        let connecting = std::mem::take(&mut self.dialled).into_keys();
        let links = std::mem::take(&mut self.links).into_keys();
        connecting.chain(links).collect::<std::collections::BTreeSet<_>>().into_iter()
    }
}

impl Fabric {
    /// Looks for a node at this address, of which nothing else is known: dials until somebody is there, and again when
    /// that link is lost and nobody else dials it, for a minute each time. One of too many addresses takes the place of the one that nobody
    /// was found at for the longest; `false` if there is none.
    pub fn seek(&mut self, now: u64, addr: Addr) -> bool {
        let seeks = &mut self.strangers.seeks;
        if seeks.len() >= SEEKS_MAX && !seeks.contains_key(&addr) {
            let vain = seeks.iter().filter(|(_, seek)| seek.found.is_none());
            let Some((oldest, _)) = vain.min_by_key(|(_, seek)| seek.until) else { return false };
            let oldest = oldest.clone();
            seeks.remove(&oldest);
        }
        let dial = || Dial::new(now, addr.clone());
        let seek = seeks.entry(addr.clone()).or_insert_with(|| Seek { dial: dial(), found: None, until: 0 });
        seek.until = now + SEEK_NS;
        true
    }

    /// The addresses that are sought, and who was found there.
    pub fn sought(&self) -> impl Iterator<Item = (&Addr, Option<u64>)> {
        self.strangers.seeks.iter().map(|(addr, seek)| (addr, seek.found))
    }

    /// Takes the outcome of dialling an address.
    pub(super) fn handle_sought(&mut self, now: u64, addr: &Addr, outcome: io::Result<LinkId>) {
        match (self.strangers.seeks.get_mut(addr), outcome) {
            (Some(_), Ok(link)) => drop(self.strangers.dialled.insert(link, addr.clone())),
            (None, Ok(link)) => self.commands.push_back(Command::Close(link)),
            (None, Err(_)) => {}
            (Some(seek), Err(error)) => {
                tracing::warn!(%addr, %error, "a link cannot be started");
                seek.dial.failed(now, &mut self.rng);
            }
        }
    }

    pub(super) fn handle_strangers_timeout(&mut self, now: u64) {
        // Whoever wants an address seeks it again; a process that has ended is not dialled for ever.
        self.strangers.seeks.retain(|_, seek| seek.found.is_some() || now < seek.until);
        for (addr, seek) in &mut self.strangers.seeks {
            if seek.dial.is_due(now) {
                seek.dial.pause();
                self.commands.push_back(Command::Connect { peer: None, addr: addr.clone() });
            }
        }
        let is_late = |stranger: &Stranger| stranger.handshake.poll_timeout().is_some_and(|at| at <= now);
        let strangers = self.strangers.links.iter().filter(|(_, stranger)| is_late(stranger));
        for link in strangers.map(|(link, _)| *link).collect::<Vec<_>>() {
            if let Some(stranger) = self.strangers.links.get_mut(&link) {
                stranger.handshake.handle_timeout(now);
            }
            self.advance_stranger(now, link);
        }
    }

    /// Somebody dialled; who it is shows in the handshake.
    pub(super) fn greet(&mut self, now: u64, link: LinkId) {
        let accepted = self.strangers.links.values().filter(|stranger| !stranger.has_dialled).count();
        if accepted >= STRANGERS_MAX {
            return self.commands.push_back(Command::Close(link));
        }
        let nonce = self.nonce();
        let handshake = Handshake::server(now, &self.handshake_config(), nonce);
        self.strangers.links.insert(link, Stranger::new(handshake, false));
    }

    /// A link to a sought address works.
    pub(super) fn meet(&mut self, now: u64, link: LinkId) {
        if !self.strangers.dialled.contains_key(&link) {
            return self.commands.push_back(Command::Close(link));
        }
        let nonce = self.nonce();
        let handshake = Handshake::client(now, &self.handshake_config(), nonce, None);
        self.strangers.links.insert(link, Stranger::new(handshake, true));
        self.advance_stranger(now, link);
    }

    pub(super) fn receive_of_stranger(&mut self, now: u64, link: LinkId, frame: &Frame) {
        if let Some(stranger) = self.strangers.links.get_mut(&link) {
            stranger.handshake.handle_frame(now, frame);
            self.advance_stranger(now, link);
        }
    }

    /// The link is gone.
    pub(super) fn lose_stranger(&mut self, now: u64, link: LinkId) {
        self.strangers.links.remove(&link);
        if let Some(addr) = self.strangers.dialled.remove(&link)
            && let Some(seek) = self.strangers.seeks.get_mut(&addr)
        {
            seek.dial.failed(now, &mut self.rng);
        }
    }

    /// Dials the address again where this node was found, unless there is a link or another reason to dial it.
    pub(super) fn seek_again(&mut self, now: u64, id: u64) {
        let is_dialled = |id| {
            self.peers.get(id).is_some_and(|peer: &super::Peer| peer.link.is_some() || peer.dial.is_some())
        };
        for seek in self.strangers.seeks.values_mut() {
            if seek.found == Some(id) && !is_dialled(id) {
                seek.lose(now, &mut self.rng);
            }
        }
    }

    /// Somebody else answers where this node was found: a process that began there when that one had ended. Unless there is a link to it
    /// the address is dialled for the sake of whoever that is, beside the dialling of the one who was there.
    pub(super) fn seek_other(&mut self, now: u64, id: u64, there: u64) {
        if self.peers.get(there).is_some_and(|peer| peer.link.is_some()) {
            return;
        }
        for seek in self.strangers.seeks.values_mut().filter(|seek| seek.found == Some(id)) {
            seek.lose(now, &mut self.rng);
        }
    }

    /// Ends every link of a stranger, and dials all addresses anew.
    pub(super) fn restart_strangers(&mut self, now: u64) {
        self.commands.extend(self.strangers.end().map(Command::Close));
        self.strangers.seeks.values_mut().for_each(|seek| seek.lose(now, &mut self.rng));
    }

    fn advance_stranger(&mut self, now: u64, link: LinkId) {
        let Some(stranger) = self.strangers.links.get_mut(&link) else { return };
        while let Some(frame) = stranger.handshake.poll_transmit() {
            stranger.transmits.push_back(frame);
        }
        if let Some(identity) = stranger.handshake.proven() {
            return self.recognise(now, link, identity);
        }
        if let Some(Err(error)) = stranger.handshake.outcome()
            && !std::mem::replace(&mut stranger.is_over, true)
        {
            let has_dialled = stranger.has_dialled;
            // What is left to say stays until it is sent or the link is gone.
            self.commands.push_back(Command::Close(link));
            self.note_refusal(link, has_dialled, error);
        }
    }

    /// A stranger has proven who it is.
    fn recognise(&mut self, now: u64, link: LinkId, identity: Identity) {
        let Some(stranger) = self.strangers.links.remove(&link) else { return };
        let there = NodeId { id: identity.node, incarnation: identity.incarnation };
        let sought = self.strangers.dialled.remove(&link);
        if let Some(seek) = sought.and_then(|addr| self.strangers.seeks.get_mut(&addr)) {
            seek.found = Some(there.id);
            seek.dial.succeeded();
        }
        let is_welcome = match self.peers.get(there.id) {
            Some(peer) => {
                let is_older = match peer.standing {
                    Standing::Member(node) => there.incarnation < node.incarnation,
                    Standing::Listed | Standing::Guest => false,
                };
                let is_enough = peer.needs_no_link(self.config.me, Some(there), stranger.has_dialled);
                let terms = stranger.handshake.proven_terms();
                let is_stale = terms.is_some_and(|terms| peer.session.is_stale(there.incarnation, &terms));
                !is_older && !is_enough && !is_stale
            }
            None => self.take_guest(there),
        };
        if is_welcome {
            return self.give_link(now, there.id, link, stranger.handshake, stranger.has_dialled);
        }
        tracing::debug!(node = %there, "a link of a proven node is not needed");
        self.commands.push_back(Command::Close(link));
        self.seek_again(now, there.id);
    }

    fn note_refusal(&mut self, link: LinkId, has_dialled: bool, error: HelloError) {
        let strangers = &mut self.strangers;
        match error {
            HelloError::SelfLink { .. } => strangers.self_links += 1,
            HelloError::Refused { reason: CloseReason::Hello } if has_dialled && strangers.self_links > 0 => {
                strangers.self_links -= 1;
                if let Some(addr) = strangers.dialled.remove(&link) {
                    strangers.seeks.remove(&addr);
                    tracing::info!(%addr, "this is the address of this very node");
                }
                return;
            }
            _ => {}
        }
        tracing::warn!(%error, "a link was refused");
    }

    pub(super) fn handshake_config(&self) -> HandshakeConfig {
        let NodeId { id: node, incarnation } = self.config.me;
        HandshakeConfig {
            identity: Identity { node, incarnation, core: WHOLE_NODE },
            agreement: self.config.agreement,
            secret: self.config.secret.clone(),
            timeout_ns: HANDSHAKE_NS,
        }
    }

    /// Never the same twice, and no guide to the next one.
    pub(super) fn nonce(&mut self) -> [u8; NONCE_LEN] {
        self.strangers.nonces += 1;
        let material = [self.config.seed.to_le_bytes(), self.strangers.nonces.to_le_bytes()].concat();
        blake3::derive_key("epicserver link nonce, version 1", &material)
    }
}

impl Stranger {
    fn new(handshake: Handshake, has_dialled: bool) -> Self {
        Self { handshake, transmits: VecDeque::new(), has_dialled, is_over: false }
    }
}

/// Links that were accepted and are not proven yet, at most.
const STRANGERS_MAX: usize = 64;
/// Addresses that are sought, at most.
const SEEKS_MAX: usize = 64;
/// How long an address is dialled where nobody is found, in nanoseconds.
const SEEK_NS: u64 = 60_000_000_000;
/// How long a handshake may take, in nanoseconds.
const HANDSHAKE_NS: u64 = 3_000_000_000;
