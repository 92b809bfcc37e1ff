//! The command line.

use std::fmt;

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use epicserver::settings::TransportKind;
use epicserver::{TransportThreads, Wait, message};
use serde::Serialize;

use crate::driver::Case;
use crate::pair::Serve;
use crate::raw::{PAYLOAD_MAX, WORDS_MAX};
use crate::row::Setting;
use crate::save::processes::CallStored;

/// Latency suites of Epic Server, each row beside a raw baseline that was measured in the same run
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Round trips: calls from entity to entity, closed loop, in batches of 0.2 ms
    #[command(after_long_help = ROWS)]
    Rtt(Options),
    /// Calls per second: as rtt with many calls under way, in batches of 20 ms
    #[command(after_long_help = ROWS)]
    Throughput(Options),
    /// Calls that change what is saved, with a data directory: durable, behind, never, and activations of what is stored
    #[command(after_long_help = crate::save::ROWS)]
    Save(crate::save::Options),
    /// Partitions that move to another process and back under load: how long their calls wait
    #[command(after_long_help = crate::moves::ROWS)]
    Move(crate::moves::Options),
    /// What a transport over InfiniBand verbs takes for each peer: pinned memory, and the round trip of a frame beside bare verbs; in
    /// builds with the feature `rdma`
    Peers(crate::peers::Options),
    /// How fast long messages go over InfiniBand verbs, beside bare reads; in builds with the feature `rdma`
    Bulk(crate::bulk::Options),
    /// Name the suites, their cases and baselines
    List,
    /// The called process of a measurement; the calling one starts it
    #[command(hide = true)]
    Serve(Serve),
    /// A calling process of the suite of saving; the measuring one starts it
    #[command(hide = true)]
    CallStored(CallStored),
    /// A process that objects live in, of the suite of moves; the measuring one starts it
    #[command(hide = true)]
    ServeHomes(crate::moves::ServeHomes),
}

/// The suites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Suite {
    /// What one call takes.
    Rtt,
    /// How many calls are answered in a second.
    Throughput,
    /// What saving takes.
    Save,
    /// How long calls wait for moves.
    Move,
}

impl Suite {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rtt => "rtt",
            Self::Throughput => "throughput",
            Self::Save => "save",
            Self::Move => "move",
        }
    }

    fn outstanding(self) -> Vec<u32> {
        match self {
            Self::Rtt | Self::Save | Self::Move => vec![1, 64],
            Self::Throughput => vec![64, 256],
        }
    }
}

/// The options of a suite.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// What carries the calls: nothing, in one process, or what joins two processes on this machine. Rows over tipc and rdma
    /// have those over tcp beside them
    #[arg(long, default_value_t = Transport::Loopback)]
    pub(crate) transport: Transport,
    /// Where the called objects live; all that the transport reaches unless given. Loopback: same-core, cross-core; others:
    /// cross-process
    #[arg(long, value_delimiter = ',')]
    placement: Vec<Placement>,
    /// How threads wait for work: spinning or asleep; both unless given
    #[arg(long, value_delimiter = ',')]
    wait: Vec<WaitMode>,
    /// Who drives the transport between processes, in both of them [default: auto]
    #[arg(long, value_delimiter = ',')]
    threads: Vec<Threads>,
    /// Bytes of the argument, and of what echo gives back: an array by value, from 4096 on `Bytes`; more than
    /// that between processes only
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "64",
        value_parser = PossibleValuesParser::new(["0", "64", "1024", "4096", "65536", "1048576"]).map(|text| text.parse::<u32>().unwrap_or(64))
    )]
    pub(crate) payload: Vec<u32>,
    /// Calls under way at a time, by as many callers on one core [1 to 256; default: rtt 1,64; throughput 64,256]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=WORDS_MAX as i64))]
    outstanding: Vec<u32>,
    /// Bytes that each frame of a raw baseline has more than the argument: ours has about 96 more, so that its 4096 take two packets of
    /// verbs where the bytes alone take one
    #[arg(long, value_name = "BYTES", default_value_t = 0, conflicts_with = "check", value_parser = clap::value_parser!(u32).range(0..=4096))]
    pub(crate) raw_extra: u32,
    /// Which calls; all that the placement has unless given
    #[arg(long, value_delimiter = ',')]
    case: Vec<Case>,
    /// How long a row and the baselines beside it are measured at most
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// How often ours and raw take turns at most; medians are over these
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rounds: u32,
    /// A short look: 9 rounds, 20,000 objects in the place of a million, and 50 in another process
    #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
    pub(crate) quick: bool,
    /// One JSON object a line on standard output, and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    /// Fail unless the project's bars hold: same-core call 40 ns, durable 90 ns, cross-core spinning twice the raw baseline;
    /// over TCP inline 1.15 times raw and dedicated asleep 1.35 times, with 256 under way 2.5 million calls a second spinning and
    /// 1.5 million asleep; over TIPC 1.15 times raw, and 1.25 times with 256 under way. Only with nothing else running on the machine
    #[arg(long)]
    pub(crate) check: bool,
}

