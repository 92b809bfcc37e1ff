//! Verbs with nothing around them: what a transport over them is held against.
//!
//! One queue pair with a window of posted receives, packets of one fixed content, no frames, no credits: whoever uses it
//! must not have more packets under way than the window. Two ends meet over a TCP stream: see [`Raw::begin`]. [`Reads`] are the
//! same for memory that is read.

use crate::bulk::Offer;
use crate::choice::choose;
use crate::greeting::{GREETING_LEN, Greeting, Introduction, MAX_24_BITS};
use crate::options::{RECEIVE_LEN, RECEIVES_MIN, RdmaOptions};
use crate::sys::{
    Completion, CompletionKind, CompletionQueue, Device, Done, Memory, Outgoing, QueuePair, QueuePairSizes,
    Region, list_devices,
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
        let sizes = QueuePairSizes {
            sends: window * 2,
            receives: window,
            windows: 0,
            inline_len: options.inline_len_max,
        };
        let queue = CompletionQueue::create(&device, sizes.sends + sizes.receives)?;
        let pool =
            |buffers_max| BufferPool::contiguous(&[SizeClass { buffer_len: RECEIVE_LEN, buffers_max }]);
        let (send_pool, receive_pool) = (pool(1), pool(window));
        let region = Arc::new(Region::register(&device, &send_pool)?);
        let receive_region = Region::register(&device, &receive_pool)?;
        let send = [Arc::clone(&region), region];
        let memory = Memory { send, receive: receive_region, read: None, shown: None };
        let mut pair = QueuePair::create(&queue, sizes, 0, memory)?;
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
            reads: 1,
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
            let frame = Some(self.packet.clone());
            self.packets.push(Outgoing { frame, immediate: 0, is_signalled, is_continued: false });
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
        raw.pair.connect(&remote, port, own.mtu.min(peer.mtu).into(), own.first_packet, ack_timeout, 1)?;
        Ok(raw)
    }
}

/// Bare reads, with both ends in this process: a frame of one end is read by the other again and again.
pub struct Reads {
    // Queue pairs before the memory that they use.
    reader: QueuePair,
    _shower: QueuePair,
    queue: CompletionQueue,
    _queue_of_shower: CompletionQueue,
    offer: Offer,
    spare: Vec<ReceiveBlock>,
    completions: Vec<Completion>,
}

impl Reads {
    /// Makes both ends on the default device. The frame has `len` bytes; `window` reads of it may be under way.
    ///
    /// # Errors
    /// There is no device, or it has no windows.
    pub fn begin(len: usize, window: usize) -> io::Result<Self> {
        let options = RdmaOptions::default();
        let choice = choose(&options, &list_devices()?)?;
        let device = Device::open(&choice.device)?;
        let class = |buffers_max| [SizeClass { buffer_len: len, buffers_max }];
        let (shown_pool, read_pool) = (BufferPool::shown(&class(1)), BufferPool::contiguous(&class(window)));
        let small = BufferPool::contiguous(&[SizeClass { buffer_len: 64, buffers_max: 1 }]);
        let small_region = Arc::new(Region::register(&device, &small)?);
        let shown = Arc::new(Region::register_each(&device, &shown_pool)?);
        let end = |windows| {
            let queue = CompletionQueue::create(&device, 4 * window)?;
            let sizes = QueuePairSizes { sends: 2 * window, receives: window, windows, inline_len: 0 };
            let memory = Memory {
                send: [Arc::clone(&small_region), Arc::clone(&small_region)],
                receive: Region::register(&device, &small)?,
                read: Some(Region::register(&device, &read_pool)?),
                shown: Some(Arc::clone(&shown)),
            };
            let mut pair = QueuePair::create(&queue, sizes, 0, memory)?;
            pair.initialise(choice.port.number)?;
            Ok::<_, io::Error>((pair, queue))
        };
        let ((mut reader, queue), (mut shower, queue_of_shower)) = (end(0)?, end(1)?);
        let introduction = |pair: &QueuePair| Introduction {
            number: pair.number(),
            first_packet: fastrand::u32(0..=MAX_24_BITS),
            receives: window as u16,
            mtu: choice.port.mtu as u8,
            reads: window as u8,
            gid: choice.gid.map(|entry| entry.gid),
            lid: choice.port.lid,
        };
        let (here, there) = (introduction(&reader), introduction(&shower));
        let (port, source_index) = (choice.port.number, choice.gid.map(|entry| entry.index));
        for (pair, own, peer) in [(&mut reader, here, there), (&mut shower, there, here)] {
            let refused = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let remote = peer.remote(source_index).map_err(refused)?;
            pair.connect(&remote, port, own.mtu.into(), own.first_packet, options.ack_timeout, window as u8)?;
        }
        let mut frame = shown_pool.alloc(len).ok_or(io::ErrorKind::OutOfMemory)?;
        frame.fill(1);
        let offer = shower.offer(frame.freeze())?;
        let spare = std::iter::from_fn(|| read_pool.alloc(len)).map(ReceiveBlock::from).collect();
        let (completions, _queue_of_shower) = (Vec::with_capacity(POLL_MAX), queue_of_shower);
        Ok(Self { reader, _shower: shower, queue, _queue_of_shower, offer, spare, completions })
    }

    /// Reads the frame so many times.
    ///
    /// # Errors
    /// The connection is broken, or nothing came in time.
    pub fn read(&mut self, count: usize) -> io::Result<()> {
        let (mut begun, mut done, mut looks) = (0, 0, 0);
        while done < count {
            while begun < count
                && let Some(block) = self.spare.pop()
            {
                self.reader.read(block, &self.offer)?;
                begun += 1;
            }
            self.queue.poll(&mut self.completions, POLL_MAX)?;
            looks = if self.completions.is_empty() { looks + 1 } else { 0 };
            if looks > LOOKS_MAX {
                return Err(io::ErrorKind::TimedOut.into());
            }
            for completion in self.completions.drain(..) {
                if let CompletionKind::Sent { sequence } = completion.kind {
                    self.reader.complete_sends(sequence);
                } else {
                    return Err(io::Error::other(format!("a read failed: {:?}", completion.kind)));
                }
            }
            while let Some(Done::Read(mut block)) = self.reader.next_done() {
                block.rewind(self.offer.len as usize);
                self.spare.push(block);
                done += 1;
            }
        }
        Ok(())
    }
}

/// Looks until a connection counts as broken: minutes where they take a microsecond.
const LOOKS_MAX: u32 = 1 << 27;
/// A packet out of so many is reported by the device; more than that are never unreported, so the send queue, which holds twice the
/// window, does not fill.
const SIGNAL_EVERY: usize = 16;
const POLL_MAX: usize = 64;
