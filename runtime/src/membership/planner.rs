//! The planner: the next view out of the current one and what happened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use epicserver_storage::{
    MEMBERS_MAX, Member, NodeId, Partition, PartitionState, SCHEMAS_MAX, StoreId, View, ViewError,
};

use super::able::able_members;
use super::action::Handover;
use super::balance::{Holder, set_targets};

/// Decides who owns what. Runs where the coordinator is, in one reign.
///
/// Inputs: [`Planner::handle_view`] with what the coordinator says, also after each try to change it;
/// [`Planner::handle_join`], [`Planner::handle_leave`], [`Planner::handle_lost`], [`Planner::handle_handed`],
/// [`Planner::handle_store`] with what happened. Outputs: [`Planner::poll_view`], the next view to compare-and-set, and
/// [`Planner::poll_left`], who may stop.
///
/// What happened is kept until a view shows that it was dealt with, so a change that lost against another is planned again.
///
/// # What it decides
/// * Free partitions go to able members (see [`able_members`]) at once, so none is free while there is one.
/// * The version that an entity's state is saved in is the oldest that a member has which stays; it never falls.
/// * Able members hold their share by cores, rounded up or down. A partition moves between two nodes that stay only for that,
///   and at most [`MOVES_MAX`] are on the move at one time. While nodes come and go ([`Planner::handle_restless`]) none is moved for
///   that, so shares may be uneven for a while.
/// * A move is given up only when its target is removed. Otherwise a node that once got a shipment might get the partition later,
///   at the epoch of that shipment, when the owner had served on.
/// * A lost node is removed, and its partitions have new owners in the same view; one that was moving goes where it was moving to,
///   as its objects may be there already.
/// * A leaving node is removed when it says again that it leaves, and owned nothing by then: so it can answer for what it had
///   before nobody listens to it any more. If nobody else is able it keeps what it has, and may stop.
/// * With another store every owned partition stays with its owner, at the next epoch.
///
/// Who is leaving is not in the view, so a new keeper learns it from the nodes, which say it again.
#[derive(Debug)]
pub struct Planner {
    view: Arc<View>,
    store: StoreId,
    joining: BTreeMap<u64, Member>,
    leaving: BTreeSet<NodeId>,
    /// Those of them that have seen that they own nothing.
    left: BTreeSet<NodeId>,
    lost: BTreeSet<NodeId>,
    /// By partition and owner.
    handed: BTreeMap<(Partition, NodeId), Handover>,
    /// Nodes that wait to hear that they may stop.
    asked_to_leave: BTreeSet<NodeId>,
    /// Incarnations that were removed in this reign, the last one at the end: they never come back.
    removed: VecDeque<NodeId>,
    is_restless: bool,
    is_changed: bool,
}

/// Why a node is not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// This incarnation was a member and was removed: it has to drop everything and come back in a new one.
    #[error("{0} was a member and was removed")]
    Removed(NodeId),
    /// Its record breaks a rule of views, or the cluster is full.
    #[error(transparent)]
    Invalid(#[from] ViewError),
}

impl Planner {
    /// A planner that starts with this view, over the store that is open now.
    pub fn new(view: Arc<View>, store: StoreId) -> Self {
        Self {
            view,
            store,
            joining: BTreeMap::new(),
            leaving: BTreeSet::new(),
            left: BTreeSet::new(),
            lost: BTreeSet::new(),
            handed: BTreeMap::new(),
            asked_to_leave: BTreeSet::new(),
            removed: VecDeque::new(),
            is_restless: false,
            is_changed: true,
        }
    }

    /// The view that it plans from.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Takes what the coordinator says is current, whoever made it. After a try to change it whose outcome is not known, or
    /// that failed, read it and hand it in: then it is planned again.
    pub fn handle_view(&mut self, view: Arc<View>) {
        for old in &self.view.members {
            if view.member(old.node).is_none() {
                self.removed.push_back(old.node);
            }
        }
        let excess = self.removed.len().saturating_sub(REMOVED_MAX);
        self.removed.drain(..excess);
        self.view = view;
        let view = &self.view;
        self.leaving.retain(|&node| view.member(node).is_some());
        self.left.retain(|&node| view.member(node).is_some());
        self.lost.retain(|&node| view.member(node).is_some());
        self.handed.retain(|&(_, node), handover| handover.ends_move_in(view, node));
        let joining = std::mem::take(&mut self.joining);
        for member in joining.into_values().filter(|member| view.member(member.node).is_none()) {
            // One that does not fit any more asks again, and hears why.
            let _ = Self::admit(view, &mut self.joining, member);
        }
        self.is_changed = true;
    }

    /// Takes a node in; one with the same id and a lower incarnation is removed with that. A member that asks again is fine.
    ///
    /// # Errors
    /// [`JoinError`]: nothing changes.
    pub fn handle_join(&mut self, member: Member) -> Result<(), JoinError> {
        if self.view.member(member.node).is_some() {
            return Ok(());
        }
        let is_old =
            |gone: &&NodeId| gone.id == member.node.id && gone.incarnation >= member.node.incarnation;
        if let Some(&gone) = self.removed.iter().find(is_old) {
            return Err(JoinError::Removed(gone));
        }
        Self::admit(&self.view, &mut self.joining, member)?;
        self.is_changed = true;
        Ok(())
    }

