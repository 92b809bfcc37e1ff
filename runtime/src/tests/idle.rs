//! Objects that nobody uses leave memory: after a while, and sooner while all of them take more than they may.

use super::cluster::Cluster;
use super::thing::{
    DURABLE, NEVER, ON_IDLE, SHORT_LIVED, Shared, Thing, durable, exclusive, hooked, never, note, notes,
    on_idle, set_on_activate, set_on_drop, shared, short_lived,
};
use crate::context::sleep;
use crate::core::{Core, CoreConfig, Event};
use crate::entity::Entity;
use std::time::Duration;

fn tick<const POLICY: u8>() -> Shared<POLICY> {
    shared(async |thing: &Thing<POLICY>| thing.tick())
}

fn grow<const POLICY: u8>(len: usize) -> Shared<POLICY> {
    shared(async move |thing: &Thing<POLICY>| {
        thing.text.set("x".repeat(len));
        0
    })
}

/// A core whose objects may take so many bytes.
fn with_budget(memory_len_max: u64) -> Cluster {
    Cluster::with(1, CoreConfig { memory_len_max, ..CoreConfig::default() })
}

/// What one durable thing takes that was saved.
fn weight_of_one() -> u64 {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, durable(1).call(tick()));
    cluster.settle();
    cluster.cores[0].memory_len()
}

fn is_in_memory<const POLICY: u8>(core: &Core, key: u64) -> bool
where
    Thing<POLICY>: Entity<Key = u64>,
{
    core.state().read_state::<Thing<POLICY>, _>(&key, |_| ()).is_some()
}

/// Ticks when the core wants to be, until this time; gives how often that was.
fn sleep_until(cluster: &mut Cluster, until: u64) -> usize {
    let mut ticks = 0;
    while let Some(due) = cluster.cores[0].next_timer().filter(|due| *due <= until) {
        cluster.now = cluster.now.max(due);
        cluster.step(0, Event::Tick);
        cluster.settle();
        ticks += 1;
    }
    ticks
}

const S: u64 = 1_000_000_000;

#[test]
fn an_object_weighs_its_archive_and_an_activation_of_256_bytes_at_most() {
    let one = weight_of_one();
    assert!((100..=256 + 32).contains(&one), "{one}");
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, durable(1).call(grow(1000)));
    cluster.settle();
    assert_eq!(cluster.cores[0].memory_len().next_multiple_of(16), (one + 1000).next_multiple_of(16));
}

#[test]
fn over_the_budget_the_least_recently_used_leave_and_have_their_state_when_they_are_called_again() {
    let mut cluster = with_budget(100 * weight_of_one());
    for nth in 0..200 {
        let _ = cluster.start(0, durable(nth * 77 % 200).call(tick()));
        cluster.settle();
        cluster.now += 1000;
    }
    cluster.pass_ms(2);
    for nth in 0..200 {
        let stays = is_in_memory::<DURABLE>(&cluster.cores[0], nth * 77 % 200);
        assert_eq!(stays, nth >= 100, "the {nth}th that was used");
    }
    let counters = cluster.cores[0].counters();
    assert_eq!((counters.budget_dropped, counters.idle_dropped), (100, 0));
    let mut again = cluster.start(0, durable(0).call(tick()));
    cluster.settle();
    assert_eq!(again.result(), Some(Ok(2)));
}

#[test]
fn in_large_tables_what_leaves_is_among_the_older() {
    let objects = 5_000;
    let mut cluster = with_budget((objects - objects / 20) * weight_of_one());
    for key in 0..objects {
        let _ = cluster.start(0, durable(key).call(tick()));
        cluster.now += 1000;
    }
    cluster.settle();
    cluster.pass_ms(10);
    let core = &cluster.cores[0];
    assert_eq!(core.counters().budget_dropped, objects / 20);
    let gone = |keys: std::ops::Range<u64>| keys.filter(|key| !is_in_memory::<DURABLE>(core, *key)).count();
    assert_eq!(gone(objects / 2..objects), 0, "the newer half stays");
    assert!(gone(0..objects / 8) as u64 > objects / 20 * 9 / 10, "{}", gone(0..objects / 8));
}

#[test]
fn a_pass_over_the_budget_takes_a_bounded_part() {
    let objects = 5_000;
    let mut cluster = with_budget((objects + 1) * weight_of_one());
    for key in 0..objects {
        let _ = cluster.start(0, durable(key).call(tick()));
    }
    cluster.settle();
    cluster.step(0, Event::Tick);
    cluster.now += 1000;
    let _ = cluster.start(0, durable(0).call(grow(1 << 20)));
    cluster.settle();
    assert_eq!(cluster.cores[0].counters().budget_dropped, 0);
    let before = cluster.now;
    cluster.step(0, Event::Tick);
    assert_eq!(cluster.cores[0].counters().budget_dropped, 32, "eight choices of four");
    let ticks = sleep_until(&mut cluster, before);
    assert!(
        cluster.cores[0].memory_len() <= (objects + 1) * weight_of_one(),
        "it goes on in the passes that follow"
    );
    assert!((100..1_000).contains(&ticks), "{ticks} passes");
}

