//! The three tables, each for itself.

use super::*;
use crate::wire::assembly::assemble_bare;
use epicserver_transport::FrameKind;

fn target(key: &[u8]) -> TargetKey<'_> {
    TargetKey { entity: 5, key: KeyView { kind: KeyKind::Bytes, bytes: key } }
}

fn request(number: u32, key: Option<&[u8]>) -> Frame {
    let mut header = FrameHeader::new(FrameKind::Request);
    (header.handle, header.slot) = (number.into(), 4.into());
    let extension = Extension { budget_us: Some(3), key: key.map(target), ..Extension::default() };
    assemble(None, header, &extension, b"payload").unwrap()
}

/// Handle and key of a frame whose other parts are as `request` makes them.
fn parts(frame: &Frame) -> (u32, Option<Vec<u8>>) {
    let header = FrameHeader::parse_frame(frame).unwrap();
    let extension = Extension::parse(FrameHeader::ext_bytes(frame).unwrap()).unwrap();
    assert_eq!((header.slot.get(), extension.budget_us), (4, Some(3)));
    assert_eq!(FrameHeader::payload_bytes(frame), Some(&b"payload"[..]));
    (header.handle.get(), extension.key.map(|key| key.key.bytes.to_vec()))
}

#[test]
fn a_key_keeps_its_handle_and_another_gets_another() {
    let mut handles = Handles::for_core(0, 1);
    let first = handles.handle(target(b"a")).unwrap();
    assert_eq!(first, Handle { number: 1, is_known: false });
    assert_eq!(handles.handle(target(b"b")).unwrap().number, 2);
    handles.mark_known(1);
    handles.mark_known(0);
    handles.mark_known(9);
    assert_eq!(handles.handle(target(b"a")).unwrap(), Handle { number: 1, is_known: true });
    assert!(!handles.handle(target(b"b")).unwrap().is_known);
    let other_entity = TargetKey { entity: 6, ..target(b"a") };
    assert_eq!(handles.handle(other_entity).unwrap().number, 3);
    handles.forget_known();
    assert_eq!(handles.handle(target(b"a")).unwrap(), first);
}

#[test]
fn the_table_is_bounded_and_the_cores_share_it() {
    let mut tables = [0, 1, 2].map(|core| Handles::for_core(core, 3));
    let mut numbers = Vec::new();
    for table in &mut tables {
        let keys = (0u32..).map(u32::to_le_bytes);
        numbers.extend(keys.map_while(|key| table.handle(target(&key))).map(|handle| handle.number));
        assert_eq!(table.handle(target(b"one more")), None);
        assert!(table.handle(target(&7u32.to_le_bytes())).is_some());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=HANDLES_MAX as u32).collect::<Vec<_>>(), "each once");
    let last = tables[2].handle(target(&9u32.to_le_bytes())).unwrap().number;
    tables[2].mark_known(last);
    assert!(tables[2].handle(target(&9u32.to_le_bytes())).unwrap().is_known);
}

#[test]
fn keys_of_one_hash_do_not_mix() {
    let mut handles = Handles::for_core(0, 1);
    handles.handle(target(b"a"));
    // As if `b` had the hash of `a`.
    handles.newest.put(hash_of(&target(b"b")), 0);
    assert_eq!(handles.handle(target(b"b")).unwrap().number, 2);
    assert_eq!(handles.handle(target(b"b")).unwrap().number, 2);
    assert_eq!(handles.entries[1].older, Some(0));
}

#[test]
fn a_peer_cannot_use_what_is_not_bound_nor_bind_what_is() {
    let mut bound = BoundHandles::default();
    let beyond = HANDLES_MAX as u32 + 1;
    for out_of_range in [0, beyond, u32::MAX] {
        assert_eq!(bound.take(out_of_range, None), Err(InternError::Range(out_of_range)));
        assert_eq!(bound.take(out_of_range, Some(target(b"a"))), Err(InternError::Range(out_of_range)));
    }
    assert_eq!(bound.take(2, None), Err(InternError::Unbound(2)));
    assert_eq!(bound.take(beyond - 1, Some(target(b"a"))), Ok(None));
    assert_eq!(bound.take(2, Some(target(b"b"))), Ok(None));
    assert_eq!(bound.take(2, Some(target(b"b"))), Ok(None));
    assert_eq!(bound.take(2, Some(target(b"c"))), Err(InternError::Bound(2)));
    assert_eq!(bound.take(2, None).unwrap().unwrap().borrow(), target(b"b"));
    for unknown in [1, 3] {
        assert_eq!(bound.take(unknown, None), Err(InternError::Unbound(unknown)));
    }
    bound.clear();
    assert_eq!(bound.take(2, None), Err(InternError::Unbound(2)));
}

#[test]
fn a_handle_goes_alone_only_behind_a_frame_that_binds_it() {
    let mut sent = SentHandles::default();
    let short = request(3, None);
    assert_eq!(sent.fit(short.clone(), 3).unwrap_err().0, InternError::Unbound(3));
    let binding = sent.fit(request(3, Some(b"key")), 3).unwrap();
    assert_eq!(parts(&binding), (3, Some(b"key".to_vec())));
    // The binding frame found no room in its queue: the next one must bind.
    assert_eq!(parts(&sent.fit(short.clone(), 3).unwrap()), (3, Some(b"key".to_vec())));
    sent.mark_bound(3);
    assert_eq!(parts(&sent.fit(short.clone(), 3).unwrap()), (3, None));
    assert_eq!(sent.fit(request(3, Some(b"other")), 3).unwrap_err().0, InternError::Bound(3));
    sent.unbind();
    assert_eq!(parts(&sent.fit(short.clone(), 3).unwrap()), (3, Some(b"key".to_vec())));
    assert_eq!(sent.fit(short, HANDLES_MAX as u32 + 1).unwrap_err().0, InternError::Range(65_537));
}

#[test]
fn a_frame_gets_its_key_back() {
    let mut sent = SentHandles::default();
    let binding = sent.fit(request(1, Some(b"key")), 1).unwrap();
    for frame in [binding, request(1, None)] {
        assert_eq!(parts(&sent.with_full_key(&frame).unwrap()), (0, Some(b"key".to_vec())));
    }
    assert_eq!(sent.with_full_key(&assemble_bare(None, FrameHeader::new(FrameKind::Request), b"")), None);
}