/// What carries the calls.
#[message]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    /// All in one process
    Loopback,
    /// Two processes on this machine, TCP
    Tcp,
    /// Two processes on this machine, Linux TIPC
    Tipc,
    /// Two processes on this machine, InfiniBand verbs; in builds with the feature `rdma`
    Rdma,
}

impl Transport {
    /// What a node's settings call it.
    pub(crate) fn kind(self) -> TransportKind {
        match self {
            Self::Loopback | Self::Tcp => TransportKind::Tcp,
            Self::Tipc => TransportKind::Tipc,
            Self::Rdma => TransportKind::Rdma,
        }
    }

    /// What is measured for its rows: itself, and what it is compared with.
    pub(crate) fn measured(self) -> &'static [Self] {
        match self {
            Self::Loopback => &[Self::Loopback],
            Self::Tcp => &[Self::Tcp],
            Self::Tipc => &[Self::Tipc, Self::Tcp],
            Self::Rdma => &[Self::Rdma, Self::Tcp],
        }
    }

    fn reaches(self, placement: Placement) -> bool {
        (self == Self::Loopback) != (placement == Placement::CrossProcess)
    }
}

/// Where the called objects live.
#[message]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Placement {
    /// On the caller's core
    SameCore,
    /// On another core of the node
    CrossCore,
    /// In another process
    CrossProcess,
}

impl Placement {
    /// The cores of a node.
    pub(crate) fn cores(self) -> u16 {
        match self {
            Self::SameCore | Self::CrossProcess => 1,
            Self::CrossCore => 2,
        }
    }
}

/// Who drives the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Threads {
    /// The core, between its turns
    Inline,
    /// A thread of its own
    Dedicated,
    /// What the node chooses for the processors that it has
    Auto,
}

