//! The called side: requests of other nodes become slots, and their replies frames.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use epicserver_storage::NodeId;
use epicserver_transport::{Frame, FrameHeader, FrameKind};
use zerocopy::IntoBytes;

use super::calls_of_others::{CallTable, Name};
use crate::activation::{CatalogEntry, ObjectPtr};
use crate::codec::{CodecError, Encoder};
use crate::core::{Action, CoreMessage, CoreState, Timer};
use crate::entity::MethodEntry;
use crate::error::{CallError, Rejection};
use crate::id::{CallId, EntityId, ObjectHash};
use crate::key::KeyView;
use crate::lent::Loan;
use crate::path::PathNode;
use crate::remote::{Inbound, MovedBytes, PeerFrame};
use crate::routes::Place;
use crate::session::intern::Target;
use crate::slot::{Content, Hold, Outcome, ReplyTo, SlotPtr, TaskRef, TaskVtable, archive};
use crate::wire::assembly::assemble_bare;
use crate::wire::extension::{self, Extension, PathEntry, TargetKey};

/// The calls of other nodes that are under way here, for their cancels.
#[derive(Default)]
pub(super) struct InboundCalls {
    by_name: RefCell<CallTable>,
    /// Memory of calls that have ended, for those to come.
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    spare: RefCell<Vec<Box<Inbound>>>,
    spare_paths: RefCell<Vec<Arc<PathNode>>>,
}

impl InboundCalls {
    fn boxed(&self, inbound: Inbound) -> Box<Inbound> {
        match self.spare.borrow_mut().pop() {
            Some(mut spare) => {
                *spare = inbound;
                spare
            }
            None => Box::new(inbound),
        }
    }

    /// The ancestors as a list that calls of this node can share.
    fn path_of(&self, path: &[PathEntry]) -> Option<Arc<PathNode>> {
        path.iter().fold(None, |parent, entry| {
            let node = PathNode {
                object: ObjectHash(entry.object.get()),
                call: CallId(entry.call.get()),
                hold: match entry.hold {
                    extension::Hold::Shared => Hold::Shared,
                    extension::Hold::Exclusive => Hold::Exclusive,
                    extension::Hold::Serial => Hold::Serial,
                },
                method: entry.method.get(),
                partition: entry.partition.get(),
                label: String::new(),
                parent,
            };
            let mut spare = self.spare_paths.borrow_mut().pop();
            match spare.as_mut().and_then(Arc::get_mut) {
                Some(place) => {
                    *place = node;
                    spare
                }
                None => Some(Arc::new(node)),
            }
        })
    }

    /// Keeps the memory of a path that nobody else has.
    fn recycle_path(&self, mut path: Arc<PathNode>) {
        let mut spare = self.spare_paths.borrow_mut();
        while spare.len() < SPARE_MAX
            && let Some(node) = Arc::get_mut(&mut path)
        {
            let parent = node.parent.take();
            spare.push(path);
            let Some(parent) = parent else { return };
            path = parent;
        }
    }

    fn recycle(&self, inbound: Box<Inbound>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(inbound);
        }
    }
}

/// What a request calls.
struct Called<'a> {
    entry: &'a CatalogEntry,
    method: &'a MethodEntry,
    target: TargetKey<'a>,
    /// There if the request named its object by a handle.
    interned: Option<&'a Target>,
    partition: u16,
}

/// A request of another node that may run here, for its method's table.
pub(crate) struct Asked<'a> {
    /// The key of the object.
    pub(crate) key: KeyView<'a>,
    /// The archive of the arguments, and the frame that it lies in.
    pub(crate) payload: &'a [u8],
    pub(crate) frame: &'a Frame,
    from: &'a Inbound,
    path: &'a [PathEntry],
    object: Option<ObjectPtr>,
    deadline: u64,
    is_one_way: bool,
}

/// A request whose sender has seen a newer view.
pub(super) struct Parked {
    deadline: u64,
    frame: PeerFrame,
}

