//! A core stepped by hand, and a small entity that methods of every kind can be tried on.

use std::future::Future;
use std::sync::Arc;

use epicserver_storage::NodeId;
use epicserver_transport::Frame;

use crate::codec::{CodecError, Wire, layout};
use crate::core::{Action, Core, CoreConfig, Event};
use crate::entity::{Entities, Entity, EntityCell, Method, MethodTable, Methods, RawRef};
use crate::error::CallError;
use crate::field::Field;
use crate::routes::Routes;
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
method!(Panic {} -> (), &'a mut Node, |_this, object| {
    object.count.set(99);
    panic!("on purpose")
});
method!(Nap { ms: u64 } -> u64, &'a Node, |this, object| {
    crate::context::sleep(std::time::Duration::from_millis(this.ms)).await;
    object.count.update(|count| count + 1);
    object.count.get()
});
method!(NapExclusive { ms: u64 } -> u64, &'a mut Node, |this, object| {
    crate::context::sleep(std::time::Duration::from_millis(this.ms)).await;
    object.count.update(|count| count + 1);
    object.count.get()
});
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

/// One core and its time.
pub(crate) struct Harness {
    pub(crate) core: Core,
    pub(crate) now: u64,
    pub(crate) actions: Vec<Action>,
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with(CoreConfig::default())
    }

    pub(crate) fn with(config: CoreConfig) -> Self {
        let mut entities = Vec::new();
        <(Node,)>::collect(&mut entities);
        let config = config.for_node(1).remove(0);
        let routes = Arc::new(Routes::solo(NodeId { id: 1, incarnation: 1 }, 1));
        Self { core: Core::new(0, config, &entities, routes), now: 0, actions: Vec::new() }
    }

    /// Runs a future as a task of the core, as calls from outside do, and everything that becomes ready.
    pub(crate) fn start<T: 'static>(&mut self, future: impl Future<Output = T> + Send + 'static) -> Started<T>
    where
        T: Send,
    {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let left = self.core.desk().leave(Box::new(move |core| {
            let task = async move {
                let _ = sender.send(future.await);
            };
            core.spawn_loose(task).expect("a free slot");
        }));
        assert!(left.is_ok());
        self.step(Event::Desk);
        self.run();
        Started(receiver)
    }

    pub(crate) fn run(&mut self) {
        for _ in 0..10_000 {
            if !self.core.is_ready() && self.core.desk().is_empty() {
                return;
            }
            self.step(Event::Desk);
            self.step(Event::Turns(1_000_000));
        }
        panic!("the core does not come to rest");
    }

    pub(crate) fn step(&mut self, event: Event) {
        self.core.step(self.now, event, &mut self.actions);
    }

    /// Lets time pass, a millisecond at a time.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += 1_000_000;
            self.step(Event::Tick);
            self.run();
        }
    }
}

/// The result of a future that was started on a core.
pub(crate) struct Started<T>(tokio::sync::oneshot::Receiver<T>);

impl<T> Started<T> {
    pub(crate) fn result(&mut self) -> Option<T> {
        self.0.try_recv().ok()
    }
}

pub(crate) fn node(key: u64) -> RawRef<Node> {
    RawRef::new(key)
}
