//! What the code of a test sees of its world: the cluster from outside, tasks, time.
//!
//! Nothing of a world is `Send`: all of it runs in one thread. What the test wants of the world is left here, and the
//! world takes it when it goes on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use epicserver_runtime::entity::{Entity, Ref};
use epicserver_runtime::key::EntityKey;
use epicserver_runtime::{CallError, Pool};

use crate::tape::Tape;

/// A cluster in one thread, as the test that runs in it sees it. Clones are the same world.
///
/// A node is there with its cores, its link thread and its storage thread, and they go on in an order that is drawn from the
/// seed; so do the tasks of the test. Nothing waits for a real clock.
#[derive(Clone)]
pub struct World(Rc<RefCell<Stage>>);

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.seed()).field("now", &self.now()).finish_non_exhaustive()
    }
}

impl World {
    pub(crate) fn new(seed: u64, tape: Tape) -> Self {
        let stage = Stage {
            seed,
            now: 0,
            tape,
            entrances: Vec::new(),
            tasks: Vec::new(),
            sleepers: BTreeMap::new(),
            sleeps: 0,
            wishes: Vec::new(),
            notes: Vec::new(),
        };
        Self(Rc::new(RefCell::new(stage)))
    }

    /// Where everything comes from.
    pub fn seed(&self) -> u64 {
        self.0.borrow().seed
    }

    /// The time since the world began.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.0.borrow().now)
    }

    /// A handle to the cluster, as the application around a node has it. Node and core are drawn from those that serve.
    ///
    /// It belongs to that node: when the node is gone, calls through it are `Unavailable`, as the application would be gone
    /// too. Its figures ([`Pool::stats`]) stay zero.
    ///
    /// # Errors
    /// `Unavailable` if no node serves now. That ends: see [`World::sleep`].
    pub fn pool(&self) -> Result<Pool, CallError> {
        let mut stage = self.0.borrow_mut();
        let Stage { entrances, tape, .. } = &mut *stage;
        match entrances.len() {
            0 => Err(CallError::Unavailable("no node of the world serves now".to_owned())),
            len => Ok(entrances[tape.usize(..len)].clone()),
        }
    }

    /// An object, as somebody outside refers to it, by way of a node that is drawn for each of these calls.
    ///
    /// # Errors
    /// As [`World::pool`].
    pub fn get<E: Entity>(&self, key: <E::Key as EntityKey>::Argument<'_>) -> Result<Ref<E>, CallError> {
        Ok(self.pool()?.get::<E>(key))
    }

    /// Runs a future beside the others: another client. It ends with the test, whether it has come to its end or not; what it
    /// panics with the test fails with.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let promise = Promise::default();
        let kept = promise.clone();
        self.0.borrow_mut().tasks.push(Box::pin(async move { kept.keep(future.await) }));
        Task(promise)
    }

    /// Waits in the time of the world.
    pub async fn sleep(&self, duration: Duration) {
        let until = self.0.borrow().now.saturating_add(nanos(duration));
        Sleep { stage: self.0.clone(), until, number: None }.await;
    }

    /// Calls until it succeeds, a millisecond of the world's time apart, through nodes that are drawn anew each time.
    ///
    /// For what is right to do twice: a call that failed may have run.
    pub async fn until_ok<T, C>(&self, mut call: impl FnMut(Pool) -> C) -> T
    where
        C: Future<Output = Result<T, CallError>>,
    {
        loop {
            if let Ok(pool) = self.pool()
                && let Ok(value) = call(pool).await
            {
                return value;
            }
            self.sleep(Duration::from_millis(1)).await;
        }
    }

    /// A random number that comes from the seed.
    pub fn random(&self) -> u64 {
        self.0.borrow_mut().tape.u64(..)
    }

    /// A random number below `end`, which comes from the seed.
    ///
    /// # Panics
    /// If `end` is 0.
    pub fn below(&self, end: u64) -> u64 {
        self.0.borrow_mut().tape.u64(..end)
    }

    /// Puts a line among the events that a failing run shows.
    pub fn note(&self, text: impl Into<String>) {
        self.0.borrow_mut().notes.push(text.into());
    }

    /// Ends all faults for good, and waits until the nodes agree on who owns what and have had time to link again. Calls succeed from
    /// then on; where nodes come and go one may still have to be made twice, which [`World::until_ok`] does.
    pub async fn heal(&self) {
        self.wish(Wish::Heal).await;
    }

    /// Ends all faults for good, ends all nodes at once, in the middle of whatever they do, and starts them again from what was
    /// saved.
    pub async fn restart(&self) {
        self.wish(Wish::Restart).await;
    }

    async fn wish(&self, wish: Wish) {
        let promise = Promise::default();
        self.0.borrow_mut().wishes.push((wish, promise.clone()));
        Task(promise).await;
    }

    pub(crate) fn stage<R>(&self, with: impl FnOnce(&mut Stage) -> R) -> R {
        with(&mut self.0.borrow_mut())
    }

    /// Wakes who slept long enough.
    pub(crate) fn pass(&self, now: u64) {
        let due = self.stage(|stage| {
            stage.now = now;
            let later = stage.sleepers.split_off(&(now + 1, 0));
            std::mem::replace(&mut stage.sleepers, later)
        });
        due.into_values().for_each(Waker::wake);
    }
}

/// What lies between the test and its world.
pub(crate) struct Stage {
    seed: u64,
    now: u64,
    tape: Tape,
    /// Through which nodes and cores the cluster can be called now.
    pub(crate) entrances: Vec<Pool>,
    /// Tasks that the world does not have yet.
    pub(crate) tasks: Vec<Job>,
    /// By the time at which they go on.
    pub(crate) sleepers: BTreeMap<(u64, u64), Waker>,
    sleeps: u64,
    pub(crate) wishes: Vec<(Wish, Promise<()>)>,
    pub(crate) notes: Vec<String>,
}

/// What a task does.
pub(crate) type Job = Pin<Box<dyn Future<Output = ()>>>;

/// What a test wants of its world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Heal,
    Restart,
}

/// A task that [`World::spawn`] started. Await it for its result; dropped, the task goes on.
#[derive(Debug)]
pub struct Task<T>(Promise<T>);

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.0.poll(context)
    }
}

/// A value that somebody waits for in the same thread.
#[derive(Debug)]
pub(crate) struct Promise<T>(Rc<RefCell<(Option<T>, Option<Waker>)>>);

impl<T> Default for Promise<T> {
    fn default() -> Self {
        Self(Rc::default())
    }
}

impl<T> Clone for Promise<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Promise<T> {
    pub(crate) fn keep(&self, value: T) {
        let waker = {
            let mut kept = self.0.borrow_mut();
            kept.0 = Some(value);
            kept.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The value, if it is there.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.borrow_mut().0.take()
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<T> {
        let mut kept = self.0.borrow_mut();
        match kept.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                kept.1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

struct Sleep {
    stage: Rc<RefCell<Stage>>,
    until: u64,
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (until, number) = (self.until, self.number);
        let mut stage = self.stage.borrow_mut();
        if stage.now >= until {
            return Poll::Ready(());
        }
        let number = number.unwrap_or_else(|| {
            stage.sleeps += 1;
            stage.sleeps
        });
        stage.sleepers.insert((until, number), context.waker().clone());
        drop(stage);
        self.number = Some(number);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.stage.borrow_mut().sleepers.remove(&(self.until, number));
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
