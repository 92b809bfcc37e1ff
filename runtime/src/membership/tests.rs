//! Tests of what crosses the files of membership.

use epicserver_storage::{BoundEntity, Member as MemberRecord, NodeId, StoreId};

mod able;
mod model;
mod planner;

const STORE: StoreId = StoreId(7);

fn node(id: u64) -> NodeId {
    NodeId { id, incarnation: 1 }
}

/// A record of a node that binds these entities, each in its first layout.
fn record(node: NodeId, cores: u8, entities: &[&str]) -> MemberRecord {
    let entities = entities.iter().map(|name| BoundEntity::new(name, 1, 1)).collect();
    MemberRecord { node, address: format!("{}:1", node.id), cores, entities }
}
