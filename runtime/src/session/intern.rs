//! Short handles for keys that a link sees again and again. The table is the sender's.
//!
//! ```text
//!   core: Handles       gives each key a number, for good; a request carries number and key until one was answered, then
//!                       the number alone
//!   session: Sent       knows the key of each number that passed, and whether the link there is now has seen both: if
//!                       not, it puts the key back into the frame
//!   peer's session: Bound   number to key; void with the link
//! ```
//! So a core need not know which link there is, and a handle never means another object: numbers are not given out again,
//! and what a link has not seen is sent in full before it is sent short. A number that the peer never bound ends the link.
//!
//! Nothing here looks at a link. Start with [`Handles::handle`].

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use epicserver_storage::NodeId;
use epicserver_transport::{Frame, FrameHeader};
use foldhash::fast::FixedState;

use crate::key::{KeyKind, KeyView};
use crate::wire::assembly::assemble;
use crate::wire::extension::{Extension, TargetKey};

/// The handles that one core gives to what it calls at one peer.
#[derive(Debug)]
pub struct Handles {
    entries: Vec<Entry>,
    /// Hash of a target to the newest entry with that hash.
    newest: HashToIndex,
    core: u32,
    cores: u32,
}

/// A handle for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// The number for the header; never zero.
    pub number: u32,
    /// Whether the links know it: if not, the frame must carry the full key too.
    pub is_known: bool,
}

impl Handles {
    /// An empty table for core `core` of `cores`: the numbers of a link are dealt out among the cores.
    ///
    /// # Panics
    /// If there is no such core.
    pub fn for_core(core: u16, cores: u16) -> Self {
        assert!(core < cores, "core {core} of {cores}");
        Self {
            entries: Vec::new(),
            newest: HashToIndex::default(),
            core: u32::from(core),
            cores: u32::from(cores),
        }
    }

    /// The handle for `target`, a new one if it has none; `None` if this core's part of [`HANDLES_MAX`] is given out: then
    /// the frame carries the full key.
    pub fn handle(&mut self, target: TargetKey<'_>) -> Option<Handle> {
        let index = self.index_of(target)?;
        let is_known = self.entries[index as usize].is_known;
        Some(Handle { number: self.number(index), is_known })
    }

    /// The place of `target` in the table, a new one if it has none; `None` as with [`handle`](Self::handle). Places keep
    /// what is in them.
    pub(crate) fn index_of(&mut self, target: TargetKey<'_>) -> Option<u32> {
        let hash = hash_of(&target);
        let newest = self.newest.find(hash);
        let mut next = newest;
        while let Some(index) = next {
            let entry = &self.entries[index as usize];
            if entry.target.borrow() == target {
                return Some(index);
            }
            next = entry.older;
        }
        let index = self.entries.len() as u32;
        if self.number(index) as usize > HANDLES_MAX {
            return None;
        }
        let entry = Entry { target: target.into(), is_known: false, older: newest, way: None };
        self.entries.push(entry);
        self.newest.put(hash, index);
        Some(index)
    }

    /// The name in a place of the table.
    #[inline]
    pub(crate) fn target(&self, index: u32) -> Option<&Target> {
        self.entries.get(index as usize).map(|entry| &entry.target)
    }

    /// The handle of what is in a place of the table, and the way to it.
    #[inline]
    pub(crate) fn way(&self, index: u32) -> Option<(Handle, &Way)> {
        let entry = self.entries.get(index as usize)?;
        Some((Handle { number: self.number(index), is_known: entry.is_known }, entry.way.as_ref()?))
    }

    /// Notes the way to what is in a place of the table.
    pub(crate) fn set_way(&mut self, index: u32, way: Way) {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.way = Some(way);
        }
    }

    /// Takes note that a request with this handle and its full key was answered. An unknown handle is ignored.
    pub fn mark_known(&mut self, number: u32) {
        let index = number.checked_sub(1).map(|place| place / self.cores);
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index as usize)) {
            entry.is_known = true;
        }
    }

    /// The links have forgotten every handle: each is to be sent with its full key again, under its old number.
    pub fn forget_known(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.is_known = false);
    }

    fn number(&self, index: u32) -> u32 {
        index * self.cores + self.core + 1
    }
}

/// The handles that passed through a session, and what they stand for.
#[derive(Debug)]
pub(crate) struct SentHandles {
    targets: Vec<Option<Target>>,
    /// The round in which each of them was sent with its key; 0: none. Apart, as it is looked at for every frame.
    bound_in: Vec<u64>,
    /// Grows when the peer forgets all handles.
    round: u64,
}

impl Default for SentHandles {
    fn default() -> Self {
        Self { targets: Vec::new(), bound_in: Vec::new(), round: 1 }
    }
}

