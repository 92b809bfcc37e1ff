//! Verbs with nothing around them: what a transport over them is held against.
//!
//! One queue pair with a window of posted receives, packets of one fixed content, no frames, no credits: whoever uses it
//! must not have more packets under way than the window. Two ends meet over a TCP stream: see [`Raw::begin`].

use crate::choice::choose;
use crate::greeting::{GREETING_LEN, Greeting, Introduction, MAX_24_BITS};
use crate::options::{RECEIVE_LEN, RECEIVES_MIN, RdmaOptions};
use crate::sys::{
    Completion, CompletionKind, CompletionQueue, Device, Outgoing, QueuePair, QueuePairSizes, Region,
    list_devices,
};
use epicserver_transport::{BufferPool, Epoll, Frame, ReceiveBlock, SizeClass};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// One end of a bare connection.
pub struct Raw {
    pair: QueuePair,
    queue: CompletionQueue,
    epoll: Epoll,
    packet: Frame,
    packets: Vec<Outgoing>,
    completions: Vec<Completion>,
    spare: Vec<ReceiveBlock>,
    unsignalled: usize,
    // Last, as the queue pair uses their memory.
    _pools: [BufferPool; 2],
}

/// One end that does not know the other yet.
pub struct Beginning {
    raw: Raw,
    own: Introduction,
    port: u8,
    source_index: Option<u8>,
    ack_timeout: u8,
}

impl Raw {
    /// Makes an end on the default device, and introduces it over `stream`. Packets have `len` bytes, and `window` of them may
    /// be under way each way.
    ///
    /// # Errors
    /// There is no device, or the stream is broken.
    ///
    /// # Panics
    /// If packets are longer than [`RECEIVE_LEN`].
    pub fn begin(mut stream: &TcpStream, len: usize, window: usize) -> io::Result<Beginning> {
        assert!(len <= RECEIVE_LEN, "packets longer than a receive");
        let options = RdmaOptions::default();
        let choice = choose(&options, &list_devices()?)?;
        let device = Device::open(&choice.device)?;
        let window = window.max(RECEIVES_MIN);
        let sizes =
            QueuePairSizes { sends: window * 2, receives: window, inline_len: options.inline_len_max };
        let queue = CompletionQueue::create(&device, sizes.sends + sizes.receives)?;
        let pool =
            |buffers_max| BufferPool::contiguous(&[SizeClass { buffer_len: RECEIVE_LEN, buffers_max }]);
        let (send_pool, receive_pool) = (pool(1), pool(window));
        let region = Arc::new(Region::register(&device, &send_pool)?);
        let receive_region = Region::register(&device, &receive_pool)?;
        let mut pair = QueuePair::create(&queue, sizes, 0, [Arc::clone(&region), region], receive_region)?;
        let port = choice.port.number;
        pair.initialise(port)?;
        let blocks = std::iter::from_fn(|| receive_pool.alloc(RECEIVE_LEN)).map(ReceiveBlock::from);
        let mut spare: Vec<_> = blocks.collect();
        pair.post_receives(&mut spare)?;
        let own = Introduction {
            number: pair.number(),
            first_packet: fastrand::u32(0..=MAX_24_BITS),
            receives: window as u16,
            mtu: choice.port.mtu as u8,
            gid: choice.gid.map(|entry| entry.gid),
            lid: choice.port.lid,
        };
        stream.write_all(&Greeting::new(&own).to_bytes())?;
        let epoll = Epoll::new()?;
        epoll.add(&queue.event_fd(), 0)?;
        let mut packet = send_pool.alloc(len).ok_or(io::ErrorKind::OutOfMemory)?;
        packet.fill(1);
        let raw = Self {
            pair,
            queue,
            epoll,
            packet: packet.freeze(),
            packets: Vec::with_capacity(window),
            completions: Vec::with_capacity(POLL_MAX),
            spare,
            unsignalled: 0,
            _pools: [send_pool, receive_pool],
        };
        let source_index = choice.gid.map(|entry| entry.index);
        Ok(Beginning { raw, own, port, source_index, ack_timeout: options.ack_timeout })
    }

    /// Sends `count` packets.
    ///
    /// # Errors
    /// The device does not take them.
    pub fn send(&mut self, count: usize) -> io::Result<()> {
        for _ in 0..count {
            self.unsignalled += 1;
            let is_signalled = self.unsignalled >= SIGNAL_EVERY;
            if is_signalled {
                self.unsignalled = 0;
            }
            self.packets.push(Outgoing { frame: Some(self.packet.clone()), immediate: 0, is_signalled });
        }
        self.pair.post_sends(&mut self.packets)
    }

    /// Takes the packets that have come, and gives how many: 0 if none has. With `park` it sleeps until one comes, at most
    /// `patience`.
    ///
    /// # Errors
    /// The connection is broken, or nothing came in time.
    pub fn receive(&mut self, park: bool, patience: Duration) -> io::Result<usize> {
        let mut received = self.take()?;
        while park && received == 0 {
            self.queue.arm()?;
            // What came before is not notified of.
            received = self.take()?;
            if received > 0 {
                break;
            }
            let mut edges = Vec::new();
            self.epoll.wait(patience, &mut edges)?;
            if edges.is_empty() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.queue.take_events();
            received = self.take()?;
        }
        Ok(received)
    }

    fn take(&mut self) -> io::Result<usize> {
        let mut received = 0;
        self.queue.poll(&mut self.completions, POLL_MAX)?;
        for completion in self.completions.drain(..) {
            match completion.kind {
                CompletionKind::Sent { sequence } => {
                    self.pair.complete_sends(sequence);
                }
                CompletionKind::Received { slot, len, .. } => {
                    let mut block = self.pair.take_received(slot, len).ok_or(io::ErrorKind::InvalidData)?;
                    block.rewind(len as usize);
                    self.spare.push(block);
                    received += 1;
                }
                CompletionKind::Failed { status } => {
                    return Err(io::Error::other(format!("the queue pair failed with status {status}")));
                }
            }
        }
        self.pair.post_receives(&mut self.spare)?;
        Ok(received)
    }
}

impl Beginning {
    /// Joins it to the other end, whose introduction comes over `stream`. The end that sends first must be joined last.
    ///
    /// # Errors
    /// The stream is broken, or what came is no introduction.
    pub fn finish(self, mut stream: &TcpStream) -> io::Result<Raw> {
        let Self { mut raw, own, port, source_index, ack_timeout } = self;
        let mut greeting = [0; GREETING_LEN];
        stream.read_exact(&mut greeting)?;
        let refused = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let peer = Greeting::parse(&greeting).map_err(refused)?;
        let remote = peer.remote(source_index).map_err(refused)?;
        raw.pair.connect(&remote, port, own.mtu.min(peer.mtu).into(), own.first_packet, ack_timeout)?;
        Ok(raw)
    }
}

/// A packet out of so many is reported by the device; more than that are never unreported, so the send queue, which holds twice the
/// window, does not fill.
const SIGNAL_EVERY: usize = 16;
const POLL_MAX: usize = 64;
