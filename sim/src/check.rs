//! A test of somebody's own objects, in one simulated world after the other.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::future::Future;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Once;

use epicserver_runtime::entity::Entities;

use crate::cast::Cast;
use crate::shrink::{Failing, SHRINK_RUNS, Shrunk, shrink};
use crate::stage::{Job, Promise, World};
use crate::tape::Edits;
use crate::world::{Played, Setup, WorldKind, play};

/// A check of the entities `B`: of one node in each of 100 worlds, in which things go wrong.
///
/// See the [crate's](crate) first page for one, and [`Check::run`] for what it does.
pub fn check<B: Entities>() -> Check {
    Check {
        name: test_name(),
        cast: Cast::of::<B>(),
        nodes: 1..2,
        seeds: 100,
        is_calm: false,
        is_strict: true,
        seed: None,
        kind: None,
        edits: Edits::default(),
        shrink_runs: SHRINK_RUNS,
    }
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
    is_strict: bool,
    seed: Option<u64>,
    kind: Option<WorldKind>,
    edits: Edits,
    shrink_runs: u32,
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

    /// In worlds of this kind alone; by itself each seed draws one of the three, and in calm worlds nodes join, leave and objects move.
    pub fn kind(self, kind: WorldKind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    /// Simplifies the tape of the seed that runs alone, as a failure says.
    pub fn edits(self, edits: Edits) -> Self {
        Self { edits, ..self }
    }

    /// In how many runs at most a smaller one is looked for that fails like a seed that does: 200 by itself, and none with 0.
    pub fn shrink_runs(self, runs: u32) -> Self {
        Self { shrink_runs: runs, ..self }
    }

    /// Nothing goes wrong: the seed draws order and delays, and how long objects stay in memory, and that is all. No call fails then
    /// that does not by itself.
    pub fn calm(self) -> Self {
        Self { is_calm: true, ..self }
    }

    /// Lets entities and test read the machine's clock and the system's random numbers, as code that measures what it does may.
    ///
    /// It is on them then that nothing else depends on that: what does is found only if two of three runs of a seed differ.
    pub fn may_look_outside(self) -> Self {
        Self { is_strict: false, ..self }
    }

    /// What `cargo test` calls the test, for the command that runs a seed again; by itself it is the name of the thread, which is right
    /// but for `--test-threads=1`.
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// Runs the test in one world after the other, until it fails in one.
    ///
    /// The variable `EPICSERVER_SIM_SEED` has it run one seed alone, `EPICSERVER_SIM_SEEDS` so many, and `EPICSERVER_SIM_TRACE=1` print
    /// every event. A seed that fails is shrunk, unless `EPICSERVER_SIM_SHRINK=0`, and `EPICSERVER_SIM_TAPE` runs what was found.
    ///
    /// The first seed runs three times, and so does one that fails: if it is not the same run, something in the test or in the entities
    /// does not come from the seed, and the check fails for that. It fails too if these runs read the clock of the machine, and names the place, unless it
    /// [may](Self::may_look_outside). See `docs/testing.md`.
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
    pub fn try_run<F, T>(mut self, test: impl Fn(World) -> F) -> Result<Passed, Box<Failure>>
    where
        F: Future<Output = T> + 'static,
        T: Verdict + 'static,
    {
        let alone = self.seed.or_else(|| variable("EPICSERVER_SIM_SEED"));
        let seeds = variable("EPICSERVER_SIM_SEEDS").unwrap_or(self.seeds);
        let seeds = alone.map_or(1..=seeds, |seed| seed..=seed);
        if alone.is_some() {
            self.edits = variable("EPICSERVER_SIM_TAPE").unwrap_or(self.edits);
        }
        let play = |setup: &Setup| {
            play(setup, |world, ended: Promise<Result<(), String>>| -> Job {
                let future = test(world);
                Box::pin(async move { ended.keep(future.await.verdict()) })
            })
        };
        let is_shown = alone.is_some() && std::env::var_os("EPICSERVER_SIM_TRACE").is_some();
        let mut passed = Passed::default();
        for seed in seeds.clone() {
            let setup = self.setup(seed);
            let played = play(&Setup { verbose: is_shown, ..setup.clone() });
            let is_first = seed == *seeds.start();
            if is_first || played.outcome.is_err() {
                let compared = Setup { keeps_all: true, ..setup.clone() };
                let again = hushed(|| [(); 2].map(|()| play(&compared)));
                let from_outside = || self.is_strict.then(|| read_outside(&again)).flatten();
                if let Some(what) = difference(&played, &again).or_else(from_outside) {
                    return Err(Box::new(self.failure(&setup, &Played { outcome: Err(what), ..played })));
                }
            }
            passed.add(&played);
            if played.outcome.is_err() {
                let mut failure = self.failure(&setup, &played);
                failure.shrunk = if is_shown { None } else { self.shrink(&setup, &played, play) };
                return Err(Box::new(failure));
            }
        }
        Ok(passed)
    }

    fn setup(&self, seed: u64) -> Setup {
        Setup {
            seed,
            edits: self.edits.clone(),
            kind: self.kind,
            cast: self.cast,
            nodes: self.nodes.clone(),
            is_calm: self.is_calm,
            verbose: false,
            keeps_all: false,
            events_max: u64::MAX,
        }
    }

    fn failure(&self, setup: &Setup, played: &Played) -> Failure {
        Failure {
            name: self.name.clone(),
            seed: setup.seed,
            edits: setup.edits.clone(),
            kind: played.kind,
            what: played.outcome.clone().err().unwrap_or_default(),
            trace_hash: played.trace_hash,
            last_events: played.last_events.clone(),
            faults: played.faults.clone(),
            shrunk: None,
        }
    }

    /// A smaller run than that of the seed which fails like it.
    fn shrink(&self, setup: &Setup, played: &Played, play: impl Fn(&Setup) -> Played) -> Option<Shrunk> {
        let runs_max = variable("EPICSERVER_SIM_SHRINK").unwrap_or(self.shrink_runs);
        if runs_max == 0 || setup.edits != Edits::default() {
            return None;
        }
        eprintln!("seed {} fails; looking for a smaller run, in {runs_max} runs at most", setup.seed);
        let first = played.failing()?;
        Some(hushed(|| {
            shrink(first, runs_max, |edits, events_max| {
                play(&Setup { edits: edits.clone(), events_max, ..setup.clone() }).failing()
            })
        }))
    }
}

impl Played {
    fn failing(&self) -> Option<Failing> {
        let what = self.outcome.as_ref().err()?;
        let first_line = what.lines().next().unwrap_or_default();
        Some(Failing {
            kind: first_line.chars().filter(|char| !char.is_ascii_digit()).collect(),
            what: what.clone(),
            tape_len: self.tape_len,
            trace_hash: self.trace_hash,
            events: self.events,
            last_events: self.last_events.clone(),
            faults: self.faults.clone(),
        })
    }
}

impl Passed {
    fn add(&mut self, played: &Played) {
        self.seeds += 1;
        self.events += played.events;
        for (fault, count) in &played.faults {
            *self.faults.entry(fault).or_default() += count;
        }
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
    /// How its tape was simplified for the check.
    pub edits: Edits,
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
    /// A smaller run that fails in the same way, if one was looked for.
    pub shrunk: Option<Shrunk>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, a world of the kind `{}`: {}", self.seed, self.kind.name(), self.what)?;
        if let Some(Shrunk { runs, tape_len, events, what, .. }) = &self.shrunk {
            writeln!(f, "\na smaller run, found in {runs}: {what}")?;
            writeln!(f, "{} bytes of its tape are left of {}", tape_len.1, tape_len.0)?;
            writeln!(f, "{} events of {}", events.1, events.0)?;
        }
        let shrunk = self.shrunk.as_ref();
        let last_events = shrunk.map_or(&self.last_events, |shrunk| &shrunk.last_events);
        let faults = shrunk.map_or(&self.faults, |shrunk| &shrunk.faults);
        writeln!(f, "\nthe last events of the world:")?;
        last_events.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        let faults: Vec<String> = faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
        let faults = if faults.is_empty() { "nothing".to_owned() } else { faults.join(", ") };
        writeln!(f, "\nwhat went wrong on purpose: {faults}")?;
        let package = std::env::var("CARGO_PKG_NAME").map(|name| format!(" -p {name}")).unwrap_or_default();
        let name = self.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        let edits = shrunk.map_or(&self.edits, |shrunk| &shrunk.edits);
        let is_as_the_seed = *edits == Edits::default();
        let tape = if is_as_the_seed { String::new() } else { format!("EPICSERVER_SIM_TAPE={edits} ") };
        let seed = self.seed;
        write!(f, "run it again, and alone: EPICSERVER_SIM_SEED={seed} {tape}cargo test{package}{name}")
    }
}

impl std::error::Error for Failure {}

/// What the runs read of the world outside, if anything.
fn read_outside([first, second]: &[Played; 2]) -> Option<String> {
    let mut places = [&first.outside[..], &second.outside].concat();
    places.sort();
    places.dedup();
    (!places.is_empty()).then(|| {
        format!(
            "it reads {}\nThat is not the seed's, and another in each run. Use `context::now` and `context::random` in entities, and those of \
             `World` in the test; if nothing depends on it, say so with `Check::may_look_outside`",
            places.join("\nit reads ")
        )
    })
}

/// Where two runs of one seed part, if they do.
fn difference(before: &Played, again: &[Played; 2]) -> Option<String> {
    let [first, second] = again;
    let is_same =
        |one: &Played, other: &Played| one.trace_hash == other.trace_hash && one.outcome == other.outcome;
    if is_same(before, first) && is_same(first, second) {
        return None;
    }
    let nothing = || "the end, in another way".to_owned();
    let place = first.all_events.iter().zip(&second.all_events).position(|(one, other)| one != other);
    let place = place.unwrap_or_else(|| first.all_events.len().min(second.all_events.len()));
    let line = |played: &Played| played.all_events.get(place).cloned().unwrap_or_else(nothing);
    let read = read_outside(again).map(|read| format!("\n{read}"));
    Some(format!(
        "two runs of one seed differ, so something here does not come from the seed: a clock, random numbers, the order of a hash \
         map, a static, another thread. They part at event {place}, where one has\n{}\nand the other\n{}\nThe first run {}{}",
        line(first),
        line(second),
        match &before.outcome {
            Ok(()) => "passed".to_owned(),
            Err(what) => format!("failed: {what}"),
        },
        read.unwrap_or_default()
    ))
}

/// Tests run in threads of their names.
fn test_name() -> Option<String> {
    std::thread::current().name().filter(|name| *name != "main").map(str::to_owned)
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let parse = |text: String| text.parse().unwrap_or_else(|_| panic!("{name} makes no sense: `{text}`"));
    std::env::var(name).ok().map(parse)
}

/// Runs something whose panics are known already, so that they are not written to the terminal once more.
fn hushed<R>(run: impl FnOnce() -> R) -> R {
    static HOOK: Once = Once::new();
    thread_local! {
        static IS_HUSHED: Cell<bool> = const { Cell::new(false) };
    }
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_HUSHED.get() {
                before(panic);
            }
        }));
    });
    IS_HUSHED.set(true);
    let result = run();
    IS_HUSHED.set(false);
    result
}

/// Nodes of a world at most.
const NODES_MAX: u16 = 16;
