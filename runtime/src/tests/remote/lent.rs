//! Methods that read their receive buffers in place, and the bound on how many of these they keep.

use epicserver_transport::Frame;

use super::world::{Add, Linger, Options, Post, Relay, World, post};
use crate::bytes::Bytes;
use crate::codec::CodecError;
use crate::core::CoreConfig;
use crate::entity::Method;
use crate::error::CallError;
use crate::lent::Lent;

/// Reads its argument in place, before and after a nap.
#[derive(rkyv::Archive, rkyv::Serialize)]
pub(crate) struct Peek {
    rows: Lent<Vec<u64>>,
}

impl Method for Peek {
    type Entity = Post;
    type Value = u64;
    type Output = Result<u64, CallError>;
    type Receiver<'a> = &'a Post;
    const NAME: &'static str = "Peek";
    const LAYOUT: u64 = 1;
    async fn run<'a>(self, _: Self::Receiver<'a>) -> u64 {
        let rows = self.rows.archive();
        let before: u64 = rows.get().iter().map(|row| row.to_native()).sum();
        crate::context::sleep(std::time::Duration::from_millis(20)).await;
        before + rows.get().iter().map(|row| row.to_native()).sum::<u64>()
    }
    fn output(result: Result<u64, CallError>) -> Self::Output {
        result
    }
    fn decode(archived: &Self::Archived, frame: &Frame) -> Result<Self, CodecError> {
        Ok(Self { rows: Lent::from_archived(&archived.rows, frame)? })
    }
}

#[test]
fn when_every_buffer_that_may_be_is_lent_others_are_copied_and_nothing_waits() {
    let core = CoreConfig { lent_max: 4, ..CoreConfig::default() };
    let mut world = World::with(2, Options { core, ..Options::default() });
    let keys: Vec<u64> = (0..20).map(|nth| world.key_on(1, nth)).collect();
    let mut calls: Vec<_> = keys
        .iter()
        .map(|key| {
            let (key, rows) = (*key, (0..100 + *key).collect());
            world.start(0, async move { post(key).call(Peek { rows: Lent::owned(rows) }).await })
        })
        .collect();
    world.pass_ms(10);
    assert_eq!(world.process(1).cores[0].state().lent_now(), 4);
    let key = world.key_on(1, 30);
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(1), "calls are served");
    world.pass_ms(20);
    for (call, key) in calls.iter_mut().zip(keys) {
        assert_eq!(call.result(), Some(Ok((0..100 + key).sum::<u64>() * 2)));
    }
    assert_eq!(world.process(1).cores[0].state().lent_now(), 0);
    world.end();
}

/// Arguments while their method runs, and results for as long as the caller has them.
#[test]
fn so_many_frames_are_kept_for_bytes_and_others_are_copied() {
    let core = CoreConfig { lent_max: 4, ..CoreConfig::default() };
    let mut world = World::with(2, Options { core, ..Options::default() });
    let lent_now = |world: &mut World, node: usize| world.process(node).cores[0].state().lent_now();
    let keys: Vec<u64> = (0..20).map(|nth| world.key_on(1, nth)).collect();
    let sent = |key: u64| Bytes::from(vec![key as u8; 1000]);
    let start = |world: &mut World, key: u64, bytes: Bytes| {
        world.start(0, async move { post(key).call(Relay { bytes }).await })
    };
    let mut calls: Vec<_> = keys.iter().map(|key| start(&mut world, *key, sent(*key))).collect();
    world.pass_ms(10);
    assert_eq!((lent_now(&mut world, 0), lent_now(&mut world, 1)), (0, 4));
    world.pass_ms(20);
    assert_eq!((lent_now(&mut world, 0), lent_now(&mut world, 1)), (4, 0));
    let results: Vec<_> = calls.iter_mut().map(|call| call.result()).collect();
    for (key, result) in keys.iter().zip(&results) {
        assert_eq!(*result, Some(Ok(sent(*key))));
    }
    drop(results);
    assert_eq!(lent_now(&mut world, 0), 0);

    let mut short = start(&mut world, keys[0], Bytes::from("no frame is kept for this"));
    world
        .call(0, async move { post(keys[1]).call(Relay { bytes: sent(keys[1]) }).send() })
        .expect("it is sent");
    world.pass_ms(10);
    assert_eq!(lent_now(&mut world, 1), 1, "that of the one-way");
    world.pass_ms(20);
    assert_eq!(lent_now(&mut world, 1), 0);
    assert_eq!(short.result(), Some(Ok(Bytes::from("no frame is kept for this"))));
    world.end();
}

#[test]
fn a_core_that_ends_ends_its_calls_to_other_nodes_sent_or_not() {
    let core = CoreConfig { window_max: 2, ..CoreConfig::default() };
    let mut world = World::with(2, Options { core, ..Options::default() });
    let key = world.key_on(1, 0);
    for _ in 0..5 {
        let _ = world.start(0, async move { post(key).call(Linger { ms: 50, path: Vec::new() }).await });
        let _ = world.start(0, async move { post(key).call(Add { by: 1 }).send() });
    }
    world.pass_ms(5);
    let core = world.process(0).cores.remove(0);
    assert!(core.state().slots.live() > 5);
    let entered = crate::current::Entered::new(core.state());
    core.state().close();
    drop(entered);
    assert_eq!(core.state().slots.live(), 0, "what was not sent kept its message for ever");
}
