//! A core's part in calls between nodes: the calling side. The called side is in `remote/inbound.rs`.
//!
//! ```text
//!   dispatch -> send_to_node -> [window of the peer full? wait, not encoded] -> encode once -> gate -> Action::Frame
//!   Reply, Error -> index into the table of pending calls -> the slot's reply -> hand back to the caller
//!   Moved, another owner in the view -> hold the partition's calls until the earlier ones have ended -> send, in order
//! ```
//! The slot of a call stays at home while its request is away, with the message in it, so that a call that did not run
//! can be sent again. What this keeps is bounded: requests, one-ways and cancels under way by the window of each peer,
//! calls that wait by the core's number of calls.
//!
//! Calls that wait in a circle over several nodes are found at once along one chain, by the path that travels, and over
//! several chains by probes (`core/cycle.rs`), which cross links in `remote/probe.rs`.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use epicserver_storage::NodeId;
use epicserver_transport::{FRAME_ALIGN, Frame, FrameBuf, FrameHeader, FrameKind, HEADER_LEN};

use super::{Action, CoreState};
use crate::codec::{self, CodecError, Encoder};
use crate::error::{CallError, Executed, Loss, Rejection};
use crate::lent::{Loans, while_reading};
use crate::path::PathNode;
use crate::remote::{CallRef, LinkNews, PeerFrame};
use crate::session::intern::{Handle, Handles};
use crate::slot::{Away, Content, Hold, ReplyTo, SlotPtr};
use crate::wire::extension::{
    self, Extension, PATH_LEN_MAX, PathEntry, TargetKey, ViewStamp, budget_us_from_ns,
};

mod calls_of_others;
mod distant;
mod inbound;
mod moved;
mod pending;
mod probe;

use distant::Known;

pub(crate) use inbound::Asked;
pub(crate) use moved::Settle;

/// The calls of this core that other nodes are to answer, and those of other nodes that it runs.
#[derive(Default)]
pub(super) struct Remote {
    pending: RefCell<pending::Pending>,
    peers: RefCell<Peers>,
    moves: moved::Moves,
    inbound: inbound::InboundCalls,
    parked: RefCell<VecDeque<inbound::Parked>>,
    /// Receive buffers that are kept by arguments and results.
    loans: Loans,
}

/// The other nodes that this core has called.
#[derive(Default)]
struct Peers {
    windows: Vec<Window>,
    /// Places in `windows`, by node id: two lives of a node share one window.
    by_id: BTreeMap<u64, u32>,
}

impl Peers {
    /// The place of a node, a new one if it has none.
    fn place(&mut self, id: u64) -> u32 {
        *self.by_id.entry(id).or_insert_with(|| {
            self.windows.push(Window::default());
            self.windows.len() as u32 - 1
        })
    }

    fn window(&mut self, id: u64) -> &mut Window {
        let place = self.place(id);
        &mut self.windows[place as usize]
    }

    fn known(&mut self, id: u64) -> Option<&mut Window> {
        self.windows.get_mut(*self.by_id.get(&id)? as usize)
    }

    /// The place of the node that a call goes to, which the number of its way says too.
    #[inline]
    fn place_for(&mut self, call: &Outgoing) -> u32 {
        distant::window_of(call.way).unwrap_or_else(|| self.place(call.node.id))
    }
}

/// What is under way to one node.
#[derive(Default)]
struct Window {
    in_flight: usize,
    waiting: VecDeque<Outgoing>,
    /// What this core calls there, by short names.
    handles: Option<Handles>,
    /// Which life of the node has learnt short names.
    bound_life: u32,
}

/// A call for an object of another node.
#[derive(Clone, Copy)]
struct Outgoing {
    slot: SlotPtr,
    node: NodeId,
    partition: u16,
    /// How often it was sent to a node that no longer had the object.
    follows: u8,
    /// By which number this core knows the way; 0: it has to be looked up.
    way: u32,
}

