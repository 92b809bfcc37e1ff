//! On a real device: the conformance suite, and what only verbs can do wrong. These tests need an RDMA device; `cargo ci vm`
//! boots a guest that has one.

use super::hardware::send_memory;
use super::*;
use crate::channel::SendMemory;
use crate::choice::{Choice, choose};
use crate::greeting::GREETING_LEN;
use crate::sys::{CompletionQueue, Device, Outgoing, list_devices};
use epicserver_transport::FrameKind;
use epicserver_transport::conformance::{Fixture, RawPeer, suite};
use std::io::{Read, Write};
use std::process::Command;

mod faults;
mod hostile;
mod startup;

fn options() -> RdmaOptions {
    RdmaOptions { links_max: 16, send_buffers_max: 512, ..RdmaOptions::default() }
}

fn bind(options: RdmaOptions) -> RdmaTransport {
    RdmaTransport::bind(options).expect("a machine with an RDMA device, as `cargo ci vm` boots")
}

/// Packets that found no receive, by the counters of all devices since they are there.
fn receivers_not_ready() -> u64 {
    let is_such = |path: &std::path::Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains("rnr") || name == "out_of_buffer"
    };
    let paths = shell("ls -d /sys/class/infiniband/*/ports/*/hw_counters/*");
    let paths: Vec<_> = paths.lines().map(std::path::Path::new).filter(|path| is_such(path)).collect();
    assert!(!paths.is_empty(), "the device counts no such packets");
    let count = |path: &&std::path::Path| {
        let text = std::fs::read_to_string(path).expect("a counter");
        text.trim().parse::<u64>().expect("a number")
    };
    paths.iter().map(count).sum()
}

/// Runs it as root of this guest, whatever it changes is gone with it; gives what it says.
fn shell(script: &str) -> String {
    let run = Command::new("sh").args(["-c", script]).output().expect("sh runs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{script}: {said}");
    String::from_utf8_lossy(&run.stdout).into_owned()
}

#[test]
fn conformance() {
    let before = receivers_not_ready();
    suite(|| Verbs { options: options() });
    assert_eq!(receivers_not_ready(), before, "packets found no receive");
}

#[test]
fn conformance_with_short_queues() {
    let before = receivers_not_ready();
    suite(|| Verbs {
        options: RdmaOptions {
            links_max: 4,
            receives: RECEIVES_MIN,
            sends_max: RECEIVES_MIN,
            outbox_len_max: 16 << 10,
            send_buffers_max: 32,
            inline_len_max: 0,
            ..options()
        },
    });
    assert_eq!(receivers_not_ready(), before, "packets found no receive");
}

struct Verbs {
    options: RdmaOptions,
}

impl Fixture for Verbs {
    fn transport(&mut self) -> Box<dyn Transport> {
        Box::new(bind(self.options.clone()))
    }

    fn vacant_addr(&mut self) -> Addr {
        // Nobody listens on it once this is dropped.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Addr::new(&listener.local_addr().expect("bound").to_string())
    }

    fn raw_peer(&mut self, addr: &Addr) -> Option<Box<dyn RawPeer>> {
        Some(Box::new(Raw::connect(addr)))
    }
}

/// A peer with a queue pair of its own that sends whatever it is told.
struct Raw {
    control: TcpStream,
    channel: Channel,
    queue: CompletionQueue,
    memory: SendMemory,
    own: Introduction,
    choice: Choice,
    greeting: [u8; GREETING_LEN],
    greeting_len: usize,
    is_connected: bool,
}

impl Raw {
    fn connect(addr: &Addr) -> Self {
        let options = options();
        let choice = choose(&options, &list_devices().expect("a library")).expect("a device");
        let device = Device::open(&choice.device).expect("the device");
        let queue = CompletionQueue::create(&device, 512).expect("a queue");
        let memory = send_memory(&device, &options).expect("memory");
        let wake: Arc<dyn Wake> = Arc::new(EventFd::new().expect("an eventfd"));
        let channel =
            Channel::new(&device, &queue, &options, 7, &memory, wake, choice.port.number).expect("a channel");
        let own = Introduction {
            number: channel.number(),
            first_packet: 99,
            receives: options.receives as u16,
            mtu: choice.port.mtu as u8,
            reads: device.reads_max.min(READS_MAX) as u8,
            gid: choice.gid.map(|entry| entry.gid),
            lid: choice.port.lid,
        };
        let mut control = TcpStream::connect(addr.as_str()).expect("somebody listens");
        control.write_all(&Greeting::new(&own).to_bytes()).expect("the first bytes");
        control.set_nonblocking(true).expect("a socket");
        let greeting = [0; GREETING_LEN];
        Self { control, channel, queue, memory, own, choice, greeting, greeting_len: 0, is_connected: false }
    }

