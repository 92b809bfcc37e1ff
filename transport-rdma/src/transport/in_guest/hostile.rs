//! Peers that ask the device for what they were not given: they lose their link, and get nothing.

use super::*;
use crate::bulk::{OFFERS_MAX, Offer, Word};
use crate::sys::Hostile;

/// The raw peer asks for it, and this is what became of it at both ends: the status that its device reports, and how the link ended.
fn outcome(transport: &mut RdmaTransport, request: Hostile, frame_len: usize) -> (u32, DownReason) {
    let (mut raw, link) = link_with_raw(transport);
    // Of two, the one that has the other behind it: what is sent beyond its end is memory of the same region.
    let mut buffers = [(); 2].map(|()| raw.memory.joining.alloc(frame_len).expect("a free buffer"));
    buffers.sort_by_key(|buffer| buffer.as_ptr().addr());
    let [mut buffer, _behind] = buffers;
    buffer.fill(OTHER);
    let frame = buffer.freeze();
    raw.channel.post_hostile(request, frame.clone());
    let status = raw.failure();
    assert!(frame.iter().all(|byte| *byte == OTHER), "something was read: {request:?}");
    let reason = until(transport, |event| match *event {
        Event::LinkDown { link: down, reason } if down == link => Some(reason),
        _ => None,
    });
    (status, reason)
}

impl Raw {
    fn is_eventually_down(&mut self) -> bool {
        (0..1_000_000).any(|_| {
            std::thread::yield_now();
            self.is_down()
        })
    }

    /// What the oldest request came to of which nothing was heard; with its status if it failed.
    fn next_end(&mut self) -> Result<(), u32> {
        let mut completions = Vec::new();
        loop {
            self.queue.poll(&mut completions, 1).expect("a queue that works");
            match completions.pop().map(|completion| completion.kind) {
                Some(CompletionKind::Sent { .. }) => return Ok(()),
                Some(CompletionKind::Failed { status }) => return Err(status),
                _ => std::thread::yield_now(),
            }
        }
    }

