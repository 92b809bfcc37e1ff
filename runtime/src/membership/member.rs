//! The life of one node in the cluster.
//!
//! ```text
//!              keeper found           a view has me
//!   Seeking ───────────────> Joining ───────────────> Serving ── handle_leave ──> Leaving ──> Left
//!      ^                        ^                        │                          removed, told so, late,
//!      └── no keeper            └──── dropped ──── Evicted <── no member any more    or evicted
//!                                   incarnation + 1
//! ```
//!
//! # The order that keeps it safe
//! 1. A view that gives this node partitions is published only after the store opened their fences; views come to the cores one
//!    after the other, each newer than the last.
//! 2. The lease runs from when the renewal was *sent*. Without a keeper the node serves on until then and no longer; its objects stay,
//!    as nobody is given its partitions without removing it. If a later keeper renews the lease, it goes on.
//! 3. A node that is evicted stops at once, drops everything, and only then asks to be a member again, as a new
//!    incarnation. It learns of it by an answer, by a view without it, or by a refused fence, whatever comes first.
//! 4. With another store all objects are dropped before a view of that store is published, and every fence is opened anew; the
//!    cores may not serve in between.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use epicserver_storage::{
    Member as MemberRecord, NodeId, Partition, RENEW_INTERVAL_NS, View, holder_deadline_ns,
};

use super::action::{FencesOutcome, Handover, KeeperAnswer, KeeperRequest, MemberAction};
use crate::membership::member::requests::{Asked, Requests};
use crate::membership::member::views::{Step, Views};
use crate::routes::Routes;

mod requests;
mod views;

/// A node's own part in membership.
///
/// Inputs: [`Member::handle_announced`] and [`Member::handle_peer_down`] say where the keeper is, [`Member::handle_answer`] what it
/// said; [`Member::handle_fences`] and [`Member::handle_dropped`] what became of tasks; [`Member::handle_shipped`] that the next owner
/// has a partition's objects; [`Member::handle_leave`] that this node is to go, [`Member::handle_rested`] that it may be gone;
/// [`Member::handle_timeout`] that time passed.
/// Outputs: [`Member::poll_action`], to be done in order, and [`Member::poll_timeout`].
#[derive(Debug)]
pub struct Member {
    record: MemberRecord,
    phase: Phase,
    keeper: Option<NodeId>,
    reign: u64,
    requests: Requests,
    views: Views,
    /// Handed over, but no view shows it yet.
    handed: BTreeMap<Partition, Handover>,
    /// When to tell the keeper of those that it does not know of.
    hand_at_ns: Option<u64>,
    /// Until when the keeper lets this node serve.
    lease_until_ns: u64,
    /// What the cores were told last.
    shown_lease_ns: u64,
    /// When to say something to the keeper again.
    speak_at_ns: Option<u64>,
    /// Whether it has given its last answers, and may be removed as soon as it says once more that it leaves.
    is_at_rest: bool,
    /// When to try again to open fences.
    fences_at_ns: Option<u64>,
    actions: VecDeque<MemberAction>,
}

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It knows no keeper, and is no member.
    Seeking,
    /// It asks to be one.
    Joining,
    /// It is a member; it serves what it has while its lease lasts.
    Serving,
    /// It is a member that wants to go, until this time at most.
    Leaving {
        /// When it goes anyway.
        until_ns: u64,
    },
    /// It is no member any more, and its objects are being dropped.
    Evicted,
    /// It is over.
    Left,
}

impl Member {
    /// A node with this record, which knows nobody. The cores MUST start with a lease of 0.
    pub fn new(record: MemberRecord) -> Self {
        Self {
            record,
            phase: Phase::Seeking,
            keeper: None,
            reign: 0,
            requests: Requests::default(),
            views: Views::default(),
            handed: BTreeMap::new(),
            hand_at_ns: None,
            lease_until_ns: 0,
            shown_lease_ns: 0,
            speak_at_ns: None,
            is_at_rest: false,
            fences_at_ns: None,
            actions: VecDeque::new(),
        }
    }

