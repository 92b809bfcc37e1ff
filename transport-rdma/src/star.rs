//! One transport in the middle with a link to each of many others, all driven by one thread: for measuring what a link costs that
//! is there and says nothing. Start at [`Star::begin`].

use crate::transport::RdmaTransport;
use crate::{RdmaOptions, StartError};
use epicserver_transport::{Event, Frame, FrameHeader, FrameKind, HEADER_LEN, LinkId, Transport};
use std::collections::VecDeque;
use std::io;

/// The one in the middle and its links.
pub struct Star {
    middle: RdmaTransport,
    /// Others that have no link yet.
    unlinked: Vec<RdmaTransport>,
    ends: Vec<End>,
    /// Whose turn is next.
    next: usize,
    frames: VecDeque<Frame>,
    events: Vec<Event>,
}

/// The other end of a link.
struct End {
    transport: RdmaTransport,
    here: LinkId,
    in_the_middle: LinkId,
}

impl Star {
    /// A transport without links, with room for this many.
    ///
    /// # Errors
    /// As [`RdmaTransport::bind`].
    pub fn begin(links_max: usize) -> Result<Self, StartError> {
        let middle = RdmaTransport::bind(RdmaOptions { links_max, ..RdmaOptions::default() })?;
        let (unlinked, ends) = (Vec::new(), Vec::new());
        Ok(Self { middle, unlinked, ends, next: 0, frames: VecDeque::new(), events: Vec::new() })
    }

    /// Makes the others, which have fewer buffers to send from.
    ///
    /// # Errors
    /// As [`RdmaTransport::bind`].
    pub fn make_ends(&mut self, count: usize) -> Result<(), StartError> {
        let options = RdmaOptions { links_max: 1, send_buffers_max: 64, ..RdmaOptions::default() };
        for _ in 0..count {
            self.unlinked.push(RdmaTransport::bind(options.clone())?);
        }
        Ok(())
    }

    /// Links every end that was made. `clock` gives nanoseconds that never fall.
    ///
    /// # Errors
    /// There is no room for so many, or a link does not come up.
    pub fn link(&mut self, clock: impl Fn() -> u64) -> io::Result<()> {
        while let Some(end) = self.unlinked.pop() {
            self.link_one(end, &clock)?;
        }
        Ok(())
    }

