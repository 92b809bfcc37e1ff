//! The engine of the links: the transport, the fabric on it, and the rings to the cores that do not drive it themselves.
//!
//! ```text
//!   receive:  poll -> fabric -> frames and news into rings
//!   gather:   frames from rings -> fabric, what is due
//!   transmit: frames of the fabric -> transport, one flush -> news of what was taken
//! ```
//! Many frames of many cores leave in one flush: what came together goes together, and nothing waits for more. What does
//! not fit into a core's ring stays in the fabric, in order, and the room of its peer is not given back meanwhile.
//!
//! A driver that sleeps apart ([`Engine::sleeper`]) leaves the engine to the cores meanwhile, which send by themselves then
//! ([`Engine::serve`]): they need not wake anybody for that. Who sleeps there is noted in its [`Seat`].
//!
//! Not here: who drives it and how that one sleeps (`driver/links.rs`). It reads no clock. Start at [`Engine::receive`].

use std::time::Duration;

use epicserver_storage::NodeId;
use epicserver_transport::{Event as TransportEvent, Frame, Sleeper, Transport};

use super::control_port::ControlPort;
use crate::core::Inputs;
use crate::fabric::{Command, Fabric, LinkInput};
use crate::remote::PeerFrame;
use epicserver_sync::parker::Unparker;
use epicserver_sync::ring;

/// Transport and fabric, to be driven by one thread.
pub(crate) struct Engine {
    transport: Box<dyn Transport>,
    fabric: Fabric,
    ports: Vec<LinkPort>,
    /// There in a cluster whose members change.
    control: Option<ControlPort>,
    events: Vec<TransportEvent>,
    links: usize,
    /// Something changed since frames were last sent: there may be more to send.
    is_dirty: bool,
    /// When the fabric wants to be called next, at the latest.
    due: Option<u64>,
    /// When the driver's last sleep began, and when it ends.
    now: u64,
    sleeps_until: u64,
    /// Cores that were brought something and are to be woken, where [`sleeper`](Self::sleeper) gave one; else they are woken at once.
    told: Vec<Unparker>,
    tells_later: bool,
    counts: LinkCounts,
    pub(crate) seat: Seat,
}

/// Who sleeps in the transport, where the link thread and the core of a node of one core take turns (`driver/links/seat.rs`).
#[derive(Debug, Default)]
pub(crate) struct Seat {
    pub(crate) taken: Option<Sitter>,
    /// The core found it taken, and would like to have it.
    pub(crate) wanted: bool,
    /// How often the core had it.
    pub(crate) sittings: u64,
    /// The link thread looks again and again whether the core comes back.
    pub(crate) watched: bool,
}

/// Who has the seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sitter {
    Driver,
    Core,
}

/// What passed over the links of a node so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkCounts {
    pub(crate) frames_sent: u64,
    pub(crate) frames_received: u64,
}

/// The engine's ends of the rings to and from one core.
pub(crate) struct LinkPort {
    pub(crate) core: u16,
    pub(crate) outgoing: ring::Consumer<PeerFrame>,
    pub(crate) incoming: ring::Producer<LinkInput>,
    pub(crate) unparker: Unparker,
}

impl Engine {
    /// An engine with rings to these cores; whoever drives it serves the others by [`give_inputs`](Self::give_inputs) and
    /// [`handle_frame`](Self::handle_frame).
    pub(crate) fn new(
        transport: Box<dyn Transport>,
        fabric: Fabric,
        ports: Vec<LinkPort>,
        control: Option<ControlPort>,
    ) -> Self {
        Self {
            transport,
            fabric,
            ports,
            control,
            events: Vec::new(),
            links: 0,
            is_dirty: true,
            due: None,
            now: 0,
            sleeps_until: 0,
            told: Vec::new(),
            tells_later: false,
            counts: LinkCounts::default(),
            seat: Seat::default(),
        }
    }

