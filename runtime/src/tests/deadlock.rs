//! Calls that would wait for themselves: refused at once along a path, found by a probe across several.

use std::time::Duration;

use super::cluster::Cluster;
use super::thing::{Exclusive, NEVER, exclusive, never, note, notes, serial, shared};
use crate::call::DEPTH_MAX;
use crate::context::sleep;
use crate::error::{CallError, Rejection};

const MS: Duration = Duration::from_millis(1);

#[test]
fn shared_to_exclusive_is_a_deadlock_that_names_the_path() {
    let mut cluster = Cluster::new(1);
    let mut result = cluster.start(0, async {
        never(1)
            .call(shared(async |_| {
                let middle = never(2).call(shared(async |_| {
                    let back = never(1).call(exclusive(async |_| 0)).await;
                    note(back.expect_err("an upgrade").to_string());
                    5
                }));
                middle.await.expect("the one in between is not harmed")
            }))
            .await
    });
    assert_eq!(result.result(), Some(Ok(5)));
    assert_eq!(notes(), ["deadlock: never/1.shared -> never/2.shared -> never/1.exclusive"]);
    assert_eq!(cluster.now, 0, "at once");
}

#[test]
fn a_serial_method_that_comes_back_to_itself_is_a_deadlock_and_to_another_is_not() {
    let mut cluster = Cluster::new(1);
    let mut result = cluster.start(
        0,
        never(1).call(serial(async |_| {
            let itself = never(1).call(serial(async |_| 0)).await;
            assert!(matches!(itself, Err(CallError::Deadlock(_))), "{itself:?}");
            never(1).call(shared(async |_| 3)).await.expect("shared under serial")
        })),
    );
    assert_eq!(result.result(), Some(Ok(3)));
}

#[test]
fn a_deadlock_across_two_cores_is_found_at_once_through_the_travelling_path() {
    let mut cluster = Cluster::new(2);
    let (here, there) = (cluster.key_on(0, 0), cluster.key_on(1, 0));
    let mut result = cluster.start(
        0,
        never(here).call(exclusive(async move |_| {
            let middle = never(there).call(shared(async move |_| {
                let back = never(here).call(shared(async |_| 0)).await;
                note(back.expect_err("held by its own ancestor").to_string());
                5
            }));
            middle.await.expect("not harmed")
        })),
    );
    assert_eq!(result.result(), Some(Ok(5)));
    let path = format!("deadlock: never/{here}.exclusive -> never/{there}.shared -> never/{here}.shared");
    assert_eq!(notes(), [path]);
}

#[test]
fn shared_under_shared_across_two_cores_runs_ahead_of_a_waiting_exclusive() {
    let mut cluster = Cluster::new(2);
    let (here, there) = (cluster.key_on(0, 0), cluster.key_on(1, 0));
    let mut outer = cluster.start(
        0,
        never(here).call(shared(async move |_| {
            let middle = never(there).call(shared(async move |_| {
                sleep(2 * MS).await;
                never(here).call(shared(async |_| 3)).await.expect("runs at once")
            }));
            middle.await.expect("runs")
        })),
    );
    let mut waiting = cluster.start(0, never(here).call(exclusive(async |_| 4)));
    assert_eq!(waiting.result(), None, "it waits for the outer call");
    cluster.pass_ms(3);
    assert_eq!((outer.result(), waiting.result()), (Some(Ok(3)), Some(Ok(4))));
}

#[test]
fn a_path_entry_whose_call_has_ended_is_no_deadlock() {
    // The caller hands its unfinished call to a spawned future and returns: its hold is gone, its entry in the path is not.
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let (here, there) = (cluster.key_on(0, 0), cluster.key_on(cores - 1, 1));
        let mut outer = cluster.start(
            0,
            never(here).call(shared(async move |_| {
                let mut middle = Box::pin(never(there).call(shared(async move |_| {
                    sleep(2 * MS).await;
                    never(here).call(exclusive(async |_| 6)).await.unwrap_or(1000)
                })));
                std::future::poll_fn(|context| {
                    assert!(middle.as_mut().poll(context).is_pending());
                    std::task::Poll::Ready(())
                })
                .await;
                crate::context::spawn(async move { note(format!("{:?}", middle.await)) }).expect("room");
                5
            })),
        );
        assert_eq!(outer.result(), Some(Ok(5)));
        // Another call holds the object now, and nothing of the path does.
        let _ = cluster.start(
            0,
            never(here).call(exclusive(async |_| {
                sleep(4 * MS).await;
                0
            })),
        );
        cluster.pass_ms(8);
        assert_eq!(notes(), ["Ok(6)"], "{cores} cores");
    }
}

/// An exclusive call that holds its object for a while and then wants another object exclusively.
fn holds_then_wants(other: u64) -> Exclusive<NEVER> {
    exclusive(async move |_| {
        sleep(MS).await;
        match never(other).call(exclusive(async |_| 1)).await {
            Ok(value) => value,
            Err(CallError::Deadlock(text)) => {
                note(text);
                2
            }
            Err(error) => panic!("{error}"),
        }
    })
}