#[test]
fn objects_in_use_stay_and_a_core_that_cannot_drop_any_sleeps() {
    let mut cluster = with_budget(0);
    let long = shared(async |thing: &Thing<NEVER>| {
        sleep(Duration::from_secs(5)).await;
        thing.tick()
    });
    let mut busy = cluster.start(0, never(1).call(long));
    let ticks = sleep_until(&mut cluster, S);
    assert!(is_in_memory::<NEVER>(&cluster.cores[0], 1));
    assert!(ticks <= 110, "{ticks} looks in a second");
    sleep_until(&mut cluster, 6 * S);
    assert_eq!(busy.result(), Some(Ok(1)));
    assert_eq!(cluster.cores[0].activations(), 0);
}

#[test]
fn hooks_run_before_an_object_leaves_for_the_budget() {
    set_on_activate(|_| Box::pin(async { 0 }));
    set_on_drop(|thing| {
        Box::pin(async {
            note("left");
            sleep(Duration::from_millis(20)).await;
            *thing.count.get_mut() += 10;
            0
        })
    });
    let mut cluster = with_budget(0);
    for key in 1..3 {
        let _ = cluster.start(0, hooked(key).call(tick()));
    }
    cluster.settle();
    cluster.pass_ms(30);
    cluster.settle();
    assert_eq!((notes(), cluster.cores[0].activations()), (vec!["left".to_owned(); 2], 0));
    let mut again = cluster.start(0, hooked(1).call(tick()));
    cluster.settle();
    assert_eq!(again.result(), Some(Ok(12)));
    cluster.pass_ms(30);
}

#[test]
fn others_do_not_leave_for_the_bytes_of_one_whose_hook_runs() {
    set_on_activate(|_| Box::pin(async { 0 }));
    set_on_drop(|_| {
        Box::pin(async {
            sleep(Duration::from_millis(50)).await;
            0
        })
    });
    let mut cluster = with_budget(3 * weight_of_one() + 16);
    for key in 0..4 {
        let _ = cluster.start(0, hooked(key).call(tick()));
        cluster.settle();
        cluster.now += 1000;
    }
    cluster.pass_ms(10);
    assert_eq!(cluster.cores[0].counters().budget_dropped, 1);
    cluster.pass_ms(100);
    assert_eq!(cluster.cores[0].activations(), 3);
}

#[test]
fn an_object_that_is_never_saved_begins_anew_when_it_was_dropped() {
    let mut cluster = with_budget(0);
    let mut first = cluster.start(0, never(1).call(tick()));
    cluster.pass_ms(2);
    let mut again = cluster.start(0, never(1).call(tick()));
    assert_eq!((first.result(), again.result()), (Some(Ok(1)), Some(Ok(1))));
}

#[test]
fn states_that_are_not_saved_at_once_are_measured_now_and_then() {
    let budget = 2 * weight_of_one() + 5_000;
    let mut cluster = with_budget(budget);
    let _ = cluster.start(0, never(1).call(tick()));
    cluster.now += 1000;
    let _ = cluster.start(0, on_idle(1).call(grow(10_000)));
    cluster.settle();
    assert!(cluster.cores[0].memory_len() < budget, "nobody knows yet");
    sleep_until(&mut cluster, 11 * S);
    let core = &cluster.cores[0];
    assert!(
        !is_in_memory::<NEVER>(core, 1) && !is_in_memory::<ON_IDLE>(core, 1),
        "older, and larger than the budget"
    );
    assert_eq!(cluster.saved_count::<Thing<ON_IDLE>>(1), Some(0));
}

#[test]
fn an_entity_may_say_itself_how_long_its_objects_lie_idle() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, short_lived(1).call(tick()));
    let _ = cluster.start(0, never(1).call(tick()));
    cluster.settle();
    sleep_until(&mut cluster, 2 * S - 1);
    assert!(is_in_memory::<SHORT_LIVED>(&cluster.cores[0], 1));
    sleep_until(&mut cluster, 3 * S);
    let core = &cluster.cores[0];
    assert_eq!((is_in_memory::<SHORT_LIVED>(core, 1), is_in_memory::<NEVER>(core, 1)), (false, true));
    assert_eq!(core.counters().idle_dropped, 1);
}

/// A core with no other timer was never told that time passes, so that nothing ever left the memory of a node that is alone.
#[test]
fn a_quiet_core_has_itself_woken_until_all_has_left() {
    let mut cluster = Cluster::new(1);
    for key in 0..1_000 {
        let _ = cluster.start(0, never(key).call(tick()));
    }
    let limit = CoreConfig::default().idle_ns;
    sleep_until(&mut cluster, limit);
    assert_eq!(cluster.cores[0].activations(), 1_000);
    sleep_until(&mut cluster, limit + limit / 4);
    assert_eq!((cluster.cores[0].activations(), cluster.cores[0].next_timer()), (0, None));
}

#[test]
fn whatever_ends_an_object_takes_its_weight_away() {
    let mut cluster = Cluster::new(1);
    let forgets = exclusive(async |thing: &mut Thing<DURABLE>| {
        *thing.count.get_mut() = 1;
        crate::context::forget();
        0
    });
    let _ = cluster.start(0, durable(1).call(forgets));
    let _ = cluster.start(0, durable(2).call(shared(async |_| panic!("on purpose"))));
    let _ = cluster.start(0, durable(3).call(grow(5_000)));
    let _ = cluster.start(0, never(4).call(grow(5_000)));
    cluster.settle();
    sleep_until(&mut cluster, 2 * CoreConfig::default().idle_ns);
    assert_eq!((cluster.cores[0].activations(), cluster.cores[0].memory_len()), (0, 0));
}
