//! A world in which somebody's own test runs: nodes bind the test's entities, and its tasks take the place of the
//! clients.
//!
//! What goes wrong is what goes wrong in the world's own runs. The checkers that read the world's own entities have nothing to
//! look at; bounds and leases are checked all the same, and what else must hold the test says itself.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use epicserver_storage::NodeId;

use super::client::Woken;
use super::node::SimNode;
use super::profile::Profile;
use super::{Course, World, WorldConfig, WorldKind};
use crate::cast::Cast;
use crate::outside;
use crate::stage::{self, Job, Promise, Wish};
use crate::tape::{Edits, Tape};
use crate::trace::{Happened, Trace};
use crate::witness;

/// Which world a test is to run in.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) edits: Edits,
    /// What kind of world, or one that is drawn.
    pub(crate) kind: Option<WorldKind>,
    pub(crate) cast: Cast,
    pub(crate) nodes: Range<u16>,
    /// Nothing goes wrong: order and delays alone are drawn.
    pub(crate) is_calm: bool,
    pub(crate) verbose: bool,
    /// All events are kept.
    pub(crate) keeps_all: bool,
    /// Events beyond which nobody wants to know how it goes on.
    pub(crate) events_max: u64,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) outcome: Result<(), String>,
    pub(crate) kind: WorldKind,
    /// Bytes of the tape that were read.
    pub(crate) tape_len: u64,
    pub(crate) trace_hash: u64,
    pub(crate) events: u64,
    pub(crate) last_events: Vec<String>,
    pub(crate) all_events: Vec<String>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// What it read of the world outside, and where; noted where all events are kept.
    pub(crate) outside: Vec<String>,
}

/// Runs a test in a world of its own, to the test's end.
pub(crate) fn play(
    setup: &Setup,
    body: impl FnOnce(stage::World, Promise<Result<(), String>>) -> Job,
) -> Played {
    witness::install();
    epicserver_runtime::planted::plant(None);
    let tape = Tape::new(setup.seed, setup.edits.clone());
    let kind = setup.kind.unwrap_or_else(|| match setup.is_calm {
        true => tape.one_of(&[WorldKind::Fixed, WorldKind::Moving]),
        false => tape.one_of(&WorldKind::ALL),
    });
    let profile = Profile::draw_trial(kind, &setup.nodes, setup.is_calm, &tape);
    let trace = Trace::of_trial(setup.verbose, setup.keeps_all, setup.events_max);
    let config = WorldConfig { seed: setup.seed, kind, verbose: setup.verbose, ..WorldConfig::default() };
    let mut world = World::new(&config, setup.cast, profile, trace, tape.clone());
    let stage = stage::World::new(setup.seed, tape);
    let outcome = match setup.keeps_all {
        true => outside::watch(|| world.play(stage, body)),
        false => world.play(stage, body),
    };
    let tape_len = world.scene.tape.read_len();
    let trace = &mut world.scene.trace;
    Played {
        outcome,
        kind,
        tape_len,
        trace_hash: trace.hash(),
        events: trace.count(),
        last_events: trace.last_lines(),
        all_events: trace.take_all(),
        faults: world.scene.faults.clone(),
        outside: outside::take_places(),
    }
}

/// The test in its world.
pub(super) struct Trial {
    stage: stage::World,
    tasks: BTreeMap<u64, Task>,
    /// Tasks that there ever were.
    count: u64,
    /// What a task panicked with.
    panic: Option<String>,
    /// When a task went on last.
    went_on: u64,
    /// Who waits for the end of all faults, until when it takes at least.
    healing: Vec<(u64, Promise<()>)>,
    /// Since when the nodes agree, if somebody waits for that.
    whole_since: Option<u64>,
}

struct Task {
    job: Job,
    woken: Arc<Woken>,
}

impl Trial {
    /// Tasks that can go on.
    pub(super) fn ready(&self) -> impl Iterator<Item = u64> {
        let is_ready = |task: &Task| task.woken.0.load(Ordering::Relaxed);
        self.tasks.iter().filter(move |(_, task)| is_ready(task)).map(|(number, _)| *number)
    }