    /// A node wants to leave: its partitions move away. Said again when it owns nothing, it is removed.
    pub fn handle_leave(&mut self, node: NodeId) {
        if self.view.member(node).is_some() {
            self.leaving.insert(node);
            if !is_needed(&self.view, node) {
                self.left.insert(node);
            }
        }
        if self.asked_to_leave.len() < MEMBERS_MAX {
            self.asked_to_leave.insert(node);
        }
        self.is_changed = true;
    }

    /// A node is gone: its death is proven, or its lease ran out ([`super::KeeperLeases`]). MUST NOT be said of any other.
    pub fn handle_lost(&mut self, node: NodeId) {
        if self.view.member(node).is_some() {
            self.lost.insert(node);
            self.is_changed = true;
        }
    }

    /// A node says that others have everything of these partitions of its own. Word that fits no move of the view is out of date,
    /// and changes nothing.
    pub fn handle_handed(&mut self, node: NodeId, handed: &[Handover]) {
        for handover in handed {
            if handover.ends_move_in(&self.view, node) {
                self.handed.insert((handover.partition, node), *handover);
                self.is_changed = true;
            }
        }
    }

    /// Nodes come and go so often that moves for balance had better wait ([`super::Damping`]), or do not any more. What is on the move goes
    /// on, and so does everything else.
    pub fn handle_restless(&mut self, is_restless: bool) {
        self.is_changed |= self.is_restless && !is_restless;
        self.is_restless = is_restless;
    }

    /// The states are in this store now.
    pub fn handle_store(&mut self, store: StoreId) {
        self.store = store;
        self.is_changed = true;
    }

    /// The next view, if the current one is not as it should be. Its version is that of the current view, which it replaces:
    /// `coordinator.compare_and_set(next.version, next)`. Nothing more comes until the next input.
    pub fn poll_view(&mut self) -> Option<View> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let mut next = View::clone(&self.view);
        self.change_store(&mut next);
        self.hand_over(&mut next);
        self.change_members(&mut next);
        self.raise_schemas(&mut next);
        self.balance(&mut next);
        self.remove_those_who_left(&mut next);
        (next != *self.view).then_some(next)
    }

    /// A node that asked to leave and may stop, as nothing will be moved from it any more: it is removed, or nobody could
    /// take what it has. To be polled after [`Planner::poll_view`].
    pub fn poll_left(&mut self) -> Option<NodeId> {
        if self.asked_to_leave.is_empty() {
            return None;
        }
        let is_stuck = able_members(&self.view, &self.leaving).is_empty();
        let view = &self.view;
        let node =
            self.asked_to_leave.iter().copied().find(|&node| is_stuck || view.member(node).is_none())?;
        self.asked_to_leave.remove(&node);
        Some(node)
    }

    fn admit(view: &View, joining: &mut BTreeMap<u64, Member>, member: Member) -> Result<(), ViewError> {
        let mut members = view.clone();
        for joiner in joining.values().chain([&member]) {
            remove_other_incarnation(&mut members, joiner.node);
            members.put_member(joiner.clone());
        }
        // An older one than the view's shows here, one older than another joiner's below.
        view.check_successor(&members)?;
        if let Some(known) = joining.get(&member.node.id)
            && known.node.incarnation > member.node.incarnation
        {
            let NodeId { id, incarnation: given } = member.node;
            return Err(ViewError::IncarnationFalls { id, stored: known.node.incarnation, given });
        }
        joining.insert(member.node.id, member);
        Ok(())
    }

    fn change_store(&self, next: &mut View) {
        if next.store == self.store {
            return;
        }
        next.store = self.store;
        for partition in Partition::all() {
            if let Some(owner) = next.owner(partition) {
                next.assign(partition, Some(owner));
            }
        }
    }

    fn hand_over(&self, next: &mut View) {
        for (&(partition, node), handover) in &self.handed {
            // A lost target gets nothing more; the others do, also if they are not able any more, as they have the objects.
            if handover.ends_move_in(next, node) && !self.is_gone(handover.to) {
                next.assign(partition, Some(handover.to));
            }
        }
    }

    /// Whether this member is removed by the next view without being asked.
    fn is_gone(&self, node: NodeId) -> bool {
        let is_replaced = self.joining.get(&node.id).is_some_and(|member| member.node != node);
        is_replaced || self.lost.contains(&node)
    }

    fn change_members(&self, next: &mut View) {
        let gone: Vec<NodeId> =
            next.members.iter().map(|member| member.node).filter(|&node| self.is_gone(node)).collect();
        if !gone.is_empty() {
            Self::bury(next, &gone);
        }
        for member in self.joining.values() {
            next.put_member(member.clone());
        }
    }

    fn bury(next: &mut View, gone: &[NodeId]) {
        let heirs: Vec<(Partition, NodeId)> = Partition::all()
            .filter_map(|partition| {
                let state = next.partition(partition);
                let to = state.moving_to.filter(|to| !gone.contains(to))?;
                state.owner.is_some_and(|owner| gone.contains(&owner)).then_some((partition, to))
            })
            .collect();
        for (partition, heir) in heirs {
            next.assign(partition, Some(heir));
        }
        for &node in gone {
            next.remove_member(node);
        }
    }

    /// A leaving member counts no more once nothing is on its way to it: so it meets no newer state.
    fn raise_schemas(&self, next: &mut View) {
        let mut oldest: BTreeMap<String, u32> = BTreeMap::new();
        for member in next.members.iter().filter(|member| self.may_be_given(next, member.node)) {
            for entity in &member.entities {
                let version = oldest.entry(entity.name.clone()).or_insert(entity.version);
                *version = entity.version.min(*version);
            }
        }
        for (entity, version) in oldest {
            // Names of programs that are long gone stay: their states may come back to life.
            if next.schemas.len() < SCHEMAS_MAX || next.schema(&entity).is_some() {
                next.raise_schema(&entity, version);
            }
        }
    }

    fn may_be_given(&self, view: &View, node: NodeId) -> bool {
        !self.leaving.contains(&node) || view.partitions.iter().any(|state| state.moving_to == Some(node))
    }

    fn balance(&self, next: &mut View) {
        let mut holders: Vec<Holder> = able_members(next, &self.leaving)
            .into_iter()
            .map(|member| Holder { node: member.node, cores: member.cores, held: 0, target: 0 })
            .collect();
        if holders.is_empty() {
            return;
        }
        for state in next.partitions.iter() {
            if let Some(holder) = state.moving_to.or(state.owner).and_then(|node| find(&mut holders, node)) {
                holder.held += 1;
            }
        }
        set_targets(&mut holders);
        assign_free(next, &mut holders);
        start_moves(next, &mut holders, !self.is_restless);
    }

    fn remove_those_who_left(&self, next: &mut View) {
        for &node in &self.left {
            if !is_needed(next, node) {
                next.remove_member(node);
            }
        }
    }
}

