//! The node stops: what is in memory is saved and leaves, as it falls out of use.
//!
//! Calls under way end first: an object that one of them uses is closed, hook and all, when it has ended. What objects have spawned
//! holds nothing up, as a loop that sleeps never ends by itself: each such future ends with its object, whatever it does.
//!
//! What comes back into memory meanwhile, called by a method or a hook, is saved and dropped without its hook: two objects that say
//! goodbye to each other would go on for ever. Not here: how an object leaves (`objects.rs`), partitions that others take over (`drain.rs`).

use std::cell::RefCell;

use super::{CoreState, Timer};
use crate::activation::{ObjectPtr, Status};
use crate::error::{CallError, Loss};

/// The activations that were there when the core was told to stop, and are to be closed, with the use of their memory.
#[derive(Default)]
pub(super) struct Stopping(RefCell<Vec<(ObjectPtr, u32)>>);

impl CoreState {
    /// Closes what nobody uses, now and whenever it is looked again.
    pub(super) fn stop(&self) {
        self.drain();
        let left = self.objects().into_iter().map(|object| (object, object.generation.get()));
        self.stopping.0.replace(left.collect());
        self.set_timer(self.now.get() + LOOK_NS, Timer::Stop);
    }

    /// Closes what has fallen out of use since.
    pub(super) fn stop_some(&self) {
        let mut left = self.stopping.0.take();
        left.retain(|&(object, generation)| {
            let is_there = || object.generation.get() == generation && object.status.get() != Status::Vacant;
            if is_there() {
                self.close_object(object);
            }
            is_there()
        });
        let in_memory: usize = self.entities.iter().flatten().map(|entry| entry.any().len()).sum();
        if in_memory > left.len() {
            // Those above that are unused are closing by now.
            self.objects().into_iter().for_each(|object| self.put_away(object));
        }
        self.stopping.0.replace(left);
        self.set_timer(self.now.get() + LOOK_NS, Timer::Stop);
    }

    /// Saves and drops an object that nobody uses.
    fn put_away(&self, object: ObjectPtr) {
        // A store that hangs may never give it a state.
        let is_unwanted = object.status.get() == Status::Loading && object.waiting.is_empty();
        if !object.is_unused() && !is_unwanted {
            return;
        }
        if object.dirty.get()
            && let Err(error) = self.write_image(object)
        {
            tracing::error!(object = object.label(), %error, "a state cannot be saved");
        }
        self.carry_if_moving(object);
        self.kill(object, &CallError::OutcomeUnknown(Loss::OwnerLost));
    }
}

/// The time between two looks.
const LOOK_NS: u64 = 10_000_000;
