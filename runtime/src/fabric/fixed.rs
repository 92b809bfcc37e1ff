//! A membership that never changes: the nodes are those at the listed addresses.
//!
//! Every node is given the same list, with its own address in it. A node's id follows from its address, so all nodes
//! know all ids before they have met; the incarnation is drawn at each start and learnt from the hello. In the view a peer
//! has incarnation 0: whichever life of it is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use epicserver_storage::{Member, NodeId};
use epicserver_transport::Addr;

use crate::codec::{Wire, layout};
use crate::error::CallError;
use crate::routes::{Routes, fixed_view};

/// The listed nodes, and which of them this one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedMembers {
    addresses: Vec<Addr>,
    own: usize,
}

/// Why a list of addresses is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    /// The list must name this node too.
    #[error(
        "this node listens on {own:?}, which is not in the list of nodes {listed:?}: every node needs the same list, with itself in it"
    )]
    OwnAddressMissing {
        /// This node's address.
        own: String,
        /// The list.
        listed: Vec<String>,
    },
    /// An address is there twice, or two have the same id.
    #[error("the list of nodes names {0:?} twice, or another node with the same id")]
    Twice(String),
}

impl FixedMembers {
    /// The nodes at these addresses; this one is at `own`.
    ///
    /// # Errors
    /// [`MembersError`] says what is wrong with the list.
    pub fn new(addresses: &[Addr], own: &Addr) -> Result<Self, MembersError> {
        let mut sorted = addresses.to_vec();
        sorted.sort();
        let mut ids = BTreeSet::new();
        if let Some(twice) = sorted.iter().find(|address| !ids.insert(node_id(address))) {
            return Err(MembersError::Twice(twice.to_string()));
        }
        match sorted.binary_search(own) {
            Ok(own) => Ok(Self { addresses: sorted, own }),
            Err(_) => Err(MembersError::OwnAddressMissing {
                own: own.to_string(),
                listed: sorted.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// This node, in a life that has this number.
    pub fn me(&self, incarnation: u32) -> NodeId {
        NodeId { id: node_id(&self.addresses[self.own]), incarnation }
    }

    /// This node's address.
    pub fn own_address(&self) -> Addr {
        self.addresses[self.own].clone()
    }

    /// The other nodes: id and address.
    pub fn peers(&self) -> Vec<(u64, Addr)> {
        let own = self.own;
        let others = self.addresses.iter().enumerate().filter(|(index, _)| *index != own);
        others.map(|(_, address)| (node_id(address), address.clone())).collect()
    }

    /// The view that all these nodes have, as `me` sees it. They all have as many cores as this one.
    pub fn routes(&self, me: NodeId, cores: u16) -> Arc<Routes> {
        let member = |address: &Addr| {
            let id = node_id(address);
            let node = if id == me.id { me } else { NodeId { id, incarnation: 0 } };
            Member { node, address: address.to_string(), cores: cores as u8, entities: Vec::new() }
        };
        let members: Vec<Member> = self.addresses.iter().map(member).collect();
        Arc::new(Routes::new(me, cores, Arc::new(fixed_view(&members))))
    }
}

/// The id of the node at this address.
fn node_id(address: &Addr) -> u64 {
    layout::combine(address.as_str(), &[NODE_ID_SALT])
}

/// What two programs must have in common to understand each other's frames: codec, hashes, errors.
pub fn fingerprint() -> u64 {
    let name = "rkyv 0.8 little_endian aligned pointer_width_32; siphash-1-3 zero key; 4096 partitions";
    layout::combine(name, &[CallError::LAYOUT])
}

const NODE_ID_SALT: u64 = u64::from_le_bytes(*b"epicnode");

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(names: &[&str]) -> Vec<Addr> {
        names.iter().map(|name| Addr::new(name)).collect()
    }

    #[test]
    fn all_nodes_see_the_same_owners() {
        let list = addresses(&["c:1", "a:1", "b:1"]);
        let views: Vec<Vec<u64>> = list
            .iter()
            .map(|own| {
                let members = FixedMembers::new(&list, own).unwrap();
                let view = members.routes(members.me(7), 2).view().clone();
                view.partitions.iter().map(|state| state.owner.unwrap().id).collect()
            })
            .collect();
        assert_eq!((&views[0], &views[0]), (&views[1], &views[2]));
        assert_eq!(views[0].iter().collect::<BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn a_list_that_cannot_be_is_refused_with_a_reason() {
        let list = addresses(&["a:1", "b:1"]);
        let error = FixedMembers::new(&list, &Addr::new("d:1")).unwrap_err();
        assert!(error.to_string().contains("\"d:1\""), "{error}");
        let twice = addresses(&["a:1", "a:1"]);
        assert_eq!(FixedMembers::new(&twice, &Addr::new("a:1")), Err(MembersError::Twice("a:1".into())));
    }
}
