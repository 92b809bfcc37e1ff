//! A node past its lease: nothing starts, and nothing leaves.

use std::time::Duration;

use super::cluster::{ByHand, Cluster};
use super::thing::{DURABLE, NEVER, Never, Shared, Thing, durable, exclusive, never, shared};
use crate::context::{blocking, sleep};
use crate::core::Event;
use crate::error::{CallError, Executed, Loss};

const MS: u64 = 1_000_000;
const LOST: CallError = CallError::OutcomeUnknown(Loss::OwnerLost);

fn tick<const POLICY: u8>() -> Shared<POLICY> {
    shared(async |thing: &Thing<POLICY>| thing.tick())
}

/// Says on every core when the lease ends, in milliseconds.
fn lease(cluster: &mut Cluster, until_ms: u64) {
    let until = until_ms.saturating_mul(MS);
    (0..cluster.cores.len()).for_each(|core| cluster.step(core, Event::Lease(until)));
    cluster.run();
}

fn is_refused(result: Option<Result<u64, CallError>>) -> bool {
    matches!(result, Some(Err(CallError::Unavailable(text))) if text.contains("lease"))
}

#[test]
fn past_the_lease_no_call_starts_wherever_it_comes_from() {
    let mut cluster = Cluster::new(2);
    let (here, there) = (cluster.key_on(0, 0), cluster.key_on(1, 0));
    for key in [here, there] {
        assert_eq!(cluster.start(0, never(key).call(tick())).result(), Some(Ok(1)));
    }
    lease(&mut cluster, 10);
    cluster.pass_ms(9);
    assert_eq!(cluster.start(0, never(here).call(tick())).result(), Some(Ok(2)), "it holds until its end");
    cluster.pass_ms(1);
    // One after the other from one task, so that each could run in its caller's poll.
    let local = async move {
        let first = never(here).call(tick()).await;
        (
            first,
            never(here).call(tick()).await,
            never(there).call(tick()).await,
            never(999).call(tick()).await,
        )
    };
    let (first, second, third, fresh) = cluster.start(0, local).result().expect("told at once");
    for result in [first, second, third, fresh] {
        assert!(is_refused(Some(result)));
    }
    let mut outside = ByHand::start(cluster.outside::<NEVER>(1, here).call(tick()));
    cluster.run();
    assert!(is_refused(outside.result()));
    lease(&mut cluster, u64::MAX);
    let mut again = cluster.start(0, never(here).call(tick()));
    assert_eq!(again.result(), Some(Ok(3)), "a renewal opens it, and nothing ran meanwhile");
}

#[test]
fn past_the_lease_what_waits_is_told_and_what_runs_starts_nothing() {
    let mut cluster = Cluster::new(1);
    assert_eq!(cluster.start(0, never(2).call(tick())).result(), Some(Ok(1)));
    lease(&mut cluster, 10);
    let mut runs = cluster.start(
        0,
        never(1).call(exclusive(async move |_: &mut Never| {
            sleep(Duration::from_millis(20)).await;
            u64::from(is_refused(Some(never(2).call(tick()).await)))
        })),
    );
    let mut waits = cluster.start(0, never(1).call(tick()));
    cluster.pass_ms(9);
    assert_eq!(waits.result(), None);
    assert_eq!(cluster.cores[0].next_timer(), Some(10 * MS), "a core that sleeps is woken for it");
    cluster.pass_ms(1);
    assert!(is_refused(waits.result()), "it need not wait for who holds the object");
    cluster.pass_ms(20);
    assert_eq!(runs.result(), Some(Ok(1)));
}

#[test]
fn past_the_lease_nothing_is_released_and_no_work_starts() {
    let mut cluster = Cluster::new(1);
    lease(&mut cluster, 10);
    let mut reply = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(tick()));
    let mut work = cluster.start(
        0,
        durable(2).call(shared(async |thing: &Thing<DURABLE>| {
            thing.tick();
            blocking(|| 7).await.unwrap_or(0)
        })),
    );
    cluster.run();
    assert_eq!(reply.result(), None, "it waits for its batch");
    cluster.pass_ms(10);
    assert_eq!(reply.result(), Some(Err(LOST)), "nobody knows whether it will be saved");
    cluster.settle();
    assert!(cluster.works.is_empty());
    assert_eq!(work.result(), Some(Ok(0)), "who asked for work hears that there is none");
    let mut late = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(tick()));
    cluster.settle();
    let refused = late.result().expect("told at once").expect_err("past the lease");
    assert_eq!(refused.executed(), Executed::No, "{refused}");
}

#[test]
fn a_renewal_that_is_told_late_costs_nothing() {
    let mut cluster = Cluster::new(1);
    lease(&mut cluster, 10);
    let mut reply = ByHand::start(cluster.outside::<DURABLE>(0, 1).call(tick()));
    cluster.run();
    cluster.now = 12 * MS;
    lease(&mut cluster, 20);
    assert_eq!(reply.result(), None);
    cluster.settle();
    assert_eq!(reply.result(), Some(Ok(1)));
}

#[test]
fn hooks_run_past_the_lease_as_objects_must_not_go_without() {
    use super::thing::{HOOKED, hooked, set_on_activate};
    set_on_activate(|thing| {
        Box::pin(async move {
            *thing.count.get_mut() = 100;
            0
        })
    });
    let mut cluster = Cluster::new(1);
    lease(&mut cluster, 10);
    let mut call = cluster.start_later(0, hooked(1).call(tick::<HOOKED>()));
    cluster.step(0, Event::Turns(2));
    cluster.now = 10 * MS;
    cluster.run();
    cluster.pass_ms(1);
    assert!(is_refused(call.result()));
    lease(&mut cluster, u64::MAX);
    let mut again = cluster.start(0, hooked(1).call(tick::<HOOKED>()));
    cluster.settle();
    assert_eq!(again.result(), Some(Ok(101)));
}
