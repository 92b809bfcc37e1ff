//! Who may run on an object at the same time, and in which order those that wait are served.

use std::time::Duration;

use super::cluster::Cluster;
use super::thing::{NEVER, Shared, exclusive, never, note, notes, serial, shared};
use crate::context::sleep;
use crate::entity::RawRef;

const MS: Duration = Duration::from_millis(1);

/// A shared call that writes down its begin and its end, `ms` apart.
fn napping(name: &'static str, ms: u32) -> Shared<NEVER> {
    shared(async move |_| {
        note(format!("{name}+"));
        sleep(MS * ms).await;
        note(format!("{name}-"));
        0
    })
}

#[test]
fn shared_calls_interleave_at_awaits() {
    let mut cluster = Cluster::new(1);
    let mut a = cluster.start(0, never(1).call(napping("a", 5)));
    let mut b = cluster.start(0, never(1).call(napping("b", 2)));
    cluster.pass_ms(6);
    assert_eq!(notes(), ["a+", "b+", "b-", "a-"]);
    assert_eq!((a.result(), b.result()), (Some(Ok(0)), Some(Ok(0))));
}

#[test]
fn an_exclusive_call_excludes_every_other_across_its_awaits() {
    let mut cluster = Cluster::new(1);
    let mut long = cluster.start(
        0,
        never(1).call(exclusive(async |thing| {
            note("x+");
            sleep(5 * MS).await;
            *thing.count.get_mut() += 1;
            note("x-");
            thing.tick()
        })),
    );
    let mut shared = cluster.start(0, never(1).call(napping("a", 1)));
    let mut other = cluster.start(0, never(2).call(napping("elsewhere", 1)));
    cluster.pass_ms(4);
    assert_eq!(notes(), ["x+", "elsewhere+", "elsewhere-"], "only its own object is held");
    cluster.pass_ms(4);
    assert_eq!(notes(), ["x-", "a+", "a-"]);
    assert_eq!((long.result(), shared.result(), other.result()), (Some(Ok(2)), Some(Ok(0)), Some(Ok(0))));
}

#[test]
fn an_exclusive_call_waits_for_every_shared_call_before_it() {
    let mut cluster = Cluster::new(1);
    for (name, ms) in [("a", 3), ("b", 5)] {
        let _ = cluster.start(0, never(1).call(napping(name, ms)));
    }
    let _ = cluster.start(
        0,
        never(1).call(exclusive(async |_| {
            note("x");
            0
        })),
    );
    cluster.pass_ms(6);
    assert_eq!(notes(), ["a+", "b+", "a-", "b-", "x"]);
}

#[test]
fn a_serial_method_does_not_interleave_with_itself_but_with_others() {
    let mut cluster = Cluster::new(1);
    let one = |name: &'static str| {
        serial(async move |_| {
            note(format!("{name}+"));
            sleep(3 * MS).await;
            note(format!("{name}-"));
            0
        })
    };
    let _ = cluster.start(0, never(1).call(one("s1")));
    let _ = cluster.start(0, never(1).call(napping("shared", 1)));
    let _ = cluster.start(0, never(1).call(one("s2")));
    cluster.pass_ms(8);
    assert_eq!(notes(), ["s1+", "shared+", "shared-", "s1-", "s2+", "s2-"]);
}

#[test]
fn calls_that_wait_are_served_in_order_and_neighbours_that_go_together_start_together() {
    let mut cluster = Cluster::new(1);
    let held = |name: &'static str| {
        exclusive(async move |_| {
            note(format!("{name}+"));
            sleep(2 * MS).await;
            note(format!("{name}-"));
            0
        })
    };
    let _ = cluster.start(0, never(1).call(held("x1")));
    let _ = cluster.start(0, never(1).call(napping("a", 2)));
    let _ = cluster.start(0, never(1).call(napping("b", 2)));
    let _ = cluster.start(0, never(1).call(held("x2")));
    let _ = cluster.start(0, never(1).call(napping("c", 2)));
    cluster.pass_ms(12);
    assert_eq!(notes(), ["x1+", "x1-", "a+", "b+", "a-", "b-", "x2+", "x2-", "c+", "c-"]);
}

