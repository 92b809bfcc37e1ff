//! Worlds whose nodes are there for ever: each owns its share, crashes now and then, and is back at once, at the next epoch.

use std::sync::Arc;

use epicserver_runtime::core::CoreConfig;
use epicserver_runtime::fabric::FixedMembers;
use epicserver_runtime::routes::Routes;
use epicserver_storage::{Fence, Member, NodeId, Partition, Store, View};
use epicserver_transport::Addr;

use super::links::{Links, Peers};
use super::node::SimNode;
use super::profile::Profile;
use super::{Course, World};
use crate::trace::Happened;

impl World {
    /// Starts all nodes.
    pub(super) fn found_fixed(&mut self) {
        let nodes = 0..self.scene.profile.nodes;
        nodes.clone().for_each(|index| self.assign_share(index, 1));
        nodes.for_each(|index| self.start_fixed(index));
    }

    /// All nodes start again from the store.
    pub(super) fn found_fixed_again(&mut self) {
        let nodes = 0..self.scene.profile.nodes;
        for index in nodes.clone() {
            let incarnation = self.fixed_id(index).incarnation + 1;
            self.assign_share(index, incarnation);
        }
        nodes.for_each(|index| self.start_fixed(index));
    }

    /// A node ends in the middle of whatever it does, and another life of it begins.
    pub(super) fn crash_fixed(&mut self, index: u16) {
        let incarnation = self.fixed_id(index).incarnation + 1;
        self.scene.happened(Happened::Crashed { node: index });
        self.scene.set_place((index, u16::MAX));
        // What the disk has it has of the life that ends, before the fences of the next one are open.
        if let Some(node) = self.nodes.get_mut(&index) {
            node.storage.crash(&mut self.scene);
        }
        self.assign_share(index, incarnation);
        self.start_fixed(index);
        for other in (0..self.scene.profile.nodes).filter(|other| *other != index) {
            let routes = self.fixed_routes(other);
            if let Some(node) = self.nodes.get_mut(&other) {
                node.show(&routes);
            }
        }
        for client in self.clients.iter_mut().filter(|client| client.entry.0 == index) {
            client.reborn();
            client.hear(&mut self.scene);
        }
    }

    fn view(&mut self) -> &mut View {
        match &mut self.course {
            Course::Fixed(view) => view,
            Course::Moving(_) => unreachable!("its nodes are no fixed ones"),
        }
    }

    /// Puts a node's life into the view: it owns its share of the partitions at the next epoch.
    fn assign_share(&mut self, index: u16, incarnation: u32) {
        let Profile { nodes, cores, .. } = self.scene.profile;
        let node = self.fixed_members(index).me(incarnation);
        let member = Member { node, address: String::new(), cores: cores as u8, entities: Vec::new() };
        let view = self.view();
        view.put_member(member);
        view.version += 1;
        let mut fences = Vec::new();
        for partition in Partition::all().filter(|partition| partition.number() / 2 % nodes == index) {
            view.assign(partition, Some(node));
            fences.push(Fence { partition, epoch: view.partition(partition).epoch, holder: node });
        }
        self.store.open_fences(&fences).expect("epochs grow");
    }

    /// Everybody, as a node knows them from the start.
    fn fixed_members(&self, index: u16) -> FixedMembers {
        let name = |index: u16| Addr::new(&format!("node-{index}"));
        let all: Vec<Addr> = (0..self.scene.profile.nodes).map(name).collect();
        FixedMembers::new(&all, &name(index)).expect("it is in the list")
    }

    /// A node in its present life.
    fn fixed_id(&mut self, index: u16) -> NodeId {
        let id = self.fixed_members(index).me(0).id;
        let member = self.view().members.iter().find(|member| member.node.id == id);
        member.expect("it has joined").node
    }

    fn fixed_routes(&mut self, index: u16) -> Arc<Routes> {
        let (me, cores) = (self.fixed_id(index), self.scene.profile.cores);
        Arc::new(Routes::new(me, cores, Arc::new(self.view().clone())))
    }

    fn start_fixed(&mut self, index: u16) {
        let epoch = self.view().version;
        let me = self.fixed_id(index);
        let routes = self.fixed_routes(index);
        let config = self.draw_core_config();
        // The old life ends before the new one begins.
        self.end_node(index);
        let members = self.fixed_members(index);
        let links = Links::new(index, me, &Peers::Fixed(&members), &self.network, &mut self.scene);
        let store = self.store.clone();
        let node = SimNode::start(index, me, &config, &routes, store, links, &mut self.scene);
        self.nodes.insert(index, node);
        self.scene.happened(Happened::Started { node: index, epoch });
    }
}

impl World {
    /// A core's set-up in this world, with dice of its own.
    pub(super) fn draw_core_config(&mut self) -> CoreConfig {
        let core = self.scene.profile.core.clone();
        let chaos = core.chaos.map(|_| self.scene.tape.u64(..));
        let epoch_ms = match self.scene.profile.sets_clocks && !self.scene.healed {
            true => core.epoch_ms - self.scene.tape.u64(0..=DAY_MS),
            false => core.epoch_ms,
        };
        CoreConfig { seed: self.scene.tape.u64(..), chaos, epoch_ms, ..core }
    }
}

/// How far what nodes take for the time of day is apart at most.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
