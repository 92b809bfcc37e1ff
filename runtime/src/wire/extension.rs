//! The extension block: what a frame says beyond its fixed header.
//!
//! It is a writer and a parser of one small block of bytes. It is not the frame header, and it gives no meaning to what
//! it carries. Start with [`Extension`].
//!
//! ```text
//! u16 presence │ fields in the order of their bits, little-endian, unaligned        │ zeroes up to 16 n
//!         bit 0  origin   node u64, incarnation u32, core u8, slot u32, generation u32             21 bytes
//!         bit 1  budget   remaining microseconds, u32                                               4 bytes
//!         bit 2  view     view version and partition epoch, each a LEB128 varint               2 to 20 bytes
//!         bit 3  path     n u8, n x (object 16, call 16, hold u8, method u32, partition u16) 1 + 39 n bytes
//!         bit 4  trace    trace id, u128; only if sampled                                          16 bytes
//!         bit 5  key      entity u64, kind u8, then u64 | u128 | length u16 and bytes   17 | 25 | 11 + n bytes
//!         bit 6  hops     u8, not zero                                                              1 byte
//! ```
//!
//! One value has one spelling: fields with their default value are absent, varints are minimal, the padding is zero and
//! shorter than 16. A block without fields is zero bytes long. An ordinary request (budget, view, a `u64` key) takes
//! 23 bytes and the two varints: it stays within 32 while they take 9 together, such as view versions below 2^28
//! with epochs below 2^35.

use crate::key::{KEY_LENGTH_MAX as KEY_LEN_MAX, KeyKind, KeyView};
use zerocopy::little_endian::{U16, U32, U128};
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes, Unaligned};

/// What a frame says beyond its header. Borrows path and key from the frame (or from whoever writes it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Where replies go; absent: the link's peer, with slot and generation of the header.
    pub origin: Option<Origin>,
    /// What is left of the caller's budget, in microseconds. Zero is expired; see [`budget_us_from_ns`].
    pub budget_us: Option<u32>,
    /// What the sender believes about the placement of the target.
    pub view: Option<ViewStamp>,
    /// The calls above this one, the root first; at most [`PATH_LEN_MAX`].
    pub path: &'a [PathEntry],
    /// The trace this call is sampled for.
    pub trace: Option<u128>,
    /// The full name of the target. With a handle in the header it also binds that handle for this link.
    pub key: Option<TargetKey<'a>>,
    /// How often the frame was forwarded.
    pub hops: u8,
}

/// The activation slot that waits for the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Random id of the node.
    pub node: u64,
    /// Which life of that node.
    pub incarnation: u32,
    /// The core of that node that made the call.
    pub core: u8,
    /// Index of the call record on that core.
    pub slot: u32,
    /// Generation of the call record: an older one is somebody else's.
    pub generation: u32,
}

/// The view a frame was routed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewStamp {
    /// Version of the sender's view.
    pub version: u64,
    /// Epoch of the target's partition in that view.
    pub epoch: u64,
}

/// The full name of a target object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetKey<'a> {
    /// Hash of the entity's name.
    pub entity: u64,
    /// The object's key.
    pub key: KeyView<'a>,
}

/// One ancestor of a call. The layout is the wire's, so that a path is read where the frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PathEntry {
    /// Hash over entity name and key of the ancestor.
    pub object: U128,
    /// The id of the call that runs on it.
    pub call: U128,
    /// How that call holds the object.
    pub hold: Hold,
    /// Id of its method.
    pub method: U32,
    /// The partition of the object: calls below it run while that moves.
    pub partition: U16,
}

/// How a running call holds its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(u8)]
pub enum Hold {
    /// `&self`: interleaves with other shared calls.
    Shared = 0,
    /// `&mut self`: excludes every other call.
    Exclusive = 1,
    /// `#[method(serial)]`: shared, but excludes calls of the same method.
    Serial = 2,
}

