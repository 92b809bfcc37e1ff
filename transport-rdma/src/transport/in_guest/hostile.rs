//! Peers that ask the device for what they were not given: they lose their link, and get nothing.

use super::*;
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

/// Numbers of `enum ibv_wc_status` at the end that asked.
const INVALID_REQUEST: u32 = 9;
const ACCESS_DENIED: u32 = 10;
const FAILED_THERE: u32 = 11;
/// What every byte of ours is, and of theirs.
const OWN: u8 = 0x55;
const OTHER: u8 = 0xaa;
