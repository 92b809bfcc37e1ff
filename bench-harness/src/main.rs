//! Latency suites of Epic Server: what a call costs beside what the machine itself would take for it.
//!
//! ```text
//!   bench-harness rtt --transport loopback --placement same-core --payload 64 --json
//!   bench-harness throughput --transport tcp --placement cross-process --outstanding 256
//!   bench-harness save --json
//!   bench-harness move --json
//!   bench-harness peers --json
//!   bench-harness bulk --json
//!   bench-harness list
//! ```
//! The figures are ratios: ours and a raw baseline are measured in turns, in one run and on the same threads, and medians are
//! taken, so that they hold on a noisy machine. Everything that is timed runs inside entity code: the driver is an object
//! that calls other objects. `bench-harness rtt --help` tells what each row and column means.
//!
//! Not here: load tests in open loop, and limits that a test would hold times against; `--check` is for people.
//! Start at `suite.rs` (which rows), then `bench.rs` (the rounds of one) and `lanes.rs` (the loop that is timed); `pair.rs` has the
//! two processes, `save.rs` the suite of saving, `moves.rs` that of moves, `peers.rs` that of links over verbs, and `bulk.rs`
//! that of long messages over them.

#[expect(unsafe_code, reason = "an allocator that counts")]
mod allocations;
mod bench;
mod bulk;
mod callees;
mod child;
mod device_counters;
mod driver;
mod folder;
mod lanes;
mod moves;
mod options;
mod pair;
mod peers;
mod processors;
mod raw;
mod raw_line;
mod raw_rdma;
mod raw_tcp;
mod raw_tipc;
mod row;
mod save;
mod suite;
mod ticks;

use std::process::ExitCode;

use clap::Parser;

use self::driver::Case;
use self::options::{Command, CommandLine, Options, Suite};
use self::suite::Failure;

fn main() -> ExitCode {
    let outcome = match CommandLine::parse().command {
        Command::Rtt(options) => run(Suite::Rtt, &options),
        Command::Throughput(options) => run(Suite::Throughput, &options),
        Command::Save(options) => save_suite(&options),
        Command::Move(options) => move_suite(&options),
        Command::Peers(options) => peers::run(&options),
        Command::Bulk(options) => bulk::run(&options),
        Command::ServeHomes(options) => moves::serve_homes(&options),
        Command::Serve(options) => pair::serve(options),
        Command::CallStored(options) => call_stored(&options),
        Command::List => {
            list();
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(suite: Suite, options: &Options) -> Result<(), Failure> {
    options.check()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(suite::run(suite, options))
}

fn save_suite(options: &save::Options) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(save::run(options))
}

fn move_suite(options: &moves::Options) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(moves::run(options))
}

fn call_stored(options: &save::processes::CallStored) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(save::processes::call_stored(options))
}

fn list() {
    println!("rtt: round trips between entities (bench-harness rtt --help)");
    println!("throughput: calls per second between entities (bench-harness throughput --help)");
    println!("save: calls that change what is saved (bench-harness save --help)");
    println!("move: calls of partitions that move between processes (bench-harness move --help)");
    println!(
        "peers: memory and round trips of a transport over verbs with many links (bench-harness peers --help)"
    );
    println!("bulk: long messages over verbs beside bare reads (bench-harness bulk --help)");
    for case in Case::ALL {
        println!("  {:<22}{}", case.name(), case.meaning());
    }
    for (name, meaning) in bench::BASELINES {
        println!("  {name:<22}{meaning}");
    }
}
