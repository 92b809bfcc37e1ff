//! Fuzz targets as plain functions: they take any bytes and panic if an invariant breaks. A fuzzer calls them, and so do
//! the tests of this crate, with the corpus in `fuzz/corpus` and a seeded generator.
//!
//! The bytes of [`fuzz_hello`] and [`fuzz_session`] are little programs that a stranger and a proven peer run against
//! us; see `Program`.

use epicserver_transport::{FRAME_ALIGN, Frame, FrameHeader, FrameKind, HEADER_LEN};
use zerocopy::IntoBytes;

use crate::session::{Session, SessionConfig, SessionEvent};
use crate::wire::assembly::assemble_bare;
use crate::wire::control::parts::read_saves;
use crate::wire::control::{ControlError, ControlMessage};
use crate::wire::extension::{EXTENSION_LEN_MAX, Extension};
use crate::wire::handshake::{Handshake, HandshakeConfig};
use crate::wire::hello::{Agreement, ClusterSecret, HELLO_FRAME_LEN_MAX, Identity, Terms};
use crate::wire::probe::{HOPS_MAX, PROBE_LEN_MAX, ProbeWord};

/// Parses any bytes as an extension block. Checked: what is accepted has exactly this one spelling.
pub fn fuzz_extension(input: &[u8]) {
    let Ok(extension) = Extension::parse(input) else { return };
    assert!(input.len() <= EXTENSION_LEN_MAX);
    assert_eq!(extension.encoded_len(), input.len());
    let mut again = Vec::new();
    assert_eq!(extension.append(&mut again), Ok(input.len()));
    assert_eq!(again, input, "two spellings of one value");
}

/// Parses any bytes as the payload of a probe. Checked: what is accepted is bounded and has exactly this one spelling.
pub fn fuzz_probe(input: &[u8]) {
    let Ok(word) = ProbeWord::parse(input) else { return };
    assert!(input.len() <= PROBE_LEN_MAX && word.hops < HOPS_MAX);
    assert_eq!(word.to_bytes(), input, "two spellings of one value");
}

/// Reads any bytes as a control message, and as a stream of saves. Checked: what is accepted has exactly this one
/// spelling.
pub fn fuzz_control(input: &[u8]) {
    if let Ok(message) = ControlMessage::decode(input) {
        assert_eq!(message.encode().as_deref(), Ok(input), "two spellings of one message");
    }
    let mut len = 0;
    let read = read_saves(input, |key, envelope| {
        len += SAVE_FRAME_LEN + key.bytes.len() + envelope.len();
        Ok::<_, ControlError>(())
    });
    assert!(read.is_err() || len == input.len(), "a stream of {} bytes gave {len}", input.len());
}

/// Runs a stranger's program against one end of a handshake whose other end is genuine.
///
/// The first byte chooses our role; then each instruction lets the genuine end speak, changes a byte of what it says, or
/// says something else. Checked: nothing is established but what the genuine end said, what we say stays short, and
/// once it is over it stays over.
pub fn fuzz_hello(input: &[u8]) {
    let mut program = Program { rest: input };
    let (mut ours, mut genuine) = if program.byte().is_multiple_of(2) {
        (Handshake::server(0, &config(1), [1; 32]), Handshake::client(0, &config(2), [2; 32], None))
    } else {
        (Handshake::client(0, &config(1), [1; 32], None), Handshake::server(0, &config(2), [2; 32]))
    };
    let mut said = 0;
    while !program.rest.is_empty() {
        let frame = match program.byte() % 4 {
            0 => genuine.poll_transmit(),
            1 => genuine.poll_transmit().map(|frame| program.change(&frame)),
            2 => Some(program.frame()),
            _ => Some(Frame::copy_from(program.bytes())),
        };
        let was_over = ours.outcome();
        if let Some(frame) = frame {
            ours.handle_frame(1, &frame);
        }
        assert!(was_over.is_none() || ours.outcome() == was_over, "an outcome changed");
        for end in [&mut ours, &mut genuine] {
            if end.proven().is_some() {
                end.offer(terms(5));
            }
        }
        while let Some(frame) = ours.poll_transmit() {
            said += 1;
            assert!(frame.len() <= HELLO_FRAME_LEN_MAX && said <= 3);
            genuine.handle_frame(1, &frame);
        }
    }
    if let Some(Ok(established)) = ours.outcome() {
        assert_eq!(established.peer, config(2).identity);
        assert_eq!(established.theirs, terms(5));
    }
}

