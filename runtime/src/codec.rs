//! How values become bytes: rkyv archives, written once into a buffer that is already there, validated before use.
//!
//! [`Wire`] names what may be an argument, a result or saved state. Nothing here allocates on the good path but the
//! scratch space of nested collections, which a core keeps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroUsize;

use rkyv::api::low::{LowDeserializer, LowSerializer, LowValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::{Positional, Writer};
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::{Archive, Deserialize, Serialize};

/// The codec id of rkyv archives, in frame headers and save envelopes.
pub const CODEC_RKYV: u8 = 0;

/// The serializer every [`Wire`] type is written with: into a fixed buffer, scratch from a recycled arena, no sharing.
pub type WireSerializer<'a> = LowSerializer<Sink<'a>, ArenaHandle<'a>, Error>;

/// A value that may cross cores and nodes and be saved.
///
/// Implemented for numbers, `bool`, `char`, `String`, `Vec`, [`Bytes`](crate::Bytes), `Option`, `Result`, `Box`, arrays, tuples, ordered maps,
/// [`Field`](crate::Field) and references to objects; your own types get it from `#[message]` or `#[entity]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross a call or be saved",
    label = "not a message type",
    note = "put `#[message]` on your own struct or enum; `Rc`, `Arc`, `HashMap` and borrowed types cannot be sent"
)]
pub trait Wire:
    Archive<Archived: for<'a> CheckBytes<LowValidator<'a, Error>> + Deserialize<Self, LowDeserializer<Error>>>
    + for<'a> Serialize<WireSerializer<'a>>
    + Sized
    + 'static
{
    /// A hash of the type's shape: two programs that disagree on it must not read each other's bytes.
    const LAYOUT: u64;
    /// The same without the type's own name, so that a struct that keeps an entity's former state has the layout of that entity.
    const FIELDS: u64 = Self::LAYOUT;
}

/// Why bytes could not be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The value does not fit the buffer it was to be written to.
    #[error("the value does not fit the buffer: it takes {len} bytes")]
    Full {
        /// How long a buffer has to be, in bytes.
        len: usize,
    },
    /// The bytes are not a valid archive of the type that was expected.
    #[error("the bytes are no valid value: {0}")]
    Invalid(String),
}

/// Writes `value` to the start of `buffer`, which must start at a multiple of 16. Gives the number of bytes.
///
/// # Errors
/// [`CodecError::Full`] if the buffer is too small, with the length that it needs; its content is then unspecified.
pub fn encode<T>(value: &T, buffer: &mut [u8], scratch: &mut Arena) -> Result<usize, CodecError>
where
    T: for<'a> Serialize<WireSerializer<'a>>,
{
    debug_assert_eq!(buffer.as_ptr() as usize % 16, 0, "archives start at a multiple of 16");
    let sink = Sink { buffer, len: 0 };
    match rkyv::api::low::to_bytes_in_with_alloc::<_, _, Error>(value, sink, scratch.acquire()) {
        Ok(Sink { buffer, len }) if len <= buffer.len() => Ok(len),
        Ok(Sink { len, .. }) => Err(CodecError::Full { len }),
        Err(error) => Err(CodecError::Invalid(error.to_string())),
    }
}

/// A buffer to encode into, together with the scratch space that encoding needs.
pub struct Encoder<'a> {
    /// Where the archive goes; starts at a multiple of 16.
    pub buffer: &'a mut [u8],
    /// Scratch space that is used again and again.
    pub scratch: &'a mut Arena,
}

impl std::fmt::Debug for Encoder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("room", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl Encoder<'_> {
    /// As [`encode`].
    ///
    /// # Errors
    /// As [`encode`].
    pub fn encode<T>(&mut self, value: &T) -> Result<usize, CodecError>
    where
        T: for<'a> Serialize<WireSerializer<'a>>,
    {
        encode(value, self.buffer, self.scratch)
    }
}

/// Validates `bytes` as an archive of `T` and gives it in place.
///
/// # Errors
/// [`CodecError::Invalid`] for anything that is not a valid archive that starts at a multiple of 16, and for values that are nested deeper
/// than [`NESTED_MAX`].
pub fn access<T>(bytes: &[u8]) -> Result<&T::Archived, CodecError>
where
    T: Archive<Archived: for<'a> CheckBytes<LowValidator<'a, Error>>>,
{
    // What the validator says of too deep a value does not tell that.
    access_nested::<T>(bytes, Some(NESTED_BOUND)).map_err(|error| {
        CodecError::Invalid(format!("{error}; values lie at most {NESTED_MAX} deep in each other"))
    })
}

