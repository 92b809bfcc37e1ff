//! Parcels: what one core says to another, in one slot of their ring.
//!
//! ```text
//!   home core                                        core of the object
//!   caller's slot, lent  --Call: what it asks-->     a guest runs it, at once if nothing is in its way
//!   takes the reply      <--Reply------------        the guest is free again
//! ```
//!
//! A call is as fast as the cache lines it moves are few: each costs as much as a call within a core. A message of up to
//! [`MESSAGE_WORDS`] words and a reply of up to [`REPLY_WORDS`] words lie in the parcel itself, which is written once, where the ring
//! has it, and read once, where the ring has it: two lines there and one or two back. What is larger lies in the body of the
//! caller's slot, which the other core may read and write until it has answered ([`slot`](crate::slot) has the table).
//!
//! A parcel owns what it carries, so that one which nobody takes drops it.

use std::mem::{MaybeUninit, offset_of};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::core::{CoreState, Probe, Settle};
use crate::remote::PeerFrame;
use crate::slot::{Content, SlotPtr, TaskRef, TaskVtable};
use epicserver_sync::ring::Taken;

/// What one core says to another.
#[derive(Debug)]
pub struct CoreMessage(Word);

/// The layout is fixed: a reply's value begins in the first of the parcel's two lines.
#[repr(u8)]
#[derive(Debug)]
enum Word {
    /// A call for an object of the receiving core.
    Call {
        depth: u8,
        from: u16,
        home: SlotPtr,
        deadline: u64,
        root_ms: u64,
        depends_on: u64,
        message: Message,
    },
    /// The reply to a call of the receiving core.
    Reply { depends_on: u64, reply: Reply },
    /// The call comes back unrun, with its message in the body of its slot.
    Return(SlotPtr),
    /// The caller no longer waits.
    Cancel(TaskRef),
    /// A frame of another node that came to the wrong core.
    Frame(Box<PeerFrame>),
    /// A probe for cycles of waiting calls.
    Probe(Box<Probe>),
    /// What became of calls for objects that left the node, asked or answered.
    Settle(Box<Settle>),
}

/// A call that has come from another core, but for its message.
pub(crate) struct Visit {
    /// The caller's slot.
    pub(crate) home: SlotPtr,
    /// The caller's core.
    pub(crate) from: u16,
    pub(crate) depth: u8,
    pub(crate) deadline: u64,
    pub(crate) root_ms: u64,
    pub(crate) depends_on: u64,
    pub(crate) vtable: &'static TaskVtable,
}

/// What a parcel says, when it is opened.
pub(crate) enum Said {
    /// A call came and was taken in.
    Taken,
    /// The reply is in the body of this slot, and depends on this batch.
    Replied(SlotPtr, u64),
    Returned(SlotPtr),
    Cancelled(TaskRef),
    Frame(Box<PeerFrame>),
    Probe(Box<Probe>),
    Settle(Box<Settle>),
}

/// The message of a call; if it is too large for a parcel, where it lies.
#[repr(C)]
struct Message {
    vtable: &'static TaskVtable,
    words: Words<MESSAGE_WORDS>,
}

/// The reply for a slot; if it is too large for a parcel it lies in the slot's body.
#[repr(C)]
struct Reply {
    home: SlotPtr,
    words: Words<REPLY_WORDS>,
}

type Words<const N: usize> = [MaybeUninit<u64>; N];

/// Whether values of `T` travel in so many words.
const fn fits<T>(words: usize) -> bool {
    size_of::<T>() <= words * size_of::<u64>() && align_of::<T>() <= align_of::<u64>()
}

/// Whether messages of this type travel in parcels.
pub(crate) const fn message_travels<T>() -> bool {
    fits::<T>(MESSAGE_WORDS)
}

/// Whether replies of this type travel in parcels.
pub(crate) const fn reply_travels<T>() -> bool {
    fits::<T>(REPLY_WORDS)
}

/// Whether they travel in the first of the parcel's lines.
pub(crate) const fn reply_is_short<T>() -> bool {
    fits::<T>(SHORT_WORDS)
}

