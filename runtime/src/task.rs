//! The typed operations behind a slot's untyped body: how a message becomes a future and a future a reply.
//!
//! Everything here is generic over the method or the spawned future and reached through a [`TaskVtable`]. The vtable
//! that a slot carries and the state it is in say what its body is; that is what the unsafe code below leans on.

use std::alloc::Layout;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::activation::{CatalogEntry, ObjectPtr, Whereabouts};
use crate::codec::{self, CodecError, Encoder};
use crate::core::{Asked, CoreState, InPlaceEnd, Located};
use crate::current;
use crate::entity::{BorrowedObject, Entity, Method, MethodEntry, Receiver, Stored, hold_of, method_id};
use crate::error::{CallError, Rejection};
use crate::id::EntityId;
use crate::key::{KeyView, StoredKey};
use crate::lent::while_reading;
use crate::parcel::{self, CoreMessage, Visit};
use crate::slot::{Content, Hold, Outcome, ReplyTo, SlotPool, SlotPtr, State, TaskVtable, class_of};

/// What the body of a fresh call holds. The key is first: it is asked for first, and in a parcel it lies in the line that comes first.
#[repr(C)]
pub(crate) struct Message<M: Method> {
    pub(crate) key: Stored<M::Entity>,
    pub(crate) arguments: M,
}

type Reply<M> = Result<<M as Method>::Value, CallError>;

/// The operations on calls of `M`.
pub(crate) fn method_vtable<M: Method>() -> &'static TaskVtable {
    struct Of<M>(std::marker::PhantomData<M>);
    impl<M: Method> Of<M> {
        const VTABLE: &'static TaskVtable = &vtable_for(run::<M>);
    }
    Of::<M>::VTABLE
}

/// How calls of `M` that come from other nodes are made.
pub(crate) fn method_table<M: Method>() -> MethodEntry {
    MethodEntry {
        id: method_id(M::NAME),
        vtable: method_vtable::<M>(),
        inbound: inbound::<M>,
        partition: partition::<M>,
        find: find::<M::Entity>,
    }
}

