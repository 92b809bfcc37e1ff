//! Short handles for keys that a link sees again and again. The table is the sender's; both halves are void with the link.
//!
//! The first request to a key carries the handle and the full key; once it is queued, later ones carry the handle alone, and
//! arrive behind it because calls keep their order. Nothing here looks at a link. Start with [`InternSender::handle`].

use std::hash::{BuildHasher, Hash, Hasher};

use epicserver_transport::{Frame, FrameHeader};
use foldhash::fast::FixedState;

use crate::key::{KeyKind, KeyView};
use crate::wire::assembly::assemble;
use crate::wire::extension::{Extension, TargetKey};

/// The handles that this end gave out on a link.
#[derive(Debug, Default)]
pub struct InternSender {
    entries: Vec<Entry>,
    /// Hash of a target to the newest entry with that hash.
    newest: HashToIndex,
}

/// A handle for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// The number for the header; never zero.
    pub number: u32,
    /// Whether the peer will know it: if not, the frame must carry the full key too.
    pub is_bound: bool,
}

impl InternSender {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The handle for `target`, a new one if it has none; `None` if all [`HANDLES_MAX`] are given out: then the frame carries
    /// the full key.
    pub fn handle(&mut self, target: TargetKey<'_>) -> Option<Handle> {
        let hash = hash_of(&target);
        let newest = self.newest.find(hash);
        let mut next = newest;
        while let Some(index) = next {
            let entry = &self.entries[index as usize];
            if entry.target.borrow() == target {
                return Some(Handle { number: index + 1, is_bound: entry.is_bound });
            }
            next = entry.older;
        }
        if self.entries.len() >= HANDLES_MAX {
            return None;
        }
        let index = self.entries.len() as u32;
        self.entries.push(Entry { target: OwnedTarget::from(target), is_bound: false, older: newest });
        self.newest.put(hash, index);
        Some(Handle { number: index + 1, is_bound: false })
    }

    /// Takes note that a frame with this handle and its full key was queued. An unknown handle is ignored.
    pub fn mark_bound(&mut self, number: u32) {
        if let Some(entry) = self.entry_mut(number) {
            entry.is_bound = true;
        }
    }

    /// Whether the handle was given out on this link.
    pub(crate) fn contains(&self, number: u32) -> bool {
        (1..=self.entries.len()).contains(&(number as usize))
    }

    /// The frame with its full key in place of the handle; `None` if it has no handle.
    ///
    /// # Panics
    /// If the frame has a handle and was not made for this link: it would reach another object.
    pub(crate) fn with_full_key(&self, frame: &Frame) -> Option<Frame> {
        let mut header = *FrameHeader::parse(frame).expect("checked when it was queued");
        let number = header.handle.get();
        if number == 0 {
            return None;
        }
        let bytes = FrameHeader::ext_bytes(frame).expect("checked when it was queued");
        let mut extension = Extension::parse(bytes).expect("written by this process");
        let entry = self.entries.get(number as usize - 1).expect("a handle of this link");
        extension.key = Some(entry.target.borrow());
        header.handle = 0.into();
        let payload = FrameHeader::payload_bytes(frame).expect("checked when it was queued");
        Some(assemble(None, header, &extension, payload).expect("key and path were checked before"))
    }

    /// Takes all handles back.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.newest.clear();
    }

    fn entry_mut(&mut self, number: u32) -> Option<&mut Entry> {
        self.entries.get_mut((number as usize).checked_sub(1)?)
    }
}

/// The handles that the peer gave out on a link.
#[derive(Debug, Default)]
pub struct InternReceiver {
    targets: Vec<Option<OwnedTarget>>,
}

impl InternReceiver {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a handle that came with its full key. To bind it again to the same key does nothing.
    ///
    /// # Errors
    /// If the handle is zero or beyond [`HANDLES_MAX`], or names another target: the link is to end.
    pub fn bind(&mut self, number: u32, target: TargetKey<'_>) -> Result<(), InternError> {
        let index = (number as usize).checked_sub(1).filter(|index| *index < HANDLES_MAX);
        let index = index.ok_or(InternError::Range(number))?;
        if index >= self.targets.len() {
            self.targets.resize_with(index + 1, || None);
        }
        match &self.targets[index] {
            Some(bound) if bound.borrow() != target => Err(InternError::Bound(number)),
            Some(_) => Ok(()),
            None => {
                self.targets[index] = Some(OwnedTarget::from(target));
                Ok(())
            }
        }
    }

    /// What a handle stands for; `None` if the peer never bound it: the link is to end.
    pub fn target(&self, number: u32) -> Option<TargetKey<'_>> {
        let bound = self.targets.get((number as usize).checked_sub(1)?)?;
        bound.as_ref().map(OwnedTarget::borrow)
    }

    /// Forgets all handles.
    pub(crate) fn clear(&mut self) {
        self.targets.clear();
    }
}

/// How a peer broke the rules of handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InternError {
    /// Outside the table.
    #[error("handle {0} is outside the table")]
    Range(u32),
    /// Bound to another target already.
    #[error("handle {0} is bound to another object")]
    Bound(u32),
}

#[derive(Debug)]
struct Entry {
    target: OwnedTarget,
    is_bound: bool,
    /// The next entry with the same hash.
    older: Option<u32>,
}

#[derive(Debug)]
struct OwnedTarget {
    entity: u64,
    kind: KeyKind,
    bytes: Box<[u8]>,
}

impl OwnedTarget {
    fn borrow(&self) -> TargetKey<'_> {
        TargetKey { entity: self.entity, key: KeyView { kind: self.kind, bytes: &self.bytes } }
    }
}

impl From<TargetKey<'_>> for OwnedTarget {
    fn from(target: TargetKey<'_>) -> Self {
        Self { entity: target.entity, kind: target.key.kind, bytes: target.key.bytes.into() }
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

    fn clear(&mut self) {
        self.0.clear();
    }
}

fn hash_of(target: &TargetKey<'_>) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    target.entity.hash(&mut hasher);
    target.key.kind.hash(&mut hasher);
    target.key.bytes.hash(&mut hasher);
    hasher.finish()
}

/// Handles a link has.
pub const HANDLES_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests;
