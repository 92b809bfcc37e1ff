//! Cancelling: what becomes of a call that nobody waits for any more.

use std::time::Duration;

use super::cluster::{ByHand, Cluster};
use super::thing::{Bomb, NEVER, Shared, exclusive, never, note, notes, shared, shield};
use crate::context::{cancelled, sleep};
use crate::entity::RawRef;
use crate::error::{CallError, Loss};

const MS: Duration = Duration::from_millis(1);

/// Starts a future on core 0, and drops it there `ms` later.
fn start_and_drop(cluster: &mut Cluster, ms: u32, future: impl Future + 'static) {
    let _ = cluster.start(0, async move {
        let mut future = Box::pin(future);
        let mut nap = Box::pin(sleep(MS * ms));
        std::future::poll_fn(|context| {
            assert!(future.as_mut().poll(context).is_pending(), "it was to be dropped unfinished");
            nap.as_mut().poll(context)
        })
        .await;
        note("gone");
    });
}

fn hold(key: u64, ms: u32) -> impl Future<Output = Result<u64, CallError>> {
    never(key).call(exclusive(async move |_| {
        sleep(MS * ms).await;
        0
    }))
}

/// A shared call with a turn every two milliseconds.
fn three_turns() -> Shared<NEVER> {
    shared(async |thing| {
        for at in 1..=3 {
            note(format!("turn {at}"));
            thing.tick();
            sleep(2 * MS).await;
        }
        0
    })
}

fn count(cluster: &mut Cluster, key: u64) -> u64 {
    let mut count = cluster.start(0, never(key).call(shared(async |thing| thing.count.get())));
    count.result().expect("at once").expect("served")
}

/// The key of an object on the caller's own core, and one on another.
fn near_and_far() -> [(Cluster, u64); 2] {
    let cluster = Cluster::new(2);
    let far = cluster.key_on(1, 0);
    [(Cluster::new(1), 1), (cluster, far)]
}

struct Panics;

impl std::task::Wake for Panics {
    fn wake(self: std::sync::Arc<Self>) {
        panic!("a waker panics");
    }
}

