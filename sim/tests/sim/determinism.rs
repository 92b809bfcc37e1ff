//! Same seed, same trace: in one process, whatever ran before, and in another process.

use std::process::Command;

use epicserver_sim::world::{self, WorldConfig};

fn trace_hash(seed: u64) -> (u64, u64) {
    let report = world::run(WorldConfig { seed, ..WorldConfig::default() });
    (report.trace_hash, report.events)
}

#[test]
fn a_seed_gives_the_same_trace_whatever_ran_before() {
    let seeds = 1..=60;
    let first: Vec<_> = seeds.clone().map(trace_hash).collect();
    // In another order, with other worlds in between.
    let mut second: Vec<_> = seeds
        .rev()
        .map(|seed| {
            trace_hash(seed + 10_000);
            trace_hash(seed)
        })
        .collect();
    second.reverse();
    assert_eq!(first, second);
}

#[test]
fn seeds_differ() {
    let mut hashes: Vec<_> = (1..=30).map(trace_hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 30);
}

#[test]
fn a_seed_gives_the_same_trace_in_another_process() {
    for seed in [1, 2, 3, 17] {
        let output = Command::new(env!("CARGO_BIN_EXE_epicserver-sim"))
            .args(["--seed", &seed.to_string()])
            .output()
            .expect("the program starts");
        let (hash, events) = trace_hash(seed);
        let line = format!("seed {seed}: {events} events, trace {hash:016x}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&line), "{line} is not in {text}");
    }
}

#[test]
fn a_trace_has_a_line_for_each_event() {
    let output = Command::new(env!("CARGO_BIN_EXE_epicserver-sim"))
        .args(["--seed", "5", "--trace"])
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| line.contains(" us  ")).count() as u64;
    assert_eq!(lines, trace_hash(5).1);
}
