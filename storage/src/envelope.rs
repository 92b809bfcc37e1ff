//! The save envelope: what surrounds every saved state, on every store.
//!
//! ```text
//!  0 magic "EPSV" | 4 envelope version | 5 kind | 6 codec | 7 zero | 8 entity u64
//! 16 key hash u64                                                  | 24 layout u64
//! 32 epoch u64                                                     | 40 object version u64
//! 48 schema u16 | 50 partition u16 | 52 payload length u32 | 56 saved at u32 | 60 crc32 of all else
//! 64 payload
//! ```
//! All integers little-endian; *saved at* is in seconds since 1970, for people who look: nothing is decided by it. The header is 64 bytes, so the payload of an envelope at a 16-byte boundary starts at one. The key's
//! hash is inside, so that a record found under another key is noticed.
//!
//! Not here: what the payload means (codec, schema and layout are the runtime's to judge), and where envelopes are kept.
//! Start at [`Envelope::write`] and [`Envelope::parse`].

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::id::Partition;
use crate::key::RecordKeyRef;

/// Bytes before the payload.
pub const ENVELOPE_HEADER_LENGTH: usize = 64;

/// The longest payload that an envelope holds, in bytes. A store may allow less.
pub const PAYLOAD_LENGTH_MAX: usize = 16 << 20;

/// The highest schema version that an envelope can name.
pub const SCHEMA_MAX: u32 = u16::MAX as u32;

/// Writes and reads envelopes. The module has a picture of the bytes.
#[derive(Debug)]
pub enum Envelope {}

impl Envelope {
    /// Appends an envelope to `out`.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`] beyond [`PAYLOAD_LENGTH_MAX`], [`EnvelopeError::TombstoneWithPayload`], and
    /// [`EnvelopeError::Field`] for a schema beyond [`SCHEMA_MAX`]; `out` is then as it was.
    pub fn write(header: &EnvelopeHeader, payload: &[u8], out: &mut Vec<u8>) -> Result<(), EnvelopeError> {
        check_payload(header.kind, payload.len())?;
        header.schema_on_disk()?;
        let start = out.len();
        out.reserve(ENVELOPE_HEADER_LENGTH + payload.len());
        out.extend_from_slice(&[0; ENVELOPE_HEADER_LENGTH]);
        out.extend_from_slice(payload);
        Self::seal(header, &mut out[start..])
    }

    /// Fills in the header of an envelope whose payload is already in place, behind [`ENVELOPE_HEADER_LENGTH`] free
    /// bytes: the way to serialise straight into its final buffer.
    ///
    /// # Errors
    /// As [`Envelope::write`], and [`EnvelopeError::TooShort`] if there is no room for the header. Nothing is changed.
    pub fn seal(header: &EnvelopeHeader, envelope: &mut [u8]) -> Result<(), EnvelopeError> {
        let length = envelope.len();
        let Some((head, payload)) = envelope.split_at_mut_checked(ENVELOPE_HEADER_LENGTH) else {
            return Err(EnvelopeError::TooShort { length });
        };
        let payload_length = check_payload(header.kind, payload.len())?;
        let schema = header.schema_on_disk()?;
        let mut raw = RawHeader {
            magic: MAGIC,
            envelope_version: ENVELOPE_VERSION,
            kind: header.kind as u8,
            codec: header.codec,
            zero: 0,
            entity: header.entity.into(),
            key_hash: header.key_hash.into(),
            layout: header.layout.into(),
            epoch: header.epoch.into(),
            version: header.version.into(),
            schema: schema.into(),
            partition: header.partition.number().into(),
            payload_length: payload_length.into(),
            saved_at_s: header.saved_at_s.into(),
            checksum: U32::ZERO,
        };
        raw.checksum = raw.computed_checksum(payload).into();
        head.copy_from_slice(raw.as_bytes());
        Ok(())
    }

    /// Reads one whole envelope and checks every byte of it. Safe on foreign bytes: never panics, never allocates.
    ///
    /// # Errors
    /// Says what is damaged. A change of any single bit is always found.
    pub fn parse(bytes: &[u8]) -> Result<(EnvelopeHeader, &[u8]), EnvelopeError> {
        let length = bytes.len();
        let Ok((raw, payload)) = RawHeader::ref_from_prefix(bytes) else {
            return Err(EnvelopeError::TooShort { length });
        };
        raw.check_frame(payload)?;
        let header = raw.header()?;
        check_payload(header.kind, payload.len())?;
        Ok((header, payload))
    }

