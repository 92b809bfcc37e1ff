//! One link over its queue pair: frames into packets, packets into blocks, credits; long frames by reading ([`bulk`](crate::bulk)).

#[cfg(test)]
use crate::bulk::Offer;
use crate::bulk::{BadOffer, Incoming, OFFERS_MAX, READS_MAX, WORD_LEN, Word};
use crate::credits::Credits;
use crate::greeting::Introduction;
use crate::options::{BULK_LEN, RECEIVE_LEN, RdmaOptions};
#[cfg(test)]
use crate::sys::Hostile;
use crate::sys::{
    CompletionQueue, Device, Done, Memory, Outgoing, PARTS_MAX, POST_BATCH, QueuePair, QueuePairSizes, Region,
};
use epicserver_transport::{BufferPool, DownReason, Frame, ReceiveBlock, SizeClass, Wake};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// What all links of a transport send from.
pub(crate) struct SendMemory {
    /// Where frames lie that were allocated for this transport.
    pub(crate) pool: BufferPool,
    /// Where short frames are joined into packets.
    pub(crate) joining: BufferPool,
    pub(crate) regions: [Arc<Region>; 2],
    /// The regions of the buffers for long frames, if there are such.
    pub(crate) shown: Option<Arc<Vec<Region>>>,
}

/// A queue pair with its buffers and counts.
pub(crate) struct Channel {
    // First, so that it is gone before the memory is.
    pair: QueuePair,
    credits: Credits,
    receive_pool: BufferPool,
    /// Where long frames of the peer are read into, if the link carries such.
    read_pool: Option<BufferPool>,
    incoming: Incoming,
    /// Frames that were read, which the peer is not told yet.
    taken: u32,
    /// Frames that the peer has read, and whose windows are open.
    to_close: u32,
    /// Blocks on their way to being posted.
    spare: Vec<ReceiveBlock>,
    /// Receives that are posted again at once, while more comes: the peer always has most of them.
    receive_batch: usize,
    /// Receives of empty packets that are not posted again yet.
    empty_received: u32,
    /// Packets being made, in parts.
    packets: Vec<Outgoing>,
    /// The parts of the next one; empty between two.
    parts: Vec<Frame>,
    /// Packets since the last one that the device reports.
    unsignalled: usize,
    sends_max: usize,
}

impl Channel {
    /// A queue pair with all its receives posted, not connected to anything.
    pub(crate) fn new(
        device: &Arc<Device>,
        queue: &CompletionQueue,
        options: &RdmaOptions,
        tag: u32,
        memory: &SendMemory,
        wake: Arc<dyn Wake>,
        port: u8,
    ) -> io::Result<Self> {
        let class = SizeClass { buffer_len: RECEIVE_LEN, buffers_max: options.receives };
        let receive_pool = BufferPool::contiguous(&[class]);
        receive_pool.wake_on_return(Arc::clone(&wake));
        let read_pool = memory.shown.as_ref().map(|_| {
            let class = SizeClass { buffer_len: BULK_LEN, buffers_max: READS_MAX };
            let pool = BufferPool::contiguous(&[class]);
            pool.wake_on_return(wake);
            pool
        });
        let region = Region::register(device, &receive_pool)?;
        let read = read_pool.as_ref().map(|pool| Region::register(device, pool)).transpose()?;
        let sizes = QueuePairSizes {
            sends: options.sends_max,
            receives: options.receives,
            windows: if memory.shown.is_some() { OFFERS_MAX } else { 0 },
            inline_len: options.inline_len_max,
        };
        let memory = Memory {
            send: memory.regions.each_ref().map(Arc::clone),
            receive: region,
            read,
            shown: memory.shown.clone(),
        };
        let mut pair = QueuePair::create(queue, sizes, tag, memory)?;
        pair.initialise(port)?;
        let receives = options.receives as u32;
        let mut channel = Self {
            pair,
            credits: Credits::new(receives, receives),
            receive_pool,
            read_pool,
            incoming: Incoming::new(0),
            taken: 0,
            to_close: 0,
            spare: Vec::with_capacity(options.receives),
            receive_batch: (options.receives / 4).min(POST_BATCH),
            empty_received: 0,
            packets: Vec::with_capacity(options.sends_max),
            parts: Vec::with_capacity(PARTS_MAX),
            unsignalled: 0,
            sends_max: options.sends_max,
        };
        channel.fill_spare();
        channel.pair.post_receives(&mut channel.spare)?;
        Ok(channel)
    }

