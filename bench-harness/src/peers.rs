//! The suite of peers: what a transport over InfiniBand verbs takes for each link, in memory and in time.
//!
//! ```text
//!   links   frames go back and forth between one transport and others, over the next of its links each time
//!   raw     packets of the same length between two bare queue pairs
//! ```
//! Both run in turns, in one thread that drives both ends, so that nothing is measured but the work that a frame makes. No runtime is
//! in it. Memory is what the system counts as pinned for the device. Start at [`run`].

use clap::Args;

use crate::suite::Failure;

/// The options of the suite.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How many peers; a row for each
    #[arg(long, value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u32).range(1..=64))]
    peers: Vec<u32>,
    /// Bytes of the payload of a frame, a multiple of 16
    #[arg(long, default_value_t = 64, value_parser = payload)]
    payload: usize,
    /// How often ours and raw take turns; medians are over these
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
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

fn payload(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(len) if len.is_multiple_of(16) && len <= PAYLOAD_MAX => Ok(len),
        _ => Err(format!("a multiple of 16 up to {PAYLOAD_MAX} is allowed")),
    }
}

/// What fits a frame with its header.
const PAYLOAD_MAX: usize = 8128;

#[cfg(feature = "rdma")]
mod with_verbs {
    use std::fs;
    use std::io;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use epicserver_transport_rdma::raw::Raw;
    use epicserver_transport_rdma::star::Star;
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
        peers: u32,
        payload: usize,
        /// Pinned for the device by a transport without links, in bytes.
        pinned: u64,
        /// Pinned at this end for each link, in bytes.
        pinned_per_peer: u64,
        /// A frame there and one back, the median of the rounds.
        round_trip_ns: f64,
        /// The same over bare verbs.
        raw_ns: f64,
        /// Round trips of each.
        n: u64,
        command: String,
    }

    /// Measures what was asked for and prints it.
    pub(crate) fn run(options: &Options) -> Result<(), Failure> {
        let not_ready_before = receivers_not_ready();
        if !options.json {
            println!("peers  payload  pinned_kib  pinned_per_peer_kib  round_trip_ns     raw_ns  ratio");
        }
        for &peers in &options.peers {
            let row = measure(options, peers)?;
            if options.json {
                println!("{}", serde_json::to_string(&row)?);
                continue;
            }
            let Row { payload, pinned, pinned_per_peer, round_trip_ns, raw_ns, .. } = row;
            let (pinned, each, ratio) = (pinned >> 10, pinned_per_peer >> 10, round_trip_ns / raw_ns);
            println!(
                "{peers:>5}  {payload:>7}  {pinned:>10}  {each:>19}  {round_trip_ns:>13.0}  {raw_ns:>9.0}  {ratio:>5.2}"
            );
        }
        all_found_receives_since(not_ready_before)
    }

    fn measure(options: &Options, peers: u32) -> Result<Row, Failure> {
        let Options { payload, quick, .. } = *options;
        let rounds = if quick { QUICK_ROUNDS } else { options.rounds };
        let start = now();
        let clock = || start.elapsed().as_nanos() as u64;
        let before = pinned()?;
        let mut star = Star::begin(peers as usize)?;
        let of_transport = pinned()? - before;
        star.make_ends(peers as usize)?;
        let unlinked = pinned()?;
        star.link(clock)?;
        // Both ends of each link are in this process.
        let of_link = (pinned()? - unlinked) / (2 * u64::from(peers));
        let mut raw = Pair::begin(payload + HEADER_LEN)?;
        // As many over each link.
        let trips = TRIPS_PER_BATCH_MIN.div_ceil(peers) * peers;
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let ours_ns = per_trip(trips, || star.round_trip(payload, clock()))?;
            let bare_ns = per_trip(trips, || raw.round_trip())?;
            // The first is a warm-up.
            if round > 0 {
                ours.push(ours_ns);
                bare.push(bare_ns);
            }
        }
        Ok(Row {
            suite: "peers",
            transport: "rdma",
            path: "intra-kernel",
            emulated: processors::are_emulated(),
            peers,
            payload,
            pinned: of_transport,
            pinned_per_peer: of_link,
            round_trip_ns: median(&mut ours),
            raw_ns: median(&mut bare),
            n: u64::from(rounds) * u64::from(trips),
            command: format!("bench-harness peers --peers {peers} --payload {payload} --rounds {rounds}"),
        })
    }

    fn per_trip(trips: u32, mut trip: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
        let start: Instant = now();
        for _ in 0..trips {
            trip()?;
        }
        Ok(start.elapsed().as_nanos() as f64 / f64::from(trips))
    }

    fn median(values: &mut [f64]) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    /// Two bare ends in one thread.
    struct Pair([Raw; 2]);

    impl Pair {
        fn begin(len: usize) -> io::Result<Self> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let one = TcpStream::connect(listener.local_addr()?)?;
            let (other, _) = listener.accept()?;
            let (first, second) = (Raw::begin(&one, len, 1)?, Raw::begin(&other, len, 1)?);
            Ok(Self([first.finish(&one)?, second.finish(&other)?]))
        }

        fn round_trip(&mut self) -> io::Result<()> {
            let [one, other] = &mut self.0;
            carry(one, other)?;
            carry(other, one)
        }
    }

    fn carry(from: &mut Raw, to: &mut Raw) -> io::Result<()> {
        from.send(1)?;
        for _ in 0..LOOKS_MAX {
            if to.receive(false, Duration::ZERO)? > 0 {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Memory of this process that is pinned for devices, in bytes.
    fn pinned() -> Result<u64, Failure> {
        let status = fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmPin:"));
        let kib = line
            .and_then(|rest| rest.trim().strip_suffix("kB"))
            .ok_or("the system counts no pinned memory")?;
        Ok(kib.trim().parse::<u64>()? << 10)
    }

    const HEADER_LEN: usize = 32;
    const QUICK_ROUNDS: u32 = 9;
    const TRIPS_PER_BATCH_MIN: u32 = 64;
    const LOOKS_MAX: u32 = 1 << 27;
}
