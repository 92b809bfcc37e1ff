//! What entity code asks of its core: time, randomness, waiting, work elsewhere. Each is a syscall that the core answers;
//! none does IO.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::sync::oneshot;

pub use super::checkpoint::{Save, save};
use super::{Action, CoreState, Timer};
use crate::current;
pub use crate::entity::object;
use crate::entity::{Entity, RawRef, Ref, Stored};
use crate::error::{CallError, Rejection};
use crate::key::StoredKey;
use crate::script::Syscall;
use crate::timer::TimerKey;

/// The time since 1970 by the node's clock. One turn sees one time.
///
/// # Panics
/// Outside of entity code, as all functions of this module.
pub fn now() -> Duration {
    on_core("now()", |core| {
        core.note(Syscall::Now);
        Duration::from_millis(core.config.epoch_ms) + Duration::from_nanos(core.now.get())
    })
}

/// A random number from the core's seeded generator: the same in every run of a simulated world with the same seed.
///
/// # Panics
/// Outside of entity code.
pub fn random() -> u64 {
    on_core("random()", |core| {
        core.note(Syscall::Random);
        core.random.borrow_mut().u64(..)
    })
}

/// Waits; other calls on the object may run meanwhile if the method is shared. To about a millisecond, never early.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { duration, state: SleepState::Fresh }
}

/// Runs a future of its own beside the caller. It does not borrow the object; it calls back through a `Ref`. When the
/// object leaves memory the future ends; a node that stops does not wait for it.
///
/// So a loop that is spawned ends where it is, at an await, when its object moves to another process, was not used for as long as it may
/// be idle, makes room for others within the memory budget, forgets itself, or loses its activation to a panic; and with its process. What
/// the loop calls on its own object counts as use, what it does elsewhere does not. Nothing of it is saved, and nothing starts it again by
/// itself: start it in `#[on_activate]`, which runs before the next call of the object, whoever makes that.
///
/// # Errors
/// `Rejected(Overloaded)` when as many calls and tasks as allowed are under way.
///
/// # Panics
/// Outside of entity code.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> Result<(), CallError> {
    on_core("spawn()", |core| {
        core.note(Syscall::Spawn);
        core.spawn_loose(future)
    })
}

/// Runs a closure on the blocking pool: database calls, files, long computations.
///
/// It starts when what the object has seen so far is durable, so that nothing it does can outlive what it was done for. If
/// that is not before the deadline of the call whose method this is, it does not start, and gives `Rejected(Expired)`.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Operation<T> {
    Operation::new(|sender| Request::Blocking(Work(Box::new(Job { work, sender }))))
}

/// Runs a tokio future on the edge runtime: HTTP, other clients, anything that needs tokio. Starts as [`blocking`] does.
pub fn edge<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Operation<T> {
    let future = Box::pin(future);
    Operation::new(|sender| Request::Edge(EdgeFuture(Box::new(EdgeJob { future, sender: Some(sender) }))))
}

/// Forgets the object whose method this is: when no call holds it any more its state is the default again and its saved
/// record is removed.
///
/// # Panics
/// Outside of a method.
pub fn forget() {
    on_core("forget()", |core| {
        core.note(Syscall::Forget);
        assert!(core.forget_running(), "forget() is for methods; a spawned future has no object");
    });
}

/// Ends when the caller of this method no longer waits for it. An exclusive method then has a grace of five seconds.
pub fn cancelled() -> Cancelled {
    Cancelled(())
}

/// Whether the caller of this method no longer waits for it.
///
/// # Panics
/// Outside of entity code.
pub fn is_cancelled() -> bool {
    on_core("is_cancelled()", |core| core.poll_cancelled(Waker::noop()))
}

/// The number of the core this code runs on, from 0 up. An object keeps its core for as long as it is in memory; which one
/// that is follows from its key, and means nothing beyond measurements and diagnosis.
///
/// # Panics
/// Outside of entity code.
pub fn core() -> u16 {
    on_core("core()", |core| core.config.index)
}

