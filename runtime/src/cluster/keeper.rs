//! The keeper: the one node that has the coordinator and the store, and serves them to all.
//!
//! ```text
//!   handle(from, message) ──┐                                        ┌── Send     answers, and what is told unasked
//!   handle_peer_up, _down ──┼──> KeeperService ── poll_output ───────┼── Kill     a member whose lease ran out
//!   handle_proven_dead ─────┤      Planner, KeeperLeases             └── Push     a new view, for everybody
//!   handle_timeout ─────────┘      Damping, StoreDesk, coordinator
//! ```
//! It lives for one reign: a node that becomes the keeper again makes a new one. It blocks in coordinator and store, and does no
//! other IO; it decides nothing itself about who owns what (`membership::Planner`), who is gone
//! (`membership::KeeperLeases`) or when there is too much coming and going (`membership::Damping`).
//!
//! *One view for what came together.* A view is as long as there are partitions, is committed, and goes to everybody, so that it may take
//! longer than word from the nodes needs to come. What changes it is only noted therefore, and planned once by the
//! [`handle_timeout`](KeeperService::handle_timeout) that is due at once: whoever drives this hands in all that is there before.
//!
//! *Order.* A killed process is named before the view without it, and a view before the answers that follow from it. Whoever
//! drives this hands frames to the links before the members of the pushed view, so that a node that is removed hears why.
//!
//! Start at [`KeeperService::handle`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use epicserver_storage::{Coordinator, CoordinatorError, Kept, MEMBERS_MAX, Member, NodeId, Store, View};

use super::shared_store::SharedStore;
use super::store_desk::StoreDesk;
use crate::membership::{Damping, DampingLimits, JoinError, KeeperLeases, Planner};
use crate::wire::control::{Announcement, ControlMessage};

/// What only the keeper does. See the module for how to drive it.
pub struct KeeperService {
    announcement: Announcement,
    coordinator: Box<dyn Coordinator>,
    planner: Planner,
    leases: KeeperLeases,
    damping: Damping,
    desk: StoreDesk,
    view: Arc<View>,
    /// The members that this reign began with, until one of them is heard of: before that they are of a cluster that ended.
    before: BTreeSet<NodeId>,
    /// Members that were told to stop, and are in the view still as nobody can take what they have.
    told_to_stop: BTreeSet<NodeId>,
    /// Who wants in, and the number of the question.
    joining: BTreeMap<NodeId, u32>,
    /// Who gave partitions away, and the number of the question: answered with the view behind it. As many as are handed in before the
    /// next [`handle_timeout`](Self::handle_timeout).
    handed: Vec<(NodeId, u32)>,
    /// Since when there is something to plan.
    plan_at: Option<u64>,
    outputs: VecDeque<KeeperOutput>,
    /// When to ask the coordinator again that did not answer.
    read_at: Option<u64>,
    stray_saves: u64,
}

/// What a keeper wants done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum KeeperOutput {
    /// Send this to a node; it may be this very one.
    Send {
        /// To whom.
        to: NodeId,
        /// The number of the question, or 0.
        number: u32,
        /// What.
        message: ControlMessage,
    },
    /// Send this view to every node that there is a link to, and take its members for the links.
    Push(Arc<View>),
    /// End the process of this node if that is possible: its lease ran out.
    Kill(NodeId),
}

impl KeeperService {
    /// The keeper of this reign.
    ///
    /// # Errors
    /// [`CoordinatorError`] if the view cannot be read: this node cannot keep.
    pub fn new(now: u64, kept: Kept, limits: DampingLimits) -> Result<Self, CoordinatorError> {
        let Kept { reign, mut coordinator, store } = kept;
        let view = coordinator.read()?;
        let announcement = Announcement { reign, store: store.store_id(), limits: store.limits() };
        let mut leases = KeeperLeases::new();
        leases.handle_view(now, &view);
        let mut damping = Damping::new(limits);
        damping.handle_view(now, &view);
        let mut service = Self {
            announcement,
            coordinator,
            planner: Planner::new(view.clone(), store.store_id()),
            leases,
            damping,
            desk: StoreDesk::new(SharedStore::new(store)),
            before: view.members.iter().map(|member| member.node).collect(),
            told_to_stop: BTreeSet::new(),
            view,
            joining: BTreeMap::new(),
            handed: Vec::new(),
            plan_at: None,
            outputs: VecDeque::new(),
            read_at: None,
            stray_saves: 0,
        };
        service.plan(now);
        Ok(service)
    }

