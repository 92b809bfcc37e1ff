//! Saves and records that travel in parts: a stream of keys and envelopes, cut wherever a part is full.
//!
//! ```text
//! Batch or records -> SaveStream::push ... -> parts() -> Part 0, Part 1, ... last -> Collector -> read_saves
//! ```
//! A collector holds one stream at a time and takes its parts in order only: one that repeats the last is answered like
//! it, any other makes the sender start over.

use epicserver_storage::{RecordKeyRef, StoreLimits};

use super::bytes::{Reader, Writer};
use super::{ControlError, PART_LEN_MAX};

/// A piece of a stream, at most [`PART_LEN_MAX`] bytes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Counts the parts of a stream, from 0.
    pub number: u32,
    /// Whether the stream ends with it.
    pub is_last: bool,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Keys and envelopes, one behind the other.
#[derive(Debug, Default)]
pub struct SaveStream {
    writer: Writer,
}

impl SaveStream {
    /// Appends one.
    pub fn push(&mut self, key: RecordKeyRef<'_>, envelope: &[u8]) {
        self.writer.key(key);
        self.writer.bytes(envelope);
    }

    /// Empties it; its buffer stays.
    pub fn clear(&mut self) {
        self.writer.out.clear();
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.writer.out.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.writer.out.is_empty()
    }

    /// How many parts it takes; an empty stream is one empty part.
    pub fn part_count(&self) -> u32 {
        self.writer.out.len().div_ceil(PART_LEN_MAX).max(1) as u32
    }

    /// The part with this number.
    pub fn part(&self, number: u32) -> Part {
        let len = self.writer.out.len();
        let start = (number as usize).saturating_mul(PART_LEN_MAX).min(len);
        let end = (start + PART_LEN_MAX).min(len);
        Part { number, is_last: end == len, bytes: self.writer.out[start..end].to_vec() }
    }
}

/// Reads a whole stream, and gives each of its saves. Envelopes are as they came: whoever takes them checks them.
///
/// # Errors
/// [`ControlError`] at the first byte that does not belong, or what `take` says.
pub fn read_saves<E: From<ControlError>>(
    stream: &[u8],
    mut take: impl FnMut(RecordKeyRef<'_>, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = Reader::new(stream);
    while !reader.is_empty() {
        let key = reader.key_ref()?;
        take(key, reader.bytes(stream.len())?)?;
    }
    Ok(())
}

/// The longest stream of a batch within these limits, in bytes.
pub fn stream_len_max(limits: &StoreLimits) -> usize {
    limits.batch_length_max.saturating_add(limits.batch_saves_max.saturating_mul(SAVE_FRAME_LEN))
}

/// A stream that comes in, as far as it has come.
#[derive(Debug)]
pub struct Collector<N> {
    name: N,
    next: u32,
    bytes: Vec<u8>,
}

/// What became of a part.
#[derive(Debug, PartialEq, Eq)]
pub enum Collected {
    /// It is kept, or was before.
    Taken,
    /// It was the last: the whole stream.
    Whole(Vec<u8>),
    /// It does not follow, or makes the stream too long: start over.
    Missing,
}

impl<N: PartialEq> Collector<N> {
    /// Takes a part of the stream of this name into the place for one stream. Part 0 begins a stream, whatever was in the
    /// place before.
    pub fn take(place: &mut Option<Self>, name: N, part: Part, len_max: usize) -> Collected {
        if part.number == 0 && part.is_last {
            *place = None;
            return if part.bytes.len() <= len_max {
                Collected::Whole(part.bytes)
            } else {
                Collected::Missing
            };
        }
        if part.number == 0 {
            *place = Some(Self { name, next: 0, bytes: Vec::new() });
        } else if place.as_ref().is_none_or(|collector| collector.name != name) {
            return Collected::Missing;
        }
        let Some(collector) = place else { return Collected::Missing };
        if part.number.checked_add(1) == Some(collector.next) {
            return Collected::Taken;
        }
        if part.number != collector.next || collector.bytes.len() + part.bytes.len() > len_max {
            *place = None;
            return Collected::Missing;
        }
        collector.next += 1;
        collector.bytes.extend_from_slice(&part.bytes);
        if !part.is_last {
            return Collected::Taken;
        }
        Collected::Whole(place.take().map(|collector| collector.bytes).unwrap_or_default())
    }

    /// Of which stream it has the first parts.
    pub fn name(&self) -> &N {
        &self.name
    }

    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

pub(super) fn put_part(writer: &mut Writer, part: &Part) {
    writer.u32(part.number);
    writer.bool(part.is_last);
    writer.bytes(&part.bytes);
}

pub(super) fn read_part(reader: &mut Reader<'_>) -> Result<Part, ControlError> {
    Ok(Part { number: reader.u32()?, is_last: reader.bool()?, bytes: reader.bytes(PART_LEN_MAX)?.to_vec() })
}

/// What a save takes in a stream beyond its key's and its envelope's own bytes.
const SAVE_FRAME_LEN: usize = 8 + 1 + 4 + 4;