/// A reference to the object whose method this is.
///
/// # Panics
/// Outside of the methods of `E`.
pub fn this<E: Entity>() -> Ref<E> {
    on_core("this()", |core| {
        let object = core.running.get().and_then(|slot| slot.object.get());
        let object = object.filter(|object| object.vtable.get().name == E::NAME);
        let key = object.and_then(|object| object.key(Stored::<E>::from_view)).flatten();
        let key = key.unwrap_or_else(|| panic!("this::<{}>() outside of its methods", E::NAME));
        RawRef::of(key, crate::entity::NodeTag(core.node_tag())).into()
    })
}

pub(super) fn on_core<R>(name: &str, ask: impl FnOnce(&CoreState) -> R) -> R {
    current::with(ask).unwrap_or_else(|| {
        panic!("{name} works inside entity code only; elsewhere use the tools of your own runtime")
    })
}

/// See [`sleep`].
#[derive(Debug)]
#[must_use = "it waits when it is awaited"]
pub struct Sleep {
    duration: Duration,
    state: SleepState,
}

#[derive(Debug)]
enum SleepState {
    Fresh,
    Waiting { until: u64, key: TimerKey, core: u32 },
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        on_core("sleep()", |core| {
            let until = match &self.state {
                SleepState::Fresh => {
                    core.note(Syscall::Sleep(self.duration));
                    core.now.get().saturating_add(u64::try_from(self.duration.as_nanos()).unwrap_or(u64::MAX))
                }
                SleepState::Waiting { until, key, core: home } => {
                    if *home == core.number {
                        core.cancel_timer(*key);
                    }
                    *until
                }
            };
            if until <= core.now.get() {
                self.state = SleepState::Fresh;
                self.duration = Duration::ZERO;
                return Poll::Ready(());
            }
            let key = core.set_timer(until, Timer::Wake(context.waker().clone()));
            self.state = SleepState::Waiting { until, key, core: core.number };
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let SleepState::Waiting { key, core: home, .. } = self.state {
            current::with(|core| {
                if core.number == home {
                    core.cancel_timer(key);
                }
            });
        }
    }
}

/// The result of work elsewhere; see [`blocking`] and [`edge`].
#[must_use = "it starts when it is awaited"]
pub struct Operation<T> {
    request: Option<Request>,
    result: oneshot::Receiver<T>,
    /// When it is too late to start.
    until: u64,
    /// What a test is told of it.
    description: Option<String>,
}

impl<T> fmt::Debug for Operation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation").field("started", &self.request.is_none()).finish()
    }
}

enum Request {
    Blocking(Work),
    Edge(EdgeFuture),
}

impl<T> Operation<T> {
    fn new(request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Self {
        let (sender, result) = oneshot::channel();
        Self { request: Some(request(sender)), result, until: u64::MAX, description: None }
    }

    /// Says what it is for, `context::edge(fetch(city)).described(format!("weather of {city}"))`: a
    /// [`Script`](crate::script::Script) tells it as [`Syscall::Described`], so that a test can look at what was asked for, and answer it.
    /// It changes nothing else.
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }
}

impl<T> Future for Operation<T> {
    type Output = Result<T, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(request) = self.request.take() {
            let description = self.description.take();
            self.until = on_core("blocking() and edge()", |core| core.start(request, description));
        }
        let result = ready!(Pin::new(&mut self.result).poll(context));
        Poll::Ready(result.map_err(|_| {
            let is_late = current::with(|core| core.is_over(self.until)).unwrap_or(false);
            CallError::Rejected(if is_late { Rejection::Expired } else { Rejection::ShuttingDown })
        }))
    }
}

/// Work for the blocking pool.
pub struct Work(Box<dyn Errand + Send>);

impl Work {
    /// Does it, on this thread.
    pub fn run(self) {
        self.0.run();
    }