impl SentHandles {
    /// Whether a frame with a handle may be queued as it is: it has no key, and the peer will know the handle by then.
    #[inline]
    pub(crate) fn fits(&self, frame: &Frame, number: u32) -> bool {
        index_of(number).is_some_and(|index| self.is_bound(index))
            && !FrameHeader::ext_bytes(frame).is_some_and(Extension::may_have_key)
    }

    #[inline]
    fn is_bound(&self, index: usize) -> bool {
        self.bound_in.get(index) == Some(&self.round)
    }

    /// Makes a frame with a handle fit to be queued now: with its full key unless the peer will know the handle by then.
    ///
    /// # Errors
    /// If the handle is out of range, was never seen with a key, or stands for another one.
    pub(crate) fn fit(&mut self, frame: Frame, number: u32) -> Result<Frame, (InternError, Frame)> {
        let Some(index) = index_of(number) else { return Err((InternError::Range(number), frame)) };
        let bytes = FrameHeader::ext_bytes(&frame).unwrap_or_default();
        let known = self.targets.get(index).and_then(Option::as_ref);
        if !Extension::may_have_key(bytes) && self.is_bound(index) {
            return Ok(frame);
        }
        let Ok(extension) = Extension::parse(bytes) else {
            return Err((InternError::Unbound(number), frame));
        };
        match (extension.key, known) {
            (Some(key), Some(known)) if known.borrow() != key => Err((InternError::Bound(number), frame)),
            (Some(_), Some(_)) => Ok(frame),
            (Some(key), None) => {
                if index >= self.targets.len() {
                    self.targets.resize_with(index + 1, || None);
                    self.bound_in.resize(index + 1, 0);
                }
                self.targets[index] = Some(Target::from(key));
                Ok(frame)
            }
            (None, Some(known)) => Ok(spelled_out(&frame, known, number)),
            (None, None) => Err((InternError::Unbound(number), frame)),
        }
    }

    /// Takes note that a frame with this handle was queued, behind one with its full key or with the key itself.
    pub(crate) fn mark_bound(&mut self, number: u32) {
        if let Some(bound_in) = index_of(number).and_then(|index| self.bound_in.get_mut(index)) {
            *bound_in = self.round;
        }
    }

    /// The peer forgets all handles with its link, or never gets the frames that were to bind them.
    pub(crate) fn unbind(&mut self) {
        self.round += 1;
    }

    /// The frame with its full key in place of the handle; `None` if it has no handle.
    ///
    /// # Panics
    /// If the frame has a handle that never passed: it would reach another object.
    pub(crate) fn with_full_key(&self, frame: &Frame) -> Option<Frame> {
        let number = FrameHeader::parse(frame).expect("checked when it was queued").handle.get();
        if number == 0 {
            return None;
        }
        let sent = index_of(number).and_then(|index| self.targets.get(index)?.as_ref());
        Some(spelled_out(frame, sent.expect("checked when it was queued"), 0))
    }
}

/// A copy of the frame with this key and this handle.
fn spelled_out(frame: &Frame, target: &Target, number: u32) -> Frame {
    let mut header = *FrameHeader::parse(frame).expect("checked when it was queued");
    let bytes = FrameHeader::ext_bytes(frame).expect("checked when it was queued");
    let mut extension = Extension::parse(bytes).expect("written by this process");
    extension.key = Some(target.borrow());
    header.handle = number.into();
    let payload = FrameHeader::payload_bytes(frame).expect("checked when it was queued");
    assemble(None, header, &extension, payload).expect("key and path were checked before")
}

/// The handles that the peer gave out on a link.
#[derive(Debug, Default)]
pub(crate) struct BoundHandles {
    targets: Vec<Option<Arc<Target>>>,
}

impl BoundHandles {
    /// What a frame with this handle is for, where the frame itself does not say it; with a key it binds the handle.
    ///
    /// # Errors
    /// If the handle is zero or beyond [`HANDLES_MAX`], names another target, or none: the link is to end.
    pub(crate) fn take(
        &mut self,
        number: u32,
        key: Option<TargetKey<'_>>,
    ) -> Result<Option<Arc<Target>>, InternError> {
        let index = index_of(number).ok_or(InternError::Range(number))?;
        let Some(key) = key else {
            let bound = self.targets.get(index).and_then(Option::as_ref);
            return bound.cloned().map(Some).ok_or(InternError::Unbound(number));
        };
        if index >= self.targets.len() {
            self.targets.resize_with(index + 1, || None);
        }
        match &self.targets[index] {
            Some(bound) if bound.borrow() != key => Err(InternError::Bound(number)),
            Some(_) => Ok(None),
            None => {
                self.targets[index] = Some(Arc::new(key.into()));
                Ok(None)
            }
        }
    }

    /// Forgets all handles.
    pub(crate) fn clear(&mut self) {
        self.targets.clear();
    }
}

