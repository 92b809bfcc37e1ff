//! Fuzz functions: plain functions over foreign bytes, that panic if a parser breaks a promise.
//!
//! They run on a stable compiler from the corpus under `fuzz/corpus` and from a seeded generator in the tests, and behind
//! any fuzzer that calls them.

use crate::envelope::{ENVELOPE_HEADER_LENGTH, Envelope, EnvelopeHeader};
use crate::key::{KeyKind, RecordKeyRef};

/// Foreign bytes as an envelope.
///
/// # Panics
/// If parsing panics, if bytes that parse are not exactly what writing their content gives, or if an envelope with one bit
/// flipped still parses.
pub fn fuzz_envelope(bytes: &[u8]) {
    if let Ok((header, payload)) = Envelope::parse(bytes) {
        let mut written = Vec::new();
        Envelope::write(&header, payload, &mut written).expect("what was parsed can be written");
        assert_eq!(written, bytes, "an envelope has one form");
        flip_one_bit(written);
    }
    let key = RecordKeyRef { entity: bytes.len() as u64, kind: KeyKind::Bytes, bytes };
    let mut written = Vec::new();
    Envelope::write(&EnvelopeHeader::state(key), bytes, &mut written).expect("fuzz inputs are small");
    let (_, payload) = Envelope::open(key, &written).expect("what was written can be read");
    assert_eq!(payload, bytes);
    flip_one_bit(written);
}

/// Which bit, the bytes decide.
fn flip_one_bit(mut envelope: Vec<u8>) {
    let bit = crc32fast::hash(&envelope) as usize % (envelope.len() * 8);
    debug_assert!(envelope.len() >= ENVELOPE_HEADER_LENGTH);
    envelope[bit / 8] ^= 1 << (bit % 8);
    assert!(Envelope::parse(&envelope).is_err(), "flipped bit {bit} was not found");
}