#[inline]
fn access_nested<T>(bytes: &[u8], nested_max: Option<NonZeroUsize>) -> Result<&T::Archived, Error>
where
    T: Archive<Archived: for<'a> CheckBytes<LowValidator<'a, Error>>>,
{
    let mut validator = Validator::new(ArchiveValidator::with_max_depth(bytes, nested_max), ());
    rkyv::api::access_with_context::<T::Archived, _, Error>(bytes, &mut validator)
}

/// Makes an owned value of a validated archive.
///
/// # Errors
/// [`CodecError::Invalid`] if a part cannot be made, which the built-in types never say.
pub fn restore<T: Wire>(archived: &T::Archived) -> Result<T, CodecError> {
    rkyv::api::low::deserialize::<T, Error>(archived).map_err(|error| CodecError::Invalid(error.to_string()))
}

/// Validates and restores in one go.
///
/// # Errors
/// As [`access`] and [`restore`].
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, CodecError> {
    restore::<T>(access::<T>(bytes)?)
}

/// As [`decode`], for states that were saved, however deep: a node wrote them on a stack no longer than this one, and a state that could be
/// saved and not be read would be lost.
///
/// # Errors
/// As [`decode`].
pub fn decode_saved<T: Wire>(bytes: &[u8]) -> Result<T, CodecError> {
    restore::<T>(access_nested::<T>(bytes, None).map_err(|error| CodecError::Invalid(error.to_string()))?)
}

/// As [`decode`], but that `put` gets the value, at most once and only if there is one.
///
/// # Errors
/// As [`decode`].
#[inline]
pub(crate) fn decode_to<T: Wire>(bytes: &[u8], put: impl FnOnce(T)) -> Result<(), CodecError> {
    match rkyv::api::low::deserialize::<T, Error>(access::<T>(bytes)?) {
        Ok(value) => {
            put(value);
            Ok(())
        }
        Err(error) => Err(CodecError::Invalid(error.to_string())),
    }
}

/// The bytes of `value` in a vector of their own, for what is off the call path. `len_max` bounds them.
///
/// # Errors
/// [`CodecError::Full`] if more than `len_max` bytes would be needed.
pub fn encode_to_vec<T>(value: &T, len_max: usize) -> Result<rkyv::util::AlignedVec, CodecError>
where
    T: for<'a> Serialize<WireSerializer<'a>>,
{
    let mut scratch = Arena::new();
    let mut len = 256.min(len_max);
    loop {
        let mut bytes = rkyv::util::AlignedVec::with_capacity(len);
        bytes.resize(len, 0);
        match encode(value, &mut bytes, &mut scratch) {
            Ok(written) => {
                bytes.resize(written, 0);
                return Ok(bytes);
            }
            Err(CodecError::Full { len: needed }) if needed <= len_max => len = needed,
            Err(error) => return Err(error),
        }
    }
}

/// How deep values lie in each other that another process sent: boxes, vectors, strings and the like, the outermost one included. To read
/// one, to make it and to drop it recurses as deep on a stack of 2 MiB.
pub const NESTED_MAX: usize = 512;
/// As the validator counts: down, and never to zero.
const NESTED_BOUND: NonZeroUsize = NonZeroUsize::new(NESTED_MAX + 1).expect("not zero");

/// A fixed buffer that a value is written into, front to back. What goes beyond its end is counted and not kept, so that it is known
/// how long the next one has to be.
#[derive(Debug)]
pub struct Sink<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl Positional for Sink<'_> {
    fn pos(&self) -> usize {
        self.len
    }
}

impl Writer<Error> for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let end = self.len + bytes.len();
        if let Some(room) = self.buffer.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
        }
        self.len = end;
        Ok(())
    }
}

/// Hashes of type shapes, computed while compiling.
pub mod layout {
    /// FNV-1a over a name and the hashes of parts. Good enough to tell honest programs apart; not a defence.
    pub const fn combine(name: &str, parts: &[u64]) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let bytes = name.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            hash = step(hash, bytes[at]);
            at += 1;
        }
        let mut part = 0;
        while part < parts.len() {
            let bytes = parts[part].to_le_bytes();
            let mut at = 0;
            while at < bytes.len() {
                hash = step(hash, bytes[at]);
                at += 1;
            }
            part += 1;
        }
        mix(hash)
    }

    /// Spreads every bit over all others (the finalizer of MurmurHash3): frames carry only the low half, and the low half
    /// of FNV-1a knows nothing of the high one.
    const fn mix(hash: u64) -> u64 {
        let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }

    const fn step(hash: u64, byte: u8) -> u64 {
        (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
    }
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            const LAYOUT: u64 = layout::combine(stringify!($type), &[]);
        }
    )*};
}
plain!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128, f32, f64, bool, char, (), String);

