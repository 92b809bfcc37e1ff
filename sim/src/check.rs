//! A test of somebody's own objects, in one simulated world after the other.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::future::Future;
use std::ops::Range;

use epicserver_runtime::entity::Entities;

use crate::cast::Cast;
use crate::stage::{Job, Promise, World};
use crate::tape::Edits;
use crate::world::{Played, Setup, WorldKind, play};

/// A check of the entities `B`: of one node in each of 100 worlds, in which things go wrong.
///
/// See the [crate's](crate) first page for one, and [`Check::run`] for what it does.
pub fn check<B: Entities>() -> Check {
    Check { name: test_name(), cast: Cast::of::<B>(), nodes: 1..2, seeds: 100, is_calm: false, seed: None }
}

/// A test that is to run in many worlds, each from one seed.
#[derive(Clone, Debug)]
#[must_use = "it runs with `run` or `try_run`"]
pub struct Check {
    name: Option<String>,
    cast: Cast,
    nodes: Range<u16>,
    seeds: u64,
    is_calm: bool,
    seed: Option<u64>,
}

impl Check {
    /// How many nodes there are at first, of 1 to 4 cores each; the seed draws.
    ///
    /// # Panics
    /// If it is empty, or has a cluster of none or of more than 16.
    pub fn nodes(self, nodes: Range<u16>) -> Self {
        assert!(!nodes.is_empty() && nodes.start > 0 && nodes.end <= NODES_MAX + 1, "nodes {nodes:?}");
        Self { nodes, ..self }
    }

    /// In how many worlds the test runs. Seeds are counted from 1.
    pub fn seeds(self, seeds: u64) -> Self {
        Self { seeds, ..self }
    }

    /// Runs this seed alone.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    /// Nothing goes wrong: the seed draws order and delays, and how long objects stay in memory, and that is all. No call fails then
    /// that does not by itself.
    pub fn calm(self) -> Self {
        Self { is_calm: true, ..self }
    }

    /// What `cargo test` calls the test, for the command that runs a seed again; by itself it is the name of the thread, which is right
    /// but for `--test-threads=1`.
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// Runs the test in one world after the other, until it fails in one.
    ///
    /// The variable `EPICSERVER_SIM_SEED` has it run one seed alone, `EPICSERVER_SIM_SEEDS` so many, and `EPICSERVER_SIM_TRACE=1` print
    /// every event.
    ///
    /// The first seed runs twice, and so does one that fails: if it is not the same run, something in the test or in the entities does
    /// not come from the seed, and the check fails for that. See `docs/testing.md`.
    ///
    /// # Panics
    /// With the [`Failure`], if the test fails in a world: it panics, or gives an error.
    pub fn run<F, T>(self, test: impl Fn(World) -> F)
    where
        F: Future<Output = T> + 'static,
        T: Verdict + 'static,
    {
        if let Err(failure) = self.try_run(test) {
            panic!("{failure}");
        }
    }

    /// As [`Check::run`], for a test of a test: gives the failure.
    ///
    /// # Errors
    /// The first failure.
    pub fn try_run<F, T>(self, test: impl Fn(World) -> F) -> Result<Passed, Box<Failure>>
    where
        F: Future<Output = T> + 'static,
        T: Verdict + 'static,
    {
        let alone = self.seed.or_else(|| number("EPICSERVER_SIM_SEED"));
        let seeds = number("EPICSERVER_SIM_SEEDS").unwrap_or(self.seeds);
        let seeds = alone.map_or(1..=seeds, |seed| seed..=seed);
        let mut passed = Passed::default();
        for seed in seeds.clone() {
            let is_first = seed == *seeds.start();
            let mut played = self.play(seed, false, alone.is_some(), &test);
            if is_first || played.outcome.is_err() {
                let again = [(); 2].map(|()| self.play(seed, true, false, &test));
                if let Some(what) = difference(&played, &again) {
                    played.outcome = Err(what);
                }
            }
            passed.seeds += 1;
            passed.events += played.events;
            for (fault, count) in &played.faults {
                *passed.faults.entry(fault).or_default() += count;
            }
            if let Err(what) = played.outcome {
                let Played { kind, trace_hash, last_events, faults, .. } = played;
                let name = self.name.clone();
                return Err(Box::new(Failure { name, seed, kind, what, trace_hash, last_events, faults }));
            }
        }
        Ok(passed)
    }