/// Takes in a request of another node: runs it at once, or leaves its message for dispatch.
pub(crate) type InboundFn = fn(&CoreState, &Asked<'_>) -> Result<(), CallError>;

/// The partition of the object with a key; `None` if it is no key of the entity.
pub(crate) type PartitionFn = fn(KeyView<'_>) -> Option<u16>;

/// The object with a key, if it is in memory.
pub(crate) type FindFn = fn(&CatalogEntry, KeyView<'_>) -> Option<ObjectPtr>;

fn find<E: Entity>(entry: &CatalogEntry, key: KeyView<'_>) -> Option<ObjectPtr> {
    entry.typed::<E>()?.find(u32::MAX, &Stored::<E>::from_view(key)?)
}

fn partition<M: Method>(key: KeyView<'_>) -> Option<u16> {
    Stored::<M::Entity>::from_view(key).map(|key| CoreState::partition_of::<M::Entity>(&key))
}

fn run<M: Method>(arguments: M, object: M::Receiver<'static>) -> impl Future<Output = M::Value> {
    arguments.run(object)
}

const fn vtable_for<M: Method, F: Future<Output = M::Value>>(
    _: fn(M, M::Receiver<'static>) -> F,
) -> TaskVtable {
    TaskVtable {
        body: body_of::<M, F>(),
        class: class_of(body_of::<M, F>()),
        holds: true,
        hold: hold_of::<M>(),
        shield: M::SHIELD,
        ungated: M::UNGATED,
        entity: <M::Entity as Entity>::NAME,
        entity_id: EntityId::of(<M::Entity as Entity>::NAME),
        name: M::NAME,
        id: method_id(M::NAME),
        layout: M::LAYOUT,
        request_len_min: size_of::<M::Archived>(),
        reply_len_min: size_of::<<M::Value as rkyv::Archive>::Archived>(),
        message_travels: parcel::message_travels::<Message<M>>(),
        reply_travels: parcel::reply_travels::<Reply<M>>(),
        reply_is_short: parcel::reply_is_short::<Reply<M>>(),
        arrive: arrive::<M>,
        start: start::<M>,
        poll: poll::<M, F>,
        drop: drop_content::<Message<M>, F, Reply<M>>,
        fail: fail::<M>,
        locate: locate::<M>,
        key: key::<M>,
        encode_request: encode_request::<M>,
        encode_reply: encode_reply::<M>,
        decode_reply: decode_reply::<M>,
    }
}

const fn body_of<M: Method, F>() -> Layout {
    union_layout(&[Layout::new::<Message<M>>(), Layout::new::<F>(), Layout::new::<Reply<M>>()])
}

const fn union_layout(parts: &[Layout]) -> Layout {
    let (mut size, mut align, mut at) = (1, 1, 0);
    while at < parts.len() {
        size = if parts[at].size() > size { parts[at].size() } else { size };
        align = if parts[at].align() > align { parts[at].align() } else { align };
        at += 1;
    }
    match Layout::from_size_align(size, align) {
        Ok(layout) => layout,
        Err(_) => panic!("a union is no larger than its largest part"),
    }
}

/// # Safety
/// The body holds a `Message<M>`, and the call was granted `object`, an activation of `M::Entity`, until its future is
/// dropped.
unsafe fn start<M: Method>(body: *mut u8, object: ObjectPtr) {
    // SAFETY: see above; `body` is aligned and large enough for each of the three contents.
    unsafe {
        let message = body.cast::<Message<M>>().read();
        let state = (*object.activation::<M::Entity>().state.get()).as_mut_ptr();
        let granted = BorrowedObject { state, granted: std::marker::PhantomData };
        write_future(body, run::<M>(message.arguments, M::Receiver::borrow(granted)));
    }
}

/// # Safety
/// `body` is empty and made for `F`.
unsafe fn write_future<F>(body: *mut u8, future: F) {
    // SAFETY: see above.
    unsafe { body.cast::<F>().write(future) };
}

/// # Safety
/// The body holds the future `F`.
unsafe fn poll<M: Method, F: Future<Output = M::Value>>(body: *mut u8, context: &mut Context<'_>) -> Polled {
    // SAFETY: the future stays where it was made until it is dropped in place.
    let polled = unsafe { Pin::new_unchecked(&mut *body.cast::<F>()) }.poll(context);
    let Poll::Ready(value) = polled else { return Polled::Pending };
    // SAFETY: the future is finished; see above.
    match unsafe { drop_finished::<F, M>(body, value) } {
        Ok(value) => {
            // SAFETY: the body is empty.
            unsafe { body.cast::<Reply<M>>().write(Ok(value)) };
            Polled::Ready
        }
        Err(()) => Polled::Broken,
    }
}

/// Drops a future that gave its value, and leaves the body empty. If its destructor panics the value goes too, and the
/// body holds a reply that says so.
///
/// # Safety
/// The body holds the future `F`, finished, and is made for a reply of `M`.
#[inline]
unsafe fn drop_finished<F, M: Method>(body: *mut u8, value: M::Value) -> Result<M::Value, ()> {
    if !std::mem::needs_drop::<F>() {
        return Ok(value);
    }
    // SAFETY: the future is never touched again, also if its destructor panics.
    match catch_unwind(AssertUnwindSafe(|| unsafe { body.cast::<F>().drop_in_place() })) {
        Ok(()) => Ok(value),
        Err(panic) => {
            // A second panic must not leave here: the body is empty, which the caller would not know.
            drop_guarded(value);
            let error = CallError::Panicked(panic_text(&*panic));
            // SAFETY: the body is empty.
            unsafe { body.cast::<Reply<M>>().write(Err(error)) };
            Err(())
        }
    }
}

/// What a poll of a task came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    Pending,
    /// The body holds the reply.
    Ready,
    /// As `Ready`, but the future's destructor panicked: the reply says so, and the object cannot be trusted.
    Broken,
}

/// The text of a panic's payload.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

/// # Safety
/// The body holds what `content` says.
unsafe fn drop_content<M, F, R>(body: *mut u8, content: Content) {
    // SAFETY: see above.
    unsafe {
        match content {
            Content::Message => body.cast::<M>().drop_in_place(),
            Content::Future => body.cast::<F>().drop_in_place(),
            Content::Reply => body.cast::<R>().drop_in_place(),
        }
    }
}

/// # Safety
/// The body is empty.
unsafe fn fail<M: Method>(body: *mut u8, error: CallError) {
    // SAFETY: see above.
    unsafe { body.cast::<Reply<M>>().write(Err(error)) };
}

/// # Safety
/// The body holds a `Message<M>`.
unsafe fn locate<M: Method>(body: *mut u8, core: &CoreState) -> Located {
    // SAFETY: see above.
    let message = unsafe { &*body.cast::<Message<M>>() };
    core.locate::<M::Entity>(&message.key)
}

/// # Safety
/// The body holds a `Message<M>`.
unsafe fn key<M: Method>(body: *mut u8, read: &mut dyn FnMut(KeyView<'_>)) {
    // SAFETY: see above.
    unsafe { &*body.cast::<Message<M>>() }.key.canonical(read);
}

/// # Safety
/// The body holds a `Message<M>`.
unsafe fn encode_request<M: Method>(body: *mut u8, encoder: &mut Encoder<'_>) -> Result<usize, CodecError> {
    // SAFETY: see above.
    encoder.encode(unsafe { &(*body.cast::<Message<M>>()).arguments })
}

/// # Safety
/// The body holds a reply of `M`.
unsafe fn encode_reply<M: Method>(
    body: *mut u8,
    encoder: &mut Encoder<'_>,
) -> Result<(Outcome, usize), CodecError> {
    // SAFETY: see above.
    match unsafe { &*body.cast::<Reply<M>>() } {
        Ok(value) => encoder.encode(value).map(|len| (Outcome::Value, len)),
        Err(error) => encoder.encode(error).map(|len| (Outcome::Error, len)),
    }
}

/// # Safety
/// The body holds a `Message<M>`. If its destructor panics the body is empty then.
unsafe fn decode_reply<M: Method>(body: *mut u8, bytes: Result<&[u8], CallError>) {
    // SAFETY: see above.
    unsafe { body.cast::<Message<M>>().drop_in_place() };
    let reply = body.cast::<Reply<M>>();
    // In place, as each form that a large value takes on the way is a copy of it. SAFETY: the body is empty.
    let put = |value| unsafe { reply.write(Ok(value)) };
    let outcome = bytes
        .and_then(|bytes| codec::decode_to::<M::Value>(bytes, put).map_err(|error| unreadable::<M>(&error)));
    if let Err(error) = outcome {
        // SAFETY: as nothing was put there, it still is.
        unsafe { reply.write(Err(error)) };
    }
}

/// A reply that cannot be read: the method ran, and its result is lost.
fn unreadable<M: Method>(error: &CodecError) -> CallError {
    tracing::warn!(entity = <M::Entity as Entity>::NAME, method = M::NAME, %error, "a reply cannot be read");
    CallError::OutcomeUnknown(crate::error::Loss::LinkLost)
}

/// A request that cannot be read: the caller is told that the two do not agree on what it should be, and the log why not.
#[cold]
fn unreadable_request<M: Method>(error: &CodecError) -> CallError {
    tracing::warn!(entity = <M::Entity as Entity>::NAME, method = M::NAME, %error, "a request cannot be read");
    layout_error::<M>()
}

#[cold]
fn layout_error<M: Method>() -> CallError {
    let entity = <M::Entity as Entity>::NAME.into();
    CallError::Rejected(Rejection::Layout { entity, method: M::NAME.into() })
}

/// A slot with this message in it; `None` when as many calls as allowed are under way. The message is dropped then.
#[inline]
pub(crate) fn new_call<M: Method>(slots: &SlotPool, message: Message<M>) -> Option<SlotPtr> {
    let slot = slots.allocate(method_vtable::<M>())?;
    // SAFETY: just allocated with this vtable.
    unsafe { put_message(slot, message) };
    Some(slot)
}

/// A slot with this future in it, as [`new_call`].
pub(crate) fn new_task<F: Future<Output = ()> + 'static>(slots: &SlotPool, future: F) -> Option<SlotPtr> {
    let slot = slots.allocate(spawn_vtable::<F>())?;
    // SAFETY: just allocated with this vtable.
    unsafe { write_future(slot.body.get(), future) };
    slot.state.set(State::Running);
    Some(slot)
}

/// Puts a message into a fresh slot.
///
/// # Safety
/// The slot was allocated with the vtable of `M` and its body is empty.
unsafe fn put_message<M: Method>(slot: SlotPtr, message: Message<M>) {
    // SAFETY: see above.
    unsafe { slot.body.get().cast::<Message<M>>().write(message) };
    slot.state.set(State::Message);
}

/// As [`put_message`], straight from where the caller has it.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn hand_message<M: Method>(slot: SlotPtr, message: &mut Option<Message<M>>) {
    // SAFETY: see above; a body has room for a message.
    unsafe { move_to(message, slot.body.get().cast::<Message<M>>()) };
    slot.state.set(State::Message);
}

/// What became of a call that a running task makes.
pub(crate) enum Made<V> {
    /// The method ran and gave this.
    Answered(V),
    /// The method ran, or was refused, and the reply is in the slot.
    Replied(SlotPtr),
    /// The waker will be used.
    UnderWay(SlotPtr),
    /// As many calls as allowed are under way.
    NoRoom,
}

/// Makes a call of the running task. It runs inside this very poll if the core lets it; else it is left for dispatch.
#[inline]
pub(crate) fn make_call<M: Method>(
    core: &CoreState,
    message: &mut Option<Message<M>>,
    budget_ns: u64,
    whereabouts: Whereabouts,
    waker: &Waker,
) -> Made<M::Value> {
    let Some(slot) = core.slots.allocate(method_vtable::<M>()) else { return Made::NoRoom };
    slot.reply_to.set(ReplyTo::Caller);
    let parent = core.post_terms(slot, budget_ns);
    if let Whereabouts::Core(index) = whereabouts
        && core.may_leave_at_once(slot)
    {
        send_call(core, slot, index, message);
        // While it is on its way.
        core.post_rest(slot, parent, whereabouts);
        core.depart(slot, index);
        slot.caller.waker.set(Some(crate::waker::copy(waker)));
        return Made::UnderWay(slot);
    }
    core.post_rest(slot, parent, whereabouts);
    if let Whereabouts::Here(object) = whereabouts
        && core.may_run_in_place(slot, object, hold_of::<M>())
    {
        let arguments = || message.take().expect(TAKEN_ONCE).arguments;
        let as_it_is = |value, depends_on| (value, depends_on);
        let handed = run_in_place(core, slot, object, arguments, run::<M>, &KnownToSlot, as_it_is);
        if let Some((value, depends_on)) = handed {
            core.adopt(depends_on);
            return Made::Answered(value);
        }
        if slot.caller.done.get() {
            return Made::Replied(slot);
        }
        slot.caller.waker.set(Some(crate::waker::copy(waker)));
        return Made::UnderWay(slot);
    }
    slot.caller.waker.set(Some(crate::waker::copy(waker)));
    // SAFETY: just allocated with this vtable.
    unsafe { hand_message(slot, message) };
    let is_distant = matches!(whereabouts, Whereabouts::Distant(_));
    if !(is_distant && core.may_be_sent_at_once(slot) && core.send_known_way(slot)) {
        core.queue_call(slot);
    }
    Made::UnderWay(slot)
}

/// Sends a call that was just posted to another core. Its message goes from where the caller has it into the parcel, and
/// nowhere in between. What is left to note of it is noted then.
#[inline(always)]
fn send_call<M: Method>(core: &CoreState, slot: SlotPtr, index: u16, message: &mut Option<Message<M>>) {
    if const { parcel::message_travels::<Message<M>>() } {
        core.send(index, |place| {
            // SAFETY: the slot was allocated with the vtable of `M`, whose messages travel.
            unsafe {
                CoreMessage::call_with(place, slot, core.index(), |words| {
                    move_to(message, words.cast::<Message<M>>());
                })
            }
        });
    } else {
        // SAFETY: just allocated with this vtable.
        unsafe { hand_message(slot, message) };
        core.send(index, |place| CoreMessage::call(place, slot, core.index()));
    }
}

/// Takes in a call that has come from another core: runs it at once, as a call in place that nobody's poll is around; or
/// leaves it for dispatch.
///
/// # Safety
/// `message` is a `Message<M>`, which is moved out.
unsafe fn arrive<M: Method>(core: &CoreState, visit: &Visit, message: *const u8) {
    let message = message.cast::<Message<M>>();
    let guest = core.host(visit);
    // SAFETY: see above.
    let key = unsafe { &(*message).key };
    let Some(object) = core.may_run_on_arrival::<M::Entity>(guest, key, hold_of::<M>()) else {
        // SAFETY: see above; the guest was just allocated with this vtable.
        unsafe { put_message(guest, message.read()) };
        guest.announce();
        return core.arrive(guest);
    };
    // SAFETY: see above; this is called once.
    let arguments = || unsafe { message.read() }.arguments;
    run_in_place(core, guest, object, arguments, run::<M>, &KnownToSlot, |value, depends_on| {
        answer::<M>(core, visit, depends_on, value);
    });
}

/// Sends the value of a call back to the core that it came from. Its guest is given back while the value is on its way.
#[inline(always)]
fn answer<M: Method>(core: &CoreState, visit: &Visit, depends_on: u64, value: M::Value) {
    core.send(visit.from, |place| {
        // SAFETY: the call's vtable is that of `M`, and nothing was answered yet; the body at home is of this vtable, empty,
        // and lent.
        unsafe {
            if const { parcel::reply_travels::<Reply<M>>() } {
                CoreMessage::reply_with(place, visit.home, depends_on, |words| {
                    words.cast::<Reply<M>>().write(Ok(value));
                })
            } else {
                visit.home.body.get().cast::<Reply<M>>().write(Ok(value));
                CoreMessage::reply_with(place, visit.home, depends_on, |_| {})
            }
        }
    });
}

/// Who made a call that runs in place: what a slot has to know of him depends on how the call ends.
trait Maker {
    /// The method has its value, and the slot is about to be given back.
    #[inline]
    fn gets_value(&self, _: SlotPtr) {}

    /// The slot is to become one like all others.
    #[inline]
    fn has_to_wait(&self, _: SlotPtr) {}
}

/// The slot knows of the caller what there is to know.
struct KnownToSlot;

impl Maker for KnownToSlot {}

/// Runs a method inside its caller's poll, as far as it goes. `hand_over` gets a value, with the batch that it depends on, before
/// the slot is given back; without one the slot is what it would be after the method's first turn.
#[inline]
fn run_in_place<M: Method, F: Future<Output = M::Value>, T>(
    core: &CoreState,
    slot: SlotPtr,
    object: ObjectPtr,
    arguments: impl FnOnce() -> M,
    run: fn(M, M::Receiver<'static>) -> F,
    maker: &impl Maker,
    hand_over: impl FnOnce(M::Value, u64) -> T,
) -> Option<T> {
    let body = slot.body.get();
    let waker = ManuallyDrop::new(crate::waker::of(slot));
    let mut context = Context::from_waker(&waker);
    let nested = core.begin_in_place(slot, object, hold_of::<M>());
    let mut started = false;
    let polled = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the object is an activation of `M::Entity`, found by such a reference, and was free and is granted now;
        // the body is empty and made for `F`, which stays there until it is dropped in place.
        unsafe {
            let state = (*object.activation::<M::Entity>().state.get()).as_mut_ptr();
            let granted = BorrowedObject { state, granted: std::marker::PhantomData };
            // Not before: the arguments go from where the caller has them into the future, and nowhere in between.
            write_future(body, run(arguments(), M::Receiver::borrow(granted)));
            started = true;
            Pin::new_unchecked(&mut *body.cast::<F>()).poll(&mut context)
        }
    }));
    nested.polled(slot);
    let end = match polled {
        // SAFETY: the body holds the finished future and is made for the reply.
        Ok(Poll::Ready(value)) => match unsafe { drop_finished::<F, M>(body, value) } {
            Ok(value) => match core.finish_in_place(slot, object, hold_of::<M>()) {
                Ok(depends_on) => {
                    let handed = hand_over(value, if M::UNGATED { 0 } else { depends_on });
                    maker.gets_value(slot);
                    core.leave_finished(slot, object);
                    drop(nested);
                    return Some(handed);
                }
                Err(error) => {
                    drop_guarded(value);
                    InPlaceEnd::Outgrown(error)
                }
            },
            Err(()) => InPlaceEnd::Broken(None),
        },
        Ok(Poll::Pending) => InPlaceEnd::Suspended,
        Err(panic) if started => InPlaceEnd::Broken(Some(panic_text(&*panic))),
        Err(panic) => InPlaceEnd::BrokenAtStart(panic_text(&*panic)),
    };
    maker.has_to_wait(slot);
    core.leave_place(slot, object, end);
    None
}

