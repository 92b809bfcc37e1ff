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
    CompletionQueue, Device, Done, Memory, Outgoing, POST_BATCH, QueuePair, QueuePairSizes, Region,
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
    /// Packets being made.
    packets: Vec<Outgoing>,
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
            let Some(frame) = next_packet(outbox, &memory.joining, self.pair.inline_len_max(), &memory.pool)
            else {
                break;
            };
            taken_len += frame.len();
            self.push(Some(frame));
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

    fn push(&mut self, frame: Option<Frame>) {
        self.unsignalled += 1;
        // A quarter of the queue at most, so that packets nobody hears of never fill it.
        let is_signalled = self.unsignalled >= SIGNAL_EVERY.min(self.sends_max / 4);
        if is_signalled {
            self.unsignalled = 0;
        }
        self.packets.push(Outgoing { frame, immediate: self.credits.send(), is_signalled });
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

/// Takes frames for one packet from the front of `outbox`. A long frame from the pool of the transport goes from where it lies;
/// others are joined by copying while they fit, since the device's work for each packet costs more than that. `None`: there is no
/// buffer to join them in until sends are done.
fn next_packet(
    outbox: &mut VecDeque<Frame>,
    joining: &BufferPool,
    inline_len_max: usize,
    pool: &BufferPool,
) -> Option<Frame> {
    let first = outbox.front()?;
    let is_registered = |frame: &Frame| pool.holds(frame);
    let (mut count, mut total_len) = (0, 0);
    for frame in outbox.iter() {
        let goes_alone = frame.len() > JOINED_FRAME_LEN_MAX && is_registered(frame);
        if count > 0 && (goes_alone || total_len + frame.len() > RECEIVE_LEN) {
            break;
        }
        (count, total_len) = (count + 1, total_len + frame.len());
        if goes_alone {
            break;
        }
    }
    if count == 1 && (total_len <= inline_len_max || is_registered(first)) {
        return outbox.pop_front();
    }
    let mut packet = joining.alloc(total_len)?;
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

    #[test]
    fn short_frames_share_a_packet_and_long_ones_are_not_copied() {
        let (pool, joining) = pools();
        let long = frame(Some(&pool), 4096, 3);
        let long_id = long.buffer_id();
        let mut outbox = VecDeque::from([
            frame(Some(&pool), 64, 1),
            frame(None, 128, 2),
            long,
            frame(None, 4096, 4),
            frame(None, 4096, 5),
            frame(None, 16, 6),
        ]);
        let mut packets = Vec::new();
        for _ in 0..2 {
            packets.push(next_packet(&mut outbox, &joining, 200, &pool).expect("a buffer"));
        }
        assert_eq!(*packets[0], [&[1; 64][..], &[2; 128]].concat());
        assert_eq!((packets[1].buffer_id(), packets[1].len()), (long_id, 4096));
        let joined = next_packet(&mut outbox, &joining, 200, &pool).expect("a buffer");
        assert_eq!(joined.len(), 8192);
        // A frame alone that the device copies needs no buffer; without one to join in, the rest waits.
        assert_eq!(joining.outstanding(), 2);
        assert_eq!(next_packet(&mut outbox, &joining, 200, &pool).expect("short").len(), 16);
        outbox.extend([frame(None, 64, 7), frame(None, 64, 8)]);
        assert_eq!(next_packet(&mut outbox, &joining, 200, &pool), None);
        assert_eq!(outbox.len(), 2);
    }
}
