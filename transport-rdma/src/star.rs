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