    /// Number of the queue pair.
    pub(crate) fn number(&self) -> u32 {
        self.pair.number()
    }

    /// Joins it to the other end.
    pub(crate) fn connect(
        &mut self,
        peer: &Introduction,
        source_index: Option<u8>,
        port: u8,
        own: &Introduction,
        ack_timeout: u8,
    ) -> io::Result<()> {
        let refused = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let remote = peer.remote(source_index).map_err(refused)?;
        let mtu = own.mtu.min(peer.mtu).into();
        let reads = own.reads.min(peer.reads);
        self.pair.connect(&remote, port, mtu, own.first_packet, ack_timeout, reads)?;
        self.incoming = Incoming::new(if self.read_pool.is_some() { reads.into() } else { 0 });
        self.credits = Credits::new(own.receives.into(), peer.receives.into());
        Ok(())
    }

    /// Posts as many frames as credits, queue and memory allow, and an announcement if one is due and nothing else carried it.
    /// Returns the bytes that left `outbox`.
    pub(crate) fn send(&mut self, outbox: &mut VecDeque<Frame>, memory: &SendMemory) -> io::Result<usize> {
        // First, so that what is sent carries the news of them.
        self.post_receives(false)?;
        while self.to_close > 0 && self.has_room(0) {
            // Behind the packets that were made before.
            self.post()?;
            self.pair.close_window()?;
            self.to_close -= 1;
        }
        let mut taken_len = 0;
        if self.taken > 0 && self.may_send_data() && self.push_word(Word::Taken(self.taken), memory) {
            self.taken = 0;
        }
        while !outbox.is_empty() && self.may_send_data() {
            if outbox[0].len() > RECEIVE_LEN {
                let Some(len) = self.offer(outbox, memory)? else { break };
                taken_len += len;
                continue;
            }
            if outbox.len() == 1 && outbox[0].len() <= self.pair.inline_len_max() {
                // The device copies it.
                taken_len += outbox[0].len();
                self.push(outbox.pop_front());
                break;
            }
            let parts_max = self.pair.parts_max();
            if !take_packet(outbox, &memory.joining, &memory.pool, parts_max, &mut self.parts) {
                break;
            }
            taken_len += self.parts.iter().map(|part| part.len()).sum::<usize>();
            self.push_parts();
        }
        if self.credits.wants_announcement() && self.has_room(0) {
            self.push(None);
        }
        self.post()?;
        Ok(taken_len)
    }

    /// Offers the long frame in front, if there is a window; gives its length.
    fn offer(&mut self, outbox: &mut VecDeque<Frame>, memory: &SendMemory) -> io::Result<Option<usize>> {
        // A word that finds no buffer would leave a window open that nobody knows of.
        if !self.pair.has_window() || !self.has_room(SENDS_RESERVED + 1) || !has_free(&memory.joining) {
            return Ok(None);
        }
        let Some(frame) = outbox.pop_front() else { return Ok(None) };
        let len = frame.len();
        self.post()?;
        let offer = self.pair.offer(frame)?;
        if !self.push_word(Word::Offer(offer), memory) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(Some(len))
    }

    /// Makes a packet of a word, if there is a buffer for it.
    fn push_word(&mut self, word: Word, memory: &SendMemory) -> bool {
        let Some(mut packet) = memory.joining.alloc(WORD_LEN) else { return false };
        packet.copy_from_slice(&word.to_bytes());
        self.push(Some(packet.freeze()));
        true
    }

    fn may_send_data(&self) -> bool {
        self.credits.allows_data() && self.has_room(SENDS_RESERVED)
    }

    /// Sees to it that the device reports the last packet: what is reported is delivered.
    pub(crate) fn ask_for_last(&mut self) -> io::Result<()> {
        if self.unsignalled > 0 && self.credits.allows_any() && self.has_room(0) {
            self.push(None);
            if let Some(last) = self.packets.last_mut() {
                last.is_signalled = true;
            }
            self.unsignalled = 0;
            self.post()?;
        }
        Ok(())
    }

