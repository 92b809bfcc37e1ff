//! `Script`: drive one object in a test, with no runtime, no threads and no mocks.
//!
//! The object's code runs on a real core that nothing else is on. What it asks for comes out as [`Syscall`] values; the test
//! looks at them and gives the answers. Rules of calls, deadlines and cancelling hold as they do in a cluster. Calls of the
//! object on itself run; calls of every other object wait for the test.
//!
//! ```text
//!   send(call) -> the object runs -> syscalls()      what it asked for
//!        ^                               |
//!        +--- answer / fail / advance / answer_edge / run_blocking
//! ```
//!
//! Not here: several objects, cores or nodes (the simulator), and saving to a store: what the object saves is durable at
//! once, and comes back after a panic.
//!
//! Start reading at [`Script::send`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use epicserver_storage::{Batch, BatchName, NodeId, Record};

use crate::call::Call;
use crate::codec;
use crate::core::{Action, Core, CoreConfig, EdgeFuture, Event, Work};
use crate::entity::{Entities, Entity, Method, Methods, RawRef, Ref, Stored};
use crate::error::CallError;
use crate::key::{EntityKey, StoredKey};
use crate::routes::Routes;
use crate::saving::{LoadTicket, SaveNews};

mod saved_states;
mod tape;
#[cfg(test)]
mod tests;

pub use saved_states::check_saved_states;
pub(crate) use tape::Tape;
pub use tape::{Arguments, Syscall};

/// One object of `E` in the hands of a test. See the module's documentation.
pub struct Script<E: Methods> {
    core: Core,
    object: Ref<E>,
    key: Stored<E>,
    now: u64,
    open: u64,
    /// The last image of the object.
    saved: Option<Record>,
    saves: usize,
    loads: Vec<LoadTicket>,
    works: VecDeque<Work>,
    edges: VecDeque<EdgeFuture>,
}

impl<E: Methods> Script<E> {
    /// The object of this key in its default state. It is activated, with its hook, by the first call.
    pub fn new(key: <E::Key as EntityKey>::Argument<'_>) -> Self {
        Self::with_seed(key, 0)
    }

    /// As [`new`](Self::new), with other numbers from `context::random()`.
    pub fn with_seed(key: <E::Key as EntityKey>::Argument<'_>, seed: u64) -> Self {
        let key = E::Key::store(key);
        let mut entities = Vec::new();
        <(E,)>::collect(&mut entities);
        let config = CoreConfig { seed, ..CoreConfig::default() }.for_node(1).remove(0);
        let tape = Tape::of_object(E::NAME, key.canonical(|key| key.bytes.to_vec()));
        let core = Core::with_script(0, config, &entities, routes(), Some(tape));
        let object = RawRef::of(key.clone(), crate::entity::NodeTag::default()).into();
        Self {
            core,
            object,
            key,
            now: 0,
            open: 1,
            saved: None,
            saves: 0,
            loads: Vec::new(),
            works: VecDeque::new(),
            edges: VecDeque::new(),
        }
    }

    /// Gives the object this state to begin with.
    ///
    /// # Panics
    /// After the first call.
    #[must_use]
    pub fn with_state(mut self, state: E) -> Self {
        self.enter(|core| core.place::<E>(&self.key, state));
        self.run();
        self
    }

    /// A reference to the object, to compare with and to put into arguments.
    pub fn object(&self) -> Ref<E> {
        self.object.clone()
    }

    /// Makes a call on the object, `script.send(|player| player.enter_level(barrels))`, and runs the object until it waits
    /// for something.
    pub fn send<M: Method<Entity = E>>(&mut self, call: impl FnOnce(&Ref<E>) -> Call<M>) -> ScriptCall<M> {
        let call = call(&self.object);
        let made = Rc::new(RefCell::new(Made { call: Some(call), result: None, waker: None }));
        let task = Waiting { made: made.clone() };
        let spawned = self.enter(|core| core.spawn_loose(task));
        spawned.expect("a script has room for as many calls as a core");
        self.run();
        ScriptCall { made }
    }

    /// What the object asked for since this was last asked, in order.
    pub fn syscalls(&mut self) -> Vec<Syscall> {
        self.tape(Tape::take_syscalls)
    }

    /// Answers the oldest call of the object that is like this one, and runs the object until it waits again:
    /// `script.answer(barrel.on_hit(), true)`. Calls are alike if object, method and encoded arguments are.
    ///
    /// # Panics
    /// If the object waits for no such call; the message names those it waits for.
    #[track_caller]
    pub fn answer<M: Method>(&mut self, call: Call<M>, value: M::Value) {
        let bytes =
            codec::encode_to_vec(&value, ENCODED_LEN_MAX).expect("an answer is a value of reasonable size");
        self.end_call(&Syscall::call(&call), Ok(&bytes));
    }

