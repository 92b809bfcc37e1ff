//! Bounded many-producer inbox of one core: calls from `Pool` handles and wakes from foreign threads.
//!
//! A mutex over a vector, with a flag in front. Nothing lock-free, because here it would not pay: who enters from outside
//! pays a thread hop anyway, the lock is held for one push or one swap, never while a value is made or dropped, and the
//! consumer takes everything with one lock. A pass that finds nothing costs one load of a line that nobody writes. Order:
//! pushes of one thread stay in their order. Traffic between cores belongs in [`ring`](super::ring).
//!
//! | field | written by | read by | ordering |
//! |---|---|---|---|
//! | `queue` | producers, consumer | both | under its mutex |
//! | `occupied` | producers set it, the consumer clears it, both under the mutex | consumer, without the mutex | Relaxed: it is a hint to lock; the fences of `parker` order it against PARKED |
//! | `closed` | consumer, under the mutex | producers under the mutex; anybody as a hint | Relaxed |

use crate::padded::Padded;
use crate::shim::{AtomicBool, Mutex, Ordering, lock};

/// See the module's documentation. Shared by reference; the consumer is one thread by convention, not by type.
#[derive(Debug)]
pub struct Inbox<T> {
    occupied: Padded<AtomicBool>,
    closed: AtomicBool,
    queue: Mutex<Vec<T>>,
    capacity: usize,
}

impl<T> Inbox<T> {
    /// An inbox that holds at most `capacity` values. Room grows with use and is kept: bounds are generous, cores many.
    ///
    /// # Panics
    /// If `capacity` is 0.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "an inbox without room");
        Self {
            occupied: Padded(AtomicBool::new(false)),
            closed: AtomicBool::new(false),
            queue: Mutex::new(Vec::new()),
            capacity,
        }
    }

    /// Appends `value`. The caller then calls `Unparker::unpark_if_parked` of the consumer, once per batch.
    ///
    /// # Errors
    /// Gives `value` back if the inbox is full or closed ([`Self::is_closed`] tells which).
    pub fn push(&self, value: T) -> Result<(), T> {
        let mut queue = lock(&self.queue);
        if queue.len() == self.capacity || self.closed.load(Ordering::Relaxed) {
            return Err(value);
        }
        queue.push(value);
        if queue.len() == 1 {
            self.occupied.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Is nothing there to drain? One load; may be out of date unless it stands between `Parker::prepare` and `park`.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.occupied.load(Ordering::Relaxed)
    }

    /// Appends everything that was pushed, in order, to `values`. Does not lock if there is nothing.
    ///
    /// An empty `values` is swapped with the queue; given the same vector again and again, nothing allocates in the steady state.
    pub fn drain_into(&self, values: &mut Vec<T>) {
        if self.is_empty() {
            return;
        }
        let mut queue = lock(&self.queue);
        self.occupied.store(false, Ordering::Relaxed);
        if values.is_empty() {
            std::mem::swap(&mut *queue, values);
        } else {
            values.append(&mut queue);
        }
    }

    /// Refuses every push from now on. What was pushed before stays to be drained: after one more
    /// [`Self::drain_into`] nothing can come.
    pub fn close(&self) {
        let _queue = lock(&self.queue);
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Was [`Self::close`] called?
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn full_inbox_gives_the_value_back_until_it_is_drained() {
        let inbox = Inbox::new(2);
        assert!(inbox.is_empty());
        inbox.push(1).expect("empty");
        assert!(!inbox.is_empty());
        inbox.push(2).expect("one of two");
        assert_eq!(inbox.push(3), Err(3));
        let mut values = vec![0];
        inbox.drain_into(&mut values);
        assert_eq!(values, [0, 1, 2]);
        assert!(inbox.is_empty());
        inbox.push(3).expect("drained");
        values.clear();
        inbox.drain_into(&mut values);
        assert_eq!(values, [3]);
    }

    #[test]
    fn draining_with_the_same_vector_swaps_two_buffers_for_ever() {
        let inbox = Inbox::new(3);
        let mut values = Vec::new();
        let mut buffers = std::collections::BTreeSet::new();
        for round in 0..20 {
            for value in 0..3 {
                inbox.push(round * 3 + value).expect("drained each round");
            }
            inbox.drain_into(&mut values);
            assert_eq!(values, [round * 3, round * 3 + 1, round * 3 + 2]);
            buffers.insert(values.as_ptr());
            values.clear();
        }
        assert_eq!(buffers.len(), 2);
    }

    #[test]
    fn closed_inbox_refuses_but_keeps_what_it_has() {
        let inbox = Inbox::new(4);
        inbox.push(1).expect("open");
        assert!(!inbox.is_closed());
        inbox.close();
        assert!(inbox.is_closed());
        assert_eq!(inbox.push(2), Err(2));
        let mut values = Vec::new();
        inbox.drain_into(&mut values);
        assert_eq!(values, [1]);
    }

    #[test]
    fn what_was_not_drained_is_dropped_with_the_inbox() {
        let inbox = Inbox::new(4);
        let value = Arc::new(());
        inbox.push(Arc::clone(&value)).expect("open");
        drop(inbox);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn many_threads_lose_nothing_and_each_keeps_its_order() {
        const THREADS: usize = 3;
        const VALUES: usize = 5_000;
        let inbox = Inbox::new(64);
        thread::scope(|scope| {
            for producer in 0..THREADS {
                let inbox = &inbox;
                scope.spawn(move || {
                    for value in 0..VALUES {
                        while inbox.push((producer, value)).is_err() {
                            thread::yield_now();
                        }
                    }
                });
            }
            let mut expected = [0; THREADS];
            let mut values = Vec::new();
            while expected.iter().sum::<usize>() < THREADS * VALUES {
                inbox.drain_into(&mut values);
                assert!(values.len() <= 64);
                for (producer, value) in values.drain(..) {
                    assert_eq!(value, expected[producer]);
                    expected[producer] += 1;
                }
                thread::yield_now();
            }
        });
        assert!(inbox.is_empty());
    }
}