impl CoreState {
    pub(super) fn handle_request(&self, header: &FrameHeader, frame: PeerFrame) {
        let bytes = FrameHeader::ext_bytes(&frame.frame).unwrap_or_default();
        let from = origin(header, &frame);
        let extension = match Extension::parse(bytes) {
            Ok(extension) if extension.origin.is_none() => extension,
            Ok(_) => return self.answer(&from, header, &CallError::Rejected(Rejection::Denied)),
            Err(error) => {
                let text = format!("the request was malformed: {error}");
                return self.answer(&from, header, &CallError::Unavailable(text));
            }
        };
        if self.lease.is_over() && !self.lease.is_awaited() {
            return self.answer(&from, header, &self.lease.refusal());
        }
        let called = match self.find_method(header, &extension, frame.target.as_deref()) {
            Ok(called) => called,
            Err(error) => return self.answer(&from, header, &error),
        };
        let (place, epoch, version, core) = {
            let routes = self.routes.borrow();
            let (place, epoch) = routes.look_up(called.partition);
            (place, epoch, routes.view().version, called.partition % routes.cores())
        };
        let theirs = extension.view.map_or(epoch, |view| view.epoch);
        let deadline = self.deadline_of(&extension);
        match place {
            // One core parks all that come for a partition, so that they stay in order: a sender that does not know how many cores
            // this node has sends to another one.
            _ if theirs > epoch && core != self.config.index => self.tell(core, CoreMessage::frame(frame)),
            _ if theirs > epoch => self.park(&from, header, deadline, &frame),
            _ if self.lease.is_over() => self.answer(&from, header, &self.lease.refusal()),
            Place::Here(_) if theirs < epoch => {
                self.send_moved(
                    &from,
                    header,
                    MovedBytes::new(Some(self.routes.borrow().me()), epoch, version),
                );
            }
            Place::Here(core) if core != self.config.index => {
                self.tell(core, CoreMessage::frame(frame));
            }
            Place::Here(_) => self.accept(header, &from, &called, &extension, deadline, &frame.frame),
            // One that nobody hears of is passed on by whoever knows better, at a higher epoch each time.
            Place::Node(_) if theirs < epoch && header.kind() == FrameKind::OneWay => {
                self.accept(header, &from, &called, &extension, deadline, &frame.frame);
            }
            Place::Node(owner) => {
                self.send_moved(&from, header, MovedBytes::new(Some(owner), epoch, version));
            }
            Place::Nobody => self.send_moved(&from, header, MovedBytes::new(None, epoch, version)),
        }
    }

