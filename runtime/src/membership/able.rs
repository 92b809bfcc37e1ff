//! Which members may own partitions.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use epicserver_storage::{BoundEntity, Member, NodeId, View};

/// The members that may own partitions, ordered by id. Those in `leaving` are looked at as if they were gone.
///
/// # The rule
/// 1. A *candidate* has at least one core, binds at least one entity, is not leaving, and can save each of its entities in the
///    version that the view has for it ([`View::schema`]).
/// 2. One candidate *sets the standard*: one that binds every name that any candidate binds; if there is none, any. Among
///    those, one of a kind (members with the same entities, in the same layouts at those versions) that owns the most partitions now, so that those who own
///    go on; then the lowest id.
/// 3. *Able* is each candidate that binds all that the standard binds, in the same layouts.
///
/// So a node that binds less than another owns nothing as soon as one is there that binds everything. A node with a newer version
/// of an entity owns its share beside the others if it can save states in theirs; else, and with another layout of the same version, it
/// owns nothing while the others are there, and gets everything once they leave. A node with an older version owns nothing as soon as
/// states are saved in a newer one. No state ever goes to a node that cannot read it.
pub fn able_members<'view>(view: &'view View, leaving: &BTreeSet<NodeId>) -> Vec<&'view Member> {
    let mut kinds = kinds_of(view, leaving);
    if kinds.len() > 1 {
        count_owned(view, &mut kinds);
    }
    let names: BTreeSet<&str> = kinds.iter().flat_map(|kind| kind.entities.keys().copied()).collect();
    let Some(standard) =
        kinds.iter().max_by_key(|kind| (kind.entities.len() == names.len(), kind.owned, Reverse(kind.first)))
    else {
        return Vec::new();
    };
    let mut able: Vec<&Member> = kinds
        .iter()
        .filter(|kind| kind.covers(standard))
        .flat_map(|kind| kind.members.iter().copied())
        .collect();
    able.sort_unstable_by_key(|member| member.node);
    able
}

/// Candidates that bind the same.
struct Kind<'view> {
    /// Name, and layout in the version that the view has for it.
    entities: BTreeMap<&'view str, u64>,
    first: NodeId,
    members: Vec<&'view Member>,
    /// How many partitions they own together.
    owned: usize,
}

impl Kind<'_> {
    fn covers(&self, other: &Kind<'_>) -> bool {
        other.entities.iter().all(|(name, layout)| self.entities.get(name) == Some(layout))
    }
}

/// In the order of their first members.
fn kinds_of<'view>(view: &'view View, leaving: &BTreeSet<NodeId>) -> Vec<Kind<'view>> {
    let mut kinds: Vec<Kind<'view>> = Vec::new();
    for member in &view.members {
        if member.cores == 0 || member.entities.is_empty() || leaving.contains(&member.node) {
            continue;
        }
        // Members of one program list their entities in one order, so this is found without making the map again.
        let known = kinds.iter_mut().find(|kind| kind.members[0].entities == member.entities);
        if let Some(kind) = known {
            kind.members.push(member);
            continue;
        }
        let form_of = |entity: &'view BoundEntity| {
            let version = view.schema(&entity.name).unwrap_or(entity.version);
            Some((entity.name.as_str(), entity.layout_at(version)?))
        };
        let Some(entities) = member.entities.iter().map(form_of).collect::<Option<BTreeMap<&str, u64>>>()
        else {
            continue;
        };
        match kinds.iter_mut().find(|kind| kind.entities == entities) {
            Some(kind) => kind.members.push(member),
            None => kinds.push(Kind { entities, first: member.node, members: vec![member], owned: 0 }),
        }
    }
    kinds
}

fn count_owned(view: &View, kinds: &mut [Kind<'_>]) {
    let mut owned: BTreeMap<NodeId, usize> = BTreeMap::new();
    for owner in view.partitions.iter().filter_map(|state| state.owner) {
        *owned.entry(owner).or_default() += 1;
    }
    for kind in kinds {
        kind.owned = kind.members.iter().filter_map(|member| owned.get(&member.node)).sum();
    }
}