    /// When something happens here by itself.
    pub(super) fn next_time(&self, now: u64) -> Option<u64> {
        let slept = self.stage.stage(|stage| stage.sleepers.keys().next().map(|(at, _)| *at));
        // Whose time has come waits for nodes, which have times of their own.
        let healing = self.healing.iter().map(|(at, _)| *at).filter(|at| *at > now);
        let whole = self.whole_since.map(|since| since + HEAL_NS).filter(|at| *at > now);
        slept.into_iter().chain(healing).chain(whole).min()
    }

    /// Whether nothing goes on here any more.
    fn is_stuck(&self, now: u64) -> bool {
        let waits = self.next_time(now).is_none() && self.healing.is_empty() && self.ready().next().is_none();
        waits && now > self.went_on + SILENCE_NS_MAX
    }

    /// Whether the nodes have not found each other, for longer than that may take.
    fn is_not_healed(&self, now: u64) -> bool {
        self.healing.iter().any(|(at, _)| now > at + SILENCE_NS_MAX)
    }

    fn add(&mut self, job: Job) {
        let woken = Arc::new(Woken::default());
        woken.0.store(true, Ordering::Relaxed);
        self.tasks.insert(self.count, Task { job, woken });
        self.count += 1;
    }
}

impl World {
    fn play(
        &mut self,
        stage: stage::World,
        body: impl FnOnce(stage::World, Promise<Result<(), String>>) -> Job,
    ) -> Result<(), String> {
        // A test begins in a cluster that is up.
        let until = self.scene.time + SILENCE_NS_MAX;
        while !(self.is_whole() && self.is_linked()) && self.scene.time < until && self.scene.goes_on() {
            self.go_on(false);
        }
        let ended = Promise::default();
        let (tasks, healing) = (BTreeMap::new(), Vec::new());
        let mut trial = Trial {
            stage: stage.clone(),
            tasks,
            count: 0,
            panic: None,
            went_on: 0,
            healing,
            whole_since: None,
        };
        trial.add(body(stage, ended.clone()));
        trial.went_on = self.scene.time;
        self.trial = Some(trial);
        self.agenda = self.draw_agenda(CALLS);
        for change in &mut self.agenda {
            // Some tests are short and some are long: as many faults for the first ten answers as for the next hundred.
            change.0 = 1 << self.scene.tape.u32(0..CALLS.ilog2());
            change.0 += self.scene.tape.u64(..change.0);
        }
        for _ in 0..STEPS_MAX {
            if let Some(outcome) = ended.take() {
                return outcome;
            }
            if self.scene.trace.is_too_long() {
                return Err("more happens than anybody wants to know".to_owned());
            }
            self.go_on(true);
            self.take_changes();
            self.take_wishes();
            self.check_trial()?;
        }
        Err(format!("the test did not end in {STEPS_MAX} steps of the world: does it wait in a circle?"))
    }

    fn check_trial(&self) -> Result<(), String> {
        if let Some(what) = self.trial.as_ref().and_then(|trial| trial.panic.clone()) {
            return Err(what);
        }
        if let Some(refused) = self.scene.refused {
            return Err(format!(
                "an entity awaits `{refused}`, and there is no world outside of a simulated one: put what it does behind an \
                 object or a function that the test can replace"
            ));
        }
        if let Some(violation) = self.scene.violation() {
            return Err(format!("a law of the runtime itself is broken, please report it: {violation}"));
        }
        let now = self.scene.time;
        if self.trial.as_ref().is_some_and(|trial| trial.is_not_healed(now)) {
            return Err(
                "a law of the runtime itself is broken, please report it: the nodes do not come to rest"
                    .to_owned(),
            );
        }
        match self.trial.as_ref().is_some_and(|trial| trial.is_stuck(now)) {
            true => Err("every task of the test waits for something that does not come: a call outlasts its deadline, or it awaits \
                         something that is not of this world, such as a timer or a socket of tokio's"
                .to_owned()),
            false => Ok(()),
        }
    }

    fn take_changes(&mut self) {
        let due = self.agenda.iter().position(|(at, _)| *at <= self.calls);
        if let Some((_, change)) = due.map(|place| self.agenda.swap_remove(place)) {
            self.change_course(change);
        }
    }

