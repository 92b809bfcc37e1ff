//! What entity code asks of its core: time, chance, waiting, work elsewhere.

use std::time::Duration;

use super::cluster::Cluster;
use super::thing::{NEVER, Never, durable, exclusive, never, note, notes, shared};
use crate::context::{blocking, edge, now, random, sleep, this};
use crate::core::{CoreConfig, Work};
use crate::error::{CallError, Rejection};

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_turn_sees_one_time_and_a_sleep_is_never_early() {
    let mut cluster = Cluster::with(1, CoreConfig { epoch_ms: 1_000_000, ..CoreConfig::default() });
    let mut call = cluster.start(
        0,
        never(1).call(shared(async |_| {
            let begun = now();
            assert_eq!(begun, Duration::from_millis(1_000_000));
            sleep(Duration::from_micros(2_500)).await;
            (now() - begun).as_micros() as u64
        })),
    );
    cluster.pass_ms(5);
    let slept = call.result().expect("ended").expect("served");
    assert!((2_500..=4_000).contains(&slept), "{slept}");
    let mut nothing = cluster.start(
        0,
        never(1).call(shared(async |_| {
            sleep(Duration::ZERO).await;
            1
        })),
    );
    assert_eq!(nothing.result(), Some(Ok(1)));
}

#[test]
fn random_numbers_are_the_same_in_every_run_of_a_seed() {
    let draw = |seed| {
        let mut cluster = Cluster::with(1, CoreConfig { seed, ..CoreConfig::default() });
        let mut call = cluster.start(0, never(1).call(shared(async |_| random() ^ random().rotate_left(7))));
        call.result()
    };
    assert_eq!(draw(5), draw(5));
    assert_ne!(draw(5), draw(6));
}

#[test]
fn blocking_and_edge_work_brings_its_result() {
    let mut cluster = Cluster::new(1);
    let mut call = cluster.start(
        0,
        never(1).call(shared(async |_| {
            let first = blocking(|| 20).await.expect("run");
            first + edge(async { 3 }).await.expect("run")
        })),
    );
    assert_eq!((cluster.works.len(), cluster.edges.len()), (1, 0), "at once: it depends on nothing");
    cluster.works.drain(..).for_each(Work::run);
    cluster.run();
    let edge = cluster.edges.pop().expect("asked for");
    let mut edge = super::cluster::ByHand::started(edge);
    assert_eq!(edge.result(), Some(()));
    cluster.run();
    assert_eq!(call.result(), Some(Ok(23)));
}

#[test]
fn blocking_and_edge_work_starts_when_what_it_is_done_for_is_durable() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(
        0,
        never(1).call(shared(async |_| {
            durable(2).call(exclusive(async |thing| thing.tick())).await.expect("served");
            let work = blocking(|| note("work"));
            let _ = work.await;
            let _ = edge(async { note("edge") }).await;
            0
        })),
    );
    assert_eq!((cluster.works.len(), cluster.edges.len()), (0, 0));
    cluster.commit();
    assert_eq!((cluster.works.len(), cluster.edges.len()), (1, 0));
    cluster.works.drain(..).for_each(Work::run);
    cluster.run();
    assert_eq!(cluster.edges.len(), 1);
    assert_eq!(notes(), ["work"]);
    cluster.edges.clear();
    cluster.run();
}

#[test]
fn work_that_is_dropped_undone_is_an_error() {
    let mut cluster = Cluster::new(1);
    let mut call = cluster.start(
        0,
        never(1).call(shared(async |_| {
            let error = blocking(|| 0).await.expect_err("dropped");
            u64::from(error == CallError::Rejected(Rejection::ShuttingDown))
        })),
    );
    cluster.works.clear();
    cluster.run();
    assert_eq!(call.result(), Some(Ok(1)));
}

#[test]
fn work_of_a_failed_batch_never_starts() {
    let mut cluster = Cluster::new(1);
    let mut call = cluster.start(
        0,
        durable(1).call(shared(async |thing| {
            thing.tick();
            blocking(|| note("work")).await.map_or(1, |()| 0)
        })),
    );
    cluster.faults().fault_next(epicserver_storage::Verb::Commit, epicserver_storage::Fault::Fail);
    cluster.commit();
    cluster.settle();
    assert_eq!((cluster.works.len(), call.result()), (0, Some(Err(CallError::SaveFailed))));
}

#[test]
fn this_refers_to_the_object_whose_method_it_is() {
    let mut cluster = Cluster::new(1);
    let mut call = cluster.start(0, never(17).call(shared(async |_| this::<Never>().key())));
    assert_eq!(call.result(), Some(Ok(17)));
    let outside = std::panic::catch_unwind(this::<Never>);
    assert!(outside.is_err());
}

#[test]
#[expect(clippy::async_yields_async, reason = "the unfinished sleep is what is wanted")]
fn a_sleep_that_is_carried_to_another_core_cancels_no_timer_there() {
    let mut cluster = Cluster::new(2);
    let begin = async {
        let mut nap = Box::pin(sleep(5 * MS));
        std::future::poll_fn(|context| {
            assert!(nap.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        nap
    };
    // The first timer of each core lies in the same place of its wheel.
    let mut carried = cluster.start(0, begin);
    let mut victim = cluster.start(1, sleep(5 * MS));
    let nap = carried.result().expect("begun");
    let mut nap = cluster.start(1, nap);
    cluster.pass_ms(7);
    assert_eq!((victim.result(), nap.result()), (Some(()), Some(())));
}

#[test]
fn a_one_way_call_answers_nobody_and_its_panic_neither() {
    let mut cluster = Cluster::new(2);
    let far = cluster.key_on(1, 0);
    for key in [cluster.key_on(0, 0), far] {
        let mut sent = cluster.start(0, async move {
            let panics = shared::<NEVER, _>(async |_| {
                note("ran");
                panic!("on purpose")
            });
            never(key).call(panics).send()
        });
        assert_eq!(sent.result(), Some(Ok(())));
    }
    assert_eq!(notes(), ["ran", "ran"]);
}
