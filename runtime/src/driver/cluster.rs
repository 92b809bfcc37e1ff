//! The cluster thread: a node's part in its cluster. Finds the keeper, joins, renews, leaves; and keeps the
//! data while this process holds the data directory's lock.
//!
//! ```text
//!   links  -- control frames, peers ──>┐                       ┌──> links: control frames, members, whom to seek
//!   storage - fences opened ──────────>│  Member               │──> cores: views, leases, shipments
//!   cores --- emptied partitions ─────>│  KeeperService        │──> storage thread: fences to open
//!                                      │  Shipping, Arrivals   │
//!   Node   -- leave, inspect ─────────>┘  Machine              └──> Node: where it is
//! ```
//! A node that leaves serves until others have what it had.
//!
//! What is decided is decided in `membership` and `cluster`; here is only who is told, and when it is looked again. One thread,
//! as none of it is on the path of a call. Start at [`ClusterThread::run`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use epicserver_storage::{Kept, Machine, NodeId, View};
use epicserver_transport::Addr;

use super::clock::Clock;
use super::control_port::LinksHandle;
use crate::cluster::arrivals::Arrivals;
use crate::cluster::keeper::{KeeperOutput, KeeperService};
use crate::cluster::report::NodeCounters;
use crate::cluster::shipping::{Shipping, ShippingOutput};
use crate::fabric::PeerNews;
use crate::membership::{DampingLimits, FencesOutcome, KeeperAnswer, Member, MemberAction, Phase};
use crate::node::Inquiry;
use crate::shipment::Drained;
use crate::wire::control::ControlMessage;

mod config;
mod doors;
mod inquiries;
mod seeking;
mod shared;

pub use config::ClusterConfig;
pub(crate) use config::{ClusterReach, ClusterSeed};
pub(crate) use doors::{CoreDoors, DOOR_PATIENCE, LineShared, StorageDoor, StorageLine};
pub(crate) use inquiries::Inquiries;
use seeking::Seeking;
pub(crate) use shared::ClusterShared;

/// What the cluster thread is told.
pub(crate) enum ToCluster {
    /// A link came up or went down.
    Peer(PeerNews),
    /// A node says something.
    Control(NodeId, u32, Box<ControlMessage>),
    /// What became of fences that the storage thread was to open.
    Fences(u64, FencesOutcome),
    /// The store refuses the saves of this life of the node.
    Evicted(NodeId),
    /// A core has let go of a partition that moves.
    Drained(Box<Drained>),
    /// The node is to leave, by this time at the latest.
    Leave(u64),
    /// Nothing is under way on the node any more.
    Rested,
    /// Somebody wants to know something of the nodes.
    Inquiry(Inquiry),
    /// The node stops: the thread ends.
    Stop,
}

/// The thread's own state.
pub(crate) struct ClusterThread {
    pub(crate) inbox: Receiver<ToCluster>,
    pub(crate) clock: Clock,
    pub(crate) member: Member,
    pub(crate) address: Addr,
    pub(crate) seeking: Seeking,
    pub(crate) machine: Option<Box<dyn Machine>>,
    pub(crate) keeper: Option<KeeperService>,
    pub(crate) links: LinksHandle,
    pub(crate) cores: CoreDoors,
    pub(crate) storage: StorageDoor,
    pub(crate) shared: Arc<ClusterShared>,
    pub(crate) inquiries: Inquiries,
    /// Whether this node is no member, and only looks.
    pub(crate) damping: DampingLimits,
    pub(crate) looks_on: bool,
    pub(crate) shipping: Shipping,
    pub(crate) arrivals: Arrivals,
}