    /// Whether the peer has everything that was sent.
    pub(crate) fn is_delivered(&self) -> bool {
        self.pair.in_flight() == 0 && self.pair.offers() == 0
    }

    fn has_room(&self, reserved: usize) -> bool {
        self.pair.in_flight() + self.packets.len() + reserved < self.sends_max
    }

    /// Makes a packet of the parts.
    fn push_parts(&mut self) {
        let mut parts = std::mem::take(&mut self.parts);
        let mut each = parts.drain(..);
        self.push(each.next());
        self.packets.extend(each.map(|frame| Outgoing {
            frame: Some(frame),
            immediate: 0,
            is_signalled: false,
            is_continued: true,
        }));
        self.parts = parts;
    }

    fn push(&mut self, frame: Option<Frame>) {
        self.unsignalled += 1;
        // A quarter of the queue at most, so that packets nobody hears of never fill it.
        let is_signalled = self.unsignalled >= SIGNAL_EVERY.min(self.sends_max / 4);
        if is_signalled {
            self.unsignalled = 0;
        }
        let immediate = self.credits.send();
        self.packets.push(Outgoing { frame, immediate, is_signalled, is_continued: false });
    }

    fn post(&mut self) -> io::Result<()> {
        let inline_len_max = self.pair.inline_len_max();
        // What the device reads later is held until it reports: soon, so that buffers come back.
        let is_long =
            |packet: &Outgoing| packet.frame.as_ref().is_some_and(|frame| frame.len() > inline_len_max);
        if self.packets.iter().any(is_long)
            && let Some(last) = self.packets.last_mut()
        {
            last.is_signalled = true;
            self.unsignalled = 0;
        }
        self.pair.post_sends(&mut self.packets)
    }

    /// Requests up to this one are done. Gives how many long frames are with the peer, and their buffers free. `None` if there was no such
    /// request.
    pub(crate) fn complete_sends(&mut self, sequence: u32) -> Option<usize> {
        if !self.pair.complete_sends(sequence) {
            return None;
        }
        let mut closed = 0;
        while let Some(done) = self.pair.next_done() {
            match done {
                Done::Read(frame) => {
                    self.incoming.end_read(frame);
                    self.taken += 1;
                }
                Done::Closed => closed += 1,
            }
        }
        Some(closed)
    }

