//! Between the engine of the links and the other threads of a node: control frames and news of peers out, orders in.
//!
//! Both ways are bounded. What the node's own threads want said is dropped when the links have too much to do, as any control
//! frame may get lost; what comes from peers waits in the fabric while the cluster thread is behind, and holds its sender back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use epicserver_storage::{Member, NodeId};
use epicserver_transport::{Addr, Frame};

use super::cluster::{LineShared, ToCluster};
use super::engine::LinkCounts;
use crate::fabric::{ControlInput, Fabric};
use crate::wire::control::ControlMessage;
use epicserver_sync::parker::Unparker;

/// What the links are told by others than cores.
#[derive(Debug)]
pub(crate) enum LinksOrder {
    /// Send this control frame.
    Say(NodeId, Frame),
    /// These are the members.
    Members(Vec<Member>),
    /// Dial whoever listens here.
    Seek(Addr),
    /// This node is another incarnation.
    Rebirth(NodeId),
}

/// How the node's threads give orders to the links.
#[derive(Clone, Debug)]
pub(crate) struct LinksHandle {
    orders: Sender<LinksOrder>,
    unparker: Unparker,
    gauge: Arc<LinkGauge>,
}

/// What passed over the links, for other threads to look at.
#[derive(Debug, Default)]
struct LinkGauge {
    frames_sent: AtomicU64,
    frames_received: AtomicU64,
}

impl LinksHandle {
    /// Sends a message to a node; it may get lost.
    pub(crate) fn say(&self, to: NodeId, number: u32, message: &ControlMessage) {
        match message.frame(None, number) {
            Ok(frame) => self.order(LinksOrder::Say(to, frame)),
            Err(error) => tracing::error!(%to, %error, "a control message cannot be written"),
        }
    }

    pub(crate) fn set_members(&self, members: &[Member]) {
        self.order(LinksOrder::Members(members.to_vec()));
    }

    pub(crate) fn seek(&self, addr: Addr) {
        self.order(LinksOrder::Seek(addr));
    }

    pub(crate) fn rebirth(&self, me: NodeId) {
        self.order(LinksOrder::Rebirth(me));
    }

    /// What passed over the links so far.
    pub(crate) fn counts(&self) -> LinkCounts {
        LinkCounts {
            frames_sent: self.gauge.frames_sent.load(Ordering::Relaxed),
            frames_received: self.gauge.frames_received.load(Ordering::Relaxed),
        }
    }

    fn order(&self, order: LinksOrder) {
        // What is not said may be lost, as on the way; all else must get there, and the links never wait for this thread.
        let given = match order {
            LinksOrder::Say(..) | LinksOrder::Seek(_) => self.orders.try_send(order).is_ok(),
            LinksOrder::Members(_) | LinksOrder::Rebirth(_) => {
                self.orders.send_timeout(order, super::cluster::DOOR_PATIENCE).is_ok()
            }
        };
        if !given {
            tracing::warn!("the links have too much to do, a control message is lost");
        }
        self.unparker.unpark_if_parked();
    }
}

/// The links' end.
#[derive(Debug)]
pub(crate) struct ControlPort {
    orders: Receiver<LinksOrder>,
    cluster: Sender<ToCluster>,
    line: Arc<LineShared>,
    gauge: Arc<LinkGauge>,
}

/// A port for the engine, and the handle to it. `unparker` wakes whoever drives the engine.
pub(crate) fn control_port(
    cluster: Sender<ToCluster>,
    line: Arc<LineShared>,
    unparker: Unparker,
) -> (ControlPort, LinksHandle) {
    let (orders, port) = bounded(ORDERS_MAX);
    let gauge = Arc::<LinkGauge>::default();
    let handle = LinksHandle { orders, unparker, gauge: gauge.clone() };
    (ControlPort { orders: port, cluster, line, gauge }, handle)
}

impl ControlPort {
    /// Whether there is no order.
    pub(crate) fn is_idle(&self) -> bool {
        self.orders.is_empty()
    }

    /// Tells others what passed over the links so far.
    pub(crate) fn publish(&self, counts: LinkCounts) {
        self.gauge.frames_sent.store(counts.frames_sent, Ordering::Relaxed);
        self.gauge.frames_received.store(counts.frames_received, Ordering::Relaxed);
    }

    /// Does what was ordered; `false` if there was nothing.
    pub(crate) fn take_orders(&self, now: u64, fabric: &mut Fabric) -> bool {
        let mut worked = false;
        for order in self.orders.try_iter().take(ORDERS_PER_PASS) {
            worked = true;
            match order {
                LinksOrder::Say(to, frame) => {
                    if !fabric.handle_control(now, to, frame) {
                        tracing::debug!(%to, "a control message has no link to go over");
                    }
                }
                LinksOrder::Members(members) => fabric.handle_members(now, &members),
                LinksOrder::Seek(addr) => drop(fabric.seek(now, addr)),
                LinksOrder::Rebirth(me) => fabric.handle_rebirth(now, me),
            }
        }
        worked
    }

    /// Brings on what peers say and who is there; `false` if there was nothing.
    pub(crate) fn pass_on(&self, fabric: &mut Fabric) -> bool {
        let mut worked = false;
        while self.cluster.len() < INPUTS_WAITING_MAX
            && let Some(input) = fabric.poll_control()
        {
            match input {
                ControlInput::News(news) => self.tell(ToCluster::Peer(news)),
                ControlInput::Frame(from, frame) => self.pass_message(from, &frame),
            }
            worked = true;
        }
        worked
    }

    fn pass_message(&self, from: NodeId, frame: &Frame) {
        match ControlMessage::parse(frame) {
            Ok((number, ControlMessage::StoreAnswer(answer))) => self.line.answer(from, number, answer),
            Ok((number, message)) => self.tell(ToCluster::Control(from, number, Box::new(message))),
            Err(error) => tracing::warn!(%from, %error, "a control message is malformed"),
        }
    }

    fn tell(&self, input: ToCluster) {
        // There was room a moment ago, and more than that is kept free for the others who tell it things.
        if self.cluster.try_send(input).is_err() {
            tracing::debug!("the cluster thread has ended, or has too much to do");
        }
    }
}

/// Orders that may wait.
const ORDERS_MAX: usize = 4096;
/// Orders that are taken in one pass.
const ORDERS_PER_PASS: usize = 256;
/// With so many inputs waiting for the cluster thread, peers wait.
const INPUTS_WAITING_MAX: usize = 1024;
