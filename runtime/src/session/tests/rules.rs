//! Each rule by itself: deadlines, windows, what a peer must not do, what becomes of calls.

use epicserver_transport::{BufferPool, Frame, FrameHeader, FrameKind, SizeClass};

use crate::session::lane::Lane;
use crate::session::status::Status;
use crate::session::tests::pair::{End, Fate, Pair, whole};
use crate::session::{
    DownReason, FragmentError, LINK_RECEIVES, LinkError, QueueError, Session, SessionConfig, SessionEvent,
};
use crate::wire::assembly::assemble_bare;
use crate::wire::hello::{CloseReason, Identity};

const SECOND: u64 = 1_000_000_000;

fn config(stream: u64) -> SessionConfig {
    let mut config = SessionConfig::new(stream, 512);
    (config.window_calls, config.window_answers, config.window_controls) = (4, 4, 4);
    (config.queue_calls_max, config.queue_answers_max) = (8, 8);
    config.count_after = 2;
    config.payload_len_max = 10_000;
    config
}

fn up() -> Pair {
    let mut pair = Pair::new([config(10), config(20)]);
    pair.connect(0);
    pair.settle();
    assert_eq!(pair.ends[0].events, ["Up 2.1 false"]);
    pair
}

fn bare(kind: FrameKind, len: usize) -> Frame {
    assemble_bare(None, FrameHeader::new(kind), &vec![0; len])
}

fn status(kind: FrameKind, received: u64, granted_calls: u64, granted_answers: u64) -> Frame {
    let status = Status {
        received: received.into(),
        granted_calls: granted_calls.into(),
        granted_answers: granted_answers.into(),
        granted_controls: 4.into(),
        token: 0.into(),
    };
    status.frame(None, kind)
}

/// Hands these frames to an end that is up; what it made of the last one.
fn broken_by(pair: &mut Pair, frames: impl IntoIterator<Item = Frame>) -> String {
    pair.wires[0].extend(frames);
    pair.deliver(0, usize::MAX);
    assert!(!pair.ends[0].session.is_up());
    // The last word, and nothing after it.
    let last_word = pair.ends[0].session.poll_transmit(pair.now).unwrap();
    assert_eq!(FrameHeader::parse(&last_word).unwrap().kind(), FrameKind::Close);
    assert_eq!(pair.ends[0].session.poll_transmit(pair.now), None);
    pair.wires[1].push_back(last_word);
    pair.deliver(1, 1);
    assert_eq!(
        pair.ends[1].events.last().unwrap(),
        &format!("Down {:?}", DownReason::ClosedByPeer(CloseReason::Session))
    );
    pair.ends[0].events.last().unwrap().clone()
}

fn error(error: LinkError) -> String {
    format!("Down {:?}", DownReason::Error(error))
}

#[test]
fn a_peer_that_breaks_a_rule_loses_its_link() {
    let cases: Vec<(Vec<Frame>, LinkError)> = vec![
        ((0..5).map(|number| whole(FrameKind::Request, number, 0)).collect(), LinkError::CreditBreach),
        ((0..5).map(|number| whole(FrameKind::Reply, number, 0)).collect(), LinkError::CreditBreach),
        (vec![bare(FrameKind::Hello, 0)], LinkError::Unexpected(FrameKind::Hello)),
        (vec![bare(FrameKind::Intern, 0)], LinkError::Unexpected(FrameKind::Intern)),
        ((0..5).map(|number| whole(FrameKind::Control, number, 0)).collect(), LinkError::CreditBreach),
        (vec![bare(FrameKind::Credit, 31)], LinkError::MalformedStatus),
        (vec![status(FrameKind::Credit, 1, 4, 4)], LinkError::Count),
        (vec![status(FrameKind::Credit, 0, 3, 4)], LinkError::CreditOverflow),
        (vec![status(FrameKind::Credit, 0, 5, 4)], LinkError::CreditOverflow),
        (vec![status(FrameKind::Credit, 0, 4, 5)], LinkError::CreditOverflow),
        (vec![status(FrameKind::Pong, 0, 4, 4)], LinkError::Unexpected(FrameKind::Pong)),
    ];
    for (frames, expected) in cases {
        assert_eq!(broken_by(&mut up(), frames), error(expected));
    }
    let mut pair = up();
    pair.wires[0].extend(vec![bare(FrameKind::Request, 0).slice(0..16)]);
    pair.deliver(0, 1);
    assert!(matches!(
        pair.ends[0].events.last().unwrap().as_str(),
        "Down Error(Malformed(Short { len: 16 }))"
    ));
    let mut pair = up();
    pair.wires[0].extend(vec![bare(FrameKind::Request, 500)]);
    pair.deliver(0, 1);
    assert!(pair.ends[0].events.last().unwrap().starts_with("Down Error(Malformed(TooLong"));
}

