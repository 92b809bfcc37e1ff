//! What the frames of the hello say, as bytes, and the proof of the cluster secret.
//!
//! ```text
//! client                                              server
//!   Hello       facts, nonce                    ->
//!                                               <-    HelloReply  facts, nonce, mac
//!   HelloProof  terms, mac                      ->
//!                                               <-    HelloProof  terms, mac
//! ```
//! Every mac is a keyed BLAKE3 over a tag for its sender and everything said so far, so that no frame serves in another
//! session, for another role, or with one byte changed. Terms (counts, windows) are said only to a proven peer: what was
//! received on an older link is final only once that link is given up, and only a proven peer may cause that.
//!
//! It is not the order of the frames and what to do with a wrong one: that is [`handshake`](crate::wire::handshake).

use epicserver_transport::{Frame, FrameHeader, FrameKind};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::assembly::assemble_bare;

/// Which process, and which part of it, speaks on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Random id of the node.
    pub node: u64,
    /// Which life of the node.
    pub incarnation: u32,
    /// The core whose link it is; [`WHOLE_NODE`] for a link of all cores.
    pub core: u8,
}

/// What both ends of a link must have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Version of this protocol.
    pub version: u16,
    /// Fingerprint of payload format and hashes.
    pub fingerprint: u64,
    /// The cluster.
    pub cluster: u128,
}

/// Who dialled. It is part of every proof, so that nothing a node said can be told back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that opened the link.
    Client,
    /// The end that accepted it.
    Server,
}

/// What one end tells the other about a link session, once it knows whom it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Names the sender's side of all sessions with this peer; a new one means that it remembers nothing.
    pub stream: u64,
    /// When the sender said this, in nanoseconds of its own clock: what it says to a peer in one life is later each time. A link that it
    /// gave up long ago may still bring its terms, after those of a newer one.
    pub said_at: u64,
    /// How many of the sender's calls the peer had counted when it last said so: an end that does not know `stream`
    /// starts its count here.
    pub base: u64,
    /// What the sender received from the peer before.
    pub known: Option<KnownStream>,
    /// Frames of calls that the sender has room for altogether.
    pub window_calls: u32,
    /// Of these, how many may come now; the rest is still held from before.
    pub granted_calls: u32,
    /// Frames of answers that the sender has room for altogether.
    pub window_answers: u32,
    /// Of these, how many may come now.
    pub granted_answers: u32,
    /// Control frames that the sender has room for altogether.
    pub window_controls: u32,
    /// Of these, how many may come now.
    pub granted_controls: u32,
    /// Longest frame the sender receives, in bytes.
    pub frame_len_max: u32,
    /// Longest fragment the sender receives, in bytes.
    pub fragment_len_max: u32,
}

/// How much of a peer's stream was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownStream {
    /// The peer's stream.
    pub stream: u64,
    /// The count of calls received in it.
    pub received: u64,
}

/// The secret that all nodes of a cluster share. It is printed nowhere.
#[derive(Clone)]
pub struct ClusterSecret {
    key: [u8; 32],
}

impl ClusterSecret {
    /// The secret made of these bytes. Only a key derived from them, for this one purpose, is kept.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { key: blake3::derive_key("epicserver link hello, keyed mac, version 1", secret) }
    }

    /// The proof of knowing the secret, by who the tag says, for everything said so far.
    pub(crate) fn mac(&self, tag: MacTag, transcript: &[u8]) -> [u8; MAC_LEN] {
        self.hash(tag, transcript).into()
    }

    /// Whether `mac` is that proof; takes the same time wherever they differ.
    pub(crate) fn is_mac(&self, tag: MacTag, transcript: &[u8], mac: &[u8; MAC_LEN]) -> bool {
        // `blake3::Hash` compares in constant time.
        self.hash(tag, transcript) == blake3::Hash::from_bytes(*mac)
    }

    fn hash(&self, tag: MacTag, transcript: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[tag as u8]).update(transcript);
        hasher.finalize()
    }
}

impl std::fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

/// Whose proof a mac is, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum MacTag {
    ServerFacts = 1,
    ClientTerms = 2,
    ServerTerms = 3,
}

/// Why a link was refused or ended, as the ending side told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CloseReason {
    /// The node stops, or needs the link no more.
    Done = 1,
    /// The protocol versions differ.
    Version = 2,
    /// The fingerprints differ.
    Fingerprint = 3,
    /// The clusters differ.
    Cluster = 4,
    /// The proof was wrong.
    Secret = 5,
    /// Something else in the hello was wrong.
    Hello = 6,
    /// A rule of the session was broken, or a deadline passed.
    Session = 7,
}

/// The facts in a Hello and in a HelloReply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct FactsBytes {
    pub(crate) opening: OpeningBytes,
    pub(crate) role: u8,
    pub(crate) core: u8,
    pub(crate) fingerprint: U64,
    pub(crate) cluster: U128,
    pub(crate) node: U64,
    pub(crate) incarnation: U32,
    pub(crate) zero: U32,
    pub(crate) nonce: [u8; NONCE_LEN],
}