    /// A task of the test goes on.
    pub(super) fn go_on_task(&mut self, number: u64) {
        self.calls += 1;
        let serving = self.nodes.values().filter(|node| node.takes_calls());
        let entrances = serving.flat_map(SimNode::pools).collect();
        let Some(trial) = &mut self.trial else { return };
        let Some(mut task) = trial.tasks.remove(&number) else { return };
        trial.went_on = self.scene.time;
        trial.stage.stage(|stage| stage.entrances = entrances);
        trial.stage.pass(self.scene.time);
        task.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(task.woken.clone());
        let poll = || task.job.as_mut().poll(&mut Context::from_waker(&waker));
        let polled = catch_unwind(AssertUnwindSafe(poll));
        let ended = !matches!(polled, Ok(Poll::Pending));
        match polled {
            Ok(Poll::Pending) => drop(trial.tasks.insert(number, task)),
            Ok(Poll::Ready(())) => {}
            Err(panic) => trial.panic = Some(words_of(panic.as_ref())),
        }
        let (tasks, notes) =
            trial.stage.stage(|stage| (std::mem::take(&mut stage.tasks), std::mem::take(&mut stage.notes)));
        tasks.into_iter().for_each(|job| trial.add(job));
        notes.into_iter().for_each(|text| self.scene.happened(Happened::Noted { text }));
        self.scene.happened(Happened::WentOn { task: number, ended });
    }

    /// Does what the test wants of the world, and wakes who slept.
    fn take_wishes(&mut self) {
        let Some(trial) = &mut self.trial else { return };
        trial.stage.pass(self.scene.time);
        for (wish, promise) in trial.stage.stage(|stage| std::mem::take(&mut stage.wishes)) {
            self.agenda.clear();
            self.heal();
            if wish == Wish::Restart {
                self.restart();
            }
            let at = self.scene.time + HEAL_NS;
            self.trial.iter_mut().for_each(|trial| trial.healing.push((at, promise.clone())));
        }
        let now = self.scene.time;
        let is_due = |trial: &Trial| trial.healing.iter().any(|(at, _)| *at <= now);
        if !self.trial.as_ref().is_some_and(is_due) {
            return;
        }
        let agrees = self.is_fixed() || self.is_agreed();
        let Some(trial) = self.trial.as_mut().filter(|_| agrees) else {
            self.trial.iter_mut().for_each(|trial| trial.whole_since = None);
            return;
        };
        // What was under way when the last fault ended has its end now.
        let since = *trial.whole_since.get_or_insert(now);
        if now < since + HEAL_NS || !self.is_whole() || (now < since + LINKS_NS && !self.is_linked()) {
            return;
        }
        if let Some(trial) = &mut self.trial {
            (trial.went_on, trial.whole_since) = (now, None);
            let (due, later) = trial.healing.drain(..).partition(|(at, _)| *at <= now);
            trial.healing = later;
            let due: Vec<(u64, Promise<()>)> = due;
            due.into_iter().for_each(|(_, promise)| promise.keep(()));
        }
    }

    fn is_fixed(&self) -> bool {
        matches!(self.course, Course::Fixed(_))
    }

    /// Whether all nodes agree on who owns what, and have heard all that they were told.
    fn is_whole(&mut self) -> bool {
        self.is_fixed() || self.is_settled()
    }

    /// Whether all nodes are linked with each other.
    fn is_linked(&self) -> bool {
        let lives: Vec<NodeId> = self.nodes.values().map(SimNode::me).collect();
        self.nodes.values().all(|node| {
            let present: BTreeSet<NodeId> = node.links.present().collect();
            lives.iter().all(|life| *life == node.me() || present.contains(life))
        })
    }

    fn restart(&mut self) {
        let indices: Vec<u16> = self.nodes.keys().copied().collect();
        for index in &indices {
            self.scene.happened(Happened::Crashed { node: *index });
            self.end_node(*index);
        }
        match self.course {
            Course::Fixed(_) => self.found_fixed_again(),
            Course::Moving(_) => self.found_moving_again(indices),
        }
    }
}

/// What a panic said.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
    words.map_or_else(|| "a task of the test panicked".to_owned(), |words| format!("panicked: {words}"))
}

/// The turns of a test's tasks in which faults begin.
const CALLS: u64 = 256;
/// Actors that go on in a test at most.
const STEPS_MAX: u64 = 5_000_000;
/// How long no task of a test goes on at most: longer than any deadline and any grace.
const SILENCE_NS_MAX: u64 = 120_000_000_000;
/// How long a world has to come to rest after its faults at least.
const HEAL_NS: u64 = 1_000_000_000;
/// How long nodes that agree have to be linked again: longer than handshakes and pauses between attempts take.
const LINKS_NS: u64 = 8_000_000_000;
