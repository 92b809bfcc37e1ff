//! Two sessions joined by queues that can lose everything, and the books of who sent and got what.

use std::collections::{BTreeMap, VecDeque};

use epicserver_transport::{BufferPool, Frame, FrameHeader, FrameKind};

use crate::key::{KeyKind, KeyView};
use crate::session::intern::{Handles, Target};
use crate::session::{LINK_RECEIVES, Session, SessionConfig, SessionEvent};
use crate::wire::assembly::assemble;
use crate::wire::extension::{Extension, TargetKey};
use crate::wire::handshake::{Handshake, HandshakeConfig};
use crate::wire::hello::{Agreement, ClusterSecret, Identity};

/// Two ends and the link between them.
pub(crate) struct Pair {
    pub(crate) now: u64,
    pub(crate) ends: [End; 2],
    /// Frames under way to each end.
    pub(crate) wires: [VecDeque<Frame>; 2],
    pub(crate) most_link_frames: usize,
    is_cut: bool,
    nonces: u8,
}

/// One process with its session, and what it knows happened.
pub(crate) struct End {
    pub(crate) session: Session,
    pub(crate) identity: Identity,
    pub(crate) config: SessionConfig,
    /// Calls that were taken and not released.
    pub(crate) unreleased: u32,
    pub(crate) unreleased_answers: u32,
    pub(crate) unreleased_controls: u32,
    /// Fate of every call this process queued, by its number.
    pub(crate) calls: BTreeMap<u32, Fate>,
    /// Calls that this process got, in order.
    pub(crate) got: Vec<u32>,
    pub(crate) got_answers: Vec<u32>,
    pub(crate) got_controls: Vec<u32>,
    pub(crate) events: Vec<String>,
    /// Calls that came with a handle alone.
    pub(crate) short_calls: u32,
    handles: Handles,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Queued,
    NotSent,
    Unknown,
    /// The process that queued it is gone.
    Orphan,
}

impl Pair {
    pub(crate) fn new(configs: [SessionConfig; 2]) -> Pair {
        let mut node = 0;
        let ends = configs.map(|config| {
            node += 1;
            End::new(config, Identity { node, incarnation: 1, core: 0 })
        });
        Pair { now: 0, ends, wires: Default::default(), most_link_frames: 0, is_cut: true, nonces: 0 }
    }

    /// Breaks the link: what is under way is lost, and what is sent from now on. The ends learn of it by `notice` or by the next link.
    pub(crate) fn cut(&mut self) {
        self.wires.iter_mut().for_each(VecDeque::clear);
        self.is_cut = true;
    }

    pub(crate) fn notice(&mut self, end: usize) {
        self.ends[end].session.handle_link_down(self.now);
        self.ends[end].drain();
    }

    /// A new link, dialled by this end.
    pub(crate) fn connect(&mut self, client: usize) {
        self.cut();
        self.is_cut = false;
        for end in [client, 1 - client] {
            self.nonces = self.nonces.wrapping_add(1);
            let nonce = [self.nonces; 32];
            let config = handshake_config(self.ends[end].identity);
            let handshake = if end == client {
                Handshake::client(self.now, &config, nonce, None)
            } else {
                Handshake::server(self.now, &config, nonce)
            };
            self.ends[end].session.handle_link_up(self.now, handshake);
            self.ends[end].drain();
        }
    }

    /// A new process in place of this end; its memory is gone.
    pub(crate) fn restart(&mut self, end: usize, is_new_incarnation: bool) {
        let old = &mut self.ends[end];
        old.drain();
        let mut identity = old.identity;
        identity.incarnation += u32::from(is_new_incarnation);
        let mut config = old.config;
        config.stream += 1000;
        let mut new = End::new(config, identity);
        new.calls = std::mem::take(&mut old.calls);
        new.calls.values_mut().filter(|fate| **fate == Fate::Queued).for_each(|fate| *fate = Fate::Orphan);
        // At most once holds over all lives of a process.
        new.got = std::mem::take(&mut old.got);
        new.got_answers = std::mem::take(&mut old.got_answers);
        new.got_controls = std::mem::take(&mut old.got_controls);
        *old = new;
        self.cut();
    }