impl<'a> Extension<'a> {
    /// Reads the block that takes exactly `bytes`, padding included (the header's extension length).
    ///
    /// # Errors
    /// Anything but what [`Extension::write`] writes is refused, and the error says what was wrong with it.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Extension<'a>, ExtensionError> {
        match Self::parse_plain(bytes).or_else(|| Self::parse_child(bytes)) {
            Some(extension) => Ok(extension),
            None => Self::parse_any(bytes),
        }
    }

    /// What most requests have, in one unit: budget and view, both numbers of it in a byte.
    #[inline]
    fn parse_plain(bytes: &'a [u8]) -> Option<Extension<'a>> {
        let block = u128::from_le_bytes(bytes.try_into().ok()?);
        let [version, epoch] = [(block >> 48) as u8, (block >> 56) as u8];
        let is_plain = block as u16 == BUDGET | VIEW && (version | epoch) < 0x80 && block >> 64 == 0;
        let view = Some(ViewStamp { version: u64::from(version), epoch: u64::from(epoch) });
        let budget_us = Some((block >> 16) as u32);
        is_plain.then(|| Extension { budget_us, view, ..Extension::default() })
    }

    /// As above with one ancestor, as most requests of objects have it: it fills its units.
    #[inline]
    fn parse_child(bytes: &'a [u8]) -> Option<Extension<'a>> {
        let block: &[u8; CHILD_LEN] = bytes.try_into().ok()?;
        let (start, [count, entry @ ..]) = block.split_first_chunk()? else { return None };
        let start = u64::from_le_bytes(*start);
        let [version, epoch] = [(start >> 48) as u8, (start >> 56) as u8];
        if start as u16 != BUDGET | VIEW | PATH || (version | epoch) >= 0x80 || *count != 1 {
            return None;
        }
        let path = <[PathEntry]>::try_ref_from_bytes(entry).ok()?;
        let view = Some(ViewStamp { version: u64::from(version), epoch: u64::from(epoch) });
        let budget_us = Some((start >> 16) as u32);
        Some(Extension { budget_us, view, path, ..Extension::default() })
    }

    fn parse_any(bytes: &'a [u8]) -> Result<Extension<'a>, ExtensionError> {
        let mut extension = Extension::default();
        if bytes.is_empty() {
            return Ok(extension);
        }
        let mut reader = Reader { rest: bytes };
        let presence = reader.u16()?;
        if presence == 0 || presence & !PRESENCE_KNOWN != 0 {
            return Err(ExtensionError::Presence(presence));
        }
        if presence & ORIGIN != 0 {
            extension.origin = Some(reader.origin()?);
        }
        if presence & BUDGET != 0 {
            extension.budget_us = Some(reader.u32()?);
        }
        if presence & VIEW != 0 {
            extension.view = Some(ViewStamp { version: reader.varint()?, epoch: reader.varint()? });
        }
        if presence & PATH != 0 {
            extension.path = reader.path()?;
        }
        if presence & TRACE != 0 {
            extension.trace = Some(u128::from_le_bytes(reader.array()?));
        }
        if presence & KEY != 0 {
            extension.key = Some(reader.key()?);
        }
        if presence & HOPS != 0 {
            extension.hops = reader.u8()?;
            if extension.hops == 0 {
                return Err(ExtensionError::NotMinimal);
            }
        }
        reader.padding(bytes)?;
        Ok(extension)
    }

    /// Whether a block that can be read has a key, from its first bytes alone.
    #[inline]
    pub(crate) fn may_have_key(bytes: &[u8]) -> bool {
        bytes.first_chunk().is_some_and(|presence| u16::from_le_bytes(*presence) & KEY != 0)
    }

    /// Bytes that [`Extension::write`] takes, padding included: a multiple of [`UNIT`].
    pub fn encoded_len(&self) -> usize {
        self.encoded_len_of(self.presence())
    }

    #[inline(always)]
    fn encoded_len_of(&self, presence: u16) -> usize {
        if presence == 0 {
            return 0;
        }
        let mut len = 2;
        if self.origin.is_some() {
            len += ORIGIN_LEN;
        }
        if self.budget_us.is_some() {
            len += 4;
        }
        if let Some(view) = self.view {
            len += varint_len(view.version) + varint_len(view.epoch);
        }
        if !self.path.is_empty() {
            len += 1 + size_of_val(self.path);
        }
        if self.trace.is_some() {
            len += 16;
        }
        if let Some(target) = self.key {
            len += 9 + key_encoded_len(target.key);
        }
        if self.hops != 0 {
            len += 1;
        }
        len.next_multiple_of(UNIT)
    }

    /// Writes the block to the front of `out` and returns its length, padding included.
    ///
    /// # Errors
    /// [`ExtensionError::PathTooLong`] or [`ExtensionError::KeyTooLong`] for what the format does not carry,
    /// [`ExtensionError::Room`] if `out` is shorter than [`Extension::encoded_len`]. Then `out` is untouched.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, ExtensionError> {
        self.write_measured(self.measure()?, out)
    }

    /// What [`Extension::write_measured`] wants to know, so that it is found out once.
    ///
    /// # Errors
    /// As [`Extension::write`] for what the format does not carry.
    // Inlined, as is what follows: who writes one says in place which fields it has, and the others cost nothing then.
    #[inline(always)]
    pub(crate) fn measure(&self) -> Result<Measured, ExtensionError> {
        self.check()?;
        let presence = self.presence();
        Ok(Measured { presence, len: self.encoded_len_of(presence) })
    }

    /// As [`Extension::write`], with what [`Extension::measure`] found.
    ///
    /// # Errors
    /// [`ExtensionError::Room`].
    #[inline(always)]
    pub(crate) fn write_measured(&self, measured: Measured, out: &mut [u8]) -> Result<usize, ExtensionError> {
        let Measured { presence, len } = measured;
        let out = out.get_mut(..len).ok_or(ExtensionError::Room { needed: len })?;
        if len == 0 {
            return Ok(0);
        }
        // The padding is in the last unit, which is zeroed as a whole.
        out[len - UNIT..].fill(0);
        let mut writer = Writer { rest: out };
        writer.put(&presence.to_le_bytes());
        if let Some(origin) = &self.origin {
            writer.origin(origin);
        }
        if let Some(budget_us) = self.budget_us {
            writer.put(&budget_us.to_le_bytes());
        }
        if let Some(view) = self.view {
            writer.varint(view.version);
            writer.varint(view.epoch);
        }
        if !self.path.is_empty() {
            writer.put(&[self.path.len() as u8]);
            writer.put(self.path.as_bytes());
        }
        if let Some(trace) = self.trace {
            writer.put(&trace.to_le_bytes());
        }
        if let Some(target) = &self.key {
            writer.key(target);
        }
        if self.hops != 0 {
            writer.put(&[self.hops]);
        }
        Ok(len)
    }

    /// Appends the block to `out` and returns its length, padding included.
    ///
    /// # Errors
    /// As [`Extension::write`], without `Room`; then `out` is as it was.
    pub fn append(&self, out: &mut Vec<u8>) -> Result<usize, ExtensionError> {
        self.check()?;
        let start = out.len();
        out.resize(start + self.encoded_len(), 0);
        self.write(&mut out[start..])
    }

    #[inline(always)]
    fn check(&self) -> Result<(), ExtensionError> {
        if self.path.len() > PATH_LEN_MAX {
            return Err(ExtensionError::PathTooLong(self.path.len()));
        }
        match self.key {
            Some(target) => check_key(target.key),
            None => Ok(()),
        }
    }

    #[inline(always)]
    fn presence(&self) -> u16 {
        let mut presence = 0;
        let mut set = |bit, is_present: bool| presence |= if is_present { bit } else { 0 };
        set(ORIGIN, self.origin.is_some());
        set(BUDGET, self.budget_us.is_some());
        set(VIEW, self.view.is_some());
        set(PATH, !self.path.is_empty());
        set(TRACE, self.trace.is_some());
        set(KEY, self.key.is_some());
        set(HOPS, self.hops != 0);
        presence
    }
}

/// The block of budget and view alone, if both numbers of the view take a byte: as most requests have it.
#[inline]
pub(crate) fn plain(budget_us: u32, view: ViewStamp) -> Option<[u8; UNIT]> {
    let ViewStamp { version, epoch } = view;
    let block = u128::from(BUDGET | VIEW)
        | u128::from(budget_us) << 16
        | u128::from(version) << 48
        | u128::from(epoch) << 56;
    ((version | epoch) < 0x80).then(|| block.to_le_bytes())
}

/// As [`plain`], with one ancestor.
#[inline]
pub(crate) fn child(budget_us: u32, view: ViewStamp, parent: &PathEntry) -> Option<[u8; CHILD_LEN]> {
    let ViewStamp { version, epoch } = view;
    let start = u64::from(BUDGET | VIEW | PATH) | u64::from(budget_us) << 16 | version << 48 | epoch << 56;
    let mut block = [0; CHILD_LEN];
    block[..8].copy_from_slice(&start.to_le_bytes());
    block[8] = 1;
    block[9..].copy_from_slice(parent.as_bytes());
    ((version | epoch) < 0x80).then_some(block)
}

/// How an extension is going to be spelled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    presence: u16,
    /// Bytes that it takes, padding included.
    pub(crate) len: usize,
}

