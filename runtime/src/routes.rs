//! Who serves an object: the view of the cluster, as a core looks things up in it.

use std::sync::Arc;

use epicserver_storage::{Member, NodeId, PARTITIONS, Partition, StoreId, View};

/// A view, seen from one of its members.
#[derive(Clone, Debug)]
pub struct Routes {
    me: NodeId,
    cores: u16,
    /// There is no other member.
    is_alone: bool,
    /// For each partition that this node serves its epoch, else 0; also for an epoch that does not fit. Every call asks for one at
    /// random, and these are 16 KiB together, where the states of the view are 224.
    own: Arc<[u32]>,
    view: Arc<View>,
}

/// Where a partition is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// By this core of this node.
    Here(u16),
    Node(NodeId),
    Nobody,
}

impl Routes {
    /// The view as `me`, which has this many cores, sees it.
    pub fn new(me: NodeId, cores: u16, view: Arc<View>) -> Self {
        let is_alone = view.members.iter().all(|member| member.node == me);
        let own = view.partitions.iter().map(|state| match state.owner {
            Some(owner) if owner == me => u32::try_from(state.epoch).unwrap_or(0),
            _ => 0,
        });
        Self { me, cores: cores.max(1), is_alone, own: own.collect(), view }
    }

    /// The routes of a node that is alone and owns everything at epoch 1.
    pub fn solo(me: NodeId, cores: u16) -> Self {
        Self::solo_above(me, cores, 0)
    }

    /// The routes of a node that is alone and owns everything, at the epoch after the one that any partition had before.
    pub(crate) fn solo_above(me: NodeId, cores: u16, epoch: u64) -> Self {
        let member = Member { node: me, address: String::new(), cores: cores as u8, entities: Vec::new() };
        let mut view = fixed_view(&[member]);
        view.partitions.iter_mut().for_each(|state| state.epoch = state.epoch.saturating_add(epoch));
        Self::new(me, cores, Arc::new(view))
    }

    /// The node that looks.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// How many cores that node has.
    pub(crate) fn cores(&self) -> u16 {
        self.cores
    }

    /// Whether no other node is a member.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// The view itself.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    pub(crate) fn place(&self, partition: u16) -> Place {
        self.look_up(partition).0
    }

    /// Where a partition is served, and its epoch.
    #[inline]
    pub(crate) fn look_up(&self, partition: u16) -> (Place, u64) {
        match self.own.get(usize::from(partition)) {
            Some(&epoch) if epoch > 0 => (Place::Here(partition % self.cores), epoch.into()),
            _ => self.look_up_in_view(partition),
        }
    }

    fn look_up_in_view(&self, partition: u16) -> (Place, u64) {
        let state = Partition::new(partition).map(|partition| self.view.partition(partition));
        let place = match state.and_then(|state| state.owner) {
            Some(owner) if owner == self.me => Place::Here(partition % self.cores),
            Some(owner) => Place::Node(owner),
            None => Place::Nobody,
        };
        (place, state.map_or(0, |state| state.epoch))
    }

    pub(crate) fn epoch(&self, partition: u16) -> u64 {
        self.look_up(partition).1
    }

    /// The core of a member that serves a partition.
    pub(crate) fn core_at(&self, node: NodeId, partition: u16) -> u8 {
        let cores = self.view.member(node).map_or(1, |member| member.cores.max(1));
        (partition % u16::from(cores)) as u8
    }

    /// The bits of this node in call ids.
    pub(crate) fn place_bits(&self) -> u64 {
        (self.me.id & ((1 << 24) - 1)) << 12
    }
}

/// A view that never changes: the members own equal ranges of the partitions, at epoch 1. Ranges, because a partition's
/// number also says its core: dealt out in turn, two nodes of two cores would use one core each.
pub fn fixed_view(members: &[Member]) -> View {
    let mut view = View::empty(StoreId(0));
    let mut owners: Vec<NodeId> =
        members.iter().filter(|member| member.cores > 0).map(|member| member.node).collect();
    owners.sort_unstable();
    for member in members {
        view.put_member(member.clone());
    }
    for number in 0..PARTITIONS {
        let partition = Partition::new(number).expect("below the number of partitions");
        let place = usize::from(number) * owners.len() / usize::from(PARTITIONS);
        view.assign(partition, owners.get(place).copied());
    }
    view.version = 1;
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_as_many_cores_as_there_can_be_has_all_its_partitions() {
        let routes = Routes::solo(NodeId { id: 1, incarnation: 1 }, crate::CORES_MAX);
        assert_eq!([7, 254, 255].map(|partition| routes.place(partition)), [7, 254, 0].map(Place::Here));
    }

    /// What is looked up is what the view says, also where the short way round does not tell.
    #[test]
    fn partitions_are_found_where_the_view_has_them() {
        let (me, other) = (NodeId { id: 1, incarnation: 2 }, NodeId { id: 2, incarnation: 1 });
        let before = NodeId { incarnation: 1, ..me };
        let mut view = View::empty(StoreId(0));
        let owners = [(Some(me), 1), (Some(me), 0), (Some(me), u64::from(u32::MAX) + 7), (Some(other), 3)];
        let owners = owners.into_iter().chain([(Some(before), 4), (None, 5)]);
        for (number, (owner, epoch)) in (0..).zip(owners) {
            let partition = Partition::new(number).expect("below the number of partitions");
            view.assign(partition, owner);
            view.partitions[usize::from(number)].epoch = epoch;
        }
        let routes = Routes::new(me, 2, Arc::new(view));
        let found: Vec<_> = (0..6).map(|partition| routes.look_up(partition)).collect();
        let expected = [
            (Place::Here(0), 1),
            (Place::Here(1), 0),
            (Place::Here(0), u64::from(u32::MAX) + 7),
            (Place::Node(other), 3),
            (Place::Node(before), 4),
            (Place::Nobody, 5),
        ];
        assert_eq!(found, expected);
        assert_eq!(routes.look_up(PARTITIONS), (Place::Nobody, 0));
        assert_eq!([0, 2, 3].map(|partition| routes.epoch(partition)), [1, u64::from(u32::MAX) + 7, 3]);
    }
}
