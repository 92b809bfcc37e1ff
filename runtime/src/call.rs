//! `Call`: one call of a method, as the caller holds it.
//!
//! Inside entity code the call's slot is made at the first poll and goes to the core's outbox; the core runs the callee
//! when the caller's poll has returned, so that no poll nests in another. Outside, the call goes to the entry core of
//! the `Pool` that made the reference and is made there by a task of its own.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::activation::{Found, Whereabouts};
use crate::core::CoreState;
use crate::current;
use crate::entity::{Entity, Method, NodeTag, Stored};
use crate::entry::EntryCall;
use crate::error::{CallError, Loss, Rejection};
use crate::slot::{ReplyTo, SlotPtr};
use crate::task::{Made, Message, SlotPoll, make_call, new_call, take_reply};

/// How deep calls nest.
pub const DEPTH_MAX: u8 = 32;

/// The time a chain of calls has unless its root says otherwise.
pub const BUDGET_DEFAULT: Duration = Duration::from_secs(10);

/// A call of method `M`. Await it for the result, or [`send`](Self::send) it one way.
///
/// The call is made when it is first polled; one that is never polled never happens. Dropping it cancels the call.
#[must_use = "a call happens when it is awaited or sent"]
pub struct Call<M: Method> {
    raw: RawCall<M>,
}

impl<M: Method> Call<M> {
    #[inline]
    pub(crate) fn new(key: Stored<M::Entity>, found: Found, node: NodeTag, arguments: M) -> Self {
        let message = Some(Message { key, arguments });
        let fresh = Fresh { message, found, node, budget_ns: u64::MAX };
        Self { raw: RawCall { state: CallState::Fresh(fresh) } }
    }

    /// What it is to say, unless it was made already.
    pub(crate) fn message(&self) -> Option<&Message<M>> {
        match &self.raw.state {
            CallState::Fresh(fresh) => fresh.message.as_ref(),
            _ => None,
        }
    }

    /// Gives the call, and all that it calls, at most this long. The caller's own remaining time still holds; the first call of a chain
    /// has [`BUDGET_DEFAULT`], 10 seconds, unless this says otherwise.
    ///
    /// When the time is over the call fails: `Rejected(Expired)` if the method did not begin, else `OutcomeUnknown(Timeout)`. A `&self`
    /// method is dropped then at the await where it is, and what it changed before stays changed; a `&mut self` method may run on for 5
    /// seconds, and if it has not ended by then its object starts again from its last saved state.
    pub fn within(mut self, budget: Duration) -> Self {
        if let CallState::Fresh(fresh) = &mut self.raw.state {
            fresh.budget_ns = u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX - 1).min(u64::MAX - 1);
        }
        self
    }

    /// Sends the call one way: it is made now, nobody waits for it, and nobody hears of its end.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with `Overloaded` if no room is left, [`CallError::Unavailable`] without a node.
    pub fn send(self) -> Result<(), CallError> {
        let CallState::Fresh(fresh) = self.raw.into_state() else {
            return Ok(());
        };
        let mut fresh = Some(fresh);
        let sent = current::with(|core| fresh.take().map(|fresh| send_here(core, fresh)));
        match (sent.flatten(), fresh) {
            (Some(sent), _) => sent,
            (None, Some(fresh)) => crate::entry::send(fresh),
            (None, None) => Ok(()),
        }
    }
}

/// Sends a call one way from the core that this thread steps.
pub(crate) fn send_here<M: Method>(core: &CoreState, mut fresh: Fresh<M>) -> Result<(), CallError> {
    begin(core, &mut fresh, None).map(drop).ok_or(CallError::Rejected(Rejection::Overloaded))
}

/// Makes a call on the core that this thread steps. Whoever polls it then waits for the reply.
pub(crate) fn make_here<M: Method>(core: &CoreState, mut fresh: Fresh<M>) -> Result<RawCall<M>, CallError> {
    let slot =
        begin(core, &mut fresh, Some(Waker::noop())).ok_or(CallError::Rejected(Rejection::Overloaded))?;
    Ok(RawCall::made(slot, core.number()))
}

impl<M: Method> Future for Call<M> {
    type Output = M::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<M::Output> {
        // The result gets its form where it is first made: one that is moved as a whole is read as a whole, right after its parts
        // were written.
        self.raw.poll_as(context, M::output)
    }
}

impl<M: Method> std::fmt::Debug for Call<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Call({}.{})", <M::Entity as Entity>::NAME, M::NAME)
    }
}

/// What the caller of a call that is still under way gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Early {
    /// The deadline passed before the method started.
    Expired,
    /// The deadline passed, and the method may be running.
    Timeout,
}

impl Early {
    pub(crate) fn into_error(self) -> CallError {
        match self {
            Self::Expired => CallError::Rejected(Rejection::Expired),
            Self::Timeout => CallError::OutcomeUnknown(Loss::Timeout),
        }
    }
}

/// A call that has not been made.
pub(crate) struct Fresh<M: Method> {
    /// Taken when the call is made.
    pub(crate) message: Option<Message<M>>,
    /// What the core knew that the reference was used on.
    pub(crate) found: Found,
    pub(crate) node: NodeTag,
    /// What the caller gives it, in nanoseconds; `u64::MAX`: as much as there is.
    pub(crate) budget_ns: u64,
}

/// A call before its result is put into the form that its method's author chose.
pub(crate) struct RawCall<M: Method> {
    state: CallState<M>,
}

enum CallState<M: Method> {
    Fresh(Fresh<M>),
    /// Made on the core with this number; the slot is this call's own until it is freed.
    Local(SlotPtr, u32),
    Entered(EntryCall<M>),
    Ended,
}

