//! `Field`: the cell of state that `&self` methods may change between two awaits.

use std::cell::{Cell, UnsafeCell};
use std::fmt::{self, Debug};

use rkyv::rancor::Fallible;
use rkyv::{Archive, Deserialize, Place, Serialize};

use crate::codec::{Wire, layout};

/// A value inside an entity's state that shared (`&self`) methods can read and change.
///
/// A change is saved at the end of the turn in which it was made. The closures of [`update`](Self::update),
/// [`modify`](Self::modify) and [`with`](Self::with) must not come back to the same field.
///
/// # Panics
/// Every method panics if it is called from inside a closure that already has this very field in hand, as
/// `RefCell` does; the runtime turns that into [`CallError::Panicked`](crate::CallError::Panicked).
#[derive(Default)]
pub struct Field<T> {
    busy: Cell<bool>,
    value: UnsafeCell<T>,
}

impl<T> Field<T> {
    /// A field that holds `value`.
    pub const fn new(value: T) -> Self {
        Self { busy: Cell::new(false), value: UnsafeCell::new(value) }
    }

    /// A copy of the value.
    pub fn get(&self) -> T
    where
        T: Clone,
    {
        self.with(T::clone)
    }

    /// Replaces the value and drops the old one.
    pub fn set(&self, value: T) {
        drop(self.replace(value));
    }

    /// Replaces the value and gives the old one.
    pub fn replace(&self, value: T) -> T {
        self.modify(|place| std::mem::replace(place, value))
    }

    /// Replaces the value by what `next` makes of it: `score.update(|s| s + 1)`.
    pub fn update(&self, next: impl FnOnce(&T) -> T) {
        let next = self.with(next);
        self.set(next);
    }

    /// Changes the value in place.
    pub fn modify<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let _borrow = Borrow::of(&self.busy);
        crate::current::mark_touched();
        // SAFETY: `_borrow` holds the only right to the value until this function returns or unwinds, `Field` is not
        // `Sync`, and no other method hands out a reference that outlives its own borrow.
        change(unsafe { &mut *self.value.get() })
    }

    /// Reads the value in place.
    pub fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        let _borrow = Borrow::of(&self.busy);
        // SAFETY: as in `modify`; a second reader inside `read` is refused as well, which keeps the flag one bit.
        read(unsafe { &*self.value.get() })
    }

    /// The value, when the whole entity is borrowed exclusively: the way of `&mut self` methods, free of checks.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// The value itself.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

/// The right to a field's value; given back when dropped, so that a panic inside a closure does not lock the field.
struct Borrow<'a>(&'a Cell<bool>);

impl<'a> Borrow<'a> {
    fn of(busy: &'a Cell<bool>) -> Self {
        assert!(!busy.replace(true), "this field is already in use by a closure further up");
        Self(busy)
    }
}

impl Drop for Borrow<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl<T: Debug> Debug for Field<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.busy.get() { f.write_str("<in use>") } else { self.with(|value| value.fmt(f)) }
    }
}

impl<T: Clone> Clone for Field<T> {
    fn clone(&self) -> Self {
        Self::new(self.get())
    }
}

impl<T: PartialEq> PartialEq for Field<T> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.with(|mine| other.with(|theirs| mine == theirs))
    }
}

impl<T> From<T> for Field<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

/// The archived form of a field is the archived form of its value.
#[derive(rkyv::Portable, rkyv::bytecheck::CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[rkyv(crate = rkyv)]
#[repr(transparent)]
pub struct ArchivedField<A>(pub A);

impl<T: Archive> Archive for Field<T> {
    type Archived = ArchivedField<T::Archived>;
    type Resolver = T::Resolver;
    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        rkyv::munge::munge!(let ArchivedField(inner) = out);
        self.with(|value| value.resolve(resolver, inner));
    }
}

impl<S: Fallible + ?Sized, T: Serialize<S>> Serialize<S> for Field<T> {
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        self.with(|value| value.serialize(serializer))
    }
}

impl<D: Fallible + ?Sized, T: Archive<Archived: Deserialize<T, D>>> Deserialize<Field<T>, D>
    for ArchivedField<T::Archived>
{
    fn deserialize(&self, deserializer: &mut D) -> Result<Field<T>, D::Error> {
        self.0.deserialize(deserializer).map(Field::new)
    }
}

impl<T: Wire> Wire for Field<T> {
    const LAYOUT: u64 = layout::combine("Field", &[T::LAYOUT]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode_to_vec};

    #[test]
    fn a_field_refuses_a_second_closure_and_recovers() {
        let field = Field::new(1u64);
        let nested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| field.modify(|_| field.get())));
        assert!(nested.is_err());
        field.update(|value| value + 1);
        assert_eq!(field.get(), 2);
    }

    #[test]
    fn a_field_is_saved_as_its_value() {
        let bytes = encode_to_vec(&Field::new(String::from("a long enough text to lie out of line")), 512)
            .expect("fits");
        assert_eq!(
            decode::<Field<String>>(&bytes).expect("valid").get(),
            "a long enough text to lie out of line"
        );
    }
}