    /// What it says about itself.
    pub fn announcement(&self) -> Announcement {
        self.announcement
    }

    /// The store, for this node's own storage thread.
    pub fn store(&self) -> &SharedStore {
        self.desk.store()
    }

    /// Saves that were written for nodes which were no members any more. The fences refuse them, so that it is never above 0; counted by the
    /// view, and not by the fences, so that it would show if they did not.
    pub fn stray_saves(&self) -> u64 {
        self.stray_saves
    }

    /// How long no partition will be moved for balance, in nanoseconds, as nodes come and go; 0: they are moved.
    pub fn balance_waits_ns(&self, now: u64) -> u64 {
        self.damping.poll_timeout().map_or(0, |until| until.saturating_sub(now))
    }

    /// The current view.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// There is a link to this node now, or it is this very one.
    pub fn handle_peer_up(&mut self, node: NodeId) {
        if self.before.contains(&node) {
            self.before.clear();
        }
        self.send(node, 0, ControlMessage::Announce(self.announcement));
    }

    /// The link is gone, and with it what the node had under way.
    pub fn handle_peer_down(&mut self, node: NodeId) {
        self.desk.handle_down(node);
        self.joining.remove(&node);
        self.handed.retain(|(other, _)| *other != node);
    }

    /// It is proven that this life of a node is over.
    pub fn handle_proven_dead(&mut self, now: u64, node: NodeId) {
        self.leases.handle_proven_dead(node);
        self.lose_late(now);
    }

    /// Takes a message of a node. `number` names its question.
    pub fn handle(&mut self, now: u64, from: NodeId, number: u32, message: ControlMessage) {
        match message {
            ControlMessage::Join(member) => self.join(now, from, number, member),
            ControlMessage::Renew => {
                let view_version = self.view.version;
                let is_alive = self.leases.handle_renew(now, from);
                let answer =
                    if is_alive { ControlMessage::Renewed { view_version } } else { ControlMessage::Evicted };
                self.send(from, number, answer);
            }
            ControlMessage::ReadView => self.send(from, number, ControlMessage::View(self.view.clone())),
            ControlMessage::Leave => {
                self.planner.handle_leave(from);
                self.damping.handle_leave(from);
                self.plan_at.get_or_insert(now);
            }
            ControlMessage::Handed(handovers) => {
                self.planner.handle_handed(from, &handovers);
                self.handed.push((from, number));
                self.plan_at.get_or_insert(now);
            }
            ControlMessage::Store(request) => {
                let before = self.desk.saves();
                if let Some(answer) = self.desk.handle(from, number, request) {
                    self.send(from, number, ControlMessage::StoreAnswer(answer));
                }
                let written = self.desk.saves() - before;
                if written > 0 && self.view.member(from).is_none() {
                    self.stray_saves += written;
                    tracing::error!(%from, written, "the store took saves of a node that is no member");
                }
            }
            ControlMessage::FindSaved(key) => {
                let saved = self.desk.saved(&key);
                self.send(from, number, ControlMessage::FoundSaved(saved));
            }
            // An older keeper that has not noticed, or words between members.
            other => tracing::debug!(%from, ?other, "nothing that a keeper answers"),
        }
    }