/// Moves a value from where its owner has it straight to `place`. Taken out by value, it would lie somewhere else in between.
///
/// # Safety
/// There is room for it at `place`.
#[inline(always)]
unsafe fn move_to<T>(value: &mut Option<T>, place: *mut T) {
    let from: *const T = value.as_ref().expect(TAKEN_ONCE);
    // SAFETY: see above. What is left behind is no value any more, and is not dropped.
    unsafe {
        place.copy_from_nonoverlapping(from, 1);
        std::ptr::write(value, None);
    }
}

const TAKEN_ONCE: &str = "a call is made once";

/// Drops what may panic where nobody can be told.
#[cold]
fn drop_guarded<T>(value: T) {
    if catch_unwind(AssertUnwindSafe(|| drop(value))).is_err() {
        tracing::warn!("a destructor panicked");
    }
}

/// What a look at a call's slot came to.
#[derive(Clone, Copy)]
pub(crate) enum SlotPoll {
    /// The reply is there.
    Done,
    /// The caller will be woken.
    Pending,
    /// The caller need not wait for the reply.
    Early(crate::call::Early),
    /// The slot is another core's.
    Away,
}

impl CoreState {
    /// Looks whether the reply is in a slot of this core.
    #[inline]
    pub(crate) fn poll_slot(&self, slot: SlotPtr, home: u32, context: &mut Context<'_>) -> SlotPoll {
        if home != self.number() {
            return SlotPoll::Away;
        }
        if slot.caller.done.get() {
            return SlotPoll::Done;
        }
        self.wait_for_reply(slot, context)
    }

