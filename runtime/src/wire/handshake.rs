//! The handshake: two ends of a new link prove the cluster secret to each other and exchange their terms.
//!
//! ```text
//! handle_frame, handle_timeout -> Handshake -> poll_transmit, poll_timeout
//!      client: Hello sent, await reply -> proven -- offer(terms) --> await terms -> established
//!      server: await hello -> await proof -> proven -- offer(terms) --> established
//! ```
//! It is a state machine without IO or clock, and decodes nothing but fixed layouts. It takes at most two frames of at
//! most [`HELLO_FRAME_LEN_MAX`] bytes; any other frame ends it. It is not the session: see
//! [`session`](crate::session). Start with [`Handshake::client`]; the frames are in [`hello`](crate::wire::hello).

use std::collections::VecDeque;

use epicserver_transport::{Frame, FrameHeader, FrameKind};
use zerocopy::{FromBytes, IntoBytes};

use crate::wire::assembly::assemble_bare;
use crate::wire::hello::{
    Agreement, CloseBytes, CloseReason, ClusterSecret, FactsBytes, HELLO_FRAME_LEN_MAX, Identity, MAC_LEN,
    MAGIC, MacTag, NONCE_LEN, OpeningBytes, Role, Terms, TermsBytes, close_frame,
};

/// One end of a link that is being opened.
///
/// Feed it with `handle_frame` and `handle_timeout`; after each, send what `poll_transmit` gives. When
/// [`Handshake::proven`] names the peer, answer with [`Handshake::offer`]; when [`Handshake::outcome`] is there, it is
/// over: after an error, send what is left and close the link.
#[derive(Debug)]
pub struct Handshake {
    config: HandshakeConfig,
    role: Role,
    nonce: [u8; NONCE_LEN],
    expected_node: Option<u64>,
    state: State,
    deadline: u64,
    /// Facts of both and terms of both, in the order they were said.
    transcript: Vec<u8>,
    transmits: VecDeque<Frame>,
}

/// What a node brings into every handshake.
#[derive(Clone, Debug)]
pub struct HandshakeConfig {
    /// Who this end is.
    pub identity: Identity,
    /// What the peer must have in common with it.
    pub agreement: Agreement,
    /// What the peer must prove to know.
    pub secret: ClusterSecret,
    /// How long the handshake may take, in nanoseconds.
    pub timeout_ns: u64,
}

/// The result of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    /// Who the peer is.
    pub peer: Identity,
    /// What this end offered.
    pub own: Terms,
    /// What the peer offered.
    pub theirs: Terms,
}

/// Why a link was not opened. Nothing was received on it and nothing sent that is not public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The protocol versions differ.
    #[error("protocol version {here} here, {there} there")]
    Version {
        /// This end's.
        here: u16,
        /// The peer's.
        there: u16,
    },
    /// Format or hashes differ: the nodes were built from different code.
    #[error("format fingerprint {here:016x} here, {there:016x} there")]
    Fingerprint {
        /// This end's.
        here: u64,
        /// The peer's.
        there: u64,
    },
    /// The peer belongs to another cluster.
    #[error("cluster {here:032x} here, {there:032x} there")]
    Cluster {
        /// This end's.
        here: u128,
        /// The peer's.
        there: u128,
    },
    /// The peer's proof is not made with the cluster secret for this very link.
    #[error("node {:016x} did not prove the cluster secret", .peer.node)]
    Secret {
        /// Who it said it is.
        peer: Identity,
    },
    /// The peer told this end's own words back to it.
    #[error("the hello came back reflected")]
    Reflected,
    /// The peer is this very process.
    #[error("node {:016x} reached itself", .here.node)]
    SelfLink {
        /// This end.
        here: Identity,
    },
    /// Another node answers at the address that was dialled.
    #[error("dialled node {expected:016x}, found node {there:016x}")]
    OtherNode {
        /// Who was dialled.
        expected: u64,
        /// Who answered.
        there: u64,
    },
    /// The first bytes are not ours: something else listens or dials there.
    #[error("the peer does not speak this protocol")]
    NotOurs,
    /// A frame of the hello has another length than its layout, or a field outside its range.
    #[error("a {kind:?} frame of the handshake is malformed")]
    Malformed {
        /// Its kind.
        kind: FrameKind,
    },
    /// A frame that does not belong here.
    #[error("a {found:?} frame came in the handshake")]
    Unexpected {
        /// Its kind.
        found: FrameKind,
    },
    /// Bytes that are no frame of a handshake at all.
    #[error("{len} bytes came in the handshake that are no frame of it")]
    NotAFrame {
        /// How many there were.
        len: usize,
    },
    /// The peer refused this end.
    #[error("the peer refused the link: {reason:?}")]
    Refused {
        /// What it said.
        reason: CloseReason,
    },
    /// It took too long.
    #[error("the handshake took longer than {timeout_ms} ms")]
    Deadline {
        /// The limit.
        timeout_ms: u64,
    },
}

