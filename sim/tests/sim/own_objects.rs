//! Tests of somebody's own objects in a simulated world.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use epicserver::context;
use epicserver::prelude::*;
use epicserver_sim::world::WorldKind;
use epicserver_sim::{World, check};

#[entity(name = "own.Counter")]
#[derive(Default)]
struct Counter {
    count: Field<u64>,
}

#[methods]
impl Counter {
    async fn add(&self, by: u64) -> u64 {
        self.count.update(|count| count + by);
        self.count.get()
    }

    /// Loses what others add while it sleeps.
    async fn add_late(&self, by: u64) -> u64 {
        let count = self.count.get();
        context::sleep(Duration::from_micros(50)).await;
        self.count.set(count + by);
        count + by
    }

    async fn count(&self) -> u64 {
        self.count.get()
    }

    async fn from(&self, other: Ref<Counter>) -> Result<u64, CallError> {
        let count = other.count().await?;
        self.count.update(|mine| mine + count);
        Ok(self.count.get())
    }

    async fn worked_elsewhere(&self) -> Result<u64, CallError> {
        let (now, random) = (context::now(), context::random());
        let half = context::blocking(move || random / 2).await?;
        assert!(context::now() > now, "work elsewhere takes some time of the world");
        Ok(half)
    }

    async fn waits_for_the_world(&self) -> Result<u64, CallError> {
        context::edge(std::future::ready(1)).await
    }

    async fn sees_a_static(&self) -> u64 {
        static SEEN: AtomicU64 = AtomicU64::new(0);
        self.count.set(SEEN.fetch_add(1, Ordering::Relaxed));
        self.count.get()
    }

    #[expect(clippy::disallowed_methods, reason = "it is what is to be found")]
    async fn looks_at_the_clock(&self) -> bool {
        std::time::SystemTime::now() > std::time::SystemTime::UNIX_EPOCH
    }
}

async fn three_add(world: World) -> Result<(), CallError> {
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let counter = world.get::<Counter>(1);
            world.spawn(async move { counter?.add(2).await })
        })
        .collect();
    for client in clients {
        client.await?;
    }
    assert_eq!(world.get::<Counter>(1)?.count().await?, 6);
    Ok(())
}

/// What is acknowledged survives every fault, and what is not counts once at most.
async fn promises_are_kept(world: World) {
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let cluster = world.clone();
            world.spawn(async move {
                let (mut sure, mut maybe) = (0, 0);
                for _ in 0..12 {
                    let Ok(counter) = cluster.get::<Counter>(cluster.below(2)) else {
                        cluster.sleep(Duration::from_millis(5)).await;
                        continue;
                    };
                    match counter.add(1).await {
                        Ok(_) => sure += 1,
                        Err(error) if error.executed() == epicserver::Executed::No => {}
                        Err(_) => maybe += 1,
                    }
                }
                (sure, maybe)
            })
        })
        .collect();
    let (mut sure, mut maybe) = (0, 0);
    for client in clients {
        let more: (u64, u64) = client.await;
        (sure, maybe) = (sure + more.0, maybe + more.1);
    }
    if world.below(2) == 0 {
        world.restart().await
    } else {
        world.heal().await
    }
    let mut count = 0;
    for key in 0..2 {
        count += world.until_ok(|pool| pool.get::<Counter>(key).count()).await;
    }
    assert!((sure..=sure + maybe).contains(&count), "{count} after {sure} sure ones and {maybe} others");
}

#[test]
fn a_calm_world_only_draws_the_order() {
    let passed = check::<(Counter,)>().nodes(1..4).seeds(50).calm().try_run(three_add).expect("it holds");
    assert_eq!(passed.seeds, 50);
    let harmless = ["store slow", "links of uneven speed", "node joined"];
    assert!(passed.faults.keys().all(|fault| harmless.contains(fault)), "{:?}", passed.faults);
}

#[test]
fn promises_are_kept_whatever_goes_wrong() {
    let passed = check::<(Counter,)>().nodes(1..4).seeds(60).try_run(promises_are_kept);
    let passed = passed.unwrap_or_else(|failure| panic!("{failure}"));
    let of_all_kinds = ["node crashed", "link cut", "commit failed", "record damaged", "store slow"];
    let of_moves = ["node joined", "node left", "node paused", "network flapped", "keeper out of reach"];
    for fault in of_all_kinds.into_iter().chain(of_moves) {
        assert!(passed.faults.contains_key(fault), "no {fault} in {:?}", passed.faults);
    }
}

