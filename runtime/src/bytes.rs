//! `Bytes`: a run of bytes that is not copied when it is received, cloned, cut or handed to another object.
//!
//! What came from another node lies in the frame that brought it, which is kept until the last handle is dropped. A core
//! keeps a bounded number of frames so, together with those that [`Lent`](crate::lent::Lent) arguments are read in; beyond
//! it, and where a frame would be kept for a few bytes, they are copied. Nobody can tell but by the time it takes.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Bound, Deref, RangeBounds};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use rkyv::rancor::Fallible;
use rkyv::ser::{Allocator, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Deserialize, Place, Serialize};

use crate::codec::Wire;
use crate::lent::{self, Loan};

/// Bytes that many can have and nobody can change: an argument, a result, a part of a message or of state.
///
/// On the wire and on disk it is a `Vec<u8>`, so that either can take the place of the other. Prefer it for what is long and
/// is passed on as it is: a chunk of a map, a picture, an encoded message of the application's own.
///
/// A clone or a [`slice`](Self::slice) shares the memory of the whole. State that keeps a few bytes of a long message for a long
/// time had better copy them: `Bytes::from(bytes.slice(..8).to_vec())`.
///
/// ```
/// use epicserver_runtime::Bytes;
///
/// let message = Bytes::from(b"move 12 7".to_vec());
/// let target = message.slice(5..);
/// assert_eq!(target, b"12 7"[..]);
/// assert_eq!(target.as_ptr(), message[5..].as_ptr(), "nothing was copied");
/// ```
#[derive(Clone, Default)]
pub struct Bytes {
    memory: Memory,
    start: usize,
    len: usize,
}

#[derive(Clone)]
enum Memory {
    Static(&'static [u8]),
    Own(Arc<Vec<u8>>),
    Framed(Loan),
}

impl Bytes {
    /// Bytes of the program itself.
    #[must_use]
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self { memory: Memory::Static(bytes), start: 0, len: bytes.len() }
    }

    /// The bytes of `range`, in the same memory.
    ///
    /// # Panics
    /// If the range does not lie within the bytes.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&start) => Some(start),
            Bound::Excluded(&before) => before.checked_add(1),
            Bound::Unbounded => Some(0),
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.checked_add(1),
            Bound::Excluded(&end) => Some(end),
            Bound::Unbounded => Some(self.len),
        };
        let (Some(start), Some(end)) = (start, end) else { panic!("a range that has no end") };
        assert!(start <= end && end <= self.len, "no bytes {start}..{end} in {}", self.len);
        Self { memory: self.memory.clone(), start: self.start + start, len: end - start }
    }

    /// What was received: where it lies if that is worth it, else a copy.
    fn received(bytes: &[u8]) -> Self {
        let lent = (bytes.len() >= LENT_LEN_MIN).then(|| lent::borrow(bytes)).flatten();
        match lent {
            Some((loan, start)) => Self { memory: Memory::Framed(loan), start, len: bytes.len() },
            None => Self::from(bytes.to_vec()),
        }
    }
}

/// Nobody finds them half changed, as nobody changes them.
impl RefUnwindSafe for Bytes {}
impl UnwindSafe for Bytes {}

impl Default for Memory {
    fn default() -> Self {
        Self::Static(&[])
    }
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let memory: &[u8] = match &self.memory {
            Memory::Static(bytes) => bytes,
            Memory::Own(bytes) => bytes,
            Memory::Framed(loan) => loan,
        };
        &memory[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Bytes {
    fn borrow(&self) -> &[u8] {
        self
    }
}

/// Takes the vector over, whose memory stays where it is.
impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self { memory: Memory::Own(Arc::new(bytes)), start: 0, len }
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Self {
        Self::from_static(bytes)
    }
}

impl<const LEN: usize> From<&'static [u8; LEN]> for Bytes {
    fn from(bytes: &'static [u8; LEN]) -> Self {
        Self::from_static(bytes)
    }
}

impl From<&'static str> for Bytes {
    fn from(text: &'static str) -> Self {
        Self::from_static(text.as_bytes())
    }
}

/// A copy, unless this is the only handle of a vector, and all of it.
impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        match bytes.memory {
            Memory::Own(own) if own.len() == bytes.len => Arc::unwrap_or_clone(own),
            memory => Bytes { memory, ..bytes }.to_vec(),
        }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Bytes {}

