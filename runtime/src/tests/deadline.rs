//! How long a call may take: the default, what is left of it further down, and what happens when it has passed.

use std::time::Duration;

use super::cluster::Cluster;
use super::thing::{NEVER, Shared, exclusive, never, note, notes, shared};
use crate::context::sleep;
use crate::error::{CallError, Loss, Rejection};

const MS: Duration = Duration::from_millis(1);

fn napping(ms: u32) -> Shared<NEVER> {
    shared(async move |_| {
        sleep(MS * ms).await;
        note(format!("slept {ms}"));
        0
    })
}

#[test]
fn a_call_has_ten_seconds_unless_its_root_says_otherwise() {
    let mut cluster = Cluster::new(2);
    let far = cluster.key_on(1, 0);
    let mut near = cluster.start(0, never(far).call(napping(100_000)));
    let mut away = cluster.start(1, never(far).call(napping(100_000)));
    let mut longer = cluster.start(0, never(far).call(napping(19_000)).within(20_000 * MS));
    cluster.leap_ms(9_990);
    assert_eq!((near.result(), away.result()), (None, None));
    cluster.pass_ms(15);
    let timeout = Some(Err(CallError::OutcomeUnknown(Loss::Timeout)));
    assert_eq!((near.result(), away.result()), (timeout.clone(), timeout));
    cluster.leap_ms(9_990);
    assert_eq!((longer.result(), notes()), (Some(Ok(0)), vec!["slept 19000".to_owned()]));
}

#[test]
fn what_is_left_of_the_budget_travels_and_nobody_below_can_have_more() {
    for (core, cores) in [(0, 1), (1, 2)] {
        let mut cluster = Cluster::new(cores);
        let far = cluster.key_on(core, 3);
        let mut outer = cluster.start(
            0,
            never(1)
                .call(shared(async move |_| {
                    sleep(6 * MS).await;
                    let begun = crate::context::now();
                    // Asks for an hour and has what its caller has: four milliseconds.
                    let inner = never(far).call(napping(1_000)).within(3_600_000 * MS).await;
                    note(format!(
                        "{:?} after {:?}",
                        inner.expect_err("too late"),
                        crate::context::now() - begun
                    ));
                    0
                }))
                .within(10 * MS),
        );
        cluster.pass_ms(9);
        assert_eq!((outer.result(), notes()), (None, vec![]));
        cluster.pass_ms(3);
        assert_eq!(outer.result(), Some(Err(CallError::OutcomeUnknown(Loss::Timeout))), "{cores} cores");
        cluster.pass_ms(1_100);
        assert_eq!(notes(), Vec::<String>::new(), "the whole chain was cancelled");
    }
}

#[test]
fn a_nested_call_that_is_given_less_ends_first_and_its_caller_goes_on() {
    let mut cluster = Cluster::new(1);
    let mut outer = cluster.start(
        0,
        never(1).call(shared(async |_| match never(2).call(napping(50)).within(3 * MS).await {
            Err(CallError::OutcomeUnknown(Loss::Timeout)) => 1,
            other => panic!("{other:?}"),
        })),
    );
    cluster.pass_ms(5);
    assert_eq!(outer.result(), Some(Ok(1)));
}

#[test]
fn queued_work_that_expires_is_not_run() {
    for (core, cores) in [(0, 1), (1, 2)] {
        let mut cluster = Cluster::new(cores);
        let far = cluster.key_on(core, 0);
        let _ = cluster.start(
            0,
            never(far).call(exclusive(async |_| {
                sleep(20 * MS).await;
                0
            })),
        );
        let queued = shared(async |_| {
            note("ran");
            0
        });
        let mut queued = cluster.start(0, never(far).call(queued).within(5 * MS));
        cluster.pass_ms(7);
        let error = queued.result().expect("its deadline has passed").expect_err("not run");
        // From another core it may be told by the caller's own timer, which cannot know that nothing ran.
        let near = CallError::Rejected(Rejection::Expired);
        assert!(error == near || cores == 2 && error == CallError::OutcomeUnknown(Loss::Timeout), "{error}");
        cluster.pass_ms(30);
        assert_eq!(notes(), Vec::<String>::new());
    }
}

#[test]
fn a_running_call_whose_deadline_passes_has_an_unknown_outcome() {
    let mut cluster = Cluster::new(1);
    let mut running = cluster.start(0, never(1).call(napping(50)).within(5 * MS));
    cluster.pass_ms(7);
    assert_eq!(running.result(), Some(Err(CallError::OutcomeUnknown(Loss::Timeout))));
}

#[test]
fn a_call_that_is_dispatched_after_its_deadline_is_not_run() {
    // One turn makes the call, the second sends it away: time passes in the outbox or under way.
    for (core, cores, turns) in [(0, 1, 1), (1, 2, 1), (1, 2, 2)] {
        let mut cluster = Cluster::new(cores);
        let key = cluster.key_on(core, 0);
        let call = shared(async |_| {
            note("ran");
            0
        });
        let mut result = cluster.start_later(0, never(key).call(call).within(MS));
        cluster.step(0, crate::core::Event::Turns(turns));
        cluster.now += 5_000_000;
        cluster.run();
        assert_eq!(result.result(), Some(Err(CallError::Rejected(Rejection::Expired))));
        assert_eq!(notes(), Vec::<String>::new());
    }
}
