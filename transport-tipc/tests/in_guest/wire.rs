//! Two machines and what may befall the wire between them: the first of the guests receives, the second sends.

use epicserver_transport::{DownReason, Event, Frame, FrameHeader, FrameKind, HEADER_LEN, LinkId, Transport};
use epicserver_transport_tipc::{ServiceAddress, TipcOptions, TipcTransport, why_only_here};
use std::collections::{BTreeMap, VecDeque};
use std::process::Command;
use std::time::Duration;

mod in_three_guests {
    #[test]
    fn links_end_with_their_network_and_leave_nothing_behind() {
        match std::env::var("VM_GUEST").expect("a guest of several knows its number").as_str() {
            "1" => super::receive(),
            "2" => super::send(),
            _ => {}
        }
    }
}

/// All of the first link arrives, though packets get lost, a beginning of the second, whose network ends, and all of the third.
fn receive() {
    assert_eq!(why_only_here().expect("a kernel with TIPC"), None, "there is a bearer");
    let mut end = End::bind(Some(RECEIVER.instance));
    let mut counts: BTreeMap<LinkId, u32> = BTreeMap::new();
    let mut ended = Vec::new();
    for event in end.events() {
        match event {
            Event::LinkUp { link, .. } => drop(counts.insert(link, 0)),
            Event::Receive { link, frame } => {
                let count = counts.get_mut(&link).expect("it is up");
                assert!(*frame == bytes(*count), "frame {count} is not what was sent");
                *count += 1;
            }
            Event::LinkDown { link, reason } => {
                let count = counts.remove(&link).expect("it was up");
                // A connection that the network cut off while it was made carried nothing.
                ended.extend((count > 0).then_some((count, reason)));
            }
            Event::Writable { .. } => {}
        }
        if ended.len() == 3 {
            break;
        }
    }
    let all = (FRAMES, DownReason::ClosedByPeer);
    assert_eq!((ended[0], ended[2]), (all, all));
    assert!(matches!(ended[1].1, DownReason::ClosedByPeer | DownReason::Failed(_)), "{ended:?}");
    assert_eq!(counts.len(), 0, "links that are still up");
    end.has_all_buffers();
}

fn send() {
    let mut end = End::bind(None);
    shell("tc qdisc add dev eth0 root netem loss 5%");
    end.deliver();
    // That some were lost, and not only should have been.
    shell("! tc -s qdisc show dev eth0 | grep -q 'dropped 0,' && tc qdisc del dev eth0 root");

    let link = end.connected();
    let mut number = 0;
    while number < FRAMES {
        number = end.send(link, number, u32::MAX);
        end.pass();
    }
    shell("tipc bearer disable media eth device eth0");
    let reason = loop {
        number = end.send(link, number, u32::MAX);
        if let Some(Event::LinkDown { reason, .. }) = end.pass().pop() {
            break reason;
        }
    };
    assert!(matches!(reason, DownReason::ClosedByPeer | DownReason::Failed(_)), "{reason}");
    end.has_all_buffers();
    shell("tipc bearer enable media eth device eth0");
    end.deliver();
}

/// A transport, and frames that it has not taken.
struct End {
    transport: TipcTransport,
    waiting: VecDeque<Frame>,
    passes: u64,
}

impl End {
    fn bind(instance: Option<u32>) -> Self {
        let options = TipcOptions { service: RECEIVER.service, instance, ..TipcOptions::default() };
        let transport = TipcTransport::bind(options).expect("a kernel with TIPC");
        Self { transport, waiting: VecDeque::new(), passes: 0 }
    }

    /// Polls once; rests for a moment if nothing happened.
    fn pass(&mut self) -> Vec<Event> {
        self.passes += 1;
        assert!(self.passes < PASSES_MAX, "what is waited for does not happen");
        let mut events = Vec::new();
        self.transport.flush();
        self.transport.poll(self.passes * NS_PER_PASS, &mut events);
        if events.is_empty() && self.transport.arm() {
            self.transport.wait(Duration::from_nanos(NS_PER_PASS));
        }
        events
    }

    fn events(&mut self) -> impl Iterator<Item = Event> {
        std::iter::repeat_with(|| self.pass()).flatten()
    }

    /// A link to the receiver, once it is there.
    fn connected(&mut self) -> LinkId {
        loop {
            let now = self.passes * NS_PER_PASS;
            let link = self.transport.connect(&RECEIVER.into(), now).expect("room for a link");
            match self.events().next().expect("events without an end") {
                Event::LinkUp { .. } => return link,
                Event::LinkDown { .. } => {}
                event => panic!("{event:?} before the link was up"),
            }
            // Nobody is there yet, and the kernel said so at once.
            self.transport.wait(Duration::from_millis(50));
        }
    }

    /// Sends all frames over a link of their own, to its end.
    fn deliver(&mut self) {
        let link = self.connected();
        let mut number = 0;
        while number < FRAMES || !self.waiting.is_empty() {
            number = self.send(link, number, FRAMES);
            self.pass();
        }
        self.transport.close(link);
        let ended = self.events().find(|event| matches!(event, Event::LinkDown { .. }));
        assert_eq!(ended, Some(Event::LinkDown { link, reason: DownReason::ClosedHere }));
        self.has_all_buffers();
    }

    /// Gives the link what it takes of the frames from `next` on; the next one.
    fn send(&mut self, link: LinkId, mut next: u32, end: u32) -> u32 {
        while self.waiting.len() < WAITING_MAX
            && next < end
            && let Some(mut buffer) = self.transport.pool().alloc(FRAME_LEN)
        {
            buffer.copy_from_slice(&bytes(next));
            self.waiting.push_back(buffer.freeze());
            next += 1;
        }
        // A link that is down says so by its event.
        let _ = self.transport.send(link, &mut self.waiting);
        next
    }

    /// Waits until all that was on its way is back in the pool, as at the beginning.
    fn has_all_buffers(&mut self) {
        self.waiting.clear();
        while self.transport.pool().outstanding() > 0 {
            self.pass();
        }
    }
}

/// A frame with that number.
fn bytes(number: u32) -> Vec<u8> {
    let mut frame = vec![number as u8; FRAME_LEN];
    let mut header = FrameHeader::new(FrameKind::Request);
    header.payload_len.set((FRAME_LEN - HEADER_LEN) as u32);
    header.slot.set(number);
    assert!(header.write_to(&mut frame));
    frame
}

/// Runs it as root of this guest; whatever it changes is gone with it.
fn shell(script: &str) {
    let run = Command::new("sh").args(["-c", script]).status();
    assert!(run.expect("sh runs").success(), "{script}");
}

const RECEIVER: ServiceAddress = ServiceAddress { service: 70_100, instance: 1 };
const FRAMES: u32 = 2_000;
const FRAME_LEN: usize = 1024;
const WAITING_MAX: usize = 64;
const NS_PER_PASS: u64 = 1_000_000;
/// A minute of resting.
const PASSES_MAX: u64 = 60_000;