/// Whether a node owns something or is about to.
fn is_needed(view: &View, node: NodeId) -> bool {
    view.partitions.iter().any(|state| state.owner == Some(node) || state.moving_to == Some(node))
}

fn remove_other_incarnation(view: &mut View, node: NodeId) {
    let other =
        view.members.iter().map(|member| member.node).find(|known| known.id == node.id && *known != node);
    // A higher one stays, so that the check of the view finds the fall.
    if let Some(other) = other.filter(|other| other.incarnation < node.incarnation) {
        view.remove_member(other);
    }
}

fn find(holders: &mut [Holder], node: NodeId) -> Option<&mut Holder> {
    let place = holders.binary_search_by_key(&node, |holder| holder.node).ok()?;
    holders.get_mut(place)
}

fn next_receiver(holders: &mut [Holder]) -> Option<&mut Holder> {
    holders.iter_mut().find(|holder| holder.held < holder.target)
}

/// In order, so that nodes own ranges: the number of a partition also says its core, and dealt out in turn, two nodes of two
/// cores would use one core each.
fn assign_free(next: &mut View, holders: &mut [Holder]) {
    for partition in Partition::all().filter(|&partition| next.owner(partition).is_none()).collect::<Vec<_>>()
    {
        let Some(receiver) = next_receiver(holders) else { return };
        receiver.held += 1;
        next.assign(partition, Some(receiver.node));
    }
}

/// First from those who may own nothing, then, for balance, from those who hold too much; from the top, so that ranges stay ranges.
fn start_moves(next: &mut View, holders: &mut [Holder], for_balance: bool) {
    if next_receiver(holders).is_none() {
        return;
    }
    let moving = next.partitions.iter().filter(|state| state.moving_to.is_some()).count();
    let mut budget = MOVES_MAX.saturating_sub(moving);
    let givers: &[bool] = if for_balance { &[false, true] } else { &[false] };
    for &from_able in givers {
        for index in (0..next.partitions.len()).rev() {
            let PartitionState { owner: Some(owner), moving_to: None, .. } = next.partitions[index] else {
                continue;
            };
            let giver = find(holders, owner);
            let gives = giver.as_ref().map_or(!from_able, |giver| from_able && giver.held > giver.target);
            if budget == 0 {
                return;
            }
            if !gives {
                continue;
            }
            if let Some(giver) = giver {
                giver.held -= 1;
            }
            let Some(receiver) = next_receiver(holders) else { return };
            receiver.held += 1;
            next.partitions[index].moving_to = Some(receiver.node);
            budget -= 1;
        }
    }
}

/// How many partitions are on the move at one time.
pub const MOVES_MAX: usize = 256;
/// How many removed incarnations a planner remembers.
const REMOVED_MAX: usize = 4096;