#[test]
fn a_cycle_of_two_roots_is_found_by_the_probe_and_the_youngest_gives_up() {
    for (cores, at) in [(1, 0), (2, 1)] {
        for old_first in [true, false] {
            let mut cluster = Cluster::new(cores);
            let (x, y) = (cluster.key_on(0, 0), cluster.key_on(at, 1));
            let roots = if old_first { [(0, x, y), (at, y, x)] } else { [(at, y, x), (0, x, y)] };
            let mut results = roots.map(|(core, holds, wants)| {
                cluster.pass_ms(1);
                cluster.start(usize::from(core), never(holds).call(holds_then_wants(wants)))
            });
            cluster.pass_ms(40);
            assert_eq!(notes(), Vec::<String>::new(), "a call that waits a little while is left alone");
            cluster.pass_ms(20);
            assert_eq!(
                (results[0].result(), results[1].result()),
                (Some(Ok(1)), Some(Ok(2))),
                "{cores} cores, old first {old_first}: the younger gives up, the older completes"
            );
            let text = notes().join("");
            assert!(text.contains(&format!("never/{x}")) && text.contains(&format!("never/{y}")), "{text}");
        }
    }
}

#[test]
fn a_cycle_of_three_roots_over_three_cores_is_found() {
    let mut cluster = Cluster::new(3);
    let keys = [0, 1, 2].map(|core| cluster.key_on(core, 0));
    let mut results =
        [0, 1, 2].map(|at| cluster.start(at, never(keys[at]).call(holds_then_wants(keys[(at + 1) % 3]))));
    cluster.pass_ms(60);
    let values: Vec<u64> = results.iter_mut().filter_map(|result| result.result()?.ok()).collect();
    assert_eq!((values.len(), values.iter().sum::<u64>()), (3, 4), "one gives up, two complete: {values:?}");
}

#[test]
fn a_cycle_through_the_place_in_a_queue_is_found_also_by_the_one_that_waits_there() {
    // The older chain holds x shared and wants y; the younger holds y and wants x shared, behind an exclusive call, which
    // is the youngest of all and in the way of both.
    let mut cluster = Cluster::new(1);
    let older = shared(async |_| {
        sleep(4 * MS).await;
        never(2).call(exclusive(async |_| 1)).await.expect("the oldest completes")
    });
    let mut older = cluster.start(0, never(1).call(older));
    cluster.pass_ms(1);
    let younger = exclusive(async |_| {
        sleep(4 * MS).await;
        never(1).call(shared(async |_| 1)).await.expect("the one in its way gives up")
    });
    let mut younger = cluster.start(0, never(2).call(younger));
    cluster.pass_ms(1);
    let mut youngest = cluster.start(0, never(1).call(exclusive(async |_| 1)));
    cluster.pass_ms(60);
    assert_eq!((older.result(), younger.result()), (Some(Ok(1)), Some(Ok(1))));
    assert!(matches!(youngest.result(), Some(Err(CallError::Deadlock(_)))));
}

#[test]
fn a_chain_that_waits_for_a_slow_one_is_no_cycle() {
    let mut cluster = Cluster::new(2);
    let (x, y) = (cluster.key_on(0, 0), cluster.key_on(1, 0));
    let slow = exclusive(async |_| {
        sleep(300 * MS).await;
        0
    });
    let mut slow = cluster.start(1, never(y).call(slow));
    let mut first = cluster.start(0, never(x).call(holds_then_wants(y)));
    let mut second = cluster.start(0, never(x).call(holds_then_wants(y)));
    cluster.pass_ms(400);
    assert_eq!((slow.result(), first.result(), second.result()), (Some(Ok(0)), Some(Ok(1)), Some(Ok(1))));
}

/// A chain of calls, each on another object, that ends with the level that was refused.
fn deeper(level: u64) -> impl Future<Output = Result<u64, CallError>> {
    never(level).call(shared(async move |_| match Box::pin(deeper(level + 1)).await {
        Ok(deepest) => deepest,
        Err(error) => {
            assert_eq!(error, CallError::Rejected(Rejection::TooDeep));
            level
        }
    }))
}

#[test]
fn the_thirty_third_level_is_too_deep() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let mut result = cluster.start(0, deeper(1));
        assert_eq!(result.result(), Some(Ok(u64::from(DEPTH_MAX))), "{cores} cores");
    }
}

#[test]
fn one_way_calls_and_spawned_futures_start_with_an_empty_path_and_a_fresh_budget() {
    let mut cluster = Cluster::new(1);
    let mut result = cluster.start(
        0,
        never(1)
            .call(exclusive(async |_| {
                never(1)
                    .call(exclusive(async |_| {
                        note("one-way");
                        0
                    }))
                    .send()
                    .expect("room");
                let later = async {
                    // The budget of the outer call is five milliseconds.
                    sleep(20 * MS).await;
                    let answer = never(1).call(exclusive(async |_| 4)).await;
                    note(format!("spawned {answer:?}"));
                };
                crate::context::spawn(later).expect("room");
                assert_eq!(notes(), Vec::<String>::new(), "the one-way call waits for this one");
                1
            }))
            .within(5 * MS),
    );
    assert_eq!(result.result(), Some(Ok(1)));
    cluster.pass_ms(25);
    assert_eq!(notes(), ["one-way", "spawned Ok(4)"]);
}