    /// Reads an envelope that was found under `key`.
    ///
    /// # Errors
    /// As [`Envelope::parse`]; [`EnvelopeError::WrongEntity`] and [`EnvelopeError::WrongKey`] if it is another
    /// object's.
    pub fn open<'a>(
        key: RecordKeyRef<'_>,
        bytes: &'a [u8],
    ) -> Result<(EnvelopeHeader, &'a [u8]), EnvelopeError> {
        let (header, payload) = Self::parse(bytes)?;
        header.check_key(key)?;
        Ok((header, payload))
    }
}

/// What an envelope says about its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvelopeHeader {
    /// State or tombstone.
    pub kind: EnvelopeKind,
    /// How the payload is encoded; 0 is rkyv.
    pub codec: u8,
    /// Hash of the entity's declared name.
    pub entity: u64,
    /// Hash of kind and bytes of the key, [`RecordKeyRef::hash`].
    pub key_hash: u64,
    /// The partition under whose fence this was saved.
    pub partition: Partition,
    /// The writer's epoch of that partition.
    pub epoch: u64,
    /// Counts the saves of this object, from 1, tombstones included.
    pub version: u64,
    /// The schema version that the entity declares, at most [`SCHEMA_MAX`].
    pub schema: u32,
    /// Hash of the archived layout.
    pub layout: u64,
    /// When it was saved, in seconds since 1970 by the clock of the node that did, until 2106; 0: it was not said.
    pub saved_at_s: u32,
}

impl EnvelopeHeader {
    /// A header for the state of this object in the partition of its own key; codec, schema, layout, epoch and version are 0
    /// and to be filled in.
    pub fn state(key: RecordKeyRef<'_>) -> Self {
        let key_hash = key.hash();
        Self {
            kind: EnvelopeKind::State,
            codec: 0,
            entity: key.entity,
            key_hash,
            partition: Partition::from_hash(key_hash),
            epoch: 0,
            version: 0,
            schema: 0,
            layout: 0,
            saved_at_s: 0,
        }
    }

    fn schema_on_disk(&self) -> Result<u16, EnvelopeError> {
        let found = u64::from(self.schema);
        u16::try_from(self.schema).map_err(|_| EnvelopeError::Field { field: "schema", found })
    }

    /// A header that says: this object was forgotten at this version. It goes with an empty payload.
    pub fn tombstone(key: RecordKeyRef<'_>) -> Self {
        Self { kind: EnvelopeKind::Tombstone, ..Self::state(key) }
    }

    /// Whether this header belongs to this object.
    ///
    /// # Errors
    /// [`EnvelopeError::WrongEntity`], [`EnvelopeError::WrongKey`].
    pub fn check_key(&self, key: RecordKeyRef<'_>) -> Result<(), EnvelopeError> {
        if self.entity != key.entity {
            return Err(EnvelopeError::WrongEntity { found: self.entity, expected: key.entity });
        }
        let expected = key.hash();
        if self.key_hash != expected {
            return Err(EnvelopeError::WrongKey { found: self.key_hash, expected });
        }
        Ok(())
    }
}

/// What an envelope stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EnvelopeKind {
    /// The payload is the object's state.
    State = 0,
    /// The object was forgotten; no payload, the version goes on counting.
    Tombstone = 1,
}

