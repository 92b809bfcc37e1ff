//! Round trips, golden bytes, and every refusal of the extension parser.

use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// The owned twin of an [`Extension`], which proptest can shrink.
#[derive(Clone, Debug)]
struct Owned {
    origin: Option<(u64, u32, u8, u32, u32)>,
    budget_us: Option<u32>,
    view: Option<(u64, u64)>,
    path: Vec<PathEntry>,
    trace: Option<u128>,
    key: Option<(u64, OwnedKey)>,
    hops: u8,
}

#[derive(Clone, Debug)]
struct OwnedKey(KeyKind, Vec<u8>);

impl Owned {
    fn borrow(&self) -> Extension<'_> {
        Extension {
            origin: self.origin.map(|(node, incarnation, core, slot, generation)| Origin {
                node,
                incarnation,
                core,
                slot,
                generation,
            }),
            budget_us: self.budget_us,
            view: self.view.map(|(version, epoch)| ViewStamp { version, epoch }),
            path: &self.path,
            trace: self.trace,
            key: self.key.as_ref().map(|(entity, key)| TargetKey {
                entity: *entity,
                key: KeyView { kind: key.0, bytes: &key.1 },
            }),
            hops: self.hops,
        }
    }
}

fn any_varint() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(value, shift)| value >> shift)
}

fn any_entry() -> impl Strategy<Value = PathEntry> {
    let hold = prop_oneof![Just(Hold::Shared), Just(Hold::Exclusive), Just(Hold::Serial)];
    let parts = (any::<u128>(), any::<u128>(), hold, any::<u32>(), any::<u16>());
    parts.prop_map(|(object, call, hold, method, partition)| PathEntry {
        object: object.into(),
        call: call.into(),
        hold,
        method: method.into(),
        partition: partition.into(),
    })
}

fn any_key() -> impl Strategy<Value = OwnedKey> {
    prop_oneof![
        any::<[u8; 8]>().prop_map(|key| OwnedKey(KeyKind::U64, key.to_vec())),
        any::<[u8; 16]>().prop_map(|key| OwnedKey(KeyKind::U128, key.to_vec())),
        "\\PC{0,100}".prop_map(|key| OwnedKey(KeyKind::Utf8, key.into_bytes())),
        vec(any::<u8>(), 0..=KEY_LEN_MAX).prop_map(|key| OwnedKey(KeyKind::Bytes, key)),
    ]
}