macro_rules! generic {
    ($($name:literal $type:ty [$($part:ident $(: $bound:path)?),*]);* $(;)?) => {$(
        impl<$($part: Wire $(+ $bound)?),*> Wire for $type
        where
            $type: Archive<Archived: for<'a> CheckBytes<LowValidator<'a, Error>> + Deserialize<Self, LowDeserializer<Error>>>
                + for<'a> Serialize<WireSerializer<'a>>,
        {
            const LAYOUT: u64 = layout::combine($name, &[$($part::LAYOUT),*]);
        }
    )*};
}
generic! {
    "Vec" Vec<T> [T];
    "VecDeque" VecDeque<T> [T];
    "Option" Option<T> [T];
    "Box" Box<T> [T];
    "Result" Result<T, E> [T, E];
    "BTreeMap" BTreeMap<K, V> [K: Ord, V];
    "BTreeSet" BTreeSet<K> [K: Ord];
    "1" (A,) [A];
    "2" (A, B) [A, B];
    "3" (A, B, C) [A, B, C];
    "4" (A, B, C, D) [A, B, C, D];
    "5" (A, B, C, D, F) [A, B, C, D, F];
    "6" (A, B, C, D, F, G) [A, B, C, D, F, G];
}

impl<T: Wire, const N: usize> Wire for [T; N]
where
    [T; N]: Archive<
            Archived: for<'a> CheckBytes<LowValidator<'a, Error>> + Deserialize<Self, LowDeserializer<Error>>,
        > + for<'a> Serialize<WireSerializer<'a>>,
{
    const LAYOUT: u64 = layout::combine("array", &[T::LAYOUT, N as u64]);
}

impl Wire for std::time::Duration {
    const LAYOUT: u64 = layout::combine("Duration", &[]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CallError;

    #[test]
    fn values_survive_and_a_small_buffer_is_told() {
        let value = (7u64, vec![String::from("a"), "bob".repeat(40)], Some(3u8));
        let bytes = encode_to_vec(&value, 4096).expect("fits");
        assert_eq!(decode::<(u64, Vec<String>, Option<u8>)>(&bytes), Ok(value.clone()));
        assert_eq!(encode_to_vec(&value, 32).map(|_| ()), Err(CodecError::Full { len: bytes.len() }));
        assert!(matches!(
            decode::<(u64, Vec<String>, Option<u8>)>(&bytes[..16]),
            Err(CodecError::Invalid(_))
        ));
    }

    #[test]
    fn what_does_not_fit_says_how_long_it_is() {
        let value = (vec![7u8; 300], vec![String::from("out of line"), "b".repeat(90)]);
        let mut room = rkyv::util::AlignedVec::<16>::new();
        room.resize(1024, 0);
        let len = encode(&value, &mut room, &mut Arena::new()).expect("fits");
        for short in 0..len {
            assert_eq!(encode(&value, &mut room[..short], &mut Arena::new()), Err(CodecError::Full { len }));
        }
        assert_eq!(encode(&value, &mut room[..len], &mut Arena::new()), Ok(len));
    }

    #[test]
    fn a_value_that_lies_too_deep_is_refused_and_a_saved_one_is_read() {
        let nested = |depth| {
            let error = (1..depth).fold(CallError::NotSent, |inner, _| CallError::Nested(Box::new(inner)));
            encode_to_vec(&error, 16 << 20).expect("fits")
        };
        assert!(decode::<CallError>(&nested(NESTED_MAX)).is_ok());
        let refused = decode::<CallError>(&nested(NESTED_MAX + 1));
        assert!(matches!(&refused, Err(CodecError::Invalid(why)) if why.contains("512 deep")), "{refused:?}");
        assert!(decode_saved::<CallError>(&nested(NESTED_MAX + 1)).is_ok());
    }

    #[test]
    fn what_no_stack_holds_is_refused() {
        let write = || {
            let error = (0..100_000).fold(CallError::NotSent, |inner, _| CallError::Nested(Box::new(inner)));
            let bytes = encode_to_vec(&error, 16 << 20).expect("fits");
            // To drop it takes as much stack.
            std::mem::forget(error);
            bytes
        };
        let bytes = std::thread::scope(|scope| {
            let with_stack = std::thread::Builder::new().stack_size(1 << 30).spawn_scoped(scope, write);
            with_stack.expect("a thread").join().expect("a stack of 1 GiB holds it")
        });
        assert!(decode::<CallError>(&bytes).is_err());
    }

    #[test]
    fn shapes_are_told_apart() {
        assert_ne!(<Vec<u32> as Wire>::LAYOUT, <Vec<u64> as Wire>::LAYOUT);
        assert_ne!(<(u8, u16) as Wire>::LAYOUT, <(u16, u8) as Wire>::LAYOUT);
        assert_ne!(<[u8; 3] as Wire>::LAYOUT, <[u8; 4] as Wire>::LAYOUT);
    }
}