/// Runs a proven peer's program against a session: its frames, our traffic, time. Checked: bounds of what is held, that
/// what we send are frames within our credits, and that after the end of the link there is silence.
pub fn fuzz_session(input: &[u8]) {
    let mut program = Program { rest: input };
    let mut run = SessionRun::new();
    while !program.rest.is_empty() {
        run.step(&mut program);
        run.check();
    }
}

struct SessionRun {
    session: Session,
    now: u64,
    unreleased: [u32; 3],
    queued: usize,
    ended: usize,
    /// Frames of calls, answers and control that left, and how many the peer allowed at most.
    sent: [u64; 3],
    allowed: [u64; 3],
}

impl SessionRun {
    fn new() -> Self {
        let mut config_of_session = SessionConfig::new(1, 256);
        config_of_session.window_calls = WINDOW;
        config_of_session.window_answers = WINDOW;
        config_of_session.window_controls = WINDOW;
        config_of_session.queue_calls_max = QUEUE_MAX;
        config_of_session.queue_answers_max = QUEUE_MAX;
        config_of_session.queue_controls_max = QUEUE_MAX;
        config_of_session.payload_len_max = 2_000;
        let mut session = Session::new(config_of_session, None);
        let mut peer = Handshake::client(0, &config(2), [2; 32], None);
        session.handle_link_up(0, Handshake::server(0, &config(1), [1; 32]));
        while !session.is_up() {
            let from_peer = peer.poll_transmit().expect("a handshake of two honest ends goes on");
            session.handle_frame(0, from_peer);
            if let Some(frame) = session.poll_transmit(0) {
                peer.handle_frame(0, &frame);
            }
            if peer.proven().is_some() {
                peer.offer(terms(5));
            }
        }
        while session.poll_transmit(0).is_some() {}
        let allowed = [u64::from(WINDOW); 3];
        Self { session, now: 0, unreleased: [0; 3], queued: 0, ended: 0, sent: [0; 3], allowed }
    }

    fn step(&mut self, program: &mut Program<'_>) {
        match program.byte() % 10 {
            0 => self.session.handle_frame(self.now, program.frame()),
            1 => self.session.handle_frame(self.now, program.status(&mut self.allowed)),
            2 => self.session.handle_frame(self.now, program.fragment()),
            3 => self.session.handle_frame(self.now, Frame::copy_from(program.bytes())),
            4 => {
                let [kind, len] = [program.byte(), program.byte()];
                let kind = FrameKind::ALL[usize::from(kind) % FrameKind::ALL.len()];
                let frame = assemble_bare(None, FrameHeader::new(kind), &vec![0; usize::from(len) * 4]);
                self.queued += usize::from(self.session.queue(self.now, frame).is_ok());
            }
            5 => {
                self.now += u64::from(program.byte()) * 100_000_000;
                self.session.handle_timeout(self.now);
            }
            6 => {
                self.session.release_calls(std::mem::take(&mut self.unreleased[0]));
                self.session.release_answers(std::mem::take(&mut self.unreleased[1]));
                self.session.release_controls(std::mem::take(&mut self.unreleased[2]));
            }
            7 => self.session.handle_link_down(self.now),
            _ => self.transmit(),
        }
        self.drain();
    }

    fn transmit(&mut self) {
        let mut frames = 0;
        while let Some(frame) = self.session.poll_transmit(self.now) {
            frames += 1;
            assert!(frames <= 3 * QUEUE_MAX * 10, "it never stops talking");
            assert!(frame.len() <= 256);
            let header = FrameHeader::parse_frame(&frame).expect("a frame");
            match header.kind() {
                FrameKind::Request | FrameKind::OneWay | FrameKind::Cancel => self.sent[0] += 1,
                FrameKind::Fragment => self.sent[header.method.get() as usize] += 1,
                FrameKind::Credit | FrameKind::Ping | FrameKind::Pong | FrameKind::Close => {}
                FrameKind::Control => self.sent[2] += 1,
                _ => self.sent[1] += 1,
            }
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                SessionEvent::Request(..) | SessionEvent::OneWay(..) | SessionEvent::Cancel(_) => {
                    self.unreleased[0] += 1;
                }
                SessionEvent::Reply(_)
                | SessionEvent::Error(_)
                | SessionEvent::Moved(_)
                | SessionEvent::Probe(_) => self.unreleased[1] += 1,
                SessionEvent::Control(_) => self.unreleased[2] += 1,
                SessionEvent::Lost(lost) => self.ended += lost.unknown.len() + lost.not_sent.len(),
                SessionEvent::Up { .. } | SessionEvent::Down(_) => {}
            }
        }
    }

    fn check(&self) {
        assert!(self.unreleased.iter().all(|held| *held <= WINDOW), "more came than there is room for");
        assert!(self.session.calls().count() <= QUEUE_MAX + WINDOW as usize, "too much is kept");
        assert!(self.ended <= self.queued, "more calls ended than there were");
        for lane in 0..3 {
            assert!(self.sent[lane] <= self.allowed[lane], "a frame left without a credit");
        }
    }
}

