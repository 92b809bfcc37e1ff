//! Frames longer than others: from the pool for such, in their place among the others.

use super::Fixture;
use super::world::{End, Pair, World, sample_frame};
use crate::frame::Frame;
use crate::header::FRAME_ALIGN;
use crate::link::DownReason;
use crate::transport::SendError;
use std::collections::VecDeque;

/// Two ends and a link between them that carries long frames; `None` where links do not.
fn linked(fixture: &mut dyn Fixture) -> Option<(World, Pair)> {
    let (world, pair) = World::linked(fixture);
    let caps = world.a.transport.caps();
    assert_eq!(caps.bulk_len_max > caps.frame_len_max, world.a.transport.bulk_pool().is_some());
    assert!(caps.bulk_len_max >= caps.frame_len_max && caps.bulk_len_max.is_multiple_of(FRAME_ALIGN));
    (caps.bulk_len_max > caps.frame_len_max).then_some((world, pair))
}

pub(super) fn arrive_in_order(fixture: &mut dyn Fixture) {
    let Some((mut world, pair)) = linked(fixture) else { return };
    let caps = world.a.transport.caps();
    let (short, long) = (caps.frame_len_max, caps.bulk_len_max);
    let middle = (short + long) / 2 / FRAME_ALIGN * FRAME_ALIGN;
    let lens =
        [short + 16, 64, long, 512, short, 64, 65_536.clamp(short, long), long - 16, middle, middle + 16, 32];
    let lens = lens.repeat(3);
    let (mut there, mut back) = (Sending::default(), Sending::default());
    world.until("all have arrived", |world| {
        there.go_on(&mut world.a, pair.at_a, &lens);
        back.go_on(&mut world.b, pair.at_b, &lens);
        let count = |end: &mut End, link| end.seen(link).received.len();
        count(&mut world.b, pair.at_b) == lens.len() && count(&mut world.a, pair.at_a) == lens.len()
    });
    for (number, len) in lens.iter().enumerate() {
        let expected = Some(sample_frame(number as u32, *len));
        assert!(world.b.seen(pair.at_b).received.pop_front() == expected, "frame {number} there");
        assert!(world.a.seen(pair.at_a).received.pop_front() == expected, "frame {number} back");
    }
    world.until("all buffers are back", |world| {
        [&world.a, &world.b]
            .iter()
            .all(|end| end.transport.bulk_pool().is_some_and(|pool| pool.outstanding() == 0))
    });
    let told = world.a.seen(pair.at_a).writable_count;
    assert!(told > 0, "nobody is told that long frames are with the peer");
}

pub(super) fn arrive_before_close(fixture: &mut dyn Fixture) {
    let Some((mut world, pair)) = linked(fixture) else { return };
    let lens = [64, world.a.transport.caps().bulk_len_max, 64];
    let mut sending = Sending::default();
    world.until("all are taken", |world| {
        sending.go_on(&mut world.a, pair.at_a, &lens);
        sending.is_taken(&lens)
    });
    world.a.transport.close(pair.at_a);
    world.until("down", |world| world.b.down(pair.at_b).is_some());
    assert_eq!(world.b.down(pair.at_b), Some(DownReason::ClosedByPeer));
    let arrived: Vec<_> = world.b.seen(pair.at_b).received.iter().map(Vec::len).collect();
    assert_eq!(arrived, lens);
    world.until("the buffer is back", |world| {
        world.a.transport.bulk_pool().is_some_and(|pool| pool.outstanding() == 0)
    });
}

pub(super) fn held_ones_stop_a_link(fixture: &mut dyn Fixture) {
    let Some((mut world, pair)) = linked(fixture) else { return };
    let lens = [world.a.transport.caps().bulk_len_max, 64].repeat(8);
    let mut sending = Sending::default();
    world.b.holds_frames = true;
    let (mut quiet_passes, mut held_before) = (0, 0);
    while quiet_passes < super::traffic::STUCK_PASSES {
        sending.go_on(&mut world.a, pair.at_a, &lens);
        world.pass();
        let held = world.b.seen(pair.at_b).held.len();
        quiet_passes = if held == held_before { quiet_passes + 1 } else { 0 };
        held_before = held;
    }
    assert!(held_before < lens.len(), "there is no bound on long frames");
    let mut arrived = 0;
    world.until("everything has arrived", |world| {
        sending.go_on(&mut world.a, pair.at_a, &lens);
        for frame in std::mem::take(&mut world.b.seen(pair.at_b).held) {
            assert!(*frame == *sample_frame(arrived as u32, lens[arrived]), "frame {arrived} is another one");
            arrived += 1;
        }
        arrived == lens.len()
    });
}

pub(super) fn lie_in_their_pool(fixture: &mut dyn Fixture) {
    let Some((mut world, pair)) = linked(fixture) else { return };
    let len = world.a.transport.caps().bulk_len_max;
    for bad in
        [Frame::copy_from(&sample_frame(1, len)), Frame::copy_from(&sample_frame(1, len + FRAME_ALIGN))]
    {
        let mut frames = VecDeque::from([bad]);
        let result = world.a.transport.send(pair.at_a, &mut frames);
        assert!(matches!(result, Err(SendError::TooLong { .. })), "{result:?}");
        assert_eq!(frames.len(), 1, "it stays");
    }
    world.transfer(pair, 10, |_| 64);
}

/// What one end sends, frame by frame, as it has buffers.
#[derive(Default)]
struct Sending {
    made: usize,
    waiting: VecDeque<Frame>,
}

impl Sending {
    fn go_on(&mut self, from: &mut End, link: crate::LinkId, lens: &[usize]) {
        while let Some(&len) = lens.get(self.made) {
            let is_long = len > from.transport.caps().frame_len_max;
            let has_buffer = from.transport.bulk_pool().is_some_and(|pool| pool.alloc(len).is_some());
            if (is_long && !has_buffer) || self.waiting.len() > 16 {
                break;
            }
            let number = self.made as u32;
            self.waiting.extend(from.frames(number..number + 1, |_| len));
            self.made += 1;
        }
        from.transport.send(link, &mut self.waiting).expect("the link takes frames");
    }

    fn is_taken(&self, lens: &[usize]) -> bool {
        self.made == lens.len() && self.waiting.is_empty()
    }
}