    #[cold]
    #[inline(never)]
    fn wait_for_reply(&self, slot: SlotPtr, context: &mut Context<'_>) -> SlotPoll {
        if let Some(early) = slot.caller.early.get() {
            return SlotPoll::Early(early);
        }
        let waker = slot.caller.waker.take();
        let same = waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        slot.caller.waker.set(if same { waker } else { Some(context.waker().clone()) });
        SlotPoll::Pending
    }

    /// The caller has read the reply: what it depends on is the caller's now, and the slot is free.
    #[inline]
    fn take_back(&self, slot: SlotPtr) {
        self.adopt(slot.depends_on.get());
        self.release(slot);
    }
}

/// Takes the reply out of a slot of the current core that is `Done`, in this form, and gives the slot back.
///
/// Value and error go separate ways on purpose: a reply that is moved as a whole right after one part of it was written
/// stalls the processor for longer than the rest of the call takes.
#[inline(always)]
pub(crate) fn take_reply<M: Method, T>(
    slot: SlotPtr,
    form: impl Fn(Result<M::Value, CallError>) -> T,
) -> Poll<T> {
    assert!(slot.caller.done.get());
    let reply = slot.body.get().cast::<Reply<M>>();
    // SAFETY: `done` says that the body holds the reply, and only a call of `M` asks for it, with the slot that was
    // allocated for it.
    let Ok(value) = (unsafe { &*reply }) else { return take_error::<M>(slot).map(form) };
    // SAFETY: as above; `release` counts the body as empty. Before that, so that a large value goes straight to where it is to lie.
    let value = Poll::Ready(form(Ok(unsafe { std::ptr::from_ref(value).read() })));
    current::with(|core| core.take_back(slot));
    value
}

