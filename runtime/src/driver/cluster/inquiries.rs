//! Questions of people about the nodes: asked of all members, answered to whoever asked.

use std::collections::BTreeMap;

use epicserver_storage::{NodeId, View};

use crate::cluster::report::{FoundObject, NodeCounters, SavedState};
use crate::node::{Inquiry, SelfReport, Stats};
use crate::wire::control::ControlMessage;

/// The questions that are not answered yet.
#[derive(Debug)]
pub(crate) struct Inquiries {
    report: SelfReport,
    asked: BTreeMap<u32, Inquiry>,
    number: u32,
}

impl Inquiries {
    pub(crate) fn new(report: SelfReport) -> Self {
        Self { report, asked: BTreeMap::new(), number: 0 }
    }

    /// Takes a question: what to ask under which number, and whom.
    pub(crate) fn ask(
        &mut self,
        inquiry: Inquiry,
        view: &View,
        keeper: Option<NodeId>,
    ) -> (u32, ControlMessage, Vec<NodeId>) {
        self.asked.retain(|_, inquiry| !inquiry.is_over());
        if self.asked.len() >= ASKED_MAX {
            self.asked.pop_first();
        }
        self.number = self.number.wrapping_add(1);
        let (message, whom) = match &inquiry {
            Inquiry::Stats(_) => {
                (ControlMessage::Inspect, view.members.iter().map(|member| member.node).collect())
            }
            Inquiry::Object(entity, key, _) => {
                let binds = |member: &&epicserver_storage::Member| {
                    member.entities.iter().any(|bound| bound.name == *entity)
                };
                let whom = view.members.iter().filter(binds).map(|member| member.node).collect();
                (ControlMessage::FindObject { entity: entity.clone(), key: key.clone() }, whom)
            }
            Inquiry::Saved(key, _) => (ControlMessage::FindSaved(key.clone()), keeper.into_iter().collect()),
        };
        self.asked.insert(self.number, inquiry);
        (self.number, message, whom)
    }

    /// What this node answers to a question.
    pub(crate) fn answer(&self, message: &ControlMessage, counters: NodeCounters) -> Option<ControlMessage> {
        match message {
            ControlMessage::Inspect => {
                Some(ControlMessage::Inspected { stats: self.report.node.stats(), counters })
            }
            ControlMessage::FindObject { entity, key } => {
                let found = self.report.find(entity, key)?;
                Some(ControlMessage::FoundObject(found))
            }
            _ => None,
        }
    }

    /// A node has answered about itself.
    pub(crate) fn handle_stats(&mut self, from: NodeId, number: u32, stats: Stats, counters: NodeCounters) {
        if let Some(Inquiry::Stats(answers)) = self.asked.get(&number) {
            // Whoever does not wait any more does not need it.
            let _ = answers.try_send((from, stats, counters));
        }
    }

    /// A node has answered where an object is.
    pub(crate) fn handle_found(&mut self, number: u32, found: Option<FoundObject>) {
        if let Some(Inquiry::Object(_, _, answers)) = self.asked.get(&number) {
            // The first answer counts, and whoever does not wait any more does not need it.
            let _ = answers.try_send(found);
        }
    }

    /// The keeper has answered what is saved of an object.
    pub(crate) fn handle_saved(&mut self, number: u32, saved: SavedState) {
        if let Some(Inquiry::Saved(_, answers)) = self.asked.get(&number) {
            let _ = answers.try_send(saved);
        }
    }
}

/// Questions that are remembered at a time.
const ASKED_MAX: usize = 64;
