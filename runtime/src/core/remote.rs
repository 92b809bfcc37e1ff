//! A core's part in calls between nodes.

use epicserver_storage::NodeId;

use super::{Action, CoreState};
use crate::error::CallError;
use crate::remote::{LinkNews, PeerFrame};
use crate::slot::SlotPtr;

/// The calls of this core that other nodes are to answer.
#[derive(Default)]
pub(super) struct Remote {}

impl CoreState {
    pub(super) fn send_to_node(&self, slot: SlotPtr, node: NodeId) {
        self.refuse(slot, CallError::Unavailable(format!("no link to node {node}")));
    }
    pub(super) fn cancel_remote(&self, _slot: SlotPtr, _node: NodeId) {}
    pub(super) fn reply_to_node(&self, _slot: SlotPtr) {}
    pub(super) fn handle_frame(&self, _frame: PeerFrame) {}
    pub(super) fn handle_link(&self, _news: LinkNews) {}
    pub(super) fn view_changed(&self) {}
    pub(super) fn fail_action(&self, _action: Action) {}
}