#[test]
fn a_count_never_goes_back_and_never_ahead() {
    let mut pair = up();
    pair.ends[0].queue(0, FrameKind::Request, 1, 0);
    pair.ends[0].queue(0, FrameKind::Request, 2, 0);
    pair.transmit(0, 2);
    pair.cut();
    pair.wires[0].push_back(status(FrameKind::Credit, 2, 4, 4));
    pair.deliver(0, 1);
    assert_eq!(pair.ends[0].session.calls().count(), 0);
    assert_eq!(broken_by(&mut pair, [status(FrameKind::Credit, 1, 4, 4)]), error(LinkError::Count));
}

#[test]
fn fragments_keep_their_order_and_their_limit() {
    let piece = |lane: u32, offset: u32, total: u32, flags: u8, len: usize| {
        let mut header = FrameHeader::new(FrameKind::Fragment);
        (header.slot, header.generation, header.method) = (offset.into(), total.into(), lane.into());
        header.flags = flags;
        assemble_bare(None, header, &vec![0; len])
    };
    const LAST: u8 = 1;
    const FIRST: u8 = 2;
    let order = LinkError::Fragment(FragmentError::Order);
    let cases = vec![
        (vec![piece(0, 0, 100, 0, 50)], order),
        (vec![piece(0, 16, 100, FIRST, 50)], order),
        (vec![piece(0, 0, 100, FIRST, 50), piece(0, 0, 100, FIRST, 50)], order),
        (vec![piece(0, 0, 100, FIRST, 50), piece(0, 49, 100, LAST, 51)], order),
        (vec![piece(0, 0, 100, FIRST, 50), piece(0, 50, 101, LAST, 51)], order),
        (vec![piece(0, 0, 100, FIRST, 50), piece(0, 50, 100, 0, 0)], order),
        (vec![piece(0, 0, 100, FIRST, 50), piece(0, 50, 100, 0, 51)], order),
        (vec![piece(0, 0, 100, FIRST, 50), piece(0, 50, 100, LAST, 49)], order),
        (vec![piece(0, 0, 100, FIRST, 50), piece(0, 50, 100, 0, 50)], order),
        (vec![piece(0, 0, 100, FIRST, 50), bare(FrameKind::Request, 0)], order),
        (vec![piece(3, 0, 100, FIRST, 50)], LinkError::MalformedWhole),
        (vec![piece(0, 0, 64, FIRST | LAST, 64)], LinkError::MalformedWhole),
    ];
    for (frames, expected) in cases {
        assert_eq!(broken_by(&mut up(), frames), error(expected));
    }
    let down = broken_by(&mut up(), [piece(0, 0, u32::MAX, FIRST, 50)]);
    assert!(down.contains("TooLong"), "{down}");

    // A whole that is of the other lane, or a fragment again.
    for inner in [bare(FrameKind::Reply, 0), bare(FrameKind::Credit, 32), piece(0, 0, 64, FIRST, 32)] {
        let mut header = FrameHeader::new(FrameKind::Fragment);
        header.generation = (inner.len() as u32).into();
        header.flags = FIRST | LAST;
        let frame = assemble_bare(None, header, &inner);
        assert_eq!(broken_by(&mut up(), [frame]), error(LinkError::MalformedWhole));
    }
}

