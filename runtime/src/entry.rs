//! Calls from outside of entity code: how they reach a core, and how their results come back.
//!
//! Such a call is made when the entry core takes it from its desk, so that calls start in the order in which they came. A
//! task of its own then waits for the reply, and until what that depends on is durable, and sends it out.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use crate::call::{Fresh, RawCall, make_here};
use crate::core::CoreState;
use crate::core::operations::Gate;
use crate::entity::Method;
use crate::error::{CallError, Loss, Rejection};
use crate::registry::{self, Job};
use crate::slot::SlotPtr;

/// A call on its way through an entry core.
pub(crate) struct EntryCall<M: Method> {
    reply: oneshot::Receiver<Result<M::Value, CallError>>,
    /// What it is if nobody ever answers.
    unanswered: fn() -> CallError,
}

impl<M: Method> EntryCall<M> {
    /// Makes a call through the node that the reference names.
    pub(crate) fn new(fresh: Fresh<M>) -> Self {
        let (sender, reply) = oneshot::channel();
        let desk = registry::node(fresh.node.node())
            .and_then(|node| node.desks.get(fresh.node.core()).or_else(|| node.desks.first()).cloned());
        match desk {
            None => answer(sender, CallError::Unavailable(NO_NODE.to_owned())),
            Some(desk) => Self::leave(&desk, sender, |core| {
                let room = core.slots.has_room(SLOTS_PER_CALL);
                let call = if room { make_here(core, fresh) } else { Err(not_taken()) };
                call.map(|call| (call.deadline_here(), call))
            }),
        }
        // A desk that is full or closed drops what it is given, and what it was never asked to make never ran.
        Self { reply, unanswered: not_taken }
    }

    /// Waits for a call that was made on another core.
    pub(crate) fn follow(slot: SlotPtr, home: u32) -> Self {
        let (sender, reply) = oneshot::channel();
        match registry::desk(home) {
            None => answer(sender, lost()),
            Some(desk) => {
                // Made here: a desk that refuses the job drops the call, which frees its slot.
                let call = RawCall::made(slot, home);
                Self::leave(&desk, sender, move |core| Ok((core.time_over(), call)));
            }
        }
        Self { reply, unanswered: lost }
    }

    fn leave(
        desk: &registry::Desk,
        sender: oneshot::Sender<Result<M::Value, CallError>>,
        make: impl FnOnce(&CoreState) -> Result<(u64, RawCall<M>), CallError> + Send + 'static,
    ) {
        // The sender goes with the job; if the desk refuses it, the receiver sees it dropped.
        let job: Job = Box::new(move |core| match make(core) {
            Err(error) => answer(sender, error),
            Ok((until, call)) => {
                let task = EntryTask { call: Some(call), until, reply: None, sender: Some(sender) };
                if core.spawn_loose(task).is_err() {
                    tracing::debug!("a call from outside found no free slot");
                }
            }
        });
        let _ = desk.leave(job);
    }

    pub(crate) fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<Result<M::Value, CallError>> {
        let reply = ready!(Pin::new(&mut self.reply).poll(context));
        Poll::Ready(reply.unwrap_or_else(|_| Err((self.unanswered)())))
    }
}

/// Sends a call one way from outside.
pub(crate) fn send<M: Method>(fresh: Fresh<M>) -> Result<(), CallError> {
    let node = registry::node(fresh.node.node()).ok_or_else(|| CallError::Unavailable(NO_NODE.to_owned()))?;
    let desk = node.desks.get(fresh.node.core()).or_else(|| node.desks.first());
    let desk = desk.ok_or_else(|| CallError::Unavailable(NO_NODE.to_owned()))?;
    let job: Job = Box::new(move |core| {
        if let Err(error) = crate::call::send_here(core, fresh) {
            tracing::warn!(entity = <M::Entity as crate::Entity>::NAME, method = M::NAME, %error, "a one-way call was dropped");
        }
    });
    desk.leave(job).map_err(|_| CallError::Rejected(Rejection::Overloaded))
}

/// A call was dropped on a thread that is not its core.
pub(crate) fn abandon_away(slot: SlotPtr, home: u32) {
    registry::abandon_from_outside(home, slot);
}

fn answer<V>(sender: oneshot::Sender<Result<V, CallError>>, error: CallError) {
    // The receiver is in the hands of our caller.
    let _ = sender.send(Err(error));
}

/// The task on the entry core.
struct EntryTask<M: Method> {
    call: Option<RawCall<M>>,
    /// When its reply is too late.
    until: u64,
    reply: Option<(Result<M::Value, CallError>, Gate)>,
    sender: Option<oneshot::Sender<Result<M::Value, CallError>>>,
}

impl<M: Method> Unpin for EntryTask<M> {}

impl<M: Method> Drop for EntryTask<M> {
    /// A task that ends without a result ends with its core, and its call may have run.
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            answer(sender, lost());
        }
    }
}

fn not_taken() -> CallError {
    CallError::Rejected(Rejection::Overloaded)
}

fn lost() -> CallError {
    CallError::OutcomeUnknown(Loss::OwnerLost)
}

/// A call from outside takes two slots: its own, and that of the task that waits for it.
const SLOTS_PER_CALL: usize = 2;

impl<M: Method> Future for EntryTask<M> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(sender) = &mut this.sender else { return Poll::Ready(()) };
        if sender.poll_closed(context).is_ready() {
            // Nobody waits any more: dropping the call cancels it.
            this.call = None;
            return Poll::Ready(());
        }
        if let Some(call) = &mut this.call {
            let reply = ready!(call.poll_reply(context));
            this.call = None;
            this.reply = Some((reply, Gate::new(this.until)));
        }
        let Some((_, gate)) = &mut this.reply else { return Poll::Ready(()) };
        let passed = ready!(Pin::new(gate).poll(context));
        if let (Some((reply, _)), Some(sender)) = (this.reply.take(), this.sender.take()) {
            let _ = sender.send(crate::core::released(passed, reply));
        }
        Poll::Ready(())
    }
}

const NO_NODE: &str = "this process runs no node that the reference belongs to: start one with `#[epicserver::main]` or `Node::builder()`";
