//! Tests of `envelope.rs`.

use super::*;
use crate::key::RecordKey;

fn sample() -> (RecordKey, EnvelopeHeader) {
    let key = RecordKey::string(0x1112_1314_1516_1718, "Bob").unwrap();
    let header = EnvelopeHeader {
        codec: 2,
        partition: Partition::new(0x0ABC).unwrap(),
        epoch: 0x3132_3334_3536_3738,
        version: 0x4142_4344_4546_4748,
        schema: 0x5152,
        saved_at_s: 0x5556_5758,
        layout: 0x2122_2324_2526_2728,
        key_hash: 0x6162_6364_6566_6768,
        ..EnvelopeHeader::state(key.as_ref())
    };
    (key, header)
}

fn sealed(header: &EnvelopeHeader, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Envelope::write(header, payload, &mut bytes).unwrap();
    bytes
}

/// Saved records outlive programs: this test fails when the bytes change and the envelope version did not.
#[test]
fn golden_bytes() {
    let (_, header) = sample();
    let bytes = sealed(&header, b"hello");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "45505356",
            "02",
            "00",
            "02",
            "00",
            "1817161514131211",
            "6867666564636261",
            "2827262524232221",
            "3837363534333231",
            "4847464544434241",
            "5251",
            "bc0a",
            "05000000",
            "58575655",
            "4a08ab27",
            "68656c6c6f",
        )
    );
    assert_eq!(Envelope::parse(&bytes), Ok((header, &b"hello"[..])));
}

#[test]
fn every_bit_flip_is_found() {
    let (_, header) = sample();
    let bytes = sealed(&header, b"a state of some length, not a multiple of sixteen");
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Envelope::parse(&damaged).is_err(), "flipped bit {bit} was not found");
    }
}

#[test]
fn every_truncation_and_every_left_over_is_found() {
    let (_, header) = sample();
    let mut bytes = sealed(&header, b"hello");
    for length in 0..bytes.len() {
        assert!(Envelope::parse(&bytes[..length]).is_err(), "cut at {length}");
    }
    bytes.push(0);
    assert_eq!(Envelope::parse(&bytes), Err(EnvelopeError::PayloadLength { announced: 5, found: 6 }));
}

#[test]
fn errors_name_what_is_damaged() {
    let (_, header) = sample();
    let bytes = sealed(&header, b"hello");
    let damage = |place: usize| {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0xFF;
        Envelope::parse(&damaged).unwrap_err()
    };
    assert_eq!(Envelope::parse(&bytes[..63]), Err(EnvelopeError::TooShort { length: 63 }));
    assert_eq!(damage(0), EnvelopeError::Magic { found: [b'E' ^ 0xFF, b'P', b'S', b'V'] });
    assert_eq!(damage(4), EnvelopeError::EnvelopeVersion { found: 0xFD });
    assert_eq!(damage(52), EnvelopeError::PayloadLength { announced: 0xFA, found: 5 });
    for place in [5, 6, 7, 8, 16, 24, 32, 40, 48, 56, 58, 60, 64, 68] {
        assert!(matches!(damage(place), EnvelopeError::Checksum { .. }), "byte {place}");
    }
}

/// Intact bytes of a writer that does not keep the rules: the checksum is right, the field is not.
#[test]
fn impossible_fields_are_named() {
    let (_, header) = sample();
    let reseal = |change: fn(&mut RawHeader)| {
        let bytes = sealed(&header, b"");
        let mut raw = RawHeader::read_from_bytes(&bytes).unwrap();
        change(&mut raw);
        raw.checksum = raw.computed_checksum(b"").into();
        Envelope::parse(raw.as_bytes()).unwrap_err()
    };
    assert_eq!(reseal(|raw| raw.kind = 2), EnvelopeError::Field { field: "kind", found: 2 });
    assert_eq!(
        reseal(|raw| raw.partition = 4096.into()),
        EnvelopeError::Field { field: "partition", found: 4096 }
    );
    assert_eq!(reseal(|raw| raw.zero = 1), EnvelopeError::Field { field: "zero", found: 1 });
}

#[test]
fn limits_hold_and_leave_the_buffer_alone() {
    let (key, header) = sample();
    let mut bytes = b"before".to_vec();
    let large = vec![0; PAYLOAD_LENGTH_MAX + 1];
    assert_eq!(
        Envelope::write(&header, &large, &mut bytes),
        Err(EnvelopeError::TooLarge { length: large.len() })
    );
    let tombstone = EnvelopeHeader::tombstone(key.as_ref());
    assert_eq!(
        Envelope::write(&tombstone, b"x", &mut bytes),
        Err(EnvelopeError::TombstoneWithPayload { length: 1 })
    );
    let new = EnvelopeHeader { schema: SCHEMA_MAX + 1, ..header };
    assert_eq!(
        Envelope::write(&new, b"x", &mut bytes),
        Err(EnvelopeError::Field { field: "schema", found: 65_536 })
    );
    assert_eq!(bytes, b"before");
    assert_eq!(Envelope::seal(&header, &mut [0; 63]), Err(EnvelopeError::TooShort { length: 63 }));
    assert!(Envelope::write(&header, &large[..PAYLOAD_LENGTH_MAX], &mut bytes).is_ok());
}

#[test]
fn sealing_in_place_gives_the_same_bytes() {
    let (_, header) = sample();
    let mut in_place = vec![0xAA; ENVELOPE_HEADER_LENGTH];
    in_place.extend_from_slice(b"hello");
    Envelope::seal(&header, &mut in_place).unwrap();
    assert_eq!(in_place, sealed(&header, b"hello"));
}

#[test]
fn a_record_under_another_key_is_refused() {
    let key = RecordKey::u64(5, 1);
    let bytes = sealed(&EnvelopeHeader::state(key.as_ref()), b"hello");
    assert!(Envelope::open(key.as_ref(), &bytes).is_ok());
    assert!(matches!(
        Envelope::open(RecordKey::u64(5, 2).as_ref(), &bytes),
        Err(EnvelopeError::WrongKey { .. })
    ));
    assert_eq!(
        Envelope::open(RecordKey::u64(6, 1).as_ref(), &bytes),
        Err(EnvelopeError::WrongEntity { found: 5, expected: 6 })
    );
}
