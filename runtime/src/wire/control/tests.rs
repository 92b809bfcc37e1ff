//! What is written is read, and nothing else is.

use std::collections::BTreeSet;

use epicserver_storage::{ENVELOPE_HEADER_LENGTH, Envelope, EnvelopeHeader, RecordKey, StoreError};
use fastrand::Rng;
use proptest::prelude::*;

use super::parts::{Collected, Collector, SaveStream, read_saves};
use super::*;

proptest! {
    #[test]
    fn a_message_comes_back_as_it_was(seed: u64, request: u32) {
        let message = samples::message(&mut Rng::with_seed(seed));
        let frame = message.frame(None, request).expect("samples are short");
        prop_assert_eq!(ControlMessage::parse(&frame), Ok((request, message)));
    }

    /// No shorter form of a message is one too, so that every length in it is looked at.
    #[test]
    fn a_message_that_is_cut_off_or_goes_on_is_refused(seed: u64, cut: prop::sample::Index) {
        let bytes = samples::message(&mut Rng::with_seed(seed)).encode().expect("samples are short");
        let shorter = &bytes[..cut.index(bytes.len())];
        prop_assert!(ControlMessage::decode(shorter).is_err(), "cut to {} of {}", shorter.len(), bytes.len());
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(ControlMessage::decode(&longer).is_err());
    }
}

#[test]
fn the_samples_have_every_kind() {
    let kinds: BTreeSet<u8> =
        (0..500).map(|seed| samples::message(&mut Rng::with_seed(seed)).kind()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), (0..samples::KINDS as u8).collect::<Vec<_>>());
    assert_eq!(
        ControlMessage::decode(&[samples::KINDS as u8]),
        Err(ControlError::Kind(samples::KINDS as u8))
    );
}

#[test]
fn announced_lengths_are_not_believed() {
    // A list of handovers that announces more than there are partitions, and one that announces more than is there.
    let list = |count: u32| [&[11][..], &count.to_le_bytes(), &[0; 22]].concat();
    assert_eq!(ControlMessage::decode(&list(1)).map(|message| message.kind()), Ok(11));
    assert_eq!(ControlMessage::decode(&list(2)), Err(ControlError::Short));
    assert_eq!(ControlMessage::decode(&list(4097)), Err(ControlError::Limit { given: 4097, max: 4096 }));
}

#[test]
fn a_view_that_breaks_a_rule_is_refused() {
    let mut view = samples::view(&mut Rng::with_seed(3));
    assert!(view.members.len() > 1, "the seed gives two members");
    view.members.swap(0, 1);
    let bytes = ControlMessage::View(Arc::new(view)).encode().expect("it is short");
    let refused = ControlMessage::decode(&bytes);
    assert!(matches!(refused, Err(ControlError::View(ViewError::MemberOrder { .. }))), "{refused:?}");
}

#[test]
fn only_control_frames_are_read() {
    let payload = ControlMessage::Renew.encode().expect("it is short");
    let frame = assemble_bare(None, FrameHeader::new(FrameKind::Reply), &payload);
    assert_eq!(ControlMessage::parse(&frame), Err(ControlError::NotControl));
    assert_eq!(ControlMessage::parse(&frame[..8]), Err(ControlError::NotControl));
}

#[test]
fn a_long_reason_is_cut_at_a_letter() {
    let error = StoreError::Failed { reason: "ä".repeat(TEXT_LEN_MAX) };
    let message = ControlMessage::StoreAnswer(StoreAnswer::Failed(error));
    let (_, read) =
        ControlMessage::parse(&message.frame(None, 1).expect("it is cut")).expect("it is well formed");
    let ControlMessage::StoreAnswer(StoreAnswer::Failed(StoreError::Failed { reason })) = read else {
        panic!("another message: {read:?}");
    };
    assert_eq!(reason, "ä".repeat(TEXT_LEN_MAX / 2));
}

#[test]
fn a_message_beyond_the_limit_is_not_written() {
    let part = Part { number: 0, is_last: true, bytes: vec![0; CONTROL_LEN_MAX] };
    let to = NodeId { id: 1, incarnation: 1 };
    let message = ControlMessage::Ship { partition: Partition::from_hash(0), epoch: 1, to, part };
    assert!(matches!(message.frame(None, 0), Err(ControlError::Limit { .. })));
}

fn stream(payload_len: usize, count: u64) -> SaveStream {
    let mut stream = SaveStream::default();
    for number in 0..count {
        let key = RecordKey::u64(1, number);
        let mut envelope = Vec::new();
        let payload = vec![number as u8; payload_len];
        Envelope::write(&EnvelopeHeader::state(key.as_ref()), &payload, &mut envelope).expect("it is short");
        stream.push(key.as_ref(), &envelope);
    }
    stream
}

fn collect(place: &mut Option<Collector<u8>>, part: Part) -> Collected {
    Collector::take(place, 1, part, 64 << 20)
}

#[test]
fn a_stream_comes_back_from_its_parts_also_when_one_comes_twice() {
    for (payload_len, count, parts) in [(0, 0, 1), (10, 3, 1), (3 << 20, 3, 3), (10 << 20, 1, 3)] {
        let stream = stream(payload_len, count);
        assert_eq!(stream.part_count(), parts);
        let mut place = None;
        for number in 0..parts - 1 {
            assert_eq!(collect(&mut place, stream.part(number)), Collected::Taken);
            if number > 0 {
                assert_eq!(collect(&mut place, stream.part(number)), Collected::Taken, "it came twice");
            }
        }
        let Collected::Whole(whole) = collect(&mut place, stream.part(parts - 1)) else {
            panic!("the last part of {parts} ends the stream");
        };
        let mut read = 0;
        read_saves(&whole, |key, envelope| {
            assert_eq!(key, RecordKey::u64(1, read).as_ref());
            assert_eq!(envelope.len(), ENVELOPE_HEADER_LENGTH + payload_len);
            read += 1;
            Ok::<_, ControlError>(())
        })
        .expect("the stream is whole");
        assert_eq!((read, place.is_none()), (count, true));
    }
}

#[test]
fn parts_that_do_not_follow_make_the_sender_start_over() {
    let stream = stream(3 << 20, 4);
    let mut place = None;
    assert_eq!(collect(&mut place, stream.part(1)), Collected::Missing, "nothing came before it");
    assert_eq!(collect(&mut place, stream.part(0)), Collected::Taken);
    assert_eq!(
        Collector::take(&mut place, 2, stream.part(1), 64 << 20),
        Collected::Missing,
        "another stream"
    );
    assert_eq!(collect(&mut place, stream.part(2)), Collected::Missing, "one is missing");
    assert_eq!(collect(&mut place, stream.part(0)), Collected::Taken);
    assert_eq!(
        Collector::take(&mut place, 1, stream.part(1), 5 << 20),
        Collected::Missing,
        "it gets too long"
    );
    assert!(place.is_none());
}

#[test]
fn a_stream_of_other_bytes_is_refused() {
    let stream = stream(100, 2).part(0).bytes;
    let read = |bytes: &[u8]| read_saves(bytes, |_, _| Ok::<_, ControlError>(()));
    assert_eq!(read(&stream), Ok(()));
    assert_eq!(read(&stream[..stream.len() - 1]), Err(ControlError::Short));
    assert_eq!(read(&[stream, vec![0]].concat()), Err(ControlError::Short));
}