/// A remaining budget as the wire carries it: rounded down, so that no hop adds time, at most 71 minutes.
pub fn budget_us_from_ns(remaining_ns: u64) -> u32 {
    u32::try_from(remaining_ns / 1_000).unwrap_or(u32::MAX)
}

/// Why bytes are no extension block, or a block cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    /// A field reaches beyond the block.
    #[error("the extension ends inside a field")]
    Truncated,
    /// Unknown presence bits, or none in a block that is not empty.
    #[error("presence bits {0:#06x} of an extension are unknown or empty")]
    Presence(u16),
    /// A longer spelling than the only one allowed.
    #[error("a field of the extension is not in its shortest form")]
    NotMinimal,
    /// A varint above 64 bits.
    #[error("a varint of the extension exceeds 64 bits")]
    VarintTooLong,
    /// More ancestors than [`PATH_LEN_MAX`].
    #[error("the path has {0} entries, {PATH_LEN_MAX} are allowed")]
    PathTooLong(usize),
    /// A hold that is none of [`Hold`].
    #[error("a path entry has an unknown hold")]
    Hold,
    /// A key kind that is none of [`KeyKind`].
    #[error("key kind {0} is unknown")]
    KeyKind(u8),
    /// More key bytes than [`KEY_LEN_MAX`].
    #[error("the key has {0} bytes, {KEY_LEN_MAX} are allowed")]
    KeyTooLong(usize),
    /// A number key whose bytes are not as many as the number has.
    #[error("a number key has {0} bytes")]
    KeyNumber(usize),
    /// A text key that is not UTF-8.
    #[error("the text key is not UTF-8")]
    KeyText,
    /// Padding that is not zero, or a whole unit too much.
    #[error("the padding of the extension is not zero or too long")]
    Padding,
    /// The output is too short.
    #[error("the extension needs {needed} bytes of room")]
    Room {
        /// Bytes it takes.
        needed: usize,
    },
}