fn index_of(number: u32) -> Option<usize> {
    (number as usize).checked_sub(1).filter(|index| *index < HANDLES_MAX)
}

/// How the rules of handles were broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InternError {
    /// Outside the table.
    #[error("handle {0} is outside the table")]
    Range(u32),
    /// Bound to another target already.
    #[error("handle {0} is bound to another object")]
    Bound(u32),
    /// Bound to nothing.
    #[error("handle {0} stands for no object")]
    Unbound(u32),
}

#[derive(Debug)]
struct Entry {
    target: Target,
    is_known: bool,
    /// The next entry with the same hash.
    older: Option<u32>,
    way: Option<Way>,
}

/// How a core reaches an object, by one of its views.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// How many views the core had seen.
    pub(crate) views: u64,
    pub(crate) node: NodeId,
    pub(crate) epoch: u64,
    pub(crate) partition: u16,
    /// The core of that node.
    pub(crate) core: u8,
}

/// The full name of an object, kept.
#[derive(Debug)]
pub struct Target {
    entity: u64,
    kind: KeyKind,
    bytes: KeyBytes,
    /// What the core that serves the object knows of it, for the next call. Nothing is believed that was not checked.
    pub(crate) known: KnownTarget,
}

/// Most keys are short: those lie where they are compared.
#[derive(Debug)]
enum KeyBytes {
    Short(u8, [u8; KEY_LEN_SHORT]),
    Long(Box<[u8]>),
}

/// Where a core found the object of a [`Target`]. Zero: it has not looked.
#[derive(Debug, Default)]
pub(crate) struct KnownTarget {
    /// One more than the partition; above it the number of the entity in the core's table.
    place: AtomicU32,
    /// One more than where the object was in its table; above it, which use of that place it is.
    object: AtomicU64,
}

impl KnownTarget {
    /// The number of the entity in the core's table, and the partition.
    #[inline]
    pub(crate) fn place(&self) -> Option<(u16, u16)> {
        let word = self.place.load(Ordering::Relaxed);
        Some(((word >> 16) as u16, (word as u16).checked_sub(1)?))
    }

    pub(crate) fn set_place(&self, entity: usize, partition: u16) {
        if let Ok(entity) = u16::try_from(entity) {
            self.place.store(u32::from(entity) << 16 | u32::from(partition + 1), Ordering::Relaxed);
        }
    }

    /// The place of the object in its table, and which use of that.
    #[inline]
    pub(crate) fn object(&self) -> Option<(u32, u32)> {
        let word = self.object.load(Ordering::Relaxed);
        Some(((word as u32).checked_sub(1)?, (word >> 32) as u32))
    }

    pub(crate) fn set_object(&self, index: u32, generation: u32) {
        self.object.store(u64::from(generation) << 32 | u64::from(index + 1), Ordering::Relaxed);
    }
}

impl Target {
    /// The name, as an extension spells it.
    #[inline]
    pub fn borrow(&self) -> TargetKey<'_> {
        let bytes = match &self.bytes {
            KeyBytes::Short(len, bytes) => &bytes[..usize::from(*len)],
            KeyBytes::Long(bytes) => bytes,
        };
        TargetKey { entity: self.entity, key: KeyView { kind: self.kind, bytes } }
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.borrow() == other.borrow()
    }
}

impl Eq for Target {}

impl From<TargetKey<'_>> for Target {
    fn from(target: TargetKey<'_>) -> Self {
        let mut short = [0; KEY_LEN_SHORT];
        let bytes = match short.get_mut(..target.key.bytes.len()) {
            Some(place) => {
                place.copy_from_slice(target.key.bytes);
                KeyBytes::Short(target.key.bytes.len() as u8, short)
            }
            None => KeyBytes::Long(target.key.bytes.into()),
        };
        Self { entity: target.entity, kind: target.key.kind, bytes, known: KnownTarget::default() }
    }
}

/// A map whose order nobody sees.
#[derive(Debug, Default)]
#[expect(clippy::disallowed_types, reason = "the hasher is fixed, and nothing iterates")]
struct HashToIndex(std::collections::HashMap<u64, u32, FixedState>);

impl HashToIndex {
    fn find(&self, hash: u64) -> Option<u32> {
        self.0.get(&hash).copied()
    }

    fn put(&mut self, hash: u64, index: u32) {
        self.0.insert(hash, index);
    }
}

fn hash_of(target: &TargetKey<'_>) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u64(target.entity ^ target.key.kind as u64);
    match <[u8; 8]>::try_from(target.key.bytes) {
        Ok(number) => hasher.write_u64(u64::from_le_bytes(number)),
        Err(_) => hasher.write(target.key.bytes),
    }
    hasher.finish()
}

/// Longest key that lies in its [`Target`].
const KEY_LEN_SHORT: usize = 22;

/// Handles a link has, over all cores.
pub const HANDLES_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests;