    /// Moves at most this many frames from the session to the wire.
    pub(crate) fn transmit(&mut self, end: usize, frames_max: usize) -> usize {
        let mut moved = 0;
        while moved < frames_max {
            let Some(frame) = self.ends[end].session.poll_transmit(self.now) else { break };
            assert!(frame.len() <= self.ends[1 - end].config.fragment_len_max as usize);
            if !self.is_cut {
                self.wires[1 - end].push_back(frame);
            }
            moved += 1;
        }
        self.check_receives(1 - end);
        self.ends[end].drain();
        moved
    }

    /// Hands at most this many frames from the wire to the session.
    pub(crate) fn deliver(&mut self, end: usize, frames_max: usize) -> usize {
        let mut moved = 0;
        while moved < frames_max {
            let Some(frame) = self.wires[end].pop_front() else { break };
            self.ends[end].session.handle_frame(self.now, frame);
            self.ends[end].drain();
            moved += 1;
        }
        moved
    }

    pub(crate) fn advance(&mut self, by_ns: u64) {
        self.now += by_ns;
        for end in &mut self.ends {
            end.session.handle_timeout(self.now);
            end.drain();
        }
    }

    /// Runs without faults until nothing moves; releases what is taken.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut moved = 0;
            for end in 0..2 {
                moved += self.transmit(end, usize::MAX) + self.deliver(end, usize::MAX);
                moved += self.ends[end].release_all() as usize;
            }
            if moved == 0 {
                return;
            }
        }
        panic!("it never settles");
    }

    /// Everything under way to an end has room there, as if each frame took a posted receive.
    fn check_receives(&mut self, end: usize) {
        let config = &self.ends[end].config;
        let wire = &self.wires[end];
        let is_own = |frame: &&Frame| {
            let kind = FrameHeader::parse(frame).unwrap().kind();
            matches!(kind, FrameKind::Credit | FrameKind::Ping | FrameKind::Pong | FrameKind::Close)
                || matches!(kind, FrameKind::Hello | FrameKind::HelloReply | FrameKind::HelloProof)
        };
        let own = wire.iter().filter(is_own).count();
        self.most_link_frames = self.most_link_frames.max(own);
        assert!(own <= LINK_RECEIVES, "{own} frames of the session itself are under way");
        assert!(wire.len() <= config.receives_max(), "{} frames are under way", wire.len());
    }
}

impl End {
    pub(crate) fn new(config: SessionConfig, identity: Identity) -> End {
        Self::with_pool(config, identity, None)
    }

    pub(crate) fn with_pool(config: SessionConfig, identity: Identity, pool: Option<BufferPool>) -> End {
        End {
            session: Session::new(config, pool),
            identity,
            config,
            unreleased: 0,
            unreleased_answers: 0,
            unreleased_controls: 0,
            calls: BTreeMap::new(),
            got: Vec::new(),
            got_answers: Vec::new(),
            got_controls: Vec::new(),
            events: Vec::new(),
            short_calls: 0,
            handles: Handles::for_core(0, 1),
        }
    }

    /// Queues a frame with this number and payload length; false if the queue is full.
    pub(crate) fn queue(&mut self, now: u64, kind: FrameKind, number: u32, payload_len: usize) -> bool {
        let mut header = FrameHeader::new(kind);
        header.slot = number.into();
        let is_call = matches!(kind, FrameKind::Request | FrameKind::OneWay);
        let key = (number % 5).to_le_bytes();
        let target = TargetKey { entity: 7, key: KeyView { kind: KeyKind::Bytes, bytes: &key } };
        let mut extension = Extension { budget_us: Some(number), ..Extension::default() };
        let mut binds = None;
        if is_call {
            extension.key = Some(target);
            if let Some(handle) = self.handles.handle(target) {
                header.handle = handle.number.into();
                if handle.is_known {
                    extension.key = None;
                } else {
                    binds = Some(handle.number);
                }
            }
        }
        let frame = assemble(None, header, &extension, &pattern(number, payload_len)).unwrap();
        if self.session.queue(now, frame).is_err() {
            return false;
        }
        if let Some(handle) = binds {
            self.handles.mark_known(handle);
        }
        if is_call {
            self.calls.insert(number, Fate::Queued);
        }
        true
    }

