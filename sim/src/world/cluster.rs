//! The cluster thread of a node, as steps: what `epicserver-runtime` does in `driver/cluster.rs`, with the real member, planner,
//! keeper and shipments. The keeper is the node of the world that is told so at its start: nobody looks for it in a directory.
//!
//! One step takes some of what links, storage thread and cores have told, does what is due, and tells them what follows.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use epicserver_runtime::cluster::arrivals::Arrivals;
use epicserver_runtime::cluster::keeper::{KeeperOutput, KeeperService};
use epicserver_runtime::cluster::shipping::{Shipping, ShippingOutput};
use epicserver_runtime::core::Event;
use epicserver_runtime::fabric::PeerNews;
use epicserver_runtime::membership::{
    FencesOutcome, KeeperAnswer, KeeperRequest, Member, MemberAction, Phase,
};
use epicserver_runtime::routes::Routes;
use epicserver_runtime::shipment::Drained;
use epicserver_runtime::wire::control::ControlMessage;
use epicserver_storage::{NodeId, StoreId, View, holder_deadline_ns};
use epicserver_transport::Frame;

use super::links::{Links, LinksOrder};
use super::node::CoreSide;
use super::scene::Scene;
use super::storage::{Storage, ToStorage};
use crate::planted::Planted;
use crate::trace::Happened;

/// What the cluster thread is told.
#[derive(Debug)]
pub(crate) enum ToCluster {
    Peer(PeerNews),
    Control(NodeId, Frame),
    Fences(u64, FencesOutcome),
    /// The store refuses the saves of this life of the node.
    Evicted(NodeId),
    Drained(Box<Drained>),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Cluster {
    node: u16,
    member: Member,
    keeper: Option<KeeperService>,
    shipping: Shipping,
    arrivals: Arrivals,
    pub(crate) inbox: VecDeque<ToCluster>,
    there: BTreeSet<NodeId>,
    /// The view that the cores route by.
    view: Option<Arc<View>>,
    /// Until when they may serve, as they were told.
    lease_until_ns: u64,
    /// Everything is being dropped, for the member's task of this number.
    dropping: Option<u64>,
    /// When the node that leaves gave its last answers.
    rested_at: Option<u64>,
}

/// The other threads of the node, as the cluster thread reaches them.
pub(crate) struct Doors<'a> {
    pub(crate) cores: &'a mut [CoreSide],
    pub(crate) storage: &'a mut Storage,
    pub(crate) links: &'a mut Links,
}

impl Cluster {
    /// The part of a node that is a member, or wants to be, and keeps the data if it is given a keeper.
    pub(crate) fn new(
        node: u16,
        member: Member,
        keeper: Option<KeeperService>,
        doors: &mut Doors<'_>,
        scene: &mut Scene,
    ) -> Self {
        let mut cluster = Self {
            node,
            member,
            keeper: None,
            shipping: Shipping::new(),
            arrivals: Arrivals::new(),
            inbox: VecDeque::new(),
            there: BTreeSet::new(),
            view: None,
            lease_until_ns: 0,
            dropping: None,
            rested_at: None,
        };
        doors.cores.iter_mut().for_each(|core| core.answer(Event::Lease(0)));
        if let Some(mut keeper) = keeper {
            doors.links.order(LinksOrder::Members(keeper.view().members.clone()));
            keeper.handle_peer_up(cluster.member.node());
            cluster.keeper = Some(keeper);
        }
        cluster.settle(doors, scene);
        cluster
    }

    /// Who the node is in its present life.
    pub(crate) fn me(&self) -> NodeId {
        self.member.node()
    }

    /// Whether it may stop.
    pub(crate) fn has_left(&self) -> bool {
        self.member.phase() == Phase::Left
    }

    /// Whether it serves, and does not want to go; its application does not know whether its lease is over.
    pub(crate) fn is_serving(&self) -> bool {
        self.member.phase() == Phase::Serving && self.view.is_some() && self.lease_until_ns > 0
    }

    /// Whether all that this node knows of is as it should be: it has the view that counts, and nothing moves in it.
    pub(crate) fn agrees(&self, now: u64, truth: &View) -> bool {
        self.is_serving()
            && self.lease_until_ns > now
            && self.dropping.is_none()
            && self.view.as_ref().is_some_and(|view| view.version == truth.version)
            && self.shipping.poll_timeout().is_none()
    }

    /// The node is to leave.
    pub(crate) fn leave(&mut self, now: u64) {
        self.member.handle_leave(now, now + LEAVE_NS_MAX);
    }

    /// A member's process has ended, for certain.
    pub(crate) fn prove_dead(&mut self, now: u64, node: NodeId) {
        if let Some(keeper) = &mut self.keeper {
            keeper.handle_proven_dead(now, node);
        }
    }

