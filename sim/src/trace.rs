//! What happened in a world, an event after the other: hashed, and the last ones kept for people.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};

use epicserver_runtime::membership::FencesOutcome;

use crate::planted::Planted;

/// The record of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hasher: Fnv,
    count: u64,
    /// Events beyond which nobody wants to know how it goes on.
    count_max: u64,
    last: VecDeque<(u64, Happened)>,
    verbose: bool,
    /// All lines, where two runs are to be compared.
    all: Option<Vec<String>>,
    /// Only what is of use to who does not know the insides is kept for people.
    is_terse: bool,
}

/// One event. Its text is made only when somebody wants to read it.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Happened {
    /// A core took messages from its neighbours.
    Drained {
        place: (u16, u16),
        messages: usize,
    },
    /// A core worked: what it learnt of batches, how many turns it may run, what it did so far.
    Worked {
        place: (u16, u16),
        open: u64,
        durable: u64,
        failures: usize,
        turns: u32,
        calls: u64,
        polls: u64,
    },
    /// A method had its first turn, or another one.
    Ran {
        place: (u16, u16),
        object: u64,
        serial: u64,
        first: bool,
    },
    /// What a core wanted was done.
    Performed {
        place: (u16, u16),
        actions: usize,
    },
    Slept {
        place: (u16, u16),
    },
    Woke {
        place: (u16, u16),
    },
    /// The store is asked for an account; nothing found says that it failed.
    Loading {
        node: u16,
        account: String,
        found: Option<bool>,
    },
    Closing {
        node: u16,
        batch: u64,
    },
    /// A batch is written, and not synced.
    Writing {
        node: u16,
        batch: u64,
        saves: usize,
    },
    Committing {
        node: u16,
        batch: u64,
        saves: usize,
        outcome: &'static str,
    },
    Committed {
        node: u16,
        batch: u64,
    },
    Failed {
        node: u16,
        from: u64,
        to: u64,
    },
    /// A link thread made a pass.
    Linked {
        node: u16,
        sent: usize,
        received: usize,
        delivered: usize,
        links: usize,
    },
    /// A link was cut.
    Cut {
        node: u16,
    },
    Crashed {
        node: u16,
    },
    /// The storage thread asked the store to open fences.
    Fenced {
        node: u16,
        fences: usize,
        outcome: FencesOutcome,
    },
    /// The cluster thread made a pass, and the cores route by this view.
    Governed {
        node: u16,
        taken: usize,
        version: u64,
    },
    /// A node is to leave.
    Leaving {
        node: u16,
    },
    /// It has left.
    Left {
        node: u16,
    },
    /// The clock of a node jumped to this time.
    Leapt {
        node: u16,
        local: u64,
    },
    /// A node comes and goes so many times.
    Flapping {
        node: u16,
        times: u64,
    },
    /// A node stands still until then.
    Paused {
        node: u16,
        until: u64,
    },
    /// The network is another one for a node: so many nodes are not heard, and what comes takes so long.
    Network {
        node: u16,
        unheard: usize,
        delay_ns: Option<u64>,
    },
    Started {
        node: u16,
        epoch: u64,
    },
    Called {
        client: u64,
        serial: u64,
        what: String,
    },
    Answered {
        client: u64,
        serial: u64,
        answer: String,
    },
    Dropped {
        client: u64,
        serial: u64,
    },
    FaultsEnd,
    /// In somebody's own test: what a batch saved.
    Saved {
        saves: usize,
        content: u64,
    },
    /// Work outside of the cores was done.
    WorkedElsewhere {
        node: u16,
    },
    /// A task of the test went on.
    WentOn {
        task: u64,
        ended: bool,
    },
    /// What the test says of itself.
    Noted {
        text: String,
    },
    /// A planted bug shows itself.
    Planted {
        bug: Planted,
    },
}

impl Trace {
    pub(crate) fn new(verbose: bool, count_max: u64) -> Self {
        let last = VecDeque::with_capacity(KEPT);
        Self { hasher: Fnv::default(), count: 0, count_max, last, verbose, all: None, is_terse: false }
    }

    /// For somebody's own test. Where two runs are to be compared all lines are kept.
    pub(crate) fn of_trial(verbose: bool, keeps_all: bool, count_max: u64) -> Self {
        Self { all: keeps_all.then(Vec::new), is_terse: true, ..Self::new(verbose, count_max) }
    }

    /// Writes an event down.
    pub(crate) fn add(&mut self, now: u64, happened: Happened) {
        (now, &happened).hash(&mut self.hasher);
        self.count += 1;
        if self.verbose {
            println!("{}", line(now, &happened));
        }
        if let Some(all) = &mut self.all {
            all.push(line(now, &happened));
        }
        if self.is_terse && !happened.is_telling() {
            return;
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back((now, happened));
    }

    /// One number for all that happened.
    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Whether more has happened than anybody wants to know.
    pub(crate) fn is_too_long(&self) -> bool {
        self.count > self.count_max
    }

    /// All lines, if they were kept.
    pub(crate) fn take_all(&mut self) -> Vec<String> {
        self.all.take().unwrap_or_default()
    }

    /// The last events, a line each.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.last.iter().map(|(now, happened)| line(*now, happened)).collect()
    }
}

fn line(now: u64, happened: &Happened) -> String {
    format!("{:>14.3} us  {happened}", now as f64 / 1000.0)
}

impl Happened {
    /// Whether it says something to who does not know the insides.
    fn is_telling(&self) -> bool {
        !matches!(
            self,
            Self::Drained { .. }
                | Self::Worked { .. }
                | Self::Performed { .. }
                | Self::Slept { .. }
                | Self::Woke { .. }
                | Self::Closing { .. }
                | Self::Committing { saves: 0, .. }
                | Self::Committed { .. }
                | Self::Linked { .. }
                | Self::Governed { .. }
                | Self::Fenced { .. }
                | Self::Saved { .. }
        )
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// FNV-1a: the same number for the same trace on every machine of one width, and no key.
#[derive(Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// One number for all of these bytes.
pub(crate) fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = Fnv::default();
    parts.for_each(|part| hasher.write(part));
    hasher.finish()
}

/// Events that a failing run shows.
const KEPT: usize = 30;
