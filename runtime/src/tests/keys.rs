//! Keys come from anywhere, from other nodes too: what is wrong with one is its caller's trouble and nobody else's.

use std::sync::Arc;

use epicserver_storage::{KEY_LENGTH_MAX, NodeId};
use epicserver_transport::Frame;

use crate::codec::{CodecError, Wire, layout};
use crate::core::{Core, CoreConfig, Event};
use crate::entity::{Entities, Entity, EntityCell, Method, MethodTable, Methods, RawRef, Stored};
use crate::error::{CallError, Rejection};
use crate::key::EntityKey;
use crate::routes::Routes;
use crate::saving::SavePolicy;

/// An object that lives where the first four letters of its name say.
#[derive(Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Named;

impl Wire for Named {
    const LAYOUT: u64 = layout::combine("Named", &[]);
}

impl Entity for Named {
    type Key = String;
    type Ref = RawRef<Named>;
    const NAME: &'static str = "test.Named";
    const SAVE: SavePolicy = SavePolicy::Never;
    const VERSION: u32 = 1;
    const PLACED: bool = true;
    fn cell() -> &'static EntityCell {
        static CELL: EntityCell = EntityCell::new();
        &CELL
    }
    fn placement(key: &Stored<Self>) -> Stored<Self> {
        // Panics if there are none.
        String::store(&String::restore(key)[..4])
    }
}

impl Methods for Named {
    fn describe(table: &mut MethodTable<Self>) {
        table.method::<Len>();
    }
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Len {}

impl Method for Len {
    type Entity = Named;
    type Value = u64;
    type Output = Result<u64, CallError>;
    type Receiver<'a> = &'a Named;
    const NAME: &'static str = "len";
    const LAYOUT: u64 = 1;
    async fn run<'a>(self, _: Self::Receiver<'a>) -> u64 {
        crate::context::this::<Named>().key().len() as u64
    }
    fn output(result: Result<u64, CallError>) -> Self::Output {
        result
    }
    fn decode(_: &Self::Archived, _: &Frame) -> Result<Self, CodecError> {
        Ok(Self {})
    }
}

fn len_of(key: &str) -> Result<u64, CallError> {
    let mut entities = Vec::new();
    <(Named,)>::collect(&mut entities);
    let config = CoreConfig::default().for_node(1).remove(0);
    let routes = Arc::new(Routes::solo(NodeId { id: 1, incarnation: 1 }, 1));
    let mut core = Core::new(0, config, &entities, routes);
    let call = RawRef::<Named>::new(key).call(Len {});
    let (sender, mut result) = tokio::sync::oneshot::channel();
    let left = core.desk().leave(Box::new(move |core| {
        let task = async move {
            let _ = sender.send(call.await);
        };
        core.spawn_loose(task).expect("a free slot");
    }));
    assert!(left.is_ok());
    let mut actions = Vec::new();
    core.step(0, Event::Desk, &mut actions);
    core.step(0, Event::Turns(100), &mut actions);
    result.try_recv().expect("at once")
}

#[test]
fn a_key_whose_placement_panics_places_itself() {
    assert_eq!(len_of("barrel"), Ok(6));
    assert_eq!(len_of("b"), Ok(1));
}

#[test]
fn a_key_that_nothing_can_be_saved_under_is_refused() {
    assert_eq!(len_of(&"k".repeat(KEY_LENGTH_MAX)), Ok(512));
    let refused = len_of(&"k".repeat(KEY_LENGTH_MAX + 1));
    assert!(matches!(refused, Err(CallError::Rejected(Rejection::TooLarge(_)))), "{refused:?}");
}