    /// Takes in what came from rings and time; `false` if there was nothing.
    pub(crate) fn gather(&mut self, now: u64) -> bool {
        let mut worked = self.take_frames(now);
        if let Some(control) = &self.control {
            worked |= control.take_orders(now, &mut self.fabric);
        }
        let is_due = self.due.is_some_and(|at| at <= now);
        if is_due {
            self.fabric.handle_timeout(now);
        }
        self.is_dirty |= worked | is_due;
        worked | is_due
    }

    /// Sends what there is to send; `false` if there was nothing.
    pub(crate) fn transmit(&mut self, now: u64) -> bool {
        if !std::mem::take(&mut self.is_dirty) {
            return self.deliver();
        }
        let worked = self.send(now) | self.obey(now);
        let delivered = self.deliver();
        self.due = self.fabric.poll_timeout();
        if let Some(control) = &self.control {
            control.publish(self.counts);
        }
        worked | delivered
    }

    /// Whether the last [`pass`](Self::pass) has left nothing that another one would find, but for what came meanwhile.
    pub(crate) fn is_settled(&self) -> bool {
        !self.is_dirty
    }

    /// Whether [`transmit`](Self::transmit) would find something; for whoever calls it after the other two.
    pub(crate) fn has_unsent(&self) -> bool {
        self.is_dirty || self.ports.iter().any(|port| self.fabric.has_output(port.core))
    }

    /// Takes in what came over links; `false` if there was nothing.
    pub(crate) fn receive(&mut self, now: u64) -> bool {
        let worked = self.poll(now);
        let count = self.events.len();
        if count > 0 {
            self.handle_events(now, count, None);
        }
        worked | self.deliver()
    }

    /// Looks for what came over links, and leaves it for [`give_inputs`](Self::give_inputs); `false` if there was nothing.
    #[inline]
    pub(crate) fn poll(&mut self, now: u64) -> bool {
        self.transport.poll(now, &mut self.events);
        let passed_on = self.pass_on();
        !self.events.is_empty() | passed_on
    }

    /// Brings the cluster thread what there is for it and room for.
    #[inline]
    fn pass_on(&mut self) -> bool {
        let passed_on = self.control.as_ref().is_some_and(|control| control.pass_on(&mut self.fabric));
        self.is_dirty |= passed_on;
        passed_on
    }