/// The start of the facts: the part that every version of the protocol can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct OpeningBytes {
    pub(crate) magic: U32,
    pub(crate) version: U16,
}

/// [`Terms`] as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct TermsBytes {
    stream: U64,
    said_at: U64,
    base: U64,
    known_stream: U64,
    known_received: U64,
    is_known: U32,
    window_calls: U32,
    granted_calls: U32,
    window_answers: U32,
    granted_answers: U32,
    window_controls: U32,
    granted_controls: U32,
    frame_len_max: U32,
    fragment_len_max: U32,
    zero: U32,
}

/// The payload of a Close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct CloseBytes {
    pub(crate) reason: u8,
    pub(crate) zero: u8,
    pub(crate) opening: OpeningBytes,
    pub(crate) fingerprint: U64,
    pub(crate) cluster: U128,
}

impl FactsBytes {
    pub(crate) fn new(
        role: Role,
        agreement: &Agreement,
        identity: &Identity,
        nonce: [u8; NONCE_LEN],
    ) -> FactsBytes {
        FactsBytes {
            opening: OpeningBytes::new(agreement),
            role: role.number(),
            core: identity.core,
            fingerprint: agreement.fingerprint.into(),
            cluster: agreement.cluster.into(),
            node: identity.node.into(),
            incarnation: identity.incarnation.into(),
            zero: U32::ZERO,
            nonce,
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity { node: self.node.get(), incarnation: self.incarnation.get(), core: self.core }
    }
}

impl OpeningBytes {
    fn new(agreement: &Agreement) -> OpeningBytes {
        OpeningBytes { magic: MAGIC.into(), version: agreement.version.into() }
    }
}

impl Role {
    pub(crate) fn number(self) -> u8 {
        match self {
            Role::Client => 1,
            Role::Server => 2,
        }
    }
}

impl From<&Terms> for TermsBytes {
    fn from(terms: &Terms) -> TermsBytes {
        let known = terms.known.unwrap_or(KnownStream { stream: 0, received: 0 });
        TermsBytes {
            stream: terms.stream.into(),
            said_at: terms.said_at.into(),
            base: terms.base.into(),
            known_stream: known.stream.into(),
            known_received: known.received.into(),
            is_known: u32::from(terms.known.is_some()).into(),
            window_calls: terms.window_calls.into(),
            granted_calls: terms.granted_calls.into(),
            window_answers: terms.window_answers.into(),
            granted_answers: terms.granted_answers.into(),
            window_controls: terms.window_controls.into(),
            granted_controls: terms.granted_controls.into(),
            frame_len_max: terms.frame_len_max.into(),
            fragment_len_max: terms.fragment_len_max.into(),
            zero: U32::ZERO,
        }
    }
}

impl TermsBytes {
    pub(crate) fn terms(&self) -> Terms {
        let known = KnownStream { stream: self.known_stream.get(), received: self.known_received.get() };
        Terms {
            stream: self.stream.get(),
            said_at: self.said_at.get(),
            base: self.base.get(),
            known: (self.is_known.get() != 0).then_some(known),
            window_calls: self.window_calls.get(),
            granted_calls: self.granted_calls.get(),
            window_answers: self.window_answers.get(),
            granted_answers: self.granted_answers.get(),
            window_controls: self.window_controls.get(),
            granted_controls: self.granted_controls.get(),
            frame_len_max: self.frame_len_max.get(),
            fragment_len_max: self.fragment_len_max.get(),
        }
    }
}

/// The frame that ends a link, with the reason and what this side stands for.
pub(crate) fn close_frame(reason: CloseReason, agreement: &Agreement) -> Frame {
    let body = CloseBytes {
        reason: reason as u8,
        zero: 0,
        opening: OpeningBytes::new(agreement),
        fingerprint: agreement.fingerprint.into(),
        cluster: agreement.cluster.into(),
    };
    assemble_bare(None, FrameHeader::new(FrameKind::Close), body.as_bytes())
}

impl CloseReason {
    /// The reason with this number on the wire. An unknown one comes from a newer peer and reads as the most general.
    pub(crate) fn from_u8(number: u8) -> CloseReason {
        use CloseReason::*;
        let known = [Done, Version, Fingerprint, Cluster, Secret, Hello, Session];
        known.into_iter().find(|reason| *reason as u8 == number).unwrap_or(Session)
    }
}

/// The version of the protocol that this code speaks: header, extension, hello, session.
pub const PROTOCOL_VERSION: u16 = 3;
/// [`Identity::core`] of a link that serves all cores of a node.
pub const WHOLE_NODE: u8 = u8::MAX;
/// Length of a nonce in bytes.
pub const NONCE_LEN: usize = 32;
/// Longest frame that is looked at before the peer has proven the secret, in bytes.
pub const HELLO_FRAME_LEN_MAX: usize = 256;

pub(crate) const MAC_LEN: usize = 32;
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"epic");

const _: () = assert!(size_of::<FactsBytes>() == 80 && size_of::<TermsBytes>() == 80);
const _: () = assert!(size_of::<CloseBytes>() == 32);
