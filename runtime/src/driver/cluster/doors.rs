//! How the cluster thread reaches the cores and the storage thread.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use epicserver_storage::{Fence, NodeId, StoreError, View};

use super::ToCluster;
use crate::cluster::remote_store::{KeeperLine, Keeping, LineEvent};
use crate::cluster::shared_store::SharedStore;
use crate::core::Event;
use crate::driver::clock::Clock;
use crate::driver::control_port::LinksHandle;
use crate::driver::storage_thread::{FencesTicket, FromStorage, StorageDesk, ToStorage};
use crate::membership::FencesOutcome;
use crate::routes::Routes;
use crate::shipment::Shipment;
use crate::wire::control::store::{StoreAnswer, StoreRequest};
use crate::wire::control::{Announcement, ControlMessage};
use epicserver_sync::inbox::Inbox;
use epicserver_sync::parker::Unparker;

/// The ways to all cores of the node.
pub(crate) struct CoreDoors {
    pub(crate) doors: Vec<(Arc<Inbox<FromStorage>>, Unparker)>,
}

impl CoreDoors {
    pub(crate) fn publish(&self, routes: &Arc<Routes>) {
        self.tell_all(|| Event::View(routes.clone()));
    }

    /// Gives the core that will serve a partition its objects.
    pub(crate) fn ship(&self, shipment: Shipment) {
        let core = usize::from(shipment.partition.number()) % self.doors.len();
        self.tell(core, Event::Shipped(Box::new(shipment)));
    }

    pub(crate) fn lease(&self, until_ns: u64) {
        self.tell_all(|| Event::Lease(until_ns));
    }

    /// Makes every core drop all objects, and waits until they have.
    pub(crate) fn drop_everything(&self, me: NodeId) {
        let nothing = View::empty(epicserver_storage::StoreId(0));
        let routes = Arc::new(Routes::new(me, self.doors.len() as u16, Arc::new(nothing)));
        self.publish(&routes);
        self.wait_for_all();
    }

    /// Waits until every core has done what it was told.
    pub(crate) fn wait_for_all(&self) {
        let (done, all_done) = bounded(self.doors.len());
        for core in 0..self.doors.len() {
            self.push(core, FromStorage::Barrier(done.clone()));
        }
        drop(done);
        for _ in 0..self.doors.len() {
            if all_done.recv_timeout(DOOR_PATIENCE).is_err() {
                tracing::error!("a core takes long to do what the cluster wants");
                return;
            }
        }
    }

    fn tell_all(&self, event: impl Fn() -> Event) {
        (0..self.doors.len()).for_each(|core| self.tell(core, event()));
    }

    fn tell(&self, core: usize, event: Event) {
        self.push(core, FromStorage::Event(Box::new(event)));
    }