/// Windows of four: what is refused more often than that, link after link, would leave none.
#[test]
fn what_is_refused_keeps_no_room() {
    let piece = |total: u32, flags: u8| {
        let mut header = FrameHeader::new(FrameKind::Fragment);
        (header.generation, header.flags) = (total.into(), flags);
        assemble_bare(None, header, &[0; 64])
    };
    const FIRST: u8 = 2;
    for frames in
        [vec![piece(128, FIRST), bare(FrameKind::Request, 0)], vec![piece(128, 0)], vec![piece(64, 3)]]
    {
        let mut pair = up();
        for _ in 0..6 {
            broken_by(&mut pair, frames.clone());
            pair.connect(0);
            pair.settle();
        }
        for number in 0..4 {
            pair.ends[1].queue(0, FrameKind::Request, number, 0);
        }
        pair.settle();
        assert_eq!(pair.ends[0].got, [0, 1, 2, 3]);
    }
}

/// Two ends of which the second takes fragments of this length, and the first has so many buffers for long ones.
fn with_bulk(fragment_len_max: u32, buffers_max: usize) -> (Pair, BufferPool) {
    let config = |stream| SessionConfig { payload_len_max: 200_000, window_calls: 1024, ..config(stream) };
    let mut pair = Pair::new([config(10), SessionConfig { fragment_len_max, ..config(20) }]);
    let bulk = BufferPool::new(&[SizeClass { buffer_len: BULK_LEN, buffers_max }]);
    pair.ends[0].session.use_bulk(bulk.clone());
    pair.connect(0);
    pair.settle();
    (pair, bulk)
}

/// How many frames of each kind leave at once, long ones and short ones.
fn leaving(pair: &mut Pair) -> (usize, usize) {
    pair.transmit(0, usize::MAX);
    let is_long = |frame: &&Frame| frame.len() > 512;
    let long = pair.wires[1].iter().filter(is_long).count();
    (long, pair.wires[1].len() - long)
}

#[test]
fn long_fragments_go_where_both_ends_have_room_for_them() {
    // 150,000 bytes are one long piece, a second one of more than 64 KiB, and nothing else; or 312 short ones.
    for (fragment_len_max, buffers_max, expected) in [
        (BULK_LEN as u32, 2, (2, 0)),
        (512, 2, (0, 313)),
        (BULK_LEN as u32, 0, (0, 313)),
        (70_000, 3, (2, 22)),
    ] {
        let (mut pair, bulk) = with_bulk(fragment_len_max, buffers_max);
        pair.ends[0].queue(0, FrameKind::Request, 1, 150_000);
        assert_eq!(leaving(&mut pair), expected, "{fragment_len_max}, {buffers_max} buffers");
        pair.settle();
        assert_eq!(pair.ends[1].got, [1]);
        assert_eq!(bulk.outstanding(), 0);
    }
}

#[test]
fn a_long_fragment_waits_for_the_one_before_it_but_not_for_those_of_others() {
    let (mut pair, bulk) = with_bulk(BULK_LEN as u32, 1);
    pair.ends[0].queue(0, FrameKind::Request, 1, 150_000);
    assert_eq!(leaving(&mut pair), (1, 0));
    // Its buffer is back, and who had it says so.
    pair.deliver(1, usize::MAX);
    pair.ends[0].session.handle_writable();
    let other = bulk.alloc(1);
    assert_eq!(leaving(&mut pair), (0, 147));
    pair.deliver(1, usize::MAX);
    drop(other);
    assert_eq!(pair.ends[1].got, [1]);
}

#[test]
fn only_fragments_may_be_longer_than_frames() {
    let (mut pair, _) = with_bulk(BULK_LEN as u32, 1);
    let whole = bare(FrameKind::Request, 1_000);
    pair.wires[1].push_back(whole);
    pair.deliver(1, 1);
    assert!(pair.ends[1].events.last().unwrap().contains("TooLong"), "{:?}", pair.ends[1].events);
    let (mut pair, _) = with_bulk(BULK_LEN as u32, 1);
    pair.wires[1].push_back(bare(FrameKind::Fragment, BULK_LEN));
    pair.deliver(1, 1);
    assert!(pair.ends[1].events.last().unwrap().contains("TooLong"), "{:?}", pair.ends[1].events);
}

