//! What the cluster thread lets the node's handles see.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use epicserver_storage::{NodeId, View};

use crate::membership::Phase;

/// Where the node is in its cluster.
#[derive(Debug)]
pub(crate) struct ClusterShared {
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
struct State {
    node: NodeId,
    phase: Phase,
    view: Option<Arc<View>>,
    is_served: bool,
    keeper: Option<NodeId>,
    reign: u64,
    lease_until_ns: u64,
    refused: Option<String>,
    unusable: Option<String>,
}

impl ClusterShared {
    pub(crate) fn new(node: NodeId) -> Self {
        let state = State {
            node,
            phase: Phase::Seeking,
            view: None,
            is_served: false,
            keeper: None,
            reign: 0,
            lease_until_ns: 0,
            refused: None,
            unusable: None,
        };
        Self { state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn node(&self) -> NodeId {
        self.lock().node
    }

    pub(crate) fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// The view that the cores route by; `None` before the first one.
    pub(crate) fn view(&self) -> Option<Arc<View>> {
        self.lock().view.clone()
    }

    /// Whether the cores have routed by a view once in which this node is a member and every object that it could call has an owner.
    pub(crate) fn is_served(&self) -> bool {
        self.lock().is_served
    }

    pub(crate) fn set_served(&self) {
        self.lock().is_served = true;
    }

    /// Who keeps the data, and in which reign.
    pub(crate) fn keeper(&self) -> (Option<NodeId>, u64) {
        let state = self.lock();
        (state.keeper, state.reign)
    }

    /// Why the cluster did not take this node in, if it did not.
    pub(crate) fn refused(&self) -> Option<String> {
        self.lock().refused.clone()
    }

    /// Why the data can be kept by nobody, if that is so.
    pub(crate) fn unusable(&self) -> Option<String> {
        self.lock().unusable.clone()
    }

    pub(crate) fn set_unusable(&self, reason: Option<&str>) {
        let mut state = self.lock();
        if state.unusable.as_deref() != reason {
            state.unusable = reason.map(str::to_owned);
        }
    }

    pub(crate) fn set_node(&self, node: NodeId) {
        self.lock().node = node;
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    pub(crate) fn set_view(&self, view: Arc<View>) {
        self.lock().view = Some(view);
    }

    pub(crate) fn set_keeper(&self, keeper: Option<NodeId>, reign: u64) {
        let mut state = self.lock();
        (state.keeper, state.reign) = (keeper, reign);
    }

    /// Until when the cores may serve.
    pub(crate) fn lease_until_ns(&self) -> u64 {
        self.lock().lease_until_ns
    }

    pub(crate) fn set_lease(&self, until_ns: u64) {
        self.lock().lease_until_ns = until_ns;
    }

    pub(crate) fn set_refused(&self, reason: String) {
        self.lock().refused = Some(reason);
    }
}
