//! `Transient`: a part of an entity that is never saved.

use std::cell::RefCell;
use std::fmt::{self, Debug};

use rkyv::rancor::Fallible;
use rkyv::{Archive, Deserialize, Place, Serialize};

use crate::codec::{Wire, layout};

/// A value inside an entity that belongs to this activation alone: a cache, a channel to somebody who waits, a handle of another library.
///
/// It begins as its default whenever the object comes into memory, also where the object moves to another process. Shared (`&self`) methods
/// can read and change it; that saves nothing, and takes no place in what is saved. Any type will do that has a default and may go to
/// another thread, so that only what is in a [`Field`](crate::Field) has to be a message type.
///
/// ```
/// use std::sync::Arc;
/// use epicserver_runtime::{Field, Transient};
/// use tokio::sync::Notify;
///
/// #[derive(Default)]
/// struct Inbox {
///     unread: Field<Vec<String>>,
///     news: Transient<Arc<Notify>>,
/// }
///
/// impl Inbox {
///     async fn hear(&self, line: String) {
///         self.unread.modify(|unread| unread.push(line));
///         self.news.with(|news| news.notify_one());
///     }
///
///     /// Waits until there is something.
///     async fn listen(&self) -> Vec<String> {
///         loop {
///             let unread = self.unread.replace(Vec::new());
///             if !unread.is_empty() {
///                 return unread;
///             }
///             self.news.get().notified().await;
///         }
///     }
/// }
/// ```
///
/// # Panics
/// Every method panics if it is called from inside a closure that already has this very value in hand, as `RefCell` does.
#[derive(Default, Clone, PartialEq)]
pub struct Transient<T> {
    value: RefCell<T>,
}

impl<T> Transient<T> {
    /// One that holds `value`.
    pub const fn new(value: T) -> Self {
        Self { value: RefCell::new(value) }
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
        self.value.replace(value)
    }

    /// Changes the value in place.
    pub fn modify<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.value.borrow_mut())
    }

    /// Reads the value in place.
    pub fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.value.borrow())
    }

    /// The value, when the whole entity is borrowed exclusively: the way of `&mut self` methods, free of checks.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T> Debug for Transient<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transient")
    }
}

/// What is archived of one: nothing.
#[derive(rkyv::Portable, rkyv::bytecheck::CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[rkyv(crate = rkyv)]
#[repr(transparent)]
pub struct ArchivedTransient(());

impl<T> Archive for Transient<T> {
    type Archived = ArchivedTransient;
    type Resolver = ();
    fn resolve(&self, (): Self::Resolver, _: Place<Self::Archived>) {}
}

impl<S: Fallible + ?Sized, T> Serialize<S> for Transient<T> {
    fn serialize(&self, _: &mut S) -> Result<Self::Resolver, S::Error> {
        Ok(())
    }
}

impl<D: Fallible + ?Sized, T: Default> Deserialize<Transient<T>, D> for ArchivedTransient {
    fn deserialize(&self, _: &mut D) -> Result<Transient<T>, D::Error> {
        Ok(Transient::default())
    }
}

// `Send`, as every message may go to another core, and this is part of one if somebody puts it there.
impl<T: Default + Send + 'static> Wire for Transient<T> {
    const LAYOUT: u64 = layout::combine("Transient", &[]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode_to_vec};

    #[test]
    fn nothing_of_it_is_saved_and_it_begins_anew() {
        let state = (7u32, Transient::new(vec![std::sync::Arc::new(5u8)]), 8u32);
        state.1.modify(|values| values.push(std::sync::Arc::default()));
        assert_eq!(state.1.with(Vec::len), 2);
        let bytes = encode_to_vec(&state, 64).expect("fits");
        assert_eq!(bytes.len(), 8);
        let read: (u32, Transient<Vec<std::sync::Arc<u8>>>, u32) = decode(&bytes).expect("valid");
        assert!(read == (7, Transient::default(), 8));
    }

    #[test]
    fn a_saved_layout_does_not_depend_on_what_it_holds() {
        assert_eq!(<Transient<Vec<u8>> as Wire>::LAYOUT, <Transient<String> as Wire>::LAYOUT);
        assert_ne!(<Transient<u8> as Wire>::LAYOUT, <() as Wire>::LAYOUT);
    }
}