impl CoreState {
    /// Sends a call to the node that the view names, or keeps it until it may be sent.
    pub(super) fn send_to_node(&self, slot: SlotPtr, node: NodeId, partition: u16) {
        if slot.reply_to.get() == ReplyTo::Node {
            return self.answer_moved(slot, partition);
        }
        if let Some(home) = slot.origin() {
            return self.send_back(slot, home);
        }
        super::count(&self.counters.remote_calls);
        self.detach_from_parent(slot);
        self.arm_deadline_later(slot);
        self.route(Outgoing { slot, node, partition, follows: 0, way: 0 });
    }

    /// Sends the call within the window of its node, behind those that wait already.
    fn leave(&self, call: &Outgoing, known: Option<&Known>) {
        self.leave_now(call, known);
    }

    /// As [`leave`](Self::leave), in place. What is known and the call go by reference on the way: they were written a moment ago, and
    /// copies of them as a whole would have to wait for their parts.
    #[inline(always)]
    fn leave_now(&self, call: &Outgoing, known: Option<&Known>) {
        {
            let mut peers = self.remote.peers.borrow_mut();
            let place = peers.place_for(call);
            let window = &mut peers.windows[place as usize];
            if !window.waiting.is_empty() || window.in_flight >= self.config.window_max {
                window.waiting.push_back(*call);
                return self.arm_deadline(call.slot);
            }
            window.in_flight += 1;
        }
        if !self.transmit_now(call, known) {
            self.free_place_of(call);
        }
    }

    /// A place in the window of a node is free: the next call takes it.
    fn free_place(&self, node: u64) {
        let place = self.remote.peers.borrow().by_id.get(&node).copied();
        if let Some(place) = place {
            self.free_place_in(place);
        }
    }

    /// As [`free_place`](Self::free_place), after this call.
    #[inline]
    fn free_place_of(&self, call: &Outgoing) {
        let place = self.remote.peers.borrow_mut().place_for(call);
        self.free_place_in(place);
    }

    #[inline]
    fn free_place_in(&self, place: u32) {
        {
            let mut peers = self.remote.peers.borrow_mut();
            let window = &mut peers.windows[place as usize];
            if window.waiting.is_empty() {
                window.in_flight = window.in_flight.saturating_sub(1);
                return;
            }
        }
        self.pass_place_on(place);
    }

    /// Calls wait for this place: it is the first one's that leaves.
    #[cold]
    fn pass_place_on(&self, place: u32) {
        loop {
            let next = {
                let mut peers = self.remote.peers.borrow_mut();
                let window = &mut peers.windows[place as usize];
                let next = window.waiting.pop_front();
                if next.is_none() {
                    window.in_flight = window.in_flight.saturating_sub(1);
                }
                next
            };
            match next {
                Some(call) if !self.transmit(&call, self.way(call.way).as_ref()) => {}
                _ => return,
            }
        }
    }

    /// Encodes a call and hands the frame out; `false` if it ended before that and its place is free. `way`: what its number
    /// stands for now.
    fn transmit(&self, call: &Outgoing, known: Option<&Known>) -> bool {
        self.transmit_now(call, known)
    }

    #[inline(always)]
    fn transmit_now(&self, call: &Outgoing, known: Option<&Known>) -> bool {
        let slot = call.slot;
        if slot.cancelled.get() {
            self.discard(slot);
            return false;
        }
        if slot.deadline.get() <= self.admits_after.get() {
            self.refuse_late(slot);
            return false;
        }
        if self.saving.is_failed(slot.depends_on.get()) {
            self.refuse(slot, CallError::SaveFailed);
            return false;
        }
        let one_way = slot.reply_to.get() != ReplyTo::Caller;
        let Outgoing { node, partition, follows, way, .. } = *call;
        let mut pending = self.remote.pending.borrow_mut();
        let name = if one_way { None } else { Some(pending.insert(slot, node, partition, follows, way)) };
        drop(pending);
        let frame = match self.encode_request(call, name, known) {
            Ok(frame) => frame,
            Err(error) => {
                if let Some(name) = name {
                    self.remote.pending.borrow_mut().take(name);
                }
                self.refuse(slot, request_error(slot, error, self.config.message_len_max));
                return false;
            }
        };
        self.send_gated(slot.depends_on.get(), slot.deadline.get(), node, frame);
        match name {
            Some(name) => slot.caller.away.set(Away::Node(name.slot)),
            None => {
                self.drop_safely(slot, Content::Message);
                self.release(slot);
            }
        }
        true
    }

