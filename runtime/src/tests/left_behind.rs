//! A node is dropped while one of its threads waits for what does not come: it is left behind.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use epicserver_storage::{KeeperRecord, Kept, Machine, MachineError, NodeId};
use epicserver_transport::{LoopbackNetwork, LoopbackOptions};

use super::by_hand::{entity, method};
use super::harness::Node as Object;
use crate::driver::{ClusterConfig, Wait};
use crate::error::{CallError, Loss};
use crate::membership::DampingLimits;
use crate::node::Node;
use crate::saving::SavePolicy;

/// A day: what ends before it does not end by it.
const DAY: Duration = Duration::from_secs(86_400);

/// What a thread waits for as for a disk that hangs, and says so first.
struct Hang {
    begins: mpsc::Sender<()>,
    ends: mpsc::Receiver<()>,
}

impl Hang {
    fn new() -> (Self, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let ((begins, begun), (end, ends)) = (mpsc::channel(), mpsc::channel());
        (Self { begins, ends }, begun, end)
    }

    fn hang(&self) {
        let _ = self.begins.send(());
        let _ = self.ends.recv();
    }
}

/// A data directory on a disk that hangs.
struct HangingMachine(Hang);

impl Machine for HangingMachine {
    fn register(&mut self, _: NodeId) -> Result<(), MachineError> {
        Ok(())
    }
    fn try_keep(&mut self, _: NodeId, _: &str) -> Result<Option<Kept>, MachineError> {
        self.0.hang();
        Ok(None)
    }
    fn renew_keeping(&mut self, _: u64) -> Result<(), MachineError> {
        Ok(())
    }
    fn keeper(&mut self) -> Result<Option<KeeperRecord>, MachineError> {
        Ok(None)
    }
    fn is_proven_dead(&mut self, _: NodeId) -> bool {
        false
    }
    fn kill(&mut self, _: NodeId) -> bool {
        false
    }
}

/// Dropping the node of a keeper joined its cluster thread without a deadline, which waited in the store for ever.
#[tokio::test]
async fn a_node_whose_data_directory_hangs_can_be_dropped() {
    let transport = LoopbackNetwork::new().bind("one", LoopbackOptions::plain()).expect("free");
    let (hang, begun, end) = Hang::new();
    let cluster = ClusterConfig {
        transport: Box::new(transport),
        machine: Some(Box::new(HangingMachine(hang))),
        seeds: Vec::new(),
        discovery: None,
        cluster: 1,
        secret: [1; 32],
        damping: DampingLimits::default(),
        looks_on: false,
    };
    let builder = Node::builder().bind::<(Object,)>().cores(1).wait(Wait::Park).pin(false);
    let node = builder.cluster(cluster).start().expect("it starts");
    tokio::task::spawn_blocking(move || begun.recv())
        .await
        .expect("no panic")
        .expect("it looks for a keeper");
    drop(node);
    drop(end);
}

#[derive(Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Blocked {
    times: u64,
}

static HANG: Mutex<Option<Hang>> = Mutex::new(None);

entity!(Blocked, u64, "test.Blocked", SavePolicy::Never, [Block]);
method!(Block {} on Blocked as &'a mut Blocked, u64, |_this, blocked| {
    blocked.times += 1;
    let hang = HANG.lock().expect("no panic").take().expect("it blocks once");
    hang.hang();
    blocked.times
});

#[tokio::test]
async fn a_node_with_a_method_that_blocks_for_ever_can_be_dropped() {
    let (hang, begun, end) = Hang::new();
    *HANG.lock().expect("no panic") = Some(hang);
    let builder = Node::builder().bind::<(Blocked,)>().cores(2).wait(Wait::Park).pin(false);
    let node = builder.start().expect("a node in memory starts");
    let call = tokio::spawn(node.pool().get::<Blocked>(1).call(Block {}).within(DAY));
    tokio::task::spawn_blocking(move || begun.recv()).await.expect("no panic").expect("it blocks");
    drop(node);
    // Its core ends when it can.
    drop(end);
    assert_eq!(call.await.expect("no panic"), Err(CallError::OutcomeUnknown(Loss::OwnerLost)));
}
