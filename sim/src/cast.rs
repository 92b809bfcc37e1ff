//! Who plays in a world: the entities that its nodes bind, the world's own or somebody else's.

use std::sync::Arc;

use epicserver_runtime::core::CoreConfig;
use epicserver_runtime::entity::Entities;
use epicserver_runtime::routes::Routes;
use epicserver_runtime::stepping::SteppedNode;
use epicserver_storage::BoundEntity;

use crate::workload::{Account, Board};

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cast {
    start: fn(u64, &CoreConfig, &Arc<Routes>, u16) -> SteppedNode,
    records: fn() -> Vec<BoundEntity>,
    is_own: bool,
}

impl Cast {
    /// The world's own entities, whose turns and saves the checkers can read.
    pub(crate) fn own() -> Self {
        Self { is_own: true, ..Self::of::<(Account, Board)>() }
    }

    /// Somebody's own, of which the world knows nothing.
    pub(crate) fn of<B: Entities>() -> Self {
        Self { start: SteppedNode::new::<B>, records: SteppedNode::records::<B>, is_own: false }
    }

    /// Whether they are the world's own.
    pub(crate) fn is_own(self) -> bool {
        self.is_own
    }

    /// The cores of a node that binds them.
    pub(crate) fn start(
        self,
        now: u64,
        config: &CoreConfig,
        routes: &Arc<Routes>,
        cores: u16,
    ) -> SteppedNode {
        (self.start)(now, config, routes, cores)
    }

    /// What the record of a member says of them.
    pub(crate) fn records(self) -> Vec<BoundEntity> {
        (self.records)()
    }
}
