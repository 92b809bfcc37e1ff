//! Both halves of the table.

use super::*;
use crate::wire::assembly::assemble_bare;
use epicserver_transport::FrameKind;

fn target(key: &[u8]) -> TargetKey<'_> {
    TargetKey { entity: 5, key: KeyView { kind: KeyKind::Bytes, bytes: key } }
}

#[test]
fn a_key_keeps_its_handle_and_another_gets_another() {
    let mut sender = InternSender::new();
    let first = sender.handle(target(b"a")).unwrap();
    assert_eq!(first, Handle { number: 1, is_bound: false });
    assert_eq!(sender.handle(target(b"b")).unwrap().number, 2);
    sender.mark_bound(1);
    sender.mark_bound(0);
    sender.mark_bound(9);
    assert_eq!(sender.handle(target(b"a")).unwrap(), Handle { number: 1, is_bound: true });
    assert!(!sender.handle(target(b"b")).unwrap().is_bound);
    let other_entity = TargetKey { entity: 6, ..target(b"a") };
    assert_eq!(sender.handle(other_entity).unwrap().number, 3);
}

#[test]
fn the_table_is_bounded_and_clears() {
    let mut sender = InternSender::new();
    for key in 0..HANDLES_MAX as u32 {
        assert_eq!(sender.handle(target(&key.to_le_bytes())).unwrap().number, key + 1);
    }
    assert_eq!(sender.handle(target(b"one more")), None);
    assert_eq!(sender.handle(target(&7u32.to_le_bytes())).unwrap().number, 8);
    sender.clear();
    assert_eq!(sender.handle(target(b"one more")).unwrap().number, 1);
}

#[test]
fn keys_of_one_hash_do_not_mix() {
    let mut sender = InternSender::new();
    sender.handle(target(b"a"));
    // As if `b` had the hash of `a`.
    sender.newest.put(hash_of(&target(b"b")), 0);
    assert_eq!(sender.handle(target(b"b")).unwrap().number, 2);
    assert_eq!(sender.handle(target(b"b")).unwrap().number, 2);
    assert_eq!(sender.entries[1].older, Some(0));
}

#[test]
fn a_peer_cannot_bind_what_is_bound_or_out_of_range() {
    let mut receiver = InternReceiver::new();
    assert_eq!(receiver.bind(0, target(b"a")), Err(InternError::Range(0)));
    let beyond = HANDLES_MAX as u32 + 1;
    assert_eq!(receiver.bind(beyond, target(b"a")), Err(InternError::Range(beyond)));
    assert_eq!(receiver.bind(beyond - 1, target(b"a")), Ok(()));
    assert_eq!(receiver.bind(2, target(b"b")), Ok(()));
    assert_eq!(receiver.bind(2, target(b"b")), Ok(()));
    assert_eq!(receiver.bind(2, target(b"c")), Err(InternError::Bound(2)));
    assert_eq!(receiver.target(2), Some(target(b"b")));
    for unknown in [0, 1, 3, beyond, u32::MAX] {
        assert_eq!(receiver.target(unknown), None);
    }
    receiver.clear();
    assert_eq!(receiver.target(2), None);
}

#[test]
fn a_frame_gets_its_key_back() {
    let mut sender = InternSender::new();
    let handle = sender.handle(target(b"key")).unwrap();
    let mut header = FrameHeader::new(FrameKind::Request);
    (header.handle, header.slot) = (handle.number.into(), 4.into());
    let short = Extension { budget_us: Some(3), ..Extension::default() };
    for extension in [short, Extension { key: Some(target(b"key")), ..short }] {
        let frame = assemble(None, header, &extension, b"payload").unwrap();
        let restored = sender.with_full_key(&frame).unwrap();
        let restored_header = FrameHeader::parse_frame(&restored).unwrap();
        assert_eq!((restored_header.handle.get(), restored_header.slot.get()), (0, 4));
        let restored_extension = Extension::parse(FrameHeader::ext_bytes(&restored).unwrap()).unwrap();
        assert_eq!(restored_extension, Extension { key: Some(target(b"key")), ..short });
        assert_eq!(FrameHeader::payload_bytes(&restored), Some(&b"payload"[..]));
    }
    assert_eq!(sender.with_full_key(&assemble_bare(None, FrameHeader::new(FrameKind::Request), b"")), None);
}