#[test]
fn a_lost_update_is_found_and_its_seed_fails_again_in_the_same_way() {
    let lost = |world: World| async move {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                let counter = world.get::<Counter>(1);
                world.spawn(async move { counter?.add_late(1).await })
            })
            .collect();
        for client in clients {
            client.await?;
        }
        world.note("all have added");
        assert_eq!(world.get::<Counter>(1)?.count().await?, 2, "an update is lost");
        Ok::<(), CallError>(())
    };
    let counters = || check::<(Counter,)>().nodes(1..3).calm().named("lost");
    let failure = counters().seeds(100).try_run(lost).expect_err("it is found");
    let again = counters().seed(failure.seed).try_run(lost).expect_err("it fails again");
    assert_eq!((failure.trace_hash, &failure.what), (again.trace_hash, &again.what));
    let text = failure.to_string();
    assert!(failure.what.contains("an update is lost"), "{text}");
    assert!(text.contains("Noted { text: \"all have added\" }"), "{text}");
    let shrunk = failure.shrunk.expect("it was shrunk");
    assert!(shrunk.tape_len.1 < shrunk.tape_len.0 / 4, "{text}");
    assert!(shrunk.events.1 < shrunk.events.0 && shrunk.what.contains("an update is lost"), "{text}");
    let smaller = counters().seed(failure.seed).edits(shrunk.edits.clone()).try_run(lost);
    let smaller = smaller.expect_err("it fails too");
    assert_eq!((smaller.trace_hash, &smaller.what), (shrunk.trace_hash, &shrunk.what));
    let (seed, tape) = (failure.seed, &shrunk.edits);
    let environment = format!("EPICSERVER_SIM_SEED={seed} EPICSERVER_SIM_TAPE={tape}");
    for text in [text, smaller.to_string()] {
        assert!(text.ends_with(&format!("{environment} cargo test -p epicserver-sim lost")), "{text}");
    }
    let whole = counters().seed(failure.seed).shrink_runs(0).try_run(lost).expect_err("it fails again");
    assert!(whole.shrunk.is_none() && !whole.to_string().contains("EPICSERVER_SIM_TAPE"), "{whole}");
}

/// Nodes renew their leases one after the other, so that in some worlds there is never a second in which nobody says anything.
#[test]
fn a_world_is_healed_although_its_nodes_go_on_talking() {
    let test = async |world: World| {
        // Nodes join in this time, so that not all renew at once.
        for _ in 0..40 {
            world.sleep(Duration::from_millis(130)).await;
        }
        let faults_end = world.now();
        world.heal().await;
        let took = world.now() - faults_end;
        assert!(took < Duration::from_secs(30), "it took {took:?}");
    };
    check::<(Counter,)>().nodes(3..4).kind(WorldKind::Moving).seeds(22).shrink_runs(0).run(test);
}

#[test]
fn an_error_fails_a_test_as_a_panic_does() {
    let failure =
        check::<(Counter,)>().seeds(1).try_run(async |_| Err::<(), _>("no money")).expect_err("an error");
    assert!(failure.what.contains("no money"), "{failure}");
}

#[test]
fn a_panic_of_any_task_fails_the_test() {
    let test = |world: World| async move {
        world.spawn(async { panic!("no client") });
        world.sleep(Duration::from_secs(1)).await;
    };
    let failure = check::<(Counter,)>().seeds(1).calm().try_run(test).expect_err("a panic");
    assert!(failure.what.contains("no client"), "{failure}");
}

#[test]
fn work_elsewhere_is_done_later_in_the_time_of_the_world() {
    let test = async |world: World| world.get::<Counter>(1)?.worked_elsewhere().await.map(drop);
    check::<(Counter,)>().nodes(1..3).seeds(10).calm().run(test);
}

#[test]
fn futures_of_the_edge_are_refused_by_name() {
    let test = async |world: World| world.get::<Counter>(1)?.waits_for_the_world().await.map(drop);
    let failure = check::<(Counter,)>().seeds(1).calm().try_run(test).expect_err("refused");
    assert!(failure.what.contains("`context::edge`"), "{failure}");
}

#[test]
fn what_does_not_come_from_the_seed_is_found() {
    let test = async |world: World| world.get::<Counter>(1)?.sees_a_static().await.map(drop);
    let failure = check::<(Counter,)>().seeds(1).calm().try_run(test).expect_err("runs differ");
    assert!(failure.what.contains("two runs of one seed differ"), "{failure}");
    assert!(failure.what.contains("Saved {"), "{failure}");
}

#[test]
fn who_reads_the_clock_of_the_machine_is_named() {
    let test = async |world: World| world.get::<Counter>(1)?.looks_at_the_clock().await.map(drop);
    let failure = check::<(Counter,)>().seeds(1).calm().try_run(test).expect_err("it is not the world's");
    for part in ["it reads the machine's clock", "looks_at_the_clock", "own_objects.rs:", "`context::now`"] {
        assert!(failure.what.contains(part), "{part} is not in {failure}");
    }
    assert!(!failure.what.contains("runs of one seed differ"), "nothing comes of it: {failure}");
    check::<(Counter,)>().seeds(1).calm().may_look_outside().run(test);
}

#[test]
fn a_test_that_waits_for_nothing_ends() {
    let failure = check::<(Counter,)>().seeds(1).calm().try_run(async |_| std::future::pending::<()>().await);
    assert!(failure.expect_err("stuck").what.contains("does not come"));
}

#[test]
fn time_passes_only_in_the_world() {
    let slept = Rc::new(Cell::new(Duration::ZERO));
    let noted = slept.clone();
    let test = move |world: World| {
        let noted = noted.clone();
        async move {
            let before = world.now();
            world.sleep(Duration::from_secs(3600)).await;
            noted.set(world.now() - before);
        }
    };
    check::<(Counter,)>().seeds(1).calm().run(test);
    assert!(slept.get() >= Duration::from_secs(3600) && slept.get() < Duration::from_secs(3601));
}

#[test]
fn calls_go_between_nodes() {
    let test = async |world: World| {
        for key in 0..20 {
            let counter = world.get::<Counter>(key)?;
            counter.from(world.get::<Counter>(key + 1)?).await?;
        }
        Ok::<(), CallError>(())
    };
    check::<(Counter,)>().nodes(4..5).seeds(5).calm().run(test);
}
