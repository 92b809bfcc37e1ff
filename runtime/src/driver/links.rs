//! What the node and its core threads expect of the link thread. The link thread itself is to replace the empty types.

use std::sync::Arc;

use epicserver_storage::NodeId;

use super::clock::Clock;
use crate::core::Event;
use crate::entity::BoundEntity;
use crate::node::StartError;
use crate::remote::PeerFrame;
use crate::routes::Routes;
use crate::sync::parker::Unparker;

/// Transport, own address, peers, cluster id and secret.
#[derive(Debug)]
pub(crate) enum LinksConfig {}

/// Node id and fixed view are known, the transport listens, no thread runs.
#[derive(Debug)]
pub(crate) enum PreparedLinks {}

/// A core's ends of the rings to and from the link thread.
#[derive(Debug)]
pub(crate) enum CoreLinks {}

/// Stops and joins the link thread when dropped.
#[derive(Debug)]
pub(crate) enum LinkThreadHandle {}

impl LinksConfig {
    pub(crate) fn prepare(self, _cores: u16, _entities: &[BoundEntity]) -> Result<PreparedLinks, StartError> {
        match self {}
    }
}

impl PreparedLinks {
    pub(crate) fn id(&self) -> NodeId {
        match *self {}
    }

    pub(crate) fn routes(&self) -> Arc<Routes> {
        match *self {}
    }

    pub(crate) fn start(
        self,
        _cores: &[Unparker],
        _clock: Clock,
    ) -> Result<(LinkThreadHandle, Vec<CoreLinks>), StartError> {
        match self {}
    }
}

impl CoreLinks {
    /// The next frame or piece of news for this core.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        match *self {}
    }

    /// Leaves a frame for the link thread; in order, also when its ring is full for a while.
    pub(crate) fn send(&mut self, _frame: PeerFrame) {
        match *self {}
    }

    /// Wakes the link thread if something was sent, once for each pass.
    pub(crate) fn flush(&mut self) {
        match *self {}
    }

    /// Whether something waits; for the moment before the core sleeps.
    pub(crate) fn has_input(&mut self) -> bool {
        match *self {}
    }
}
