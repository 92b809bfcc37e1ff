//! A node's handles to its cluster: wait until it serves, look at the others, leave.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use epicserver_storage::{NodeId, Partition, RecordKey, RecordKeyRef, View};
use tokio::sync::mpsc;

use super::{Node, NodeShared, NodeThread, THREAD_PATIENCE, ThreadEnd};
use crate::cluster::report::{
    ClusterReport, FoundObject, NodeCounters, ObjectPlace, ObjectReport, SavedState,
};
use crate::driver::clock::Clock;
use crate::driver::cluster::{ClusterReach, ClusterSeed, ClusterShared, LineShared, ToCluster, serves};
use crate::membership::{Phase, able_members};
use crate::node::Stats;

/// Why a node does not serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Nobody answers who keeps the cluster's data.
    #[error(
        "no node of the cluster was found in {} s: check that one runs, that `seed` names its address or `data_dir` its folder, and \
         that both have the same secret",
        .0.as_secs()
    )]
    NotFound(Duration),
    /// The cluster does not take the node in.
    #[error("the cluster does not take this node in: {0}")]
    Refused(String),
    /// Nobody keeps the data, and this node cannot: what is there is damaged, of another program, or older than it should be.
    #[error("the cluster's data cannot be used: {0}")]
    Unusable(String),
    /// It is a member, and the cluster did not come to rest.
    #[error("this node joined, but its objects were not served in {} s", .0.as_secs())]
    NotServed(Duration),
    /// The program is older than the data, and no process of a newer one is there.
    #[error(
        "states of {entity} are saved in version {saved}, and this program knows version {known} of it: \
         start the newer program, or a backup from before the upgrade"
    )]
    Outdated {
        /// The entity.
        entity: String,
        /// The version in its saved states.
        saved: u32,
        /// The version in this program.
        known: u32,
    },
}

/// Why an object was not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// No member has code for the entity, or none that has answered.
    #[error("no node that answers binds an entity {entity:?}; the cluster has: {known}")]
    Unknown {
        /// What was asked for.
        entity: String,
        /// What there is.
        known: String,
    },
    /// The text is no key of that entity.
    #[error("{key:?} is no key of {entity:?}")]
    Key {
        /// The entity.
        entity: String,
        /// What was given as a key.
        key: String,
    },
    /// This node is in no cluster.
    #[error("this node is in no cluster")]
    Alone,
}

/// What somebody wants to know of the nodes; the thread drops it when it is known or late.
#[derive(Debug)]
pub(crate) enum Inquiry {
    /// What each of them does.
    Stats(mpsc::Sender<(NodeId, Stats, NodeCounters)>),
    /// How an object is called, and in which partition it is.
    Object(String, String, mpsc::Sender<Option<FoundObject>>),
    /// What the keeper has of an object.
    Saved(RecordKey, mpsc::Sender<SavedState>),
}

impl Inquiry {
    /// Whether nobody waits for it any more.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Stats(answers) => answers.is_closed(),
            Self::Object(_, _, answers) => answers.is_closed(),
            Self::Saved(_, answers) => answers.is_closed(),
        }
    }
}

/// The node's end of its cluster thread.
#[derive(Debug)]
pub(crate) struct ClusterHandle {
    pub(crate) inbox: Sender<ToCluster>,
    pub(crate) shared: Arc<ClusterShared>,
    line: Arc<LineShared>,
    thread: Option<NodeThread<()>>,
    pub(crate) clock: Clock,
    pub(crate) cluster: u128,
    /// Whether the node only looks on.
    pub(crate) looks_on: bool,
}

impl ClusterHandle {
    /// Starts the cluster thread.
    pub(super) fn start(seed: ClusterSeed, reach: ClusterReach) -> std::io::Result<Self> {
        let (inbox, shared, clock) = (seed.inbox.clone(), seed.shared.clone(), reach.clock);
        let line = seed.line.clone();
        let (cluster, looks_on) = (seed.cluster, seed.looks_on);
        Ok(Self { inbox, shared, line, thread: Some(seed.start(reach)?), clock, cluster, looks_on })
    }