    /// What a request calls. What was found of a target that has a handle is kept with it, for the requests that follow.
    fn find_method<'a>(
        &'a self,
        header: &FrameHeader,
        extension: &Extension<'a>,
        interned: Option<&'a Target>,
    ) -> Result<Called<'a>, CallError> {
        let interned = interned.filter(|_| extension.key.is_none());
        let Some(target) = extension.key.or_else(|| interned.map(Target::borrow)) else {
            return Err(CallError::Unavailable("the request names no object".to_owned()));
        };
        let known = interned.and_then(|interned| interned.known.place());
        let known = known.and_then(|(entity, partition)| {
            let entry = self.entities.get(usize::from(entity))?.as_ref()?;
            (entry.vtable.id.0 == target.entity).then_some((entry, partition))
        });
        let entry = known.map(|(entry, _)| entry).or_else(|| self.entry_of(EntityId(target.entity)));
        let Some(entry) = entry else {
            return Err(CallError::Rejected(Rejection::NotBound(format!("number {:016x}", target.entity))));
        };
        let entity = || entry.vtable.name.to_owned();
        let number = header.method.get();
        let Ok(place) = entry.methods.binary_search_by_key(&number, |method| method.id) else {
            let method = format!("number {number:08x}");
            return Err(CallError::Rejected(Rejection::UnknownMethod { entity: entity(), method }));
        };
        let method = &entry.methods[place];
        let same =
            header.layout.get() == method.vtable.layout as u32 && header.codec == crate::codec::CODEC_RKYV;
        let partition = match known {
            Some((_, partition)) => Some(partition),
            None => self.partition_of_target(entry, method, target, interned),
        };
        match partition.filter(|_| same) {
            Some(partition) => Ok(Called { entry, method, target, interned, partition }),
            None => {
                let method = method.vtable.name.to_owned();
                Err(CallError::Rejected(Rejection::Layout { entity: entity(), method }))
            }
        }
    }

    #[cold]
    fn partition_of_target(
        &self,
        entry: &CatalogEntry,
        method: &MethodEntry,
        target: TargetKey<'_>,
        interned: Option<&Target>,
    ) -> Option<u16> {
        let partition = (method.partition)(target.key)?;
        let is_it =
            |other: &Option<CatalogEntry>| other.as_ref().is_some_and(|other| std::ptr::eq(other, entry));
        if let (Some(interned), Some(number)) = (interned, self.entities.iter().position(is_it)) {
            interned.known.set_place(number, partition);
        }
        Some(partition)
    }

    /// The object of a request, if it is in memory: where it was found last time, or where it is by its key.
    #[inline]
    fn find_target(&self, called: &Called<'_>) -> Option<ObjectPtr> {
        let known = &called.interned?.known;
        if let Some((index, generation)) = known.object()
            && let Some(object) = called.entry.any().object(index)
            && object.generation.get() == generation
        {
            return Some(object);
        }
        let object = (called.method.find)(called.entry, called.target.key)?;
        known.set_object(object.index.get(), object.generation.get());
        Some(object)
    }

    fn accept(
        &self,
        header: &FrameHeader,
        from: &Inbound,
        called: &Called<'_>,
        extension: &Extension<'_>,
        deadline: u64,
        frame: &Frame,
    ) {
        if self.draining.get() && extension.path.is_empty() {
            return self.answer(from, header, &CallError::Rejected(Rejection::ShuttingDown));
        }
        super::super::count(&self.counters.calls_from_nodes);
        let asked = Asked {
            key: called.target.key,
            payload: FrameHeader::payload_bytes(frame).unwrap_or_default(),
            frame,
            from,
            path: extension.path,
            object: self.find_target(called),
            deadline,
            is_one_way: header.kind() == FrameKind::OneWay,
        };
        if let Err(error) = (called.method.inbound)(self, &asked) {
            self.answer(from, header, &error);
        }
    }

    /// Makes a fresh slot that of a request.
    #[inline]
    pub(crate) fn take_in(&self, slot: SlotPtr, asked: &Asked<'_>) {
        slot.reply_to.set(if asked.is_one_way { ReplyTo::Nobody } else { ReplyTo::Node });
        slot.deadline.set(asked.deadline);
        slot.depth.set(asked.path.len() as u8 + 1);
        slot.root_ms.set(root_ms(asked.path).unwrap_or_else(|| self.now_ms()));
        slot.counter.set(self.next_counter());
        slot.object.set(asked.object);
        slot.object_generation.set(asked.object.map_or(0, |object| object.generation.get()));
        slot.parent.set(None);
        if !asked.path.is_empty() {
            slot.path.set(self.remote.inbound.path_of(asked.path));
        }
        slot.depends_on.set(0);
        slot.cancelled.set(false);
        slot.caller.parent.set(None);
        slot.caller.done.set(false);
        slot.caller.gone.set(false);
        slot.caller.early.set(None);
    }

    /// The object that a request may run on at once: as a call in place, but that there is no caller's poll around it.
    #[inline]
    pub(crate) fn may_run_asked(&self, slot: SlotPtr, asked: &Asked<'_>, hold: Hold) -> Option<ObjectPtr> {
        let object = asked.object.filter(|_| !asked.is_one_way && self.may_begin_a_turn())?;
        self.may_run_now(slot, object, hold).then_some(object)
    }

    /// A request that does not end at once is known by its name, so that its caller can cancel it.
    pub(crate) fn keep_asked(&self, slot: SlotPtr, asked: &Asked<'_>) {
        if asked.is_one_way {
            return;
        }
        slot.inbound.set(Some(self.remote.inbound.boxed(*asked.from)));
        self.remote.inbound.by_name.borrow_mut().insert(name_of(asked.from), slot.task());
    }

    /// A slot that is about to be given back needs its path no more.
    #[inline]
    pub(crate) fn forget_path(&self, slot: SlotPtr) {
        if let Some(path) = slot.path.take() {
            self.remote.inbound.recycle_path(path);
        }
    }

    /// Sends the value of a request that ran at once, as soon as what it depends on is durable.
    pub(crate) fn answer_asked(
        &self,
        asked: &Asked<'_>,
        vtable: &'static TaskVtable,
        depends_on: u64,
        encode: &mut dyn FnMut(&mut Encoder<'_>) -> Result<usize, CodecError>,
    ) {
        let frame = self.frame_of_answer(vtable, asked.from, |encoder| {
            archive(|| encode(encoder)).map(|len| (Outcome::Value, len))
        });
        self.send_gated(depends_on, asked.deadline, asked.from.peer, frame);
    }

    fn deadline_of(&self, extension: &Extension<'_>) -> u64 {
        let default_ns = crate::call::BUDGET_DEFAULT.as_nanos() as u64;
        let budget_ns = extension.budget_us.map_or(default_ns, |budget_us| u64::from(budget_us) * 1_000);
        self.now.get().saturating_add(budget_ns)
    }

    /// A frame that is kept by what is made of it, while few are.
    pub(crate) fn lend(&self, frame: &Frame) -> Option<Loan> {
        self.remote.loans.lend(frame, self.config.lent_max)
    }

    /// Receive buffers that are lent now.
    #[cfg(test)]
    pub(crate) fn lent_now(&self) -> usize {
        self.remote.loans.now()
    }

    /// Sends the reply in a slot to the node that asked, as soon as what it depends on is durable, and frees the slot.
    pub(in crate::core) fn reply_to_node(&self, slot: SlotPtr) {
        let Some(inbound) = slot.inbound.take() else {
            self.drop_safely(slot, Content::Reply);
            return self.release(slot);
        };
        self.forget_inbound(&inbound);
        if !slot.cancelled.get() {
            let frame =
                self.frame_of_answer(slot.vtable.get(), &inbound, |encoder| slot.encode_reply(encoder));
            self.send_gated(slot.depends_on.get(), slot.deadline.get(), inbound.peer, frame);
        }
        self.remote.inbound.recycle(inbound);
        self.forget_path(slot);
        self.drop_safely(slot, Content::Reply);
        self.release(slot);
    }

    fn forget_inbound(&self, inbound: &Inbound) {
        self.remote.inbound.by_name.borrow_mut().remove(name_of(inbound));
    }

    /// The answer to a call that ran, of what `write` says it came to.
    fn frame_of_answer(
        &self,
        vtable: &'static TaskVtable,
        inbound: &Inbound,
        mut write: impl FnMut(&mut Encoder<'_>) -> Result<(Outcome, usize), CodecError>,
    ) -> Frame {
        let mut header = self.answer_header(FrameKind::Reply, inbound);
        header.method.set(vtable.id);
        header.layout.set(vtable.layout as u32);
        let mut outcome = Outcome::Value;
        let lens = (vtable.reply_len_min, self.config.message_len_max);
        let draft = self.write_frame(&Extension::default(), lens, |encoder| {
            let (what, len) = write(encoder)?;
            outcome = what;
            Ok(len)
        });
        let error = match draft {
            Ok(draft) if outcome == Outcome::Value => return draft.seal(header),
            Ok(draft) if draft.payload_len <= super::ERROR_LEN_MAX => {
                header.kind_number = FrameKind::Error as u8;
                return draft.seal(header);
            }
            Ok(_) => CallError::Panicked("the text of the error is too long to be sent".to_owned()),
            // The method ran, so this is no plain rejection.
            Err(error) => {
                let what = format!("the result of {}.{}", vtable.entity, vtable.name);
                let rejection = match error {
                    CodecError::Full { len } => Rejection::too_large(what, len, self.config.message_len_max),
                    CodecError::Invalid(text) => Rejection::TooLarge(format!("{what}: {text}")),
                };
                CallError::Nested(Box::new(CallError::Rejected(rejection)))
            }
        };
        header.kind_number = FrameKind::Error as u8;
        self.error_frame(header, &error)
    }

    fn answer_header(&self, kind: FrameKind, inbound: &Inbound) -> FrameHeader {
        let mut header = FrameHeader::new(kind);
        header.source_core = self.config.index as u8;
        header.target_core = inbound.core;
        header.slot.set(inbound.slot);
        header.generation.set(inbound.generation);
        header
    }

    /// Answers a request that does not run.
    fn answer(&self, from: &Inbound, request: &FrameHeader, error: &CallError) {
        if request.kind() != FrameKind::Request {
            tracing::warn!(peer = %from.peer, %error, "a one-way call did not run");
            return;
        }
        let frame = self.error_frame(self.answer_header(FrameKind::Error, from), error);
        self.act(Action::Frame(PeerFrame::new(from.peer, frame)));
    }

    fn send_moved(&self, from: &Inbound, request: &FrameHeader, truth: MovedBytes) {
        if request.kind() != FrameKind::Request {
            let error = CallError::Rejected(Rejection::Moving);
            return self.answer(from, request, &error);
        }
        let header = self.answer_header(FrameKind::Moved, from);
        let frame = assemble_bare(self.config.frames.as_ref(), header, truth.as_bytes());
        self.act(Action::Frame(PeerFrame::new(from.peer, frame)));
    }

    /// A call of another node was taken in, and its object went away before it started.
    pub(super) fn answer_moved(&self, slot: SlotPtr, partition: u16) {
        if let Some(inbound) = slot.inbound.take() {
            self.forget_inbound(&inbound);
            let truth = {
                let routes = self.routes.borrow();
                let owner = match routes.place(partition) {
                    Place::Node(owner) => Some(owner),
                    Place::Here(_) | Place::Nobody => None,
                };
                MovedBytes::new(owner, routes.epoch(partition), routes.view().version)
            };
            self.send_moved(&inbound, &FrameHeader::new(FrameKind::Request), truth);
        }
        self.drop_safely(slot, Content::Message);
        self.release(slot);
    }

    /// Keeps a request until this node has read the view that its sender routed by.
    fn park(&self, from: &Inbound, header: &FrameHeader, deadline: u64, frame: &PeerFrame) {
        let bytes: usize = self.remote.parked.borrow().iter().map(|parked| parked.frame.frame.len()).sum();
        let is_full =
            self.remote.parked.borrow().len() >= PARKED_MAX || bytes + frame.frame.len() > PARKED_LEN_MAX;
        if is_full {
            return self.answer(from, header, &CallError::Rejected(Rejection::Overloaded));
        }
        // A copy: the receive buffer is not to wait for the view.
        let copy = PeerFrame { frame: Frame::copy_from(&frame.frame), ..frame.clone() };
        self.remote.parked.borrow_mut().push_back(Parked { deadline, frame: copy });
        self.set_timer(deadline, Timer::Parked);
    }

    /// Looks at the parked requests again.
    pub(super) fn unpark(&self) {
        let parked = std::mem::take(&mut *self.remote.parked.borrow_mut());
        for parked in parked {
            if parked.deadline > self.now.get() {
                self.handle_frame(parked.frame);
            }
        }
    }

    /// Ends the parked requests whose time is over.
    pub(in crate::core) fn expire_parked(&self) {
        let now = self.now.get();
        let parked = std::mem::take(&mut *self.remote.parked.borrow_mut());
        let (expired, rest): (VecDeque<_>, VecDeque<_>) =
            parked.into_iter().partition(|parked: &Parked| parked.deadline <= now);
        *self.remote.parked.borrow_mut() = rest;
        for parked in expired {
            self.answer_parked(&parked, &CallError::Rejected(Rejection::Expired));
        }
    }

    /// Ends all parked requests.
    pub(super) fn refuse_parked(&self, error: &CallError) {
        for parked in std::mem::take(&mut *self.remote.parked.borrow_mut()) {
            self.answer_parked(&parked, error);
        }
    }

    fn answer_parked(&self, parked: &Parked, error: &CallError) {
        let frame = &parked.frame;
        let Ok(header) = FrameHeader::parse_frame(&frame.frame) else { return };
        self.answer(&origin(header, frame), header, error);
    }

    pub(super) fn handle_cancel(&self, header: &FrameHeader, peer: NodeId) {
        if let Some(slot) = self.find_inbound(header, peer).and_then(TaskRef::live) {
            self.cancel_here(slot);
        }
    }

    /// The call under way here that a frame of its caller's node names.
    pub(super) fn find_inbound(&self, header: &FrameHeader, peer: NodeId) -> Option<TaskRef> {
        let name = (peer, header.source_core, header.slot.get(), header.generation.get());
        self.remote.inbound.by_name.borrow().get(name)
    }

    /// A process is gone: what it asked is cancelled.
    pub(super) fn cancel_calls_of(&self, peer: NodeId) {
        let calls = self.remote.inbound.by_name.borrow_mut().end(peer);
        for slot in calls.into_iter().filter_map(TaskRef::live) {
            self.cancel_here(slot);
        }
    }
}

fn name_of(inbound: &Inbound) -> Name {
    (inbound.peer, inbound.core, inbound.slot, inbound.generation)
}

/// Who is to be answered: the sender. Nothing is passed on for others, so that nobody may speak for them.
fn origin(header: &FrameHeader, frame: &PeerFrame) -> Inbound {
    Inbound {
        peer: frame.peer,
        core: header.source_core,
        slot: header.slot.get(),
        generation: header.generation.get(),
    }
}

/// When the chain started, as its root's id says.
fn root_ms(path: &[PathEntry]) -> Option<u64> {
    path.first().map(|root| (root.call.get() >> 84) as u64)
}

/// Records of ended calls that are kept: as many as may be under way from a few nodes.
const SPARE_MAX: usize = 1024;
/// Requests that may wait for the view.
const PARKED_MAX: usize = 1024;
/// Bytes that these may take together.
const PARKED_LEN_MAX: usize = 32 << 20;
