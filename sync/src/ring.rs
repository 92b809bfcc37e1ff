//! Bounded single-producer single-consumer ring of 128-byte slots with the sequence number inside the slot.
//!
//! A message and its "is here" mark share a cache line, so a hand-over moves one line, where a ring with separate head
//! and tail indices moves two; a message of more than 56 bytes moves the neighbouring line too. It is written and read where it
//! lies: a copy would wait for the lines that it is made from. Not a queue for many producers (that is [`inbox`](super::inbox)), and it never sleeps:
//! waiting is [`parker`](super::parker)'s business. Start at [`ring`].
//!
//! | field | written by | read by | ordering |
//! |---|---|---|---|
//! | `Slot::sequence` | producer: position + 1, after the value | consumer, and the last owner's drop | Release / Acquire |
//! | `Slot::value` | producer, while the slot is free | consumer, once `sequence` says position + 1 | by `sequence` and `head` |
//! | `head` | consumer, lazily: a count of pops, after the values were moved out | producer, when the ring looks full | Release / Acquire |
//! | `room_wanted` | producer sets, both clear | consumer | Relaxed, with SeqCst fences (below) |
//! | `producer_gone`, `consumer_gone` | the end that goes | the other end | Release / Acquire |
//! | `Producer::{tail, head_seen}`, `Consumer::{head, head_published}` | their owner | their owner | plain |
//!
//! A slot is free for position p when `head + capacity > p`. The consumer never writes to slots. It publishes `head` every
//! `PUBLISH_EVERY_MAX` pops, at most every half capacity, and whenever it finds the ring empty: so a ring that looks full
//! holds at least half a ring of unread values, and one that was drained has all its room.
//!
//! *A producer that finds the ring full* may sleep: after `Parker::prepare` it calls [`Producer::want_room`] (stores
//! `room_wanted`, fence, reads `head`). The consumer looks at [`Consumer::room_wanted`] once per pass and again between its
//! own `Parker::prepare` (a fence) and its sleep. One of the two sees the other's store; nothing is fenced on the hot path.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit, align_of, size_of};
use std::ptr::NonNull;

use crate::padded::Padded;
use crate::shim::{Arc, AtomicBool, AtomicU64, Ordering, UnsafeCell, fence};

/// Makes a ring of `capacity` slots and hands out its two ends.
///
/// Values of more than [`VALUE_BYTES_MAX`] bytes or an alignment above 8 do not compile.
///
/// # Panics
/// If `capacity` is not a power of two in `2..=CAPACITY_MAX`.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    const { assert!(size_of::<T>() <= VALUE_BYTES_MAX, "the value does not fit into a slot") };
    const {
        assert!(
            align_of::<T>() <= align_of::<u64>(),
            "the value is aligned more strictly than a slot's payload"
        )
    };
    assert!(capacity.is_power_of_two() && (2..=CAPACITY_MAX).contains(&capacity), "ring of {capacity} slots");
    let shared = Arc::new(Shared {
        slots: (0..capacity).map(|_| Slot::vacant()).collect(),
        by_consumer: Padded(ByConsumer { head: AtomicU64::new(0), consumer_gone: AtomicBool::new(false) }),
        by_producer: Padded(ByProducer {
            room_wanted: AtomicBool::new(false),
            producer_gone: AtomicBool::new(false),
        }),
    });
    let publish_every = PUBLISH_EVERY_MAX.min(capacity as u64 / 2);
    let consumer = Consumer { shared: Arc::clone(&shared), head: 0, head_published: 0, publish_every };
    (Producer { shared, tail: 0, head_seen: 0 }, consumer)
}

/// The end that pushes. Dropping it leaves what it pushed to the consumer.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// Count of pushes: the position of the next one.
    tail: u64,
    /// `head` as last read; the true one is never smaller.
    head_seen: u64,
}

impl<T> Producer<T> {
    /// Appends `value`.
    ///
    /// # Errors
    /// Gives `value` back if the ring is full.
    #[inline]
    pub fn try_push(&mut self, value: T) -> Result<(), T> {
        if self.tail - self.head_seen == self.shared.capacity() && !self.has_room() {
            return Err(value);
        }
        Vacant(self).fill(|place| place.write(value));
        Ok(())
    }

    /// The next free slot, if there is one.
    #[inline(always)]
    pub fn vacant(&mut self) -> Option<Vacant<'_, T>> {
        if self.tail - self.head_seen == self.shared.capacity() && !self.has_room() {
            return None;
        }
        Some(Vacant(self))
    }

    /// Is there room for one more value? Reads what the consumer published; [`Self::try_push`] does it only when it must.
    pub fn has_room(&mut self) -> bool {
        self.head_seen = self.shared.by_consumer.head.load(Ordering::Acquire);
        self.tail - self.head_seen < self.shared.capacity()
    }

    /// Asks the consumer to say when there is room, and returns whether there is some already.
    ///
    /// To be called between `Parker::prepare` and `Parker::park` by a producer with values that did not fit. `true`: do not
    /// sleep. `false`: the consumer's [`room_wanted`](Consumer::room_wanted) will answer `true`.
    pub fn want_room(&mut self) -> bool {
        self.shared.by_producer.room_wanted.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let room = self.has_room();
        if room {
            self.shared.by_producer.room_wanted.store(false, Ordering::Relaxed);
        }
        room
    }

    /// Was the consumer dropped? Values pushed from then on are dropped with this producer.
    pub fn is_disconnected(&self) -> bool {
        self.shared.by_consumer.consumer_gone.load(Ordering::Acquire)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.shared.by_producer.producer_gone.store(true, Ordering::Release);
    }
}

