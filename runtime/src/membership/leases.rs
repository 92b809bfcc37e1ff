//! The keeper's side of leases: who is late.

use std::collections::{BTreeMap, BTreeSet};

use epicserver_storage::{NodeId, View, takeover_ns};

/// When each member was last heard of, and whose lease ran out. Made anew with each reign, so that nobody is taken for gone because
/// the keeper was.
///
/// Inputs: [`KeeperLeases::handle_view`] with every new view, [`KeeperLeases::handle_renew`],
/// [`KeeperLeases::handle_proven_dead`], [`KeeperLeases::handle_timeout`] at least every [`WATCH_GAP_NS_MAX`]. Outputs:
/// [`KeeperLeases::poll_lost`], [`KeeperLeases::poll_timeout`].
///
/// Time in which nobody looked does not count: when this process was stopped, the renewals of others wait unread, and it would take all
/// of them for gone. That makes a lease longer on this side only, which is always safe.
#[derive(Debug, Default)]
pub struct KeeperLeases {
    /// When a renewal was last seen, or the member itself first.
    seen: BTreeMap<NodeId, u64>,
    /// Whom [`KeeperLeases::poll_lost`] is to name.
    lost: BTreeSet<NodeId>,
    /// Named, and in the view still: it is too late for them to renew.
    named: BTreeSet<NodeId>,
    looked_at: Option<u64>,
}

impl KeeperLeases {
    /// The leases of a new reign: whoever is in the first view has a whole one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the current view: leases of new members begin, those of removed ones end.
    pub fn handle_view(&mut self, now: u64, view: &View) {
        self.look(now);
        let is_member = |node: &NodeId| view.member(*node).is_some();
        self.seen.retain(|node, _| is_member(node));
        self.lost.retain(is_member);
        self.named.retain(is_member);
        for member in &view.members {
            self.seen.entry(member.node).or_insert(now);
        }
    }

    /// A member renews. `false`: it is none, or it was given up already; answer that it is evicted.
    #[must_use]
    pub fn handle_renew(&mut self, now: u64, node: NodeId) -> bool {
        self.look(now);
        if self.lost.contains(&node) || self.named.contains(&node) {
            return false;
        }
        match self.seen.get_mut(&node) {
            Some(seen) => {
                *seen = now.max(*seen);
                true
            }
            None => false,
        }
    }

    /// It is proven that this incarnation runs nowhere any more.
    pub fn handle_proven_dead(&mut self, node: NodeId) {
        if self.seen.contains_key(&node) && !self.named.contains(&node) {
            self.lost.insert(node);
        }
    }

    /// Looks whose lease ran out. What arrived before MUST be handed in before.
    pub fn handle_timeout(&mut self, now: u64) {
        self.look(now);
        let late = self.seen.iter().filter(|&(_, &seen)| takeover_ns(seen) <= now).map(|(&node, _)| node);
        let late: Vec<NodeId> = late.filter(|node| !self.named.contains(node)).collect();
        self.lost.extend(late);
    }

    /// A member that is gone, each once: kill its process if that is possible, then tell the planner that it is lost.
    pub fn poll_lost(&mut self) -> Option<NodeId> {
        let node = self.lost.pop_first()?;
        self.named.insert(node);
        Some(node)
    }

    /// When to call [`KeeperLeases::handle_timeout`]; `None` before there is any member.
    pub fn poll_timeout(&self) -> Option<u64> {
        let watched = self.seen.iter().filter(|(node, _)| !self.named.contains(node));
        let first = watched.map(|(_, &seen)| takeover_ns(seen)).min()?;
        Some(self.looked_at.map_or(first, |looked_at| first.min(looked_at + WATCH_GAP_NS_MAX / 2)))
    }

    fn look(&mut self, now: u64) {
        let looked_at = self.looked_at.unwrap_or(now);
        let gap = now.saturating_sub(looked_at);
        if gap > WATCH_GAP_NS_MAX {
            for seen in self.seen.values_mut() {
                *seen += gap;
            }
        }
        self.looked_at = Some(now.max(looked_at));
    }
}

/// How long the keeper may look away before that time no longer counts.
pub const WATCH_GAP_NS_MAX: u64 = 1_000_000_000;

#[cfg(test)]
mod tests;
