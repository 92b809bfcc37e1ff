//! What generated code refers to. Not for users: nothing here is stable.

#[path = "private/handler.rs"]
mod handler;

use epicserver_runtime::key::EntityKey;
use rkyv::api::low::{LowDeserializer, LowValidator};

pub use self::handler::{Argument, Arguments, Handler, Message, Moved, Pack};
pub use crate::launch::launch;
pub use epicserver_runtime::codec::{CodecError, Wire, WireSerializer, decode_saved, layout, restore};
pub use epicserver_runtime::entity::{
    Earlier, Entity, EntityCell, Method, MethodTable, Methods, RawRef, Stored, method_id,
};
pub use epicserver_runtime::lent::{Lent, LentArchive};
pub use epicserver_runtime::saving::SavePolicy;
pub use epicserver_runtime::script::check_saved_states;
pub use epicserver_runtime::{Call, CallError, MethodError};
pub use epicserver_transport::Frame;
pub use rkyv;
pub use rkyv::bytecheck::CheckBytes;

/// What checks archives.
pub type Validator<'a> = LowValidator<'a, rkyv::rancor::Error>;
/// What restores values from archives.
pub type Deserializer = LowDeserializer<rkyv::rancor::Error>;

/// States that types are messages: `impl Holds<0> for Player { type Kind = u64; }`. The compiler looks at these lines
/// first, and so tells of a type that is none in our words, before those of derived traits.
pub trait Holds<const NUMBER: usize> {
    /// The type.
    type Kind: Sent;
}

/// Every [`Wire`] type. It does not say what a [`Wire`] type is made of, so that the compiler does not either.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross a call or be saved",
    label = "not a message type",
    note = "put `#[message]` on your own struct or enum; `Rc`, `Arc`, `HashMap` and borrowed types cannot be sent",
    note = "a part of an entity that is never saved is a `Transient`"
)]
pub trait Sent {
    /// The type's layout.
    const LAYOUT: u64;
}

impl<T: Wire> Sent for T {
    const LAYOUT: u64 = <T as Wire>::LAYOUT;
}

/// The layout of a type that was stated with [`Holds`].
pub const fn layout_of<T: Holds<NUMBER>, const NUMBER: usize>() -> u64 {
    <T::Kind as Sent>::LAYOUT
}

/// Makes one result of a method's own and the call's, and marks what is an error of an inner call.
///
/// # Errors
/// The method's, or the call's in its form.
pub fn flatten<T, E: MethodError>(result: Result<Result<T, E>, CallError>) -> Result<T, E> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.nested()),
        Err(error) => Err(error.into()),
    }
}

/// Marks one field of an error.
pub fn nest<E: MethodError>(error: &mut E) {
    let inner = std::mem::replace(error, CallError::NotSent.into());
    *error = inner.nested();
}

/// The kept form of the key that `place` gives.
pub fn place<K: OwnedKey>(key: &K::Stored, place: fn(&K) -> K) -> K::Stored {
    place(&K::restore(key)).keep()
}

/// A key that can be kept from its owned form.
pub trait OwnedKey: EntityKey {
    /// Its kept form.
    fn keep(self) -> Self::Stored;
}

impl OwnedKey for u64 {
    fn keep(self) -> Self::Stored {
        Self::store(self)
    }
}

impl OwnedKey for u128 {
    fn keep(self) -> Self::Stored {
        Self::store(self)
    }
}

impl OwnedKey for String {
    fn keep(self) -> Self::Stored {
        Self::store(&self)
    }
}

impl OwnedKey for Vec<u8> {
    fn keep(self) -> Self::Stored {
        Self::store(&self)
    }
}

/// Whether no two numbers are equal.
pub const fn all_differ(numbers: &[u32]) -> bool {
    let mut at = 0;
    while at < numbers.len() {
        let mut before = 0;
        while before < at {
            if numbers[before] == numbers[at] {
                return false;
            }
            before += 1;
        }
        at += 1;
    }
    true
}