const BULK_LEN: usize = 80_000;

#[test]
fn lanes_may_be_in_pieces_at_the_same_time() {
    let mut pair = up();
    pair.ends[0].queue(0, FrameKind::Request, 1, 1_500);
    pair.ends[0].queue(0, FrameKind::Reply, 2, 1_500);
    pair.ends[0].queue(0, FrameKind::Control, 3, 1_500);
    pair.transmit(0, usize::MAX);
    let lanes: Vec<_> = pair.wires[1]
        .iter()
        .map(|frame| Lane::from_number(FrameHeader::parse(frame).unwrap().method.get()).unwrap())
        .collect();
    let in_turn = |lane: &&[Lane]| Lane::ALL.iter().all(|each| lane.contains(each));
    assert_eq!(lanes.windows(3).filter(in_turn).count(), lanes.len() - 2, "they take turns: {lanes:?}");
    pair.settle();
    let end = &pair.ends[1];
    assert_eq!((end.got.len(), end.got_answers.len(), end.got_controls.len()), (1, 1, 1));
}

#[test]
fn a_silent_peer_is_cut_off_and_a_talking_one_is_not() {
    let mut pair = up();
    for _ in 0..20 {
        pair.advance(SECOND);
        pair.settle();
    }
    assert!(pair.ends[0].session.is_up() && pair.ends[1].session.is_up());

    // From here on end 1 says nothing: one interval until the ping, then the silence.
    pair.advance(SECOND);
    pair.transmit(0, usize::MAX);
    pair.advance(5 * SECOND - 1);
    assert!(pair.ends[0].session.is_up());
    assert_eq!(pair.ends[0].session.poll_timeout(), Some(pair.now + 1));
    pair.advance(1);
    assert_eq!(pair.ends[0].events.last().unwrap(), &error(LinkError::Silent));
}

#[test]
fn a_peer_that_gives_no_room_is_cut_off() {
    let mut pair = up();
    for number in 0..5 {
        assert!(pair.ends[0].queue(0, FrameKind::Request, number, 0));
    }
    for _ in 0..31 {
        // End 1 answers pings and releases nothing.
        for end in [0, 1, 0, 1, 0] {
            pair.transmit(end, usize::MAX);
            pair.deliver(1 - end, usize::MAX);
        }
        pair.advance(SECOND);
    }
    assert_eq!(pair.ends[1].got.len(), 4);
    assert_eq!(pair.ends[0].events.last().unwrap(), &error(LinkError::Stalled));
}

#[test]
fn calls_are_counted_every_half_window_although_none_is_released() {
    let mut pair = up();
    pair.ends[0].queue(0, FrameKind::Request, 0, 0);
    pair.transmit(0, usize::MAX);
    pair.deliver(1, usize::MAX);
    assert_eq!(pair.transmit(1, usize::MAX), 0);
    pair.ends[0].queue(0, FrameKind::Request, 1, 0);
    pair.transmit(0, usize::MAX);
    pair.deliver(1, usize::MAX);
    assert_eq!(pair.transmit(1, usize::MAX), 1);
    pair.deliver(0, 1);
    assert_eq!(pair.ends[0].session.calls().count(), 0);
}

