//! Completion queues and queue pairs.
#![allow(unsafe_code)]

use super::device::{Device, checked, non_null, set_nonblocking};
use super::library::Library;
#[cfg(test)]
use super::request::Hostile;
use super::request::{
    Completion, CompletionKind, Destination, Done, Held, Memory, Outgoing, QueuePairSizes, Remote,
};
use crate::bulk::Offer;
use epicserver_transport::{Frame, ReceiveBlock};
use rdma_sys::{
    bind_mw_t, ibv_access_flags, ibv_ah_attr, ibv_alloc_mw, ibv_comp_channel, ibv_cq, ibv_dealloc_mw,
    ibv_gid, ibv_global_route, ibv_mw, ibv_mw_bind_info, ibv_mw_type, ibv_poll_cq, ibv_post_recv,
    ibv_post_send, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_cap, ibv_qp_init_attr, ibv_qp_state,
    ibv_qp_type, ibv_recv_wr, ibv_req_notify_cq, ibv_send_flags, ibv_send_wr, ibv_sge, ibv_wc, ibv_wc_opcode,
    ibv_wc_status, ibv_wr_opcode, rdma_t,
};
use std::collections::VecDeque;
use std::ffi::{c_int, c_uint};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// Where the device reports what is done, for every queue pair of the transport, with a descriptor to sleep on.
pub(crate) struct CompletionQueue {
    shared: Arc<CqHandle>,
    /// Notifications taken and not acknowledged: that takes a lock, and is done for many at once.
    unacknowledged: c_uint,
}

/// The objects of the library; queue pairs hold them too.
struct CqHandle {
    cq: NonNull<ibv_cq>,
    channel: NonNull<ibv_comp_channel>,
    device: Arc<Device>,
}

// SAFETY: verbs objects may be used from any thread, the library locks where it must.
unsafe impl Send for CqHandle {}
// SAFETY: as above.
unsafe impl Sync for CqHandle {}

impl CompletionQueue {
    /// A queue for `len` completions.
    pub(crate) fn create(device: &Arc<Device>, len: usize) -> io::Result<Self> {
        let library = device.context.library;
        // SAFETY: an open device.
        let channel = non_null(unsafe { (library.create_comp_channel)(device.context.raw()) })?;
        let destroy_channel = |error| {
            // SAFETY: just made, and nothing uses it.
            unsafe { (library.destroy_comp_channel)(channel.as_ptr()) };
            error
        };
        // SAFETY: a channel lives until it is destroyed.
        set_nonblocking(unsafe { channel.as_ref().fd }).map_err(destroy_channel)?;
        // SAFETY: an open device and a channel of it.
        let cq = unsafe {
            (library.create_cq)(device.context.raw(), len as c_int, ptr::null_mut(), channel.as_ptr(), 0)
        };
        let cq = non_null(cq).map_err(destroy_channel)?;
        Ok(Self { shared: Arc::new(CqHandle { cq, channel, device: Arc::clone(device) }), unacknowledged: 0 })
    }

    /// Appends what is done, at most `count_max` of it; no system call.
    pub(crate) fn poll(&mut self, completions: &mut Vec<Completion>, count_max: usize) -> io::Result<usize> {
        let mut found = 0;
        while found < count_max {
            let mut batch = [const { MaybeUninit::<ibv_wc>::uninit() }; POLL_BATCH];
            let wanted = POLL_BATCH.min(count_max - found);
            // SAFETY: a queue, and room for as many as are asked for.
            let count =
                unsafe { ibv_poll_cq(self.shared.cq.as_ptr(), wanted as c_int, batch.as_mut_ptr().cast()) };
            let count =
                usize::try_from(count).map_err(|_| io::Error::other("the completion queue is broken"))?;
            for wc in batch.iter().take(count) {
                // SAFETY: the library has written the first `count`.
                completions.push(completion(unsafe { wc.assume_init_ref() }));
            }
            found += count;
            if count < wanted {
                break;
            }
        }
        Ok(found)
    }

    /// Asks for a notification at the next completion. Poll again before sleeping: what came before is not notified of.
    pub(crate) fn arm(&self) -> io::Result<()> {
        // SAFETY: a queue.
        checked(unsafe { ibv_req_notify_cq(self.shared.cq.as_ptr(), 0) })
    }