    pub(super) fn stop(&mut self) {
        self.line.close();
        // A thread that is behind takes what it has first; it is waited for all the same.
        let _ = self.inbox.send_timeout(ToCluster::Stop, STOP_PATIENCE);
        match self.thread.take().map(|thread| thread.end_within(THREAD_PATIENCE)) {
            None | Some(ThreadEnd::Ended(())) => {}
            Some(ThreadEnd::Panicked) => tracing::error!("the cluster thread panicked"),
            Some(ThreadEnd::LeftBehind) => {
                tracing::error!(
                    "the data directory does not return; this node keeps the cluster's data until it does"
                );
            }
        }
    }

    /// Whether this node has objects that somebody else could own.
    pub(super) fn has_heirs(&self) -> bool {
        let leaving = BTreeSet::from([self.shared.node()]);
        !self.owns_nothing()
            && self.shared.view().is_some_and(|view| !able_members(&view, &leaving).is_empty())
    }

    /// Why this node never owns anything, if nobody else can own what there is either.
    fn outdated(&self) -> Option<JoinError> {
        let view = self.shared.view()?;
        if !able_members(&view, &BTreeSet::new()).is_empty() {
            return None;
        }
        let entities = &view.member(self.shared.node())?.entities;
        entities.iter().find_map(|entity| {
            let saved = view.schema(&entity.name).filter(|saved| *saved > entity.version)?;
            Some(JoinError::Outdated { entity: entity.name.clone(), saved, known: entity.version })
        })
    }

    fn owns_nothing(&self) -> bool {
        let me = self.shared.node();
        let owns = |view: Arc<View>| view.partitions.iter().any(|state| state.owner == Some(me));
        !self.shared.view().is_some_and(owns)
    }