    /// Takes in the first of what came over links. Frames for the core that these are the inputs of go straight there.
    fn handle_events(&mut self, now: u64, count: usize, inputs: Option<(u16, &mut Inputs<'_>)>) {
        let (links, counts) = (&mut self.links, &mut self.counts);
        let events = self.events.drain(..count).inspect(|event| match event {
            TransportEvent::Receive { .. } => counts.frames_received += 1,
            TransportEvent::LinkUp { .. } => *links += 1,
            TransportEvent::LinkDown { .. } => *links = links.saturating_sub(1),
            TransportEvent::Writable { .. } => {}
        });
        self.fabric.handle_events(now, events, inputs);
        self.is_dirty = true;
        self.pass_on();
    }

    /// One round of all of it; `false` if there was nothing. What a link is to hear of what came leaves at its end.
    pub(crate) fn pass(&mut self, now: u64) -> bool {
        self.receive(now) | self.gather(now) | self.transmit(now)
    }

    /// Takes a frame of a core that has no ring.
    #[inline]
    pub(crate) fn handle_frame(&mut self, now: u64, core: u16, peer: NodeId, frame: Frame) {
        self.is_dirty = true;
        give_frame(&mut self.fabric, self.control.as_ref(), now, core, peer, frame);
    }

    /// Gives the frames and news for a core that has no ring: what is left of earlier, then so much of what came over links that
    /// there are about so many frames altogether.
    pub(crate) fn give_inputs(&mut self, now: u64, core: u16, count_max: usize, inputs: &mut Inputs<'_>) {
        // Their peers may be told of the room.
        self.is_dirty |= self.fabric.has_output(core);
        let given = self.fabric.give_outputs(core, count_max, inputs);
        let count = portion(self.events.len(), count_max - given);
        if count > 0 {
            self.handle_events(now, count, Some((core, inputs)));
            self.deliver();
        }
    }

    /// Whether there is something for a core that has no ring, or something that came over links and was not looked at.
    #[inline]
    pub(crate) fn has_input(&self, core: u16) -> bool {
        !self.events.is_empty() || self.fabric.has_output(core)
    }

    /// Whether nothing is there; asks cores and transport to end the [`sleep`](Self::sleep) for what comes from now on. To
    /// be called after `Parker::prepare`.
    pub(crate) fn may_sleep(&mut self) -> bool {
        let fabric = &self.fabric;
        let has_input = self.ports.iter_mut().any(|port| {
            !port.outgoing.is_empty()
                || port.outgoing.room_wanted()
                || fabric.has_output(port.core) && port.incoming.want_room()
        });
        let has_orders = self.control.as_ref().is_some_and(|control| !control.is_idle());
        !has_input && !has_orders && self.transport.arm()
    }

    /// Sleeps until something comes or is due, `timeout_ns` at most. Only after [`may_sleep`](Self::may_sleep) said so.
    pub(crate) fn sleep(&mut self, now: u64, timeout_ns: u64) {
        let timeout = self.begin_sleep(now, timeout_ns, Sitter::Driver);
        self.transport.wait(timeout);
    }

    /// Who sleeps for the driver while others have the engine, if the transport has one. From then on the driver wakes the cores that were
    /// brought something: [`take_told`](Self::take_told).
    pub(crate) fn sleeper(&mut self) -> Option<Box<dyn Sleeper>> {
        let sleeper = self.transport.sleeper();
        self.tells_later = sleeper.is_some();
        sleeper
    }

    /// Appends the cores that are to be woken. When they run they may want the engine: who has it lets go of it first, if it can.
    pub(crate) fn take_told(&mut self, told: &mut Vec<Unparker>) {
        told.append(&mut self.told);
    }

    /// How long to sleep in the transport, `timeout_ns` at most. As for [`sleep`](Self::sleep), only after
    /// [`may_sleep`](Self::may_sleep) said so.
    pub(crate) fn begin_sleep(&mut self, now: u64, timeout_ns: u64, sitter: Sitter) -> Duration {
        self.seat.taken = Some(sitter);
        self.now = now;
        self.sleeps_until = self.due_at().unwrap_or(u64::MAX).min(now.saturating_add(timeout_ns));
        Duration::from_nanos(self.sleeps_until.saturating_sub(now))
    }

    /// Takes in what ended the sleep of the [`sleeper`](Self::sleeper).
    pub(crate) fn end_sleep(&mut self) {
        self.seat.taken = None;
        self.transport.end_sleep();
    }

    /// Whether cores or the cluster have left something to send.
    pub(crate) fn is_asked(&mut self) -> bool {
        let has_orders = self.control.as_ref().is_some_and(|control| !control.is_idle());
        has_orders || self.ports.iter_mut().any(|port| !port.outgoing.is_empty())
    }

    /// Sends what the cores have, while the driver sleeps. `false`: there is more to do, for which it is to be woken.
    pub(crate) fn serve(&mut self, now: u64) -> bool {
        // The driver may have read its clock after the core did.
        let now = self.now.max(now);
        self.gather(now);
        self.transmit(now);
        self.wake_told();
        self.is_settled() && self.may_sleep() && self.due_at().is_none_or(|at| at >= self.sleeps_until)
    }

    /// Takes in what ended the sleep of the core, and sends what there is.
    pub(crate) fn attend(&mut self, now: u64) {
        self.end_sleep();
        self.pass(self.now.max(now));
        self.wake_told();
    }

    fn wake_told(&mut self) {
        for core in self.told.drain(..) {
            core.unpark_if_parked();
        }
    }

    fn due_at(&self) -> Option<u64> {
        self.due.into_iter().chain(self.transport.poll_timeout()).min()
    }

    /// The cores have ended: what they left is sent, then the links are closed with a last word.
    pub(crate) fn finish(&mut self, clock: impl Fn() -> u64) {
        self.tells_later = false;
        self.wake_told();
        let deadline = clock() + LINGER_NS;
        while clock() < deadline && self.pass(clock()) {}
        let now = clock();
        self.fabric.close(now);
        self.is_dirty = true;
        self.transmit(now);
        while self.links > 0 && clock() < deadline {
            self.pass(clock());
            if self.links > 0 && self.transport.arm() {
                self.transport.wait(LINGER_LOOK);
            }
        }
    }

    fn take_frames(&mut self, now: u64) -> bool {
        let mut worked = false;
        for port in &mut self.ports {
            for _ in 0..FRAMES_PER_PASS {
                let Some(frame) = port.outgoing.try_pop() else { break };
                let PeerFrame { peer, frame, .. } = frame;
                give_frame(&mut self.fabric, self.control.as_ref(), now, port.core, peer, frame);
                worked = true;
            }
            if port.outgoing.room_wanted() {
                port.unparker.unpark_if_parked();
            }
        }
        worked
    }

    fn send(&mut self, now: u64) -> bool {
        let mut sent = 0;
        let transport = &mut self.transport;
        self.fabric.poll_transmit(now, |link, frames| {
            let before = frames.len();
            if let Err(error) = transport.send(link, frames) {
                // The link's last event is on its way, and with it the end of what is left.
                tracing::debug!(%error, "a link takes no frames");
            }
            sent += before - frames.len();
        });
        self.transport.flush();
        self.counts.frames_sent += sent as u64;
        sent > 0
    }

    /// Does what the fabric wants of the transport; after its last words were sent.
    fn obey(&mut self, now: u64) -> bool {
        let mut worked = false;
        while let Some(command) = self.fabric.poll_command() {
            worked = true;
            match command {
                Command::Connect { peer, addr } => {
                    let link = self.transport.connect(&addr, now);
                    self.fabric.handle_connect(now, peer, &addr, link);
                }
                Command::Close(link) => self.transport.close(link),
            }
        }
        worked
    }

    /// Brings each core what there is for it and room for, and wakes it once.
    fn deliver(&mut self) -> bool {
        let mut worked = false;
        for port in &mut self.ports {
            let mut told = false;
            while self.fabric.has_output(port.core) && port.incoming.has_room() {
                let Some(input) = self.fabric.poll_output(port.core) else { break };
                if port.incoming.try_push(input).is_err() {
                    tracing::error!(port.core, "a ring that had room was full");
                }
                told = true;
            }
            if told {
                // The peers may be told of the room.
                self.is_dirty = true;
                if self.tells_later {
                    self.told.push(port.unparker.clone());
                } else {
                    port.unparker.unpark_if_parked();
                }
                worked = true;
            }
        }
        worked
    }
}

/// How many of those that wait are taken where there is to be room for so many: all if the rest would be less than half of that. What comes
/// of so few would leave in a write of its own, which costs as much as that of many, and come back as few.
fn portion(waiting: usize, room: usize) -> usize {
    if waiting <= room + room / 2 { waiting } else { room }
}

/// Gives the fabric a core's frame. It may be for a member of a view that the core was shown a moment ago, and that the fabric was
/// told of before that: such an order is looked for before the frame is refused.
#[inline]
fn give_frame(
    fabric: &mut Fabric,
    control: Option<&ControlPort>,
    now: u64,
    core: u16,
    peer: NodeId,
    frame: Frame,
) {
    if let Some(frame) = fabric.try_frame(now, core, peer, frame) {
        if let Some(control) = control {
            control.take_orders(now, fabric);
        }
        fabric.handle_frame(now, core, PeerFrame::new(peer, frame));
    }
}

/// Frames taken from one core in one pass.
const FRAMES_PER_PASS: usize = 512;
/// How long a node that stops goes on to send.
const LINGER_NS: u64 = 500_000_000;
const LINGER_LOOK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::portion;

    #[test]
    fn no_crumbs_are_left() {
        let left = |waiting| waiting - portion(waiting, 128);
        assert_eq!([0, 1, 128, 136, 192].map(left), [0; 5]);
        assert_eq!([193, 256, 1_000].map(left), [65, 128, 872]);
        assert_eq!(portion(5, 0), 0, "without room nothing is taken");
    }
}
