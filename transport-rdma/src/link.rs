//! One link: its control connection, where it is in its life, its channel, what waits to be sent.

use crate::channel::{Channel, SendMemory};
use crate::greeting::{GREETING_LEN, Greeting, GreetingError, Introduction, READY};
use epicserver_transport::{Addr, Direction, DownReason, Frame};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;

/// A link in one of the [`Stage`]s.
pub(crate) struct Link {
    pub(crate) control: TcpStream,
    pub(crate) stage: Stage,
    pub(crate) direction: Direction,
    pub(crate) peer: Addr,
    /// There from the greeting on.
    pub(crate) channel: Option<Channel>,
    /// What this side said of itself.
    pub(crate) own: Option<Introduction>,
    pub(crate) outbox: VecDeque<Frame>,
    pub(crate) outbox_len: usize,
    /// `send` left frames.
    pub(crate) blocked: bool,
    /// In the transport's list of links to send on.
    pub(crate) dirty: bool,
    greeting: [u8; GREETING_LEN],
    greeting_len: usize,
    /// The connector's word that it is ready was read. Its first packet may come before.
    confirmed: bool,
}

/// Where a link is in its life. Deadlines are in nanoseconds of the driver's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The control connection was begun here and is not there yet.
    Connecting { deadline: u64 },
    /// The greeting of the other end is waited for.
    Greeting { deadline: u64 },
    /// The connector's word that it is ready is waited for.
    Confirming { deadline: u64 },
    /// A link.
    Up,
    /// Closed here and no link any more: what was taken is delivered, what comes is forgotten.
    Lingering { deadline: u64 },
    /// Over; its last event waits behind those before it.
    Ended,
}

impl Stage {
    pub(crate) fn deadline(self) -> Option<u64> {
        match self {
            Self::Connecting { deadline }
            | Self::Greeting { deadline }
            | Self::Confirming { deadline }
            | Self::Lingering { deadline } => Some(deadline),
            Self::Up | Self::Ended => None,
        }
    }
}

/// What a look at the control connection came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing that matters yet.
    Nothing,
    /// The other end has introduced itself.
    Introduced(Introduction),
    /// The connector is ready.
    Ready,
    /// The end.
    Down(DownReason),
}

impl Link {
    pub(crate) fn new(control: TcpStream, stage: Stage, direction: Direction, peer: Addr) -> Self {
        Self {
            control,
            stage,
            direction,
            peer,
            channel: None,
            own: None,
            outbox: VecDeque::new(),
            outbox_len: 0,
            blocked: false,
            dirty: false,
            greeting: [0; GREETING_LEN],
            greeting_len: 0,
            confirmed: false,
        }
    }

    /// Whether a connection that was begun here is there: `None` while it is not decided.
    pub(crate) fn poll_connect(&self) -> Option<Result<(), DownReason>> {
        match self.control.take_error() {
            Ok(None) if self.control.peer_addr().is_ok() => Some(Ok(())),
            Ok(None) => None,
            Ok(Some(error)) | Err(error) => Some(Err(down_reason(error.kind()))),
        }
    }

    /// Says a few bytes; they fit the empty buffer of the socket.
    pub(crate) fn say(&mut self, bytes: &[u8]) -> Result<(), DownReason> {
        match self.control.write(bytes) {
            Ok(len) if len == bytes.len() => Ok(()),
            Ok(_) => Err(DownReason::Failed(io::ErrorKind::WriteZero)),
            Err(error) => Err(down_reason(error.kind())),
        }
    }

    /// Reads what the control connection has, as far as this stage has use for it. Come again until it has nothing.
    pub(crate) fn hear(&mut self) -> Heard {
        match self.stage {
            Stage::Connecting { .. } | Stage::Ended => Heard::Nothing,
            Stage::Greeting { .. } => self.hear_greeting(),
            Stage::Confirming { .. } | Stage::Up | Stage::Lingering { .. } => self.hear_byte(),
        }
    }