    /// A descriptor that is readable while there are notifications.
    pub(crate) fn event_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel keeps its descriptor open while it lives.
        unsafe { BorrowedFd::borrow_raw(self.shared.channel.as_ref().fd) }
    }

    /// Takes the notifications that are there.
    pub(crate) fn take_events(&mut self) {
        let library = self.shared.library();
        loop {
            let (mut cq, mut context) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: a channel that does not block, and room for the answers.
            let result = unsafe {
                (library.get_cq_event)(self.shared.channel.as_ptr(), &raw mut cq, &raw mut context)
            };
            if result != 0 {
                break;
            }
            self.unacknowledged += 1;
        }
        if self.unacknowledged >= ACKNOWLEDGE_AT {
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        let count = std::mem::take(&mut self.unacknowledged);
        // SAFETY: that many events of this queue were taken and not acknowledged.
        unsafe { (self.shared.library().ack_cq_events)(self.shared.cq.as_ptr(), count) };
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // Destroying the queue waits for it.
        self.acknowledge();
    }
}

impl CqHandle {
    fn library(&self) -> &'static Library {
        self.device.context.library
    }
}

impl Drop for CqHandle {
    fn drop(&mut self) {
        let library = self.library();
        // SAFETY: made once each; queue pairs of the queue hold this, so they are gone.
        unsafe {
            (library.destroy_cq)(self.cq.as_ptr());
            if (library.destroy_comp_channel)(self.channel.as_ptr()) != 0 {
                // A queue that went with its device still counts as a user of the channel, which then stays as it was, descriptor and
                // all. Nothing uses that any more.
                libc::close(self.channel.as_ref().fd);
            }
        }
    }
}

fn completion(wc: &ibv_wc) -> Completion {
    let tag = (wc.wr_id >> 32) as u32;
    let kind = if wc.status != ibv_wc_status::IBV_WC_SUCCESS {
        CompletionKind::Failed { status: wc.status }
    } else if wc.wr_id as u32 & RECEIVE_BIT == 0 {
        CompletionKind::Sent { sequence: wc.wr_id as u32 }
    } else {
        debug_assert!(wc.opcode == ibv_wc_opcode::IBV_WC_RECV, "only sends arrive");
        // SAFETY: both fields of the union are 32 bits of any value; our packets carry immediate bits, and the packet of a
        // peer that sends without them has some number here, which is checked as any other.
        let immediate = unsafe { wc.imm_data_invalidated_rkey_union.imm_data };
        CompletionKind::Received {
            slot: wc.wr_id as u16,
            len: wc.byte_len,
            immediate: u32::from_be(immediate),
        }
    };
    Completion { tag, kind }
}

/// One end of a reliable connection. It keeps every buffer alive that the device may use.
pub(crate) struct QueuePair {
    qp: NonNull<ibv_qp>,
    number: u32,
    tag: u32,
    inline_len_max: usize,
    /// Frames that one packet may be made of.
    parts_max: usize,
    /// Sequence number of the next send: 31 bits, which wrap.
    next_sequence: u32,
    /// What requests use that are not known to be done, oldest first.
    in_flight: VecDeque<Held>,
    /// The frames behind the first of each packet that has several, oldest first.
    more_in_flight: VecDeque<Frame>,
    /// Windows; those in use are in `offered` or in flight.
    windows: Vec<Window>,
    free_windows: Vec<usize>,
    /// Frames that the peer may read, oldest first, each through its window.
    offered: VecDeque<(usize, Frame)>,
    /// What was done and not taken.
    done: VecDeque<Done>,
    /// Frames that the device copies during a call; empty between calls.
    copied: Vec<Frame>,
    /// Posted receives by slot.
    receives: Vec<Option<ReceiveBlock>>,
    free_slots: Vec<u16>,
    memory: Memory,
    cq: Arc<CqHandle>,
}

/// A right of the peer to read some of our memory, which is given and taken again and again.
struct Window {
    mw: NonNull<ibv_mw>,
    /// The key of its next use: another one each time.
    next_key: u32,
}

// SAFETY: verbs objects may be used from any thread, the library locks where it must.
unsafe impl Send for QueuePair {}