/// User code may poll with wakers of its own: one that panicked took its core along.
#[test]
fn a_waker_of_user_code_that_panics_harms_nobody() {
    for (mut cluster, key) in near_and_far() {
        let mut result = cluster.start(0, async move {
            let mut call = Box::pin(never(key).call(shared(async |_| {
                sleep(2 * MS).await;
                5
            })));
            let mut dropped = Box::pin(never(key).call(three_turns()));
            let mut nap = Box::pin(sleep(2 * MS));
            let waker = std::task::Waker::from(std::sync::Arc::new(Panics));
            std::future::poll_fn(|_| {
                let mut context = std::task::Context::from_waker(&waker);
                assert!(call.as_mut().poll(&mut context).is_pending());
                assert!(dropped.as_mut().poll(&mut context).is_pending());
                assert!(nap.as_mut().poll(&mut context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            drop(dropped);
            sleep(5 * MS).await;
            nap.await;
            call.await
        });
        cluster.pass_ms(10);
        assert_eq!(result.result(), Some(Ok(5)));
    }
}

#[test]
fn calls_that_are_cancelled_while_the_way_to_their_core_is_full_never_run() {
    let mut cluster = Cluster::new(2);
    let key = cluster.key_on(1, 0);
    let calls: Vec<_> = (0..500)
        .map(|_| {
            never(key).call(exclusive(async |_| {
                note("ran");
                0
            }))
        })
        .collect();
    // Nothing reaches the other core: whatever is sent waits for room, the cancels behind their calls.
    let _ = cluster.start_later(0, async move {
        let mut calls: Vec<_> = calls.into_iter().map(Box::pin).collect();
        std::future::poll_fn(|context| {
            assert!(calls.iter_mut().all(|call| call.as_mut().poll(context).is_pending()));
            std::task::Poll::Ready(())
        })
        .await;
        sleep(MS).await;
        drop(calls);
        note("dropped");
    });
    cluster.step(0, crate::core::Event::Turns(10_000));
    cluster.now += 2_000_000;
    cluster.step(0, crate::core::Event::Tick);
    cluster.step(0, crate::core::Event::Turns(10_000));
    assert_eq!((notes(), cluster.under_way[1].len()), (vec!["dropped".to_owned()], 1_000));
    cluster.run();
    assert_eq!((notes(), cluster.live()), (Vec::<String>::new(), 0));
}

#[test]
fn a_queued_call_is_dropped_unrun() {
    for (mut cluster, key) in near_and_far() {
        let mut holder = cluster.start(0, hold(key, 10));
        let queued = exclusive(async |_| {
            note("ran");
            0
        });
        start_and_drop(&mut cluster, 2, never(key).call(queued));
        let mut behind = cluster.start(0, never(key).call(shared(async |_| 7)));
        cluster.pass_ms(5);
        let left = if cluster.cores.len() == 1 { 4 } else { 6 };
        assert_eq!(
            cluster.live(),
            left,
            "the queued call has gone: two calls, their callers and guests are left"
        );
        cluster.pass_ms(10);
        assert_eq!((holder.result(), behind.result()), (Some(Ok(0)), Some(Ok(7))));
        assert_eq!(notes(), ["gone"]);
    }
}

#[test]
fn a_running_shared_call_stops_at_its_next_await_and_earlier_turns_stay() {
    for (mut cluster, key) in near_and_far() {
        start_and_drop(&mut cluster, 3, never(key).call(three_turns()));
        cluster.pass_ms(10);
        assert_eq!(notes(), ["turn 1", "turn 2", "gone"]);
        assert_eq!((count(&mut cluster, key), cluster.live()), (2, 0));
    }
}

#[test]
fn stopping_a_shared_call_lets_in_the_exclusive_one_that_waited_for_it() {
    let mut cluster = Cluster::new(1);
    start_and_drop(&mut cluster, 3, never(1).call(three_turns()));
    let mut waiting = cluster.start(0, never(1).call(exclusive(async |thing| *thing.count.get_mut())));
    cluster.pass_ms(4);
    assert_eq!(waiting.result(), Some(Ok(2)));
}

/// A reference may remember the wrong core, which passed the call on: a cancel went to that one, and was lost there.
#[test]
fn a_cancel_finds_a_call_that_went_to_the_wrong_core_first() {
    let mut cluster = Cluster::new(3);
    let key = cluster.key_on(2, 0);
    start_and_drop(&mut cluster, 3, never(key).hinted(1).call(three_turns()));
    cluster.pass_ms(10);
    assert_eq!(notes(), ["turn 1", "turn 2", "gone"]);
}

#[test]
fn a_shielded_call_runs_to_its_end() {
    for (mut cluster, key) in near_and_far() {
        let call = shield(async |thing| {
            sleep(5 * MS).await;
            note("done");
            thing.tick()
        });
        start_and_drop(&mut cluster, 2, never(key).call(call));
        cluster.pass_ms(10);
        assert_eq!(notes(), ["gone", "done"]);
        assert_eq!(count(&mut cluster, key), 1);
    }
}

#[test]
fn an_exclusive_call_is_told_and_finishes_by_itself() {
    for (mut cluster, key) in near_and_far() {
        let call = exclusive(async |thing| {
            *thing.count.get_mut() += 1;
            assert!(!crate::context::is_cancelled());
            cancelled().await;
            assert!(crate::context::is_cancelled());
            note("told");
            sleep(4_900 * MS).await;
            *thing.count.get_mut() += 1;
            0
        });
        start_and_drop(&mut cluster, 2, never(key).call(call));
        let mut waiting = cluster.start(0, never(key).call(shared(async |thing| thing.count.get())));
        cluster.pass_ms(4);
        assert_eq!((notes(), waiting.result()), (vec!["gone".to_owned(), "told".to_owned()], None));
        cluster.pass_ms(4_900);
        assert_eq!(waiting.result(), Some(Ok(2)), "it was not torn");
    }
}

#[test]
fn an_exclusive_call_beyond_its_grace_loses_the_activation() {
    for (mut cluster, key) in near_and_far() {
        let call = exclusive(async |thing| {
            *thing.count.get_mut() += 1;
            let _bomb = Bomb { name: "local", panics: false };
            sleep(8_000 * MS).await;
            note("not reached");
            0
        });
        start_and_drop(&mut cluster, 2, never(key).call(call));
        let mut waiting = cluster.start(0, never(key).call(shared(async |thing| thing.count.get())));
        cluster.pass_ms(4_990);
        assert_eq!((notes(), waiting.result()), (vec!["gone".to_owned()], None));
        cluster.pass_ms(20);
        assert_eq!(waiting.result(), Some(Ok(0)), "it runs on the next activation");
        assert_eq!(notes(), ["local dropped"]);
    }
}

#[test]
fn cancelling_goes_down_the_chain() {
    let mut cluster = Cluster::new(2);
    let (near, far) = (cluster.key_on(0, 0), cluster.key_on(1, 0));
    let chain = shared(async move |_| {
        let _bomb = Bomb { name: "outer", panics: false };
        never(far).call(three_turns()).await.unwrap_or(9)
    });
    start_and_drop(&mut cluster, 3, never(near).call(chain));
    cluster.pass_ms(10);
    assert_eq!(notes(), ["turn 1", "turn 2", "gone", "outer dropped"]);
    assert_eq!(cluster.live(), 0);
}

#[test]
fn a_call_that_is_never_polled_never_happens() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, async {
        drop(never(1).call(three_turns()));
    });
    assert_eq!((notes(), cluster.cores[0].activations()), (Vec::<String>::new(), 0));
}

#[test]
#[expect(clippy::async_yields_async, reason = "the unfinished call is what is wanted")]
fn a_call_that_is_dropped_on_another_thread_than_its_core_is_cancelled() {
    let mut cluster = Cluster::new(1);
    let mut made = cluster.start(0, async {
        let mut call = never(1).call(three_turns());
        std::future::poll_fn(|context| {
            assert!(std::pin::Pin::new(&mut call).poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        call
    });
    let call = made.result().expect("made");
    // This code runs outside of every core, as another thread's would.
    drop(call);
    cluster.pass_ms(10);
    assert_eq!(notes(), ["turn 1"]);
    assert_eq!(cluster.live(), 0);
}

#[test]
#[expect(clippy::async_yields_async, reason = "the unfinished call is what is wanted")]
fn a_call_that_is_polled_on_another_thread_than_its_core_brings_its_result() {
    for read_on_other_core in [false, true] {
        let mut cluster = Cluster::new(2);
        let near = cluster.key_on(0, 0);
        let mut made = cluster.start(0, async move {
            let mut call = never(near).call(shared(async |_| {
                sleep(2 * MS).await;
                5
            }));
            std::future::poll_fn(|context| {
                assert!(std::pin::Pin::new(&mut call).poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            call
        });
        let call = made.result().expect("made");
        if read_on_other_core {
            let mut result = cluster.start(1, call);
            cluster.pass_ms(3);
            assert_eq!(result.result(), Some(Ok(5)));
        } else {
            let mut result = ByHand::start(call);
            cluster.pass_ms(3);
            assert_eq!(result.result(), Some(Ok(5)));
        }
    }
}

#[test]
fn a_call_from_outside_that_is_dropped_is_cancelled() {
    let mut cluster = Cluster::new(2);
    let far = cluster.key_on(1, 0);
    let reference: RawRef<_> = cluster.outside::<NEVER>(0, far);
    let call = ByHand::start(reference.call(three_turns()));
    cluster.pass_ms(1);
    drop(call);
    cluster.pass_ms(10);
    assert_eq!((notes(), cluster.live()), (vec!["turn 1".to_owned()], 0));
}

#[test]
fn a_spawned_future_does_not_hold_its_object_and_ends_with_it() {
    let mut cluster = Cluster::new(1);
    let mut first = cluster.start(
        0,
        never(1).call(shared(async |_| {
            let this = crate::context::this::<super::thing::Never>();
            crate::context::spawn(async move {
                let _bomb = Bomb { name: "spawned", panics: false };
                sleep(2 * MS).await;
                note(format!("{:?}", this.call(exclusive(async |thing| thing.tick())).await));
                sleep(1_000_000 * MS).await;
            })
            .expect("room");
            0
        })),
    );
    assert_eq!(first.result(), Some(Ok(0)));
    let mut exclusive = cluster.start(0, never(1).call(exclusive(async |thing| thing.tick())));
    assert_eq!(exclusive.result(), Some(Ok(1)), "the spawned future holds nothing");
    cluster.pass_ms(3);
    assert_eq!((notes(), cluster.live()), (vec!["Ok(2)".to_owned()], 1));
    // Sixteen minutes without a call: the object idles.
    cluster.leap_ms(16 * 60_000);
    cluster.pass_ms(50);
    assert_eq!((notes(), cluster.cores[0].activations()), (vec!["spawned dropped".to_owned()], 0));
}

#[test]
fn a_reply_that_comes_together_with_the_deadline_is_not_lost() {
    let mut cluster = Cluster::new(1);
    let call = shared(async |_| {
        sleep(5 * MS).await;
        8
    });
    let mut result = cluster.start(0, never(1).call(call).within(6 * MS));
    cluster.now += 5_000_000;
    cluster.step(0, crate::core::Event::Tick);
    // The method's turn is ready; before it comes, the deadline passes as well.
    cluster.now += 5_000_000;
    cluster.step(0, crate::core::Event::Tick);
    cluster.run();
    let result = result.result().expect("ended");
    assert!(result == Ok(8) || result == Err(CallError::OutcomeUnknown(Loss::Timeout)), "{result:?}");
    assert_eq!(cluster.live(), 0);
}

/// Nobody waits for a one-way call, so nobody cancelled it, and one that hung held its object for ever.
#[test]
fn a_one_way_call_that_hangs_lets_its_object_go() {
    for (mut cluster, key) in near_and_far() {
        let sent = cluster.start(0, async move {
            never(key)
                .call(exclusive(async |_| {
                    std::future::pending::<()>().await;
                    0
                }))
                .send()
        });
        drop(sent);
        cluster.pass_ms(5);
        // Its budget of ten seconds, then the grace of five.
        cluster.leap_ms(10_100);
        cluster.pass_ms(5);
        cluster.leap_ms(5_100);
        cluster.pass_ms(5);
        assert_eq!(count(&mut cluster, key), 0, "the object serves again");
    }
}