impl PartialEq<[u8]> for Bytes {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bytes {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for Bytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

impl Archive for Bytes {
    type Archived = ArchivedVec<u8>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: Place<ArchivedVec<u8>>) {
        ArchivedVec::resolve_from_len(self.len, resolver, out);
    }
}

impl<S: Fallible + Allocator + Writer + ?Sized> Serialize<S> for Bytes {
    fn serialize(&self, serializer: &mut S) -> Result<VecResolver, S::Error> {
        ArchivedVec::<u8>::serialize_from_slice(self, serializer)
    }
}

impl<D: Fallible + ?Sized> Deserialize<Bytes, D> for ArchivedVec<u8> {
    fn deserialize(&self, _: &mut D) -> Result<Bytes, D::Error> {
        Ok(Bytes::received(self))
    }
}

impl Wire for Bytes {
    const LAYOUT: u64 = <Vec<u8> as Wire>::LAYOUT;
}

/// What is shorter, in bytes, is copied: that takes less time than counting, and a frame of a stream shares its block, of
/// 256 KiB over TCP, with many others, which a few bytes are not to keep.
const LENT_LEN_MIN: usize = 512;

#[cfg(test)]
mod tests {
    use epicserver_transport::Frame;

    use super::*;
    use crate::codec::{decode, encode_to_vec};

    #[test]
    fn they_are_cut_and_cloned_without_a_copy() {
        let whole = Bytes::from((0..100).collect::<Vec<u8>>());
        let part = whole.slice(10..=19).slice(..5).slice(1..);
        assert_eq!(*part, [11, 12, 13, 14]);
        assert_eq!(part.as_ptr(), whole[11..].as_ptr());
        assert_eq!(whole.clone().as_ptr(), whole.as_ptr());
        assert!(whole.slice(100..).is_empty());
        for (start, end) in [(0, 101), (101, 101), (2, 1)] {
            assert!(std::panic::catch_unwind(|| whole.slice(start..end)).is_err(), "{start}..{end}");
        }
    }

    #[test]
    fn a_vector_comes_out_as_it_went_in_unless_others_have_it() {
        let vector = vec![7u8; 100];
        let address = vector.as_ptr();
        let bytes = Bytes::from(vector);
        let other = bytes.clone();
        let copy = Vec::from(bytes);
        assert_ne!(copy.as_ptr(), address);
        let part = other.slice(1..);
        assert_eq!(Vec::from(part), vec![7u8; 99]);
        let last = Vec::from(other);
        assert_eq!(last.as_ptr(), address);
        assert_eq!(Vec::from(Bytes::from("static")), b"static");
    }

    #[test]
    fn what_is_equal_is_alike_wherever_it_lies() {
        let (one, other) = (Bytes::from("map"), Bytes::from("a map".to_owned()).slice(2..));
        assert_eq!(one, other);
        assert_eq!(one, b"map"[..]);
        assert_eq!(one, Bytes::from(b"map"));
        assert!(Bytes::from("a") < Bytes::from("b") && Bytes::default() < one);
        assert_eq!(format!("{other:?} {:?}", Bytes::from("\n\"")), r#"b"map" b"\n\"""#);
        let set = std::collections::BTreeSet::from([one]);
        assert!(set.contains(&b"map"[..]));
    }

    /// A program may use either where another one uses the other.
    #[test]
    fn they_are_sent_and_saved_as_a_vector_is() {
        assert_eq!(Bytes::LAYOUT, <Vec<u8>>::LAYOUT);
        for len in [0, 1, 511, 512, 4096] {
            let vector: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let bytes = encode_to_vec(&(1u64, Bytes::from(vector.clone())), 8192).expect("fits");
            let same = encode_to_vec(&(1u64, vector.clone()), 8192).expect("fits");
            assert_eq!(bytes.as_slice(), same.as_slice());
            assert_eq!(decode::<(u64, Vec<u8>)>(&bytes), Ok((1, vector.clone())));
            assert_eq!(decode::<(u64, Bytes)>(&bytes), Ok((1, Bytes::from(vector))));
        }
    }

    #[test]
    fn what_is_read_from_a_frame_stays_where_it_lies() {
        let sent = (Bytes::from(vec![1; 1000]), vec![Bytes::from(vec![2; 511]), Bytes::from(vec![3; 512])]);
        let frame = Frame::copy_from(&encode_to_vec(&sent, 8192).expect("fits"));
        let read = || decode::<(Bytes, Vec<Bytes>)>(&frame).expect("valid");
        let is_within = |bytes: &Bytes| frame.as_ptr_range().contains(&bytes.as_ptr());
        let received = lent::while_reading(&frame, read);
        assert_eq!(received, sent);
        assert!(is_within(&received.0) && is_within(&received.1[1]));
        assert!(!is_within(&received.1[0]), "the frame is not kept for so little");
        assert!(!is_within(&read().0), "nobody said that a frame is read");
        let other = Frame::copy_from(&[0; 4096]);
        let elsewhere = lent::while_reading(&other, read);
        assert!(elsewhere == sent && !is_within(&elsewhere.0), "it lies in no frame that is read");
        let panics = || lent::while_reading(&frame, || panic!("user code"));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics));
        assert!(panicked.is_err() && !is_within(&read().0), "that frame is read no more");
        drop(frame);
        assert_eq!(received, sent);
    }
}
