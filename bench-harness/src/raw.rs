//! The raw baselines: what a call would cost without a runtime. They run on the very threads that the measured calls run
//! on, between the rounds of these, so that a noisy machine disturbs both alike.

use std::fmt;
use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use epicserver::message;

/// Words go back and forth over shared memory between two threads: each has cache lines of its own for each word, and for the
/// payload that comes before a word there and is read on the other side.
#[message]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    /// Round trips.
    pub(crate) calls: u64,
    /// Words under way at a time, [`WORDS_MAX`] at most.
    pub(crate) outstanding: u32,
    /// Bytes that come with each word there; [`PAYLOAD_MAX`] at most.
    pub(crate) payload: u32,
    /// Whether the threads sleep instead of spinning.
    pub(crate) park: bool,
}

/// One half of an exchange waited for the other in vain.
#[derive(Debug)]
pub(crate) struct Stalled;

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the other side of the raw ping-pong does not answer")
    }
}

impl Exchange {
    /// Makes the line ready. Nobody may use it; then [`echo`] starts on the other thread.
    pub(crate) fn prepare(&self) {
        let requests = LINE.requests.iter().map(|word| &word.count);
        for count in requests.chain(LINE.replies.iter().map(|word| &word.count)) {
            count.store(0, Ordering::Relaxed);
        }
        *lock(&LINE.caller) = Some(std::thread::current());
        LINE.answers.store(false, Ordering::Release);
    }

    /// Whether the other thread is there.
    pub(crate) fn is_answered(&self) -> bool {
        LINE.answers.load(Ordering::Acquire)
    }

    /// The caller's half. `sent` is told of each word before it is sent, `answered` after its answer has come; both get the
    /// word's place.
    ///
    /// # Errors
    /// [`Stalled`] if the other half does not answer.
    pub(crate) fn call(
        &self,
        mut sent: impl FnMut(usize),
        mut answered: impl FnMut(usize),
    ) -> Result<(), Stalled> {
        let other = lock(&LINE.echo).clone().filter(|_| self.park);
        let window = u64::from(self.outstanding).min(self.calls);
        let mut send = |place: usize, call: u64| {
            sent(place);
            LINE.requests[place].fill(self.payload, call);
            LINE.requests[place].count.store(call + 1, Ordering::Release);
        };
        (0..window).for_each(|call| send(call as usize, call));
        let mut place = 0;
        for call in 0..self.calls {
            wait_for(&LINE.replies[place], call, other.as_ref())?;
            answered(place);
            if call + window < self.calls {
                send(place, call + window);
            }
            place = if place as u64 + 1 == window { 0 } else { place + 1 };
        }
        Ok(())
    }
}

/// The other half of an exchange: blocks its thread until all words were answered.
///
/// # Errors
/// [`Stalled`] if the caller's half stops sending.
pub(crate) fn echo(exchange: &Exchange) -> Result<(), Stalled> {
    *lock(&LINE.echo) = Some(std::thread::current());
    let caller = lock(&LINE.caller).clone().filter(|_| exchange.park);
    LINE.answers.store(true, Ordering::Release);
    let window = u64::from(exchange.outstanding).min(exchange.calls);
    let mut place = 0;
    for call in 0..exchange.calls {
        wait_for(&LINE.requests[place], call, caller.as_ref())?;
        black_box(LINE.requests[place].read(exchange.payload));
        LINE.replies[place].count.store(call + 1, Ordering::Release);
        place = if place as u64 + 1 == window { 0 } else { place + 1 };
    }
    if let Some(caller) = caller {
        caller.unpark();
    }
    Ok(())
}

/// Waits for a word. Who is given the other thread wakes it before it sleeps itself, and so once for each burst.
#[inline]
fn wait_for<const N: usize>(word: &Word<N>, call: u64, other: Option<&Thread>) -> Result<(), Stalled> {
    let mut looks = 0u32;
    while word.count.load(Ordering::Acquire) <= call {
        looks += 1;
        if looks == LOOKS_MAX {
            return Err(Stalled);
        }
        let Some(other) = other else {
            std::hint::spin_loop();
            continue;
        };
        other.unpark();
        if word.count.load(Ordering::Acquire) <= call {
            std::thread::park_timeout(PATIENCE);
        }
    }
    Ok(())
}

/// What both threads use. There is one: one exchange runs at a time.
static LINE: Line = Line {
    requests: [const { Word::zero() }; WORDS_MAX],
    replies: [const { Word::zero() }; WORDS_MAX],
    caller: Mutex::new(None),
    echo: Mutex::new(None),
    answers: AtomicBool::new(false),
};

struct Line {
    requests: [Word<{ PAYLOAD_MAX / 8 }>; WORDS_MAX],
    replies: [Word<0>; WORDS_MAX],
    caller: Mutex<Option<Thread>>,
    echo: Mutex<Option<Thread>>,
    answers: AtomicBool,
}

/// Two lines, as processors fetch pairs of them.
#[repr(C, align(128))]
struct Word<const N: usize> {
    count: AtomicU64,
    payload: [AtomicU64; N],
}

impl<const N: usize> Word<N> {
    const fn zero() -> Self {
        Self { count: AtomicU64::new(0), payload: [const { AtomicU64::new(0) }; N] }
    }

    #[inline]
    fn fill(&self, bytes: u32, value: u64) {
        self.payload.iter().take(bytes as usize / 8).for_each(|part| part.store(value, Ordering::Relaxed));
    }

    #[inline]
    fn read(&self, bytes: u32) -> u64 {
        let parts = self.payload.iter().take(bytes as usize / 8);
        parts.fold(0, |sum, part| sum.wrapping_add(part.load(Ordering::Relaxed)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call through `Box<dyn Future>`: what async costs without a runtime.
#[inline]
pub(crate) fn boxed_future<const N: usize>(value: u64) -> Pin<Box<dyn Future<Output = u64>>> {
    let payload = [PAYLOAD; N];
    black_box(Box::pin(async move { value + u64::from(payload.first().copied().unwrap_or(0)) }))
}

/// A plain call that the compiler cannot see through.
#[inline(never)]
pub(crate) fn function<const N: usize>(value: u64, payload: [u8; N]) -> u64 {
    black_box(value) + u64::from(payload.first().copied().unwrap_or(0))
}

/// What every byte of a payload is.
pub(crate) const PAYLOAD: u8 = 1;
/// The most bytes that come with a word.
pub(crate) const PAYLOAD_MAX: usize = 4096;
/// Words under way at a time.
pub(crate) const WORDS_MAX: usize = 256;
/// Looks for a word before it counts as lost: half a minute of spinning.
const LOOKS_MAX: u32 = 1 << 31;
/// The longest sleep; a guard, as every look is preceded by a wake-up.
const PATIENCE: Duration = Duration::from_secs(1);
