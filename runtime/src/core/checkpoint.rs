//! Checkpoints: a method has its object saved before it ends, and waits until that is durable.
//!
//! The image is made of the reference that the method gives, inside its own poll: nothing else may read what an exclusive
//! method in progress has borrowed. It belongs to the open batch, as every image does.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::CoreState;
use super::operations::on_core;
use crate::activation::{ObjectPtr, image_of};
use crate::codec::{CodecError, Encoder};
use crate::entity::Entity;
use crate::error::{CallError, Rejection};
use crate::saving::SavePolicy;
use crate::script::Syscall;
use crate::slot::{Hold, SlotPtr, archive};

/// A checkpoint: saves the object whose method this is as it is now, `save(&*self).await?`, and ends when that is durable.
///
/// Without it a `&mut self` method is one save, when it ends; a crash or a panic inside then takes back all of it. What a
/// checkpoint has saved stays, whatever becomes of the method: so the state should be one that the object can go on from. The
/// object is held meanwhile, and its other callers wait for the disk too.
///
/// With the policies `behind(..)` and `on_idle` this saves at once as well. In a `&self` method whose object has not changed since
/// it was last saved, nothing is written.
///
/// # Errors
/// `Rejected(TooLarge)` if the state is larger than can be saved, `Unavailable` if it cannot be archived: nothing of it is saved
/// then. `OutcomeUnknown(Timeout)` if it is not known to be durable by the deadline of the call whose method this is;
/// `OutcomeUnknown(OwnerLost)` if the node is no longer the object's owner. When the store fails to save it the method does not go
/// on: the object leaves memory as if the change had never been, and the method's caller gets `SaveFailed`.
///
/// # Panics
/// If it is awaited outside of the methods of `E`, or with a reference to anything but the method's own object.
///
/// In an entity with `save = never` it does not compile.
pub fn save<E: Entity>(object: &E) -> Save<'_, E> {
    const {
        assert!(
            !matches!(E::SAVE, SavePolicy::Never),
            "save(..) in an entity with `save = never`: such objects are never saved"
        );
    }
    Save { object, batch: None, waker: None }
}

/// See [`save`].
#[must_use = "it saves when it is awaited"]
pub struct Save<'a, E: Entity> {
    object: &'a E,
    /// The batch that must be durable, and when it is too late for that.
    batch: Option<(u64, u64)>,
    /// What is woken then.
    waker: Option<Waker>,
}

impl<E: Entity> fmt::Debug for Save<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Save").field("entity", &E::NAME).field("batch", &self.batch).finish()
    }
}

impl<E: Entity> Future for Save<'_, E> {
    type Output = Result<(), CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        on_core("save()", |core| {
            let (number, until) = match this.batch {
                Some(batch) => batch,
                None => match core.checkpoint(this.object) {
                    Ok(number) => *this.batch.insert((number, core.time_over())),
                    Err(error) => return Poll::Ready(Err(error)),
                },
            };
            if let Some(passed) = core.passed_gate(number, until) {
                return Poll::Ready(passed);
            }
            // What is polled for other reasons waits in the gate once all the same.
            if !this.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                this.waker = Some(context.waker().clone());
                core.wake_at_gate(number, until, context.waker());
            }
            Poll::Pending
        })
    }
}

impl CoreState {
    /// Takes an image of the object whose turn it is. Gives the batch in which its state is saved.
    fn checkpoint<E: Entity>(&self, state: &E) -> Result<u64, CallError> {
        self.note(Syscall::Save);
        let own = self.own_object(state);
        let (slot, object) = own.unwrap_or_else(|| {
            panic!("save() is for the methods of {}, and for their own object: save(&*self)", E::NAME)
        });
        let was_dirty = object.dirty.get();
        if slot.vtable.get().hold == Hold::Exclusive || self.touched.get() || was_dirty {
            let image = |form, encoder: &mut Encoder<'_>| archive(|| image_of(state, form, encoder));
            if let Err(error) = self.write_image_by(object, image) {
                object.dirty.set(was_dirty);
                return Err(self.unsaved(object, error));
            }
            // What this turn has changed so far is in the image.
            self.touched.set(false);
            if E::SAVE == SavePolicy::Durable {
                object.depends_on.set(object.depends_on.get().max(object.image_batch.get()));
            }
        }
        Ok(self.dependence().max(object.image_batch.get()))
    }

    /// Why an object cannot be saved as it is.
    pub(super) fn unsaved(&self, object: ObjectPtr, error: CodecError) -> CallError {
        let label = object.label();
        match error {
            CodecError::Full { len } => {
                let what = format!("the state of {label}");
                CallError::Rejected(Rejection::too_large(what, len, self.config.state_len_max))
            }
            CodecError::Invalid(reason) => {
                CallError::Unavailable(format!("{label} cannot be saved: {reason}"))
            }
        }
    }

    /// The task whose turn it is and its object, if that is the object with this state.
    fn own_object<E: Entity>(&self, state: &E) -> Option<(SlotPtr, ObjectPtr)> {
        let slot = self.running.get().filter(|slot| slot.vtable.get().holds)?;
        let object = slot.object.get()?;
        let catalog = self.entry::<E>()?.typed::<E>()?;
        catalog.is_state(object, state).then_some((slot, object))
    }
}