    #[inline(always)]
    fn encode_request(
        &self,
        call: &Outgoing,
        name: Option<CallRef>,
        known: Option<&Known>,
    ) -> Result<Frame, CodecError> {
        match known {
            Some(known) if known.is_bound && !call.slot.has_path() => {
                self.encode_known(call.slot, name, known, &[])
            }
            _ => self.encode_any(call, name, known),
        }
    }

    #[inline(never)]
    fn encode_any(
        &self,
        call: &Outgoing,
        name: Option<CallRef>,
        known: Option<&Known>,
    ) -> Result<Frame, CodecError> {
        let Some(above) = call.slot.path.take() else { return self.encode_below(call, name, known, &[]) };
        let result = if above.parent.is_none() {
            self.encode_with_path::<1>(call, name, known, &above)
        } else if above.chain().nth(PATH_LEN_USUAL).is_none() {
            self.encode_with_path::<PATH_LEN_USUAL>(call, name, known, &above)
        } else {
            self.encode_with_path::<PATH_LEN_MAX>(call, name, known, &above)
        };
        call.slot.path.set(Some(above));
        result
    }

    /// Encodes a request of a call below these, which are `N` at most.
    fn encode_with_path<const N: usize>(
        &self,
        call: &Outgoing,
        name: Option<CallRef>,
        known: Option<&Known>,
        above: &PathNode,
    ) -> Result<Frame, CodecError> {
        let mut path = [ROOT; N];
        let len = write_path(above, &mut path);
        self.encode_below(call, name, known, &path[..len])
    }

    /// Encodes a request of a call below these.
    fn encode_below(
        &self,
        call: &Outgoing,
        name: Option<CallRef>,
        known: Option<&Known>,
        path: &[PathEntry],
    ) -> Result<Frame, CodecError> {
        match known {
            Some(known) if known.is_bound => self.encode_known(call.slot, name, known, path),
            _ => self.encode_with_key(call, name, path),
        }
    }

    /// Encodes a request for an object whose handle the links know.
    #[inline(always)]
    fn encode_known(
        &self,
        slot: SlotPtr,
        name: Option<CallRef>,
        known: &Known,
        path: &[PathEntry],
    ) -> Result<Frame, CodecError> {
        let mut header = self.header_of(slot, name);
        header.target_core = known.core;
        header.handle.set(known.number);
        let version = self.routes.borrow().view().version;
        let view = ViewStamp { version, epoch: known.epoch };
        let budget_us = self.budget_of(slot);
        let lens = (slot.vtable.get().request_len_min, self.config.message_len_max);
        if let Some(plain) = extension::plain(budget_us, view).filter(|_| path.is_empty()) {
            let at = HEADER_LEN + plain.len();
            let mut draft = self.write_payload(at, lens, |encoder| slot.encode_request(encoder))?;
            draft.buffer[HEADER_LEN..at].copy_from_slice(&plain);
            return Ok(draft.seal(header));
        }
        if let [parent] = path
            && let Some(child) = extension::child(budget_us, view, parent)
        {
            let at = HEADER_LEN + child.len();
            let mut draft = self.write_payload(at, lens, |encoder| slot.encode_request(encoder))?;
            draft.buffer[HEADER_LEN..at].copy_from_slice(&child);
            return Ok(draft.seal(header));
        }
        let (budget_us, view) = (Some(budget_us), Some(view));
        let extension = Extension { budget_us, view, path, ..Extension::default() };
        let draft = self.write_frame(&extension, lens, |encoder| slot.encode_request(encoder))?;
        Ok(draft.seal(header))
    }