#[cold]
#[inline(never)]
fn take_error<M: Method>(slot: SlotPtr) -> Poll<Result<M::Value, CallError>> {
    // SAFETY: as in `take_reply`, its only caller.
    let reply = unsafe { slot.body.get().cast::<Reply<M>>().read() };
    current::with(|core| core.take_back(slot));
    Poll::Ready(reply)
}

fn inbound<M: Method>(core: &CoreState, asked: &Asked<'_>) -> Result<(), CallError> {
    let key = Stored::<M::Entity>::from_view(asked.key).ok_or_else(layout_error::<M>)?;
    let archived = codec::access::<M>(asked.payload).map_err(|error| unreadable_request::<M>(&error))?;
    // Code of the user's own may be in there; a request of another node must not end this core.
    let decode = || catch_unwind(AssertUnwindSafe(|| M::decode(archived, asked.frame)));
    let decoded = while_reading(asked.frame, decode);
    let Ok(Ok(arguments)) = decoded else { return Err(layout_error::<M>()) };
    let Some(slot) = core.slots.allocate(method_vtable::<M>()) else {
        return Err(CallError::Rejected(Rejection::Overloaded));
    };
    core.take_in(slot, asked);
    let Some(object) = core.may_run_asked(slot, asked, hold_of::<M>()) else {
        // SAFETY: just allocated with this vtable.
        unsafe { put_message(slot, Message { key, arguments }) };
        core.keep_asked(slot, asked);
        core.queue_call(slot);
        return Ok(());
    };
    let maker = OtherNode { core, asked };
    run_in_place(
        core,
        slot,
        object,
        || arguments,
        run::<M>,
        &maker,
        |value, depends_on| {
            core.answer_asked(asked, method_vtable::<M>(), depends_on, &mut |encoder| encoder.encode(&value));
            if std::mem::needs_drop::<M::Value>() {
                drop_guarded(value);
            }
        },
    );
    Ok(())
}