    /// Does what is due: looks for leases that ran out, asks a coordinator again that failed, and makes a view of what nodes said. What
    /// arrived before MUST be handed in before.
    pub fn handle_timeout(&mut self, now: u64) {
        self.leases.handle_timeout(now);
        self.damping.handle_timeout(now);
        if self.read_at.is_some_and(|at| at <= now) {
            self.read(now);
        }
        self.lose_late(now);
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<u64> {
        let of_members = self.leases.poll_timeout().into_iter().chain(self.damping.poll_timeout());
        of_members.chain(self.read_at).chain(self.plan_at).min()
    }

    /// What is to be done.
    pub fn poll_output(&mut self) -> Option<KeeperOutput> {
        self.outputs.pop_front()
    }

    fn join(&mut self, now: u64, from: NodeId, number: u32, member: Member) {
        if member.node != from {
            let text = format!("node {from} cannot join as {}", member.node);
            return self.send(from, number, ControlMessage::Refused(text));
        }
        if !self.fits(&member) || self.joining.len() >= MEMBERS_MAX {
            let text = "the records of all members are too long for one message".to_owned();
            return self.send(from, number, ControlMessage::Refused(text));
        }
        match self.planner.handle_join(member) {
            Ok(()) => {
                self.joining.insert(from, number);
                self.plan_at.get_or_insert(now);
            }
            Err(JoinError::Removed(_)) => self.send(from, number, ControlMessage::Evicted),
            Err(error) => self.send(from, number, ControlMessage::Refused(error.to_string())),
        }
    }

    /// Whether a view with this member too can be sent.
    fn fits(&self, member: &Member) -> bool {
        if self.view.member(member.node).is_some() {
            return true;
        }
        let mut next = View::clone(&self.view);
        next.put_member(member.clone());
        ControlMessage::View(Arc::new(next)).encode().is_ok()
    }

    fn lose_late(&mut self, now: u64) {
        while let Some(node) = self.leases.poll_lost() {
            self.tell_of_lost(node);
            self.outputs.push_back(KeeperOutput::Kill(node));
            self.planner.handle_lost(node);
        }
        self.plan(now);
    }

    /// Warns of a member that is lost only where it was to be there.
    fn tell_of_lost(&self, node: NodeId) {
        if self.before.contains(&node) {
            tracing::info!(%node, "a member of a life before is gone");
        } else if self.told_to_stop.contains(&node) {
            tracing::info!(%node, "a member that was told to stop is gone");
        } else {
            tracing::warn!(%node, "a member is lost");
        }
    }

    /// Brings the view to where the planner wants it.
    fn plan(&mut self, now: u64) {
        self.plan_at = None;
        for _ in 0..PLANS_MAX {
            self.planner.handle_restless(self.damping.is_restless());
            let Some(next) = self.planner.poll_view() else { break };
            match self.coordinator.compare_and_set(next.version, next) {
                Ok(view) | Err(CoordinatorError::Conflict { found: view }) => self.adopt(now, view),
                Err(error) => {
                    tracing::error!(%error, "the view cannot be changed");
                    self.read_at = Some(now + READ_AGAIN_NS);
                    break;
                }
            }
        }
        self.answer_joins();
        for (node, number) in std::mem::take(&mut self.handed) {
            self.send(node, number, ControlMessage::View(self.view.clone()));
        }
        while let Some(node) = self.planner.poll_left() {
            if self.view.member(node).is_some() {
                self.told_to_stop.insert(node);
            }
            self.send(node, 0, ControlMessage::Left);
        }
    }

    /// Asks the coordinator what is true, and plans again from that.
    fn read(&mut self, now: u64) {
        match self.coordinator.read() {
            Ok(view) => {
                self.read_at = None;
                self.adopt(now, view);
                self.plan(now);
            }
            Err(error) => {
                tracing::error!(%error, "the view cannot be read");
                self.read_at = Some(now + READ_AGAIN_NS);
            }
        }
    }

    fn adopt(&mut self, now: u64, view: Arc<View>) {
        self.planner.handle_view(view.clone());
        self.leases.handle_view(now, &view);
        self.look_for_flapping(now, &view);
        if view.version == self.view.version {
            return;
        }
        tracing::info!(version = view.version, members = view.members.len(), "the view changed");
        self.told_to_stop.retain(|node| view.member(*node).is_some());
        self.view = view.clone();
        // Nobody needs the one before that has not left yet.
        self.outputs.retain(|output| !matches!(output, KeeperOutput::Push(_)));
        self.outputs.push_back(KeeperOutput::Push(view));
    }

    fn look_for_flapping(&mut self, now: u64, view: &View) {
        let was_restless = self.damping.is_restless();
        self.damping.handle_view(now, view);
        if self.damping.is_restless() && !was_restless {
            let wait_s = self.balance_waits_ns(now) / 1_000_000_000;
            tracing::warn!(
                wait_s,
                "nodes come and go: no partition is moved for balance until it is calm again"
            );
        }
    }

    fn answer_joins(&mut self) {
        let view = self.view.clone();
        let done: Vec<(NodeId, u32)> = self
            .joining
            .iter()
            .filter(|(node, _)| view.member(**node).is_some())
            .map(|(node, number)| (*node, *number))
            .collect();
        for (node, number) in done {
            self.joining.remove(&node);
            self.send(node, number, ControlMessage::Joined(view.clone()));
        }
    }

    fn send(&mut self, to: NodeId, number: u32, message: ControlMessage) {
        self.outputs.push_back(KeeperOutput::Send { to, number, message });
    }
}

impl std::fmt::Debug for KeeperService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeeperService")
            .field("reign", &self.announcement.reign)
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

/// Views that are planned in a row; each changes less than the one before.
const PLANS_MAX: usize = 16;
/// How long after a failure the coordinator is asked again.
const READ_AGAIN_NS: u64 = 500_000_000;

#[cfg(test)]
mod tests;