    /// Who this node is; once it is evicted, who it will be.
    pub fn node(&self) -> NodeId {
        self.record.node
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Who keeps the data, if there is a link to that node.
    pub fn keeper(&self) -> Option<NodeId> {
        self.keeper
    }

    /// The view that was published last in this incarnation.
    pub fn view(&self) -> Option<&Arc<View>> {
        self.views.published()
    }

    /// A peer, or this node itself, says that it is the keeper. Say it again whenever a link to it comes up. One of an older reign is
    /// the keeper no more, and not listened to.
    pub fn handle_announced(&mut self, now: u64, node: NodeId, reign: u64) {
        if reign < self.reign {
            return;
        }
        (self.keeper, self.reign) = (Some(node), reign);
        if self.phase == Phase::Seeking {
            self.phase = Phase::Joining;
        }
        if self.is_member() {
            // Before the renewal, so that a node that was removed as it wished sees that before it hears that it is no member.
            self.ask(now, KeeperRequest::ReadView);
        }
        self.speak(now);
    }

    /// There is no link to this peer any more.
    pub fn handle_peer_down(&mut self, node: NodeId) {
        if self.keeper.is_some_and(|keeper| keeper.id == node.id) {
            self.keeper = None;
            self.speak_at_ns = None;
            if self.phase == Phase::Joining {
                self.phase = Phase::Seeking;
            }
        }
    }

    /// The keeper answers the request with this number, or says something unasked with number 0.
    pub fn handle_answer(&mut self, now: u64, number: u32, answer: KeeperAnswer) {
        let asked = self.requests.take(number);
        match answer {
            KeeperAnswer::Joined(view) | KeeperAnswer::View(view) => self.handle_view(now, view),
            KeeperAnswer::Renewed { view_version } => {
                if let Some(Asked { renewal_sent_ns: Some(sent), .. }) = asked {
                    self.lease_until_ns = self.lease_until_ns.max(holder_deadline_ns(sent));
                    self.views.allow_serving();
                    self.show_lease();
                    self.advance();
                }
                if self.is_member() && view_version > self.views.version() {
                    self.ask(now, KeeperRequest::ReadView);
                }
            }
            // To a question of this incarnation only.
            KeeperAnswer::Evicted if asked.is_some() => self.evict(),
            KeeperAnswer::Refused(reason) if asked.is_some() => {
                self.actions.push_back(MemberAction::Refused(reason));
            }
            KeeperAnswer::Left if matches!(self.phase, Phase::Leaving { .. }) => self.leave_for_good(),
            KeeperAnswer::Evicted | KeeperAnswer::Refused(_) | KeeperAnswer::Left => {}
        }
    }

    /// The store refused a save of this life of the node: others own its objects.
    pub fn handle_refused_save(&mut self, me: NodeId) {
        if self.is_member() && me == self.record.node {
            self.evict();
        }
    }

    /// What became of opening the fences of the task with this number.
    pub fn handle_fences(&mut self, now: u64, number: u64, outcome: FencesOutcome) {
        if !self.views.is_opening(number) {
            return;
        }
        match outcome {
            FencesOutcome::Opened => {
                self.views.handle_opened(self.record.node);
                self.advance();
            }
            FencesOutcome::Refused => self.evict(),
            FencesOutcome::Failed => self.fences_at_ns = Some(now + FENCES_RETRY_NS),
        }
    }

    /// Everything is dropped, as the task with this number wanted, and the node is who that said.
    pub fn handle_dropped(&mut self, now: u64, number: u64) {
        if !self.views.handle_dropped(number) {
            return;
        }
        if self.phase == Phase::Evicted {
            self.phase = if self.keeper.is_some() { Phase::Joining } else { Phase::Seeking };
            self.speak(now);
        }
        self.advance();
    }

    /// The next owner has acknowledged all objects of a partition that the view moves there, and this node serves it no more.
    ///
    /// The keeper hears of it a little later, with others, or at once if no other is under way: each such word makes a view.
    pub fn handle_shipped(&mut self, now: u64, handover: Handover) {
        let me = self.record.node;
        let Some(view) = self.views.newest().filter(|_| self.is_member()) else { return };
        if !handover.ends_move_in(view, me) {
            return;
        }
        self.handed.insert(handover.partition, handover);
        // All that is handed is on the move in that view.
        if self.handed.len() < self.views.moving_from_me() {
            self.hand_at_ns.get_or_insert(now + HANDED_DELAY_NS);
        } else {
            self.tell_handed(now);
        }
    }

    /// This node is to leave: by then at the latest, also with what it still owns.
    pub fn handle_leave(&mut self, now: u64, until_ns: u64) {
        match self.phase {
            Phase::Serving => {
                self.phase = Phase::Leaving { until_ns };
                self.speak(now);
            }
            Phase::Leaving { until_ns: before } => {
                self.phase = Phase::Leaving { until_ns: before.min(until_ns) };
            }
            // The keeper may know it already, and finds out that it is gone.
            Phase::Seeking | Phase::Joining | Phase::Evicted => self.leave_for_good(),
            Phase::Left => {}
        }
    }

    /// Nothing of this node is under way any more. One that leaves and owns nothing may be removed now.
    pub fn handle_rested(&mut self, now: u64) {
        let is_leaving = matches!(self.phase, Phase::Leaving { .. });
        if is_leaving && self.owns_nothing() && !std::mem::replace(&mut self.is_at_rest, true) {
            self.speak(now);
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: u64) {
        if matches!(self.phase, Phase::Leaving { until_ns } if until_ns <= now) {
            self.leave_for_good();
        }
        if self.speak_at_ns.is_some_and(|at| at <= now) {
            self.speak(now);
        }
        if self.hand_at_ns.is_some_and(|at| at <= now) {
            self.tell_handed(now);
        }
        if self.fences_at_ns.is_some_and(|at| at <= now) {
            self.fences_at_ns = None;
            self.take_step(|views, me| views.retry(me));
        }
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<MemberAction> {
        self.actions.pop_front()
    }

    /// When to call [`Member::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<u64> {
        let leaves_at = match self.phase {
            Phase::Leaving { until_ns } => Some(until_ns),
            _ => None,
        };
        [leaves_at, self.speak_at_ns, self.hand_at_ns, self.fences_at_ns].into_iter().flatten().min()
    }

    fn owns_nothing(&self) -> bool {
        self.views.owned_by(self.record.node).is_empty()
    }

    fn is_member(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Leaving { .. })
    }

    fn handle_view(&mut self, now: u64, view: Arc<View>) {
        let me = self.record.node;
        let is_in = view.member(me).is_some();
        if view.version <= self.views.version() {
            return;
        }
        match self.phase {
            Phase::Joining if is_in => {
                self.phase = Phase::Serving;
                self.speak(now);
            }
            // Also when the link to the keeper was lost meanwhile: then the view is true, but nobody renews yet.
            Phase::Seeking if is_in => self.phase = Phase::Serving,
            Phase::Serving | Phase::Leaving { .. } => {}
            _ => return,
        }
        if !is_in {
            self.handle_removed(view);
            return;
        }
        self.handed.retain(|_, handover| handover.ends_move_in(&view, me));
        self.take_step(|views, me| views.handle_view(me, view));
        self.advance();
    }

    /// A member that wanted to go and handed over all it had is out as it wished: its cores still see that view, so that who comes late
    /// is told where to go.
    fn handle_removed(&mut self, view: Arc<View>) {
        let is_leaving = matches!(self.phase, Phase::Leaving { .. });
        let owned = self.views.owned_by(self.record.node);
        if is_leaving && owned.iter().all(|partition| self.handed.contains_key(partition)) {
            self.publish(view);
            self.leave_for_good();
        } else {
            self.evict();
        }
    }

    fn evict(&mut self) {
        if !self.is_member() && self.phase != Phase::Joining {
            return;
        }
        let is_leaving = matches!(self.phase, Phase::Leaving { .. });
        self.forget();
        self.lease_until_ns = 0;
        self.show_lease();
        if is_leaving {
            self.leave_for_good();
            return;
        }
        self.phase = Phase::Evicted;
        self.record.node.incarnation += 1;
        let number = self.views.evict();
        self.actions.push_back(MemberAction::Drop { number, me: self.record.node });
    }

    fn leave_for_good(&mut self) {
        self.forget();
        self.views.evict();
        self.phase = Phase::Left;
        self.actions.push_back(MemberAction::Left);
    }

    /// What was asked, handed over and planned for is of a life that is over.
    fn forget(&mut self) {
        self.requests.clear();
        self.handed.clear();
        (self.speak_at_ns, self.hand_at_ns, self.fences_at_ns) = (None, None, None);
        self.actions
            .retain(|action| !matches!(action, MemberAction::OpenFences { .. } | MemberAction::Send { .. }));
    }

    fn advance(&mut self) {
        self.take_step(Views::advance);
    }

    /// Does what the views want done, until they wait for something.
    fn take_step(&mut self, first: impl FnOnce(&mut Views, NodeId) -> Step) {
        let me = self.record.node;
        let mut step = first(&mut self.views, me);
        loop {
            match step {
                Step::Wait => return,
                Step::Drop { number } => {
                    self.show_lease();
                    self.actions.push_back(MemberAction::Drop { number, me });
                    return;
                }
                Step::OpenFences { number, fences } => {
                    self.fences_at_ns = None;
                    self.actions.push_back(MemberAction::OpenFences { number, fences });
                    return;
                }
                Step::Publish(view) => self.publish(view),
            }
            step = self.views.advance(me);
        }
    }

    fn publish(&mut self, view: Arc<View>) {
        let routes = Routes::new(self.record.node, u16::from(self.record.cores), view);
        // The lease before the view, so that no core serves what is new in it without one.
        self.show_lease();
        self.actions.push_back(MemberAction::Publish(Arc::new(routes)));
    }

    /// Tells the cores, if it is news. While they are to drop everything, or show a view of the store before, they may not serve.
    fn show_lease(&mut self) {
        let until_ns = if self.views.is_fit_to_serve() { self.lease_until_ns } else { 0 };
        if until_ns != self.shown_lease_ns {
            self.shown_lease_ns = until_ns;
            self.actions.push_back(MemberAction::Lease(until_ns));
        }
    }

    /// Says to the keeper what it has to know now, and again after a while.
    fn speak(&mut self, now: u64) {
        self.speak_at_ns = None;
        if self.keeper.is_none() {
            return;
        }
        match self.phase {
            Phase::Joining => self.ask(now, KeeperRequest::Join(self.record.clone())),
            Phase::Serving => self.ask(now, KeeperRequest::Renew),
            Phase::Leaving { .. } => {
                self.ask(now, KeeperRequest::Renew);
                // Said by one that owns nothing it is its last word: nobody listens to a node that is no member.
                if self.is_at_rest || !self.owns_nothing() {
                    self.ask(now, KeeperRequest::Leave);
                }
            }
            Phase::Seeking | Phase::Evicted | Phase::Left => return,
        }
        self.tell_handed(now);
        self.speak_at_ns = Some(now + RENEW_INTERVAL_NS);
    }

    fn tell_handed(&mut self, now: u64) {
        self.hand_at_ns = None;
        if !self.handed.is_empty() {
            self.ask(now, KeeperRequest::Handed(self.handed.values().copied().collect()));
        }
    }

    fn ask(&mut self, now: u64, request: KeeperRequest) {
        if let Some(keeper) = self.keeper {
            let number = self.requests.put((request == KeeperRequest::Renew).then_some(now));
            self.actions.push_back(MemberAction::Send { keeper, number, request });
        }
    }
}

/// How long word of a hand-over may wait for others.
const HANDED_DELAY_NS: u64 = 10_000_000;
/// How long to wait before fences are tried again.
const FENCES_RETRY_NS: u64 = 500_000_000;

#[cfg(test)]
mod tests;
