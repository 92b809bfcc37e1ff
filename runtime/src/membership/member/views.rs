//! The way of a view to the cores: dropped for, fenced, published.

use std::fmt;
use std::sync::Arc;

use epicserver_storage::{Fence, NodeId, PARTITIONS, Partition, PartitionState, StoreId, View};

/// The views of this node, and the fences that are open for it.
///
/// At most two views wait: one whose fences are being opened, and the newest. The first is published also when a newer
/// one is there; else a node whose partitions change all the time would never show any.
#[derive(Default)]
pub(super) struct Views {
    /// The highest version that was taken.
    version: u64,
    store: Option<StoreId>,
    published: Option<Arc<View>>,
    opening: Option<Arc<View>>,
    newest: Option<Arc<View>>,
    /// How many partitions of this node the newest view moves away.
    moving_from_me: usize,
    /// By partition: at which epoch its fence is open. Empty before there is any.
    opened: Vec<u64>,
    /// What is waited for; counts up.
    task: u64,
    waits_for: Option<Task>,
    /// Whether this incarnation ever had a lease: before it has one, a view that gives it partitions is not shown, so that whoever
    /// calls there waits for it, and is not refused.
    may_serve: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Drop,
    OpenFences,
}

/// What is to be done for a view.
#[derive(Debug)]
pub(super) enum Step {
    Wait,
    Drop { number: u64 },
    OpenFences { number: u64, fences: Vec<Fence> },
    Publish(Arc<View>),
}

impl Views {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn published(&self) -> Option<&Arc<View>> {
        self.published.as_ref()
    }

    /// Whether what the cores hold and see is of the store that counts.
    pub(super) fn is_fit_to_serve(&self) -> bool {
        self.waits_for != Some(Task::Drop)
            && self.published.as_ref().is_some_and(|view| Some(view.store) == self.store)
    }

    /// The newest view that was taken.
    pub(super) fn newest(&self) -> Option<&Arc<View>> {
        self.newest.as_ref().or(self.opening.as_ref()).or(self.published.as_ref())
    }

    pub(super) fn moving_from_me(&self) -> usize {
        self.moving_from_me
    }

    /// What this node owns by any view that it knows.
    pub(super) fn owned_by(&self, me: NodeId) -> Vec<Partition> {
        let views = [&self.newest, &self.opening, &self.published];
        let owns = |partition: &Partition| {
            views.iter().any(|view| view.as_ref().is_some_and(|view| view.owner(*partition) == Some(me)))
        };
        Partition::all().filter(owns).collect()
    }

    /// Takes a view that is newer than all before and has this node.
    pub(super) fn handle_view(&mut self, me: NodeId, view: Arc<View>) -> Step {
        let is_moving = |state: &&PartitionState| state.moving_to.is_some() && state.owner == Some(me);
        self.moving_from_me = view.partitions.iter().filter(is_moving).count();
        self.version = view.version;
        let is_other_store = self.store.is_some_and(|store| store != view.store);
        self.store = Some(view.store);
        self.newest = Some(view);
        if !is_other_store {
            return Step::Wait;
        }
        self.opening = None;
        self.opened.clear();
        self.start(Task::Drop);
        Step::Drop { number: self.task }
    }

    /// The next step, if nothing is waited for.
    pub(super) fn advance(&mut self, me: NodeId) -> Step {
        if self.waits_for.is_some() {
            return Step::Wait;
        }
        let Some(view) = self.opening.take().or_else(|| self.newest.take()) else { return Step::Wait };
        self.opened.resize(usize::from(PARTITIONS), 0);
        let fences = self.missing(me, &view);
        if fences.is_empty() && !self.may_serve && view.partitions.iter().any(|state| state.owner == Some(me))
        {
            self.opening = Some(view);
            return Step::Wait;
        }
        if fences.is_empty() {
            self.published = Some(Arc::clone(&view));
            return Step::Publish(view);
        }
        self.opening = Some(view);
        self.start(Task::OpenFences);
        Step::OpenFences { number: self.task, fences }
    }

    pub(super) fn is_opening(&self, number: u64) -> bool {
        self.waits_for == Some(Task::OpenFences) && self.task == number
    }

    /// The fences that were waited for are open.
    pub(super) fn handle_opened(&mut self, me: NodeId) {
        self.waits_for = None;
        let Some(view) = self.opening.clone() else { return };
        for fence in self.missing(me, &view) {
            self.opened[fence.partition.index()] = fence.epoch;
        }
    }

    /// Tries again to open the fences that failed.
    pub(super) fn retry(&mut self, me: NodeId) -> Step {
        if self.waits_for == Some(Task::OpenFences) {
            self.waits_for = None;
        }
        self.advance(me)
    }

    /// This incarnation has a lease.
    pub(super) fn allow_serving(&mut self) {
        self.may_serve = true;
    }

    /// Whether that was what was waited for.
    pub(super) fn handle_dropped(&mut self, number: u64) -> bool {
        let is_it = self.waits_for == Some(Task::Drop) && self.task == number;
        if is_it {
            self.waits_for = None;
        }
        is_it
    }

    /// Forgets everything of this incarnation, and waits until it is dropped: the number of that task. Versions go on.
    pub(super) fn evict(&mut self) -> u64 {
        (self.published, self.opening, self.newest, self.store) = (None, None, None, None);
        self.opened.clear();
        self.may_serve = false;
        self.start(Task::Drop);
        self.task
    }

    fn start(&mut self, task: Task) {
        self.task += 1;
        self.waits_for = Some(task);
    }

    fn missing(&self, me: NodeId, view: &View) -> Vec<Fence> {
        let is_missing = |partition: &Partition| {
            let state = view.partition(*partition);
            state.owner == Some(me) && self.opened.get(partition.index()) != Some(&state.epoch)
        };
        let fence = |partition| Fence { partition, epoch: view.partition(partition).epoch, holder: me };
        Partition::all().filter(is_missing).map(fence).collect()
    }
}

impl fmt::Debug for Views {
    /// Without the 4096 epochs.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Views")
            .field("version", &self.version)
            .field("store", &self.store)
            .field("waits_for", &self.waits_for)
            .finish_non_exhaustive()
    }
}
