//! `Lent`: an argument that a method reads in place, as `&Archived<T>`, instead of taking it apart.
//!
//! The caller passes a `T`. If the call leaves the node, the callee's side finds the archive of that `T` in the frame it
//! received: [`Lent::from_archived`] keeps the frame and remembers where. If the call stays in the node there is no frame:
//! [`Lent::archive`] writes the `T` once, into a buffer that the core uses again.
//!
//! It is not for values that are kept: what is lent holds up a receive buffer. A core bounds how many of its frames are kept so,
//! each by a `Loan`.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;

use epicserver_transport::{FRAME_ALIGN, Frame};
use rkyv::rancor::{Fallible, Source};
use rkyv::ser::allocator::Arena;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Place, Serialize};

use crate::codec::{self, CodecError, Wire};

/// An argument on its way to a method that reads it in place.
///
/// Its archived form is that of `T` itself, so that on the wire nobody can tell the difference.
pub struct Lent<T> {
    kept: Kept<T>,
}

enum Kept<T> {
    Owned(T),
    Framed(Framed<T>),
}

/// A checked place in a received frame.
struct Framed<T> {
    loan: Loan,
    offset: usize,
    /// Made only if the archive must be written once more, for a call that is passed on to another node.
    restored: OnceCell<T>,
}

impl<T: Wire> Lent<T> {
    /// What the caller passes.
    pub fn owned(value: T) -> Self {
        const {
            assert!(
                align_of::<T::Archived>() <= FRAME_ALIGN,
                "an argument that is read in place is aligned to more than 16 bytes, as no frame is"
            );
        }
        Self { kept: Kept::Owned(value) }
    }

    /// A validated archive that lies in `frame`.
    ///
    /// # Errors
    /// [`CodecError::Invalid`] if it does not lie in the frame.
    pub fn from_archived(archived: &T::Archived, frame: &Frame) -> Result<Self, CodecError> {
        let start = frame.as_ptr() as usize;
        let offset = (std::ptr::from_ref(archived) as usize).checked_sub(start);
        let fits = |offset: &usize| {
            offset.checked_add(size_of::<T::Archived>()).is_some_and(|end| end <= frame.len())
        };
        match offset.filter(fits) {
            Some(offset) => Ok(Self {
                kept: Kept::Framed(Framed { loan: lend_or_copy(frame), offset, restored: OnceCell::new() }),
            }),
            None => Err(CodecError::Invalid(String::from(
                "an argument that is read in place lies outside of its frame",
            ))),
        }
    }

    /// The archive, ready to be read. It is written here unless it came in a frame.
    ///
    /// # Panics
    /// If the value cannot be archived: it is larger than 2 GiB, an archiver of the user's own refuses it, or a part of it is
    /// aligned to more than 16 bytes.
    pub fn archive(self) -> LentArchive<T> {
        match self.kept {
            Kept::Owned(value) => {
                LentArchive { bytes: Archived::Own(write(&value)), offset: None, value: PhantomData }
            }
            Kept::Framed(Framed { loan, offset, .. }) => {
                LentArchive { bytes: Archived::Framed(loan), offset: Some(offset), value: PhantomData }
            }
        }
    }
}

/// An archive that a running method reads.
pub struct LentArchive<T> {
    bytes: Archived,
    /// Where its root lies; `None`: at the end.
    offset: Option<usize>,
    value: PhantomData<fn() -> T>,
}

enum Archived {
    Framed(Loan),
    Own(AlignedVec),
}

impl<T: Wire> LentArchive<T> {
    /// The archive in place.
    pub fn get(&self) -> &T::Archived {
        let bytes: &[u8] = match &self.bytes {
            Archived::Framed(loan) => loan,
            Archived::Own(bytes) => bytes,
        };
        let offset = self.offset.unwrap_or_else(|| bytes.len() - size_of::<T::Archived>());
        debug_assert!(offset + size_of::<T::Archived>() <= bytes.len(), "checked where it was made");
        // SAFETY: the archive was either validated in these very bytes before `from_archived` found that it lies in
        // them, or written to them by `write` as an archive of `T`, whose root is the last thing written. Frames do
        // not change while a handle to them lives, and `bytes` is private and never written again before it is dropped.
        unsafe { &*bytes.as_ptr().add(offset).cast::<T::Archived>() }
    }
}

impl<T> Drop for LentArchive<T> {
    fn drop(&mut self) {
        if let Archived::Own(bytes) = &mut self.bytes {
            give_back(std::mem::take(bytes));
        }
    }
}