    fn play<F, T>(&self, seed: u64, keeps_all: bool, is_alone: bool, test: impl Fn(World) -> F) -> Played
    where
        F: Future<Output = T> + 'static,
        T: Verdict + 'static,
    {
        let setup = Setup {
            seed,
            edits: Edits::default(),
            cast: self.cast,
            nodes: self.nodes.clone(),
            is_calm: self.is_calm,
            verbose: is_alone && std::env::var_os("EPICSERVER_SIM_TRACE").is_some(),
            keeps_all,
        };
        play(&setup, |world, ended: Promise<Result<(), String>>| -> Job {
            let future = test(world);
            Box::pin(async move { ended.keep(future.await.verdict()) })
        })
    }
}

/// What a test may end with: nothing, or a result whose error fails it.
pub trait Verdict {
    /// Whether the test passed, or what is wrong.
    ///
    /// # Errors
    /// What is wrong.
    fn verdict(self) -> Result<(), String>;
}

impl Verdict for () {
    fn verdict(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Debug> Verdict for Result<(), E> {
    fn verdict(self) -> Result<(), String> {
        self.map_err(|error| format!("ended with {error:?}"))
    }
}

/// What a check did that found nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// In how many worlds the test ran.
    pub seeds: u64,
    /// What happened in all of them.
    pub events: u64,
    /// What went wrong on purpose, by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

/// A seed in whose world a test fails. As text it is for people: what, the last events, and how to run it again.
#[derive(Clone, Debug)]
pub struct Failure {
    name: Option<String>,
    /// The seed.
    pub seed: u64,
    /// What kind of world it makes.
    pub kind: WorldKind,
    /// What is wrong: what a task of the test panicked with, for one.
    pub what: String,
    /// One number for the whole run.
    pub trace_hash: u64,
    /// The last events that say something about nodes and test, a line each.
    pub last_events: Vec<String>,
    /// What went wrong on purpose, by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, a world of the kind `{}`: {}", self.seed, self.kind.name(), self.what)?;
        writeln!(f, "\nthe last events of the world:")?;
        self.last_events.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        let faults: Vec<String> =
            self.faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
        let faults = if faults.is_empty() { "nothing".to_owned() } else { faults.join(", ") };
        writeln!(f, "\nwhat went wrong on purpose: {faults}")?;
        let package = std::env::var("CARGO_PKG_NAME").map(|name| format!(" -p {name}")).unwrap_or_default();
        let name = self.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        write!(f, "run it again, and alone: EPICSERVER_SIM_SEED={} cargo test{package}{name}", self.seed)
    }
}

impl std::error::Error for Failure {}

/// Where two runs of one seed part, if they do.
fn difference(before: &Played, [first, second]: &[Played; 2]) -> Option<String> {
    let is_same =
        |one: &Played, other: &Played| one.trace_hash == other.trace_hash && one.outcome == other.outcome;
    if is_same(before, first) && is_same(first, second) {
        return None;
    }
    let nothing = || "the end, in another way".to_owned();
    let place = first.all_events.iter().zip(&second.all_events).position(|(one, other)| one != other);
    let place = place.unwrap_or_else(|| first.all_events.len().min(second.all_events.len()));
    let line = |played: &Played| played.all_events.get(place).cloned().unwrap_or_else(nothing);
    Some(format!(
        "two runs of one seed differ, so something here does not come from the seed: a clock, random numbers, the order of a hash \
         map, a static, another thread. They part at event {place}, where one has\n{}\nand the other\n{}\nThe first run {}",
        line(first),
        line(second),
        match &before.outcome {
            Ok(()) => "passed".to_owned(),
            Err(what) => format!("failed: {what}"),
        }
    ))
}

/// Tests run in threads of their names.
fn test_name() -> Option<String> {
    std::thread::current().name().filter(|name| *name != "main").map(str::to_owned)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, and is `{text}`")))
}

/// Nodes of a world at most.
const NODES_MAX: u16 = 16;