    /// An inbox is full only while its core does not run at all; then nothing is lost but time. That of a core which has ended is closed.
    fn push(&self, core: usize, mut input: FromStorage) {
        let (inbox, unparker) = &self.doors[core];
        while let Err(back) = inbox.push(input) {
            if inbox.is_closed() {
                return;
            }
            input = back;
            unparker.unpark_if_parked();
            pause();
        }
        unparker.unpark_if_parked();
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver waits in real time")]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

/// The way to the storage thread, and what its store knows of the keeper.
pub(crate) struct StorageDoor {
    pub(crate) desk: Arc<StorageDesk>,
    pub(crate) line: Arc<LineShared>,
    pub(crate) outcomes: Sender<ToCluster>,
}

impl StorageDoor {
    /// This very node keeps.
    pub(crate) fn keep(&self, store: SharedStore) {
        self.line.change(None, Keeping::Here(store));
    }

    /// Another node keeps.
    pub(crate) fn find_keeper(&self, node: NodeId, announcement: Announcement) {
        let Announcement { store, limits, .. } = announcement;
        self.line.change(Some(node), Keeping::There { store, limits });
    }

    /// Nobody does.
    pub(crate) fn lose_keeper(&self) {
        self.line.change(None, Keeping::Nobody);
    }

    /// Has fences opened; the outcome comes back to the cluster thread.
    pub(crate) fn open_fences(&self, number: u64, fences: Vec<Fence>) {
        let outcomes = self.outcomes.clone();
        let done = move |outcome: Result<(), StoreError>| {
            let outcome = match outcome {
                Ok(()) => FencesOutcome::Opened,
                Err(StoreError::Refused { .. }) => FencesOutcome::Refused,
                Err(error) => {
                    tracing::warn!(%error, "fences cannot be opened now");
                    FencesOutcome::Failed
                }
            };
            // The cluster thread asks again if it does not hear of it.
            let _ = outcomes.try_send(ToCluster::Fences(number, outcome));
        };
        self.tell(ToStorage::OpenFences(FencesTicket::new(fences, done)));
    }

    /// Fails everything that is not saved, and saves in the name of another life of this node from then on. `false`: the storage
    /// thread still waits for the outcome of a batch, and does it as soon as it knows; before anything of the new life is saved.
    pub(crate) fn restart(&self, me: NodeId) -> bool {
        let (done, is_done) = bounded(1);
        self.tell(ToStorage::Restart(me, done));
        is_done.recv_timeout(RESTART_PATIENCE).is_ok()
    }

    fn tell(&self, mut request: ToStorage) {
        while let Err(back) = self.desk.leave(request) {
            request = back;
            self.desk.wake();
            pause();
        }
        self.desk.wake();
    }
}

/// What cluster thread and links tell the store of the storage thread.
#[derive(Debug)]
pub(crate) struct LineShared {
    state: Mutex<LineState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LineState {
    keeper: Option<NodeId>,
    keeping: Keeping,
    is_changed: bool,
    is_closed: bool,
    answer: Option<(u32, StoreAnswer)>,
}

impl LineShared {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new() })
    }

    fn change(&self, keeper: Option<NodeId>, keeping: Keeping) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.keeper, state.keeping, state.is_changed) = (keeper, keeping, true);
        self.changed.notify_one();
    }

    /// The node stops: whoever waits for the keeper waits no more.
    pub(crate) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.changed.notify_one();
    }

    /// The keeper's answer; only the newest is of use.
    pub(crate) fn answer(&self, from: NodeId, number: u32, answer: StoreAnswer) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.keeper == Some(from) {
            state.answer = Some((number, answer));
            self.changed.notify_one();
        }
    }
}

/// The storage thread's end of the line to the keeper.
pub(crate) struct StorageLine {
    pub(crate) shared: Arc<LineShared>,
    pub(crate) links: LinksHandle,
    pub(crate) clock: Clock,
}

impl KeeperLine for StorageLine {
    fn now(&self) -> u64 {
        self.clock.now()
    }

    fn keeping(&mut self) -> Keeping {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_changed = false;
        state.keeping.clone()
    }

    fn send(&mut self, number: u32, request: StoreRequest) {
        let keeper = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).keeper;
        if let Some(keeper) = keeper {
            self.links.say(keeper, number, &ControlMessage::Store(request));
        }
    }

    fn wait(&mut self, until: u64) -> LineEvent {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((number, answer)) = state.answer.take() {
                return LineEvent::Answer(number, answer);
            }
            if state.is_closed {
                return LineEvent::Closed;
            }
            if std::mem::take(&mut state.is_changed) {
                return LineEvent::Changed;
            }
            let left = until.saturating_sub(self.clock.now());
            if left == 0 {
                return LineEvent::Late;
            }
            let waited = self.shared.changed.wait_timeout(state, Duration::from_nanos(left));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// How long links, cores and storage thread may take to do what they must not miss.
pub(crate) const DOOR_PATIENCE: Duration = Duration::from_secs(15);
/// How long the storage thread is waited for to start anew: short, as it may wait for a keeper, and whoever waits for it here is the
/// thread that finds keepers.
const RESTART_PATIENCE: Duration = Duration::from_millis(500);
