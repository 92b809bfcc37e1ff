//! Slots: the recycled memory in which calls live.
//!
//! One slot carries one call from beginning to end: first the message (key and arguments), then the method's future,
//! then its reply, one after the other in the same *body*. So a call between two objects costs no allocation and no copy
//! beyond the arguments themselves.
//!
//! A call to another core of the node has two slots, each on its own core: that of the caller stays where it is, and a *guest*
//! runs the method there. What goes between them is in `parcel.rs`. A cache line that both cores write costs as much as the
//! rest of a call, so that no line of a header is shared on the usual way.
//!
//! ```text
//!   home core: allocate -> [parcel] -> the object's core: guest: admit -> start -> poll.. -> [parcel] -> home core: read -> free
//! ```
//!
//! Who may touch what (the reason why a slot pointer may cross threads):
//!
//! | fields | touched by |
//! |---|---|
//! | `home`, `woken` | any thread (wakers); atomics |
//! | `guest` | the core that runs the call; others may look at it (atomic), and believe it only if the guest says the same |
//! | `body`, `vtable`, `reply_to`, `root_ms`, `counter`, `path` | the home core; while the call is with another core nobody writes them, and that core may read them |
//! | the memory that `body` points to | the home core; while the call is with another core that core only |
//! | all other fields | the home core only |
//!
//! The parcels that a call crosses in order the two cores' accesses. Slots are never returned to the system: a waker
//! that outlives its call reads a valid header and at worst wakes a stranger once for nothing.

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use crate::activation::ObjectPtr;
use crate::call::Early;
use crate::codec::{CodecError, Encoder};
use crate::core::{CoreState, Located};
use crate::error::CallError;
use crate::id::EntityId;
use crate::key::KeyView;
use crate::parcel::Visit;
use crate::path::PathNode;
use crate::remote::Inbound;
use crate::task::Polled;
use crate::timer::TimerKey;

/// The sizes of bodies that are recycled; larger ones are boxed.
pub(crate) const BODY_LENS: [usize; 8] = [96, 224, 480, 992, 2016, 4064, 8672, 17376];
const SLOTS_PER_CHUNK: usize = 64;
/// A chunk of long bodies has fewer slots, so that it is not longer than this.
const CHUNK_LEN_MAX: usize = 256 << 10;
const BODY_ALIGN: usize = 16;

/// The number of no core: that of a slot which no core has taken yet.
pub(crate) const NO_CORE: u32 = 0;

/// The header of a slot. What every call touches comes first and lies together.
#[repr(C, align(64))]
pub(crate) struct Slot {
    pub(crate) body: Cell<*mut u8>,
    pub(crate) vtable: Cell<&'static TaskVtable>,
    /// The object this call runs on, or waits for; none for tasks without an object. Before the call is dispatched: where
    /// the caller found it.
    pub(crate) object: Cell<Option<ObjectPtr>>,
    /// Link in the outbox, the run queue or the free list: a slot is in at most one of them.
    pub(crate) queue_next: Cell<Option<SlotPtr>>,
    pub(crate) state: Cell<State>,
    pub(crate) in_queue: Cell<bool>,
    pub(crate) reply_to: Cell<ReplyTo>,
    pub(crate) cancelled: Cell<bool>,
    /// Its future is being polled: it lies on the thread's stack, under whatever runs.
    pub(crate) polled: Cell<bool>,
    class: Cell<u8>,
    pub(crate) depth: Cell<u8>,
    /// A wake from another thread is already on its way to the slot's core.
    pub(crate) woken: AtomicBool,
    /// Which use of this memory it is; a stale pointer is told by it.
    pub(crate) generation: Cell<u32>,
    /// When the call must have ended, in nanoseconds of its node's clock; `u64::MAX`: never.
    pub(crate) deadline: Cell<u64>,
    /// The batch number that what is in the slot depends on.
    pub(crate) depends_on: Cell<u64>,
    /// Which use of the object's memory the caller found.
    pub(crate) object_generation: Cell<u32>,
    /// The core that the slot belongs to.
    home: AtomicU32,
    /// Of a guest: the slot of its caller.
    origin: Cell<Option<SlotPtr>>,
    pub(crate) timer: Cell<Option<TimerKey>>,
    /// The caller's task, unless the call left the core.
    pub(crate) parent: Cell<Option<TaskRef>>,
    /// Links in the object's list of running or waiting calls, or in the core's list of tasks without an object.
    pub(crate) list_prev: Cell<Option<SlotPtr>>,
    pub(crate) list_next: Cell<Option<SlotPtr>>,
    pub(crate) caller: CallerSide,
    pub(crate) root_ms: Cell<u64>,
    pub(crate) counter: Cell<u64>,
    /// Of a call that another core has: its guest there, once it waits or is suspended.
    guest: AtomicPtr<Slot>,
    /// The ancestors of a call whose parent is elsewhere.
    pub(crate) path: Cell<Option<Arc<PathNode>>>,
    /// This task as an ancestor, made when the first call leaves the core.
    pub(crate) own_path: Cell<Option<Arc<PathNode>>>,
    pub(crate) inbound: Cell<Option<Box<Inbound>>>,
    pub(crate) cancel_waker: Cell<Option<Waker>>,
}