/// A free slot of a ring, to be written in place.
pub struct Vacant<'a, T>(&'a mut Producer<T>);

impl<T> Vacant<'_, T> {
    /// Has `write` put a value into the slot and sends it.
    ///
    /// # Panics
    /// If what `write` returns is not what it wrote to its argument.
    #[inline(always)]
    pub fn fill(self, write: impl FnOnce(&mut MaybeUninit<T>) -> &mut T) {
        let producer = self.0;
        let slot = producer.shared.slot(producer.tail);
        // SAFETY: the consumer moved the slot's former value out before it published the `head` that makes this slot free,
        // `head_seen` was read with Acquire, and `sequence` keeps the consumer away until the store below. This is the
        // only producer: `Producer` is not Clone and this has it by `&mut`.
        slot.value.with_mut(|place| unsafe {
            let written: *const T = write(&mut *place);
            assert_eq!(written, (*place).as_ptr(), "a value was written elsewhere");
        });
        producer.tail += 1;
        slot.sequence.store(producer.tail, Ordering::Release);
        producer.shared.slot(producer.tail).want_rest_for_writing();
    }
}

/// A value that was popped and lies where it was pushed: the right to take it, once. Dropping it drops the value.
pub struct Taken<'a, T> {
    place: NonNull<T>,
    value: PhantomData<&'a mut ManuallyDrop<T>>,
}

impl<'a, T> Taken<'a, T> {
    /// As if this value had been popped.
    pub fn of(value: &'a mut ManuallyDrop<T>) -> Self {
        Self { place: NonNull::from(&mut **value), value: PhantomData }
    }

    /// Moves the value out.
    #[inline(always)]
    pub fn take(self) -> T {
        // SAFETY: the value is there for `'a`, and this was the only right to it.
        unsafe { self.into_raw().read() }
    }

    /// Where the value lies for `'a`. It is the caller's to move out or to drop.
    #[inline(always)]
    pub fn into_raw(self) -> *const T {
        let place = self.place.as_ptr();
        std::mem::forget(self);
        place
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        // SAFETY: as in `take`.
        unsafe { self.place.drop_in_place() };
    }
}

/// The end that pops. Dropping it drops what it had not popped.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    /// Count of pops: the position of the next one.
    head: u64,
    /// `Shared::head` as last published; never above `head`, and less than `publish_every` below it between calls.
    head_published: u64,
    publish_every: u64,
}

impl<T> Consumer<T> {
    /// Takes the oldest value, or `None` if the ring is empty.
    #[inline]
    pub fn try_pop(&mut self) -> Option<T> {
        self.try_pop_with(|value| value.take())
    }

