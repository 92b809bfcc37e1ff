//! The name of a record: entity and typed key.
//!
//! [`RecordKeyRef`] borrows and is what the verbs take; [`RecordKey`] owns and is what errors and tables keep. The two hash
//! functions below are pinned: saved records and routing depend on them, and golden tests hold them.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::id::Partition;

/// The longest canonical key, in bytes.
pub const KEY_LENGTH_MAX: usize = 512;

/// The name of a record, borrowed. Build one with [`RecordKeyRef::new`], or by hand from trusted parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKeyRef<'a> {
    /// Hash of the entity's declared name, see [`entity_id`].
    pub entity: u64,
    /// What the bytes mean.
    pub kind: KeyKind,
    /// Canonical bytes: integers little-endian at full width, strings as UTF-8, bytes as they are; at most
    /// [`KEY_LENGTH_MAX`].
    pub bytes: &'a [u8],
}

impl<'a> RecordKeyRef<'a> {
    /// Names a record.
    ///
    /// # Errors
    /// [`KeyError`] if the bytes are not the canonical form of a key of this kind.
    pub fn new(entity: u64, kind: KeyKind, bytes: &'a [u8]) -> Result<Self, KeyError> {
        let key = Self { entity, kind, bytes };
        key.check()?;
        Ok(key)
    }

    /// Whether the bytes are the canonical form of a key of this kind.
    ///
    /// # Errors
    /// [`KeyError`] says what is wrong.
    pub fn check(&self) -> Result<(), KeyError> {
        let length = self.bytes.len();
        match self.kind {
            KeyKind::U64 if length != 8 => Err(KeyError::Width { kind: self.kind, length }),
            KeyKind::U128 if length != 16 => Err(KeyError::Width { kind: self.kind, length }),
            _ if length > KEY_LENGTH_MAX => Err(KeyError::TooLong { length }),
            KeyKind::Utf8 if std::str::from_utf8(self.bytes).is_err() => Err(KeyError::NotUtf8),
            _ => Ok(()),
        }
    }

    /// SipHash-1-3 with zero key over the kind byte and the key bytes. The entity is not hashed: equal keys of
    /// different entities live together.
    pub fn hash(&self) -> u64 {
        if let Ok(number) = <[u8; 8]>::try_from(self.bytes) {
            return hash_of_number(self.kind, u64::from_le_bytes(number));
        }
        let mut hasher = SipHasher13::new();
        hasher.write(&[self.kind as u8]);
        hasher.write(self.bytes);
        hasher.finish()
    }

    /// The partition of an object placed by its own key.
    pub fn partition(&self) -> Partition {
        Partition::from_hash(self.hash())
    }

    /// An owned copy.
    pub fn to_owned(&self) -> RecordKey {
        RecordKey { entity: self.entity, kind: self.kind, bytes: self.bytes.into() }
    }
}

/// [`RecordKeyRef::hash`] of eight bytes: the same function, without the bookkeeping for bytes that come in pieces. Every call
/// that leaves its node asks for it.
#[inline]
fn hash_of_number(kind: KeyKind, number: u64) -> u64 {
    // Nine bytes: a whole word, and a last one with what is left and the length.
    let words = [u64::from(kind as u8) | number << 8, number >> 56 | 9 << 56];
    let mut state: [u64; 4] =
        [0x736f_6d65_7073_6575, 0x646f_7261_6e64_6f6d, 0x6c79_6765_6e65_7261, 0x7465_6462_7974_6573];
    for word in words {
        state[3] ^= word;
        sip_round(&mut state);
        state[0] ^= word;
    }
    state[2] ^= 0xff;
    for _ in 0..3 {
        sip_round(&mut state);
    }
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

#[inline]
fn sip_round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *c = c.wrapping_add(*d);
    *b = b.rotate_left(13) ^ *a;
    *d = d.rotate_left(16) ^ *c;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*b);
    *a = a.wrapping_add(*d);
    *b = b.rotate_left(17) ^ *c;
    *d = d.rotate_left(21) ^ *a;
    *c = c.rotate_left(32);
}

impl fmt::Display for RecordKeyRef<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}/", self.entity)?;
        match (self.kind, self.bytes) {
            (KeyKind::U64, &[a, b, c, d, e, f, g, h]) => {
                write!(formatter, "{}", u64::from_le_bytes([a, b, c, d, e, f, g, h]))
            }
            (KeyKind::U128 | KeyKind::U64, bytes) => {
                bytes.iter().rev().try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
            (KeyKind::Bytes, bytes) => bytes.iter().try_for_each(|byte| write!(formatter, "{byte:02x}")),
            (KeyKind::Utf8, bytes) => write!(formatter, "{:?}", String::from_utf8_lossy(bytes)),
        }
    }
}

/// The name of a record, owned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// Hash of the entity's declared name, see [`entity_id`].
    pub entity: u64,
    /// What the bytes mean.
    pub kind: KeyKind,
    /// Canonical bytes, as in [`RecordKeyRef::bytes`].
    pub bytes: Box<[u8]>,
}

impl RecordKey {
    /// The record of an object with a `u64` key.
    pub fn u64(entity: u64, key: u64) -> Self {
        Self { entity, kind: KeyKind::U64, bytes: Box::new(key.to_le_bytes()) }
    }

    /// The record of an object with a `u128` key.
    pub fn u128(entity: u64, key: u128) -> Self {
        Self { entity, kind: KeyKind::U128, bytes: Box::new(key.to_le_bytes()) }
    }

