//! The suite of bulk: how fast long messages go over InfiniBand verbs, where the peer reads them from our memory.
//!
//! ```text
//!   ours     messages from one transport to another, in long frames: shown, offered, read, taken
//!   copied   the same, and their bytes are copied into the frames and out of them, as a session does it
//!   raw      reads of as many bytes at a time between two bare queue pairs, two under way
//! ```
//! Both run in turns, in one thread that drives both ends. No runtime is in it. Start at [`run`].

use clap::Args;

use crate::suite::Failure;

/// The options of the suite.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Bytes of a message; a row for each
    #[arg(long, value_delimiter = ',', default_value = "131072,1048576,16777216", value_parser = clap::value_parser!(u32).range(LEN_MIN..=LEN_MAX))]
    length: Vec<u32>,
    /// How often ours and raw take turns; medians are over these
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
    /// A short look: 9 rounds
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// One JSON object a line on standard output, and nothing else
    #[arg(long)]
    json: bool,
}

/// Measures and prints it.
#[cfg(not(feature = "rdma"))]
pub(crate) fn run(_: &Options) -> Result<(), Failure> {
    Err("build bench-harness with the feature `rdma`".into())
}

#[cfg(feature = "rdma")]
pub(crate) use with_verbs::run;

/// Shorter messages are not read.
const LEN_MIN: i64 = (64 << 10) + 1;
/// As long as a message may be.
const LEN_MAX: i64 = 16 << 20;

#[cfg(feature = "rdma")]
mod with_verbs {
    use std::io;

    use epicserver_transport_rdma::raw::Reads;
    use epicserver_transport_rdma::star::{Cargo, Star};
    use serde::Serialize;

    use super::{Failure, Options};
    use crate::device_counters::{all_found_receives_since, receivers_not_ready};
    use crate::processors;
    use crate::ticks::now;

    /// One row. The names are those of the JSON keys.
    #[derive(Debug, Serialize)]
    struct Row {
        suite: &'static str,
        transport: &'static str,
        path: &'static str,
        emulated: bool,
        length: u32,
        /// Bytes in a second, the median of the rounds.
        bytes_per_s: f64,
        /// The same with the copies.
        copied_bytes_per_s: f64,
        /// The same by bare reads.
        raw_bytes_per_s: f64,
        /// Ours to raw in the same round, the median.
        ratio: f64,
        /// The same with the copies.
        copied_ratio: f64,
        /// Messages of each.
        n: u64,
        command: String,
    }

    /// Measures what was asked for and prints it.
    pub(crate) fn run(options: &Options) -> Result<(), Failure> {
        let not_ready_before = receivers_not_ready();
        if !options.json {
            println!("  length  mib_per_s  copied_mib_per_s  raw_mib_per_s  ratio  copied_ratio");
        }
        for &length in &options.length {
            let row = measure(options, length)?;
            if options.json {
                println!("{}", serde_json::to_string(&row)?);
                continue;
            }
            let Row { bytes_per_s, copied_bytes_per_s, raw_bytes_per_s, ratio, copied_ratio, .. } = row;
            let mib = |bytes: f64| bytes / f64::from(1 << 20);
            let (ours, copied, raw) = (mib(bytes_per_s), mib(copied_bytes_per_s), mib(raw_bytes_per_s));
            println!(
                "{length:>8}  {ours:>9.1}  {copied:>16.1}  {raw:>13.1}  {ratio:>5.2}  {copied_ratio:>12.2}"
            );
        }
        all_found_receives_since(not_ready_before)
    }

    fn measure(options: &Options, length: u32) -> Result<Row, Failure> {
        let rounds = if options.quick { QUICK_ROUNDS } else { options.rounds };
        let start = now();
        let clock = || start.elapsed().as_nanos() as u64;
        let mut star = Star::begin(1)?;
        star.make_ends(1)?;
        star.link(clock)?;
        let len = length as usize;
        let [mut cargo, mut copied_cargo] = [false, true].map(|copies| Cargo::new(len, copies));
        let mut raw = Reads::begin(len, READS)?;
        let count = (BATCH_LEN_MIN / len).max(2);
        let [mut ours, mut copied, mut bare, mut ratios, mut copied_ratios] = [const { Vec::new() }; 5];
        for round in 0..=rounds {
            let batch = (count * len) as f64;
            let ours_per_s = batch / seconds(|| star.haul(&mut cargo, count, clock))?;
            let bare_per_s = batch / seconds(|| raw.read(count))?;
            let copied_per_s = batch / seconds(|| star.haul(&mut copied_cargo, count, clock))?;
            // The first is a warm-up.
            if round > 0 {
                ours.push(ours_per_s);
                copied.push(copied_per_s);
                bare.push(bare_per_s);
                ratios.push(ours_per_s / bare_per_s);
                copied_ratios.push(copied_per_s / bare_per_s);
            }
        }
        if !copied_cargo.has_arrived() {
            return Err("another message arrived than was sent".into());
        }
        Ok(Row {
            suite: "bulk",
            transport: "rdma",
            path: "intra-kernel",
            emulated: processors::are_emulated(),
            length,
            bytes_per_s: median(&mut ours),
            copied_bytes_per_s: median(&mut copied),
            raw_bytes_per_s: median(&mut bare),
            ratio: median(&mut ratios),
            copied_ratio: median(&mut copied_ratios),
            n: u64::from(rounds) * count as u64,
            command: format!("bench-harness bulk --length {length} --rounds {rounds}"),
        })
    }

    fn seconds(run: impl FnOnce() -> io::Result<()>) -> io::Result<f64> {
        let start = now();
        run()?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn median(values: &mut [f64]) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    const READS: usize = 2;
    const QUICK_ROUNDS: u32 = 9;
    const BATCH_LEN_MIN: usize = 4 << 20;
}