    /// Has `take` take the oldest value where it lies, or gives `None` if the ring is empty.
    #[inline]
    pub fn try_pop_with<R>(&mut self, take: impl FnOnce(Taken<'_, T>) -> R) -> Option<R> {
        let slot = self.shared.slot(self.head);
        if slot.sequence.load(Ordering::Acquire) != self.head + 1 {
            self.publish_head();
            return None;
        }
        slot.want_rest();
        self.head += 1;
        let value = slot.value.with_mut(|place| {
            // The producer writes the slot again only after `head` was published past it, which is below. The value is taken once:
            // `head` grew past it, this is the only consumer (not Clone, `&mut self`), and `Shared::drop` starts at the
            // published head, which `Consumer::drop` brings up to `head`. Only the value's own drop writes through the pointer.
            // SAFETY: the producer wrote the value before it stored this sequence number, which was read with Acquire; above
            // is why nobody else reaches it.
            let place = unsafe { NonNull::from((*place).assume_init_mut()) };
            take(Taken { place, value: PhantomData })
        });
        if self.head - self.head_published >= self.publish_every {
            self.publish_head();
        }
        Some(value)
    }

    /// Is nothing there to pop? For the check between `Parker::prepare` and `Parker::park`.
    pub fn is_empty(&mut self) -> bool {
        let empty = self.shared.slot(self.head).sequence.load(Ordering::Acquire) != self.head + 1;
        if empty {
            self.publish_head();
        }
        empty
    }

    /// Does the producer wait for room that is there now? `true` at most once per [`Producer::want_room`]; the caller then
    /// unparks the producer.
    ///
    /// To be called once per pass after popping, and once more between `Parker::prepare` and `Parker::park`.
    pub fn room_wanted(&mut self) -> bool {
        if !self.shared.by_producer.room_wanted.load(Ordering::Relaxed) {
            return false;
        }
        self.publish_head();
        self.shared.by_producer.room_wanted.store(false, Ordering::Relaxed);
        true
    }

    /// Was the producer dropped? If so, what [`Self::try_pop`] still finds after this call is the last there will be.
    pub fn is_disconnected(&self) -> bool {
        self.shared.by_producer.producer_gone.load(Ordering::Acquire)
    }

    #[inline]
    fn publish_head(&mut self) {
        if self.head != self.head_published {
            self.head_published = self.head;
            self.shared.by_consumer.head.store(self.head, Ordering::Release);
        }
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.shared.by_consumer.consumer_gone.store(true, Ordering::Release);
        // At most one lap, or a fast producer could keep us here; `Shared::drop` gets the rest.
        for _ in 0..self.shared.capacity() {
            let Some(value) = self.try_pop() else { break };
            // `Shared::drop` goes on from the published head, also when this `T::drop` panics. (Finding nothing publishes.)
            self.publish_head();
            drop(value);
        }
    }
}

struct Shared<T> {
    slots: Box<[Slot<T>]>,
    by_consumer: Padded<ByConsumer>,
    by_producer: Padded<ByProducer>,
}

// SAFETY: the two ends reach a slot's value in turns only, handed over by `sequence` and `head` (table at the top), and only
// by value: no `&T` is shared between threads, so `T: Send` is enough.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: owning the slots from another thread moves values of `T` there. Spelled out because loom's cell is not Send.
unsafe impl<T: Send> Send for Shared<T> {}

struct ByConsumer {
    head: AtomicU64,
    consumer_gone: AtomicBool,
}

struct ByProducer {
    room_wanted: AtomicBool,
    producer_gone: AtomicBool,
}

impl<T> Shared<T> {
    #[inline(always)]
    fn slot(&self, position: u64) -> &Slot<T> {
        &self.slots[position as usize & (self.slots.len() - 1)]
    }

    #[inline(always)]
    fn capacity(&self) -> u64 {
        self.slots.len() as u64
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let head = self.by_consumer.head.load(Ordering::Acquire);
        for position in head..head + self.capacity() {
            let slot = self.slot(position);
            if slot.sequence.load(Ordering::Acquire) != position + 1 {
                break;
            }
            // SAFETY: both ends are gone, so nobody else reaches the slot; the sequence number says that the value was
            // written, and `head`, published by `Consumer::drop`, that it was not moved out.
            slot.value.with_mut(|place| unsafe { (*place).assume_init_drop() });
        }
    }
}

/// Two lines that processors fetch as a pair.
#[repr(C, align(128))]
struct Slot<T> {
    /// 1 + the position of the value last written here; 0 before the first.
    sequence: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

impl<T> Slot<T> {
    fn vacant() -> Self {
        #[cfg(not(loom))]
        const {
            assert!(size_of::<Self>() == 128, "a slot is a pair of cache lines")
        };
        Self { sequence: AtomicU64::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// Whether values lie in the second line too.
    const HAS_REST: bool = size_of::<T>() > LINE_LEN - size_of::<u64>();

    /// Asks for the second line of a slot whose first has come: it comes while the first is looked at.
    #[inline(always)]
    fn want_rest(&self) {
        if Self::HAS_REST {
            prefetch::<false>(self.rest());
        }
    }

    /// Asks for the second line of a slot that is written next. Not for the first, which the consumer looks at again and again.
    #[inline(always)]
    fn want_rest_for_writing(&self) {
        if Self::HAS_REST {
            prefetch::<true>(self.rest());
        }
    }

    #[inline(always)]
    fn rest(&self) -> *const u8 {
        std::ptr::from_ref(self).cast::<u8>().wrapping_add(LINE_LEN)
    }
}

/// Asks for a cache line, and does not wait for it.
#[inline(always)]
fn prefetch<const FOR_WRITING: bool>(line: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: hints that touch no memory, whatever the address; processors without the second take it for nothing.
    unsafe {
        if FOR_WRITING {
            std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags));
        } else {
            std::arch::asm!("prefetcht0 [{}]", in(reg) line, options(nostack, preserves_flags));
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = line;
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Producer").field("tail", &self.tail).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Consumer").field("head", &self.head).finish_non_exhaustive()
    }
}

const LINE_LEN: usize = 64;
/// Bytes of the largest value that fits beside the sequence number in a slot.
pub const VALUE_BYTES_MAX: usize = 120;
/// Most slots a ring may have: 128 MiB of them.
pub const CAPACITY_MAX: usize = 1 << 20;
/// Pops after which the consumer publishes `head` at the latest.
const PUBLISH_EVERY_MAX: u64 = 64;

#[cfg(all(test, not(loom)))]
mod tests;