impl From<Threads> for TransportThreads {
    fn from(threads: Threads) -> Self {
        match threads {
            Threads::Inline => Self::Inline,
            Threads::Dedicated => Self::Dedicated,
            Threads::Auto => Self::Auto,
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

impl From<WaitMode> for Wait {
    fn from(wait: WaitMode) -> Self {
        match wait {
            WaitMode::Spin => Self::Spin,
            WaitMode::Park => Self::Park,
        }
    }
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
display_as_value!(Transport Placement WaitMode Threads);

impl Options {
    /// Refuses what cannot be measured.
    pub(crate) fn check(&self) -> Result<(), String> {
        let transport = self.transport;
        if let Some(placement) = self.placement.iter().find(|placement| !transport.reaches(**placement)) {
            let its = joined(&placements(transport));
            return Err(format!(
                "--placement {placement} is not reached over {transport}: use {its}, or another --transport"
            ));
        }
        if transport == Transport::Loopback && !self.threads.is_empty() {
            return Err("--threads needs a transport to drive: use --transport tcp".to_owned());
        }
        if transport == Transport::Loopback && self.raw_extra > 0 {
            return Err("--raw-extra is of frames, and over loopback the baselines have none".to_owned());
        }
        let longest = self.payload.iter().copied().max().unwrap_or_default();
        if transport == Transport::Loopback && longest as usize > PAYLOAD_MAX {
            return Err(format!(
                "--payload {longest} is measured between processes: use --transport tcp, or {PAYLOAD_MAX} bytes at most"
            ));
        }
        let placements = self.placements();
        let impossible = |case: &&Case| !placements.iter().any(|placement| case.has(*placement));
        if let Some(case) = self.case.iter().find(impossible) {
            let name = case.name();
            let there =
                joined(&names(&placements.iter().flat_map(|one| all_cases(*one)).collect::<Vec<_>>()));
            return Err(format!("--case {name} is not measured {}: use {there}", joined(&placements)));
        }
        Ok(())
    }

    /// Where objects are called.
    pub(crate) fn placements(&self) -> Vec<Placement> {
        if self.placement.is_empty() { placements(self.transport) } else { self.placement.clone() }
    }

    /// How threads wait.
    pub(crate) fn waits(&self) -> Vec<WaitMode> {
        if self.wait.is_empty() { WaitMode::value_variants().to_vec() } else { self.wait.clone() }
    }

    /// Who drives the transport.
    pub(crate) fn threads(&self) -> Vec<Threads> {
        if self.threads.is_empty() { vec![Threads::Auto] } else { self.threads.clone() }
    }

    /// Calls under way at a time.
    pub(crate) fn outstanding(&self, suite: Suite) -> Vec<u32> {
        if self.outstanding.is_empty() { suite.outstanding() } else { self.outstanding.clone() }
    }

    /// The cases that were asked for, of those that a placement has.
    pub(crate) fn cases(&self, placement: Placement) -> Vec<Case> {
        let is_asked = |case: &Case| match self.case.is_empty() {
            true => !case.is_extra(),
            false => self.case.contains(case),
        };
        all_cases(placement).into_iter().filter(is_asked).collect()
    }

    /// The command line that says all this.
    pub(crate) fn command(&self, suite: Suite) -> String {
        let placements = self.placements();
        let mut cases: Vec<Case> = placements.iter().flat_map(|placement| self.cases(*placement)).collect();
        cases.dedup();
        let cases = Case::ALL.into_iter().filter(|case| cases.contains(case)).collect::<Vec<_>>();
        let threads = match self.transport {
            Transport::Loopback => String::new(),
            Transport::Tcp | Transport::Tipc | Transport::Rdma => {
                format!(" --threads {}", joined(&self.threads()))
            }
        };
        let raw_extra = match self.raw_extra {
            0 => String::new(),
            extra => format!(" --raw-extra {extra}"),
        };
        let time = if self.quick {
            "--quick".to_owned()
        } else {
            format!("--seconds {} --rounds {}", self.seconds, self.rounds)
        };
        format!(
            "bench-harness {} --transport {} --placement {} --wait {}{threads} --payload {} --outstanding {}{raw_extra} --case {} {time}",
            suite.name(),
            self.transport,
            joined(&placements),
            joined(&self.waits()),
            joined(&self.payload),
            joined(&self.outstanding(suite)),
            joined(&names(&cases)),
        )
    }

    /// The options for one row with its baselines.
    pub(crate) fn only(&self, setting: &Setting, case: Case) -> Self {
        Self {
            transport: setting.transport,
            placement: vec![setting.placement],
            wait: vec![setting.wait],
            threads: setting.threads.into_iter().collect(),
            payload: vec![setting.payload],
            outstanding: vec![setting.outstanding],
            case: vec![case],
            ..self.clone()
        }
    }
}

fn placements(transport: Transport) -> Vec<Placement> {
    let all = Placement::value_variants().iter().copied();
    all.filter(|placement| transport.reaches(*placement)).collect()
}

fn all_cases(placement: Placement) -> Vec<Case> {
    Case::ALL.into_iter().filter(|case| case.has(placement)).collect()
}

fn names(cases: &[Case]) -> Vec<&'static str> {
    cases.iter().map(|case| case.name()).collect()
}

fn joined(values: &[impl fmt::Display]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (SECONDS_MIN..=SECONDS_MAX).contains(&seconds) => Ok(seconds),
        _ => Err(format!("a number from {SECONDS_MIN} to {SECONDS_MAX} is allowed")),
    }
}

/// Bytes that an argument may have, in order.
pub(crate) const PAYLOADS: [u32; 6] = [0, 64, 1024, 4096, 64 << 10, 1 << 20];
const SECONDS_MIN: f64 = 0.001;
const SECONDS_MAX: f64 = 3600.0;

/// What `--help` says of the rows.
const ROWS: &str = "\
`bench-harness list` names the cases (ours) and the baselines (raw). A baseline is measured beside `call` or `echo`, on the same
threads and in turns with it.

Between processes this program starts itself once more and stops it at the end. Each of the two has a node with one core, and
half of the processors to itself; `auto` then means `inline` unless there are four.

Columns:
  mean_ns       time for each call of an unclocked batch, which is the batch's time by its calls; the median of all batches
  p50_ns ..     of calls that were clocked one by one, the clock's own time (about 10 ns) included
  msgs_per_s    calls per second: one second by mean_ns
  raw           true on a baseline's row, false on ours
  allocations   for each call, on the threads of the cores, in the steady state: the median of the rounds; a run in which
                a same-core row of ours over 1,000 objects, with up to 1024 bytes, has any fails; null where they are not counted
  n             calls that were timed; a warm-up is not among them
  path          in-process, or intra-kernel where the processes share a machine: no wire is crossed
  emulated      true where the processor is emulated; only ratios between rows mean anything then
  threads       in one process the cores that take part, each a pinned thread; between processes who drives the transport
  objects       objects called

All of it is a closed loop: a caller makes its next call when the last one was answered.";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        let words = ["bench-harness", "rtt"].into_iter().chain(line.split_whitespace());
        match CommandLine::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Rtt(options) => options.check().map(|()| options),
            _ => Err("another command".to_owned()),
        }
    }

    #[track_caller]
    fn check(line: &str, expected: &str) {
        let command = parsed(line).expect("it can be measured").command(Suite::Rtt);
        assert_eq!(command, format!("bench-harness rtt {expected} --seconds 2 --rounds 2000"));
    }

    #[track_caller]
    fn check_refused(line: &str, named: &[&str]) {
        let error = parsed(line).expect_err("it cannot be measured");
        for name in named {
            assert!(error.contains(name), "{name} is not in: {error}");
        }
    }

    #[test]
    fn what_is_left_out_is_all_that_can_be_measured() {
        check(
            "",
            "--transport loopback --placement same-core,cross-core --wait spin,park --payload 64 --outstanding 1,64 \
             --case call,call-durable,call-million,call-durable-million",
        );
        check(
            "--transport tcp",
            "--transport tcp --placement cross-process --wait spin,park --threads auto --payload 64 --outstanding 1,64 \
             --case echo",
        );
        assert_eq!(parsed("").expect("as above").outstanding(Suite::Throughput), [64, 256]);
        let all = joined(&PAYLOADS);
        assert_eq!(
            parsed(&format!("--transport tcp --payload {all}")).expect("each can be").payload,
            PAYLOADS
        );
    }

    #[test]
    fn lists_are_taken_as_they_are_given() {
        let line = "--transport tcp --placement cross-process --wait park,spin --threads dedicated,inline \
                    --payload 4096,64 --outstanding 256,1 --case echo";
        check(line, line);
    }

    #[test]
    fn what_cannot_be_measured_is_refused_with_what_can() {
        check_refused("--transport tcp --placement same-core", &["same-core", "tcp", "cross-process"]);
        check_refused(
            "--placement cross-process",
            &["cross-process", "loopback", "cross-core", "--transport"],
        );
        check_refused("--threads inline", &["--threads", "--transport tcp"]);
        check_refused("--transport tcp --case call", &["--case call", "echo"]);
        check_refused(
            "--placement cross-core --case call-million",
            &["call-million", "cross-core", "call-durable"],
        );
        check_refused("--transport tcp --threads many", &["many", "inline", "dedicated", "auto"]);
        check_refused("--outstanding 257", &["257", "1..=256"]);
        check_refused("--payload 65536", &["65536", "--transport tcp", "4096"]);
    }
}