impl Message {
    /// Where the message lies.
    #[inline]
    fn place(&self) -> *const u8 {
        if self.vtable.message_travels {
            return self.words.as_ptr().cast();
        }
        // SAFETY: whoever made the parcel put the place there instead.
        unsafe { self.words.as_ptr().cast::<*const u8>().read() }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: there is a message of this vtable, which nobody else has.
        drop_untaken(|| unsafe { (self.vtable.drop)(self.place().cast_mut(), Content::Message) });
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let vtable = self.home.vtable.get();
        let travels = vtable.reply_travels;
        let place = if travels { self.words.as_mut_ptr().cast() } else { self.home.body.get() };
        // SAFETY: there is a reply of this vtable, which nobody else has.
        drop_untaken(|| unsafe { (vtable.drop)(place, Content::Reply) });
    }
}

/// Drops what nobody took: one of the cores has ended then, and a destructor that panics must not take their thread along.
#[cold]
fn drop_untaken(drop: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(drop)).is_err() {
        tracing::warn!("a destructor panicked");
    }
}

/// A place for a parcel that is being written.
pub(crate) type Blank = MaybeUninit<CoreMessage>;

impl CoreMessage {
    /// Writes the call that is in this slot, with its message. The slot's body is lent from here on.
    #[inline]
    pub(crate) fn call(place: &mut Blank, slot: SlotPtr, from: u16) -> &mut Self {
        let vtable = slot.vtable.get();
        let message = slot.body.get();
        // SAFETY: the slot's state says that its body holds a message. Every body has room for as many words as travel.
        unsafe {
            Self::call_with(place, slot, from, |words| {
                if vtable.message_travels {
                    words.cast::<Words<MESSAGE_WORDS>>().write(message.cast::<Words<MESSAGE_WORDS>>().read());
                } else {
                    words.cast::<*mut u8>().write(message);
                }
            })
        }
    }

    /// As [`call`](Self::call), of a slot whose message was never in its body.
    ///
    /// # Safety
    /// `write` puts a message of the slot's vtable, which travels, at the place it is given; or where another such message lies.
    #[inline(always)]
    pub(crate) unsafe fn call_with(
        place: &mut Blank,
        slot: SlotPtr,
        from: u16,
        write: impl FnOnce(*mut u8),
    ) -> &mut Self {
        let message = Message { vtable: slot.vtable.get(), words: [MaybeUninit::uninit(); MESSAGE_WORDS] };
        let parcel = place.write(Self(Word::Call {
            depth: slot.depth.get(),
            from,
            home: slot,
            deadline: slot.deadline.get(),
            root_ms: slot.root_ms.get(),
            depends_on: slot.depends_on.get(),
            message,
        }));
        if let Word::Call { message, .. } = &mut parcel.0 {
            write(message.words.as_mut_ptr().cast());
        }
        parcel
    }

    /// Writes the reply that is in the body of a guest.
    pub(crate) fn reply(place: &mut Blank, guest: SlotPtr, home: SlotPtr, depends_on: u64) -> &mut Self {
        let vtable = guest.vtable.get();
        let reply = guest.body.get();
        // SAFETY: the guest's state says that its body holds a reply. Every body has room for as many words as travel. The body
        // at home is of the same vtable, empty, and lent.
        unsafe {
            if vtable.reply_travels {
                Self::reply_with(place, home, depends_on, |words| {
                    words.cast::<Words<REPLY_WORDS>>().write(reply.cast::<Words<REPLY_WORDS>>().read());
                })
            } else {
                home.body.get().copy_from_nonoverlapping(reply, vtable.body.size());
                Self::reply_with(place, home, depends_on, |_| {})
            }
        }
    }

    /// Writes a reply that is not in a slot yet.
    ///
    /// # Safety
    /// `home` is the slot of a call that this core runs. `write` puts a reply of its vtable at the place it is given, if such
    /// replies travel; otherwise it is in the slot's body.
    #[inline(always)]
    pub(crate) unsafe fn reply_with(
        place: &mut Blank,
        home: SlotPtr,
        depends_on: u64,
        write: impl FnOnce(*mut u8),
    ) -> &mut Self {
        let reply = Reply { home, words: [MaybeUninit::uninit(); REPLY_WORDS] };
        let parcel = place.write(Self(Word::Reply { depends_on, reply }));
        if let Word::Reply { reply, .. } = &mut parcel.0 {
            write(reply.words.as_mut_ptr().cast());
        }
        parcel
    }

