//! A node whose cores somebody else steps: for a simulated world, where no thread runs and all order is drawn from a seed.
//!
//! It is what [`Node`](crate::Node) is without its threads: the cores and their entrance, so that plain calls through a
//! [`Ref`] reach them from outside. Whoever owns it moves messages between the cores, plays the storage thread and the
//! links, and says what time it is. Not here: rings, clocks, stores (`driver`), and any choice of order.
//!
//! Start at [`SteppedNode::step`].

use std::sync::Arc;

use epicserver_storage::{BoundEntity, NodeId};

use crate::core::{Action, Core, CoreConfig, Event};
use crate::entity::{Entities, Entity, NodeTag, RawRef, Ref};
use crate::key::EntityKey;
use crate::node::NodeShared;
use crate::pool::Pool;
use crate::registry::{self, NodeEntrance};
use crate::routes::Routes;

/// The cores of one node. Dropping it is the node's crash: what runs on it ends, and nobody is told.
#[derive(Debug)]
pub struct SteppedNode {
    number: u32,
    cores: Vec<Core>,
}

impl SteppedNode {
    /// A node of so many cores that binds the entities `B`, starting at `now` nanoseconds of its clock.
    pub fn new<B: Entities>(now: u64, config: &CoreConfig, routes: &Arc<Routes>, cores: u16) -> Self {
        let mut entities = Vec::new();
        B::collect(&mut entities);
        let configs = config.for_node(cores);
        let number = configs.first().map_or(0, |config| config.node_tag);
        let core = |config| Core::new(now, config, &entities, routes.clone());
        let cores: Vec<Core> = configs.into_iter().map(core).collect();
        let desks = cores.iter().map(|core| core.desk().clone()).collect();
        registry::add_node(number, Arc::new(NodeEntrance { desks }));
        Self { number, cores }
    }

    /// Tells a core that something happened, as [`Core::step`].
    ///
    /// # Panics
    /// If the node has no such core.
    pub fn step(&mut self, core: u16, now: u64, event: Event, actions: &mut Vec<Action>) {
        self.cores[usize::from(core)].step(now, event, actions);
    }

    /// One of the cores, to look at.
    ///
    /// # Panics
    /// If the node has no such core.
    pub fn core(&self, core: u16) -> &Core {
        &self.cores[usize::from(core)]
    }

    /// Whether something lies on a core's desk: then it wants [`Event::Desk`].
    ///
    /// # Panics
    /// If the node has no such core.
    pub fn is_desk_occupied(&self, core: u16) -> bool {
        !self.core(core).desk().is_empty()
    }

    /// The calls and tasks of a core that are under way, wherever they are.
    ///
    /// # Panics
    /// If the node has no such core.
    pub fn live_calls(&self, core: u16) -> usize {
        self.core(core).state().slots.live()
    }

    /// A reference for use outside of entity code, as a [`Pool`] makes them: its calls enter through the
    /// core `entry`, in the order they are made.
    pub fn reference<E: Entity>(&self, entry: u16, key: <E::Key as EntityKey>::Argument<'_>) -> Ref<E> {
        RawRef::of(E::Key::store(key), NodeTag::pack(self.number, entry)).into()
    }

    /// The handle that the application around a node of this id has, with the core `entry` as its entrance. Its figures stay
    /// zero: [`Core::counters`] has them.
    pub fn pool(&self, id: NodeId, entry: u16) -> Pool {
        let shared = NodeShared::without_gauges(id, self.number);
        Pool::new(NodeTag::pack(self.number, entry), Arc::new(shared))
    }

    /// What the record of a member says of the entities that it binds.
    pub fn records<B: Entities>() -> Vec<BoundEntity> {
        let mut entities = Vec::new();
        B::collect(&mut entities);
        entities.iter().map(crate::entity::BoundEntity::record).collect()
    }
}

impl Drop for SteppedNode {
    fn drop(&mut self) {
        registry::remove_node(self.number);
    }
}
