//! Calls that leave from the poll that makes them, and requests that run as they come.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use epicserver_transport::Frame;
use rkyv::rancor::Fallible;

use super::world::{Add, Options, Post, World, post};
use crate::codec::{CodecError, Wire, layout};
use crate::core::CoreConfig;
use crate::entity::Method;
use crate::error::CallError;
use crate::lent::Lent;
use crate::tests::by_hand::method;

/// An argument whose serialiser makes a call to this object.
#[derive(Clone)]
pub(crate) struct Meddling(u64);

impl rkyv::Archive for Meddling {
    type Archived = ();
    type Resolver = ();
    fn resolve(&self, (): (), _: rkyv::Place<()>) {}
}

impl<S: Fallible + ?Sized> rkyv::Serialize<S> for Meddling {
    fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
        let mut call = pin!(post(self.0).call(Add { by: 10 }));
        let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        Ok(())
    }
}

impl<D: Fallible + ?Sized> rkyv::Deserialize<Meddling, D> for () {
    fn deserialize(&self, _: &mut D) -> Result<Meddling, D::Error> {
        Ok(Meddling(0))
    }
}

impl Wire for Meddling {
    const LAYOUT: u64 = layout::combine("Meddling", &[]);
}

method!(Meddle { with: Meddling } on Post as &'a Post, (), |this, object| {
    let _ = (this, object);
});

/// Reads its argument in place, and ends.
#[derive(rkyv::Archive, rkyv::Serialize)]
pub(crate) struct Glance {
    rows: Lent<Vec<u64>>,
}

impl Method for Glance {
    type Entity = Post;
    type Value = u64;
    type Output = Result<u64, CallError>;
    type Receiver<'a> = &'a Post;
    const NAME: &'static str = "Glance";
    const LAYOUT: u64 = 1;
    async fn run<'a>(self, _: Self::Receiver<'a>) -> u64 {
        self.rows.archive().get().iter().map(|row| row.to_native()).sum()
    }
    fn output(result: Result<u64, CallError>) -> Self::Output {
        result
    }
    fn decode(archived: &Self::Archived, frame: &Frame) -> Result<Self, CodecError> {
        Ok(Self { rows: Lent::from_archived(&archived.rows, frame)? })
    }
}

/// The scratch space of serialising is in use then: such a call is left for dispatch, and dropping it takes it back from there.
#[test]
fn a_call_that_a_serialiser_makes_does_not_leave_in_the_middle_of_it() {
    let mut world = World::with(2, Options::default());
    let key = world.key_on(1, 0);
    // From the second call on the way is known.
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(1));
    assert_eq!(world.call(0, async move { post(key).call(Meddle { with: Meddling(key) }).await }), Ok(()));
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(2));
    world.end();
}

#[test]
fn a_request_that_ends_as_it_comes_gives_back_the_buffer_that_it_was_lent() {
    let core = CoreConfig { lent_max: 4, ..CoreConfig::default() };
    let mut world = World::with(2, Options { core, ..Options::default() });
    let key = world.key_on(1, 0);
    for count in 0..20u64 {
        let rows = Lent::owned((0..count).collect());
        let sum = world.call(0, async move { post(key).call(Glance { rows }).await });
        assert_eq!(sum, Ok((0..count).sum()));
        assert_eq!(world.process(1).cores[0].state().lent_now(), 0);
    }
    world.end();
}

/// The bound on calls that are answered directly is that of a pass, whether turns run in it or not.
#[test]
fn requests_run_as_they_come_in_every_pass() {
    let core = CoreConfig { direct_max: 2, ..CoreConfig::default() };
    let mut world = World::with(2, Options { core, ..Options::default() });
    let key = world.key_on(1, 0);
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(1));
    let before = world.process(1).cores[0].calls_in_place();
    for count in 0..9 {
        assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(count + 2));
    }
    assert_eq!(world.process(1).cores[0].calls_in_place() - before, 9);
    world.end();
}
