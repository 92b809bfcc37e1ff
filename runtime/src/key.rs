//! Keys of objects: what the user writes (`u64`, `u128`, `String`, `Vec<u8>`), how the runtime keeps them, and the
//! pinned hash that says which partition a key belongs to.
//!
//! Every process of a cluster must place a key in the same partition, so the bytes that are hashed and the hash itself
//! (SipHash-1-3 with a zero key) are part of the wire format. The entity is not hashed: equal keys of different
//! entities share a partition, and so a node.

use std::fmt::{self, Debug, Display};
use std::hash::Hash;
use std::sync::Arc;

use epicserver_storage::RecordKeyRef;
pub use epicserver_storage::{KEY_LENGTH_MAX, KeyKind};
use rkyv::rancor::{Fallible, Source};
use rkyv::ser::Writer;
use rkyv::string::{ArchivedString, StringResolver};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Deserialize, Place, Serialize, SerializeUnsized};

use crate::codec::{Wire, layout};

/// A type that can name objects of an entity: `u64`, `u128`, `String` or `Vec<u8>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of an entity",
    note = "keys are `u64` (the default), `u128`, `String` or `Vec<u8>`: `#[entity(name = \"..\", key = String)]`"
)]
pub trait EntityKey: sealed::Sealed + Sized + 'static {
    /// What a caller passes: `&str` for `String`, `&[u8]` for `Vec<u8>`, the number itself otherwise.
    type Argument<'a>;
    /// How the runtime keeps the key: cheap to clone, ordered, hashable.
    type Stored: StoredKey;
    /// Makes the kept form of an argument.
    fn store(argument: Self::Argument<'_>) -> Self::Stored;
    /// The key as its entity's author wrote it.
    fn restore(stored: &Self::Stored) -> Self;
}

/// The kept form of a key.
pub trait StoredKey: Clone + Eq + Ord + Hash + Debug + Send + Sync + Unpin + Wire + sealed::Sealed {
    /// The kind of the key and its canonical bytes: what is hashed, sent and saved.
    fn canonical<R>(&self, read: impl FnOnce(KeyView<'_>) -> R) -> R;
    /// Reads a key back from its canonical form; `None` if the kind or the bytes do not fit.
    fn from_view(view: KeyView<'_>) -> Option<Self>;
}

/// A key in canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyView<'a> {
    /// Which of the four key types it is.
    pub kind: KeyKind,
    /// Little-endian number, or the bytes themselves.
    pub bytes: &'a [u8],
}

impl KeyView<'_> {
    /// The partition this key belongs to.
    pub fn partition(&self) -> u16 {
        // The entity is not hashed, so that equal keys live together.
        RecordKeyRef { entity: 0, kind: self.kind, bytes: self.bytes }.partition().number()
    }
}

impl Display for KeyView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |len| {
            let mut bytes = [0u8; 16];
            let taken = self.bytes.len().min(len);
            bytes[..taken].copy_from_slice(&self.bytes[..taken]);
            u128::from_le_bytes(bytes)
        };
        match self.kind {
            KeyKind::U64 => write!(f, "{}", number(8)),
            KeyKind::U128 => write!(f, "{}", number(16)),
            KeyKind::Utf8 => write!(f, "{:?}", String::from_utf8_lossy(self.bytes)),
            KeyKind::Bytes => write!(f, "{:02x?}", self.bytes),
        }
    }
}

/// A string key: shared, so that a reference to an object is cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextKey(Arc<str>);

/// A byte key: shared, so that a reference to an object is cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BytesKey(Arc<[u8]>);

impl Debug for TextKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(&self.0, f)
    }
}

impl Debug for BytesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(&self.0, f)
    }
}