/// A received frame that is kept.
#[derive(Clone)]
pub(crate) struct Loan {
    frame: Frame,
    /// Counts for the core that has lent it; `None`: nobody has.
    _count: Option<Arc<()>>,
}

impl Loan {
    /// A frame that no core has received.
    fn uncounted(frame: Frame) -> Self {
        Self { frame, _count: None }
    }
}

impl Deref for Loan {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.frame
    }
}

/// How many of a core's frames are kept. Loans can end on any thread.
#[derive(Default)]
pub(crate) struct Loans {
    /// One handle is here, and one in each loan.
    counted: Arc<()>,
}

impl Loans {
    /// A loan, while there are fewer than so many.
    pub(crate) fn lend(&self, frame: &Frame, max: usize) -> Option<Loan> {
        (self.now() < max).then(|| Loan { frame: frame.clone(), _count: Some(self.counted.clone()) })
    }

    /// How many there are.
    pub(crate) fn now(&self) -> usize {
        Arc::strong_count(&self.counted) - 1
    }
}

/// The frame itself, or `None` where the core keeps enough of them already.
fn lend(frame: &Frame) -> Option<Loan> {
    let uncounted = || Some(Loan::uncounted(frame.clone()));
    crate::current::with(|core| core.lend(frame)).unwrap_or_else(uncounted)
}

fn lend_or_copy(frame: &Frame) -> Loan {
    lend(frame).unwrap_or_else(|| Loan::uncounted(Frame::copy_from(frame)))
}

thread_local! {
    /// The frame that values are made of.
    static READING: Cell<*const Frame> = const { Cell::new(ptr::null()) };
}

/// Has `read` make values of what lies in `frame`, of which they can keep parts instead of copying them.
#[inline]
pub(crate) fn while_reading<R>(frame: &Frame, read: impl FnOnce() -> R) -> R {
    struct Before(*const Frame);
    impl Drop for Before {
        fn drop(&mut self) {
            READING.set(self.0);
        }
    }
    let _before = Before(READING.replace(frame));
    read()
}

/// The frame that is being read and where these bytes lie in it, if they do and it may be kept.
pub(crate) fn borrow(bytes: &[u8]) -> Option<(Loan, usize)> {
    // SAFETY: `while_reading` has a reference to the frame for as long as the pointer is there, on this very thread.
    let frame = unsafe { READING.get().as_ref() }?;
    let start = bytes.as_ptr().addr().checked_sub(frame.as_ptr().addr())?;
    let end = start.checked_add(bytes.len())?;
    if end > frame.len() {
        return None;
    }
    lend(frame).map(|loan| (loan, start))
}

/// Writes `value` into a recycled buffer, which grows until it is large enough: its owned form was in memory before.
fn write<T: Wire>(value: &T) -> AlignedVec {
    let (mut bytes, mut scratch) = take_buffer();
    let mut room = bytes.capacity().max(BUFFER_LEN_MIN);
    loop {
        bytes.resize(room, 0);
        match codec::encode(value, &mut bytes, &mut scratch) {
            Ok(written) => {
                bytes.resize(written, 0);
                // Parts that lie out of line may want another alignment than the buffer has: refused here as in a frame.
                if let Err(error) = codec::access::<T>(&bytes) {
                    panic!("an argument cannot be read in place: {error}");
                }
                SPARE.with_borrow_mut(|spare| spare.scratch = Some(scratch));
                return bytes;
            }
            Err(CodecError::Full { len }) if len <= ROOM_MAX => room = len,
            Err(error) => panic!("an argument that is read in place cannot be archived: {error}"),
        }
    }
}

/// What a thread keeps for its next archive.
#[derive(Default)]
struct Spare {
    buffers: Vec<AlignedVec>,
    scratch: Option<Arena>,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

fn take_buffer() -> (AlignedVec, Arena) {
    SPARE.with_borrow_mut(|spare| {
        (spare.buffers.pop().unwrap_or_default(), spare.scratch.take().unwrap_or_default())
    })
}

fn give_back(bytes: AlignedVec) {
    // A thread that is ending keeps nothing.
    let _ = SPARE.try_with(|spare| {
        let buffers = &mut spare.borrow_mut().buffers;
        if buffers.len() < SPARE_BUFFERS_MAX && bytes.capacity() <= SPARE_BUFFER_LEN_MAX {
            buffers.push(bytes);
        }
    });
}

impl<T: Archive> Archive for Lent<T>
where
    T: Wire,
{
    type Archived = T::Archived;
    type Resolver = T::Resolver;
    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        self.value().expect("`serialize` came first and made the value").resolve(resolver, out);
    }
}

