//! The command line.

use std::fmt;

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::driver::Case;

/// Latency suites of Epic Server, each row beside a raw baseline that was measured in the same run
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) suite: Suite,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Suite {
    /// Round trips: calls from entity to entity, closed loop
    #[command(after_long_help = ROWS)]
    Rtt(Rtt),
    /// Name the suites, their cases and baselines
    List,
}

/// The options of the suite `rtt`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Rtt {
    /// What carries calls to other nodes; rows of one node use its cores only, so that this is the name of the row
    #[arg(long, default_value_t = Transport::Loopback)]
    pub(crate) transport: Transport,
    /// Where the called objects live: on the caller's core or on the next one; both unless given
    #[arg(long, value_delimiter = ',')]
    pub(crate) placement: Vec<Placement>,
    /// How threads wait for work: spinning or asleep; both unless given
    #[arg(long, value_delimiter = ',')]
    pub(crate) wait: Vec<WaitMode>,
    /// Bytes of the argument, passed by value
    #[arg(
        long,
        default_value = "64",
        value_parser = PossibleValuesParser::new(["0", "64", "1024", "4096"]).map(|text| text.parse::<u32>().unwrap_or(64))
    )]
    pub(crate) payload: u32,
    /// Calls under way at a time, by as many callers on one core [1 to 64]
    #[arg(long, value_delimiter = ',', default_value = "1,64", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) outstanding: Vec<u32>,
    /// Which calls; all unless given
    #[arg(long, value_delimiter = ',')]
    pub(crate) case: Vec<Case>,
    /// How long a row and the baselines beside it are measured at most
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// How often ours and raw take turns at most, with batches of 0.2 ms; medians are over these
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rounds: u32,
    /// A short look: 9 rounds, and 20,000 objects in the place of a million
    #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
    pub(crate) quick: bool,
    /// One JSON object a line on standard output, and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    /// Fail unless the project's bars hold: same-core call 40 ns, durable 90 ns, cross-core spinning twice the raw baseline.
    /// Only with nothing else running on the machine
    #[arg(long)]
    pub(crate) check: bool,
}

/// What carries calls to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    /// All in one process
    Loopback,
}

/// Where the called objects live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Placement {
    /// On the caller's core
    SameCore,
    /// On another core of the node
    CrossCore,
}

impl Placement {
    /// The cores of the node, which are the threads that take part.
    pub(crate) fn cores(self) -> u16 {
        match self {
            Self::SameCore => 1,
            Self::CrossCore => 2,
        }
    }
}

/// How threads wait for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WaitMode {
    /// They look again and again
    Spin,
    /// They sleep at once
    Park,
}

impl ValueEnum for Case {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.name()).help(self.meaning()))
    }
}

macro_rules! display_as_value {
    ($($name:ty)+) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.to_possible_value().expect("no value is hidden").get_name())
            }
        })+
    };
}
display_as_value!(Transport Placement WaitMode);

impl Rtt {
    /// The options for one case with its baselines.
    pub(crate) fn only(&self, placement: Placement, wait: WaitMode, outstanding: u32, case: Case) -> Self {
        Self {
            placement: vec![placement],
            wait: vec![wait],
            outstanding: vec![outstanding],
            case: vec![case],
            ..self.clone()
        }
    }

    /// The command line that says all this.
    pub(crate) fn command(&self) -> String {
        let Self { transport, payload, seconds, rounds, .. } = self;
        let (placement, wait) = (joined(&or_all(&self.placement)), joined(&or_all(&self.wait)));
        let (outstanding, cases) = (joined(&self.outstanding), or_all(&self.case));
        let case = joined(&cases.iter().map(|case| case.name()).collect::<Vec<_>>());
        let time =
            if self.quick { "--quick".to_owned() } else { format!("--seconds {seconds} --rounds {rounds}") };
        format!(
            "bench-harness rtt --transport {transport} --placement {placement} --wait {wait} --payload {payload} \
             --outstanding {outstanding} --case {case} {time}"
        )
    }
}

fn joined(values: &[impl fmt::Display]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Those that were asked for, or all.
pub(crate) fn or_all<T: ValueEnum>(asked: &[T]) -> Vec<T> {
    if asked.is_empty() { T::value_variants().to_vec() } else { asked.to_vec() }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (SECONDS_MIN..=SECONDS_MAX).contains(&seconds) => Ok(seconds),
        _ => Err(format!("a number from {SECONDS_MIN} to {SECONDS_MAX} is allowed")),
    }
}

const SECONDS_MIN: f64 = 0.001;
const SECONDS_MAX: f64 = 3600.0;

/// What `rtt --help` says of the rows.
const ROWS: &str = "\
`bench-harness list` names the cases (ours) and the baselines (raw). A baseline is measured beside `call`, on the same threads
and in turns with it.

Columns:
  mean_ns       time for each call of an unclocked batch, which is the batch's time by its calls; the median of all batches
  p50_ns ..     of calls that were clocked one by one, the clock's own time (about 10 ns) included
  msgs_per_s    calls per second: one second by mean_ns
  raw           true on a baseline's row, false on ours
  allocations   for each call, on the threads of the cores, in the steady state: the median of the rounds; a run in which
                a same-core row of ours over 1,000 objects, with up to 1024 bytes, has any fails
  n             calls that were timed; a warm-up is not among them
  threads       cores that take part, each a pinned thread
  objects       objects called

All of it is a closed loop: a caller makes its next call when the last one was answered.";