/// What is left to read.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ExtensionError> {
        let (front, rest) = self.rest.split_at_checked(len).ok_or(ExtensionError::Truncated)?;
        self.rest = rest;
        Ok(front)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], ExtensionError> {
        let (front, rest) = self.rest.split_first_chunk().ok_or(ExtensionError::Truncated)?;
        self.rest = rest;
        Ok(*front)
    }

    fn u8(&mut self) -> Result<u8, ExtensionError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, ExtensionError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, ExtensionError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ExtensionError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, ExtensionError> {
        match self.rest {
            // Most are.
            [byte, rest @ ..] if byte & 0x80 == 0 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, ExtensionError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(ExtensionError::VarintTooLong);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let is_minimal = byte != 0 || shift == 0;
                return if is_minimal { Ok(value) } else { Err(ExtensionError::NotMinimal) };
            }
        }
        Err(ExtensionError::VarintTooLong)
    }

    fn origin(&mut self) -> Result<Origin, ExtensionError> {
        Ok(Origin {
            node: self.u64()?,
            incarnation: self.u32()?,
            core: self.u8()?,
            slot: self.u32()?,
            generation: self.u32()?,
        })
    }

    fn path(&mut self) -> Result<&'a [PathEntry], ExtensionError> {
        let count = usize::from(self.u8()?);
        if count == 0 {
            return Err(ExtensionError::NotMinimal);
        }
        if count > PATH_LEN_MAX {
            return Err(ExtensionError::PathTooLong(count));
        }
        let bytes = self.take(count * size_of::<PathEntry>())?;
        <[PathEntry]>::try_ref_from_bytes(bytes).map_err(|_| ExtensionError::Hold)
    }

    fn key(&mut self) -> Result<TargetKey<'a>, ExtensionError> {
        let entity = self.u64()?;
        let kind_number = self.u8()?;
        let kind = KeyKind::from_number(kind_number).ok_or(ExtensionError::KeyKind(kind_number))?;
        let bytes = match number_len(kind) {
            Some(len) => self.take(len)?,
            None => {
                let len = usize::from(self.u16()?);
                if len > KEY_LEN_MAX {
                    return Err(ExtensionError::KeyTooLong(len));
                }
                self.take(len)?
            }
        };
        let key = KeyView { kind, bytes };
        check_key(key)?;
        Ok(TargetKey { entity, key })
    }

    #[inline]
    fn padding(&self, block: &[u8]) -> Result<(), ExtensionError> {
        // All of it at once: the last unit, without what is in front of the padding.
        let last = block.last_chunk::<UNIT>().map_or(u128::MAX, |last| u128::from_be_bytes(*last));
        let is_valid = block.len().is_multiple_of(UNIT)
            && self.rest.len() < UNIT
            && last & ((1 << (8 * self.rest.len())) - 1) == 0;
        if is_valid { Ok(()) } else { Err(ExtensionError::Padding) }
    }
}

