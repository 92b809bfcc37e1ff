//! Which save batch is open, which are durable, which failed: shared between a node's cores and its storage thread.
//!
//! ```text
//!   storage thread                                     core
//!   n = publish_next()    open: k -> k+1               each pass: observe(); open grew: hand over, passed(open)
//!   wait until all_passed(k)   <- passed | IDLE ->     nothing to do: hand over, idle(), sleep, wake()
//!   commit what was handed over, numbered <= k
//!   set_durable(k) or fail(k)  - durable, failed ->    next observe(): open gates or drop what failed
//! ```
//! Numbers only: images travel over another channel, before the `passed` or `idle` that vouches for them. The first open batch
//! is 1; 0 depends on nothing and is durable from the start. Start at [`batch_clock`].
//!
//! | field | written by | read by | ordering |
//! |---|---|---|---|
//! | `open` | storage: store Release, then fence(SeqCst) | cores: Acquire | after the failure it closes over |
//! | `durable` | storage: store Release | cores: Acquire | after any failure below it |
//! | `failure_generation` | storage: store Release, under `failures` | cores: Acquire, after `open` and `durable` | so a core that sees either sees the failure before it |
//! | `failures` | storage | cores that saw the generation change | its mutex |
//! | `cores[i]` = passed, or passed with IDLE | core i: store Release, after it handed over | storage: Acquire | two Dekker pairs, below |
//!
//! *No change slips into a closed batch.* Storage stores `open = k+1`, fences, reads `cores[i]`; a waking core clears IDLE, fences,
//! reads `open`. One sees the other: either the core works under k+1, or storage sees it awake and waits for it. A core that is
//! awake is believed only when its number exceeds k, which it stores (Release) after its last hand-over below that.
//!
//! *No lost wake-up.* After a store to `cores[i]` that may be the one storage waits for, the core calls `unpark_if_parked`;
//! storage calls [`StorageClock::all_passed`] between `Parker::prepare` and `park`. Going idle with everything passed
//! cannot be what storage waits for: the core fences and rereads `open` to know, and makes no system call.

use std::ops::RangeInclusive;

use crate::padded::Padded;
use crate::parker::Unparker;
use crate::shim::{Arc, AtomicU64, Mutex, Ordering, fence, lock};

/// Makes the clock for `cores` cores and one storage thread, which `storage_unparker` wakes. Every core starts idle: its first
/// act is [`CoreClock::wake`].
pub fn batch_clock(cores: usize, storage_unparker: Unparker) -> (StorageClock, Vec<CoreClock>) {
    let shared = Arc::new(Shared {
        front: Padded(Front {
            open: AtomicU64::new(FIRST),
            durable: AtomicU64::new(FIRST - 1),
            failure_generation: AtomicU64::new(0),
        }),
        cores: (0..cores).map(|_| Padded(AtomicU64::new(FIRST | IDLE))).collect(),
        failures: Mutex::new(FailedRanges::default()),
        storage_unparker,
    });
    let core_clocks = (0..cores)
        .map(|index| CoreClock {
            shared: Arc::clone(&shared),
            index,
            passed: FIRST,
            is_idle: true,
            failed: FailedRanges::default(),
            failure_generation: 0,
        })
        .collect();
    (StorageClock { shared, open: FIRST, durable: FIRST - 1 }, core_clocks)
}

/// The storage thread's side, the only one that moves numbers.
#[derive(Debug)]
pub struct StorageClock {
    shared: Arc<Shared>,
    open: u64,
    durable: u64,
}

impl StorageClock {
    /// The number of the batch being filled.
    pub fn open(&self) -> u64 {
        self.open
    }

    /// Closes the open batch k by opening k + 1, which it returns. The batch is complete once
    /// [`all_passed(k)`](Self::all_passed).
    pub fn publish_next(&mut self) -> u64 {
        self.publish_open(self.open + 1);
        self.open
    }

    /// Has every core handed over all it will ever change under numbers `..=number`? If so, all of it is visible to this
    /// thread: emptying the channel now gets it.
    ///
    /// To sleep until it is so, call it between `Parker::prepare` and `Parker::park`.
    ///
    /// # Panics
    /// If `number` is still open: no core can have passed it.
    pub fn all_passed(&self, number: u64) -> bool {
        assert!(number < self.open, "batch {number} is open");
        self.shared.cores.iter().all(|core| {
            let word = core.load(Ordering::Acquire);
            word & IDLE != 0 || word > number
        })
    }

