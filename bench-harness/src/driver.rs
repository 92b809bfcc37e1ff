//! The driver: the object that makes the measured calls, on its own core, and runs the raw baselines between them.

use epicserver::prelude::*;
use epicserver::{CallError, context};

use crate::bench::Bench;
use crate::raw::PAYLOAD;

/// What to measure, and for how long.
#[message]
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) case: Case,
    /// Bytes of the argument: 0, 64, 1024 or 4096.
    pub(crate) payload: u32,
    /// Calls under way at a time.
    pub(crate) outstanding: u32,
    /// How many objects are called, in turn or at random.
    pub(crate) objects: u64,
    /// Cores of the node. The objects live on the last, the driver on the first.
    pub(crate) cores: u16,
    /// Whether threads of a raw ping-pong sleep.
    pub(crate) park: bool,
    /// How often ours and raw take turns at most.
    pub(crate) rounds: u32,
    /// How long all rounds may take, in nanoseconds.
    pub(crate) time_ns: u64,
}

/// Which call is measured.
#[message]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Call,
    CallDurable,
    CallMillion,
    CallDurableMillion,
}

impl Case {
    pub(crate) const ALL: [Self; 4] =
        [Self::Call, Self::CallDurable, Self::CallMillion, Self::CallDurableMillion];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::CallDurable => "call-durable",
            Self::CallMillion => "call-million",
            Self::CallDurableMillion => "call-durable-million",
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
        }
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
    /// Allocations for each call in these batches: the median of the rounds.
    pub(crate) allocations: f64,
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
    /// The core the driver lives on.
    pub(crate) async fn core(&self) -> u16 {
        context::core()
    }

    /// Measures ours and raw, in turns.
    pub(crate) async fn measure(&self, plan: Plan) -> Result<Vec<Measured>, CallError> {
        match plan.payload {
            0 => Bench::<0>::new(plan).run(|still| still.read_0(), |account| account.deposit_0()).await,
            64 => {
                let payload = [PAYLOAD; 64];
                let bench = Bench::<64>::new(plan);
                bench.run(move |o| o.read_64(payload), move |o| o.deposit_64(payload)).await
            }
            1024 => {
                let payload = [PAYLOAD; 1024];
                let bench = Bench::<1024>::new(plan);
                bench.run(move |o| o.read_1024(payload), move |o| o.deposit_1024(payload)).await
            }
            4096 => {
                let payload = [PAYLOAD; 4096];
                let bench = Bench::<4096>::new(plan);
                bench.run(move |o| o.read_4096(payload), move |o| o.deposit_4096(payload)).await
            }
            other => Err(CallError::Unavailable(format!("no method takes {other} bytes"))),
        }
    }
}
