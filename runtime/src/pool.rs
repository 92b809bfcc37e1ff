//! `Pool`: the application's handle to the cluster.

use std::sync::Arc;

use crate::entity::{Entity, NodeTag, RawRef, Ref};
use crate::key::EntityKey;
use crate::node::NodeShared;

/// A handle to the cluster, for code outside of entities: `Send + Sync + Clone`, cheap to clone.
///
/// The calls of one handle, clones included, enter the node through one core and start in the order they are made. Another
/// handle, from [`Node::pool`](crate::Node::pool), may use another core.
#[derive(Clone, Debug)]
pub struct Pool {
    tag: NodeTag,
    node: Arc<NodeShared>,
}

impl Pool {
    pub(crate) fn new(tag: NodeTag, node: Arc<NodeShared>) -> Self {
        Self { tag, node }
    }

    /// A reference to the object of `E` with this key. It always exists; nothing happens until it is called.
    ///
    /// `pool.get::<Player>("Bob")`, `pool.get::<Barrel>(7)`: the argument is the concrete type of the entity's key.
    pub fn get<E: Entity>(&self, key: <E::Key as EntityKey>::Argument<'_>) -> Ref<E> {
        RawRef::of(E::Key::store(key), self.tag).into()
    }

    /// What the node did so far.
    pub fn stats(&self) -> crate::node::Stats {
        self.node.stats()
    }
}