impl QueuePair {
    /// A queue pair that is not connected. Its completions carry `tag`.
    pub(crate) fn create(
        queue: &CompletionQueue,
        sizes: QueuePairSizes,
        tag: u32,
        memory: Memory,
    ) -> io::Result<Self> {
        let cq = Arc::clone(&queue.shared);
        let device = &cq.device;
        let (mut inline_len, mut parts_max) = (sizes.inline_len, PARTS_MAX);
        let (qp, cap) = loop {
            let mut wanted = ibv_qp_init_attr {
                qp_context: ptr::null_mut(),
                send_cq: cq.cq.as_ptr(),
                recv_cq: cq.cq.as_ptr(),
                srq: ptr::null_mut(),
                cap: ibv_qp_cap {
                    max_send_wr: sizes.sends as u32,
                    max_recv_wr: sizes.receives as u32,
                    max_send_sge: parts_max as u32,
                    max_recv_sge: 1,
                    max_inline_data: inline_len,
                },
                qp_type: ibv_qp_type::IBV_QPT_RC,
                sq_sig_all: 0,
            };
            // SAFETY: objects of one device, and attributes that live through the call.
            match non_null(unsafe { (cq.library().create_qp)(device.domain.as_ptr(), &raw mut wanted) }) {
                Ok(qp) => break (qp, wanted.cap),
                // A device refuses more than it has, instead of giving what it has.
                Err(_) if inline_len > 0 => inline_len /= 2,
                Err(_) if parts_max > 1 => (inline_len, parts_max) = (sizes.inline_len, parts_max / 2),
                Err(error) => return Err(error),
            }
        };
        let mut pair = Self {
            // SAFETY: just made.
            number: unsafe { qp.as_ref().qp_num },
            qp,
            tag,
            inline_len_max: cap.max_inline_data as usize,
            parts_max,
            next_sequence: 0,
            in_flight: VecDeque::with_capacity(sizes.sends),
            more_in_flight: VecDeque::with_capacity(sizes.sends * (parts_max - 1)),
            windows: Vec::with_capacity(sizes.windows),
            free_windows: (0..sizes.windows).collect(),
            offered: VecDeque::with_capacity(sizes.windows),
            done: VecDeque::new(),
            copied: Vec::with_capacity(POST_BATCH),
            receives: (0..sizes.receives).map(|_| None).collect(),
            free_slots: (0..sizes.receives as u16).rev().collect(),
            memory,
            cq,
        };
        for _ in 0..sizes.windows {
            let window = Window::make(pair.cq.device.domain.as_ptr())?;
            pair.windows.push(window);
        }
        Ok(pair)
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Longest packet that needs no registered memory.
    pub(crate) fn inline_len_max(&self) -> usize {
        self.inline_len_max
    }

    /// Frames that one packet may be made of.
    pub(crate) fn parts_max(&self) -> usize {
        self.parts_max
    }

    /// Requests to send, to read, and about windows, that are posted and not known to be done.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Receives that could be posted besides those that are.
    pub(crate) fn free_receives(&self) -> usize {
        self.free_slots.len()
    }

    /// Binds it to a port, so that receives can be posted.
    pub(crate) fn initialise(&mut self, port: u8) -> io::Result<()> {
        let mut attributes = empty_attributes();
        attributes.qp_state = ibv_qp_state::IBV_QPS_INIT;
        attributes.port_num = port;
        if !self.windows.is_empty() {
            attributes.qp_access_flags = ibv_access_flags::IBV_ACCESS_REMOTE_READ.0;
        }
        let mask = [
            ibv_qp_attr_mask::IBV_QP_STATE,
            ibv_qp_attr_mask::IBV_QP_PKEY_INDEX,
            ibv_qp_attr_mask::IBV_QP_PORT,
            ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS,
        ];
        self.modify(&mut attributes, &mask)
    }

    /// Joins it to the other end: it receives, and sends from its own `first_packet` on. Each end has at most `reads` reads of the
    /// other's memory under way.
    pub(crate) fn connect(
        &mut self,
        remote: &Remote,
        port: u8,
        mtu: u32,
        first_packet: u32,
        ack_timeout: u8,
        reads: u8,
    ) -> io::Result<()> {
        let mut attributes = empty_attributes();
        attributes.qp_state = ibv_qp_state::IBV_QPS_RTR;
        attributes.path_mtu = mtu;
        attributes.dest_qp_num = remote.number;
        attributes.rq_psn = remote.first_packet;
        attributes.max_dest_rd_atomic = reads;
        attributes.min_rnr_timer = RNR_TIMER;
        attributes.ah_attr = address(&remote.destination, port);
        let mask = [
            ibv_qp_attr_mask::IBV_QP_STATE,
            ibv_qp_attr_mask::IBV_QP_AV,
            ibv_qp_attr_mask::IBV_QP_PATH_MTU,
            ibv_qp_attr_mask::IBV_QP_DEST_QPN,
            ibv_qp_attr_mask::IBV_QP_RQ_PSN,
            ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC,
            ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER,
        ];
        self.modify(&mut attributes, &mask)?;
        let mut attributes = empty_attributes();
        attributes.qp_state = ibv_qp_state::IBV_QPS_RTS;
        attributes.timeout = ack_timeout;
        attributes.retry_cnt = RETRIES;
        attributes.rnr_retry = RNR_RETRIES;
        attributes.sq_psn = first_packet;
        attributes.max_rd_atomic = reads;
        let mask = [
            ibv_qp_attr_mask::IBV_QP_STATE,
            ibv_qp_attr_mask::IBV_QP_TIMEOUT,
            ibv_qp_attr_mask::IBV_QP_RETRY_CNT,
            ibv_qp_attr_mask::IBV_QP_RNR_RETRY,
            ibv_qp_attr_mask::IBV_QP_SQ_PSN,
            ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC,
        ];
        self.modify(&mut attributes, &mask)
    }

    /// Puts it into the state of error, as a fault of the device does.
    #[cfg(test)]
    pub(crate) fn fail(&mut self) -> io::Result<()> {
        let mut attributes = empty_attributes();
        attributes.qp_state = ibv_qp_state::IBV_QPS_ERR;
        self.modify(&mut attributes, &[ibv_qp_attr_mask::IBV_QP_STATE])
    }

    fn modify(&mut self, attributes: &mut ibv_qp_attr, mask: &[ibv_qp_attr_mask]) -> io::Result<()> {
        let mask = mask.iter().fold(0, |all, bit| all | bit.0);
        // SAFETY: a queue pair, and attributes that live through the call.
        checked(unsafe { (self.cq.library().modify_qp)(self.qp.as_ptr(), attributes, mask as c_int) })
    }

    /// Posts empty blocks to receive into: at most as many as there are [`free_receives`](Self::free_receives), the rest
    /// stay in `blocks`.
    ///
    /// # Panics
    /// If a block is not in the region for receiving.
    pub(crate) fn post_receives(&mut self, blocks: &mut Vec<ReceiveBlock>) -> io::Result<usize> {
        let mut posted = 0;
        while !blocks.is_empty() && !self.free_slots.is_empty() {
            posted += self.post_receive_batch(blocks)?;
        }
        Ok(posted)
    }

    fn post_receive_batch(&mut self, blocks: &mut Vec<ReceiveBlock>) -> io::Result<usize> {
        let count = blocks.len().min(self.free_slots.len()).min(POST_BATCH);
        let mut parts = [const { MaybeUninit::<ibv_sge>::uninit() }; POST_BATCH];
        let mut requests = [const { MaybeUninit::<ibv_recv_wr>::uninit() }; POST_BATCH];
        let request_at: *mut ibv_recv_wr = requests.as_mut_ptr().cast();
        for at in 0..count {
            let mut block = blocks.pop().expect("counted above");
            let slot = self.free_slots.pop().expect("counted above");
            let space = block.tail_mut();
            let lkey = self.memory.receive.key_of(space).expect("a block of the link's own pool");
            let (addr, length) = (space.as_mut_ptr() as u64, space.len() as u32);
            let part = parts[at].write(ibv_sge { addr, length, lkey });
            let is_last = at + 1 == count;
            // SAFETY: the next element is within the array, where it is the last one there is no next.
            let next = if is_last { ptr::null_mut() } else { unsafe { request_at.add(at + 1) } };
            let wr_id = u64::from(self.tag) << 32 | u64::from(RECEIVE_BIT) | u64::from(slot);
            requests[at].write(ibv_recv_wr { wr_id, next, sg_list: part, num_sge: 1 });
            self.receives[usize::from(slot)] = Some(block);
        }
        let mut bad = ptr::null_mut();
        // SAFETY: a list of `count` requests that lives through the call; the memory they name stays in `receives`, untouched,
        // until its completion or until the queue pair is gone.
        checked(unsafe { ibv_post_recv(self.qp.as_ptr(), request_at, &raw mut bad) })?;
        Ok(count)
    }

    /// Takes the block of a receive that is done, with `len` bytes in it. `None`: that slot was not posted, or the device
    /// claims more than it was given room for.
    pub(crate) fn take_received(&mut self, slot: u16, len: u32) -> Option<ReceiveBlock> {
        let mut block = self.receives.get_mut(usize::from(slot))?.take()?;
        self.free_slots.push(slot);
        if len as usize > block.tail_mut().len() {
            return None;
        }
        block.advance(len as usize);
        Some(block)
    }

    /// Posts packets with one call for every [`POST_BATCH`] of them.
    ///
    /// # Errors
    /// A frame is neither short nor in registered memory, or the device does not take it: the queue pair is of no use any
    /// more.
    pub(crate) fn post_sends(&mut self, sends: &mut Vec<Outgoing>) -> io::Result<()> {
        if sends.is_empty() {
            return Ok(());
        }
        let (mut at, mut posted) = (0, Ok(()));
        while at < sends.len() && posted.is_ok() {
            posted = self.post_send_batch(&mut sends[at..]).map(|count| at += count);
        }
        sends.clear();
        posted
    }

    /// Posts so many of the first that one call takes, and gives how many, parts included.
    fn post_send_batch(&mut self, sends: &mut [Outgoing]) -> io::Result<usize> {
        // Nothing is written that is not used: of 16 requests, which are 2 KB, most calls make one.
        let mut parts = [const { MaybeUninit::<ibv_sge>::uninit() }; POST_BATCH + PARTS_MAX - 1];
        let mut requests = [const { MaybeUninit::<ibv_send_wr>::uninit() }; POST_BATCH];
        let part_at: *mut ibv_sge = parts.as_mut_ptr().cast();
        let request_at: *mut ibv_send_wr = requests.as_mut_ptr().cast();
        let (mut taken, mut count, mut parts_count) = (0, 0, 0);
        while let Some(send) = sends.get_mut(taken) {
            let (frame, is_signalled) = (send.frame.take(), send.is_signalled);
            if send.is_continued && count > 0 {
                let Some(frame) = frame else { return Err(io::ErrorKind::InvalidInput.into()) };
                parts[parts_count].write(part(&frame, self.send_key(&frame)?));
                self.more_in_flight.push_back(frame);
                if let Some(held) = self.in_flight.back_mut() {
                    held.add_one();
                }
                // SAFETY: the request before, which was made below.
                let request = unsafe { &mut *request_at.add(count - 1) };
                request.num_sge += 1;
                debug_assert!(request.num_sge as usize <= self.parts_max, "a packet of too many parts");
                request.send_flags |= signalled(is_signalled);
                (taken, parts_count) = (taken + 1, parts_count + 1);
                continue;
            }
            // A packet whose first part has room has room for all of them.
            if count == POST_BATCH || parts_count >= POST_BATCH {
                send.frame = frame;
                break;
            }
            let immediate = send.immediate;
            let is_whole = sends.get(taken + 1).is_none_or(|next| !next.is_continued);
            let (mut flags, mut held, parts_before) = (signalled(is_signalled), Held::Nothing, parts_count);
            if let Some(frame) = frame {
                let is_inline = is_whole && frame.len() <= self.inline_len_max;
                let lkey = if is_inline { 0 } else { self.send_key(&frame)? };
                parts[parts_count].write(part(&frame, lkey));
                parts_count += 1;
                if is_inline {
                    flags |= ibv_send_flags::IBV_SEND_INLINE.0;
                    self.copied.push(frame);
                } else {
                    held = Held::Frame(frame);
                }
            }
            // SAFETY: within the arrays; the request before it, if any, becomes its predecessor.
            unsafe {
                let request = request_at.add(count);
                // All zero is a valid value of every field that is not set below.
                request.write_bytes(0, 1);
                (*request).wr_id = u64::from(self.tag) << 32 | u64::from(self.next_sequence);
                (*request).sg_list = part_at.add(parts_before);
                (*request).num_sge = (parts_count - parts_before) as c_int;
                (*request).opcode = ibv_wr_opcode::IBV_WR_SEND_WITH_IMM;
                (*request).send_flags = flags;
                (*request).imm_data_invalidated_rkey_union.imm_data = immediate.to_be();
                if count > 0 {
                    (*request_at.add(count - 1)).next = request;
                }
            }
            self.next_sequence = (self.next_sequence + 1) & !RECEIVE_BIT;
            self.in_flight.push_back(held);
            (taken, count) = (taken + 1, count + 1);
        }
        let mut bad = ptr::null_mut();
        // SAFETY: a list of `count` requests, one at least, that lives through the call; what the device reads later stays in `in_flight`
        // and `more_in_flight` until it is done or the queue pair is gone, what it copies now lives in `copied`.
        let posted = checked(unsafe { ibv_post_send(self.qp.as_ptr(), request_at, &raw mut bad) });
        self.copied.clear();
        posted.map(|()| taken)
    }

    /// Whether the peer may be shown one more frame.
    pub(crate) fn has_window(&self) -> bool {
        !self.free_windows.is_empty()
    }

    /// Frames that the peer may read.
    pub(crate) fn offers(&self) -> usize {
        self.offered.len()
    }

    /// Opens a window over a frame, for the peer to read until [`close_window`](Self::close_window); gives what the peer has to know.
    /// The caller has seen that there is a window and room for a request.
    ///
    /// # Errors
    /// The frame does not lie in a region for this, or the device does not take it.
    pub(crate) fn offer(&mut self, frame: Frame) -> io::Result<Offer> {
        let region = self.memory.shown.iter().flat_map(|regions| regions.iter());
        let region = region.map(|region| (region.key_of(&frame), region.raw()));
        let Some(mr) = region.into_iter().find_map(|(key, mr)| key.map(|_| mr)) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a long frame outside the memory for such",
            ));
        };
        let window = self.free_windows.pop().ok_or(io::ErrorKind::WouldBlock)?;
        let Window { mw, next_key } = self.windows[window];
        let (address, len) = (frame.as_ptr() as u64, frame.len() as u32);
        let mw_access_flags = ibv_access_flags::IBV_ACCESS_REMOTE_READ.0;
        let bind_info = ibv_mw_bind_info { mr, addr: address, length: len.into(), mw_access_flags };
        let fill = |request: &mut ibv_send_wr| {
            request.opcode = ibv_wr_opcode::IBV_WR_BIND_MW;
            request.bind_mw_tso_union.bind_mw = bind_mw_t { mw: mw.as_ptr(), rkey: next_key, bind_info };
        };
        self.offered.push_back((window, frame));
        self.post_one(ptr::null_mut(), false, Held::Nothing, fill)?;
        self.windows[window].turn();
        Ok(Offer { address, key: next_key, len })
    }

    /// Takes the right to read the oldest offered frame away; [`Done::Closed`] follows. `false` if there is none.
    pub(crate) fn close_window(&mut self) -> io::Result<bool> {
        let Some((window, frame)) = self.offered.pop_front() else { return Ok(false) };
        let key = self.windows[window].key();
        self.post_one(ptr::null_mut(), true, Held::Closing { window, frame }, |request| {
            request.opcode = ibv_wr_opcode::IBV_WR_LOCAL_INV;
            request.imm_data_invalidated_rkey_union.invalidated_rkey = key;
        })?;
        Ok(true)
    }

    /// Reads a frame of the peer into an empty block, which is long enough; [`Done::Read`] follows.
    ///
    /// # Errors
    /// The block is not in the region for reading, or the device does not take it.
    pub(crate) fn read(&mut self, mut block: ReceiveBlock, offer: &Offer) -> io::Result<()> {
        let space = block.tail_mut().get_mut(..offer.len as usize).ok_or(io::ErrorKind::InvalidInput)?;
        let lkey = self.memory.read.as_ref().and_then(|region| region.key_of(space));
        let lkey = lkey.ok_or(io::ErrorKind::InvalidInput)?;
        let mut part = ibv_sge { addr: space.as_mut_ptr() as u64, length: offer.len, lkey };
        let rdma = rdma_t { remote_addr: offer.address, rkey: offer.key };
        self.post_one(&raw mut part, true, Held::Read { block, len: offer.len as usize }, |request| {
            request.opcode = ibv_wr_opcode::IBV_WR_RDMA_READ;
            request.wr.rdma = rdma;
        })
    }

    /// What was done since.
    pub(crate) fn next_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    /// Posts one request, with at most one part of memory.
    fn post_one(
        &mut self,
        part: *mut ibv_sge,
        is_signalled: bool,
        held: Held,
        fill: impl FnOnce(&mut ibv_send_wr),
    ) -> io::Result<()> {
        // SAFETY: all zero is a valid value of this structure of numbers and addresses.
        let mut wanted: ibv_send_wr = unsafe { MaybeUninit::zeroed().assume_init() };
        wanted.wr_id = u64::from(self.tag) << 32 | u64::from(self.next_sequence);
        (wanted.sg_list, wanted.num_sge) = (part, c_int::from(!part.is_null()));
        wanted.send_flags = signalled(is_signalled);
        fill(&mut wanted);
        self.next_sequence = (self.next_sequence + 1) & !RECEIVE_BIT;
        self.in_flight.push_back(held);
        let mut bad = ptr::null_mut();
        // SAFETY: a request that lives through the call; the memory it names stays in `in_flight` or `offered` until it is done or the queue
        // pair is gone, and windows until then.
        checked(unsafe { ibv_post_send(self.qp.as_ptr(), &raw mut wanted, &raw mut bad) })
    }

    /// Posts one request that no transport makes, with the memory of `frame`.
    #[cfg(test)]
    pub(crate) fn post_hostile(&mut self, request: Hostile, frame: Frame) -> io::Result<()> {
        let lkey = self.send_key(&frame)?;
        let extra = if let Hostile::LongSend { extra } = request { extra } else { 0 };
        let mut part = ibv_sge { addr: frame.as_ptr() as u64, length: frame.len() as u32 + extra, lkey };
        let (opcode, address, rkey) = match request {
            Hostile::LongSend { .. } => (ibv_wr_opcode::IBV_WR_SEND_WITH_IMM, 0, 0),
            Hostile::Read { address, key } => (ibv_wr_opcode::IBV_WR_RDMA_READ, address, key),
            Hostile::Write { address, key } => (ibv_wr_opcode::IBV_WR_RDMA_WRITE, address, key),
        };
        // What a long send reads beyond the frame is memory of the same region, which the queue pair holds, or the device refuses it.
        self.post_one(&raw mut part, true, Held::Frame(frame), |request| {
            request.opcode = opcode;
            request.wr.rdma = rdma_t { remote_addr: address, rkey };
        })
    }

    /// A send is done: lets go of its frame and of those before it. `false` if no such send is in flight.
    pub(crate) fn complete_sends(&mut self, sequence: u32) -> bool {
        let oldest = self.next_sequence.wrapping_sub(self.in_flight.len() as u32) & !RECEIVE_BIT;
        let done = (sequence.wrapping_sub(oldest) & !RECEIVE_BIT) as usize;
        if done >= self.in_flight.len() {
            return false;
        }
        for held in self.in_flight.drain(..=done) {
            match held {
                Held::Nothing | Held::Frame(_) => {}
                Held::Frames(_, more) => drop(self.more_in_flight.drain(..more as usize)),
                Held::Read { mut block, len } => {
                    block.advance(len);
                    self.done.push_back(Done::Read(block));
                }
                Held::Closing { window, frame } => {
                    drop(frame);
                    self.free_windows.push(window);
                    self.done.push_back(Done::Closed);
                }
            }
        }
        true
    }

    fn send_key(&self, frame: &Frame) -> io::Result<u32> {
        let key = self.memory.send.iter().find_map(|region| region.key_of(frame));
        key.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "a frame outside the registered memory")
        })
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        let mut are_closed = true;
        for Window { mw, .. } in self.windows.drain(..) {
            // SAFETY: made once. After this nobody reads through it; before the queue pair, which some devices keep as long.
            are_closed &= unsafe { ibv_dealloc_mw(mw.as_ptr()) } == 0;
        }
        // SAFETY: made once. After this the device touches none of the buffers.
        let result = unsafe { (self.cq.library().destroy_qp)(self.qp.as_ptr()) };
        if result != 0 || !are_closed {
            tracing::debug!(result, "the queue pair goes with its device");
            let offered = self.offered.drain(..).map(|(_, frame)| frame);
            let mut frames: Vec<_> = offered.chain(self.more_in_flight.drain(..)).collect();
            let mut blocks: Vec<_> = self.receives.drain(..).flatten().collect();
            for held in self.in_flight.drain(..) {
                match held {
                    Held::Nothing => {}
                    Held::Frame(frame) | Held::Frames(frame, _) | Held::Closing { frame, .. } => {
                        frames.push(frame);
                    }
                    Held::Read { block, .. } => blocks.push(block),
                }
            }
            self.cq.device.keep((frames, blocks));
        }
    }
}

