//! The keeper of the model: what the keeper's service does with planner and leases.

use std::sync::Arc;

use epicserver_storage::{Coordinator, MemoryCoordinator, NodeId, StoreId, View};

use crate::membership::{JoinError, KeeperAnswer, KeeperLeases, KeeperRequest, Planner};

pub(super) struct Keeper {
    /// In the list of processes.
    pub(super) process: usize,
    pub(super) reign: u64,
    coordinator: MemoryCoordinator,
    pub(super) planner: Planner,
    pub(super) leases: KeeperLeases,
}

/// What the keeper wants said: to one node, or to all.
pub(super) enum Word {
    To(NodeId, u32, KeeperAnswer),
    All(Arc<View>),
}

impl Keeper {
    pub(super) fn new(
        process: usize,
        reign: u64,
        mut coordinator: MemoryCoordinator,
        store: StoreId,
    ) -> Self {
        let view = coordinator.read().expect("memory does not fail");
        Self { process, reign, coordinator, planner: Planner::new(view, store), leases: KeeperLeases::new() }
    }

    pub(super) fn handle(
        &mut self,
        now: u64,
        from: NodeId,
        number: u32,
        request: KeeperRequest,
    ) -> Vec<Word> {
        let mut words = Vec::new();
        match request {
            KeeperRequest::Join(member) => {
                let answer = match self.planner.handle_join(member) {
                    Ok(()) => {
                        words.extend(self.settle(now));
                        KeeperAnswer::Joined(Arc::clone(self.planner.view()))
                    }
                    Err(JoinError::Removed(_)) => KeeperAnswer::Evicted,
                    Err(error) => KeeperAnswer::Refused(error.to_string()),
                };
                words.push(Word::To(from, number, answer));
            }
            KeeperRequest::Renew => {
                let answer = match self.leases.handle_renew(now, from) {
                    true => KeeperAnswer::Renewed { view_version: self.planner.view().version },
                    false => KeeperAnswer::Evicted,
                };
                words.push(Word::To(from, number, answer));
            }
            KeeperRequest::ReadView => {
                let view = Arc::clone(self.planner.view());
                words.push(Word::To(from, number, KeeperAnswer::View(view)));
            }
            KeeperRequest::Leave => self.planner.handle_leave(from),
            KeeperRequest::Handed(handed) => self.planner.handle_handed(from, &handed),
        }
        words.extend(self.settle(now));
        words
    }

    /// Whose lease ran out, or whose death is proven.
    pub(super) fn poll_lost(&mut self) -> Option<NodeId> {
        let node = self.leases.poll_lost()?;
        self.planner.handle_lost(node);
        Some(node)
    }

    /// Changes the view until it is as it should be.
    pub(super) fn settle(&mut self, now: u64) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some(next) = self.planner.poll_view() {
            let view = self.coordinator.compare_and_set(next.version, next).expect("nobody else plans");
            self.planner.handle_view(Arc::clone(&view));
            words.push(Word::All(view));
        }
        self.leases.handle_view(now, self.planner.view());
        while let Some(node) = self.planner.poll_left() {
            words.push(Word::To(node, 0, KeeperAnswer::Left));
        }
        words
    }
}