    fn link_one(&mut self, mut transport: RdmaTransport, clock: impl Fn() -> u64) -> io::Result<()> {
        let in_the_middle = self.middle.connect(transport.local_addr(), clock())?;
        let (mut here, mut is_up) = (None, false);
        for _ in 0..LOOKS_MAX {
            self.middle.poll(clock(), &mut self.events);
            is_up |= come_up(&mut self.events)?.is_some();
            transport.poll(clock(), &mut self.events);
            here = come_up(&mut self.events)?.or(here);
            if let Some(here) = here
                && is_up
            {
                self.ends.push(End { transport, here, in_the_middle });
                return Ok(());
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Sends a frame with `payload` bytes over the next link in turn, and one back.
    ///
    /// # Errors
    /// A link is down, or nothing came.
    ///
    /// # Panics
    /// If there is no link, or the frame is longer than the transport carries.
    pub fn round_trip(&mut self, payload: usize, now: u64) -> io::Result<()> {
        let Self { middle, ends, next, frames, events, .. } = self;
        let End { transport, here, in_the_middle } = &mut ends[*next];
        carry((middle, *in_the_middle), transport, payload, now, (frames, events))?;
        carry((transport, *here), middle, payload, now, (frames, events))?;
        *next = if *next + 1 == ends.len() { 0 } else { *next + 1 };
        Ok(())
    }
}

/// Messages of one end of a link, and where they are put at the other.
pub struct Cargo {
    message: Vec<u8>,
    arrived: Vec<u8>,
    /// The bytes are copied into the frames and out of them, as a session does it. Else whatever is in the buffers arrives.
    copies: bool,
}

/// Messages on their way from the middle to the first end.
struct Haul<'a> {
    cargo: &'a mut Cargo,
    /// Bytes of all messages.
    total: usize,
    made: usize,
    arrived: usize,
}

impl Star {
    /// Carries `count` messages to one end, in long frames.
    ///
    /// # Errors
    /// The link is down, or nothing came.
    ///
    /// # Panics
    /// If there is no link, or it carries no long frames.
    pub fn haul(&mut self, cargo: &mut Cargo, count: usize, clock: impl Fn() -> u64) -> io::Result<()> {
        let Self { middle, ends, frames, events, .. } = self;
        let End { transport, in_the_middle, .. } = &mut ends[0];
        let total = cargo.message.len() * count;
        let mut haul = Haul { cargo, total, made: 0, arrived: 0 };
        let mut looks = 0;
        while haul.arrived < haul.total {
            haul.make(middle, frames);
            middle.send(*in_the_middle, frames).map_err(io::Error::other)?;
            middle.flush();
            middle.poll(clock(), events);
            come_up(events)?;
            transport.poll(clock(), events);
            looks = if events.is_empty() { looks + 1 } else { 0 };
            if looks > LOOKS_MAX {
                return Err(io::ErrorKind::TimedOut.into());
            }
            for event in events.drain(..) {
                match event {
                    Event::Receive { frame, .. } => haul.take(&frame),
                    Event::LinkDown { reason, .. } => return Err(io::Error::other(reason.to_string())),
                    Event::LinkUp { .. } | Event::Writable { .. } => {}
                }
            }
            transport.flush();
        }
        Ok(())
    }
}

impl Cargo {
    /// Messages of `len` bytes.
    pub fn new(len: usize, copies: bool) -> Self {
        Self { message: (0..len).map(|at| (at / 3) as u8).collect(), arrived: vec![0; len], copies }
    }

    /// Whether what arrived last is what was sent.
    pub fn has_arrived(&self) -> bool {
        self.arrived == self.message
    }
}

impl Haul<'_> {
    /// Makes as many frames as there are buffers for.
    fn make(&mut self, from: &RdmaTransport, frames: &mut VecDeque<Frame>) {
        let pool = from.bulk_pool().expect("a link for long frames");
        let Cargo { message, copies, .. } = &*self.cargo;
        while self.made < self.total {
            let at = self.made % message.len();
            let len = (message.len() - at).min(pool.buffer_len_max() - HEADER_LEN);
            let mut header = FrameHeader::new(FrameKind::Fragment);
            header.payload_len.set(len as u32);
            header.slot.set(at as u32);
            let total_len = header.total_len() as usize;
            let pool = if total_len > from.caps().frame_len_max { pool } else { from.pool() };
            let Some(mut buffer) = pool.alloc(total_len) else { return };
            assert!(header.write_to(&mut buffer), "a frame of whole units");
            if *copies {
                buffer[HEADER_LEN..HEADER_LEN + len].copy_from_slice(&message[at..at + len]);
                buffer[HEADER_LEN + len..].fill(0);
            }
            frames.push_back(buffer.freeze());
            self.made += len;
        }
    }

    fn take(&mut self, frame: &Frame) {
        let payload = FrameHeader::payload_bytes(frame).unwrap_or_default();
        let Cargo { arrived, copies, .. } = &mut *self.cargo;
        if *copies {
            let at = self.arrived % arrived.len();
            arrived[at..at + payload.len()].copy_from_slice(payload);
        }
        self.arrived += payload.len();
    }
}

/// The link that came up, if one did.
fn come_up(events: &mut Vec<Event>) -> io::Result<Option<LinkId>> {
    let mut up = None;
    for event in events.drain(..) {
        match event {
            Event::LinkUp { link, .. } => up = Some(link),
            Event::LinkDown { reason, .. } => return Err(io::Error::other(reason.to_string())),
            Event::Receive { .. } | Event::Writable { .. } => {}
        }
    }
    Ok(up)
}

/// One frame from one end of a link to the other.
fn carry(
    (from, link): (&mut RdmaTransport, LinkId),
    to: &mut RdmaTransport,
    payload: usize,
    now: u64,
    (frames, events): (&mut VecDeque<Frame>, &mut Vec<Event>),
) -> io::Result<()> {
    let mut buffer = from.pool().alloc(HEADER_LEN + payload).ok_or(io::ErrorKind::OutOfMemory)?;
    let mut header = FrameHeader::new(FrameKind::OneWay);
    header.payload_len.set(payload as u32);
    assert!(header.write_to(&mut buffer), "a frame of whole units");
    frames.push_back(buffer.freeze());
    from.send(link, frames).map_err(io::Error::other)?;
    from.flush();
    for _ in 0..LOOKS_MAX {
        to.poll(now, events);
        let has_come = events.iter().any(|event| matches!(event, Event::Receive { .. }));
        come_up(events)?;
        if has_come {
            return Ok(());
        }
        std::hint::spin_loop();
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Looks until a link counts as broken: minutes where they take a microsecond.
const LOOKS_MAX: u32 = 1 << 27;