fn signalled(is_signalled: bool) -> c_uint {
    if is_signalled { ibv_send_flags::IBV_SEND_SIGNALED.0 } else { 0 }
}

fn part(frame: &Frame, lkey: u32) -> ibv_sge {
    ibv_sge { addr: frame.as_ptr() as u64, length: frame.len() as u32, lkey }
}

impl Window {
    fn make(domain: *mut rdma_sys::ibv_pd) -> io::Result<Self> {
        // SAFETY: a protection domain of an open device.
        let mw = unsafe { ibv_alloc_mw(domain, ibv_mw_type::IBV_MW_TYPE_2) };
        let mw = non_null(mw.unwrap_or(ptr::null_mut()))?;
        // SAFETY: just made.
        let first = unsafe { mw.as_ref() }.rkey;
        Ok(Self { mw, next_key: next_key(first) })
    }

    /// The key that it is open by.
    fn key(&self) -> u32 {
        // SAFETY: made, and not gone before this is.
        unsafe { self.mw.as_ref() }.rkey
    }

    /// It is open by its next key: the library finds it by that from now on.
    fn turn(&mut self) {
        // SAFETY: as above, and nobody else has it.
        unsafe { self.mw.as_mut() }.rkey = self.next_key;
        self.next_key = next_key(self.next_key);
    }
}

