//! What goes wrong in the model.

use epicserver_storage::{MemoryStore, NodeId, Store, StoreId, takeover_ns};

use super::keeper::Keeper;
use super::world::{Event, MS, SECOND, World};
use crate::membership::Phase;

impl World {
    /// Ten seconds to start, some with faults, then peace.
    pub(super) fn run(&mut self) {
        let start = self.now + self.rng.u64(1..8) * SECOND;
        self.run_until(start);
        let end = self.now + self.rng.u64(10..25) * SECOND;
        while self.now < end {
            let next = self.now + self.rng.u64(0..4 * SECOND);
            self.run_until(next);
            self.do_harm();
            self.mind_the_keeper();
        }
        self.is_calm = true;
        // Somebody who is there for sure.
        self.start_process();
        for _ in 0..160 {
            self.run_until(self.now + 250 * MS);
            self.mind_the_keeper();
        }
        self.check_healed();
    }

    fn do_harm(&mut self) {
        let able: Vec<usize> = (0..self.processes.len()).filter(|&process| self.is_well(process)).collect();
        let Some(&victim) = able.get(self.rng.usize(0..able.len().max(1))) else {
            self.start_process();
            return;
        };
        match self.rng.u32(0..12) {
            0..3 if able.len() < 5 => self.start_process(),
            3 if able.len() > 2 => {
                self.tally.deaths += 1;
                self.kill(victim);
            }
            4 | 5 => self.stop(victim, 0),
            // Long enough to be given up, if nothing happens to the keeper.
            8 => self.stop(victim, 9),
            6 if able.len() > 2 => {
                self.tally.leaves += 1;
                let clock = self.processes[victim].clock(self.now);
                let until = clock + self.rng.u64(0..20) * SECOND;
                self.processes[victim].member.handle_leave(clock, until);
            }
            7 => self.harm_keeper(able.len()),
            9 | 10 => {
                let keeper = self.keeper_node();
                // A link says its news in order.
                self.put(victim, 0, Event::PeerDown(keeper));
                self.announce_to(victim);
            }
            _ => {}
        }
    }

    fn is_well(&self, process: usize) -> bool {
        let state = &self.processes[process];
        state.is_alive && !matches!(state.member.phase(), Phase::Leaving { .. } | Phase::Left)
    }

    fn keeper_node(&self) -> NodeId {
        let process = self.keeper.as_ref().map_or(0, |keeper| keeper.process);
        self.processes[process].member.node()
    }

    fn harm_keeper(&mut self, able: usize) {
        let Some(keeper) = &self.keeper else { return };
        let process = keeper.process;
        if able > 2 && self.rng.bool() { self.kill(process) } else { self.stop(process, 0) }
    }

    fn stop(&mut self, process: usize, seconds_min: u64) {
        self.tally.stops += 1;
        self.processes[process].stopped_until = self.now + self.rng.u64(seconds_min..16) * SECOND;
    }

    /// A process ends; with it all that it kept, except for what is on disk.
    pub(super) fn kill(&mut self, process: usize) {
        self.processes[process].is_alive = false;
        let node = self.processes[process].member.node();
        for other in 0..self.processes.len() {
            self.send(other, Event::PeerDown(node));
        }
        if self.keeper.as_ref().is_some_and(|keeper| keeper.process == process) {
            self.keeper = None;
        }
    }

    /// What the processes of one machine do for each other: a keeper that is stopped for too long is ended, and if there is
    /// none, one of them takes over.
    fn mind_the_keeper(&mut self) {
        if let Some(keeper) = &self.keeper {
            let process = keeper.process;
            let stopped_until = self.processes[process].stopped_until;
            let ends = self.is_calm || stopped_until > takeover_ns(self.now);
            if stopped_until > self.now && ends {
                self.kill(process);
            }
        }
        if self.keeper.is_none() && (self.is_calm || self.rng.bool()) {
            let next = (0..self.processes.len())
                .find(|&process| self.is_well(process) && self.processes[process].stopped_until <= self.now);
            if let Some(next) = next {
                self.take_keeping(next);
            }
        }
    }

    pub(super) fn take_keeping(&mut self, process: usize) {
        self.reign += 1;
        self.tally.reigns += u64::from(self.reign > 1);
        if self.reign > 1 && self.rng.u32(0..3) == 0 {
            self.tally.stores += 1;
            let id = self.store.store_id();
            self.store = MemoryStore::new(StoreId(id.0 + 1));
        }
        let (coordinator, store) = (self.coordinator.clone(), self.store.store_id());
        let clock = self.processes[process].clock(self.now);
        let mut keeper = Keeper::new(process, self.reign, coordinator, store);
        let words = keeper.settle(clock);
        self.keeper = Some(keeper);
        self.say(words);
        for other in 0..self.processes.len() {
            self.announce_to(other);
        }
    }

    /// The keeper looks after its members.
    pub(super) fn keep(&mut self, clock: u64) {
        let Some(mut keeper) = self.keeper.take() else { return };
        for process in self.processes.iter().filter(|process| process.is_local) {
            let node = process.member.node();
            let earlier =
                (1..=process.registered.incarnation).map(|incarnation| NodeId { incarnation, ..node });
            for node in earlier.filter(|node| !process.is_alive || *node != process.registered) {
                keeper.leases.handle_proven_dead(node);
            }
        }
        keeper.leases.handle_timeout(clock);
        let mut ended = Vec::new();
        while let Some(node) = keeper.poll_lost() {
            let process = node.id as usize - 1;
            let is_other = keeper.process != process;
            if is_other && self.processes[process].is_local && self.processes[process].registered == node {
                ended.push(process);
            }
        }
        let words = keeper.settle(clock);
        self.keeper = Some(keeper);
        for process in ended {
            if self.processes[process].is_alive {
                self.kill(process);
            }
        }
        self.say(words);
    }
}