/// A call that another node made, which nobody knows of but the frame while it runs in place.
struct OtherNode<'a> {
    core: &'a CoreState,
    asked: &'a Asked<'a>,
}

impl Maker for OtherNode<'_> {
    #[inline]
    fn gets_value(&self, slot: SlotPtr) {
        self.core.forget_path(slot);
    }

    fn has_to_wait(&self, slot: SlotPtr) {
        self.core.keep_asked(slot, self.asked);
    }
}

/// A method without arguments that the runtime calls itself.
#[derive(Clone, Copy)]
pub(crate) struct Hook {
    pub(crate) vtable: &'static TaskVtable,
    put_message: unsafe fn(SlotPtr, ObjectPtr),
}

impl Hook {
    pub(crate) fn of<M: Method + Default>() -> Self {
        Self { vtable: method_vtable::<M>(), put_message: put_hook_message::<M> }
    }

    /// Puts the hook's message into a slot that was just allocated with its vtable.
    pub(crate) fn put_message(self, slot: SlotPtr, object: ObjectPtr) {
        // SAFETY: the slot is fresh and has this hook's vtable, and a hook is only run on objects of its own entity.
        unsafe { (self.put_message)(slot, object) };
    }
}

/// # Safety
/// As `put_message`; `object` is an activation of `M::Entity`.
unsafe fn put_hook_message<M: Method + Default>(slot: SlotPtr, object: ObjectPtr) {
    let key = object
        .key(Stored::<M::Entity>::from_view)
        .flatten()
        .expect("a live object has a key of its own type");
    // SAFETY: see above.
    unsafe { put_message(slot, Message { key, arguments: M::default() }) };
}