    /// What every request says in its header.
    #[inline(always)]
    fn header_of(&self, slot: SlotPtr, name: Option<CallRef>) -> FrameHeader {
        let vtable = slot.vtable.get();
        let kind = if name.is_some() { FrameKind::Request } else { FrameKind::OneWay };
        let mut header = FrameHeader::new(kind);
        header.source_core = self.config.index as u8;
        header.method.set(vtable.id);
        header.layout.set(vtable.layout as u32);
        if let Some(name) = name {
            header.slot.set(name.slot);
            header.generation.set(name.generation);
        }
        header
    }

    #[inline(always)]
    fn budget_of(&self, slot: SlotPtr) -> u32 {
        budget_us_from_ns(slot.deadline.get().saturating_sub(self.now.get()))
    }

    /// Encodes a request with the key of its object, unless the links know its handle.
    fn encode_with_key(
        &self,
        call: &Outgoing,
        name: Option<CallRef>,
        path: &[PathEntry],
    ) -> Result<Frame, CodecError> {
        let slot = call.slot;
        let vtable = slot.vtable.get();
        let mut header = self.header_of(slot, name);
        let lens = (vtable.request_len_min, self.config.message_len_max);
        let (version, epoch) = {
            let routes = self.routes.borrow();
            header.target_core = routes.core_at(call.node, call.partition);
            (routes.view().version, self.epoch_for(&routes, call.partition))
        };
        let mut result = Err(CodecError::Full { len: 0 });
        slot.key(|key| {
            let target = TargetKey { entity: vtable.entity_id.0, key };
            let handle = self.handle_for(call.node, target);
            header.handle.set(handle.map_or(0, |handle| handle.number));
            let extension = Extension {
                budget_us: Some(self.budget_of(slot)),
                view: Some(ViewStamp { version, epoch }),
                path,
                key: (!handle.is_some_and(|handle| handle.is_known)).then_some(target),
                ..Extension::default()
            };
            result = self
                .write_frame(&extension, lens, |encoder| slot.encode_request(encoder))
                .map(|draft| draft.seal(header));
            if let (Some(name), Some(Handle { number, is_known: false })) = (name, handle) {
                self.remote.pending.borrow_mut().note_binding(name, number);
            }
        });
        result
    }

    /// The short name of an object at a node, while there are any left.
    fn handle_for(&self, node: NodeId, target: TargetKey<'_>) -> Option<Handle> {
        let mut peers = self.remote.peers.borrow_mut();
        self.handles_of(peers.window(node.id), node).handle(target)
    }