    /// Says that every batch `..=number` that did not fail is durable. Afterwards, wake the cores that hold gated messages.
    ///
    /// # Panics
    /// If `number` is not closed or lower than before.
    pub fn set_durable(&mut self, number: u64) {
        assert!((self.durable..self.open).contains(&number), "batch {number} cannot be durable now");
        self.durable = number;
        self.shared.front.durable.store(number, Ordering::Release);
    }

    /// Fails every batch from `from` to the open one, which it closes, and returns that range. A core that sees the new open
    /// number sees the failure. Afterwards, wake every core: their callers wait for an answer. Changes
    /// numbered in the range that are still handed over are to be thrown away.
    ///
    /// # Panics
    /// If `from` is durable already or not yet open.
    pub fn fail(&mut self, from: u64) -> RangeInclusive<u64> {
        assert!(self.durable < from && from <= self.open, "batch {from} cannot fail now");
        let range = from..=self.open;
        {
            let mut failures = lock(&self.shared.failures);
            // Only this thread writes the generation.
            let generation = self.shared.front.failure_generation.load(Ordering::Relaxed) + 1;
            failures.push(range.clone(), generation);
            self.shared.front.failure_generation.store(generation, Ordering::Release);
        }
        self.publish_open(self.open + 1);
        range
    }

    /// Did batch `number` fail? For images that are handed over late.
    pub fn is_failed(&self, number: u64) -> bool {
        lock(&self.shared.failures).contains(number)
    }

    fn publish_open(&mut self, open: u64) {
        self.open = open;
        self.shared.front.open.store(open, Ordering::Release);
        fence(Ordering::SeqCst);
    }
}

/// One core's side.
///
/// Dropping it says nothing to the storage thread, which would take a core that died for one that handed everything over: a
/// core that ends in order calls [`Self::idle`] first.
#[derive(Debug)]
pub struct CoreClock {
    shared: Arc<Shared>,
    index: usize,
    passed: u64,
    is_idle: bool,
    /// What this core was told by [`Self::take_failures`].
    failed: FailedRanges,
    failure_generation: u64,
}

impl CoreClock {
    /// Reads the three numbers, once per loop pass and before handling a message numbered above the last open number seen.
    #[inline]
    pub fn observe(&self) -> Observation {
        let front = &self.shared.front;
        // In this order: whatever open or durable number is seen, the failures before it are.
        let open = front.open.load(Ordering::Acquire);
        let durable = front.durable.load(Ordering::Acquire);
        let failure_generation = front.failure_generation.load(Ordering::Acquire);
        Observation { open, durable, failure_generation }
    }

    /// Declares that this core has handed over everything it changed under numbers below `number`, and will change nothing
    /// under them again. Wakes the storage thread if it sleeps.
    ///
    /// # Panics
    /// If the core is idle. In debug builds also if `number` is not open yet or lower than before.
    pub fn passed(&mut self, number: u64) {
        assert!(!self.is_idle, "an idle core passes nothing: wake() first");
        debug_assert!(number >= self.passed, "passed {number} after {}", self.passed);
        debug_assert!(number <= self.observe().open, "batch {number} is not open yet");
        if number == self.passed {
            return;
        }
        self.passed = number;
        self.word().store(number, Ordering::Release);
        self.shared.storage_unparker.unpark_if_parked();
    }