    /// Whether a long frame holds anything up, itself included.
    pub(crate) fn is_held_up(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// What a long frame held up.
    pub(crate) fn next_block(&mut self) -> Option<ReceiveBlock> {
        self.incoming.pop()
    }

    /// Takes a packet that came: a block of frames, or nothing if it was an announcement, a word, or has to wait.
    pub(crate) fn receive(
        &mut self,
        slot: u16,
        len: u32,
        immediate: u32,
    ) -> Result<Option<ReceiveBlock>, DownReason> {
        let block = self.pair.take_received(slot, len).ok_or(BROKEN)?;
        self.credits.receive(immediate).map_err(|_| DownReason::WindowExceeded)?;
        if len == 0 {
            self.empty_received += 1;
            return Ok(None);
        }
        if let Some(word) = Word::parse(block.filled()) {
            drop(block);
            return self.take_word(word).map(|()| None);
        }
        Ok(self.incoming.push(block))
    }

    fn take_word(&mut self, word: Word) -> Result<(), DownReason> {
        match word {
            Word::Offer(offer) => self.incoming.offer(offer).map_err(|bad| match bad {
                BadOffer::TooMany => DownReason::WindowExceeded,
                BadOffer::Length => BROKEN,
            }),
            Word::Taken(count) => {
                // The peer can have read no more than it was shown.
                let open = (self.pair.offers() as u32).saturating_sub(self.to_close);
                if count == 0 || count > open {
                    return Err(BROKEN);
                }
                self.to_close += count;
                Ok(())
            }
        }
    }

    /// Reads what the peer has offered, as far as there are buffers for it.
    pub(crate) fn start_reads(&mut self) -> io::Result<()> {
        while let Some(offer) = self.incoming.next_to_read()
            && self.has_room(0)
            && let Some(buffer) = self.read_pool.as_ref().and_then(|pool| pool.alloc(BULK_LEN))
        {
            self.pair.read(buffer.into(), &offer)?;
            self.incoming.begin_read();
        }
        Ok(())
    }

    /// Posts receives again whose frames were all dropped: so many at once that each costs little, or, while there is nothing else to
    /// do, whatever there is.
    #[inline]
    pub(crate) fn post_receives(&mut self, is_idle: bool) -> io::Result<()> {
        self.start_reads()?;
        let not_posted = self.pair.free_receives();
        if not_posted >= self.receive_batch || (is_idle && not_posted > 0) {
            return self.post_dropped();
        }
        Ok(())
    }

    fn post_dropped(&mut self) -> io::Result<()> {
        self.fill_spare();
        let posted = self.pair.post_receives(&mut self.spare)? as u32;
        let of_empty = self.empty_received.min(posted);
        self.empty_received -= of_empty;
        self.credits.post(posted - of_empty, of_empty);
        Ok(())
    }

    /// Asks for a wake when a receive buffer comes back, if the peer could be waiting for it.
    pub(crate) fn arm_return(&mut self) -> io::Result<()> {
        if self.pair.free_receives() > 0 {
            self.receive_pool.arm_return();
            // One may have come back before anybody could know that it is waited for.
            self.post_dropped()?;
        }
        if let (Some(pool), Some(_)) = (&self.read_pool, self.incoming.next_to_read()) {
            pool.arm_return();
            self.start_reads()?;
        }
        Ok(())
    }

    /// Whether [`Channel::send`] has something to say although there is nothing to send.
    pub(crate) fn wants_word(&self) -> bool {
        let is_free = self.has_room(0);
        let has_taken = self.taken > 0 && self.may_send_data();
        is_free && (self.credits.wants_announcement() || self.to_close > 0 || has_taken)
    }

    /// Sends a packet outside of all counts, as only a peer that lies does.
    #[cfg(test)]
    pub(crate) fn post_raw(&mut self, packet: Outgoing) {
        self.pair.post_sends(&mut vec![packet]).expect("the queue pair works");
    }

    /// Posts what only a peer with bad intentions does.
    #[cfg(test)]
    pub(crate) fn post_hostile(&mut self, request: Hostile, frame: Frame) {
        self.pair.post_hostile(request, frame).expect("the queue pair works");
    }

    /// What the peer has offered and is not read.
    #[cfg(test)]
    pub(crate) fn offered(&self) -> Option<Offer> {
        self.incoming.next_to_read()
    }

    /// Forces the queue pair into error.
    #[cfg(test)]
    pub(crate) fn fail(&mut self) {
        self.pair.fail().expect("a queue pair may always fail");
    }

    fn fill_spare(&mut self) {
        while self.spare.len() < self.pair.free_receives()
            && let Some(buffer) = self.receive_pool.alloc(RECEIVE_LEN)
        {
            self.spare.push(buffer.into());
        }
    }
}

/// Takes the frames of one packet from the front of `outbox`, and gives its parts. A long frame from the pool of the transport goes from
/// where it lies, and the device gathers as many as fit; others are joined by copying, since the device's work for each part costs
/// more than that. `false`: there is no buffer to join them in until sends are done.
fn take_packet(
    outbox: &mut VecDeque<Frame>,
    joining: &BufferPool,
    pool: &BufferPool,
    parts_max: usize,
    parts: &mut Vec<Frame>,
) -> bool {
    let is_registered = |frame: &Frame| pool.holds(frame);
    let goes_as_it_is = |frame: &Frame| frame.len() > JOINED_FRAME_LEN_MAX && is_registered(frame);
    let mut room = RECEIVE_LEN;
    while parts.len() < parts_max
        && let Some(first) = outbox.front().filter(|first| first.len() <= room)
    {
        let (mut count, mut len) = (0, 0);
        for frame in outbox.iter().take_while(|frame| !goes_as_it_is(frame)) {
            if len + frame.len() > room {
                break;
            }
            (count, len) = (count + 1, len + frame.len());
        }
        let part = if count == 0 || count == 1 && is_registered(first) {
            outbox.pop_front()
        } else {
            join(outbox, count, len, joining)
        };
        let Some(part) = part else { break };
        room -= part.len();
        parts.push(part);
    }
    !parts.is_empty()
}

/// Copies so many frames, of this length together, one behind the other. `None`: there is no buffer for that.
fn join(outbox: &mut VecDeque<Frame>, count: usize, len: usize, joining: &BufferPool) -> Option<Frame> {
    let mut packet = joining.alloc(len)?;
    let mut at = 0;
    for frame in outbox.drain(..count) {
        packet[at..at + frame.len()].copy_from_slice(&frame);
        at += frame.len();
    }
    Some(packet.freeze())
}

fn has_free(pool: &BufferPool) -> bool {
    pool.alloc(WORD_LEN).is_some()
}

const BROKEN: DownReason = DownReason::Failed(io::ErrorKind::InvalidData);
/// A packet out of so many is reported by the device; a report says that all before it are done.
const SIGNAL_EVERY: usize = 16;
/// Places of the send queue that only announcements use.
const SENDS_RESERVED: usize = 4;
/// Longer frames of the transport's own pool are not copied.
const JOINED_FRAME_LEN_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn pools() -> (BufferPool, BufferPool) {
        let pool =
            |buffers_max| BufferPool::contiguous(&[SizeClass { buffer_len: RECEIVE_LEN, buffers_max }]);
        (pool(8), pool(2))
    }

