//! The driver: the object that makes the measured calls, on its own core, and runs the raw baselines between them.

use epicserver::prelude::*;
use epicserver::{CallError, context};

use crate::bench::Bench;
use crate::callees::Still;
use crate::options::{PAYLOADS, Placement, Transport};
use crate::raw::PAYLOAD;

/// What to measure, and for how long.
#[message]
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) case: Case,
    /// Bytes of the argument: one of [`PAYLOADS`].
    pub(crate) payload: u32,
    /// Bytes that a raw frame has more.
    pub(crate) raw_extra: u32,
    /// Calls under way at a time.
    pub(crate) outstanding: u32,
    /// How many objects are called, in turn or at random.
    pub(crate) objects: u64,
    /// Where these live.
    pub(crate) placement: Placement,
    /// What carries the calls there.
    pub(crate) transport: Transport,
    /// Whether threads of a raw baseline sleep.
    pub(crate) park: bool,
    /// How often ours and raw take turns at most.
    pub(crate) rounds: u32,
    /// How long all rounds may take, in nanoseconds.
    pub(crate) time_ns: u64,
    /// How long one batch of calls is to take, in nanoseconds.
    pub(crate) batch_ns: u64,
}

/// The thread that an object lives on.
#[message]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) process: u32,
    pub(crate) core: u16,
}

impl Place {
    /// That of the object that runs.
    pub(crate) fn here() -> Self {
        Self { process: std::process::id(), core: context::core() }
    }

    /// Whether an object there has this placement for a caller here, who lives on the first core.
    pub(crate) fn is(self, placement: Placement) -> bool {
        let ours = self.process == std::process::id();
        match placement {
            Placement::SameCore => ours && self.core == 0,
            Placement::CrossCore => ours && self.core == 1,
            Placement::CrossProcess => !ours,
        }
    }
}

/// Which call is measured.
#[message]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Call,
    CallDurable,
    CallMillion,
    CallDurableMillion,
    Echo,
    EchoVec,
}

impl Case {
    pub(crate) const ALL: [Self; 6] = [
        Self::Call,
        Self::CallDurable,
        Self::CallMillion,
        Self::CallDurableMillion,
        Self::Echo,
        Self::EchoVec,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::CallDurable => "call-durable",
            Self::CallMillion => "call-million",
            Self::CallDurableMillion => "call-durable-million",
            Self::Echo => "echo",
            Self::EchoVec => "echo-vec",
        }
    }

    /// What is called, in a few words.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Call => "a shared method that changes nothing, on 1,000 objects in turn",
            Self::CallDurable => {
                "an exclusive method that changes a durable object of 64 bytes, on 1,000 in turn"
            }
            Self::CallMillion => "as call, on 1,000,000 objects at random (same-core only)",
            Self::CallDurableMillion => "as call-durable, on 1,000,000 objects at random (same-core only)",
            Self::Echo => {
                "a shared method that gives its argument back, on 1,000 objects in turn (cross-process only)"
            }
            Self::EchoVec => "as echo, of a Vec<u8> that is made for each call (only if asked for)",
        }
    }

    /// Whether objects in this placement are called so.
    pub(crate) fn has(self, placement: Placement) -> bool {
        match self {
            Self::Call | Self::CallDurable => placement != Placement::CrossProcess,
            Self::CallMillion | Self::CallDurableMillion => placement == Placement::SameCore,
            Self::Echo | Self::EchoVec => placement == Placement::CrossProcess,
        }
    }

    /// Whether it is measured only if asked for.
    pub(crate) fn is_extra(self) -> bool {
        self == Self::EchoVec
    }

    /// Whether the objects are more than the caches hold, and called at random.
    pub(crate) fn is_million(self) -> bool {
        matches!(self, Self::CallMillion | Self::CallDurableMillion)
    }
}

/// What was measured of one case, or of one baseline.
#[message]
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) case: String,
    pub(crate) raw: bool,
    /// All calls that were timed, one by one or in batches.
    pub(crate) calls: u64,
    /// Time for each call in the unclocked batches: the median of the rounds.
    pub(crate) mean_ns: f64,
    /// Allocations for each call in these batches: the median of the rounds. `None`: they were not counted.
    pub(crate) allocations: Option<f64>,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
}

/// See the module's documentation.
#[entity(name = "bench.Driver", save = never)]
#[derive(Default)]
pub(crate) struct Driver {}

#[methods]
impl Driver {
    /// Where the driver lives.
    pub(crate) async fn place(&self) -> Place {
        Place::here()
    }

    /// Measures ours and raw, in turns.
    pub(crate) async fn measure(&self, plan: Plan) -> Result<Vec<Measured>, CallError> {
        match plan.payload {
            0 => {
                let bench = Bench::<0>::new(plan);
                bench.run(|o| o.read_0(), |o| o.deposit_0(), |o| o.echo_0()).await
            }
            64 => {
                let (bench, payload) = (Bench::<64>::new(plan), [PAYLOAD; 64]);
                let echo = move |o: &Ref<Still>| o.echo_64(payload);
                bench.run(move |o| o.read_64(payload), move |o| o.deposit_64(payload), echo).await
            }
            1024 => {
                let (bench, payload) = (Bench::<1024>::new(plan), [PAYLOAD; 1024]);
                let echo = move |o: &Ref<Still>| o.echo_1024(payload);
                bench.run(move |o| o.read_1024(payload), move |o| o.deposit_1024(payload), echo).await
            }
            4096 => Bench::<4096>::new(plan).run_of_bytes(4096).await,
            // Longer ones have no baseline within a process.
            len if PAYLOADS.contains(&len) => Bench::<0>::new(plan).run_of_bytes(len).await,
            other => Err(CallError::Unavailable(format!("no method takes {other} bytes"))),
        }
    }
}

impl<const N: usize> Bench<N> {
    /// With a payload that is no array; see `callees.rs`.
    async fn run_of_bytes(&self, len: u32) -> Result<Vec<Measured>, CallError> {
        let bytes = move || Bytes::from_static(&BYTES[..len as usize]);
        let echo = move |o: &Ref<Still>| o.echo_bytes(bytes());
        self.run(move |o| o.read_bytes(bytes()), move |o| o.deposit_bytes(bytes()), echo).await
    }
}

/// The longest payload, of which shorter ones are the beginning.
static BYTES: [u8; PAYLOADS[PAYLOADS.len() - 1] as usize] = [PAYLOAD; PAYLOADS[PAYLOADS.len() - 1] as usize];
