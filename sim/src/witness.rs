//! What entity code tells the checkers while it runs.
//!
//! Entity code is called by a core, which knows nothing of the world, so the way back is a place of the thread. A world
//! [`install`]s a witness of its own before it steps anything: worlds do not see each other.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use epicserver_runtime::CallError;

use crate::checkers::{CallsOnce, Checks, CleanMoves, TurnsApart, Violation};
use crate::workload::{Receipt, Ticket};

/// How a method holds its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// With others of its kind.
    Shared,
    /// Alone.
    Exclusive,
    /// As `Shared`, but not with itself.
    Serial,
}

/// What is told to it.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    serial: u64,
    /// The node and the core that are being stepped.
    pub(crate) place: (u16, u16),
    /// Turns since somebody last looked: object, call, and whether it is the call's first.
    pub(crate) log: Vec<(u64, u64, bool)>,
    /// Checkpoints that were durable, as entity code was told since somebody last looked.
    pub(crate) saved: Vec<Receipt>,
    pub(crate) turns: TurnsApart,
    pub(crate) once: CallsOnce,
    /// There in worlds where nothing goes wrong but that nodes come and go.
    pub(crate) clean: Option<CleanMoves>,
}

impl Witness {
    /// The first law that was broken, if one was.
    pub(crate) fn violation(&self) -> Option<Violation> {
        let clean = || self.clean.as_ref().and_then(CleanMoves::violation);
        self.turns.violation().or_else(|| self.once.violation()).or_else(clean)
    }

    /// How often each check was made.
    pub(crate) fn count_into(&self, checks: &mut Checks) {
        self.turns.count_into(checks);
        self.once.count_into(checks);
        if let Some(clean) = &self.clean {
            clean.count_into(checks);
        }
    }
}

thread_local! {
    static WITNESS: RefCell<Witness> = RefCell::new(Witness::default());
}

/// Puts a fresh witness in its place.
pub(crate) fn install() {
    WITNESS.take();
}

/// Asks the witness, or tells it something. Nothing that runs in `with` may come back here.
pub(crate) fn with<R>(with: impl FnOnce(&mut Witness) -> R) -> R {
    WITNESS.with_borrow_mut(with)
}

/// The serial of a call that is about to be made.
pub(crate) fn next_serial() -> u64 {
    with(|witness| {
        witness.serial += 1;
        witness.serial
    })
}

/// A call was answered.
pub(crate) fn answered<T>(serial: u64, result: &Result<T, CallError>) {
    with(|witness| witness.once.answered(serial, result.as_ref().err()));
}

/// A client has the answer to a call of its own.
pub(crate) fn ended<T>(serial: u64, result: &Result<T, CallError>, in_hurry: bool) {
    with(|witness| {
        if let Some(clean) = &mut witness.clean {
            clean.answered(serial, result.as_ref().err(), in_hurry);
        }
    });
}

/// An object that is never saved was changed; it knows of so many changes.
pub(crate) fn changed(object: u64, knows: u64) {
    with(|witness| {
        if let Some(clean) = &mut witness.clean {
            clean.changed(object, knows);
        }
    });
}

/// A method was told that its checkpoint is durable.
pub(crate) fn saved(receipt: Receipt) {
    with(|witness| witness.saved.push(receipt));
}

/// A call was sent one way.
pub(crate) fn sent(serial: u64, result: &Result<(), CallError>) {
    if let Err(error) = result {
        with(|witness| witness.once.answered(serial, Some(error)));
    }
}

/// Runs a method's body under the eyes of the witness: when it starts, each of its turns, and when it is gone.
pub(crate) fn watched<F: Future>(ticket: &Ticket, manner: Manner, body: F) -> Watched<F> {
    Watched {
        serial: ticket.serial,
        object: ticket.object,
        manner,
        body: Box::pin(body),
        ticket: Some(ticket.clone()),
    }
}

/// See [`watched`].
pub(crate) struct Watched<F> {
    serial: u64,
    object: u64,
    manner: Manner,
    body: Pin<Box<F>>,
    /// There until it has started.
    ticket: Option<Ticket>,
}

impl<F> Unpin for Watched<F> {}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let (object, serial, manner) = (self.object, self.serial, self.manner);
        let start = self.ticket.take();
        with(|witness| {
            witness.log.push((object, serial, start.is_some()));
            if let Some(ticket) = start {
                witness.once.started(&ticket);
                witness.turns.hold(object, serial, manner, witness.place);
            }
            witness.turns.enter(object, witness.place);
        });
        let _turn = Turn(object);
        self.body.as_mut().poll(context)
    }
}

impl<F> Drop for Watched<F> {
    fn drop(&mut self) {
        if self.ticket.is_none() {
            with(|witness| witness.turns.let_go(self.object, self.serial));
        }
    }
}

/// A turn that is under way; it ends by return or by panic.
struct Turn(u64);

impl Drop for Turn {
    fn drop(&mut self) {
        with(|witness| witness.turns.leave(self.0));
    }
}