    fn try_connect(&mut self) -> bool {
        if self.is_connected {
            return true;
        }
        match self.control.read(&mut self.greeting[self.greeting_len..]) {
            Ok(len) => self.greeting_len += len,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        if self.greeting_len == GREETING_LEN {
            let peer = Greeting::parse(&self.greeting).expect("a greeting");
            let (port, source) = (self.choice.port.number, self.choice.gid.map(|entry| entry.index));
            self.channel.connect(&peer, source, port, &self.own, 16).expect("connected");
            self.control.write_all(&[READY]).expect("a byte");
            self.is_connected = true;
        }
        self.is_connected
    }

    /// Sends a packet with these immediate bits.
    fn send(&mut self, bytes: &[u8], immediate: u32) {
        let mut packet = self.memory.joining.alloc(bytes.len()).expect("a free buffer");
        packet.copy_from_slice(bytes);
        let frame = Some(packet.freeze());
        self.channel.post_raw(Outgoing { frame, immediate, is_signalled: true, is_continued: false });
    }
}

impl RawPeer for Raw {
    fn write(&mut self, bytes: &[u8]) -> bool {
        let mut completions = Vec::new();
        self.queue.poll(&mut completions, 64).expect("a queue that works");
        if !self.try_connect() {
            return false;
        }
        let receives = self.own.receives.into();
        self.send(bytes, receives);
        true
    }

    fn is_down(&mut self) -> bool {
        let mut byte = [0];
        match self.control.read(&mut byte) {
            Ok(len) => len == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// Polls until `done` finds what it looks for among the events.
fn until<T>(transport: &mut RdmaTransport, mut done: impl FnMut(&Event) -> Option<T>) -> T {
    let mut events = Vec::new();
    for pass in 0..1_000_000u64 {
        transport.poll(pass, &mut events);
        transport.flush();
        if let Some(found) = events.drain(..).find_map(|event| done(&event)) {
            return found;
        }
        if transport.arm() {
            transport.wait(Duration::from_millis(1));
        }
    }
    panic!("it did not happen");
}

fn link_with_raw(transport: &mut RdmaTransport) -> (Raw, LinkId) {
    let mut raw = Raw::connect(transport.local_addr());
    let mut events = Vec::new();
    let mut link = None;
    for pass in 0..1_000_000u64 {
        transport.poll(pass, &mut events);
        raw.try_connect();
        link = events
            .drain(..)
            .find_map(|event| matches!(event, Event::LinkUp { .. }).then(|| event.link()))
            .or(link);
        if let Some(link) = link {
            return (raw, link);
        }
        std::thread::yield_now();
    }
    panic!("no link");
}

#[test]
fn a_peer_that_announces_receives_it_cannot_have_is_cut_off() {
    let mut transport = bind(options());
    let receives = options().receives as u32;
    for immediate in [0, receives - 1, 2 * receives + 1, u32::MAX] {
        let (mut raw, link) = link_with_raw(&mut transport);
        raw.send(&FrameHeader::new(FrameKind::Ping).to_bytes(), immediate);
        let reason = until(&mut transport, |event| match *event {
            Event::LinkDown { link: down, reason } if down == link => Some(reason),
            _ => None,
        });
        assert_eq!(reason, DownReason::WindowExceeded, "{immediate}");
    }
}

#[test]
fn a_peer_that_never_posts_receives_costs_its_own_link_only() {
    let mut transport = bind(options());
    let mut other = bind(options());
    let good = other.connect(transport.local_addr(), 0).expect("room");
    until_both_up(&mut transport, &mut other, good);
    // The raw peer takes no completions and posts nothing again: sends to it end with its window.
    let (_raw, link) = link_with_raw(&mut transport);
    let frame = Frame::copy_from(&FrameHeader::new(FrameKind::Ping).to_bytes());
    let mut frames: VecDeque<_> = std::iter::repeat_n(frame.clone(), 100_000).collect();
    let mut events = Vec::new();
    for pass in 0..2_000 {
        transport.send(link, &mut frames).expect("the link is up");
        transport.flush();
        transport.poll(pass, &mut events);
    }
    assert!(!frames.is_empty(), "a window of {} packets has no end", options().receives);
    assert!(events.iter().all(|event| !matches!(event, Event::LinkDown { .. })), "{events:?}");
    other.send(good, &mut VecDeque::from([frame])).expect("the link is up");
    other.flush();
    until(&mut transport, |event| matches!(event, Event::Receive { .. }).then_some(()));
}

fn until_both_up(a: &mut RdmaTransport, b: &mut RdmaTransport, at_b: LinkId) {
    let mut events = Vec::new();
    let (mut a_is_up, mut b_is_up) = (false, false);
    for pass in 0..1_000_000u64 {
        a.poll(pass, &mut events);
        a_is_up |= events.drain(..).any(|event| matches!(event, Event::LinkUp { .. }));
        b.poll(pass, &mut events);
        b_is_up |=
            events.drain(..).any(|event| matches!(event, Event::LinkUp { .. }) && event.link() == at_b);
        if a_is_up && b_is_up {
            return;
        }
        std::thread::yield_now();
    }
    panic!("no link");
}

#[test]
fn garbage_on_the_control_connection_is_no_link() {
    let mut transport = bind(options());
    for bytes in [&b"GET / HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n"[..], &[0xff; 200], &[0; 48]]
    {
        let mut control = TcpStream::connect(transport.local_addr().as_str()).expect("somebody listens");
        control.write_all(bytes).expect("taken");
        control.set_nonblocking(true).expect("a socket");
        let mut events = Vec::new();
        let mut is_closed = false;
        for pass in 0..1_000_000u64 {
            transport.poll(pass, &mut events);
            is_closed = match control.read(&mut [0; 64]) {
                Ok(len) => len == 0,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            };
            if is_closed {
                break;
            }
            std::thread::yield_now();
        }
        assert!(is_closed && events.is_empty(), "{events:?}");
    }
}