fn any_extension() -> impl Strategy<Value = Owned> {
    (
        option::of(any::<(u64, u32, u8, u32, u32)>()),
        option::of(any::<u32>()),
        option::of((any_varint(), any_varint())),
        prop_oneof![2 => Just(Vec::new()), 1 => vec(any_entry(), 1..=PATH_LEN_MAX)],
        option::of(any::<u128>()),
        option::of((any::<u64>(), any_key())),
        prop_oneof![Just(0u8), any::<u8>()],
    )
        .prop_map(|(origin, budget_us, view, path, trace, key, hops)| Owned {
            origin,
            budget_us,
            view,
            path,
            trace,
            key,
            hops,
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read(owned in any_extension()) {
        let extension = owned.borrow();
        let mut bytes = Vec::new();
        let len = extension.append(&mut bytes).unwrap();
        prop_assert_eq!(len, bytes.len());
        prop_assert_eq!(len % UNIT, 0);
        prop_assert!(len <= EXTENSION_LEN_MAX);
        prop_assert_eq!(Extension::parse(&bytes), Ok(extension));
    }

    #[test]
    fn one_value_has_one_spelling(bytes in vec(any::<u8>(), 0..200), flips in vec((any::<u16>(), any::<u8>()), 0..3), owned in any_extension()) {
        let mut written = Vec::new();
        owned.borrow().append(&mut written).unwrap();
        for (at, bits) in flips {
            let at = usize::from(at) % written.len().max(1);
            if let Some(byte) = written.get_mut(at) { *byte ^= bits; }
        }
        for candidate in [bytes, written] {
            if let Ok(extension) = Extension::parse(&candidate) {
                let mut again = Vec::new();
                extension.append(&mut again).unwrap();
                prop_assert_eq!(again, candidate);
            }
        }
    }

    #[test]
    fn the_short_ways_say_what_the_long_one_says(
        budget_us in any::<u32>(),
        version in 0u64..0x90,
        epoch in 0u64..0x90,
        entry in any_entry(),
        flip in option::of((0usize..CHILD_LEN, any::<u8>())),
    ) {
        let view = ViewStamp { version, epoch };
        for path in [&[][..], &[entry]] {
            let extension = Extension { budget_us: Some(budget_us), view: Some(view), path, ..Extension::default() };
            let mut bytes = Vec::new();
            extension.append(&mut bytes).expect("it is spoken");
            let short = match path {
                [parent] => child(budget_us, view, parent).map(|block| block.to_vec()),
                _ => plain(budget_us, view).map(|block| block.to_vec()),
            };
            prop_assert_eq!(short.is_some(), version < 0x80 && epoch < 0x80);
            prop_assert!(short.is_none_or(|short| short == bytes));
            if let Some((at, byte)) = flip && at < bytes.len() {
                bytes[at] = byte;
            }
            prop_assert_eq!(Extension::parse(&bytes), Extension::parse_any(&bytes));
        }
    }

    #[test]
    fn no_prefix_of_a_block_is_a_block(owned in any_extension()) {
        let mut bytes = Vec::new();
        owned.borrow().append(&mut bytes).unwrap();
        for len in (UNIT..bytes.len()).step_by(UNIT) {
            prop_assert!(Extension::parse(&bytes[..len]).is_err());
        }
    }
}

#[test]
fn an_ordinary_request_takes_32_bytes() {
    let extension = Extension {
        budget_us: Some(10_000_000),
        view: Some(ViewStamp { version: (1 << 28) - 1, epoch: (1 << 35) - 1 }),
        key: Some(TargetKey { entity: u64::MAX, key: KeyView { kind: KeyKind::U64, bytes: &[0xff; 8] } }),
        ..Extension::default()
    };
    assert_eq!(extension.encoded_len(), 32);
}

#[test]
fn the_longest_block_has_the_named_length() {
    let text = "x".repeat(KEY_LEN_MAX);
    let entry = PathEntry {
        object: 1.into(),
        call: 2.into(),
        hold: Hold::Serial,
        method: 3.into(),
        partition: 4.into(),
    };
    let extension = Extension {
        origin: Some(Origin { node: 1, incarnation: 2, core: 3, slot: 4, generation: 5 }),
        budget_us: Some(1),
        view: Some(ViewStamp { version: u64::MAX, epoch: u64::MAX }),
        path: &[entry; PATH_LEN_MAX],
        trace: Some(1),
        key: Some(TargetKey { entity: 1, key: KeyView { kind: KeyKind::Utf8, bytes: text.as_bytes() } }),
        hops: 1,
    };
    assert_eq!(extension.encoded_len(), EXTENSION_LEN_MAX);
}

/// The layout is part of the protocol version: change these bytes only together with it.
#[test]
fn the_bytes_are_pinned() {
    let entry = PathEntry {
        object: (u128::MAX / 0xff * 0xaa).into(),
        call: (u128::MAX / 0xff * 0xbb).into(),
        hold: Hold::Exclusive,
        method: 0x0403_0201.into(),
        partition: 0x0605.into(),
    };
    let extension = Extension {
        origin: Some(Origin { node: 0x11, incarnation: 0x22, core: 0x33, slot: 0x44, generation: 0x55 }),
        budget_us: Some(0x66),
        view: Some(ViewStamp { version: 300, epoch: 1 }),
        path: &[entry],
        trace: Some(0x77),
        key: Some(TargetKey { entity: 0x88, key: KeyView { kind: KeyKind::Utf8, bytes: b"Bob" } }),
        hops: 9,
    };
    let mut bytes = Vec::new();
    extension.append(&mut bytes).unwrap();
    let mut expected = vec![0x7f, 0x00];
    expected.extend([0x11, 0, 0, 0, 0, 0, 0, 0, 0x22, 0, 0, 0, 0x33, 0x44, 0, 0, 0, 0x55, 0, 0, 0]);
    expected.extend([0x66, 0, 0, 0]);
    expected.extend([0xac, 0x02, 0x01]);
    expected.push(1);
    expected.extend([0xaa; 16]);
    expected.extend([0xbb; 16]);
    expected.extend([1, 1, 2, 3, 4, 5, 6]);
    expected.extend([0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([0x88, 0, 0, 0, 0, 0, 0, 0, 2, 3, 0, b'B', b'o', b'b']);
    expected.push(9);
    expected.resize(expected.len().next_multiple_of(16), 0);
    assert_eq!(bytes, expected);
}

#[test]
fn every_refusal_has_its_name() {
    use ExtensionError::*;
    let parse = |bytes: &[u8]| {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(16), 0);
        Extension::parse(&padded).map(|_| ()).unwrap_err()
    };
    assert_eq!(Extension::parse(&[1]), Err(Truncated));
    assert_eq!(Extension::parse(&[2, 0, 1, 2]), Err(Truncated));
    assert_eq!(Extension::parse(&[0x40, 0, 1]), Err(Padding));
    assert_eq!(parse(&[0, 0]), Presence(0));
    assert_eq!(parse(&[0x80, 0]), Presence(0x80));
    assert_eq!(parse(&[4, 0, 0x80, 0x00, 0]), NotMinimal);
    let mut overlong = vec![4, 0];
    overlong.extend([0xff; 9]);
    overlong.push(2);
    assert_eq!(parse(&overlong), VarintTooLong);
    assert_eq!(parse(&[8, 0, 0]), NotMinimal);
    assert_eq!(parse(&[8, 0, 33]), PathTooLong(33));
    let mut held = vec![8, 0, 1];
    held.extend([0; 32]);
    held.extend([3, 0, 0, 0, 0]);
    assert_eq!(parse(&held), Hold);
    assert_eq!(parse(&[0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]), KeyKind(4));
    assert_eq!(parse(&[0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 2]), KeyTooLong(513));
    assert_eq!(parse(&[0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0xff]), KeyText);
    assert_eq!(parse(&[0x40, 0, 0]), NotMinimal);
    assert_eq!(parse(&[0x40, 0, 1, 1]), Padding);
    let mut spare_unit = [0; 32];
    spare_unit[0] = 0x40;
    spare_unit[2] = 1;
    assert_eq!(Extension::parse(&spare_unit), Err(Padding));
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_the_output_alone() {
    let long = vec![0; KEY_LEN_MAX + 1];
    let extension = Extension {
        key: Some(TargetKey { entity: 1, key: KeyView { kind: KeyKind::Bytes, bytes: &long } }),
        ..Extension::default()
    };
    let mut out = vec![7];
    assert_eq!(extension.append(&mut out), Err(ExtensionError::KeyTooLong(KEY_LEN_MAX + 1)));
    assert_eq!(out, [7]);
    let mut room = [7; 15];
    let short = Extension { hops: 1, ..Extension::default() };
    assert_eq!(short.write(&mut room), Err(ExtensionError::Room { needed: 16 }));
    assert_eq!(room, [7; 15]);
    let odd = Extension {
        key: Some(TargetKey { entity: 1, key: KeyView { kind: KeyKind::U64, bytes: &[1] } }),
        ..Extension::default()
    };
    assert_eq!(odd.append(&mut out), Err(ExtensionError::KeyNumber(1)));
    let entry = PathEntry {
        object: 0.into(),
        call: 0.into(),
        hold: Hold::Shared,
        method: 0.into(),
        partition: 0.into(),
    };
    let deep = Extension { path: &[entry; 33], ..Extension::default() };
    assert_eq!(deep.append(&mut out), Err(ExtensionError::PathTooLong(33)));
}

#[test]
fn a_budget_is_rounded_down_and_saturates() {
    assert_eq!(budget_us_from_ns(999), 0);
    assert_eq!(budget_us_from_ns(1_999), 1);
    assert_eq!(budget_us_from_ns(u64::MAX), u32::MAX);
}