    /// Hands this node's objects over, until it has none or this much time is over.
    pub(super) async fn leave(&self, node: &NodeShared, patience: Duration) -> bool {
        let until_ns = self.clock.now().saturating_add(patience.as_nanos() as u64);
        if self.looks_on || self.inbox.try_send(ToCluster::Leave(until_ns)).is_err() {
            return true;
        }
        // The thread itself gives up at that time; this is for one that does not run.
        let deadline = tokio::time::Instant::now() + patience + STOP_PATIENCE;
        while self.shared.phase() != Phase::Left && tokio::time::Instant::now() < deadline {
            if self.owns_nothing() && node.is_quiet() {
                // Its last answers are with the links, and are to get there.
                tokio::time::sleep(LAST_WORDS).await;
                // One that is lost is said again in a moment.
                let _ = self.inbox.try_send(ToCluster::Rested);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.clock.now() < until_ns
    }

    fn serves(&self) -> bool {
        match self.shared.view() {
            None => false,
            Some(_) if self.looks_on => true,
            Some(view) => {
                let has_lease = self.shared.lease_until_ns() > self.clock.now();
                has_lease && self.shared.is_served() && serves(&view, self.shared.node())
            }
        }
    }
}

impl Node {
    /// Waits until the node is part of its cluster and all objects have an owner. At once for a node without a cluster.
    ///
    /// # Errors
    /// [`JoinError`] says why that is not so after `patience`, or why waiting is no use.
    pub async fn joined(&self, patience: Duration) -> Result<(), JoinError> {
        let Some(cluster) = &self.cluster else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + patience;
        while !cluster.serves() {
            if let Some(reason) = cluster.shared.unusable().filter(|_| cluster.shared.keeper().0.is_none()) {
                return Err(JoinError::Unusable(reason));
            }
            if let Some(error) = cluster.outdated() {
                return Err(error);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(match cluster.shared.refused() {
                    Some(reason) => JoinError::Refused(reason),
                    None if cluster.shared.keeper().0.is_none() => JoinError::NotFound(patience),
                    None => JoinError::NotServed(patience),
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// The view that the node routes by now; an empty one before it has any, and for a node without a cluster.
    pub fn view(&self) -> Arc<View> {
        let view = self.cluster.as_ref().and_then(|cluster| cluster.shared.view());
        view.unwrap_or_else(|| Arc::new(View::empty(epicserver_storage::StoreId(0))))
    }

    /// Asks all members what they do, and waits for their answers for so long at most.
    pub async fn inspect(&self, patience: Duration) -> ClusterReport {
        let Some(cluster) = &self.cluster else { return ClusterReport::of_view(0, &self.view(), None, 0) };
        let (keeper, reign) = cluster.shared.keeper();
        let mut report = ClusterReport::of_view(cluster.cluster, &self.view(), keeper, reign);
        let (answers, mut answered) = mpsc::channel(ANSWERS_MAX);
        if cluster.inbox.try_send(ToCluster::Inquiry(Inquiry::Stats(answers))).is_err() {
            return report;
        }
        let all = async {
            while !report.is_complete() {
                let Some((node, stats, counters)) = answered.recv().await else { return };
                report.put(node, stats, counters);
            }
        };
        // Who has not answered by then is shown without an answer.
        let _ = tokio::time::timeout(patience, all).await;
        report
    }

    /// Asks those who have code for an entity where one of its objects lives, and the keeper what is saved of it; each for so
    /// long at most. `key` as a person writes it.
    ///
    /// # Errors
    /// [`FindError`].
    pub async fn find_object(
        &self,
        entity: &str,
        key: &str,
        patience: Duration,
    ) -> Result<ObjectReport, FindError> {
        let cluster = self.cluster.as_ref().ok_or(FindError::Alone)?;
        let view = self.view();
        let unknown = || {
            let names =
                view.members.iter().flat_map(|member| &member.entities).map(|entity| entity.name.as_str());
            let known: std::collections::BTreeSet<_> = names.collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            FindError::Unknown { entity: entity.to_owned(), known }
        };
        let (answers, mut answered) = mpsc::channel(ANSWERS_MAX);
        let inquiry = Inquiry::Object(entity.to_owned(), key.to_owned(), answers);
        cluster.inbox.try_send(ToCluster::Inquiry(inquiry)).map_err(|_| unknown())?;
        match tokio::time::timeout(patience, answered.recv()).await {
            Ok(Some(Some(FoundObject { partition, key, policy }))) => {
                let saved = self.find_saved(key, patience).await;
                Ok(ObjectReport { place: ObjectPlace::of(&view, partition), policy, saved })
            }
            Ok(Some(None)) => Err(FindError::Key { entity: entity.to_owned(), key: key.to_owned() }),
            Ok(None) | Err(_) => Err(unknown()),
        }
    }

    async fn find_saved(&self, key: RecordKey, patience: Duration) -> Option<SavedState> {
        let (answers, mut answered) = mpsc::channel(1);
        let inquiry = ToCluster::Inquiry(Inquiry::Saved(key, answers));
        self.cluster.as_ref()?.inbox.try_send(inquiry).ok()?;
        tokio::time::timeout(patience, answered.recv()).await.ok().flatten()
    }
}

/// What a node answers about itself.
#[derive(Debug)]
pub(crate) struct SelfReport {
    pub(crate) node: Arc<NodeShared>,
    pub(crate) entities: Vec<crate::entity::BoundEntity>,
}

impl SelfReport {
    /// An object by the words of a person; `None`: this node does not bind the entity. `Some(None)`: it is no key.
    pub(crate) fn find(&self, entity: &str, key: &str) -> Option<Option<FoundObject>> {
        use crate::key::KeyView;
        use epicserver_storage::KeyKind;
        let entity = self.entities.iter().find(|bound| bound.vtable.name == entity)?;
        let method = entity.methods.first()?;
        let number = key.parse::<u64>().ok().map(u64::to_le_bytes);
        let long = key.parse::<u128>().ok().map(u128::to_le_bytes);
        let spellings = [
            (KeyKind::U64, number.as_ref().map(|bytes| &bytes[..])),
            (KeyKind::U128, long.as_ref().map(|bytes| &bytes[..])),
            (KeyKind::Utf8, Some(key.as_bytes())),
            (KeyKind::Bytes, Some(key.as_bytes())),
        ];
        let mut of_kind = spellings.into_iter().filter_map(|(kind, bytes)| {
            let bytes = bytes?;
            let partition = Partition::new((method.partition)(KeyView { kind, bytes })?)?;
            let key = RecordKeyRef::new(entity.vtable.id.0, kind, bytes).ok()?.to_owned();
            Some(FoundObject { partition, key, policy: entity.vtable.save })
        });
        Some(of_kind.next())
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long the links have for the last answers of a node that leaves.
const LAST_WORDS: Duration = Duration::from_millis(50);
const STOP_PATIENCE: Duration = Duration::from_secs(2);
const ANSWERS_MAX: usize = 1024;
