//! Bytes that no transport of ours would send.

use super::Fixture;
use super::world::{World, sample_frame};
use super::{RawPeer, links};
use crate::header::{FrameHeader, FrameKind, HeaderError};
use crate::link::{DownReason, LinkId};
use crate::transport::Shape;

pub(super) fn ends_its_own_link_only(fixture: &mut dyn Fixture) {
    let (mut world, pair) = World::linked(fixture);
    let noise: Vec<u8> = (0..4096u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let text = b"GET / HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n".to_vec();
    for bytes in [noise, text, vec![0; 64], vec![0xff; 64]] {
        let Some(mut peer) = fixture.raw_peer(&world.a.addr()) else { return };
        let reason = send_raw(&mut world, &mut *peer, &bytes).1;
        assert!(matches!(reason, DownReason::Garbage(_)), "{reason}");
        world.until("the peer hears of it", |_| peer.is_down());
        world.transfer(pair, 10, |_| 64);
        world.transfer_back(pair, 10, |_| 64);
    }
}

pub(super) fn announced_length_is_checked(fixture: &mut dyn Fixture) {
    let mut world = World::new(fixture);
    let frame_len_max = world.a.transport.caps().frame_len_max;
    for (payload_len, ext_units) in [(u32::MAX, 0), (u32::MAX, u16::MAX), (frame_len_max as u32 - 31, 0)] {
        let Some(mut peer) = fixture.raw_peer(&world.a.addr()) else { return };
        let mut header = FrameHeader::new(FrameKind::Request);
        header.payload_len.set(payload_len);
        header.ext_len.set(ext_units);
        let (link, reason) = send_raw(&mut world, &mut *peer, &header.to_bytes());
        let expected = HeaderError::TooLong { len: header.total_len(), frame_len_max };
        assert_eq!(reason, DownReason::Garbage(expected));
        assert_eq!(world.a.seen(link).received.len(), 0);
    }
    links::comes_up_on_both_sides(fixture);
}

pub(super) fn cut_off_frame(fixture: &mut dyn Fixture) {
    let mut world = World::new(fixture);
    let frame = sample_frame(1, 512);
    for cut in [1, 31, 32, 33, 511] {
        let Some(mut peer) = fixture.raw_peer(&world.a.addr()) else { return };
        let link = accept_raw(&mut world, &mut *peer, &frame[..cut]);
        drop(peer);
        world.until("down", |world| world.a.down(link).is_some());
        assert_eq!(world.a.seen(link).received.len(), 0, "a frame cut off after {cut} bytes was given out");
    }
}

pub(super) fn split_stream(fixture: &mut dyn Fixture) {
    let mut world = World::new(fixture);
    if world.a.transport.caps().shape == Shape::Packet {
        return;
    }
    let Some(mut peer) = fixture.raw_peer(&world.a.addr()) else { return };
    let frames: Vec<_> = (0..6).map(|number| sample_frame(number, 64 + number as usize * 48)).collect();
    let stream = frames.concat();
    let link = accept_raw(&mut world, &mut *peer, &stream[..1]);
    for byte in &stream[1..] {
        world.until("one more byte is sent", |_| peer.write(std::slice::from_ref(byte)));
        world.pass();
    }
    world.until("all have arrived", |world| world.a.seen(link).received.len() == frames.len());
    assert_eq!(world.a.seen(link).received.make_contiguous(), frames);
}

/// Sends bytes over a raw connection and returns its link at a, with how it went down.
fn send_raw(world: &mut World, peer: &mut dyn RawPeer, bytes: &[u8]) -> (LinkId, DownReason) {
    let link = accept_raw(world, peer, bytes);
    world.until("down", |world| world.a.down(link).is_some());
    (link, world.a.down(link).expect("seen above"))
}

/// Sends bytes over a raw connection and returns its link at a.
fn accept_raw(world: &mut World, peer: &mut dyn RawPeer, bytes: &[u8]) -> LinkId {
    let known: Vec<_> = world.a.links.keys().copied().collect();
    world.until("the bytes are sent", |_| peer.write(bytes));
    let mut link = None;
    world.until("the link is up", |world| {
        link = world
            .a
            .links
            .iter()
            .find(|(link, seen)| !known.contains(link) && seen.up.is_some())
            .map(|(link, _)| *link);
        link.is_some()
    });
    link.expect("seen above")
}