/// Counts and credits below half a window go out with the next ping, also to a peer that talks all the time.
#[test]
fn counts_are_told_in_time_to_a_peer_that_talks() {
    for is_released in [true, false] {
        let mut pair = up();
        pair.ends[0].queue(0, FrameKind::Request, 0, 0);
        for _ in 0..3 {
            pair.transmit(0, usize::MAX);
            pair.deliver(1, usize::MAX);
            if is_released {
                pair.ends[1].release_all();
            }
            assert_eq!(pair.ends[0].session.calls().count(), 1);
            pair.advance(SECOND / 2 - 1);
            pair.wires[1].push_back(status(FrameKind::Credit, 0, 4, 4));
            pair.deliver(1, 1);
        }
        // What end 0 sent last, its own ping too, is still on its way: end 1 speaks of itself.
        pair.transmit(1, usize::MAX);
        pair.deliver(0, usize::MAX);
        assert_eq!(pair.ends[0].session.calls().count(), 0);

        // With nothing new to count, room alone is news too.
        if !is_released {
            pair.ends[1].release_all();
            for _ in 0..3 {
                pair.transmit(0, usize::MAX);
                pair.deliver(1, usize::MAX);
                pair.advance(SECOND / 2 - 1);
                pair.wires[1].push_back(status(FrameKind::Credit, 0, 4, 4));
                pair.deliver(1, 1);
            }
            assert!(pair.wires[1].is_empty());
            pair.transmit(1, usize::MAX);
            let is_ping = |frame: &Frame| FrameHeader::parse(frame).unwrap().kind() == FrameKind::Ping;
            assert!(pair.wires[0].iter().any(is_ping));
        }
    }
}

#[test]
fn impossible_terms_open_no_link() {
    use crate::session::tests::pair::handshake_config;
    use crate::wire::handshake::Handshake;
    use crate::wire::hello::{KnownStream, Terms};
    let possible = Terms {
        stream: 20,
        said_at: 1,
        base: 0,
        known: Some(KnownStream { stream: 10, received: 1 }),
        window_calls: 4,
        granted_calls: 4,
        window_answers: 4,
        granted_answers: 4,
        window_controls: 4,
        granted_controls: 4,
        frame_len_max: 512,
        fragment_len_max: 512,
    };
    let open = |theirs: Terms| {
        let mut pair = up();
        // One call each way has arrived.
        for end in 0..2 {
            pair.ends[end].queue(0, FrameKind::Request, end as u32, 0);
        }
        for end in 0..2 {
            pair.transmit(end, 1);
            pair.deliver(1 - end, 1);
        }
        let mut peer = Handshake::client(0, &handshake_config(pair.ends[1].identity), [100; 32], None);
        let session = &mut pair.ends[0].session;
        session.handle_link_up(0, Handshake::server(0, &handshake_config(pair.ends[0].identity), [101; 32]));
        session.handle_frame(0, peer.poll_transmit().unwrap());
        peer.handle_frame(0, &session.poll_transmit(0).unwrap());
        peer.offer(theirs);
        session.handle_frame(0, peer.poll_transmit().unwrap());
        pair.ends[0].drain();
        pair.ends[0].events.last().unwrap().clone()
    };
    assert_eq!(open(possible), "Up 2.1 true");
    assert_eq!(open(Terms { base: 1, ..possible }), "Up 2.1 true");
    assert_eq!(open(Terms { base: 2, ..possible }), error(LinkError::Count));
    let known = |received| Some(KnownStream { stream: 10, received });
    assert_eq!(open(Terms { known: known(2), ..possible }), error(LinkError::Count));
    // Who knows another stream, or none, counts from where both last agreed.
    for known in [Some(KnownStream { stream: 9, received: 7 }), None] {
        assert_eq!(open(Terms { known, ..possible }), "Up 2.1 false");
    }
    assert_eq!(open(Terms { granted_calls: 5, ..possible }), error(LinkError::Terms));
    assert_eq!(open(Terms { granted_answers: 5, ..possible }), error(LinkError::Terms));
    assert_eq!(open(Terms { granted_controls: 5, ..possible }), error(LinkError::Terms));
    assert_eq!(open(Terms { window_controls: 0, granted_controls: 0, ..possible }), error(LinkError::Terms));
    assert_eq!(open(Terms { window_calls: 0, granted_calls: 0, ..possible }), error(LinkError::Terms));
    assert_eq!(open(Terms { window_answers: 0, granted_answers: 0, ..possible }), error(LinkError::Terms));
    assert_eq!(open(Terms { frame_len_max: 255, ..possible }), error(LinkError::Terms));
    assert_eq!(open(Terms { fragment_len_max: 511, ..possible }), error(LinkError::Terms));
}