    /// Leaves it undone: this is what it came to. If the type is another one it gives the name of the right one.
    pub(crate) fn answer(self, value: Box<dyn Any>) -> Result<(), &'static str> {
        self.0.answer(value)
    }
}

/// Work, with who waits for what it comes to.
trait Errand {
    fn run(self: Box<Self>);
    fn answer(self: Box<Self>, value: Box<dyn Any>) -> Result<(), &'static str>;
}

struct Job<F, T> {
    work: F,
    sender: oneshot::Sender<T>,
}

impl<T: 'static, F: FnOnce() -> T> Errand for Job<F, T> {
    fn run(self: Box<Self>) {
        let Self { work, sender } = *self;
        // The object may have gone meanwhile; then nobody wants the result.
        let _ = sender.send(work());
    }

    fn answer(self: Box<Self>, value: Box<dyn Any>) -> Result<(), &'static str> {
        hand_in(self.sender, value)
    }
}

fn hand_in<T: 'static>(sender: oneshot::Sender<T>, value: Box<dyn Any>) -> Result<(), &'static str> {
    let value = value.downcast::<T>().map_err(|_| std::any::type_name::<T>())?;
    let _ = sender.send(*value);
    Ok(())
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}

/// A future for the edge runtime.
pub struct EdgeFuture(Box<dyn EdgeErrand + Send>);

impl EdgeFuture {
    /// As [`Work::answer`].
    pub(crate) fn answer(self, value: Box<dyn Any>) -> Result<(), &'static str> {
        self.0.answer(value)
    }
}

impl Future for EdgeFuture {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll(context)
    }
}

/// A future, with who waits for what it comes to.
trait EdgeErrand {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()>;
    fn answer(self: Box<Self>, value: Box<dyn Any>) -> Result<(), &'static str>;
}

struct EdgeJob<T> {
    /// In a box of its own, so that a test can take the sender out.
    future: Pin<Box<dyn Future<Output = T> + Send>>,
    /// `None` once it has ended.
    sender: Option<oneshot::Sender<T>>,
}

impl<T: 'static> EdgeErrand for EdgeJob<T> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let value = ready!(self.future.as_mut().poll(context));
        if let Some(sender) = self.sender.take() {
            // As with work: nobody may want it any more.
            let _ = sender.send(value);
        }
        Poll::Ready(())
    }

    fn answer(self: Box<Self>, value: Box<dyn Any>) -> Result<(), &'static str> {
        self.sender.map_or(Ok(()), |sender| hand_in(sender, value))
    }
}

impl fmt::Debug for EdgeFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EdgeFuture")
    }
}

/// See [`cancelled`].
#[derive(Debug)]
#[must_use = "it waits when it is awaited"]
pub struct Cancelled(());

impl Future for Cancelled {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let cancelled = on_core("cancelled()", |core| core.poll_cancelled(context.waker()));
        if cancelled { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Waits until what the running task has seen may leave the node, at most until a time.
#[derive(Debug)]
pub(crate) struct Gate(u64);

impl Gate {
    pub(crate) fn new(until: u64) -> Self {
        Self(until)
    }
}

impl Future for Gate {
    type Output = Result<(), CallError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match current::with(|core| core.poll_gate(context.waker(), self.0)) {
            Some(None) => Poll::Pending,
            Some(Some(passed)) => Poll::Ready(passed),
            None => Poll::Ready(Err(CallError::Rejected(Rejection::ShuttingDown))),
        }
    }
}

impl CoreState {
    /// Has it start when it may; gives when it is too late for that.
    fn start(&self, request: Request, description: Option<String>) -> u64 {
        let (number, until) = (self.dependence(), self.time_over());
        let (syscall, action) = match request {
            Request::Blocking(work) => (Syscall::Blocking, Action::Blocking(work)),
            Request::Edge(future) => (Syscall::Edge, Action::Edge(future)),
        };
        self.note(description.map_or(syscall, Syscall::Described));
        self.act_gated(number, until, action);
        until
    }
}