impl Handshake {
    /// The end that dialled. `nonce` must be random and never used before. With `expected_node` any other node is
    /// refused, whatever it proves.
    pub fn client(
        now: u64,
        config: &HandshakeConfig,
        nonce: [u8; NONCE_LEN],
        expected_node: Option<u64>,
    ) -> Self {
        let mut handshake = Self::new(now, config, Role::Client, nonce, expected_node);
        let facts = handshake.facts();
        handshake.transcript.extend(facts.as_bytes());
        handshake.transmit(FrameKind::Hello, facts.as_bytes(), None);
        handshake
    }

    /// The end that accepted. `nonce` must be random and never used before.
    pub fn server(now: u64, config: &HandshakeConfig, nonce: [u8; NONCE_LEN]) -> Self {
        Self::new(now, config, Role::Server, nonce, None)
    }

    /// Takes the next frame of the link. After an outcome it does nothing.
    pub fn handle_frame(&mut self, now: u64, frame: &Frame) {
        self.handle_timeout(now);
        if self.is_over() {
            return;
        }
        if let Err(error) = self.advance(frame) {
            self.fail(error);
        }
    }

    /// Ends the handshake if its deadline has passed.
    pub fn handle_timeout(&mut self, now: u64) {
        if !self.is_over() && now >= self.deadline {
            self.fail(HelloError::Deadline { timeout_ms: self.config.timeout_ns / 1_000_000 });
        }
    }

    /// Takes the terms for a proven peer.
    ///
    /// # Panics
    /// If there is no proven peer that waits for terms: a bug of the caller.
    pub fn offer(&mut self, own: Terms) {
        let State::Proven { peer, theirs } = self.state else {
            panic!("terms for a peer that is not proven: {:?}", self.state);
        };
        let body = TermsBytes::from(&own);
        self.transcript.extend(body.as_bytes());
        let tag = match self.role {
            Role::Client => MacTag::ClientTerms,
            Role::Server => MacTag::ServerTerms,
        };
        let mac = self.config.secret.mac(tag, &self.transcript);
        self.transmit(FrameKind::HelloProof, body.as_bytes(), Some(&mac));
        self.state = match theirs {
            None => State::AwaitTerms { peer, own },
            Some(theirs) => State::Over(Ok(Established { peer, own, theirs })),
        };
    }

    /// The peer, once it has proven the secret and until terms are offered.
    pub fn proven(&self) -> Option<Identity> {
        match self.state {
            State::Proven { peer, .. } => Some(peer),
            _ => None,
        }
    }

