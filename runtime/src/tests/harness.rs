//! A small entity whose methods carry plain arguments, for tests on real threads and for the workbench.

use std::future::Future;

use epicserver_transport::Frame;

use crate::codec::{CodecError, Wire, layout};
use crate::entity::{Entity, EntityCell, Method, MethodTable, Methods, RawRef};
use crate::error::CallError;
use crate::field::Field;
use crate::saving::SavePolicy;

/// An object that counts, and that can call others of its kind.
#[derive(Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Node {
    pub(crate) count: Field<u64>,
}

impl Wire for Node {
    const LAYOUT: u64 = layout::combine("Node", &[]);
}

impl Entity for Node {
    type Key = u64;
    type Ref = RawRef<Node>;
    const NAME: &'static str = "test.Node";
    const SAVE: SavePolicy = SavePolicy::Never;
    const VERSION: u32 = 1;
    fn cell() -> &'static EntityCell {
        static CELL: EntityCell = EntityCell::new();
        &CELL
    }
}

impl Methods for Node {
    fn describe(table: &mut MethodTable<Self>) {
        table.method::<Add>();
        table.method::<Nested>();
        table.method::<NestedExclusive>();
    }
}

macro_rules! method {
    ($name:ident { $($field:ident: $type:ty),* } -> $value:ty, $receiver:ty, |$this:ident, $object:ident| $body:expr) => {
        #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
        pub(crate) struct $name { $(pub(crate) $field: $type),* }
        impl Method for $name {
            type Entity = Node;
            type Value = $value;
            type Output = Result<$value, CallError>;
            type Receiver<'a> = $receiver;
            const NAME: &'static str = stringify!($name);
            const LAYOUT: u64 = 1;
            fn run<'a>(self, $object: Self::Receiver<'a>) -> impl Future<Output = $value> {
                let $this = self;
                async move { $body }
            }
            fn output(result: Result<$value, CallError>) -> Self::Output {
                result
            }
            fn decode(archived: &Self::Archived, _: &Frame) -> Result<Self, CodecError> {
                let _ = archived;
                Ok(Self { $($field: crate::codec::restore::<$type>(&archived.$field)?),* })
            }
        }
    };
}

method!(Add { by: u64 } -> u64, &'a mut Node, |this, object| {
    *object.count.get_mut() += this.by;
    object.count.get()
});
method!(Nested { path: Vec<u64> } -> u64, &'a Node, |this, object| nested(this.path, object).await);
method!(NestedExclusive { path: Vec<u64> } -> u64, &'a mut Node, |this, object| nested(this.path, object).await);
method!(Spin { callees: Vec<RawRef<Node>>, calls: u64 } -> u64, &'a Node, |this, object| {
    let _ = object;
    let mut sum = 0;
    for at in 0..this.calls as usize {
        sum += this.callees[at % this.callees.len()].call(Get {}).await.unwrap_or(0);
    }
    sum
});
method!(Get {} -> u64, &'a Node, |_this, object| object.count.get());

/// Calls the next object of the path: exclusive if its number is odd, shared if it is even. The sum of depths.
async fn nested(mut path: Vec<u64>, _object: &Node) -> u64 {
    if path.is_empty() {
        return 0;
    }
    let next = path.remove(0);
    let node = RawRef::<Node>::new(next);
    let answer = if next % 2 == 1 {
        node.call(NestedExclusive { path }).await
    } else {
        node.call(Nested { path }).await
    };
    match answer {
        Ok(depth) => depth + 1,
        Err(CallError::Deadlock(_)) => 1000,
        Err(_) => 100_000,
    }
}

pub(crate) fn node(key: u64) -> RawRef<Node> {
    RawRef::new(key)
}