/// The bytes are not an intact envelope of this object. An error for this object alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not even a header.
    #[error("an envelope of {length} bytes is cut off: the header alone has {ENVELOPE_HEADER_LENGTH}")]
    TooShort {
        /// Bytes found.
        length: usize,
    },
    /// The first four bytes are damaged, or this never was an envelope.
    #[error("the envelope begins with {found:02x?}, not with its magic")]
    Magic {
        /// Bytes found.
        found: [u8; 4],
    },
    /// Written by a newer program, or the byte is damaged.
    #[error("envelope version {found} is not known, this program reads version {ENVELOPE_VERSION}")]
    EnvelopeVersion {
        /// Version found.
        found: u8,
    },
    /// Bytes are missing or left over, or the length is damaged.
    #[error("the envelope announces a payload of {announced} bytes and has {found}")]
    PayloadLength {
        /// Bytes announced in the header.
        announced: u32,
        /// Bytes found behind the header.
        found: usize,
    },
    /// Header or payload is damaged.
    #[error("the envelope is damaged: checksum {stored:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// Checksum in the header.
        stored: u32,
        /// Checksum of the bytes.
        computed: u32,
    },
    /// Intact, but with a field that no version of this program writes.
    #[error("the envelope is intact, but its field `{field}` has the impossible value {found}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Value found.
        found: u64,
    },
    /// A tombstone holds nothing.
    #[error("a tombstone has a payload of {length} bytes")]
    TombstoneWithPayload {
        /// Bytes of payload.
        length: usize,
    },
    /// More than an envelope holds.
    #[error("a payload of {length} bytes is too large, the limit is {PAYLOAD_LENGTH_MAX}")]
    TooLarge {
        /// Bytes of payload.
        length: usize,
    },
    /// Intact, but the state of another entity.
    #[error("the envelope belongs to entity {found:016x}, not to {expected:016x}")]
    WrongEntity {
        /// Entity id in the envelope.
        found: u64,
        /// Entity id that was asked for.
        expected: u64,
    },
    /// Intact, but found under another object's key.
    #[error("the envelope belongs to another key: its hash is {found:016x}, not {expected:016x}")]
    WrongKey {
        /// Key hash in the envelope.
        found: u64,
        /// Hash of the key that was asked for.
        expected: u64,
    },
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    envelope_version: u8,
    kind: u8,
    codec: u8,
    zero: u8,
    entity: U64,
    key_hash: U64,
    layout: U64,
    epoch: U64,
    version: U64,
    schema: U16,
    partition: U16,
    payload_length: U32,
    saved_at_s: U32,
    checksum: U32,
}

impl RawHeader {
    /// What can be wrong before the fields mean anything: the checksum comes last, so that the nearer cause is named.
    fn check_frame(&self, payload: &[u8]) -> Result<(), EnvelopeError> {
        if self.magic != MAGIC {
            return Err(EnvelopeError::Magic { found: self.magic });
        }
        if self.envelope_version != ENVELOPE_VERSION {
            return Err(EnvelopeError::EnvelopeVersion { found: self.envelope_version });
        }
        let announced = self.payload_length.get();
        if announced as usize != payload.len() {
            return Err(EnvelopeError::PayloadLength { announced, found: payload.len() });
        }
        let (stored, computed) = (self.checksum.get(), self.computed_checksum(payload));
        if stored != computed {
            return Err(EnvelopeError::Checksum { stored, computed });
        }
        Ok(())
    }

    fn header(&self) -> Result<EnvelopeHeader, EnvelopeError> {
        let kind = match self.kind {
            0 => EnvelopeKind::State,
            1 => EnvelopeKind::Tombstone,
            other => return Err(EnvelopeError::Field { field: "kind", found: other.into() }),
        };
        let Some(partition) = Partition::new(self.partition.get()) else {
            return Err(EnvelopeError::Field { field: "partition", found: self.partition.get().into() });
        };
        if self.zero != 0 {
            return Err(EnvelopeError::Field { field: "zero", found: self.zero.into() });
        }
        Ok(EnvelopeHeader {
            kind,
            codec: self.codec,
            entity: self.entity.get(),
            key_hash: self.key_hash.get(),
            partition,
            epoch: self.epoch.get(),
            version: self.version.get(),
            schema: self.schema.get().into(),
            layout: self.layout.get(),
            saved_at_s: self.saved_at_s.get(),
        })
    }

    fn computed_checksum(&self, payload: &[u8]) -> u32 {
        let (covered, _checksum) = self.as_bytes().split_at(ENVELOPE_HEADER_LENGTH - size_of::<U32>());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(covered);
        hasher.update(payload);
        hasher.finalize()
    }
}

fn check_payload(kind: EnvelopeKind, length: usize) -> Result<u32, EnvelopeError> {
    if kind == EnvelopeKind::Tombstone && length != 0 {
        return Err(EnvelopeError::TombstoneWithPayload { length });
    }
    match u32::try_from(length) {
        Ok(short) if length <= PAYLOAD_LENGTH_MAX => Ok(short),
        _ => Err(EnvelopeError::TooLarge { length }),
    }
}

const MAGIC: [u8; 4] = *b"EPSV";
const ENVELOPE_VERSION: u8 = 2;
const _: () = assert!(size_of::<RawHeader>() == ENVELOPE_HEADER_LENGTH);
const _: () = assert!(ENVELOPE_HEADER_LENGTH.is_multiple_of(16));

#[cfg(test)]
mod tests;