/// It would fill our memory with calls that are kept for it.
#[test]
fn a_peer_that_gives_room_and_does_not_count_gets_no_more_than_its_window() {
    let mut pair = up();
    pair.cut();
    for granted in 4..20 {
        pair.ends[0].queue(0, FrameKind::Request, granted, 0);
        pair.transmit(0, usize::MAX);
        pair.wires[0].push_back(status(FrameKind::Credit, 0, u64::from(granted.min(8)), 4));
        pair.deliver(0, 1);
    }
    assert!(pair.ends[0].session.is_up());
    // Four that left, eight that wait.
    assert_eq!(pair.ends[0].session.calls().count(), 12);
}

#[test]
fn control_passes_calls_and_answers_that_have_no_room() {
    let mut pair = up();
    for number in 0..6 {
        pair.ends[0].queue(0, FrameKind::Request, number, 0);
        pair.ends[0].queue(0, FrameKind::Reply, 10 + number, 0);
    }
    pair.transmit(0, usize::MAX);
    pair.deliver(1, usize::MAX);
    // Whoever takes calls and answers does not for a long time; whoever takes control does.
    for number in 20..40 {
        assert!(pair.ends[0].queue(pair.now, FrameKind::Control, number, 0));
        pair.transmit(0, usize::MAX);
        pair.deliver(1, usize::MAX);
        let end = &mut pair.ends[1];
        end.session.release_controls(std::mem::take(&mut end.unreleased_controls));
        pair.transmit(1, usize::MAX);
        pair.deliver(0, usize::MAX);
    }
    assert_eq!(pair.ends[1].got_controls, (20..40).collect::<Vec<_>>());
    assert_eq!((pair.ends[1].got.len(), pair.ends[1].got_answers.len()), (4, 4));
}