/// What is left to fill. The room was checked before it was made: running out is a bug of this file.
struct Writer<'a> {
    rest: &'a mut [u8],
}

impl Writer<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let (front, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        front.copy_from_slice(bytes);
        self.rest = rest;
    }

    #[inline]
    fn varint(&mut self, value: u64) {
        match value {
            // Most are.
            0..0x80 => self.put(&[value as u8]),
            _ => self.long_varint(value),
        }
    }

    fn long_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.put(&[value as u8]);
    }

    fn origin(&mut self, origin: &Origin) {
        self.put(&origin.node.to_le_bytes());
        self.put(&origin.incarnation.to_le_bytes());
        self.put(&[origin.core]);
        self.put(&origin.slot.to_le_bytes());
        self.put(&origin.generation.to_le_bytes());
    }

    fn key(&mut self, target: &TargetKey<'_>) {
        self.put(&target.entity.to_le_bytes());
        self.put(&[target.key.kind as u8]);
        if number_len(target.key.kind).is_none() {
            self.put(&(target.key.bytes.len() as u16).to_le_bytes());
        }
        self.put(target.key.bytes);
    }
}

/// Length of a key that is a number; `None` for keys that carry their length.
fn number_len(kind: KeyKind) -> Option<usize> {
    match kind {
        KeyKind::U64 => Some(8),
        KeyKind::U128 => Some(16),
        KeyKind::Utf8 | KeyKind::Bytes => None,
    }
}

/// Bytes of a key after its kind.
fn key_encoded_len(key: KeyView<'_>) -> usize {
    key.bytes.len() + if number_len(key.kind).is_some() { 0 } else { 2 }
}

fn check_key(key: KeyView<'_>) -> Result<(), ExtensionError> {
    match number_len(key.kind) {
        Some(len) if len != key.bytes.len() => Err(ExtensionError::KeyNumber(key.bytes.len())),
        None if key.bytes.len() > KEY_LEN_MAX => Err(ExtensionError::KeyTooLong(key.bytes.len())),
        None if key.kind == KeyKind::Utf8 && str::from_utf8(key.bytes).is_err() => {
            Err(ExtensionError::KeyText)
        }
        _ => Ok(()),
    }
}

#[inline]
fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Deepest path: the call below it gets `Rejected(TooDeep)`.
pub const PATH_LEN_MAX: usize = 32;
/// Extension lengths are counted in units of this many bytes.
pub const UNIT: usize = 16;
/// A block of budget, view and one ancestor, if both numbers of the view take a byte: there is no padding.
const CHILD_LEN: usize = 3 * UNIT;
const _: () = assert!(CHILD_LEN == 9 + size_of::<PathEntry>());
/// The longest block there is: every field present, the deepest path, the longest key, a view of full varints.
pub const EXTENSION_LEN_MAX: usize =
    (2 + ORIGIN_LEN + 4 + 20 + 1 + PATH_LEN_MAX * size_of::<PathEntry>() + 16 + 11 + KEY_LEN_MAX + 1)
        .next_multiple_of(UNIT);

const ORIGIN_LEN: usize = 21;
const ORIGIN: u16 = 1 << 0;
const BUDGET: u16 = 1 << 1;
const VIEW: u16 = 1 << 2;
const PATH: u16 = 1 << 3;
const TRACE: u16 = 1 << 4;
const KEY: u16 = 1 << 5;
const HOPS: u16 = 1 << 6;
const PRESENCE_KNOWN: u16 = (1 << 7) - 1;

const _: () = assert!(size_of::<PathEntry>() == 39);
const _: () = assert!(KEY_LEN_MAX <= u16::MAX as usize && PATH_LEN_MAX <= u8::MAX as usize);

#[cfg(test)]
mod tests;
