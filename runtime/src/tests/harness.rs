//! A small entity whose methods carry plain arguments, for tests on real threads and for the workbench.

use super::by_hand::{entity, method};
use crate::entity::RawRef;
use crate::error::CallError;
use crate::field::Field;
use crate::saving::SavePolicy;

/// An object that counts, and that can call others of its kind.
#[derive(Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Node {
    pub(crate) count: Field<u64>,
}

entity!(Node, u64, "test.Node", SavePolicy::Never, [Add, Nested, NestedExclusive]);

method!(Add { by: u64 } on Node as &'a mut Node, u64, |this, object| {
    *object.count.get_mut() += this.by;
    object.count.get()
});
method!(Nested { path: Vec<u64> } on Node as &'a Node, u64, |this, object| nested(this.path, object).await);
method!(NestedExclusive { path: Vec<u64> } on Node as &'a mut Node, u64, |this, object| nested(this.path, object).await);
method!(Spin { callees: Vec<RawRef<Node>>, calls: u64 } on Node as &'a Node, u64, |this, object| {
    let _ = object;
    let mut sum = 0;
    for at in 0..this.calls as usize {
        sum += this.callees[at % this.callees.len()].call(Get {}).await.unwrap_or(0);
    }
    sum
});
method!(Get {} on Node as &'a Node, u64, |_this, object| object.count.get());

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