    /// What that peer has said of its terms: nothing before this end's own, if this end dialled.
    pub fn proven_terms(&self) -> Option<Terms> {
        match self.state {
            State::Proven { theirs, .. } => theirs,
            _ => None,
        }
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<Result<Established, HelloError>> {
        match self.state {
            State::Over(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Frame> {
        self.transmits.pop_front()
    }

    /// When to call `handle_timeout`; `None` once it is over.
    pub fn poll_timeout(&self) -> Option<u64> {
        (!self.is_over()).then_some(self.deadline)
    }

    /// What this end has in common with its peers.
    pub(crate) fn agreement(&self) -> &Agreement {
        &self.config.agreement
    }

    fn new(
        now: u64,
        config: &HandshakeConfig,
        role: Role,
        nonce: [u8; NONCE_LEN],
        expected_node: Option<u64>,
    ) -> Self {
        let state = match role {
            Role::Client => State::AwaitReply,
            Role::Server => State::AwaitHello,
        };
        let deadline = now.saturating_add(config.timeout_ns);
        let (transcript, transmits) = (Vec::new(), VecDeque::new());
        let config = config.clone();
        Self { config, role, nonce, expected_node, state, deadline, transcript, transmits }
    }

    fn advance(&mut self, frame: &Frame) -> Result<(), HelloError> {
        let not_a_frame = HelloError::NotAFrame { len: frame.len() };
        if frame.len() > HELLO_FRAME_LEN_MAX {
            return Err(not_a_frame);
        }
        let header = FrameHeader::parse_frame(frame).map_err(|_| not_a_frame)?;
        let kind = header.kind();
        let payload = FrameHeader::payload_bytes(frame).ok_or(not_a_frame)?;
        match (self.state, kind) {
            (_, FrameKind::Close) => Err(self.refused(payload)),
            (State::AwaitHello, FrameKind::Hello) => self.on_hello(payload),
            (State::AwaitReply, FrameKind::HelloReply) => self.on_reply(payload),
            (State::AwaitProof { peer }, FrameKind::HelloProof) => {
                let theirs = self.check_terms(MacTag::ClientTerms, peer, payload)?;
                self.state = State::Proven { peer, theirs: Some(theirs) };
                Ok(())
            }
            (State::AwaitTerms { peer, own }, FrameKind::HelloProof) => {
                let theirs = self.check_terms(MacTag::ServerTerms, peer, payload)?;
                self.state = State::Over(Ok(Established { peer, own, theirs }));
                Ok(())
            }
            (_, found) => Err(HelloError::Unexpected { found }),
        }
    }

    fn on_hello(&mut self, payload: &[u8]) -> Result<(), HelloError> {
        let (facts, rest) = self.check_facts(FrameKind::Hello, Role::Client, payload)?;
        if !rest.is_empty() {
            return Err(HelloError::Malformed { kind: FrameKind::Hello });
        }
        let own = self.facts();
        self.transcript.extend(facts.as_bytes());
        self.transcript.extend(own.as_bytes());
        let mac = self.config.secret.mac(MacTag::ServerFacts, &self.transcript);
        self.transmit(FrameKind::HelloReply, own.as_bytes(), Some(&mac));
        self.state = State::AwaitProof { peer: facts.identity() };
        Ok(())
    }

    fn on_reply(&mut self, payload: &[u8]) -> Result<(), HelloError> {
        let malformed = HelloError::Malformed { kind: FrameKind::HelloReply };
        let (facts, rest) = self.check_facts(FrameKind::HelloReply, Role::Server, payload)?;
        let mac = <&[u8; MAC_LEN]>::try_from(rest).map_err(|_| malformed)?;
        let peer = facts.identity();
        self.transcript.extend(facts.as_bytes());
        if !self.config.secret.is_mac(MacTag::ServerFacts, &self.transcript, mac) {
            return Err(HelloError::Secret { peer });
        }
        match self.expected_node {
            Some(expected) if expected != peer.node => {
                Err(HelloError::OtherNode { expected, there: peer.node })
            }
            _ => {
                self.state = State::Proven { peer, theirs: None };
                Ok(())
            }
        }
    }

    /// The facts at the front of `payload`, if they are what a peer of this role may say, and what follows them.
    fn check_facts<'a>(
        &self,
        kind: FrameKind,
        role: Role,
        payload: &'a [u8],
    ) -> Result<(FactsBytes, &'a [u8]), HelloError> {
        let (opening, _) = OpeningBytes::read_from_prefix(payload).map_err(|_| HelloError::NotOurs)?;
        if opening.magic.get() != MAGIC {
            return Err(HelloError::NotOurs);
        }
        let here = &self.config.agreement;
        if opening.version.get() != here.version {
            return Err(HelloError::Version { here: here.version, there: opening.version.get() });
        }
        let (facts, rest) =
            FactsBytes::read_from_prefix(payload).map_err(|_| HelloError::Malformed { kind })?;
        if facts.fingerprint.get() != here.fingerprint {
            return Err(HelloError::Fingerprint { here: here.fingerprint, there: facts.fingerprint.get() });
        }
        if facts.cluster.get() != here.cluster {
            return Err(HelloError::Cluster { here: here.cluster, there: facts.cluster.get() });
        }
        if facts.nonce == self.nonce || facts.role == self.role.number() {
            return Err(HelloError::Reflected);
        }
        if facts.role != role.number() || facts.zero.get() != 0 {
            return Err(HelloError::Malformed { kind });
        }
        let (own, peer) = (&self.config.identity, facts.identity());
        if (own.node, own.incarnation) == (peer.node, peer.incarnation) {
            return Err(HelloError::SelfLink { here: *own });
        }
        Ok((facts, rest))
    }

    fn check_terms(&mut self, tag: MacTag, peer: Identity, payload: &[u8]) -> Result<Terms, HelloError> {
        let malformed = HelloError::Malformed { kind: FrameKind::HelloProof };
        let (body, rest) = TermsBytes::read_from_prefix(payload).map_err(|_| malformed)?;
        let mac = <&[u8; MAC_LEN]>::try_from(rest).map_err(|_| malformed)?;
        self.transcript.extend(body.as_bytes());
        if self.config.secret.is_mac(tag, &self.transcript, mac) {
            Ok(body.terms())
        } else {
            Err(HelloError::Secret { peer })
        }
    }

    /// What a peer's refusal means: it says what the peer stands for, so that the error can name both sides.
    fn refused(&self, payload: &[u8]) -> HelloError {
        let Ok(body) = CloseBytes::read_from_bytes(payload) else {
            return HelloError::Malformed { kind: FrameKind::Close };
        };
        let here = &self.config.agreement;
        match CloseReason::from_u8(body.reason) {
            CloseReason::Version => {
                HelloError::Version { here: here.version, there: body.opening.version.get() }
            }
            CloseReason::Fingerprint => {
                HelloError::Fingerprint { here: here.fingerprint, there: body.fingerprint.get() }
            }
            CloseReason::Cluster => HelloError::Cluster { here: here.cluster, there: body.cluster.get() },
            reason => HelloError::Refused { reason },
        }
    }

    fn fail(&mut self, error: HelloError) {
        let reason = match error {
            HelloError::Version { .. } => Some(CloseReason::Version),
            HelloError::Fingerprint { .. } => Some(CloseReason::Fingerprint),
            HelloError::Cluster { .. } => Some(CloseReason::Cluster),
            HelloError::Secret { .. } => Some(CloseReason::Secret),
            // To who does not speak the protocol, or has left, there is nothing to say.
            HelloError::NotOurs | HelloError::NotAFrame { .. } | HelloError::Refused { .. } => None,
            _ => Some(CloseReason::Hello),
        };
        self.transmits.clear();
        self.transmits.extend(reason.map(|reason| close_frame(reason, &self.config.agreement)));
        self.state = State::Over(Err(error));
    }

    fn transmit(&mut self, kind: FrameKind, body: &[u8], mac: Option<&[u8; MAC_LEN]>) {
        let mut payload = body.to_vec();
        payload.extend(mac.into_iter().flatten());
        self.transmits.push_back(assemble_bare(None, FrameHeader::new(kind), &payload));
    }

    fn facts(&self) -> FactsBytes {
        FactsBytes::new(self.role, &self.config.agreement, &self.config.identity, self.nonce)
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Over(_))
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    AwaitHello,
    AwaitReply,
    AwaitProof {
        peer: Identity,
    },
    /// `theirs` is there if the peer had to offer first.
    Proven {
        peer: Identity,
        theirs: Option<Terms>,
    },
    AwaitTerms {
        peer: Identity,
        own: Terms,
    },
    Over(Result<Established, HelloError>),
}

#[cfg(test)]
mod tests;
