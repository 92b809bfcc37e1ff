//! Same seed, same trace: in one process, whatever ran before, and in another process.

use std::process::Command;

use epicserver_sim::world::{self, WorldConfig, WorldKind};

fn trace_hash(seed: u64) -> (u64, u64) {
    trace_of(seed, WorldKind::Fixed)
}

fn trace_of(seed: u64, kind: WorldKind) -> (u64, u64) {
    let report = world::run(&WorldConfig { seed, kind, ..WorldConfig::default() });
    (report.trace_hash, report.events)
}

#[test]
fn a_seed_gives_the_same_trace_of_nodes_that_come_and_go() {
    for kind in [WorldKind::Moving, WorldKind::Parted] {
        let traces = || -> Vec<_> { (1..=3).map(|seed| trace_of(seed, kind)).collect() };
        assert_eq!(traces(), traces());
    }
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
    for (seed, kind) in
        [(1, WorldKind::Fixed), (17, WorldKind::Fixed), (2, WorldKind::Moving), (3, WorldKind::Parted)]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_epicserver-sim"))
            .args(["--seed", &seed.to_string(), "--world", kind.name()])
            .output()
            .expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let (hash, events) = trace_of(seed, kind);
        let line = format!("seed {seed} {}: {events} events, trace {hash:016x}", kind.name());
        assert!(text.contains(&line), "{line} is not in {text}");
    }
}

#[test]
fn a_trace_has_a_line_for_each_event() {
    let output = Command::new(env!("CARGO_BIN_EXE_epicserver-sim"))
        .args(["--seed", "5", "--world", "fixed", "--trace"])
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| line.contains(" us  ")).count() as u64;
    assert_eq!(lines, trace_hash(5).1);
}