    /// Gives a call back to its core that was not run; the guest's body is empty then.
    pub(crate) fn give_back(guest: SlotPtr, home: SlotPtr) -> Self {
        let message = guest.body.get();
        // SAFETY: the guest's state says that its body holds a message. That at home is of the same vtable, empty, and lent.
        unsafe { home.body.get().copy_from_nonoverlapping(message, guest.vtable.get().body.size()) };
        Self(Word::Return(home))
    }

    pub(crate) fn cancel(task: TaskRef) -> Self {
        Self(Word::Cancel(task))
    }

    pub(crate) fn frame(frame: PeerFrame) -> Self {
        Self(Word::Frame(Box::new(frame)))
    }

    pub(crate) fn probe(probe: Probe) -> Self {
        Self(Word::Probe(Box::new(probe)))
    }

    pub(crate) fn settle(settle: Box<Settle>) -> Self {
        Self(Word::Settle(settle))
    }

    /// The call that is no longer wanted, if that is what this says.
    pub(crate) fn cancelled(&self) -> Option<TaskRef> {
        if let Word::Cancel(task) = self.0 { Some(task) } else { None }
    }

    /// Whether it may be left out when there is no room for it: it is asked again in a while.
    pub(crate) fn may_be_left_out(&self) -> bool {
        matches!(self.0, Word::Probe(_))
    }

    /// Writes a parcel that does not go into a ring yet.
    pub(crate) fn written(write: impl FnOnce(&mut Blank) -> &mut Self) -> Self {
        let mut place = Blank::uninit();
        let written: *const Self = write(&mut place);
        assert_eq!(written, place.as_ptr(), "a parcel was written elsewhere");
        // SAFETY: it was written.
        unsafe { place.assume_init() }
    }

    /// Opens a parcel where it lies. A call is handed to the core at once.
    #[inline(always)]
    pub(crate) fn open(core: &CoreState, parcel: Taken<'_, Self>) -> Said {
        let parcel = parcel.into_raw();
        // SAFETY: the parcel is there until this returns, and everything in it is moved out once: what was lent to it is given
        // back, a message is what `arrive` of its vtable takes, a reply what its slot's body is empty for and has room for.
        unsafe {
            match &(*parcel).0 {
                Word::Call { depth, from, home, deadline, root_ms, depends_on, message } => {
                    let visit = Visit {
                        home: *home,
                        from: *from,
                        depth: *depth,
                        deadline: *deadline,
                        root_ms: *root_ms,
                        depends_on: *depends_on,
                        vtable: message.vtable,
                    };
                    (visit.vtable.arrive)(core, &visit, message.place());
                    Said::Taken
                }
                Word::Reply { depends_on, reply } => {
                    let (vtable, words) = (reply.home.vtable.get(), reply.words.as_ptr());
                    let body = reply.home.body.get();
                    if vtable.reply_is_short {
                        body.cast::<Words<SHORT_WORDS>>().write(words.cast::<Words<SHORT_WORDS>>().read());
                    } else if vtable.reply_travels {
                        body.cast::<Words<REPLY_WORDS>>().write(words.cast::<Words<REPLY_WORDS>>().read());
                    }
                    Said::Replied(reply.home, *depends_on)
                }
                Word::Return(home) => Said::Returned(*home),
                Word::Cancel(task) => Said::Cancelled(*task),
                Word::Frame(frame) => Said::Frame(std::ptr::from_ref(frame).read()),
                Word::Probe(probe) => Said::Probe(std::ptr::from_ref(probe).read()),
                Word::Settle(settle) => Said::Settle(std::ptr::from_ref(settle).read()),
            }
        }
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.vtable.entity, self.vtable.name)
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reply({:p})", self.home.as_raw())
    }
}

/// Words of a message that travel: a key of one word and 64 bytes of arguments.
const MESSAGE_WORDS: usize = 9;
/// Words of a reply that travel.
const REPLY_WORDS: usize = 8;
/// Those of them that lie in the parcel's first line, behind the ring's mark and the reply's head: what has no more is read without
/// waiting for the second line.
const SHORT_WORDS: usize = 4;
/// The ring's mark, which word it is, and what the reply depends on.
const BEFORE_REPLY: usize = 3 * size_of::<u64>();
const _: () = assert!(BEFORE_REPLY + offset_of!(Reply, words) + size_of::<Words<SHORT_WORDS>>() == 64);

const _: () = assert!(size_of::<CoreMessage>() == epicserver_sync::ring::VALUE_BYTES_MAX);