/// The operations on a spawned future, which has neither object nor reply.
fn spawn_vtable<F: Future<Output = ()> + 'static>() -> &'static TaskVtable {
    struct Of<F>(std::marker::PhantomData<F>);
    impl<F: Future<Output = ()> + 'static> Of<F> {
        const VTABLE: &'static TaskVtable = &TaskVtable {
            body: union_layout(&[Layout::new::<F>()]),
            class: class_of(union_layout(&[Layout::new::<F>()])),
            poll: poll_spawned::<F>,
            drop: drop_content::<(), F, ()>,
            name: "spawn",
            ..NOTHING
        };
    }
    Of::<F>::VTABLE
}

/// # Safety
/// The body holds the future `F`.
unsafe fn poll_spawned<F: Future<Output = ()>>(body: *mut u8, context: &mut Context<'_>) -> Polled {
    // SAFETY: as in `poll`.
    let polled = unsafe { Pin::new_unchecked(&mut *body.cast::<F>()) }.poll(context);
    if polled.is_pending() {
        return Polled::Pending;
    }
    // SAFETY: the future is finished and never touched again, also if its destructor panics.
    let dropped = catch_unwind(AssertUnwindSafe(|| unsafe { body.cast::<F>().drop_in_place() }));
    if dropped.is_ok() { Polled::Ready } else { Polled::Broken }
}

