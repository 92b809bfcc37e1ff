//! The view: the versioned truth about members and partitions.
//!
//! A value, cheap to share behind an `Arc`; routing reads it with one array lookup. The rules that a new view has to keep
//! are here too ([`View::check_successor`]), so that every coordinator applies the same ones. Not here: who decides on a
//! new view, and when.

use std::fmt;

use crate::id::{COUNT_MAX, NodeId, PARTITIONS, Partition, StoreId};

/// The most members of a cluster.
pub const MEMBERS_MAX: usize = 1024;

/// The most entities that a member binds.
pub const MEMBER_ENTITIES_MAX: usize = 4096;

/// The most versions of one entity's state that a member can save.
pub const ENTITY_FORMS_MAX: usize = 64;

/// The most entities that a view has a version for.
pub const SCHEMAS_MAX: usize = 4096;

/// The longest address or entity name in a member record, in bytes.
pub const MEMBER_NAME_LENGTH_MAX: usize = 256;

/// Who is a member, and who owns which partition at which epoch. Compared and replaced as a whole.
#[derive(Clone, PartialEq, Eq)]
pub struct View {
    /// Counts views, from 0 for the empty one. The coordinator sets it.
    pub version: u64,
    /// The store that the states are in. Another id than in the last view: everything in memory goes.
    pub store: StoreId,
    /// The members, ordered by id; an id once.
    pub members: Vec<Member>,
    /// The version that the state of each entity is saved in, ordered by name. It rises once no member is left that knows no
    /// newer one, and never falls: so no member that stays meets a state that it cannot read.
    pub schemas: Vec<Schema>,
    /// The partitions, by [`Partition::index`].
    pub partitions: Box<[PartitionState; PARTITIONS as usize]>,
}

impl View {
    /// The view before anybody joined: no members, every partition free at epoch 0.
    pub fn empty(store: StoreId) -> Self {
        let free = vec![PartitionState::default(); PARTITIONS as usize].into_boxed_slice();
        let partitions = free.try_into().expect("the vector was made with exactly this length");
        Self { version: 0, store, members: Vec::new(), schemas: Vec::new(), partitions }
    }

    /// The owner of a partition, `None` while it is free. Calls go there also while it moves.
    pub fn owner(&self, partition: Partition) -> Option<NodeId> {
        self.partitions[partition.index()].owner
    }

    /// Owner, epoch and next owner of a partition.
    pub fn partition(&self, partition: Partition) -> PartitionState {
        self.partitions[partition.index()]
    }

    /// Gives a partition to a node (or frees it) at the next epoch, and so ends its move; beyond [`COUNT_MAX`] no coordinator
    /// takes the view.
    pub fn assign(&mut self, partition: Partition, owner: Option<NodeId>) {
        let state = &mut self.partitions[partition.index()];
        *state = PartitionState { owner, epoch: state.epoch.saturating_add(1), moving_to: None };
    }

    /// Asks the owner of a partition to hand it over to this node, or to keep it. Epoch and owner stay as they are until it has.
    pub fn move_to(&mut self, partition: Partition, next: Option<NodeId>) {
        self.partitions[partition.index()].moving_to = next;
    }

    /// The version that the state of an entity is saved in; `None` if no member has bound it yet.
    pub fn schema(&self, entity: &str) -> Option<u32> {
        let place = self.schemas.binary_search_by(|schema| schema.entity.as_str().cmp(entity)).ok()?;
        Some(self.schemas[place].version)
    }

    /// Lets the state of an entity be saved in this version from now on, unless it is in a newer one.
    pub fn raise_schema(&mut self, entity: &str, version: u32) {
        match self.schemas.binary_search_by(|schema| schema.entity.as_str().cmp(entity)) {
            Ok(place) => self.schemas[place].version = self.schemas[place].version.max(version),
            Err(place) => self.schemas.insert(place, Schema { entity: entity.to_owned(), version }),
        }
    }

