//! The calls of other nodes that are under way here, by the names that these gave them.
//!
//! A name says which place of its caller's table it is, and that table is small: so here is one like it for each core of each
//! peer. Names that say otherwise go into a map, and cost their peer time instead of this node memory.

use std::collections::BTreeMap;

use epicserver_storage::NodeId;

use crate::slot::TaskRef;

/// A call by the node that made it: node, core, slot, generation.
pub(super) type Name = (NodeId, u8, u32, u32);

/// The table.
#[derive(Default)]
pub(super) struct CallTable {
    by_core: BTreeMap<(NodeId, u8), Vec<Option<Call>>>,
    others: BTreeMap<Name, TaskRef>,
}

#[derive(Clone, Copy)]
struct Call {
    generation: u32,
    task: TaskRef,
}

impl CallTable {
    pub(super) fn insert(&mut self, name: Name, task: TaskRef) {
        let (peer, core, slot, generation) = name;
        if slot as usize >= PLACES_MAX {
            self.others.insert(name, task);
            return;
        }
        let calls = self.by_core.entry((peer, core)).or_default();
        if calls.len() <= slot as usize {
            calls.resize(slot as usize + 1, None);
        }
        // Its caller has given up one that still runs.
        if let Some(old) = calls[slot as usize].replace(Call { generation, task }) {
            self.others.insert((peer, core, slot, old.generation), old.task);
        }
    }

    pub(super) fn get(&self, name: Name) -> Option<TaskRef> {
        let (peer, core, slot, generation) = name;
        let calls = self.by_core.get(&(peer, core));
        let call = calls.and_then(|calls| *calls.get(slot as usize)?);
        match call.filter(|call| call.generation == generation) {
            Some(call) => Some(call.task),
            None => self.others.get(&name).copied(),
        }
    }

    pub(super) fn remove(&mut self, name: Name) {
        let (peer, core, slot, generation) = name;
        let calls = self.by_core.get_mut(&(peer, core));
        match calls.and_then(|calls| calls.get_mut(slot as usize)) {
            Some(call) if call.is_some_and(|call| call.generation == generation) => *call = None,
            _ => drop(self.others.remove(&name)),
        }
    }

    /// Forgets the calls of a peer and gives them, in the order of their names.
    pub(super) fn end(&mut self, peer: NodeId) -> Vec<TaskRef> {
        let mut calls = BTreeMap::new();
        self.others.retain(|name, task| {
            let is_its = name.0 == peer;
            if is_its {
                calls.insert(*name, *task);
            }
            !is_its
        });
        self.by_core.retain(|(of, core), places| {
            let is_its = *of == peer;
            if is_its {
                let named = (0..).zip(places).filter_map(|(slot, call)| Some((slot, (*call)?)));
                calls.extend(named.map(|(slot, call)| ((peer, *core, slot, call.generation), call.task)));
            }
            !is_its
        });
        calls.into_values().collect()
    }
}

/// Places that a core of a peer has in a table, at most: more than one may have under way here.
const PLACES_MAX: usize = 4 * crate::remote::WINDOW_MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::SlotPool;

    const PEER: NodeId = NodeId { id: 7, incarnation: 1 };

    fn tasks(count: usize) -> Vec<TaskRef> {
        let slots = SlotPool::new(0, count);
        (0..count).map(|_| slots.allocate(&crate::task::NOTHING).expect("room").task()).collect()
    }

    #[test]
    fn a_name_finds_its_own_call_and_no_other_use_of_its_place() {
        let tasks = tasks(3);
        let mut table = CallTable::default();
        for (generation, task) in (5..).zip(&tasks[..2]) {
            table.insert((PEER, 0, 3, generation), *task);
        }
        assert!(table.get((PEER, 0, 3, 5)) == Some(tasks[0]) && table.get((PEER, 0, 3, 6)) == Some(tasks[1]));
        assert!(table.get((PEER, 0, 3, 7)).is_none() && table.get((PEER, 1, 3, 6)).is_none());
        table.remove((PEER, 0, 3, 7));
        table.remove((PEER, 0, 3, 5));
        assert!(table.get((PEER, 0, 3, 5)).is_none() && table.get((PEER, 0, 3, 6)) == Some(tasks[1]));
    }

    #[test]
    fn a_name_far_beyond_takes_no_more_memory_than_others() {
        let tasks = tasks(2);
        let mut table = CallTable::default();
        table.insert((PEER, 0, u32::MAX, 1), tasks[0]);
        assert!(table.get((PEER, 0, u32::MAX, 1)) == Some(tasks[0]) && table.by_core.is_empty());
        table.insert((PEER, 0, 2, 1), tasks[1]);
        assert!(table.end(PEER) == [tasks[1], tasks[0]] && table.get((PEER, 0, 2, 1)).is_none());
        table.remove((PEER, 0, u32::MAX, 1));
    }
}