    /// The short names for objects of a node; another life of it knows none of them.
    fn handles_of<'a>(&self, window: &'a mut Window, node: NodeId) -> &'a mut Handles {
        let fresh = || Handles::for_core(self.config.index, self.routes.borrow().cores());
        let handles = window.handles.get_or_insert_with(fresh);
        if std::mem::replace(&mut window.bound_life, node.incarnation) != node.incarnation {
            handles.forget_known();
        }
        handles
    }

    /// Gives handles to the objects of an entity that is nobody's.
    #[cfg(test)]
    pub(crate) fn fill_handles(&self, node: NodeId, keys: &[u64]) {
        for key in keys {
            let bytes = &key.to_le_bytes();
            let key = crate::key::KeyView { kind: crate::key::KeyKind::U64, bytes };
            self.handle_for(node, TargetKey { entity: 0, key });
        }
    }

    /// A request was answered, so that its links have seen what it carried.
    #[inline]
    fn note_bound(&self, entry: &pending::Entry) {
        if entry.binds != 0 {
            self.note_newly_bound(entry);
        }
    }

    #[cold]
    fn note_newly_bound(&self, entry: &pending::Entry) {
        let mut peers = self.remote.peers.borrow_mut();
        let node = entry.call.node;
        let window = peers.known(node.id).filter(|window| window.bound_life == node.incarnation);
        if let Some(handles) = window.and_then(|window| window.handles.as_mut()) {
            handles.mark_known(entry.binds);
        }
    }

    /// The links know none of the handles for a node.
    fn forget_bound(&self, node: NodeId) {
        let mut peers = self.remote.peers.borrow_mut();
        if let Some(handles) = peers.known(node.id).and_then(|window| window.handles.as_mut()) {
            handles.forget_known();
        }
    }

    /// Writes extension and payload into a buffer that is large enough, from the pool while that has one. The payload is not
    /// shorter than `len_min`.
    #[inline]
    fn write_frame(
        &self,
        extension: &Extension<'_>,
        lens: (usize, usize),
        write: impl FnMut(&mut Encoder<'_>) -> Result<usize, CodecError>,
    ) -> Result<Draft, CodecError> {
        let measured = extension.measure().map_err(unspeakable)?;
        let mut draft = self.write_payload(HEADER_LEN + measured.len, lens, write)?;
        let place = &mut draft.buffer[HEADER_LEN..draft.payload_at];
        extension.write_measured(measured, place).map_err(unspeakable)?;
        Ok(draft)
    }

    /// Writes a payload at this place of a buffer.
    #[inline(always)]
    fn write_payload(
        &self,
        payload_at: usize,
        (len_min, len_max): (usize, usize),
        mut write: impl FnMut(&mut Encoder<'_>) -> Result<usize, CodecError>,
    ) -> Result<Draft, CodecError> {
        let mut room = ROOM_FIRST.max(len_min).min(len_max);
        let mut scratch = self.scratch.borrow_mut();
        loop {
            let mut buffer = self.buffer(payload_at + room.next_multiple_of(FRAME_ALIGN));
            // Whatever the class of the buffer has beyond what was asked for is worth trying before a larger one.
            room = (buffer.len() - payload_at).min(len_max);
            let place = &mut buffer[payload_at..payload_at + room];
            match write(&mut Encoder { buffer: place, scratch: &mut scratch }) {
                Ok(payload_len) => return Ok(Draft { buffer, payload_at, payload_len }),
                Err(CodecError::Full { len }) if len <= len_max => room = len,
                Err(error) => return Err(error),
            }
        }
    }

    /// A buffer of at least `len` bytes, with all the room that its class has.
    #[inline]
    fn buffer(&self, len: usize) -> FrameBuf {
        let pooled = self.config.frames.as_ref().and_then(|pool| pool.alloc(len));
        let mut buffer = pooled.unwrap_or_else(|| FrameBuf::unpooled(len));
        buffer.set_len(buffer.capacity() - buffer.capacity() % FRAME_ALIGN);
        buffer
    }

    /// Takes a frame of another node in.
    pub(super) fn handle_frame(&self, frame: PeerFrame) {
        let Ok(header) = FrameHeader::parse_frame(&frame.frame) else {
            tracing::warn!(peer = %frame.peer, "a frame is malformed");
            return;
        };
        let name = CallRef { slot: header.slot.get(), generation: header.generation.get() };
        match header.kind() {
            FrameKind::Request | FrameKind::OneWay => self.handle_request(&{ *header }, frame),
            FrameKind::Cancel => self.handle_cancel(header, frame.peer),
            FrameKind::Probe => self.handle_probe(header, &frame),
            FrameKind::Reply => self.handle_reply(header, name, &frame),
            _ if !self.is_pending_at(name, frame.peer) => {}
            FrameKind::Error => self.fail_call(name, read_error(&frame)),
            FrameKind::Moved => self.handle_moved(name, &frame),
            kind => tracing::warn!(peer = %frame.peer, ?kind, "a frame is of no use to a core"),
        }
    }

    /// Whether this node was asked this; a late answer to a call that was given up names an older use of its place.
    fn is_pending_at(&self, name: CallRef, peer: NodeId) -> bool {
        self.remote.pending.borrow().get(name).is_some_and(|entry| entry.call.node.id == peer.id)
    }

    #[inline]
    fn handle_reply(&self, header: &FrameHeader, name: CallRef, frame: &PeerFrame) {
        let Some(entry) = self.remote.pending.borrow_mut().take_of(name, frame.peer) else { return };
        self.note_bound(&entry);
        let slot = entry.call.slot;
        let readable =
            header.codec == codec::CODEC_RKYV && header.layout.get() == slot.vtable.get().layout as u32;
        let payload = FrameHeader::payload_bytes(&frame.frame).filter(|_| readable);
        let reply = match payload {
            Some(payload) => Ok(payload),
            None => Err(CallError::OutcomeUnknown(Loss::LinkLost)),
        };
        // Dropping the message runs user code.
        let decode = || catch_unwind(AssertUnwindSafe(|| slot.decode_reply(reply)));
        if while_reading(&frame.frame, decode).is_err() {
            slot.fail_in_place(None, CallError::OutcomeUnknown(Loss::LinkLost));
        }
        self.finish_remote(&entry);
    }

    /// Ends a call that waits for another node with an error.
    fn fail_call(&self, name: CallRef, error: CallError) {
        let Some(entry) = self.remote.pending.borrow_mut().take(name) else { return };
        let slot = entry.call.slot;
        self.drop_safely(slot, Content::Message);
        slot.fail_in_place(None, error);
        self.finish_remote(&entry);
    }

    /// The slot of a call that was away holds its reply.
    #[inline]
    fn finish_remote(&self, entry: &pending::Entry) {
        // What comes from another node is durable there.
        entry.call.slot.depends_on.set(0);
        self.hand_back(entry.call.slot);
        self.free_place_of(&entry.call);
        self.note_ended(entry.call.partition);
    }

    /// Nobody waits for this call any more: the node that has it is told, and the slot is free at once.
    pub(super) fn cancel_remote(&self, slot: SlotPtr, place: u32) {
        let name = self.remote.pending.borrow().name(place);
        let entry = name.and_then(|name| self.remote.pending.borrow_mut().take(name));
        let (Some(name), Some(entry)) = (name, entry) else { return };
        let mut header = FrameHeader::new(FrameKind::Cancel);
        header.source_core = self.config.index as u8;
        header.target_core = self.routes.borrow().core_at(entry.call.node, entry.call.partition);
        header.slot.set(name.slot);
        header.generation.set(name.generation);
        let frame = crate::wire::assembly::assemble_bare(self.config.frames.as_ref(), header, &[]);
        // Behind its request, wherever that waits, and in its place of the window.
        let cancel = Action::Frame(PeerFrame::new(entry.call.node, frame));
        self.act_gated(slot.depends_on.get(), slot.deadline.get(), cancel);
        self.drop_safely(slot, Content::Message);
        self.release(slot);
        self.note_ended(entry.call.partition);
    }

    /// The time of a call is over whose request may still wait for a batch: then it did not run, and ends. Gives whether it did.
    pub(super) fn withdraw(&self, place: u32) -> bool {
        let Some(name) = self.remote.pending.borrow().name(place) else { return false };
        let request = self.saving.gate.take_action(|action| request_name(action) == Some(name));
        if request.is_some() {
            self.fail_call(name, super::gate::unsent());
        }
        request.is_some()
    }

    /// The links say what became of calls that were under way.
    pub(super) fn handle_link(&self, news: LinkNews) {
        match news {
            LinkNews::NotSent(_, calls) => {
                calls.into_iter().for_each(|name| self.fail_call(name, CallError::NotSent));
            }
            LinkNews::Unknown(_, loss, calls) => {
                calls.into_iter().for_each(|name| self.fail_call(name, CallError::OutcomeUnknown(loss)));
            }
            LinkNews::Taken(peer, count) => (0..count).for_each(|_| self.free_place(peer.id)),
            LinkNews::Gone(peer) => {
                // Whoever is there later knows no handle, even in the same life: this node may be the one that was born again.
                self.forget_bound(peer);
                self.cancel_calls_of(peer);
            }
            LinkNews::Unbound(peer) => self.forget_bound(peer),
        }
    }

    /// What this was to wait for will not be. `ran`: what the caller of something gets that ran here; `unsent`: what a call
    /// gets whose request does not leave.
    pub(super) fn fail_action(&self, action: Action, ran: &CallError, unsent: CallError) {
        let Action::Frame(PeerFrame { peer, frame, .. }) = action else { return };
        let Ok(header) = FrameHeader::parse(&frame) else { return };
        match header.kind() {
            FrameKind::Reply | FrameKind::Error => {
                let header = FrameHeader { kind_number: FrameKind::Error as u8, ..*header };
                let frame = self.error_frame(header, ran);
                self.act(Action::Frame(PeerFrame::new(peer, frame)));
            }
            FrameKind::Request => {
                let name = CallRef { slot: header.slot.get(), generation: header.generation.get() };
                self.fail_call(name, unsent);
            }
            FrameKind::OneWay | FrameKind::Cancel => self.free_place(peer.id),
            _ => {}
        }
    }

    /// The core ends: so do all calls that other nodes were to answer, sent or not.
    pub(super) fn close_remote(&self) {
        self.refuse_unsent(&CallError::Rejected(Rejection::ShuttingDown));
        let pending = self.remote.pending.borrow().names();
        for name in pending {
            self.fail_call(name, CallError::OutcomeUnknown(Loss::OwnerLost));
        }
    }

    /// Ends the calls that wait for a place in a window, or for their partition.
    pub(super) fn refuse_unsent(&self, error: &CallError) {
        let waiting: Vec<Outgoing> = {
            let mut peers = self.remote.peers.borrow_mut();
            peers.windows.iter_mut().flat_map(|window| std::mem::take(&mut window.waiting)).collect()
        };
        for call in waiting.into_iter().chain(self.take_held()) {
            self.refuse(call.slot, error.clone());
        }
        self.refuse_parked(error);
    }

    /// An error as a frame; a text that is too long for one is left out.
    fn error_frame(&self, header: FrameHeader, error: &CallError) -> Frame {
        let encode = |error: &CallError| {
            self.write_frame(&Extension::default(), (0, ERROR_LEN_MAX), |encoder| encoder.encode(error))
        };
        let short = || encode(&shortened(error));
        let draft = encode(error).or_else(|_| short()).unwrap_or_else(|_| Draft {
            buffer: self.buffer(HEADER_LEN),
            payload_at: HEADER_LEN,
            payload_len: 0,
        });
        draft.seal(header)
    }
}

/// Which call this asks another node to run, if it does.
fn request_name(action: &Action) -> Option<CallRef> {
    let Action::Frame(frame) = action else { return None };
    let header =
        FrameHeader::parse(&frame.frame).ok().filter(|header| header.kind() == FrameKind::Request)?;
    Some(CallRef { slot: header.slot.get(), generation: header.generation.get() })
}

/// A frame without its header.
struct Draft {
    buffer: FrameBuf,
    payload_at: usize,
    payload_len: usize,
}

impl Draft {
    #[inline(always)]
    fn seal(mut self, mut header: FrameHeader) -> Frame {
        header.ext_len.set(((self.payload_at - HEADER_LEN) / FRAME_ALIGN) as u16);
        header.payload_len.set(self.payload_len as u32);
        header.codec = codec::CODEC_RKYV;
        self.buffer[..HEADER_LEN].copy_from_slice(&header.to_bytes());
        let end = self.payload_at + self.payload_len;
        let padded = end.next_multiple_of(FRAME_ALIGN);
        if end < padded {
            self.buffer[end..padded].fill(0);
        }
        self.buffer.set_len(padded);
        self.buffer.freeze()
    }
}

#[cold]
fn unspeakable(error: extension::ExtensionError) -> CodecError {
    CodecError::Invalid(error.to_string())
}

/// Writes the ancestors, the root first; gives how many there are.
fn write_path(above: &PathNode, path: &mut [PathEntry]) -> usize {
    // Calls nest no deeper than the path has room for.
    let len = above.chain().count().min(path.len());
    for (place, node) in path[..len].iter_mut().rev().zip(above.chain()) {
        *place = PathEntry {
            object: node.object.0.into(),
            call: node.call.0.into(),
            hold: match node.hold {
                Hold::Shared => extension::Hold::Shared,
                Hold::Exclusive => extension::Hold::Exclusive,
                Hold::Serial => extension::Hold::Serial,
            },
            method: node.method.into(),
            partition: node.partition.into(),
        };
    }
    len
}

fn request_error(slot: SlotPtr, error: CodecError, len_max: usize) -> CallError {
    let vtable = slot.vtable.get();
    let what = format!("the arguments of {}.{}", vtable.entity, vtable.name);
    CallError::Rejected(match error {
        CodecError::Full { len } => Rejection::too_large(what, len, len_max),
        CodecError::Invalid(text) => Rejection::TooLarge(format!("{what}: {text}")),
    })
}

/// The error that a frame carries.
fn read_error(frame: &PeerFrame) -> CallError {
    let payload = FrameHeader::payload_bytes(&frame.frame).filter(|payload| payload.len() <= ERROR_LEN_MAX);
    let error = payload.ok_or(CodecError::Full { len: 0 }).and_then(codec::decode::<CallError>);
    error.unwrap_or_else(|error| {
        tracing::warn!(peer = %frame.peer, %error, "an error cannot be read");
        CallError::OutcomeUnknown(Loss::LinkLost)
    })
}

/// Whether a frame says of a call that it did not run.
pub(super) fn says_unrun(frame: &PeerFrame) -> bool {
    let is_error = FrameHeader::parse(&frame.frame).is_ok_and(|header| header.kind() == FrameKind::Error);
    is_error && read_error(frame).executed() == Executed::No
}

/// The same error with a text that fits every frame.
fn shortened(error: &CallError) -> CallError {
    let text = || "the text of this error is too long to be sent".to_owned();
    match error {
        CallError::Deadlock(_) => CallError::Deadlock(text()),
        CallError::Panicked(_) => CallError::Panicked(text()),
        CallError::Unavailable(_) => CallError::Unavailable(text()),
        CallError::Rejected(_) => CallError::Rejected(Rejection::TooLarge(text())),
        _ => CallError::OutcomeUnknown(Loss::LinkLost),
    }
}

/// Most calls have fewer ancestors, which then take little room.
const PATH_LEN_USUAL: usize = 4;
const ROOT: PathEntry = PathEntry {
    object: zerocopy::little_endian::U128::ZERO,
    call: zerocopy::little_endian::U128::ZERO,
    hold: extension::Hold::Shared,
    method: zerocopy::little_endian::U32::ZERO,
    partition: zerocopy::little_endian::U16::ZERO,
};

/// Room for a payload that is tried first, in bytes, unless it is known to be longer. Most messages are short: small buffers stay in the
/// caches.
const ROOM_FIRST: usize = 96;
/// Longest error in a frame, in bytes: bounds how deep a foreign one can nest before it is looked at.
const ERROR_LEN_MAX: usize = 32 << 10;