/// A vtable of no task: what free slots point to, and the defaults of tasks without an object.
pub(crate) const NOTHING: TaskVtable = TaskVtable {
    body: Layout::new::<()>(),
    class: 0,
    holds: false,
    hold: Hold::Shared,
    shield: false,
    ungated: false,
    entity: "",
    entity_id: EntityId(0),
    name: "",
    id: 0,
    layout: 0,
    request_len_min: 0,
    reply_len_min: 0,
    message_travels: false,
    reply_travels: false,
    reply_is_short: false,
    arrive: |_, _, _| {},
    start: |_, _| {},
    poll: |_, _| Polled::Ready,
    drop: |_, _| {},
    fail: |_, _| {},
    locate: |_, _| Located::Nowhere,
    key: |_, _| {},
    encode_request: |_, _| Err(CodecError::Full { len: 0 }),
    encode_reply: |_, _| Err(CodecError::Full { len: 0 }),
    decode_reply: |_, _| {},
};

impl<'a, E> Receiver<'a, E> for &'a E {
    const EXCLUSIVE: bool = false;
    fn borrow(object: BorrowedObject<'a, E>) -> Self {
        // SAFETY: the runtime makes a `BorrowedObject` only for a call that was granted its object; it was granted to
        // shared calls only, so no `&mut` exists until the last of them has gone.
        unsafe { &*object.state }
    }
}

impl<'a, E> Receiver<'a, E> for &'a mut E {
    const EXCLUSIVE: bool = true;
    fn borrow(object: BorrowedObject<'a, E>) -> Self {
        // SAFETY: as for `&E`; this call was granted the object exclusively.
        unsafe { &mut *object.state }
    }
}