    pub(crate) fn release_all(&mut self) -> u32 {
        let calls = std::mem::take(&mut self.unreleased);
        self.session.release_calls(calls);
        let answers = std::mem::take(&mut self.unreleased_answers);
        self.session.release_answers(answers);
        let controls = std::mem::take(&mut self.unreleased_controls);
        self.session.release_controls(controls);
        calls + answers + controls
    }

    pub(crate) fn drain(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                SessionEvent::Request(frame, target) | SessionEvent::OneWay(frame, target) => {
                    self.unreleased += 1;
                    assert!(self.unreleased <= self.config.window_calls);
                    let number = self.check_call(&frame, target.as_deref());
                    self.got.push(number);
                }
                SessionEvent::Cancel(frame) => {
                    self.unreleased += 1;
                    read(&frame);
                }
                SessionEvent::Control(frame) => {
                    self.unreleased_controls += 1;
                    assert!(self.unreleased_controls <= self.config.window_controls);
                    self.got_controls.push(read(&frame));
                }
                SessionEvent::Reply(frame)
                | SessionEvent::Error(frame)
                | SessionEvent::Moved(frame)
                | SessionEvent::Probe(frame) => {
                    self.unreleased_answers += 1;
                    assert!(self.unreleased_answers <= self.config.window_answers);
                    self.got_answers.push(read(&frame));
                }
                SessionEvent::Lost(lost) => {
                    self.events.push(format!(
                        "Lost {:?} {}+{}",
                        lost.reason,
                        lost.unknown.len(),
                        lost.not_sent.len()
                    ));
                    lost.unknown.iter().for_each(|frame| self.end_call(frame, Fate::Unknown));
                    lost.not_sent.iter().for_each(|frame| self.end_call(frame, Fate::NotSent));
                }
                SessionEvent::Up { peer, is_resumed } => {
                    self.events.push(format!("Up {}.{} {is_resumed}", peer.node, peer.incarnation));
                }
                SessionEvent::Down(reason) => self.events.push(format!("Down {reason:?}")),
            }
        }
    }

    fn end_call(&mut self, frame: &Frame, fate: Fate) {
        let old = self.calls.insert(read(frame), fate);
        assert_eq!(old, Some(Fate::Queued), "a call ends once");
    }

    /// The frame names the right object, in full or by its handle.
    fn check_call(&mut self, frame: &Frame, target: Option<&Target>) -> u32 {
        let number = read(frame);
        let header = FrameHeader::parse_frame(frame).unwrap();
        let extension = Extension::parse(FrameHeader::ext_bytes(frame).unwrap()).unwrap();
        assert_eq!(extension.key.is_none(), target.is_some(), "one of them names the object");
        self.short_calls += u32::from(target.is_some());
        assert!(target.is_none() || header.handle.get() != 0);
        let target = extension.key.or(target.map(Target::borrow)).expect("a bound handle");
        assert_eq!(target.key.bytes, (number % 5).to_le_bytes());
        number
    }
}

/// A frame that names its object in full.
pub(crate) fn whole(kind: FrameKind, number: u32, payload_len: usize) -> Frame {
    let mut header = FrameHeader::new(kind);
    header.slot = number.into();
    let key = (number % 5).to_le_bytes();
    let target = TargetKey { entity: 7, key: KeyView { kind: KeyKind::Bytes, bytes: &key } };
    let extension = Extension { budget_us: Some(number), key: Some(target), ..Extension::default() };
    assemble(None, header, &extension, &pattern(number, payload_len)).unwrap()
}

/// The number of a frame, once all of it is as it was made.
fn read(frame: &Frame) -> u32 {
    let header = FrameHeader::parse_frame(frame).unwrap();
    let number = header.slot.get();
    let payload = FrameHeader::payload_bytes(frame).unwrap();
    assert_eq!(payload, pattern(number, payload.len()));
    let extension = Extension::parse(FrameHeader::ext_bytes(frame).unwrap()).unwrap();
    assert_eq!(extension.budget_us, Some(number));
    number
}

fn pattern(number: u32, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number as usize * 31 + at * 7) as u8).collect()
}

pub(crate) fn handshake_config(identity: Identity) -> HandshakeConfig {
    HandshakeConfig {
        identity,
        agreement: Agreement { version: 1, fingerprint: 2, cluster: 3 },
        secret: ClusterSecret::new(&[4; 32]),
        timeout_ns: 3_000_000_000,
    }
}