// Nothing in a call is pinned: messages are moved out, and what is polled lies in a slot or behind a box.
impl<M: Method> Unpin for RawCall<M> {}
impl<M: Method> Unpin for Call<M> {}

impl<M: Method> RawCall<M> {
    /// A call that was made before on the core with this number.
    pub(crate) fn made(slot: SlotPtr, home: u32) -> Self {
        Self { state: CallState::Local(slot, home) }
    }

    /// When the time of a call is over that was just made on this core.
    pub(crate) fn deadline_here(&self) -> u64 {
        match &self.state {
            CallState::Local(slot, _) => slot.deadline.get(),
            _ => u64::MAX,
        }
    }

    fn into_state(mut self) -> CallState<M> {
        std::mem::replace(&mut self.state, CallState::Ended)
    }

    pub(crate) fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<Result<M::Value, CallError>> {
        self.poll_as(context, |result| result)
    }

    /// Polls for the reply, in this form.
    #[inline]
    fn poll_as<T>(
        &mut self,
        context: &mut Context<'_>,
        form: impl Fn(Result<M::Value, CallError>) -> T,
    ) -> Poll<T> {
        match &mut self.state {
            CallState::Fresh(_) => self.poll_fresh(context, form),
            CallState::Local(slot, home) => {
                let (slot, home) = (*slot, *home);
                match current::with(|core| core.poll_slot(slot, home, context)) {
                    Some(SlotPoll::Done) => {
                        self.state = CallState::Ended;
                        take_reply::<M, T>(slot, form)
                    }
                    Some(SlotPoll::Pending) => Poll::Pending,
                    Some(SlotPoll::Early(early)) => self.end_early(slot, early).map(form),
                    Some(SlotPoll::Away) | None => self.poll_away(slot, home, context).map(form),
                }
            }
            CallState::Entered(entered) => entered.poll_reply(context).map(form),
            CallState::Ended => panic!("a call was polled after it had given its result"),
        }
    }

    /// Makes the call on the core that this thread steps; without one it enters a node.
    #[inline]
    fn poll_fresh<T>(
        &mut self,
        context: &mut Context<'_>,
        form: impl Fn(Result<M::Value, CallError>) -> T,
    ) -> Poll<T> {
        let CallState::Fresh(fresh) = &mut self.state else { unreachable!("checked by the caller") };
        match current::with(|core| (make(core, fresh, context.waker()), core.number())) {
            Some((Made::Answered(value), _)) => {
                self.state = CallState::Ended;
                Poll::Ready(form(Ok(value)))
            }
            Some((Made::Replied(slot), _)) => {
                self.state = CallState::Ended;
                take_reply::<M, T>(slot, form)
            }
            Some((Made::UnderWay(slot), home)) => {
                self.state = CallState::Local(slot, home);
                Poll::Pending
            }
            Some((Made::NoRoom, _)) => self.refuse().map(form),
            None => self.enter(context).map(form),
        }
    }

    #[cold]
    #[inline(never)]
    fn enter(&mut self, context: &mut Context<'_>) -> Poll<Result<M::Value, CallError>> {
        if let CallState::Fresh(fresh) = std::mem::replace(&mut self.state, CallState::Ended) {
            self.state = CallState::Entered(EntryCall::new(fresh));
        }
        self.poll_reply(context)
    }

    #[cold]
    #[inline(never)]
    fn refuse(&mut self) -> Poll<Result<M::Value, CallError>> {
        self.state = CallState::Ended;
        Poll::Ready(Err(CallError::Rejected(Rejection::Overloaded)))
    }

    #[cold]
    #[inline(never)]
    fn end_early(&mut self, slot: SlotPtr, early: Early) -> Poll<Result<M::Value, CallError>> {
        self.state = CallState::Ended;
        current::with(|core| core.abandon(slot));
        Poll::Ready(Err(early.into_error()))
    }

    /// A call that was made on another core than the one that polls it: its reply is sent after it.
    #[cold]
    #[inline(never)]
    fn poll_away(
        &mut self,
        slot: SlotPtr,
        home: u32,
        context: &mut Context<'_>,
    ) -> Poll<Result<M::Value, CallError>> {
        self.state = CallState::Ended;
        self.state = CallState::Entered(EntryCall::follow(slot, home));
        self.poll_reply(context)
    }
}

impl<M: Method> Drop for RawCall<M> {
    fn drop(&mut self) {
        if let CallState::Local(slot, home) = self.state {
            let here = current::with(|core| core.number() == home && core.abandon(slot));
            if here != Some(true) {
                crate::entry::abandon_away(slot, home);
            }
        }
    }
}

#[inline]
fn whereabouts<M: Method>(core: &CoreState, fresh: &Fresh<M>) -> Whereabouts {
    fresh.found.still(core.stamp())
}

/// Makes the call of a running task: the callee runs at once if it can, inside this very poll.
#[inline]
fn make<M: Method>(core: &CoreState, fresh: &mut Fresh<M>, waker: &Waker) -> Made<M::Value> {
    let whereabouts = whereabouts(core, fresh);
    make_call(core, &mut fresh.message, fresh.budget_ns, whereabouts, waker)
}

/// Makes a call and leaves it in the core's outbox: takes a slot and fills it. No waker: nobody waits for the reply.
/// Gives nothing when as many calls as allowed are under way.
#[inline]
fn begin<M: Method>(core: &CoreState, fresh: &mut Fresh<M>, waker: Option<&Waker>) -> Option<SlotPtr> {
    let slot = new_call(&core.slots, fresh.message.take()?)?;
    slot.reply_to.set(if waker.is_some() { ReplyTo::Caller } else { ReplyTo::Nobody });
    slot.caller.waker.set(waker.map(crate::waker::copy));
    core.post(slot, fresh.budget_ns, whereabouts(core, fresh));
    core.queue_call(slot);
    Some(slot)
}
