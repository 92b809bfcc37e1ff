//! Calls of one caller to one object start in the order they were made.

use std::time::Duration;

use super::cluster::Cluster;
use super::thing::{NEVER, Shared, exclusive, never, note, notes, shared};
use crate::context::sleep;
use crate::core::{CoreConfig, Event};

fn noting(number: u64) -> Shared<NEVER> {
    shared(async move |_| {
        note(number.to_string());
        number
    })
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// A caller that sends `calls` calls to one object, some at once and some in later turns.
async fn sends(to: u64, calls: u64) {
    for number in 0..calls {
        never(to).call(noting(number)).send().expect("room");
        if number % 3 == 2 {
            never(to + 1_000_000).call(shared(async |_| 0)).await.expect("served");
        }
    }
}

#[test]
fn order_holds_on_one_core_and_across_cores_whatever_the_seed() {
    for seed in [None].into_iter().chain((0..30).map(Some)) {
        for (cores, core) in [(1, 0), (2, 1)] {
            let mut cluster = Cluster::with(cores, CoreConfig { chaos: seed, ..CoreConfig::default() });
            let to = cluster.key_on(core, 0);
            let mut result = cluster.start(
                0,
                never(cluster.key_on(0, 5)).call(shared(async move |_| {
                    sends(to, 20).await;
                    1
                })),
            );
            assert_eq!(result.result(), Some(Ok(1)));
            assert_eq!(notes(), numbers(0..20), "seed {seed:?}, {cores} cores");
        }
    }
}

#[test]
fn order_holds_when_the_direct_path_is_used_up_in_between() {
    for turns in [1, 2, 3, 5, 1000] {
        let mut cluster = Cluster::with(1, CoreConfig { direct_max: 2, ..CoreConfig::default() });
        let _ = cluster.start_later(0, async {
            for number in 0..10 {
                never(1).call(noting(number)).send().expect("room");
            }
        });
        while cluster.cores[0].is_ready() {
            cluster.step(0, Event::Turns(turns));
        }
        assert_eq!(notes(), numbers(0..10), "{turns} turns a pass");
    }
}

#[test]
fn order_holds_over_the_end_of_an_activation() {
    let mut cluster = Cluster::new(1);
    // The first call waits behind an exclusive one whose panic ends the activation while the second is in the outbox.
    let _ = cluster.start(
        0,
        never(1).call(exclusive(async |_| {
            sleep(Duration::from_millis(1)).await;
            never(1).call(noting(3)).send().expect("room");
            panic!("on purpose")
        })),
    );
    for number in 0..3 {
        let _ = cluster.start(0, never(1).call(noting(number)));
    }
    cluster.pass_ms(2);
    assert_eq!(notes(), numbers(0..4));
}

#[test]
fn granted_calls_that_have_not_started_run_on_the_next_activation_in_their_order() {
    let mut cluster = Cluster::with(1, CoreConfig { direct_max: 0, ..CoreConfig::default() });
    let mut results = Vec::new();
    results.push(cluster.start_later(0, never(1).call(shared(async |_| panic!("on purpose")))));
    for number in 0..3 {
        results.push(cluster.start_later(0, never(1).call(noting(number))));
    }
    cluster.run();
    assert_eq!(notes(), numbers(0..3));
    let ended: Vec<bool> = results.iter_mut().map(|result| result.result().expect("ended").is_ok()).collect();
    assert_eq!(ended, [false, true, true, true], "the panic is its own caller's only");
}