    pub(crate) fn next_time(&self) -> Option<u64> {
        let keeper = self.keeper.as_ref().and_then(KeeperService::poll_timeout);
        let rests = self.rested_at.map(|at| at + LAST_WORDS_NS);
        [self.member.poll_timeout(), self.shipping.poll_timeout(), keeper, rests].into_iter().flatten().min()
    }

    /// One pass, of a node on which something is under way or not.
    pub(crate) fn advance(&mut self, is_quiet: bool, doors: &mut Doors<'_>, scene: &mut Scene) {
        let now = scene.now;
        if let Some(number) = self.dropping {
            self.dropping = None;
            self.member.handle_dropped(now, number);
        }
        let len = scene.tape.some_of(self.inbox.len());
        for input in self.inbox.drain(..len).collect::<Vec<_>>() {
            if let ToCluster::Control(from, frame) = &input
                && matches!(ControlMessage::parse(frame), Ok((_, ControlMessage::Renew)))
            {
                self.note_renewal(*from, scene);
            }
            self.handle(now, input, doors);
            self.settle(doors, scene);
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.handle_timeout(now);
        }
        self.member.handle_timeout(now);
        self.shipping.handle_timeout(now);
        self.rest(now, is_quiet);
        self.settle(doors, scene);
        let version = self.view.as_ref().map_or(0, |view| view.version);
        scene.happened(Happened::Governed { node: self.node, taken: len, version });
    }

    /// If this is the keeper it hears that a node lives.
    fn note_renewal(&self, from: NodeId, scene: &mut Scene) {
        let keeper = self.keeper.as_ref();
        if keeper.is_some_and(|keeper| keeper.view().member(from).is_some()) {
            scene.leases.renewed(from, scene.now);
        }
    }

    /// A node that leaves, owns nothing and has answered everything says so after a while, when its last words are out.
    fn rest(&mut self, now: u64, is_quiet: bool) {
        let me = self.me();
        let owns = |view: &Arc<View>| view.partitions.iter().any(|state| state.owner == Some(me));
        let is_leaving = matches!(self.member.phase(), Phase::Leaving { .. });
        if !is_leaving || !is_quiet || self.view.as_ref().is_some_and(owns) {
            self.rested_at = None;
        } else if *self.rested_at.get_or_insert(now) + LAST_WORDS_NS <= now {
            self.member.handle_rested(now);
            self.rested_at = Some(now);
        }
    }

    fn handle(&mut self, now: u64, input: ToCluster, doors: &mut Doors<'_>) {
        match input {
            ToCluster::Peer(PeerNews::Up(node)) => {
                self.there.insert(node);
                if let Some(keeper) = &mut self.keeper {
                    keeper.handle_peer_up(node);
                }
            }
            ToCluster::Peer(PeerNews::Down(node)) => {
                self.there.remove(&node);
                self.member.handle_peer_down(node);
                if let Some(keeper) = &mut self.keeper {
                    keeper.handle_peer_down(node);
                }
            }
            ToCluster::Control(from, frame) => {
                if let Ok((number, message)) = ControlMessage::parse(&frame) {
                    self.handle_message(now, from, number, message, doors);
                }
            }
            ToCluster::Fences(number, outcome) => self.member.handle_fences(now, number, outcome),
            ToCluster::Evicted(me) => self.member.handle_refused_save(me),
            ToCluster::Drained(drained) => {
                let me = self.me();
                if self.view.as_ref().is_some_and(|view| drained.handover.ends_move_in(view, me)) {
                    self.shipping.handle_drained(now, *drained);
                }
            }
        }
    }

    fn handle_message(
        &mut self,
        now: u64,
        from: NodeId,
        number: u32,
        message: ControlMessage,
        doors: &mut Doors<'_>,
    ) {
        match message {
            ControlMessage::Announce(announcement) => {
                self.member.handle_announced(now, from, announcement.reign);
            }
            ControlMessage::Ship { partition, epoch, to, part } if to == self.me() => {
                let answer = self.arrivals.handle_ship(from, partition, epoch, part);
                say(doors.links, from, number, &answer);
            }
            ControlMessage::ShipTaken { partition, epoch, part } => {
                self.shipping.handle_taken(now, from, partition, epoch, part);
            }
            ControlMessage::ShipRefused { partition, epoch } => {
                self.shipping.handle_refused(now, from, partition, epoch);
            }
            other => match KeeperAnswer::try_from(other) {
                Ok(answer) => self.member.handle_answer(now, number, answer),
                Err(request) => {
                    if let Some(keeper) = &mut self.keeper {
                        keeper.handle(now, from, number, request);
                    }
                }
            },
        }
    }

