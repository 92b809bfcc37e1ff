//! Calls from outside of entity code: how they reach a core, and how their results come back.
//!
//! Such a call becomes a task of its own on the entry core: it makes the call like any entity would, waits until what
//! the result depends on is durable, and then sends the result out.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use crate::call::{Fresh, RawCall};
use crate::core::operations::Gate;
use crate::entity::Method;
use crate::error::{CallError, Loss, Rejection};
use crate::registry::{self, Job};
use crate::slot::SlotPtr;

/// A call on its way through an entry core.
pub(crate) struct EntryCall<M: Method> {
    reply: oneshot::Receiver<Result<M::Value, CallError>>,
}

impl<M: Method> EntryCall<M> {
    /// Makes a call through the node that the reference names.
    pub(crate) fn new(fresh: Fresh<M>) -> Self {
        let (sender, reply) = oneshot::channel();
        let desk = registry::node(fresh.node.node())
            .and_then(|node| node.desks.get(fresh.node.core()).or_else(|| node.desks.first()).cloned());
        match desk {
            None => answer(sender, CallError::Unavailable(NO_NODE.to_owned())),
            Some(desk) => Self::leave(&desk, RawCall::new(fresh), sender),
        }
        Self { reply }
    }

    /// Waits for a call that was made on another core.
    pub(crate) fn follow(slot: SlotPtr, home: u32) -> Self {
        let (sender, reply) = oneshot::channel();
        match registry::desk(home) {
            None => answer(sender, CallError::OutcomeUnknown(Loss::OwnerLost)),
            Some(desk) => Self::leave(&desk, RawCall::made(slot, home), sender),
        }
        Self { reply }
    }

    fn leave(desk: &registry::Desk, call: RawCall<M>, sender: oneshot::Sender<Result<M::Value, CallError>>) {
        // The sender goes with the job; if the desk refuses it, the receiver below sees it dropped.
        let job: Job = Box::new(move |core| {
            let task = EntryTask { call: Some(call), reply: None, sender: Some(sender) };
            if core.spawn_loose(task).is_err() {
                tracing::debug!("a call from outside found no free slot");
            }
        });
        let _ = desk.leave(job);
    }

    pub(crate) fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<Result<M::Value, CallError>> {
        let reply = ready!(Pin::new(&mut self.reply).poll(context));
        Poll::Ready(reply.unwrap_or(Err(CallError::Rejected(Rejection::Overloaded))))
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
    reply: Option<(Result<M::Value, CallError>, Gate)>,
    sender: Option<oneshot::Sender<Result<M::Value, CallError>>>,
}

impl<M: Method> Unpin for EntryTask<M> {}

impl<M: Method> Drop for EntryTask<M> {
    /// The core ends while the call is under way. A call that was not made is told by the sender's own drop.
    fn drop(&mut self) {
        let made = self.reply.is_some() || self.call.as_ref().is_some_and(RawCall::is_made);
        if let Some(sender) = self.sender.take_if(|_| made) {
            answer(sender, CallError::OutcomeUnknown(Loss::OwnerLost));
        }
    }
}

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
            this.reply = Some((reply, Gate::new()));
        }
        let Some((_, gate)) = &mut this.reply else { return Poll::Ready(()) };
        let passed = ready!(Pin::new(gate).poll(context));
        if let (Some((reply, _)), Some(sender)) = (this.reply.take(), this.sender.take()) {
            let _ = sender.send(passed.and(reply));
        }
        Poll::Ready(())
    }
}

const NO_NODE: &str = "this process runs no node that the reference belongs to: start one with `#[epicserver::main]` or `Node::builder()`";