    /// The member with this id and incarnation.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        let place = self.members.binary_search_by_key(&node.id, |member| member.node.id).ok()?;
        self.members.get(place).filter(|member| member.node == node)
    }

    /// Adds a member, or replaces the one with the same id.
    pub fn put_member(&mut self, member: Member) {
        match self.members.binary_search_by_key(&member.node.id, |known| known.node.id) {
            Ok(place) => self.members[place] = member,
            Err(place) => self.members.insert(place, member),
        }
    }

    /// Removes a member and frees its partitions, each at the next epoch. What moves to it stays with its owner.
    pub fn remove_member(&mut self, node: NodeId) {
        self.members.retain(|member| member.node != node);
        for partition in Partition::all() {
            let state = self.partition(partition);
            if state.owner == Some(node) {
                self.assign(partition, None);
            } else if state.moving_to == Some(node) {
                self.move_to(partition, None);
            }
        }
    }

    /// Whether `next` may follow this view, its version aside.
    ///
    /// # Errors
    /// [`ViewError`] names the rule that it breaks.
    pub fn check_successor(&self, next: &View) -> Result<(), ViewError> {
        next.check_members()?;
        for member in &next.members {
            let NodeId { id, incarnation: given } = member.node;
            let known = self.members.binary_search_by_key(&id, |known| known.node.id).ok();
            let stored = known.map_or(0, |place| self.members[place].node.incarnation);
            if given < stored {
                return Err(ViewError::IncarnationFalls { id, stored, given });
            }
        }
        for Schema { entity, version: stored } in &self.schemas {
            let given = next.schema(entity).unwrap_or(0);
            if given < *stored {
                let entity = entity.clone();
                return Err(ViewError::SchemaFalls { entity, stored: *stored, given });
            }
        }
        for partition in Partition::all() {
            self.check_partition(partition, next)?;
        }
        Ok(())
    }

    fn check_members(&self) -> Result<(), ViewError> {
        check_limit("members", self.members.len(), MEMBERS_MAX)?;
        for pair in self.members.windows(2) {
            if let [first, second] = pair
                && first.node.id >= second.node.id
            {
                return Err(ViewError::MemberOrder { first: first.node, second: second.node });
            }
        }
        for member in &self.members {
            check_limit("entities of a member", member.entities.len(), MEMBER_ENTITIES_MAX)?;
            check_limit("bytes of an address", member.address.len(), MEMBER_NAME_LENGTH_MAX)?;
            for entity in &member.entities {
                check_limit("bytes of an entity's name", entity.name.len(), MEMBER_NAME_LENGTH_MAX)?;
                check_limit("versions of an entity", entity.earlier.len(), ENTITY_FORMS_MAX)?;
            }
        }
        check_limit("versions of entities", self.schemas.len(), SCHEMAS_MAX)?;
        for Schema { entity, .. } in &self.schemas {
            check_limit("bytes of an entity's name", entity.len(), MEMBER_NAME_LENGTH_MAX)?;
        }
        if !self.schemas.is_sorted_by(|first, second| first.entity < second.entity) {
            return Err(ViewError::SchemaOrder);
        }
        Ok(())
    }

    fn check_partition(&self, partition: Partition, next: &View) -> Result<(), ViewError> {
        let (old, new) = (self.partition(partition), next.partition(partition));
        if new.epoch < old.epoch {
            return Err(ViewError::EpochFalls { partition, stored: old.epoch, given: new.epoch });
        }
        if new.epoch > COUNT_MAX {
            return Err(ViewError::EpochTooHigh { partition, given: new.epoch });
        }
        if new.owner != old.owner && new.epoch == old.epoch {
            return Err(ViewError::SameEpoch { partition, epoch: old.epoch });
        }
        match new.owner {
            Some(owner) if next.member(owner).is_none() => {
                Err(ViewError::OwnerIsNoMember { partition, owner })
            }
            Some(_) if self.store != next.store && new.epoch == old.epoch => {
                Err(ViewError::SameEpochInNewStore { partition, epoch: old.epoch })
            }
            _ => check_move(partition, new, next),
        }
    }
}

impl fmt::Debug for View {
    /// Without the 4096 lines.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owned = self.partitions.iter().filter(|partition| partition.owner.is_some()).count();
        formatter
            .debug_struct("View")
            .field("version", &self.version)
            .field("store", &self.store)
            .field("members", &self.members)
            .field("owned_partitions", &owned)
            .finish_non_exhaustive()
    }
}

/// A process of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name in this life.
    pub node: NodeId,
    /// Where its transport listens, in the transport's own spelling; at most [`MEMBER_NAME_LENGTH_MAX`] bytes.
    pub address: String,
    /// Its execution threads: an object is on core `partition % cores`. 0: it runs none.
    pub cores: u8,
    /// What it binds; a member that does not bind every entity of the cluster owns no partitions.
    pub entities: Vec<BoundEntity>,
}

/// An entity that a member has code for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundEntity {
    /// The declared name; at most [`MEMBER_NAME_LENGTH_MAX`] bytes.
    pub name: String,
    /// Hash of its archived layout.
    pub layout: u64,
    /// The version of the layout.
    pub version: u32,
    /// The earlier versions that the member can save states in as well.
    pub earlier: Vec<EarlierForm>,
}

