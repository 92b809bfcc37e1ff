//! Tests of `view_bytes.rs`.

use super::*;

const ALICE: NodeId = NodeId { id: 7, incarnation: 3 };
const BOB: NodeId = NodeId { id: u64::MAX, incarnation: u32::MAX };

fn sample() -> View {
    let mut entities =
        vec![BoundEntity::new("game.Player", 3, 1), BoundEntity::new("game.Barrel", 1, u64::MAX)];
    entities[0]
        .earlier
        .extend([(1, 5), (2, u64::MAX)].map(|(version, layout)| EarlierForm { version, layout }));
    let mut view = View::empty(StoreId(u128::MAX - 5));
    view.version = 9;
    view.put_member(Member { node: ALICE, address: "127.0.0.1:5000".into(), cores: 0, entities });
    view.put_member(Member { node: BOB, address: "é".repeat(128), cores: 255, entities: Vec::new() });
    view.raise_schema("game.Player", 2);
    view.raise_schema("game.Barrel", u32::MAX);
    for (index, partition) in Partition::all().enumerate().skip(1) {
        view.assign(partition, Some(if index % 3 == 0 { ALICE } else { BOB }));
        view.partitions[index].epoch = index as u64;
        view.partitions[index].moving_to = (index % 6 == 0).then_some(BOB);
    }
    view
}

/// The checksum made right, so that what is behind it is tried.
fn seal(bytes: &mut [u8]) {
    if bytes.len() >= HEAD_LENGTH {
        let checksum = crc32fast::hash(&bytes[HEAD_LENGTH..]);
        bytes[HEAD_LENGTH - 4..HEAD_LENGTH].copy_from_slice(&checksum.to_le_bytes());
    }
}

#[test]
fn a_view_comes_back_as_it_went_in() {
    for view in [View::empty(StoreId(1)), sample()] {
        assert_eq!(decode(&encode(&view)), Ok(view));
    }
    assert!(encode(&sample()).len() < 50_000);
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let bytes = encode(&sample());
    for bit in (0..bytes.len() * 8).step_by(997).chain(0..HEAD_LENGTH * 8) {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&damaged).is_err(), "bit {bit}");
    }
    for length in (0..bytes.len()).step_by(101).chain(0..100) {
        assert!(decode(&bytes[..length]).is_err(), "length {length}");
        let mut cut = bytes[..length].to_vec();
        seal(&mut cut);
        assert_eq!(decode(&cut), Err(DecodeError::TooShort), "length {length}");
    }
}

#[test]
fn what_no_coordinator_wrote_is_refused_behind_a_right_checksum() {
    let partitions = encode(&View::empty(StoreId(1))).len() - 4096 * 12;
    let refused = |place: usize, value: &[u8]| {
        let mut bytes = encode(&View::empty(StoreId(1)));
        bytes[place..place + value.len()].copy_from_slice(value);
        seal(&mut bytes);
        decode(&bytes).unwrap_err()
    };
    assert_eq!(refused(partitions, &[0, 0]), DecodeError::NoMember { place: 0, count: 0 });
    assert_eq!(
        refused(partitions - 4, &[1, 4]),
        DecodeError::TooMany { what: "members", given: 1025, limit: MEMBERS_MAX }
    );
    assert_eq!(
        refused(partitions - 2, &[1, 16]),
        DecodeError::TooMany { what: "versions of entities", given: 4097, limit: SCHEMAS_MAX }
    );
    assert!(matches!(refused(partitions + 4, &[0xFF; 8]), DecodeError::Rule(ViewError::EpochTooHigh { .. })));
    let mut long = encode(&sample());
    long.push(0);
    seal(&mut long);
    assert_eq!(decode(&long), Err(DecodeError::TooLong { count: 1 }));
}

#[test]
fn fuzz_view_bytes() {
    let mut random = fastrand::Rng::with_seed(0x0EC0);
    let good = encode(&sample());
    for _ in 0..2_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..8) {
            let place = random.usize(0..bytes.len().min(600));
            bytes[place] = random.u8(..);
        }
        bytes.truncate(random.usize(0..=bytes.len() * 2).min(bytes.len()));
        seal(&mut bytes);
        if let Ok(view) = decode(&bytes) {
            assert_eq!(encode(&view), bytes, "one view has one form");
        }
    }
}