    /// Declares that everything was handed over and that nothing changes before [`Self::wake`]. To be called before the
    /// core's `Parker::prepare`; harmless when idle already.
    pub fn idle(&mut self) {
        if self.is_idle {
            return;
        }
        self.is_idle = true;
        self.word().store(self.passed | IDLE, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.shared.front.open.load(Ordering::Relaxed) > self.passed {
            self.shared.storage_unparker.unpark_if_parked();
        }
    }

    /// Ends idleness before the next turn, and returns the open number, under which that turn works. Everything below counts
    /// as passed. Harmless when awake.
    pub fn wake(&mut self) -> u64 {
        if !self.is_idle {
            return self.observe().open;
        }
        self.is_idle = false;
        // Awake with the old number first: storage must wait for us until we know under which number we work. Release,
        // because this store too vouches for what was handed over below that number.
        self.word().store(self.passed, Ordering::Release);
        fence(Ordering::SeqCst);
        let open = self.shared.front.open.load(Ordering::Acquire);
        self.passed(open);
        open
    }

    /// The ranges that failed since the last call, oldest first; to be called when
    /// [`Observation::failure_generation`] changed. May repeat numbers that were told before: dropping what depends on
    /// them twice does nothing.
    pub fn take_failures(&mut self) -> Vec<RangeInclusive<u64>> {
        self.failed = lock(&self.shared.failures).clone();
        let since = self.failure_generation;
        self.failure_generation = self.failed.generation();
        self.failed
            .ranges
            .iter()
            .filter(|(_, generation)| *generation > since)
            .map(|(range, _)| range.clone())
            .collect()
    }

    /// Did batch `number` fail, as far as [`Self::take_failures`] told? For messages that were in a ring when it did: their
    /// number may be below the durable one by now.
    pub fn is_failed(&self, number: u64) -> bool {
        self.failed.contains(number)
    }

    fn word(&self) -> &AtomicU64 {
        &self.shared.cores[self.index]
    }
}

/// What a core reads at the start of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The number under which changes are made now.
    pub open: u64,
    /// Everything `..=durable` is durable, except what failed.
    pub durable: u64,
    /// Counts failures; when it differs from the last one seen, call [`CoreClock::take_failures`] before anything else.
    pub failure_generation: u64,
}

#[derive(Debug)]
struct Shared {
    front: Padded<Front>,
    cores: Box<[Padded<AtomicU64>]>,
    failures: Mutex<FailedRanges>,
    storage_unparker: Unparker,
}

/// What every core reads every pass: one line, written a few times per batch.
#[derive(Debug)]
struct Front {
    open: AtomicU64,
    durable: AtomicU64,
    failure_generation: AtomicU64,
}

/// The latest failed ranges, ascending and disjoint, each with the generation that last extended it.
///
/// Failures in a row join into one range. The oldest of more than [`FAILED_RANGES_MAX`] is forgotten: a message that old
/// would have lain in a ring while every core passed, and so drained its rings, hundreds of times.
#[derive(Clone, Debug, Default)]
struct FailedRanges {
    ranges: Vec<(RangeInclusive<u64>, u64)>,
}

impl FailedRanges {
    fn push(&mut self, range: RangeInclusive<u64>, generation: u64) {
        if let Some((last, last_generation)) = self.ranges.last_mut()
            && last.end() + 1 == *range.start()
        {
            *last = *last.start()..=*range.end();
            *last_generation = generation;
            return;
        }
        if self.ranges.len() == FAILED_RANGES_MAX {
            self.ranges.remove(0);
        }
        self.ranges.push((range, generation));
    }

    fn contains(&self, number: u64) -> bool {
        let after = self.ranges.partition_point(|(range, _)| *range.start() <= number);
        after > 0 && self.ranges[after - 1].0.contains(&number)
    }

    fn generation(&self) -> u64 {
        self.ranges.last().map_or(0, |(_, generation)| *generation)
    }
}