    /// The record of an object with a string key.
    ///
    /// # Errors
    /// [`KeyError::TooLong`] beyond [`KEY_LENGTH_MAX`] bytes.
    pub fn string(entity: u64, key: &str) -> Result<Self, KeyError> {
        RecordKeyRef::new(entity, KeyKind::Utf8, key.as_bytes()).map(|key| key.to_owned())
    }

    /// The record of an object with a key of bytes.
    ///
    /// # Errors
    /// [`KeyError::TooLong`] beyond [`KEY_LENGTH_MAX`] bytes.
    pub fn bytes(entity: u64, key: &[u8]) -> Result<Self, KeyError> {
        RecordKeyRef::new(entity, KeyKind::Bytes, key).map(|key| key.to_owned())
    }

    /// The borrowed form, which the verbs take.
    pub fn as_ref(&self) -> RecordKeyRef<'_> {
        RecordKeyRef { entity: self.entity, kind: self.kind, bytes: &self.bytes }
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(formatter)
    }
}

/// What the bytes of a key mean. The numbers are pinned: they are hashed and saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// `u64`, 8 bytes little-endian.
    U64 = 0,
    /// `u128`, 16 bytes little-endian.
    U128 = 1,
    /// UTF-8.
    Utf8 = 2,
    /// Bytes as they are.
    Bytes = 3,
}

impl KeyKind {
    /// The kind with this number, or `None` if there is none.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::U64),
            1 => Some(Self::U128),
            2 => Some(Self::Utf8),
            3 => Some(Self::Bytes),
            _ => None,
        }
    }
}

/// The bytes are not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// String and byte keys end at [`KEY_LENGTH_MAX`].
    #[error("a key of {length} bytes is too long, the limit is {KEY_LENGTH_MAX}")]
    TooLong {
        /// Bytes given.
        length: usize,
    },
    /// An integer key has another width.
    #[error("{length} bytes are not a key of kind {kind:?}")]
    Width {
        /// The kind given.
        kind: KeyKind,
        /// Bytes given.
        length: usize,
    },
    /// A string key is not UTF-8.
    #[error("the bytes of a string key are not UTF-8")]
    NotUtf8,
}

/// The id of an entity: 64-bit FNV-1a over its declared name, so that it is known while compiling. Two names with one id
/// are refused at bind.
pub const fn entity_id(name: &str) -> u64 {
    let (bytes, mut hash, mut at) = (name.as_bytes(), 0xcbf2_9ce4_8422_2325u64, 0);
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change of these numbers loses every saved record and breaks routing between versions.
    #[test]
    fn hashes_are_pinned() {
        assert_eq!(entity_id("game.Player"), 3_465_279_849_741_462_138);
        // Computed by another implementation of SipHash-1-3 as well.
        assert_eq!(RecordKey::u64(1, 7).as_ref().hash(), 0x2119_CF87_8E49_54B6);
        assert_eq!(RecordKey::string(1, "Bob").unwrap().as_ref().hash(), 0xB533_B51F_EC2C_AE63);
        assert_eq!(RecordKey::u64(1, 7).as_ref().partition().number(), 0x4B6);
    }

    #[test]
    fn a_number_hashes_as_its_bytes_do() {
        let numbers = (0..64).flat_map(|bit| [1u64 << bit, (1u64 << bit).wrapping_sub(3)]).chain([u64::MAX]);
        for number in numbers {
            for kind in [KeyKind::U64, KeyKind::Utf8, KeyKind::Bytes] {
                let mut hasher = SipHasher13::new();
                hasher.write(&[kind as u8]);
                hasher.write(&number.to_le_bytes());
                assert_eq!(hash_of_number(kind, number), hasher.finish(), "{kind:?} {number}");
            }
        }
    }

    #[test]
    fn kind_separates_equal_bytes_and_entity_does_not() {
        let string = RecordKey::string(1, "abc").unwrap();
        let bytes = RecordKey::bytes(1, b"abc").unwrap();
        assert_ne!(string.as_ref().hash(), bytes.as_ref().hash());
        assert_eq!(RecordKey::u64(1, 7).as_ref().partition(), RecordKey::u64(2, 7).as_ref().partition());
    }

    #[test]
    fn keys_that_are_not_canonical_are_refused() {
        assert_eq!(
            RecordKeyRef::new(1, KeyKind::U64, &[0; 7]),
            Err(KeyError::Width { kind: KeyKind::U64, length: 7 })
        );
        assert_eq!(
            RecordKeyRef::new(1, KeyKind::U128, &[0; 17]),
            Err(KeyError::Width { kind: KeyKind::U128, length: 17 })
        );
        assert_eq!(RecordKeyRef::new(1, KeyKind::Utf8, &[0xFF]), Err(KeyError::NotUtf8));
        assert_eq!(RecordKey::bytes(1, &[0; 513]), Err(KeyError::TooLong { length: 513 }));
        assert!(RecordKey::bytes(1, &[0; 512]).is_ok());
    }

    #[test]
    fn kinds_survive_their_numbers() {
        for kind in [KeyKind::U64, KeyKind::U128, KeyKind::Utf8, KeyKind::Bytes] {
            assert_eq!(KeyKind::from_number(kind as u8), Some(kind));
        }
        assert_eq!(KeyKind::from_number(4), None);
    }

    #[test]
    fn keys_print_readably() {
        assert_eq!(RecordKey::u64(255, 7).to_string(), "00000000000000ff/7");
        assert_eq!(RecordKey::string(1, "Bob").unwrap().to_string(), "0000000000000001/\"Bob\"");
        assert_eq!(RecordKey::u128(1, 0x0102).to_string(), format!("0000000000000001/{:032x}", 0x0102));
    }
}