    /// The status of the first request that fails.
    fn failure(&mut self) -> u32 {
        let mut completions = Vec::new();
        loop {
            self.queue.poll(&mut completions, 1).expect("a queue that works");
            match completions.pop() {
                Some(Completion { kind: CompletionKind::Failed { status }, .. }) => return status,
                Some(other) => panic!("the device did it: {other:?}"),
                None => {}
            }
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_peer_that_reaches_for_our_memory_gets_nothing_and_loses_its_link() {
    let mut transport = bind(options());
    let mut ours = transport.pool().alloc(4096).expect("a free buffer");
    ours.fill(OWN);
    let address = ours.as_ptr() as u64;
    let keys = transport.hardware.as_ref().expect("it is there").memory.regions[0].keys();
    for key in keys {
        for request in [Hostile::Read { address, key }, Hostile::Write { address, key }] {
            let (status, reason) = outcome(&mut transport, request, 4096);
            assert!(matches!(status, INVALID_REQUEST | ACCESS_DENIED), "{request:?}: {status}");
            assert!(matches!(reason, DownReason::Failed(_)), "{request:?}: {reason}");
            assert!(ours.iter().all(|byte| *byte == OWN), "something was written: {request:?}");
        }
    }
}

#[test]
fn a_packet_longer_than_a_receive_ends_its_link_only() {
    let mut transport = bind(options());
    let mut other = bind(options());
    let good = other.connect(transport.local_addr(), 0).expect("room");
    until_both_up(&mut transport, &mut other, good);
    for extra in [1, 64, RECEIVE_LEN as u32] {
        let (status, reason) = outcome(&mut transport, Hostile::LongSend { extra }, RECEIVE_LEN);
        assert!(matches!(status, INVALID_REQUEST | FAILED_THERE), "{extra} more: {status}");
        assert!(matches!(reason, DownReason::Failed(_)), "{extra} more: {reason}");
    }
    let frame = Frame::copy_from(&FrameHeader::new(FrameKind::Ping).to_bytes());
    other.send(good, &mut VecDeque::from([frame])).expect("the link is up");
    other.flush();
    until(&mut transport, |event| matches!(event, Event::Receive { .. }).then_some(()));
    assert_eq!(transport.pools.pool.outstanding(), 0);
}

/// How a link ends to which the raw peer says these words.
fn ended_by(transport: &mut RdmaTransport, words: &[Word]) -> DownReason {
    let (mut raw, link) = link_with_raw(transport);
    for word in words {
        raw.send(&word.to_bytes(), raw.own.receives.into());
    }
    let reason = until(transport, |event| match *event {
        Event::LinkDown { link: down, reason } if down == link => Some(reason),
        _ => None,
    });
    assert!(raw.is_eventually_down());
    reason
}

#[test]
fn a_peer_that_offers_what_it_has_not_or_may_not_is_cut_off() {
    let mut transport = bind(options());
    let offer = Offer { address: 0x1000, key: 0x100, len: BULK_LEN as u32 };
    for len in [0, 64, RECEIVE_LEN as u32, RECEIVE_LEN as u32 + 1, BULK_LEN as u32 + 16, u32::MAX] {
        let reason = ended_by(&mut transport, &[Word::Offer(Offer { len, ..offer })]);
        assert_eq!(reason, DownReason::Failed(io::ErrorKind::InvalidData), "{len} bytes");
    }
    for count in [0, 1, u32::MAX] {
        let reason = ended_by(&mut transport, &[Word::Taken(count)]);
        assert_eq!(reason, DownReason::Failed(io::ErrorKind::InvalidData), "{count} taken");
    }
    // Keys that the peer has not: what was read ends the link, or the next offer does.
    let reason = ended_by(&mut transport, &[Word::Offer(offer)]);
    assert!(matches!(reason, DownReason::Failed(_)), "{reason}");
    let reason = ended_by(&mut transport, &[Word::Offer(offer); OFFERS_MAX + 1]);
    assert!(matches!(reason, DownReason::Failed(_) | DownReason::WindowExceeded), "{reason}");
    // And the next link works.
    let mut other = bind(options());
    let good = other.connect(transport.local_addr(), 0).expect("room");
    until_both_up(&mut transport, &mut other, good);
    let frame = Frame::copy_from(&FrameHeader::new(FrameKind::Ping).to_bytes());
    other.send(good, &mut VecDeque::from([frame])).expect("the link is up");
    other.flush();
    until(&mut transport, |event| matches!(event, Event::Receive { .. }).then_some(()));
}

/// A frame of `len` bytes, all of which but the header are `OWN`, offered to the raw peer of this link.
fn offer_to(transport: &mut RdmaTransport, link: LinkId, raw: &mut Raw, len: usize) -> Offer {
    let mut buffer = transport.bulk_pool().expect("soft-RoCE has windows").alloc(len).expect("a free one");
    buffer.fill(OWN);
    let mut header = FrameHeader::new(FrameKind::OneWay);
    header.payload_len.set((len - epicserver_transport::HEADER_LEN) as u32);
    assert!(header.write_to(&mut buffer));
    transport.send(link, &mut VecDeque::from([buffer.freeze()])).expect("the link is up");
    let mut completions = Vec::new();
    loop {
        transport.flush();
        transport.poll(0, &mut Vec::new());
        raw.queue.poll(&mut completions, 16).expect("a queue that works");
        for completion in completions.drain(..) {
            if let CompletionKind::Received { slot, len, immediate } = completion.kind {
                assert!(raw.channel.receive(slot, len, immediate).expect("an honest peer").is_none());
            }
        }
        if let Some(offer) = raw.channel.offered() {
            assert_eq!(offer.len as usize, len);
            return offer;
        }
        std::thread::yield_now();
    }
}

/// What the raw peer gets of these bytes; the status if the device denies it.
fn read(raw: &mut Raw, address: u64, key: u32) -> Result<Frame, u32> {
    let mut buffer = raw.memory.joining.alloc(4096).expect("a free buffer");
    buffer.fill(OTHER);
    let frame = buffer.freeze();
    raw.channel.post_hostile(Hostile::Read { address, key }, frame.clone());
    raw.next_end().inspect_err(|_| {
        assert!(frame.iter().all(|byte| *byte == OTHER), "something was read");
    })?;
    Ok(frame)
}

fn until_closed(transport: &mut RdmaTransport) {
    while transport.bulk_pool().is_some_and(|pool| pool.outstanding() > 0) {
        transport.flush();
        transport.poll(0, &mut Vec::new());
    }
}

#[test]
fn a_long_frame_is_read_by_its_peer_alone_and_until_it_is_taken() {
    let mut transport = bind(RdmaOptions { bulk_buffers_max: 1, ..options() });
    // The only buffer was full of another peer's bytes before.
    transport.bulk_pool().expect("soft-RoCE has windows").alloc(BULK_LEN).expect("free").fill(OWN);
    let (mut raw, link) = link_with_raw(&mut transport);
    let len = 100 << 10;
    let Offer { address, key, .. } = offer_to(&mut transport, link, &mut raw, len);
    let end = address + len as u64;
    let got = read(&mut raw, end - 4096, key).expect("it was offered");
    assert!(got.iter().all(|byte| *byte == OWN));
    // Another peer has the key, and no right.
    let (mut other, _) = link_with_raw(&mut transport);
    let status = read(&mut other, end - 4096, key).expect_err("it was offered to another");
    assert!(matches!(status, INVALID_REQUEST | ACCESS_DENIED), "{status}");
    // Soft-RoCE lets a peer read the buffer to its end: nothing of others is left there.
    match read(&mut raw, end, key) {
        Ok(got) => assert!(got.iter().all(|byte| *byte == 0), "what another peer was sent"),
        Err(status) => assert_eq!(status, ACCESS_DENIED),
    }
    raw.send(&Word::Taken(1).to_bytes(), raw.own.receives.into());
    until_closed(&mut transport);
    raw.next_end().expect("it was heard");
    let status = read(&mut raw, end - 4096, key).expect_err("it was taken");
    assert!(matches!(status, INVALID_REQUEST | ACCESS_DENIED), "{status}");
}

#[test]
fn nothing_beyond_the_buffer_of_a_long_frame_is_read() {
    let mut transport = bind(options());
    for beyond in [-4096, BULK_LEN as i64, BULK_LEN as i64 - 4095] {
        let (mut raw, link) = link_with_raw(&mut transport);
        let Offer { address, key, .. } = offer_to(&mut transport, link, &mut raw, BULK_LEN);
        let status =
            read(&mut raw, address.wrapping_add_signed(beyond), key).expect_err("it was not offered");
        assert!(matches!(status, INVALID_REQUEST | ACCESS_DENIED), "{beyond}: {status}");
        drop(raw);
        until(&mut transport, |event| matches!(event, Event::LinkDown { .. }).then_some(()));
        until_closed(&mut transport);
    }
}

/// Numbers of `enum ibv_wc_status` at the end that asked.
const INVALID_REQUEST: u32 = 9;
const ACCESS_DENIED: u32 = 10;
const FAILED_THERE: u32 = 11;
/// What every byte of ours is, and of theirs.
const OWN: u8 = 0x55;
const OTHER: u8 = 0xaa;