impl ClusterThread {
    /// Runs until the node stops.
    pub(crate) fn run(mut self) {
        loop {
            let now = self.clock.now();
            self.look_around(now);
            self.settle(now);
            let wait = self.due(now).saturating_sub(self.clock.now()).min(LOOK_NS);
            match self.inbox.recv_timeout(Duration::from_nanos(wait)) {
                Ok(ToCluster::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(input) => {
                    self.handle(self.clock.now(), input);
                    for _ in 0..INPUTS_PER_PASS {
                        match self.inbox.try_recv() {
                            Ok(ToCluster::Stop) => return,
                            Ok(input) => self.handle(self.clock.now(), input),
                            Err(_) => break,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl ClusterThread {
    fn handle(&mut self, now: u64, input: ToCluster) {
        match input {
            ToCluster::Peer(PeerNews::Up(node)) => self.handle_peer_up(node),
            ToCluster::Peer(PeerNews::Down(node)) => self.handle_peer_down(node),
            ToCluster::Control(from, number, message) => self.handle_message(now, from, number, *message),
            ToCluster::Fences(number, outcome) => self.member.handle_fences(now, number, outcome),
            ToCluster::Evicted(me) => self.member.handle_refused_save(me),
            ToCluster::Drained(drained) => self.handle_drained(now, *drained),
            ToCluster::Leave(until_ns) => self.member.handle_leave(now, until_ns),
            ToCluster::Rested => self.member.handle_rested(now),
            ToCluster::Inquiry(inquiry) => self.inquire(now, inquiry),
            ToCluster::Stop => {}
        }
        self.settle(now);
    }

    /// A core has let go of a partition: its next owner gets what was in it, if the view still moves it there.
    fn handle_drained(&mut self, now: u64, drained: Drained) {
        let me = self.member.node();
        if self.shared.view().is_some_and(|view| drained.handover.ends_move_in(&view, me)) {
            self.shipping.handle_drained(now, drained);
        }
    }

    /// Looks at what no message tells: whether somebody keeps the data, and who is gone.
    fn look_around(&mut self, now: u64) {
        if let Some(keeper) = &mut self.keeper {
            keeper.handle_timeout(now);
            self.seeking.renew_keeping(now, self.machine.as_deref_mut());
        } else if self.member.keeper().is_none() {
            self.seek(now);
        }
        if let (Some(keeper), Some(machine)) = (&mut self.keeper, &mut self.machine) {
            for node in self.seeking.missing() {
                if machine.is_proven_dead(node) {
                    keeper.handle_proven_dead(now, node);
                }
            }
        }
        self.member.handle_timeout(now);
        self.shipping.handle_timeout(now);
    }

    /// When something is due.
    fn due(&self, now: u64) -> u64 {
        let keeper = self.keeper.as_ref().and_then(KeeperService::poll_timeout);
        let all = [self.member.poll_timeout(), self.shipping.poll_timeout(), keeper];
        all.into_iter().flatten().min().unwrap_or(now + LOOK_NS)
    }

    /// Becomes the keeper if nobody of this machine is, else asks whoever may know one.
    fn seek(&mut self, now: u64) {
        let me = self.member.node();
        if let Some(machine) = &mut self.machine {
            let kept = self.seeking.try_keep(now, me, self.address.as_str(), &mut **machine);
            self.shared.set_unusable(self.seeking.unusable());
            if let Some(kept) = kept {
                return self.start_keeping(now, kept);
            }
        }
        for addr in self.seeking.whom_to_seek(now, &self.address, self.machine.as_deref_mut()) {
            self.links.seek(addr);
        }
    }

    fn start_keeping(&mut self, now: u64, kept: Kept) {
        let (me, reign) = (self.member.node(), kept.reign);
        match KeeperService::new(now, kept, self.damping) {
            Ok(mut keeper) => {
                tracing::info!(node = %me, reign, "this node keeps the cluster's data");
                self.links.set_members(&keeper.view().members);
                self.storage.keep(keeper.store().clone());
                self.shared.set_keeper(Some(me), reign);
                self.seeking.handle_view(keeper.view());
                self.seeking.there().for_each(|node| keeper.handle_peer_up(node));
                keeper.handle_peer_up(me);
                self.keeper = Some(keeper);
            }
            Err(error) => tracing::error!(%error, "the cluster's data cannot be kept"),
        }
    }

    fn handle_peer_up(&mut self, node: NodeId) {
        self.seeking.handle_up(node);
        if let Some(keeper) = &mut self.keeper {
            keeper.handle_peer_up(node);
        } else if let Some(view) = self.shared.view().filter(|_| !self.seeking.is_member(node)) {
            // It looks for the keeper, who is one of these.
            self.links.say(node, 0, &ControlMessage::View(view));
        }
    }

    fn handle_peer_down(&mut self, node: NodeId) {
        self.seeking.handle_down(node);
        self.member.handle_peer_down(node);
        if self.member.keeper().is_none() && self.keeper.is_none() {
            self.storage.lose_keeper();
            self.shared.set_keeper(None, 0);
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.handle_peer_down(node);
        }
    }

    fn handle_message(&mut self, now: u64, from: NodeId, number: u32, message: ControlMessage) {
        match message {
            ControlMessage::Announce(announcement) if self.looks_on => {
                self.shared.set_keeper(Some(from), announcement.reign);
                self.links.say(from, 0, &ControlMessage::ReadView);
            }
            ControlMessage::View(view) if self.looks_on => {
                self.seeking.learn_addresses(&view);
                self.look_at(view);
            }
            ControlMessage::Inspected { stats, counters } => {
                self.inquiries.handle_stats(from, number, stats, counters);
            }
            ControlMessage::FoundObject(found) => self.inquiries.handle_found(number, found),
            ControlMessage::FoundSaved(saved) => self.inquiries.handle_saved(number, saved),
            question @ (ControlMessage::Inspect | ControlMessage::FindObject { .. }) => {
                if let Some(answer) = self.inquiries.answer(&question, self.counters(now)) {
                    self.say(now, from, number, answer);
                }
            }
            ControlMessage::Announce(announcement) => {
                self.member.handle_announced(now, from, announcement.reign);
                // Of this very node the store is at hand.
                if self.member.keeper() == Some(from) && from != self.member.node() {
                    self.storage.find_keeper(from, announcement);
                    self.shared.set_keeper(Some(from), announcement.reign);
                }
            }
            ControlMessage::Ship { partition, epoch, to, part } if to == self.member.node() => {
                let answer = self.arrivals.handle_ship(from, partition, epoch, part);
                self.links.say(from, number, &answer);
            }
            ControlMessage::ShipTaken { partition, epoch, part } => {
                self.shipping.handle_taken(now, from, partition, epoch, part);
            }
            ControlMessage::ShipRefused { partition, epoch } => {
                self.shipping.handle_refused(now, from, partition, epoch);
            }
            other => match KeeperAnswer::try_from(other) {
                Ok(KeeperAnswer::View(view)) if self.member.keeper().is_none() => {
                    self.seeking.learn_addresses(&view);
                    self.member.handle_answer(now, number, KeeperAnswer::View(view));
                }
                Ok(answer) => self.member.handle_answer(now, number, answer),
                // One that asks a node which does not keep asks the keeper when it hears of it.
                Err(request) => {
                    if let Some(keeper) = &mut self.keeper {
                        keeper.handle(now, from, number, request);
                    }
                }
            },
        }
    }

    /// Takes the view of a cluster that this node is no member of.
    fn look_at(&mut self, view: Arc<View>) {
        for member in &view.members {
            self.links.seek(Addr::new(&member.address));
        }
        self.shared.set_view(view);
    }

    fn inquire(&mut self, now: u64, inquiry: Inquiry) {
        let Some(view) = self.shared.view() else { return };
        let (keeper, _) = self.shared.keeper();
        let (number, message, whom) = self.inquiries.ask(inquiry, &view, keeper);
        for node in whom {
            self.say(now, node, number, message.clone());
        }
    }

    /// Says something to a node, this one included.
    fn say(&mut self, now: u64, to: NodeId, number: u32, message: ControlMessage) {
        if to == self.member.node() {
            self.handle_message(now, to, number, message);
        } else {
            self.links.say(to, number, &message);
        }
    }

    fn counters(&self, now: u64) -> NodeCounters {
        let desk = &self.storage.desk;
        let counts = self.links.counts();
        NodeCounters {
            batches: desk.batches.load(Ordering::Relaxed),
            refused_saves: desk.refused_saves.load(Ordering::Relaxed),
            stray_saves: self.keeper.as_ref().map_or(0, KeeperService::stray_saves),
            balance_waits_ms: self
                .keeper
                .as_ref()
                .map_or(0, |keeper| keeper.balance_waits_ns(now) / 1_000_000),
            links: self.seeking.links() as u64,
            frames_sent: counts.frames_sent,
            frames_received: counts.frames_received,
        }
    }

    /// Does what member and keeper want, until they want nothing more.
    fn settle(&mut self, now: u64) {
        loop {
            let mut settled = true;
            while let Some(action) = self.member.poll_action() {
                self.act(now, action);
                settled = false;
            }
            settled &= !self.serve_as_keeper(now);
            settled &= !self.ship(now);
            if settled {
                break;
            }
        }
        self.shared.set_phase(self.member.phase());
    }

    /// Brings objects that move on their way; gives whether there were any.
    fn ship(&mut self, now: u64) -> bool {
        let mut worked = false;
        while let Some(output) = self.shipping.poll_output() {
            worked = true;
            match output {
                ShippingOutput::Send(to, message) => self.links.say(to, 0, &message),
                ShippingOutput::Shipped(handover) => self.member.handle_shipped(now, handover),
            }
        }
        worked
    }

    /// Does what the keeper wants; gives whether there was anything.
    fn serve_as_keeper(&mut self, now: u64) -> bool {
        let mut worked = false;
        while let Some(output) = self.keeper.as_mut().and_then(KeeperService::poll_output) {
            worked = true;
            match output {
                KeeperOutput::Send { to, number, message } => self.say(now, to, number, message),
                KeeperOutput::Push(view) => self.push_view(now, &view),
                KeeperOutput::Kill(node) => {
                    let killed = self.machine.as_mut().is_some_and(|machine| machine.kill(node));
                    tracing::debug!(%node, killed, "the process of a lost node");
                }
            }
        }
        worked
    }

    /// Tells every node of a new view, and takes its members for the links.
    fn push_view(&mut self, now: u64, view: &Arc<View>) {
        let message = ControlMessage::View(view.clone());
        let there: Vec<NodeId> = self.seeking.there().collect();
        for node in there {
            self.links.say(node, 0, &message);
        }
        self.links.set_members(&view.members);
        self.seeking.handle_view(view);
        self.handle_message(now, self.member.node(), 0, message);
    }

    fn act(&mut self, now: u64, action: MemberAction) {
        match action {
            MemberAction::Send { keeper, number, request } => match &mut self.keeper {
                Some(service) if keeper == self.member.node() => {
                    service.handle(now, keeper, number, request.into());
                }
                _ => self.links.say(keeper, number, &request.into()),
            },
            MemberAction::OpenFences { number, fences } => self.storage.open_fences(number, fences),
            MemberAction::Publish(routes) => {
                let view = routes.view().clone();
                // Before the cores, so that calls of theirs find the links to whom the view names.
                let newest = self.newest_view(&view);
                self.links.set_members(&newest.members);
                let me = self.member.node();
                for shipment in self.arrivals.take(me, &view) {
                    self.cores.ship(shipment);
                }
                // Before the cores too: what they let go of is of this view.
                self.shared.set_view(view.clone());
                self.cores.publish(&routes);
                if !self.shared.is_served() && serves(&view, me) {
                    // Who waits for it may call at once, and by another way than this word goes.
                    self.cores.wait_for_all();
                    self.shared.set_served();
                }
                self.seeking.handle_view(&newest);
                self.shipping.handle_view(now, me, &view);
            }
            MemberAction::Lease(until_ns) => {
                self.cores.lease(until_ns);
                if self.shared.lease_until_ns() == 0 {
                    // Who waits for it may call at once, and by another way than this word goes.
                    self.cores.wait_for_all();
                }
                self.shared.set_lease(until_ns);
            }
            MemberAction::Drop { number, me } => self.drop_everything(now, number, me),
            MemberAction::Refused(reason) => {
                tracing::warn!(reason, "the cluster does not take this node in");
                self.shared.set_refused(reason);
            }
            MemberAction::Left => self.shared.set_phase(Phase::Left),
        }
    }

    /// The newest view that this node knows when it publishes one: the keeper publishes after it has pushed others, and would take members
    /// for gone that have come since.
    fn newest_view(&self, published: &Arc<View>) -> Arc<View> {
        self.keeper.as_ref().map_or_else(|| published.clone(), |keeper| keeper.view().clone())
    }

    /// Drops every object and call, and is another incarnation from then on.
    fn drop_everything(&mut self, now: u64, number: u64, me: NodeId) {
        tracing::warn!(node = %me, "everything in memory is dropped, as others own it now");
        let is_reborn = me != self.shared.node();
        self.cores.drop_everything(me);
        self.shipping.clear();
        self.arrivals.clear();
        if !self.storage.restart(me) {
            tracing::info!(node = %me, "a batch waits for the cluster's keeper; this node begins anew all the same");
        }
        if is_reborn {
            self.shared.set_node(me);
            self.links.rebirth(me);
            if let Some(machine) = &mut self.machine
                && let Err(error) = machine.register(me)
            {
                tracing::error!(%error, "a new life of this node cannot be registered; its death will not be proven at once");
            }
        }
        self.member.handle_dropped(now, number);
    }
}

/// Whether a node is a member of a view, and every partition has an owner if the node has objects to serve.
pub(crate) fn serves(view: &View, me: NodeId) -> bool {
    view.member(me).is_some_and(|member| {
        let serves_objects = member.cores > 0 && !member.entities.is_empty();
        !serves_objects || view.partitions.iter().all(|partition| partition.owner.is_some())
    })
}

/// How often the thread looks around when nothing happens.
const LOOK_NS: u64 = 100_000_000;
/// Inputs that are handled before it looks around.
const INPUTS_PER_PASS: usize = 256;