/// Bytes read as instructions. Whatever they lack reads as zero, so that every input is a program.
struct Program<'a> {
    rest: &'a [u8],
}

impl<'a> Program<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *first
    }

    /// A length byte and that many bytes.
    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()).min(self.rest.len());
        let (front, rest) = self.rest.split_at(len);
        self.rest = rest;
        front
    }

    /// The frame with one byte changed.
    fn change(&mut self, frame: &Frame) -> Frame {
        let mut bytes = frame.to_vec();
        let at = usize::from(self.byte()) % bytes.len();
        bytes[at] ^= self.byte();
        Frame::copy_from(&bytes)
    }

    /// A frame of any kind with any payload.
    fn frame(&mut self) -> Frame {
        let kind = FrameKind::ALL[usize::from(self.byte()) % FrameKind::ALL.len()];
        assemble_bare(None, FrameHeader::new(kind), self.bytes())
    }

    /// A credit, ping or pong. What it allows is entered in `allowed`, whether we believe it or not.
    fn status(&mut self, allowed: &mut [u64; 3]) -> Frame {
        let kinds = [FrameKind::Credit, FrameKind::Ping, FrameKind::Pong];
        let kind = kinds[usize::from(self.byte()) % kinds.len()];
        let numbers: [u64; 5] = std::array::from_fn(|_| u64::from(self.byte()));
        for (allowed, granted) in allowed.iter_mut().zip(&numbers[1..]) {
            *allowed = (*allowed).max(*granted);
        }
        assemble_bare(None, FrameHeader::new(kind), numbers.as_bytes())
    }

    /// A piece of a frame, which may be a frame.
    fn fragment(&mut self) -> Frame {
        let mut header = FrameHeader::new(FrameKind::Fragment);
        header.method = u32::from(self.byte() % 4).into();
        header.flags = self.byte();
        header.slot = u32::from(self.byte()).into();
        header.generation = u32::from(self.byte()).into();
        let mut piece = self.bytes().to_vec();
        if header.flags & 0x80 != 0 && piece.len() >= HEADER_LEN {
            // As whole a frame as it can be.
            piece.truncate(piece.len() - piece.len() % FRAME_ALIGN);
            let kind = FrameKind::ALL[usize::from(piece[0]) % FrameKind::ALL.len()];
            let mut inner = FrameHeader::new(kind);
            inner.payload_len = ((piece.len() - HEADER_LEN) as u32).into();
            piece[..HEADER_LEN].copy_from_slice(&inner.to_bytes());
            header.generation = (piece.len() as u32).into();
        }
        assemble_bare(None, header, &piece)
    }
}

fn config(node: u64) -> HandshakeConfig {
    HandshakeConfig {
        identity: Identity { node, incarnation: 1, core: 0 },
        agreement: Agreement { version: 1, fingerprint: 2, cluster: 3 },
        secret: ClusterSecret::new(&[7; 32]),
        timeout_ns: 3_000_000_000,
    }
}

fn terms(stream: u64) -> Terms {
    Terms {
        stream,
        said_at: 1,
        base: 0,
        known: None,
        window_calls: WINDOW,
        granted_calls: WINDOW,
        window_answers: WINDOW,
        granted_answers: WINDOW,
        window_controls: WINDOW,
        granted_controls: WINDOW,
        frame_len_max: 256,
        fragment_len_max: 256,
    }
}

/// What a save takes in a stream beyond its key's and its envelope's own bytes.
const SAVE_FRAME_LEN: usize = 17;
const WINDOW: u32 = 4;
const QUEUE_MAX: usize = 8;

#[cfg(test)]
mod tests;