    /// As [`answer`](Self::answer), with an error of the runtime instead of a value.
    ///
    /// # Panics
    /// As [`answer`](Self::answer).
    #[track_caller]
    pub fn fail<M: Method>(&mut self, call: Call<M>, error: CallError) {
        self.end_call(&Syscall::call(&call), Err(error));
    }

    #[track_caller]
    fn end_call(&mut self, call: &Syscall, reply: Result<&[u8], CallError>) {
        let found = self.tape(|tape| tape.take_call(call));
        let Some(slot) = found else {
            let waiting = self.tape(Tape::waiting);
            panic!("the object waits for no {call:?}; it waits for {waiting:?}");
        };
        self.enter(|core| core.end_scripted(slot, reply));
        self.run();
    }

    /// Whether the object waits for calls that the test has not answered.
    pub fn is_waiting(&self) -> bool {
        self.tape(|tape| !tape.waiting().is_empty())
    }

    /// Lets time pass: sleeps end and deadlines come one after the other, each at its time.
    pub fn advance(&mut self, duration: Duration) {
        let until = self.now.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        while let Some(due) = self.core.next_timer().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.step(Event::Tick);
            self.run();
        }
        self.now = until;
        self.step(Event::Tick);
        self.run();
    }

    /// Does the oldest work that the object gave to `context::blocking`, here and now.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn run_blocking(&mut self) {
        self.works.pop_front().expect("the object gave no work to the blocking pool").run();
        self.run();
    }

    /// Runs the oldest future that the object gave to `context::edge`.
    ///
    /// # Panics
    /// If there is none.
    pub async fn run_edge(&mut self) {
        self.edges.pop_front().expect("the object gave no future to the edge runtime").await;
        self.run();
    }

    /// Gives the oldest work for `context::blocking` this outcome instead of doing it, and runs the object until it waits again.
    ///
    /// # Panics
    /// If there is none, or what it comes to is of another type.
    #[track_caller]
    pub fn answer_blocking<T: 'static>(&mut self, outcome: T) {
        let work = self.works.pop_front().expect("the object gave no work to the blocking pool");
        self.answer_work::<T>(work.answer(Box::new(outcome)));
    }

    /// Gives the oldest future for `context::edge` this outcome instead of running it, and runs the object until it waits again: what
    /// follows an answer of the outside world is tested without it.
    ///
    /// # Panics
    /// If there is none, or its output is of another type.
    #[track_caller]
    pub fn answer_edge<T: 'static>(&mut self, output: T) {
        let future = self.edges.pop_front().expect("the object gave no future to the edge runtime");
        self.answer_work::<T>(future.answer(Box::new(output)));
    }

    #[track_caller]
    fn answer_work<T>(&mut self, taken: Result<(), &'static str>) {
        if let Err(expected) = taken {
            panic!("the object waits for a {expected}, not for a {}", std::any::type_name::<T>());
        }
        self.run();
    }

    /// Drops the oldest work or future undone, as a node that stops does.
    pub fn refuse_work(&mut self) {
        drop(self.works.pop_front().is_none().then(|| self.edges.pop_front()));
        self.run();
    }

    /// Stops waiting for a call, as a caller does that drops its future.
    pub fn cancel<M: Method>(&mut self, call: ScriptCall<M>) {
        let waker = self.enter(|_| {
            let mut made = call.made.borrow_mut();
            drop(made.call.take());
            made.waker.take()
        });
        if let Some(waker) = waker {
            self.enter(|_| waker.wake());
        }
        self.run();
    }

    /// Looks at the object's state.
    ///
    /// # Panics
    /// Before the first call without [`with_state`](Self::with_state), after the object has gone, and while an exclusive
    /// method is under way: nobody else sees what that has half done either.
    #[track_caller]
    pub fn state<R>(&self, read: impl FnOnce(&E) -> R) -> R {
        let read = self.core.state().read_state::<E, R>(&self.key, read);
        read.expect("the object is in memory and no exclusive method is under way")
    }

    /// How many times the object was saved so far.
    pub fn saves(&self) -> usize {
        self.saves
    }

    /// Runs the object until it waits for something. The other verbs do this themselves; a test calls it after it woke a
    /// future of the object from outside.
    ///
    /// # Panics
    /// If the object never comes to rest.
    pub fn run(&mut self) {
        for _ in 0..PASSES_MAX {
            if self.core.wants_commit() {
                let news = SaveNews { open: self.open + 1, durable: self.open, failed: Vec::new() };
                self.open += 1;
                self.step(Event::Save(news));
            }
            for ticket in std::mem::take(&mut self.loads) {
                let answer = Ok(self.saved.clone());
                self.step(Event::Loaded(ticket, answer));
            }
            if !self.core.desk().is_empty() {
                self.step(Event::Desk);
            }
            if self.core.is_ready() {
                self.step(Event::Turns(TURNS_PER_PASS));
            } else if self.loads.is_empty() && self.core.desk().is_empty() && !self.core.wants_commit() {
                return;
            }
        }
        panic!("the object never waits for anything");
    }

    fn step(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.core.step(self.now, event, &mut actions);
        for action in actions {
            match action {
                Action::Load(ticket) => self.loads.push(ticket),
                Action::Blocking(work) => self.works.push_back(work),
                Action::Edge(future) => self.edges.push_back(future),
                Action::HandOver(images) => {
                    self.save(&images);
                    self.step(Event::Recycled(images));
                }
                // A call that waited for the test's answer was dropped.
                Action::Message(_, message) => self.enter(|core| core.forget_scripted(&message)),
                Action::Passed(_) | Action::Frame(_) | Action::Drained(_) => {}
            }
        }
    }

    fn save(&mut self, images: &crate::saving::BatchImages) {
        let mut batch = Batch::new(BatchName { node: ME, number: images.number });
        images.append_to(&mut batch, 0).expect("an image of a core is well formed");
        for save in batch.saves() {
            self.saved = Some(Record::new(save.envelope));
            self.saves += 1;
        }
    }

    fn tape<R>(&self, look: impl FnOnce(&Tape) -> R) -> R {
        look(self.core.state().tape().expect("made with one"))
    }

    /// Runs `run` as if from inside of the core, which is what user code's destructors and wakers expect.
    fn enter<R>(&self, run: impl FnOnce(&crate::core::CoreState) -> R) -> R {
        let _entered = crate::current::Entered::new(self.core.state());
        run(self.core.state())
    }
}

