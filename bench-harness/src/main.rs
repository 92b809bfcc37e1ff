//! Latency suites of Epic Server with raw baselines.
fn main() {}