/// The lowest eight bits are the program's to choose, and never the same twice in a row.
fn next_key(key: u32) -> u32 {
    key & !0xff | (key + 1) & 0xff
}

/// Attributes in which nothing is set.
fn empty_attributes() -> ibv_qp_attr {
    // SAFETY: a structure of numbers, of which all zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn address(destination: &Destination, port: u8) -> ibv_ah_attr {
    let no_route = ibv_global_route {
        dgid: ibv_gid { raw: [0; 16] },
        flow_label: 0,
        sgid_index: 0,
        hop_limit: 0,
        traffic_class: 0,
    };
    let (grh, dlid, is_global) = match *destination {
        Destination::Gid { gid, source_index } => {
            let dgid = ibv_gid { raw: gid };
            (ibv_global_route { dgid, sgid_index: source_index, hop_limit: HOPS_MAX, ..no_route }, 0, 1)
        }
        Destination::Lid(lid) => (no_route, lid, 0),
    };
    ibv_ah_attr { grh, dlid, sl: 0, src_path_bits: 0, static_rate: 0, is_global, port_num: port }
}

/// Marks the number of a receive; below it are the slots of receives and the sequence numbers of sends.
const RECEIVE_BIT: u32 = 1 << 31;
/// Completions taken with one call.
const POLL_BATCH: usize = 32;
/// Requests posted with one call: on soft-RoCE each call is a system call.
pub(crate) const POST_BATCH: usize = 16;
/// Frames that the device gathers for one packet, where it can: three pages and what goes before each fill one, and a short frame.
pub(crate) const PARTS_MAX: usize = 4;
/// Notifications acknowledged at once.
const ACKNOWLEDGE_AT: c_uint = 64;
/// A pause of 10 us, the shortest, after a packet found no receive; credits see to it that none does.
const RNR_TIMER: u8 = 1;
/// Times that a packet without an answer is sent again: the most there are.
const RETRIES: u8 = 7;
/// Times that a packet which found no receive is sent again. 7 would mean for ever, with which soft-RoCE has hung kernels.
const RNR_RETRIES: u8 = 6;
/// Routers that a packet may pass.
const HOPS_MAX: u8 = 64;