    fn hear_greeting(&mut self) -> Heard {
        loop {
            match read(&mut self.control, &mut self.greeting[self.greeting_len..]) {
                // Who takes no further link closes without a word.
                Ok(Some(0)) => return Heard::Down(DownReason::Refused),
                Ok(Some(len)) => self.greeting_len += len,
                Ok(None) => return Heard::Nothing,
                Err(reason) => return Heard::Down(reason),
            }
            if self.greeting_len == GREETING_LEN {
                return match Greeting::parse(&self.greeting) {
                    Ok(introduction) => Heard::Introduced(introduction),
                    Err(error) => {
                        warn(&self.peer, error);
                        Heard::Down(DownReason::Failed(io::ErrorKind::InvalidData))
                    }
                };
            }
        }
    }

    fn hear_byte(&mut self) -> Heard {
        let mut byte = [0];
        match read(&mut self.control, &mut byte) {
            Ok(Some(0)) => Heard::Down(DownReason::ClosedByPeer),
            Ok(Some(_)) if byte == [READY] && self.direction == Direction::Incoming && !self.confirmed => {
                self.confirmed = true;
                Heard::Ready
            }
            Ok(Some(_)) => Heard::Down(DownReason::Failed(io::ErrorKind::InvalidData)),
            Ok(None) => Heard::Nothing,
            Err(reason) => Heard::Down(reason),
        }
    }

    /// Whether [`Link::send`] may have something to do, or its user waits for room.
    pub(crate) fn wants_to_send(&self) -> bool {
        self.blocked
            || !self.outbox.is_empty()
            || self.stage != Stage::Up
            || self.channel.as_ref().is_some_and(Channel::wants_word)
    }

    /// Posts what it can. An error ends the link.
    pub(crate) fn send(&mut self, memory: &SendMemory) -> io::Result<()> {
        if !matches!(self.stage, Stage::Up | Stage::Lingering { .. }) {
            return Ok(());
        }
        let Some(channel) = &mut self.channel else { return Ok(()) };
        self.outbox_len -= channel.send(&mut self.outbox, memory)?;
        if self.outbox.is_empty() && matches!(self.stage, Stage::Lingering { .. }) {
            channel.ask_for_last()?;
        }
        Ok(())
    }

    /// Whether everything that was taken is with the peer.
    pub(crate) fn is_delivered(&self) -> bool {
        self.outbox.is_empty() && self.channel.as_ref().is_none_or(Channel::is_delivered)
    }

    /// Whether frames are given out that came over it.
    pub(crate) fn is_heard(&self) -> bool {
        matches!(self.stage, Stage::Up | Stage::Ended)
    }
}

/// Says in the log that the two ends do not understand each other: the event of the link has no words for it.
pub(crate) fn warn(peer: &Addr, error: GreetingError) {
    tracing::warn!(%peer, %error, "no link");
}

/// Reads once: `None` if there is nothing yet, zero at the end.
fn read(control: &mut TcpStream, space: &mut [u8]) -> Result<Option<usize>, DownReason> {
    loop {
        match control.read(space) {
            Ok(len) => return Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(down_reason(error.kind())),
        }
    }
}

/// What an error of the control connection says about the peer.
pub(crate) fn down_reason(kind: io::ErrorKind) -> DownReason {
    match kind {
        io::ErrorKind::ConnectionRefused => DownReason::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            DownReason::ClosedByPeer
        }
        io::ErrorKind::TimedOut => DownReason::TimedOut,
        other => DownReason::Failed(other),
    }
}

/// What the number of a failed completion (`enum ibv_wc_status`) says about the peer.
pub(crate) fn failed_reason(status: u32) -> DownReason {
    const LENGTH: u32 = 1;
    const FLUSHED: u32 = 5;
    const REMOTE_INVALID: u32 = 9;
    const RETRIES_EXCEEDED: u32 = 12;
    const RNR_RETRIES_EXCEEDED: u32 = 13;
    match status {
        // A packet longer than a receive, theirs or ours.
        LENGTH | REMOTE_INVALID => DownReason::Failed(io::ErrorKind::InvalidData),
        RETRIES_EXCEEDED => DownReason::Failed(io::ErrorKind::TimedOut),
        RNR_RETRIES_EXCEEDED => DownReason::WindowExceeded,
        // The queue pair was in error before: who caused it is told by another completion, or by nobody.
        FLUSHED => DownReason::Failed(io::ErrorKind::ConnectionAborted),
        _ => DownReason::Failed(io::ErrorKind::Other),
    }
}