impl<S: Fallible<Error: Source> + ?Sized, T: Wire + Serialize<S>> Serialize<S> for Lent<T> {
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        self.value().map_err(S::Error::new)?.serialize(serializer)
    }
}

impl<T: Wire> Lent<T> {
    fn value(&self) -> Result<&T, CodecError> {
        match &self.kept {
            Kept::Owned(value) => Ok(value),
            Kept::Framed(framed) => framed.value(),
        }
    }
}

impl<T: Wire> Framed<T> {
    fn value(&self) -> Result<&T, CodecError> {
        if let Some(value) = self.restored.get() {
            return Ok(value);
        }
        let bytes = Archived::Framed(self.loan.clone());
        let archive = LentArchive::<T> { bytes, offset: Some(self.offset), value: PhantomData };
        let value = codec::restore(archive.get())?;
        Ok(self.restored.get_or_init(|| value))
    }
}

impl<T> Debug for Lent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kept {
            Kept::Owned(_) => "Lent(owned)",
            Kept::Framed(_) => "Lent(in a frame)",
        })
    }
}

impl<T> Debug for LentArchive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LentArchive")
    }
}

/// The first size of a buffer, in bytes.
const BUFFER_LEN_MIN: usize = 256;
/// Beyond this, 32-bit relative pointers do not reach.
const ROOM_MAX: usize = 1 << 31;
/// How many buffers a thread keeps.
const SPARE_BUFFERS_MAX: usize = 16;
/// The largest buffer that a thread keeps, in bytes.
const SPARE_BUFFER_LEN_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{access, encode_to_vec};

    type Rows = Vec<(u64, String)>;

    fn rows(count: u64) -> Rows {
        (0..count).map(|row| (row, format!("row {row}, long enough to lie out of line"))).collect()
    }

    #[test]
    fn an_owned_value_is_archived_and_its_buffer_used_again() {
        let archive = Lent::owned(rows(100)).archive();
        assert_eq!(archive.get()[99].1, "row 99, long enough to lie out of line");
        let Archived::Own(bytes) = &archive.bytes else { panic!("no frame was involved") };
        let address = bytes.as_ptr();
        drop(archive);
        let again = Lent::owned(rows(2)).archive();
        let Archived::Own(bytes) = &again.bytes else { panic!("no frame was involved") };
        assert_eq!(bytes.as_ptr(), address);
        assert_eq!(again.get().len(), 2);
    }

    #[test]
    fn an_empty_archive_is_read() {
        Lent::owned(()).archive().get();
        assert!(Lent::owned(Rows::new()).archive().get().is_empty());
    }

    #[test]
    fn a_received_value_is_read_where_it_lies_and_can_be_sent_on() {
        let bytes = encode_to_vec(&rows(3), 4096).expect("fits");
        let frame = Frame::copy_from(&bytes);
        let archived = access::<Rows>(&frame).expect("valid");
        let lent = Lent::<Rows>::from_archived(archived, &frame).expect("it lies in the frame");
        assert_eq!(encode_to_vec(&lent, 4096).expect("fits").as_slice(), bytes.as_slice());
        let archive = lent.archive();
        assert!(std::ptr::eq(archive.get(), archived));
        drop(frame);
        assert_eq!(archive.get()[2].1, "row 2, long enough to lie out of line");
    }

    #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    #[rkyv(archived = ArchivedWide, attr(repr(C, align(64))))]
    struct Wide(u8);

    impl Wire for Vec<Wide> {
        const LAYOUT: u64 = 1;
    }

    #[test]
    fn parts_that_a_frame_cannot_align_are_not_read_in_place() {
        // The buffer of the thread is the same for each, so that one of these would lie right by chance.
        for len in 1..4 {
            let archived = std::panic::catch_unwind(|| {
                let keeps = vec![0_u8; 16 * len];
                let read = Lent::owned((0..len as u8).map(Wide).collect::<Vec<_>>()).archive();
                drop(keeps);
                read.get().as_ptr().addr()
            });
            assert!(archived.is_err() || archived.is_ok_and(|at| at.is_multiple_of(64)));
        }
    }

    #[test]
    fn what_lies_outside_of_the_frame_is_refused() {
        let bytes = encode_to_vec(&rows(3), 4096).expect("fits");
        let archived = access::<Rows>(&bytes).expect("valid");
        let frame = Frame::copy_from(&bytes);
        assert!(matches!(Lent::<Rows>::from_archived(archived, &frame), Err(CodecError::Invalid(_))));
    }
}