impl BoundEntity {
    /// An entity with nothing but its current version.
    pub fn new(name: &str, version: u32, layout: u64) -> Self {
        Self { name: name.to_owned(), layout, version, earlier: Vec::new() }
    }

    /// The layout that the member saves states of this version in; `None` if it cannot.
    pub fn layout_at(&self, version: u32) -> Option<u64> {
        if version == self.version {
            return Some(self.layout);
        }
        self.earlier.iter().find(|form| form.version == version).map(|form| form.layout)
    }
}

/// An earlier version of an entity's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlierForm {
    /// Which version.
    pub version: u32,
    /// Hash of its archived layout.
    pub layout: u64,
}

/// The version that an entity's state is saved in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The entity's declared name.
    pub entity: String,
    /// The version.
    pub version: u32,
}

/// Who owns a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// The owner, `None` while it is free.
    pub owner: Option<NodeId>,
    /// Counts the owners; grows with every change of owner, never falls.
    pub epoch: u64,
    /// The owner is handing it over to this other member: with the hand-over that one becomes the owner, at the next epoch.
    pub moving_to: Option<NodeId>,
}

/// The view may not follow the current one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// Epochs never fall.
    #[error("partition {partition} is at epoch {stored}, epoch {given} is lower")]
    EpochFalls {
        /// Which partition.
        partition: Partition,
        /// Its current epoch.
        stored: u64,
        /// The epoch in the refused view.
        given: u64,
    },
    /// Epochs end at [`COUNT_MAX`].
    #[error("partition {partition} cannot be at epoch {given}, the limit is {COUNT_MAX}")]
    EpochTooHigh {
        /// Which partition.
        partition: Partition,
        /// The epoch in the refused view.
        given: u64,
    },
    /// An epoch has one owner.
    #[error("partition {partition} changes its owner, but stays at epoch {epoch}")]
    SameEpoch {
        /// Which partition.
        partition: Partition,
        /// Its epoch in both views.
        epoch: u64,
    },
    /// Owners are members, in their current incarnation.
    #[error("partition {partition} is given to {owner}, which is no member")]
    OwnerIsNoMember {
        /// Which partition.
        partition: Partition,
        /// The owner in the refused view.
        owner: NodeId,
    },
    /// What the owner holds in memory is of another store, so nobody goes on at its epoch.
    #[error("partition {partition} stays at epoch {epoch}, but the store is another one")]
    SameEpochInNewStore {
        /// Which partition.
        partition: Partition,
        /// Its epoch in both views.
        epoch: u64,
    },
    /// Nobody is there to hand it over.
    #[error("partition {partition} moves, but nobody owns it")]
    MoveWithoutOwner {
        /// Which partition.
        partition: Partition,
    },
    /// Partitions move between two members, each in its current incarnation.
    #[error("partition {partition} moves to {to}, which is its owner or no member")]
    MoveToNobody {
        /// Which partition.
        partition: Partition,
        /// Where it moves in the refused view.
        to: NodeId,
    },
    /// Incarnations never fall.
    #[error("node {id:016x} is at incarnation {stored}, incarnation {given} is lower")]
    IncarnationFalls {
        /// The node's id.
        id: u64,
        /// Its current incarnation.
        stored: u32,
        /// The incarnation in the refused view.
        given: u32,
    },
    /// Versions of states never fall.
    #[error("states of {entity} are saved in version {stored}, version {given} is older")]
    SchemaFalls {
        /// Which entity.
        entity: String,
        /// Its version in the current view.
        stored: u32,
        /// Its version in the refused view, 0 for none.
        given: u32,
    },
    /// Versions are ordered by the names of their entities, a name once.
    #[error("the versions of entities are not ordered by name, or a name comes twice")]
    SchemaOrder,
    /// Members are ordered by id, an id once.
    #[error("member {second} comes behind {first}: members are ordered by id, an id once")]
    MemberOrder {
        /// The member before.
        first: NodeId,
        /// The one behind it.
        second: NodeId,
    },
    /// Beyond a limit.
    #[error("{given} {what}, the limit is {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        given: usize,
        /// The limit.
        limit: usize,
    },
}

fn check_move(partition: Partition, new: PartitionState, next: &View) -> Result<(), ViewError> {
    let Some(to) = new.moving_to else { return Ok(()) };
    if new.owner.is_none() {
        return Err(ViewError::MoveWithoutOwner { partition });
    }
    if new.owner == Some(to) || next.member(to).is_none() {
        return Err(ViewError::MoveToNobody { partition, to });
    }
    Ok(())
}

fn check_limit(what: &'static str, given: usize, limit: usize) -> Result<(), ViewError> {
    if given > limit { Err(ViewError::TooMany { what, given, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