    fn frame(pool: Option<&BufferPool>, len: usize, byte: u8) -> Frame {
        let Some(pool) = pool else { return Frame::copy_from(&vec![byte; len]) };
        let mut buffer = pool.alloc(len).expect("a free buffer");
        buffer.fill(byte);
        buffer.freeze()
    }

    /// The next packet: where each of its parts lies, and all bytes.
    fn take(
        outbox: &mut VecDeque<Frame>,
        joining: &BufferPool,
        pool: &BufferPool,
    ) -> Option<(Vec<Frame>, Vec<u8>)> {
        let mut parts = Vec::new();
        let bytes = |parts: &[Frame]| parts.iter().flat_map(|part| part.to_vec()).collect();
        take_packet(outbox, joining, pool, PARTS_MAX, &mut parts).then(|| (parts.clone(), bytes(&parts)))
    }

    #[test]
    fn short_frames_are_joined_and_long_ones_are_not_copied() {
        let (pool, joining) = pools();
        let long = frame(Some(&pool), 4096, 3);
        let frames = [
            frame(Some(&pool), 64, 1),
            frame(None, 128, 2),
            long.clone(),
            frame(None, 4096, 4),
            frame(None, 4096, 5),
            frame(None, 16, 6),
        ];
        let mut outbox = VecDeque::from(frames.clone());
        let (parts, bytes) = take(&mut outbox, &joining, &pool).expect("a buffer");
        assert!(bytes.iter().eq(frames.iter().flat_map(|frame| frame.iter())));
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [192, 4096, 8208]);
        assert_eq!(parts[1].buffer_id(), long.buffer_id());
        assert_eq!(joining.outstanding(), 2);
        // Without a buffer to join them in they wait.
        outbox.extend([frame(None, 64, 7), frame(None, 64, 8)]);
        assert_eq!(take(&mut outbox, &joining, &pool), None);
        assert_eq!(outbox.len(), 2);
    }

    #[test]
    fn a_packet_has_as_many_long_frames_as_a_receive_and_the_device_take() {
        let (pool, joining) = pools();
        let long =
            |count: usize, len| (0..count).map(|_| frame(Some(&pool), len, 9)).collect::<VecDeque<_>>();
        let parts = |outbox: &mut VecDeque<Frame>| {
            std::iter::from_fn(|| take(outbox, &joining, &pool))
                .map(|(parts, _)| parts.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(parts(&mut long(7, 4192)), [3, 3, 1]);
        assert_eq!(parts(&mut long(6, 3000)), [PARTS_MAX, 2]);
        assert_eq!(parts(&mut long(2, RECEIVE_LEN)), [1, 1]);
        assert_eq!(joining.outstanding(), 0);
    }
}