/// Set in a core's word while it sleeps with everything handed over.
const IDLE: u64 = 1 << 63;
/// The batch that is open at the start.
const FIRST: u64 = 1;
/// Failed ranges that are remembered.
pub const FAILED_RANGES_MAX: usize = 256;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::thread;

    use super::*;
    use crate::parker::Parker;

    fn clock(cores: usize) -> (Parker, StorageClock, Vec<CoreClock>) {
        let parker = Parker::new();
        let (storage, cores) = batch_clock(cores, parker.unparker());
        (parker, storage, cores)
    }

    #[test]
    fn batch_closes_when_every_core_passed_or_is_idle() {
        let (_parker, mut storage, mut cores) = clock(2);
        assert_eq!(storage.open(), 1);
        assert_eq!(cores[0].wake(), 1);
        assert_eq!(storage.publish_next(), 2);
        assert!(!storage.all_passed(1), "core 0 may still change under 1");
        assert_eq!(cores[0].observe().open, 2);
        cores[0].passed(2);
        assert!(storage.all_passed(1), "core 1 never woke");
        assert_eq!(cores[1].wake(), 2);
        assert!(storage.all_passed(1), "a core that wakes after the close works under 2");
        assert_eq!(storage.publish_next(), 3);
        assert!(!storage.all_passed(2));
        cores[0].idle();
        assert!(!storage.all_passed(2));
        cores[1].idle();
        assert!(storage.all_passed(2));
    }

    #[test]
    fn core_wakes_storage_only_for_what_storage_may_wait_for() {
        let (mut parker, mut storage, mut cores) = clock(1);
        parker.prepare();
        cores[0].wake();
        cores[0].passed(1);
        cores[0].idle();
        assert!(!parker.cancel(), "nothing is being closed");
        cores[0].wake();
        storage.publish_next();
        parker.prepare();
        cores[0].passed(2);
        assert!(parker.cancel());
        storage.publish_next();
        parker.prepare();
        cores[0].idle();
        assert!(parker.cancel());
        storage.publish_next();
        parker.prepare();
        cores[0].wake();
        assert!(parker.cancel(), "storage may have seen the core awake with its old number");
    }

    #[test]
    fn failure_covers_every_open_number_and_is_told_once() {
        let (_parker, mut storage, mut cores) = clock(2);
        cores[0].wake();
        for _ in 0..3 {
            storage.publish_next();
        }
        storage.set_durable(1);
        assert_eq!(storage.fail(2), 2..=4);
        let seen = cores[0].observe();
        assert_eq!(seen, Observation { open: 5, durable: 1, failure_generation: 1 });
        assert_eq!(cores[0].take_failures(), [2..=4]);
        assert_eq!(cores[0].take_failures(), []);
        assert!(
            !cores[0].is_failed(1)
                && cores[0].is_failed(2)
                && cores[0].is_failed(4)
                && !cores[0].is_failed(5)
        );
        storage.publish_next();
        storage.set_durable(5);
        assert_eq!(storage.fail(6), 6..=6);
        assert_eq!(cores[0].take_failures(), [6..=6]);
        assert_eq!(cores[1].take_failures(), [2..=4, 6..=6]);
    }

    #[test]
    fn failures_in_a_row_are_one_range_and_old_ones_are_forgotten() {
        let (_parker, mut storage, mut cores) = clock(1);
        for _ in 0..10 {
            storage.fail(storage.open());
        }
        assert_eq!(cores[0].take_failures(), [1..=10]);
        storage.fail(11);
        assert_eq!(cores[0].take_failures(), [1..=11]);
        for _ in 0..FAILED_RANGES_MAX {
            storage.publish_next();
            storage.set_durable(storage.open() - 1);
            storage.fail(storage.open());
        }
        assert_eq!(cores[0].take_failures().len(), FAILED_RANGES_MAX);
        assert!(!cores[0].is_failed(11) && cores[0].is_failed(13));
    }

    #[test]
    #[should_panic(expected = "cannot fail now")]
    fn durable_batch_cannot_fail() {
        let (_parker, mut storage, _cores) = clock(1);
        storage.publish_next();
        storage.set_durable(1);
        storage.fail(1);
    }

    #[test]
    #[should_panic(expected = "wake() first")]
    fn idle_core_cannot_pass() {
        let (_parker, mut storage, mut cores) = clock(1);
        storage.publish_next();
        cores[0].passed(2);
    }

    /// Cores change, pass and idle at their own pace while batches close: no image of a closed batch may come late.
    #[test]
    fn nothing_is_handed_over_into_a_closed_batch() {
        const BATCHES: u64 = 500;
        let (mut parker, mut storage, cores) = clock(3);
        let (closed, late) = (std::sync::Mutex::new(0_u64), std::sync::atomic::AtomicU64::new(0));
        thread::scope(|scope| {
            for mut core in cores {
                let (closed, late) = (&closed, &late);
                scope.spawn(move || {
                    let hand_over = |number: u64| {
                        if number <= *closed.lock().expect("no panic") {
                            late.fetch_add(1, Ordering::Relaxed);
                        }
                    };
                    let mut open = core.wake();
                    while open <= BATCHES {
                        hand_over(open);
                        if open % 3 == 0 {
                            core.idle();
                            thread::yield_now();
                            open = core.wake();
                        } else {
                            open = core.observe().open;
                            core.passed(open);
                        }
                    }
                    core.idle();
                });
            }
            while storage.open() <= BATCHES {
                let number = storage.publish_next() - 1;
                while !storage.all_passed(number) {
                    parker.prepare();
                    if storage.all_passed(number) {
                        parker.cancel();
                    } else {
                        parker.park(None);
                    }
                }
                *closed.lock().expect("no panic") = number;
                storage.set_durable(number);
            }
        });
        assert_eq!(late.into_inner(), 0);
    }
}