/// The part of a slot that only its home core touches.
#[repr(C)]
pub(crate) struct CallerSide {
    pub(crate) waker: Cell<Option<Waker>>,
    pub(crate) done: Cell<bool>,
    /// The `Call` was dropped: nobody waits for the reply.
    pub(crate) gone: Cell<bool>,
    /// What the caller gets before the callee has let go of the slot.
    pub(crate) early: Cell<Option<Early>>,
    pub(crate) timer: Cell<Option<TimerKey>>,
    /// The slot is on its core's list of those that may need a timer soon, in this use or in an earlier one.
    pub(crate) unarmed: Cell<bool>,
    /// The task that made the call.
    pub(crate) parent: Cell<Option<TaskRef>>,
    /// Where the slot is: on this core, on another core of the node, or its request is with another node.
    pub(crate) away: Cell<Away>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Away {
    Here,
    Core(u16),
    /// The place of the request among the pending ones.
    Node(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    /// Holds a message that is not admitted yet.
    Message,
    /// In the wait queue of its object.
    Waiting,
    /// Kept until it is known where its partition moves to.
    Parked,
    /// Holds its object; its future is not made yet.
    Granted,
    Running,
    /// Its call is with another core of the node; the body is lent to that core.
    Lent,
    Reply,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyTo {
    /// A `Call` on this core.
    Caller,
    Nobody,
    /// A slot of another core of the node; `origin` says which.
    Core,
    /// Another node; `inbound` says where.
    Node,
}

/// How a call holds its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Hold {
    /// `&self`: interleaves with other shared calls.
    Shared = 0,
    /// `&mut self`: alone on the object.
    Exclusive = 1,
    /// `#[method(serial)]`: shared, but not with itself.
    Serial = 2,
}

/// What the body of a slot contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Message,
    Future,
    Reply,
}

/// The operations on a body, one static table for each method and each kind of spawned future.
pub(crate) struct TaskVtable {
    pub(crate) body: Layout,
    /// The size class of the body.
    pub(crate) class: u8,
    /// Whether it is a method, which holds an object, and not a spawned future.
    pub(crate) holds: bool,
    pub(crate) hold: Hold,
    pub(crate) shield: bool,
    /// Whether its results depend on nothing.
    pub(crate) ungated: bool,
    pub(crate) entity: &'static str,
    pub(crate) entity_id: EntityId,
    pub(crate) name: &'static str,
    pub(crate) id: u32,
    pub(crate) layout: u64,
    /// Bytes that an archive of the arguments, and of the value, has at least.
    pub(crate) request_len_min: usize,
    pub(crate) reply_len_min: usize,
    /// Whether messages and replies are small enough to travel in a parcel.
    pub(crate) message_travels: bool,
    pub(crate) reply_travels: bool,
    /// Whether replies lie in a parcel's first line.
    pub(crate) reply_is_short: bool,
    /// A message has come from another core: runs it, or leaves it for dispatch.
    pub(crate) arrive: unsafe fn(&CoreState, &Visit, *const u8),
    /// Message to future.
    pub(crate) start: unsafe fn(*mut u8, ObjectPtr),
    /// Polls the future.
    pub(crate) poll: unsafe fn(*mut u8, &mut Context<'_>) -> Polled,
    pub(crate) drop: unsafe fn(*mut u8, Content),
    /// Nothing (what was there is dropped) to a reply that is this error.
    pub(crate) fail: unsafe fn(*mut u8, CallError),
    /// Where the object of the message is.
    pub(crate) locate: unsafe fn(*mut u8, &CoreState) -> Located,
    pub(crate) key: unsafe fn(*mut u8, &mut dyn FnMut(KeyView<'_>)),
    pub(crate) encode_request: unsafe fn(*mut u8, &mut Encoder<'_>) -> Result<usize, CodecError>,
    pub(crate) encode_reply: unsafe fn(*mut u8, &mut Encoder<'_>) -> Result<(Outcome, usize), CodecError>,
    /// Message to a reply, or to an error.
    pub(crate) decode_reply: unsafe fn(*mut u8, Result<&[u8], CallError>),
}

/// Whether an encoded reply is the method's value or an error of the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Value,
    Error,
}

/// A slot. Reading its header through this pointer is always sound: slots live as long as the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotPtr(NonNull<Slot>);

// SAFETY: a slot is handed from core to core; the table in the module's documentation says who may touch which field
// when, and every hand-over goes through a synchronising queue.
unsafe impl Send for SlotPtr {}

impl Deref for SlotPtr {
    type Target = Slot;
    #[inline]
    fn deref(&self) -> &Slot {
        // SAFETY: slots are initialised when their chunk is made and never freed.
        unsafe { self.0.as_ref() }
    }
}

/// A slot in one of its uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskRef {
    pub(crate) slot: SlotPtr,
    pub(crate) generation: u32,
}

impl TaskRef {
    /// The slot, if the running core has it and it is still the same use of it.
    #[inline]
    pub(crate) fn live(self) -> Option<SlotPtr> {
        // The rest of the header is its own core's.
        let here = crate::current::with(|core| core.number()) == Some(self.slot.home());
        (here && self.slot.generation.get() == self.generation && self.slot.state.get() != State::Free)
            .then_some(self.slot)
    }

    /// The slot, if it is still the same use of it. Only on its home core.
    pub(crate) fn at_home(self) -> Option<SlotPtr> {
        (self.slot.generation.get() == self.generation).then_some(self.slot)
    }
}

impl SlotPtr {
    #[inline]
    pub(crate) fn task(self) -> TaskRef {
        TaskRef { slot: self, generation: self.generation.get() }
    }

    #[inline]
    pub(crate) fn as_raw(self) -> *const () {
        self.0.as_ptr().cast_const().cast()
    }

    /// # Safety
    /// `raw` came from [`as_raw`](Self::as_raw).
    pub(crate) unsafe fn from_raw(raw: *const ()) -> Self {
        // SAFETY: not null, as it came from a `SlotPtr`.
        Self(unsafe { NonNull::new_unchecked(raw.cast_mut().cast()) })
    }

    /// The core that the slot belongs to. Any thread may ask.
    #[inline]
    pub(crate) fn home(self) -> u32 {
        self.home.load(Ordering::Relaxed)
    }

    /// The slot of the caller, if this one is a guest.
    #[inline]
    pub(crate) fn origin(self) -> Option<SlotPtr> {
        self.origin.get().filter(|_| self.reply_to.get() == ReplyTo::Core)
    }

    /// Makes a slot of this core the guest of a call that came from another one.
    #[inline]
    pub(crate) fn host(self, caller: SlotPtr) {
        self.reply_to.set(ReplyTo::Core);
        self.origin.set(Some(caller));
    }

    /// The guest does not end at once: whoever has something to say of the call finds it here.
    pub(crate) fn announce(self) {
        if let Some(origin) = self.origin() {
            origin.guest.store(self.0.as_ptr(), Ordering::Relaxed);
        }
    }

    /// The guest of this call, if it is on the core with this number, which asks. What is read may be of another use of the
    /// caller's slot; so the guest must say that it is that call's.
    pub(crate) fn guest_on(self, core: u32) -> Option<SlotPtr> {
        let guest = SlotPtr(NonNull::new(self.guest.load(Ordering::Relaxed))?);
        (guest.home() == core && guest.state.get() != State::Free && guest.origin() == Some(self))
            .then_some(guest)
    }

    /// The ancestors of a call whose parent is elsewhere; a guest has them from its caller.
    pub(crate) fn path_above(self) -> Option<Arc<PathNode>> {
        let call = self.origin().unwrap_or(self);
        // SAFETY: the cell is this core's; or the caller's, which does not write it while the call is here. The clone runs no
        // code that could come back to it.
        unsafe { (*call.path.as_ptr()).clone() }
    }

    /// Whether a `Call` waits for this, here or on another core.
    pub(crate) fn is_awaited(self) -> bool {
        let call = self.origin().unwrap_or(self);
        call.reply_to.get() == ReplyTo::Caller
    }

    /// Puts an error where the message, the future or the reply was. Nothing of the caller's is left in the body.
    pub(crate) fn fail_in_place(self, content: Option<Content>, error: CallError) {
        if let Some(content) = content {
            self.drop_content(content);
        }
        // SAFETY: the body is empty now and belongs to this vtable.
        unsafe { (self.vtable.get().fail)(self.body.get(), error) };
        self.state.set(State::Reply);
    }

    /// Drops what the body contains. This runs user code.
    pub(crate) fn drop_content(self, content: Content) {
        // SAFETY: callers name the content by the slot's state, which is changed together with the body.
        unsafe { (self.vtable.get().drop)(self.body.get(), content) };
    }

    /// Makes the future of the message. This runs no user code: an `async` body starts at its first poll.
    #[inline]
    pub(crate) fn start(self, object: ObjectPtr) {
        // SAFETY: the state says that the body holds a message, and the call was granted `object`, which stays at its
        // address while a call holds it.
        unsafe { (self.vtable.get().start)(self.body.get(), object) };
        self.state.set(State::Running);
    }

    /// Polls the future. This runs user code.
    #[inline]
    pub(crate) fn poll(self, context: &mut Context<'_>) -> Polled {
        // SAFETY: the state says that the body holds a future, which has not moved since it was made.
        unsafe { (self.vtable.get().poll)(self.body.get(), context) }
    }

    pub(crate) fn locate(self, core: &CoreState) -> Located {
        // SAFETY: the state says that the body holds a message.
        unsafe { (self.vtable.get().locate)(self.body.get(), core) }
    }

    /// The key of the object the message is for.
    pub(crate) fn key<R>(self, read: impl FnOnce(KeyView<'_>) -> R) -> Option<R> {
        let mut read = Some(read);
        let mut result = None;
        // SAFETY: the state says that the body holds a message.
        unsafe {
            (self.vtable.get().key)(self.body.get(), &mut |view| result = read.take().map(|read| read(view)));
        }
        result
    }

    pub(crate) fn encode_request(self, encoder: &mut Encoder<'_>) -> Result<usize, CodecError> {
        // SAFETY: the state says that the body holds a message.
        archive(|| unsafe { (self.vtable.get().encode_request)(self.body.get(), encoder) })
    }

    pub(crate) fn encode_reply(self, encoder: &mut Encoder<'_>) -> Result<(Outcome, usize), CodecError> {
        // SAFETY: the state says that the body holds a reply.
        archive(|| unsafe { (self.vtable.get().encode_reply)(self.body.get(), encoder) })
    }

    /// Replaces the message by the reply these bytes are, or by an error. This drops the message.
    pub(crate) fn decode_reply(self, bytes: Result<&[u8], CallError>) {
        // SAFETY: the state says that the body holds a message.
        unsafe { (self.vtable.get().decode_reply)(self.body.get(), bytes) };
        self.state.set(State::Reply);
    }

    fn boxed_body(self) -> bool {
        usize::from(self.class.get()) == BODY_LENS.len()
    }
}

/// Runs an archiver, which may be user code: a panic there is an error like others.
pub(crate) fn archive<T>(write: impl FnOnce() -> Result<T, CodecError>) -> Result<T, CodecError> {
    catch_unwind(AssertUnwindSafe(write))
        .unwrap_or_else(|_| Err(CodecError::Invalid("its archiver panicked".to_owned())))
}

/// The free slots of one core.
pub(crate) struct SlotPool {
    free: [Cell<Option<SlotPtr>>; BODY_LENS.len() + 1],
    /// Every slot that this core ever took, for the search of cycles.
    taken: RefCell<Vec<SlotPtr>>,
    live: Cell<usize>,
    live_max: usize,
    home: u32,
}

/// The class of bodies that a layout needs.
pub(crate) const fn class_of(layout: Layout) -> u8 {
    let mut class = 0;
    while class < BODY_LENS.len() {
        if layout.size() <= BODY_LENS[class] && layout.align() <= BODY_ALIGN {
            return class as u8;
        }
        class += 1;
    }
    BODY_LENS.len() as u8
}

impl SlotPool {
    pub(crate) fn new(home: u32, live_max: usize) -> Self {
        Self { free: Default::default(), taken: RefCell::default(), live: Cell::new(0), live_max, home }
    }

    pub(crate) fn live(&self) -> usize {
        self.live.get()
    }

    /// Whether so many slots are free.
    pub(crate) fn has_room(&self, slots: usize) -> bool {
        self.live_max.saturating_sub(self.live.get()) >= slots
    }

    /// Every slot of this core, free or not.
    pub(crate) fn all(&self) -> Vec<SlotPtr> {
        self.taken.borrow().clone()
    }

    /// Takes a slot for a body of this vtable; `None` when as many calls as allowed are under way.
    #[inline(always)]
    pub(crate) fn allocate(&self, vtable: &'static TaskVtable) -> Option<SlotPtr> {
        if self.live.get() >= self.live_max {
            return None;
        }
        self.allocate_beyond(vtable)
    }

    /// As [`allocate`](Self::allocate), also when as many calls as allowed are under way.
    #[inline(always)]
    pub(crate) fn allocate_beyond(&self, vtable: &'static TaskVtable) -> Option<SlotPtr> {
        let class = vtable.class;
        let list = &self.free[usize::from(class)];
        let slot = match list.get() {
            Some(slot) => slot,
            None => self.refill(class)?,
        };
        list.set(slot.queue_next.get());
        self.live.set(self.live.get() + 1);
        slot.vtable.set(vtable);
        if usize::from(class) == BODY_LENS.len() {
            // SAFETY: a body of the boxed class is larger or more aligned than any class, so its layout is not empty.
            slot.body.set(unsafe { std::alloc::alloc(vtable.body) });
            assert!(!slot.body.get().is_null(), "out of memory for a future of {} bytes", vtable.body.size());
        }
        Some(slot)
    }

    #[cold]
    fn refill(&self, class: u8) -> Option<SlotPtr> {
        let list = &self.free[usize::from(class)];
        refill(list, class, self.home, &mut self.taken.borrow_mut());
        list.get()
    }

    /// Takes a slot back whose body is empty.
    #[inline]
    pub(crate) fn free(&self, slot: SlotPtr) {
        debug_assert_ne!(slot.state.get(), State::Free);
        if slot.boxed_body() {
            // SAFETY: allocated with this very layout in `allocate`; the body is empty.
            unsafe { std::alloc::dealloc(slot.body.get(), slot.vtable.get().body) };
        }
        slot.state.set(State::Free);
        slot.generation.set(slot.generation.get().wrapping_add(1));
        let list = &self.free[usize::from(slot.class.get())];
        slot.queue_next.set(list.replace(Some(slot)));
        self.live.set(self.live.get() - 1);
    }
}

impl Drop for SlotPool {
    /// Gives the free slots to the cores that come after this one.
    fn drop(&mut self) {
        let mut spare = SPARE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (class, list) in self.free.iter().enumerate() {
            while let Some(slot) = list.get() {
                list.set(slot.queue_next.take());
                spare[class].push(slot);
            }
        }
    }
}

/// Slots of cores that have stopped. Slots are never freed, so this is what keeps a process that starts and stops many
/// nodes from growing.
static SPARE: Mutex<[Vec<SlotPtr>; BODY_LENS.len() + 1]> =
    Mutex::new([const { Vec::new() }; BODY_LENS.len() + 1]);

#[cold]
fn refill(list: &Cell<Option<SlotPtr>>, class: u8, home: u32, taken: &mut Vec<SlotPtr>) {
    let mut spare = SPARE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let spare = &mut spare[usize::from(class)];
    if spare.is_empty() {
        grow(spare, class);
    }
    let keep = spare.len().saturating_sub(SLOTS_PER_CHUNK);
    for slot in spare.drain(keep..) {
        taken.push(slot);
        slot.home.store(home, Ordering::Relaxed);
        // A wake that went to the core which had the slot before may never have been taken.
        slot.woken.store(false, Ordering::Relaxed);
        slot.caller.unarmed.set(false);
        slot.queue_next.set(list.replace(Some(slot)));
    }
}

fn grow(spare: &mut Vec<SlotPtr>, class: u8) {
    let body_len = BODY_LENS.get(usize::from(class)).copied().unwrap_or(0);
    let stride = (size_of::<Slot>() + body_len).next_multiple_of(align_of::<Slot>());
    let slots = SLOTS_PER_CHUNK.min(CHUNK_LEN_MAX / stride);
    let layout = Layout::from_size_align(stride * slots, align_of::<Slot>()).expect("a few hundred KiB");
    // SAFETY: the layout is not empty.
    let chunk = unsafe { std::alloc::alloc(layout) };
    assert!(!chunk.is_null(), "out of memory for {} bytes of call slots", layout.size());
    for index in 0..slots {
        // SAFETY: inside the chunk, aligned because the stride is a multiple of the alignment; the memory is written
        // here for the first time and never freed.
        spare.push(unsafe {
            let slot = chunk.add(index * stride).cast::<Slot>();
            slot.write(Slot::empty(class, chunk.add(index * stride + size_of::<Slot>())));
            SlotPtr(NonNull::new_unchecked(slot))
        });
    }
}

impl Slot {
    /// Whether the call has ancestors that are elsewhere.
    #[inline]
    pub(crate) fn has_path(&self) -> bool {
        // SAFETY: nothing borrows what is in the cell beyond a read like this one.
        unsafe { (*self.path.as_ptr()).is_some() }
    }

    /// Lets go of what few calls have. Looking is cheaper than replacing.
    #[inline]
    pub(crate) fn clear_extras(&self) {
        // SAFETY: nothing borrows what is in these cells beyond a read like this one.
        let (has_path, has_extras) = unsafe {
            let has_path = (*self.path.as_ptr()).is_some();
            let has_extras = (*self.own_path.as_ptr()).is_some()
                || (*self.inbound.as_ptr()).is_some()
                || (*self.cancel_waker.as_ptr()).is_some()
                || (*self.caller.waker.as_ptr()).is_some();
            (has_path, has_extras)
        };
        if has_path {
            // Every call that left its core has one: to count down is all there is to it.
            self.path.take();
        }
        if has_extras {
            self.drop_extras();
        }
    }

    #[cold]
    fn drop_extras(&self) {
        self.own_path.take();
        self.inbound.take();
        let wakers = [self.cancel_waker.take(), self.caller.waker.take()];
        // A waker may be the user's own, and whoever frees the slot has taken its body's content already.
        if catch_unwind(AssertUnwindSafe(|| drop(wakers))).is_err() {
            tracing::warn!("the destructor of a waker panicked");
        }
    }

    fn empty(class: u8, body: *mut u8) -> Self {
        Self {
            body: Cell::new(body),
            vtable: Cell::new(&crate::task::NOTHING),
            object: Cell::new(None),
            object_generation: Cell::new(0),
            queue_next: Cell::new(None),
            state: Cell::new(State::Free),
            in_queue: Cell::new(false),
            reply_to: Cell::new(ReplyTo::Nobody),
            cancelled: Cell::new(false),
            polled: Cell::new(false),
            class: Cell::new(class),
            depth: Cell::new(0),
            generation: Cell::new(0),
            deadline: Cell::new(u64::MAX),
            depends_on: Cell::new(0),
            root_ms: Cell::new(0),
            counter: Cell::new(0),
            parent: Cell::new(None),
            list_prev: Cell::new(None),
            list_next: Cell::new(None),
            home: AtomicU32::new(NO_CORE),
            woken: AtomicBool::new(false),
            origin: Cell::new(None),
            guest: AtomicPtr::new(std::ptr::null_mut()),
            timer: Cell::new(None),
            path: Cell::new(None),
            own_path: Cell::new(None),
            inbound: Cell::new(None),
            cancel_waker: Cell::new(None),
            caller: CallerSide {
                waker: Cell::new(None),
                done: Cell::new(false),
                gone: Cell::new(false),
                early: Cell::new(None),
                timer: Cell::new(None),
                unarmed: Cell::new(false),
                parent: Cell::new(None),
                away: Cell::new(Away::Here),
            },
        }
    }
}

/// A list of slots that are linked by `queue_next`: first in, first out.
#[derive(Default)]
pub(crate) struct SlotQueue {
    head: Cell<Option<SlotPtr>>,
    tail: Cell<Option<SlotPtr>>,
}

impl SlotQueue {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head.get().is_none()
    }

    #[inline]
    pub(crate) fn push_back(&self, slot: SlotPtr) {
        slot.queue_next.set(None);
        match self.tail.replace(Some(slot)) {
            Some(last) => last.queue_next.set(Some(slot)),
            None => self.head.set(Some(slot)),
        }
    }

    pub(crate) fn push_front(&self, slot: SlotPtr) {
        slot.queue_next.set(self.head.get());
        if self.head.replace(Some(slot)).is_none() {
            self.tail.set(Some(slot));
        }
    }

    #[inline]
    pub(crate) fn pop_front(&self) -> Option<SlotPtr> {
        let slot = self.head.get()?;
        // What is behind the last one means nothing, so it need not be written.
        let next = slot.queue_next.get();
        self.head.set(next);
        if next.is_none() {
            self.tail.set(None);
        }
        Some(slot)
    }

    /// Takes this slot out; gives whether it was there.
    pub(crate) fn remove(&self, slot: SlotPtr) -> bool {
        let at = std::iter::successors(self.head.get(), |slot| slot.queue_next.get())
            .position(|other| other == slot);
        at.and_then(|nth| self.remove_nth(nth)).is_some()
    }

    /// The slots, first to last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SlotPtr> + '_ {
        std::iter::successors(self.head.get(), |slot| slot.queue_next.get())
    }

    /// Takes the `nth` slot out, counted from the front; the simulator's choice of what runs next.
    pub(crate) fn remove_nth(&self, nth: usize) -> Option<SlotPtr> {
        if nth == 0 {
            return self.pop_front();
        }
        let mut before = self.head.get()?;
        for _ in 1..nth {
            before = before.queue_next.get()?;
        }
        let slot = before.queue_next.get()?;
        before.queue_next.set(slot.queue_next.take());
        if self.tail.get() == Some(slot) {
            self.tail.set(Some(before));
        }
        Some(slot)
    }
}

/// A list of slots that are linked both ways, so that any of them can leave at any time.
#[derive(Default)]
pub(crate) struct SlotList {
    pub(crate) head: Cell<Option<SlotPtr>>,
    tail: Cell<Option<SlotPtr>>,
}

impl SlotList {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head.get().is_none()
    }

    #[inline]
    pub(crate) fn push_back(&self, slot: SlotPtr) {
        let last = self.tail.replace(Some(slot));
        slot.list_prev.set(last);
        slot.list_next.set(None);
        match last {
            Some(last) => last.list_next.set(Some(slot)),
            None => self.head.set(Some(slot)),
        }
    }

    pub(crate) fn push_front(&self, slot: SlotPtr) {
        let first = self.head.replace(Some(slot));
        slot.list_prev.set(None);
        slot.list_next.set(first);
        match first {
            Some(first) => first.list_prev.set(Some(slot)),
            None => self.tail.set(Some(slot)),
        }
    }

    #[inline]
    pub(crate) fn remove(&self, slot: SlotPtr) {
        let (before, after) = (slot.list_prev.take(), slot.list_next.take());
        match before {
            Some(before) => before.list_next.set(after),
            None => self.head.set(after),
        }
        match after {
            Some(after) => after.list_prev.set(before),
            None => self.tail.set(before),
        }
    }

    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = SlotPtr> + '_ {
        std::iter::successors(self.head.get(), |slot| slot.list_next.get())
    }
}