#[test]
fn answers_pass_calls_that_have_no_room() {
    let mut pair = up();
    for number in 0..6 {
        pair.ends[0].queue(0, FrameKind::Request, number, 0);
    }
    for number in 10..14 {
        pair.ends[0].queue(0, FrameKind::Reply, number, 0);
    }
    pair.transmit(0, usize::MAX);
    pair.deliver(1, usize::MAX);
    assert_eq!(pair.ends[1].got, [0, 1, 2, 3]);
    assert_eq!(pair.ends[1].got_answers, [10, 11, 12, 13]);
    pair.settle();
    assert_eq!(pair.ends[1].got, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_full_queue_gives_the_frame_back() {
    let mut session = Session::new(config(1), None);
    let frame = bare(FrameKind::Request, 3);
    for _ in 0..8 {
        session.queue(0, frame.clone()).unwrap();
    }
    assert_eq!(session.queue(0, frame.clone()), Err(QueueError::Full(frame.clone())));
    session.queue(0, bare(FrameKind::Reply, 3)).unwrap();

    let large = bare(FrameKind::Request, 10_001);
    assert_eq!(session.queue(0, large.clone()), Err(QueueError::TooLarge(large)));
    for kind in [FrameKind::Ping, FrameKind::Fragment, FrameKind::Intern] {
        let wrong = bare(kind, 0);
        assert_eq!(session.queue(0, wrong.clone()), Err(QueueError::Kind(wrong)));
    }
    let mut header = FrameHeader::new(FrameKind::Request);
    header.handle = 1.into();
    let stale = assemble_bare(None, header, b"");
    assert_eq!(session.queue(0, stale.clone()), Err(QueueError::Handle(stale)));
    session.close(0);
    assert_eq!(session.queue(0, frame.clone()), Err(QueueError::Closed(frame)));
}

#[test]
fn after_a_cut_the_rest_is_sent_again_before_anything_new() {
    let mut pair = up();
    for number in 0..4 {
        pair.ends[0].queue(0, FrameKind::Request, number, 0);
    }
    pair.transmit(0, usize::MAX);
    pair.deliver(1, 2);
    pair.cut();
    pair.ends[0].queue(0, FrameKind::Request, 4, 0);
    pair.connect(1);
    pair.settle();
    assert_eq!(pair.ends[1].got, [0, 1, 2, 3, 4]);
    assert_eq!(pair.ends[0].events, ["Up 2.1 false", "Down Replaced", "Up 2.1 true"]);
}

#[test]
fn another_incarnation_gets_nothing_of_the_old() {
    let mut pair = up();
    for number in 0..4 {
        pair.ends[0].queue(0, FrameKind::Request, number, 0);
    }
    // One arrives, one is lost on the way, two never leave. Nobody knows here which of the first two is which.
    pair.transmit(0, 2);
    pair.deliver(1, 1);
    pair.restart(1, true);
    pair.connect(0);
    pair.settle();
    assert_eq!(pair.ends[0].events[2..], ["Lost OwnerLost 2+2", "Up 2.2 false"]);
    assert_eq!(pair.ends[0].calls[&1], Fate::Unknown);
    assert_eq!(pair.ends[0].calls[&2], Fate::NotSent);
    assert_eq!(pair.ends[1].got, [0]);
    pair.ends[0].queue(pair.now, FrameKind::Request, 9, 0);
    pair.settle();
    assert_eq!(pair.ends[1].got, [0, 9]);
}

#[test]
fn a_call_whose_last_piece_never_left_did_not_run() {
    let mut pair = up();
    pair.ends[0].queue(0, FrameKind::Request, 0, 3_000);
    pair.transmit(0, usize::MAX);
    pair.deliver(1, usize::MAX);
    pair.restart(1, true);
    pair.connect(0);
    pair.settle();
    assert_eq!(pair.ends[0].calls[&0], Fate::NotSent);
}

#[test]
fn without_a_link_everything_is_given_up_in_time() {
    let mut pair = up();
    for number in 0..6 {
        pair.ends[0].queue(0, FrameKind::Request, number, 0);
    }
    pair.transmit(0, usize::MAX);
    pair.cut();
    pair.notice(0);
    assert_eq!(pair.ends[0].session.poll_timeout(), Some(10 * SECOND));
    pair.advance(10 * SECOND);
    assert_eq!(pair.ends[0].events[1..], ["Down LinkDown", "Lost LinkLost 4+2"]);
    assert_eq!(pair.ends[0].session.poll_timeout(), None);

    // What was given up is not sent again, and both count the same from here.
    pair.connect(0);
    pair.settle();
    pair.ends[0].queue(pair.now, FrameKind::Request, 9, 0);
    pair.settle();
    assert_eq!(pair.ends[1].got, [9]);
}

#[test]
fn a_closed_session_says_so_and_returns_what_it_has() {
    let mut pair = up();
    pair.ends[0].queue(0, FrameKind::Request, 1, 0);
    pair.ends[0].session.close(0);
    pair.transmit(0, usize::MAX);
    assert_eq!(pair.ends[0].events[1..], ["Down Closed", "Lost LinkLost 0+1"]);
    pair.deliver(1, 1);
    assert_eq!(pair.ends[1].events[1], format!("Down {:?}", DownReason::ClosedByPeer(CloseReason::Done)));
    pair.connect(0);
    pair.settle();
    assert!(!pair.ends[0].session.is_up());
}

/// The call arrived, its count did not come back before the link went: it must not run twice, nor be called lost.
#[test]
fn a_counted_call_is_not_resent_although_its_count_was_lost() {
    let mut pair = up();
    pair.ends[0].queue(0, FrameKind::Request, 1, 0);
    pair.transmit(0, usize::MAX);
    pair.deliver(1, usize::MAX);
    assert_eq!(pair.ends[0].session.calls().count(), 1);
    pair.connect(0);
    pair.settle();
    assert_eq!(pair.ends[0].session.calls().count(), 0);
    assert_eq!(pair.ends[1].got, [1]);
    assert_eq!(pair.ends[0].calls[&1], Fate::Queued);
}

/// Lives of a fixed list say nothing about their order: the proof of an earlier one may come late, and is believed. Then this process is back.
#[test]
fn a_call_does_not_run_again_where_another_life_of_its_process_was_heard_of_since() {
    let mut pair = up();
    pair.ends[0].queue(0, FrameKind::Request, 1, 0);
    pair.transmit(0, usize::MAX);
    pair.deliver(1, usize::MAX);
    let identity = Identity { incarnation: 7, ..pair.ends[0].identity };
    let mut other_life = End::new(config(30), identity);
    std::mem::swap(&mut pair.ends[0], &mut other_life);
    pair.connect(0);
    pair.settle();
    std::mem::swap(&mut pair.ends[0], &mut other_life);
    pair.ends[0].queue(pair.now, FrameKind::Request, 2, 0);
    pair.connect(0);
    pair.settle();
    assert_eq!(pair.ends[0].events[1..], ["Down Replaced", "Lost LinkLost 1+0", "Up 2.1 false"]);
    assert_eq!(pair.ends[0].calls[&1], Fate::Unknown);
    assert_eq!(pair.ends[1].got, [1, 2]);
    pair.ends[0].queue(pair.now, FrameKind::Request, 3, 0);
    pair.settle();
    assert_eq!(pair.ends[1].got, [1, 2, 3]);
}

#[test]
fn a_link_opened_with_a_wrong_secret_leaves_the_session_as_it_was() {
    use crate::session::tests::pair::handshake_config;
    use crate::wire::handshake::{Handshake, HelloError};
    use crate::wire::hello::ClusterSecret;
    let mut pair = up();
    pair.ends[0].queue(0, FrameKind::Request, 1, 0);
    pair.cut();
    pair.notice(0);
    let mut wrong = handshake_config(pair.ends[1].identity);
    wrong.secret = ClusterSecret::new(&[0; 32]);
    let mut stranger = Handshake::server(0, &wrong, [200; 32]);
    let session = &mut pair.ends[0].session;
    session
        .handle_link_up(0, Handshake::client(0, &handshake_config(pair.ends[0].identity), [201; 32], None));
    stranger.handle_frame(0, &session.poll_transmit(0).unwrap());
    session.handle_frame(0, stranger.poll_transmit().unwrap());
    let peer = pair.ends[1].identity;
    assert_eq!(
        session.poll_event(),
        Some(SessionEvent::Down(DownReason::Hello(HelloError::Secret { peer })))
    );
    assert_eq!(session.calls().count(), 1);
    pair.connect(0);
    pair.settle();
    assert_eq!(pair.ends[1].got, [1]);
}

#[test]
fn a_proven_handshake_is_taken_over_by_the_session_it_belongs_to() {
    use crate::session::tests::pair::handshake_config;
    use crate::wire::handshake::Handshake;
    let mut pair = up();
    let [client, server] = &mut pair.ends;
    // The acceptor does not know yet whose link it is.
    let mut accepted = Handshake::server(0, &handshake_config(server.identity), [100; 32]);
    let dialled = Handshake::client(0, &handshake_config(client.identity), [101; 32], Some(2));
    client.session.handle_link_up(0, dialled);
    accepted.handle_frame(0, &client.session.poll_transmit(0).unwrap());
    client.session.handle_frame(0, accepted.poll_transmit().unwrap());
    assert!(server.session.is_up(), "the old link lives until the new peer is proven");
    accepted.handle_frame(0, &client.session.poll_transmit(0).unwrap());
    assert_eq!(accepted.proven(), Some(client.identity));
    server.session.handle_link_up(0, accepted);
    client.session.handle_frame(0, server.session.poll_transmit(0).unwrap());
    assert!(client.session.is_up() && server.session.is_up());
}

#[test]
fn the_windows_fit_the_receives_of_a_link() {
    let config = config(1);
    assert_eq!(config.receives_max(), 4 + 4 + 4 + LINK_RECEIVES);
}