    /// Does what member, keeper and shipments want, until they want nothing more.
    fn settle(&mut self, doors: &mut Doors<'_>, scene: &mut Scene) {
        loop {
            let mut settled = true;
            while let Some(action) = self.member.poll_action() {
                self.act(action, doors, scene);
                settled = false;
            }
            while let Some(output) = self.keeper.as_mut().and_then(KeeperService::poll_output) {
                self.serve(output, doors, scene);
                settled = false;
            }
            while let Some(output) = self.shipping.poll_output() {
                match output {
                    ShippingOutput::Send(to, message) => say(doors.links, to, 0, &message),
                    ShippingOutput::Shipped(handover) => {
                        scene.count("partition moved");
                        self.member.handle_shipped(scene.now, handover);
                    }
                }
                settled = false;
            }
            if settled {
                return;
            }
        }
    }

    fn serve(&mut self, output: KeeperOutput, doors: &mut Doors<'_>, scene: &mut Scene) {
        let (now, me) = (scene.now, self.me());
        match output {
            KeeperOutput::Send { to, number, message } if to == me => {
                self.handle_message(now, me, number, message, doors);
            }
            KeeperOutput::Send { to, number, message } => say(doors.links, to, number, &message),
            KeeperOutput::Push(view) => {
                let message = ControlMessage::View(view.clone());
                self.there.iter().for_each(|node| say(doors.links, *node, 0, &message));
                doors.links.order(LinksOrder::Members(view.members.clone()));
                scene.set_truth(view);
                self.handle_message(now, me, 0, message, doors);
            }
            // A node of the world that only stands still is left alone: what it does when it is back is to be seen.
            KeeperOutput::Kill(_) => {}
        }
    }

    fn act(&mut self, action: MemberAction, doors: &mut Doors<'_>, scene: &mut Scene) {
        let (now, me) = (scene.now, self.me());
        if matches!(action, MemberAction::Send { keeper, request: KeeperRequest::Renew, .. } if keeper == me)
        {
            self.note_renewal(me, scene);
        }
        match action {
            MemberAction::Send { keeper, number, request } => match &mut self.keeper {
                Some(service) if keeper == me => service.handle(now, keeper, number, request.into()),
                _ => say(doors.links, keeper, number, &request.into()),
            },
            MemberAction::OpenFences { number, fences } => {
                doors.storage.requests.push_back(ToStorage::OpenFences(number, fences));
            }
            MemberAction::Publish(routes) => {
                let view = routes.view().clone();
                // The keeper publishes after it has pushed newer ones.
                let newest = self.keeper.as_ref().map_or(&view, |keeper| keeper.view());
                doors.links.order(LinksOrder::Members(newest.members.clone()));
                for shipment in self.arrivals.take(me, &view) {
                    if scene.strikes(Planted::LoseShipment, 2) {
                        continue;
                    }
                    let core = usize::from(shipment.partition.number()) % doors.cores.len();
                    doors.cores[core].answer(Event::Shipped(Box::new(shipment)));
                }
                self.view = Some(view.clone());
                let forgets = scene.strikes(Planted::ForgetView, 8);
                publish(if forgets { &mut doors.cores[1..] } else { &mut *doors.cores }, &routes);
                self.shipping.handle_view(now, me, &view);
            }
            MemberAction::Lease(until_ns) => {
                self.lease_until_ns = until_ns;
                let until_ns = match scene.planted {
                    Some(Planted::PastLease) if until_ns > 0 => u64::MAX,
                    Some(Planted::LeaseFromAnswer) if until_ns > 0 => holder_deadline_ns(now),
                    _ => until_ns,
                };
                doors.cores.iter_mut().for_each(|core| core.answer(Event::Lease(until_ns)));
            }
            MemberAction::Drop { number, me } => {
                scene.count("everything dropped");
                let nothing = Arc::new(View::empty(StoreId(0)));
                publish(doors.cores, &Arc::new(Routes::new(me, doors.cores.len() as u16, nothing)));
                (self.shipping, self.arrivals, self.view) = (Shipping::new(), Arrivals::new(), None);
                doors.storage.requests.push_back(ToStorage::Restart(me));
                doors.links.order(LinksOrder::Rebirth(me));
                self.dropping = Some(number);
            }
            MemberAction::Refused(_) | MemberAction::Left => {}
        }
    }

    /// Whether it goes on only when cores and storage thread have dropped everything.
    pub(crate) fn is_dropping(&self) -> bool {
        self.dropping.is_some()
    }
}

fn publish(cores: &mut [CoreSide], routes: &Arc<Routes>) {
    cores.iter_mut().for_each(|core| core.answer(Event::View(routes.clone())));
}

fn say(links: &mut Links, to: NodeId, number: u32, message: &ControlMessage) {
    let frame = message.frame(None, number).expect("a world is small");
    links.order(LinksOrder::Say(to, frame));
}

/// How long a node that leaves may take.
const LEAVE_NS_MAX: u64 = 60_000_000_000;
/// How long the last answers of a node that leaves have to get out.
const LAST_WORDS_NS: u64 = 50_000_000;