impl<E: Methods> fmt::Debug for Script<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("object", &self.object)
            .field("waiting", &self.tape(Tape::waiting))
            .finish()
    }
}

impl<E: Methods> Drop for Script<E> {
    /// Gives back what the object waits for.
    fn drop(&mut self) {
        self.enter(crate::core::CoreState::end_script);
    }
}

/// A call that a test made with [`Script::send`]. Dropping it changes nothing; see [`Script::cancel`].
pub struct ScriptCall<M: Method> {
    made: Rc<RefCell<Made<M>>>,
}

impl<M: Method> ScriptCall<M> {
    /// What the caller sees, once it has ended; `None` before, and after it was taken.
    pub fn result(&self) -> Option<M::Output> {
        self.made.borrow_mut().result.take()
    }
}

impl<M: Method> fmt::Debug for ScriptCall<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = self.made.borrow().result.is_some();
        write!(f, "ScriptCall({}.{}, ended: {ended})", <M::Entity as Entity>::NAME, M::NAME)
    }
}

struct Made<M: Method> {
    call: Option<Call<M>>,
    result: Option<M::Output>,
    waker: Option<Waker>,
}

/// The task that waits for a call of the test.
struct Waiting<M: Method> {
    made: Rc<RefCell<Made<M>>>,
}

impl<M: Method> Future for Waiting<M> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(mut call) = self.made.borrow_mut().call.take() else { return Poll::Ready(()) };
        // Nothing is borrowed while the call is polled: its output is made by the user's code.
        let polled = Pin::new(&mut call).poll(context);
        let mut made = self.made.borrow_mut();
        match polled {
            Poll::Ready(result) => {
                made.result = Some(result);
                Poll::Ready(())
            }
            Poll::Pending => {
                made.call = Some(call);
                made.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The view of a node that is alone; the same for every script.
fn routes() -> Arc<Routes> {
    static ROUTES: OnceLock<Arc<Routes>> = OnceLock::new();
    ROUTES.get_or_init(|| Arc::new(Routes::solo(ME, 1))).clone()
}

const ME: NodeId = NodeId { id: 1, incarnation: 1 };

/// The largest answer or argument of a script, in bytes.
pub(crate) const ENCODED_LEN_MAX: usize = 16 << 20;

const TURNS_PER_PASS: u32 = 1_000;

/// How often an object may go on before it is taken for one that never rests.
const PASSES_MAX: usize = 10_000;
