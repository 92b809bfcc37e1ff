//! The fuzz functions, from the corpus and from a seeded generator.

use std::path::Path;

use epicserver_storage::fuzz::fuzz_envelope;
use epicserver_storage::{Envelope, EnvelopeHeader, RecordKey};

use crate::random::Random;

#[test]
fn envelope_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/envelope");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut intact, mut damaged) = (0, 0);
    for file in files {
        let bytes = std::fs::read(file).unwrap();
        if Envelope::parse(&bytes).is_ok() {
            intact += 1
        } else {
            damaged += 1
        }
        fuzz_envelope(&bytes);
    }
    assert!(intact >= 5 && damaged >= 15, "the corpus has {intact} intact and {damaged} damaged envelopes");
}

/// Noise, and noise that begins as an envelope does: real ones with a few bytes overwritten.
#[test]
fn envelope_generated() {
    let mut random = Random::new(0xE9);
    let key = RecordKey::u64(1, 1);
    for _ in 0..20_000 {
        let mut bytes = random.bytes(200);
        fuzz_envelope(&bytes);
        let payload = std::mem::take(&mut bytes);
        Envelope::write(&EnvelopeHeader::state(key.as_ref()), &payload, &mut bytes).unwrap();
        for _ in 0..random.below(4) {
            let place = random.below(bytes.len() as u64) as usize;
            bytes[place] = random.next() as u8;
        }
        fuzz_envelope(&bytes);
    }
}