macro_rules! number_key {
    ($type:ty, $kind:expr) => {
        impl sealed::Sealed for $type {}
        impl EntityKey for $type {
            type Argument<'a> = $type;
            type Stored = $type;
            fn store(argument: $type) -> $type {
                argument
            }
            fn restore(stored: &$type) -> $type {
                *stored
            }
        }
        impl StoredKey for $type {
            fn canonical<R>(&self, read: impl FnOnce(KeyView<'_>) -> R) -> R {
                read(KeyView { kind: $kind, bytes: &self.to_le_bytes() })
            }
            fn from_view(view: KeyView<'_>) -> Option<Self> {
                (view.kind == $kind).then(|| view.bytes.try_into().map(Self::from_le_bytes).ok()).flatten()
            }
        }
    };
}
number_key!(u64, KeyKind::U64);
number_key!(u128, KeyKind::U128);

impl sealed::Sealed for String {}
impl EntityKey for String {
    type Argument<'a> = &'a str;
    type Stored = TextKey;
    fn store(argument: &str) -> TextKey {
        TextKey(argument.into())
    }
    fn restore(stored: &TextKey) -> String {
        stored.0.as_ref().into()
    }
}

impl sealed::Sealed for TextKey {}
impl StoredKey for TextKey {
    fn canonical<R>(&self, read: impl FnOnce(KeyView<'_>) -> R) -> R {
        read(KeyView { kind: KeyKind::Utf8, bytes: self.0.as_bytes() })
    }
    fn from_view(view: KeyView<'_>) -> Option<Self> {
        let text = std::str::from_utf8(view.bytes).ok()?;
        (view.kind == KeyKind::Utf8).then(|| TextKey(text.into()))
    }
}

impl sealed::Sealed for Vec<u8> {}
impl EntityKey for Vec<u8> {
    type Argument<'a> = &'a [u8];
    type Stored = BytesKey;
    fn store(argument: &[u8]) -> BytesKey {
        BytesKey(argument.into())
    }
    fn restore(stored: &BytesKey) -> Vec<u8> {
        stored.0.as_ref().into()
    }
}

impl sealed::Sealed for BytesKey {}
impl StoredKey for BytesKey {
    fn canonical<R>(&self, read: impl FnOnce(KeyView<'_>) -> R) -> R {
        read(KeyView { kind: KeyKind::Bytes, bytes: &self.0 })
    }
    fn from_view(view: KeyView<'_>) -> Option<Self> {
        (view.kind == KeyKind::Bytes).then(|| BytesKey(view.bytes.into()))
    }
}

impl Archive for TextKey {
    type Archived = ArchivedString;
    type Resolver = StringResolver;
    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        ArchivedString::resolve_from_str(&self.0, resolver, out);
    }
}

impl<S: Fallible<Error: Source> + ?Sized> Serialize<S> for TextKey
where
    str: SerializeUnsized<S>,
{
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        ArchivedString::serialize_from_str(&self.0, serializer)
    }
}

impl<D: Fallible + ?Sized> Deserialize<TextKey, D> for ArchivedString {
    fn deserialize(&self, _: &mut D) -> Result<TextKey, D::Error> {
        Ok(TextKey(self.as_str().into()))
    }
}

impl Archive for BytesKey {
    type Archived = ArchivedVec<u8>;
    type Resolver = VecResolver;
    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_slice(&self.0, resolver, out);
    }
}

impl<S: Fallible + rkyv::ser::Allocator + Writer + ?Sized> Serialize<S> for BytesKey {
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        ArchivedVec::serialize_from_slice(&self.0, serializer)
    }
}

impl<D: Fallible + ?Sized> Deserialize<BytesKey, D> for ArchivedVec<u8> {
    fn deserialize(&self, _: &mut D) -> Result<BytesKey, D::Error> {
        Ok(BytesKey(self.as_slice().into()))
    }
}

impl Wire for TextKey {
    const LAYOUT: u64 = <String as Wire>::LAYOUT;
}

impl Wire for BytesKey {
    const LAYOUT: u64 = layout::combine("Vec", &[<u8 as Wire>::LAYOUT]);
}

mod sealed {
    pub trait Sealed {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition<K: EntityKey>(argument: K::Argument<'_>) -> u16 {
        K::store(argument).canonical(|view| view.partition())
    }

    /// These numbers are part of the wire format: two processes that disagree on one would both serve an object.
    #[test]
    fn partitions_are_pinned() {
        let all = [
            partition::<u64>(0),
            partition::<u64>(42),
            partition::<u128>(42),
            partition::<String>("Bob"),
            partition::<Vec<u8>>(b"Bob"),
        ];
        assert_eq!(all, GOLDEN);
    }

    #[test]
    fn keys_survive_their_canonical_form() {
        let text = String::store("Bob");
        text.canonical(|view| assert_eq!(TextKey::from_view(view), Some(text.clone())));
        text.canonical(|view| assert_eq!(BytesKey::from_view(view), None, "another kind is another key"));
        7u64.canonical(|view| assert_eq!(u64::from_view(view), Some(7)));
        assert_eq!(u64::from_view(KeyView { kind: KeyKind::U64, bytes: &[1, 2] }), None);
        assert_eq!(TextKey::from_view(KeyView { kind: KeyKind::Utf8, bytes: &[0xff] }), None);
    }

    const GOLDEN: [u16; 5] = [452, 3412, 638, 3683, 1755];
}