/// Polls both futures until both are ready, as `join!` does.
async fn join<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut a_value, mut b_value) = (None, None);
    std::future::poll_fn(|context| {
        use std::task::Poll;
        if a_value.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(context)
        {
            a_value = Some(value);
        }
        if b_value.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(context)
        {
            b_value = Some(value);
        }
        if a_value.is_some() && b_value.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (a_value.expect("ready"), b_value.expect("ready"))
}

#[test]
fn siblings_of_a_join_queue_for_an_exclusive_object_and_are_no_deadlock() {
    let mut cluster = Cluster::new(1);
    let add = |target: RawRef<_>| {
        target.call(exclusive::<NEVER, _>(async |thing| {
            sleep(2 * MS).await;
            thing.tick()
        }))
    };
    let mut joined = cluster.start(
        0,
        never(1).call(shared(async move |_| {
            let (first, second) = join(add(never(2)), add(never(2))).await;
            first.expect("served") * 10 + second.expect("served")
        })),
    );
    cluster.pass_ms(6);
    assert_eq!(joined.result(), Some(Ok(12)));
}

#[test]
fn a_nested_shared_call_runs_ahead_of_a_waiting_exclusive_one() {
    let mut cluster = Cluster::new(1);
    let mut outer = cluster.start(
        0,
        never(1).call(shared(async |_| {
            sleep(2 * MS).await;
            never(1).call(napping("nested", 1)).await.expect("runs at once")
        })),
    );
    let mut waiting = cluster.start(
        0,
        never(1).call(exclusive(async |_| {
            note("exclusive");
            0
        })),
    );
    cluster.pass_ms(5);
    assert_eq!(notes(), ["nested+", "nested-", "exclusive"]);
    assert_eq!((outer.result(), waiting.result()), (Some(Ok(0)), Some(Ok(0))));
}

#[test]
fn a_nested_serial_call_waits_for_its_like_only_and_not_for_exclusives_in_the_queue() {
    let mut cluster = Cluster::new(1);
    let one = |name: &'static str, ms| {
        serial(async move |_| {
            sleep(MS * ms).await;
            note(name);
            0
        })
    };
    let _ = cluster.start(0, never(1).call(one("stranger", 200)));
    let mut outer = cluster.start(
        0,
        never(1).call(shared(async move |_| never(1).call(one("nested", 1)).await.map_or(9, |_| 0))),
    );
    let _ = cluster.start(
        0,
        never(1).call(exclusive(async |_| {
            note("exclusive");
            0
        })),
    );
    cluster.pass_ms(210);
    assert_eq!(outer.result(), Some(Ok(0)), "a cycle through the exclusive call would be a false one");
    assert_eq!(notes(), ["stranger", "nested", "exclusive"]);
}

#[test]
fn a_future_that_wakes_itself_and_ends_in_the_same_turn_leaves_the_run_queue_whole() {
    // The wake puts the slot into the run queue and its end puts it into the free list, and both use the same link.
    let mut cluster = Cluster::new(1);
    let wake_and_end = || {
        std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            std::task::Poll::Ready(7)
        })
    };
    let mut result = cluster.start(
        0,
        never(1).call(shared(async move |_| {
            for at in 0..20 {
                let hasty = never(2 + at).call(shared(async move |_| {
                    note("ran");
                    wake_and_end().await
                }));
                hasty.send().expect("room");
                crate::context::spawn(async move { note(format!("{}", wake_and_end().await)) })
                    .expect("room");
            }
            sleep(MS).await;
            3
        })),
    );
    cluster.pass_ms(2);
    assert_eq!(result.result(), Some(Ok(3)));
    assert_eq!(notes().len(), 40);
}
