//! What a core that is driven by a script writes down, and the calls that wait for the test's answer.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use crate::call::Call;
use crate::codec;
use crate::entity::{Entity, Method};
use crate::key::StoredKey;
use crate::script::ENCODED_LEN_MAX;
use crate::slot::{SlotPtr, TaskRef};

/// What entity code asked for, as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Syscall {
    /// A call of another object's method, or a one-way send. Made for comparing by [`Syscall::call`] and
    /// [`Syscall::one_way`].
    Call {
        /// Entity and key, `game.Barrel/7`.
        object: String,
        /// The method.
        method: &'static str,
        /// What it was called with.
        arguments: Arguments,
        /// Nobody waits for a reply.
        one_way: bool,
    },
    /// A wait.
    Sleep(Duration),
    /// The time was read.
    Now,
    /// A random number was drawn.
    Random,
    /// A future was started beside the object.
    Spawn,
    /// Work for the blocking pool.
    Blocking,
    /// A future for the edge runtime.
    Edge,
    /// One of these two, by [its description](crate::context::Operation::described).
    Described(String),
    /// The object is to be forgotten.
    Forget,
    /// A checkpoint.
    Save,
}

impl Syscall {
    /// What an object asks for that awaits this call: `Syscall::call(&barrel.on_hit())`.
    ///
    /// # Panics
    /// If the call was polled before, or its arguments cannot be encoded.
    pub fn call<M: Method>(call: &Call<M>) -> Self {
        Self::of(call, false)
    }

    /// What an object asks for that sends this call one way.
    ///
    /// # Panics
    /// As [`call`](Self::call).
    pub fn one_way<M: Method>(call: &Call<M>) -> Self {
        Self::of(call, true)
    }

    fn of<M: Method>(call: &Call<M>, one_way: bool) -> Self {
        let message = call.message().expect("a call that was not made yet");
        let bytes =
            codec::encode_to_vec(&message.arguments, ENCODED_LEN_MAX).expect("arguments of reasonable size");
        let object = message.key.canonical(|key| format!("{}/{key}", <M::Entity as Entity>::NAME));
        Self::Call { object, method: M::NAME, arguments: Arguments(bytes.to_vec()), one_way }
    }
}

/// The arguments of a call, encoded: equal if the arguments are.
#[derive(Clone, PartialEq, Eq)]
pub struct Arguments(pub(crate) Vec<u8>);

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The syscalls so far, and the calls that wait for the test.
pub(crate) struct Tape {
    entity: &'static str,
    key: Vec<u8>,
    /// With the core's counter at the moment it was asked: a call is seen here later than it is made.
    syscalls: RefCell<Vec<(u64, Syscall)>>,
    calls: RefCell<Vec<(Syscall, SlotPtr)>>,
}

impl Tape {
    /// The tape of the object whose own calls are not held back.
    pub(crate) fn of_object(entity: &'static str, key: Vec<u8>) -> Self {
        Self { entity, key, syscalls: RefCell::default(), calls: RefCell::default() }
    }

    /// Writes down what was asked for when the core's counter stood here.
    pub(crate) fn note(&self, counter: u64, syscall: Syscall) {
        self.syscalls.borrow_mut().push((counter, syscall));
    }

    /// Takes out what was asked for, in order.
    pub(crate) fn take_syscalls(&self) -> Vec<Syscall> {
        let mut syscalls = self.syscalls.take();
        syscalls.sort_by_key(|(counter, _)| *counter);
        syscalls.into_iter().map(|(_, syscall)| syscall).collect()
    }

    /// The calls that wait for an answer, oldest first.
    pub(crate) fn waiting(&self) -> Vec<Syscall> {
        self.calls.borrow().iter().map(|(syscall, _)| syscall.clone()).collect()
    }

    /// Takes out the oldest call that is like this one.
    pub(crate) fn take_call(&self, like: &Syscall) -> Option<SlotPtr> {
        let mut calls = self.calls.borrow_mut();
        let place = calls.iter().position(|(syscall, _)| syscall == like)?;
        Some(calls.remove(place).1)
    }

    /// Takes out this call, if it waits.
    pub(crate) fn take_task(&self, task: TaskRef) -> Option<SlotPtr> {
        let mut calls = self.calls.borrow_mut();
        let place = calls.iter().position(|(_, slot)| *slot == task.slot)?;
        Some(calls.remove(place).1)
    }

    /// Takes out all calls that wait.
    pub(crate) fn take_all(&self) -> Vec<SlotPtr> {
        self.calls.take().into_iter().map(|(_, slot)| slot).collect()
    }

    /// Keeps a call until the test answers it.
    pub(crate) fn keep(&self, syscall: Syscall, slot: SlotPtr) {
        self.calls.borrow_mut().push((syscall, slot));
    }

    /// Whether the call is one of the object on itself, or one that the test makes on it.
    pub(crate) fn is_own(&self, slot: SlotPtr) -> bool {
        slot.vtable.get().entity == self.entity && slot.key(|key| key.bytes == self.key) == Some(true)
    }
}
