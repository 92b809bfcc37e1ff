//! A node that stops: what is waited for, what leaves memory and when, and what holds nothing up.

use std::time::Duration;

use super::by_hand::{entity, method};
use super::cluster::{ByHand, Cluster};
use super::thing::{
    Bomb, HOOKED, Never, ON_IDLE, Shared, Thing, exclusive, hooked, never, note, notes, on_idle, set_on_drop,
    shared,
};
use crate::context::{sleep, spawn, this};
use crate::core::Event;
use crate::driver::Wait;
use crate::node::Node;
use crate::saving::SavePolicy;

const MS: Duration = Duration::from_millis(1);
/// A day: what ends before it does not end by it.
const DAY: Duration = Duration::from_secs(86_400);

fn spawns_a_loop<const POLICY: u8>() -> Shared<POLICY> {
    shared(async |_: &Thing<POLICY>| {
        let spawned = spawn(async {
            let _bomb = Bomb { name: "loop", panics: false };
            loop {
                sleep(5 * MS).await;
            }
        });
        spawned.expect("room");
        0
    })
}

fn stop(cluster: &mut Cluster) {
    (0..cluster.cores.len()).for_each(|core| cluster.step(core, Event::Drain));
    cluster.settle();
}

#[test]
fn a_core_is_at_rest_while_nothing_but_spawned_futures_is_under_way() {
    let mut cluster = Cluster::new(1);
    assert!(cluster.cores[0].is_at_rest());
    let mut spawns = ByHand::start(cluster.outside(0, 1).call(spawns_a_loop::<0>()));
    cluster.settle();
    assert_eq!(spawns.result(), Some(Ok(0)));
    assert!(!cluster.cores[0].is_quiet() && cluster.cores[0].is_at_rest());
    let naps = shared(async |_: &Never| {
        sleep(20 * MS).await;
        1
    });
    let mut call = ByHand::start(cluster.outside(0, 1).call(naps));
    cluster.pass_ms(10);
    assert!(!cluster.cores[0].is_at_rest(), "a call is under way");
    cluster.pass_ms(15);
    assert_eq!(call.result(), Some(Ok(1)));
    assert!(cluster.cores[0].is_at_rest());
    stop(&mut cluster);
    assert_eq!(notes(), ["loop dropped"], "it ends with its object");
    assert!(cluster.cores[0].is_quiet() && cluster.cores[0].is_stopped());
}

#[test]
fn an_object_that_is_used_when_its_node_stops_is_saved_when_its_call_has_ended() {
    let mut cluster = Cluster::new(1);
    let _ = cluster.start(0, on_idle(1).call(spawns_a_loop()));
    let changes = exclusive(async |thing: &mut Thing<ON_IDLE>| {
        sleep(100 * MS).await;
        *thing.count.get_mut() = 7;
        7
    });
    let mut call = ByHand::start(cluster.outside(0, 1).call(changes));
    cluster.pass_ms(10);
    stop(&mut cluster);
    cluster.pass_ms(80);
    assert!(call.result().is_none() && !cluster.cores[0].is_stopped());
    cluster.pass_ms(30);
    cluster.settle();
    assert_eq!((call.result(), notes()), (Some(Ok(7)), vec!["loop dropped".to_owned()]));
    assert_eq!(cluster.saved_count::<Thing<ON_IDLE>>(1), Some(7));
    assert!(cluster.cores[0].is_stopped());
}

#[test]
fn a_spawned_loop_that_calls_all_the_time_ends_with_its_object() {
    for cores in [1, 2] {
        let mut cluster = Cluster::new(cores);
        let (caller, callee) = (cluster.key_on(0, 0), cluster.key_on(cores - 1, 1));
        let spawns = shared(async move |_: &Never| {
            let calls = async move {
                loop {
                    let tick = || shared(async |thing: &Never| thing.tick());
                    let _ = (never(callee).call(tick()).await, never(caller).call(tick()).await);
                    sleep(MS).await;
                }
            };
            spawn(calls).expect("room");
            0
        });
        let _ = cluster.start(0, never(caller).call(spawns));
        cluster.pass_ms(20);
        stop(&mut cluster);
        cluster.pass_ms(30);
        assert!(cluster.cores.iter().all(crate::core::Core::is_stopped), "on {cores} cores");
    }
}

#[test]
fn objects_that_say_goodbye_to_each_other_come_to_rest() {
    set_on_drop(|thing| {
        Box::pin(async {
            let me = this::<Thing<HOOKED>>().key();
            note(format!("goodbye of {me}"));
            let other = hooked(3 - me);
            let _ = other.call(exclusive(async |thing: &mut Thing<HOOKED>| thing.tick())).await;
            thing.tick()
        })
    });
    let mut cluster = Cluster::new(1);
    for key in [1, 2] {
        let _ = cluster.start(0, hooked(key).call(shared(async |thing: &Thing<HOOKED>| thing.tick())));
    }
    cluster.settle();
    stop(&mut cluster);
    for _ in 0..10 {
        cluster.pass_ms(10);
        cluster.settle();
    }
    assert!(cluster.cores[0].is_stopped(), "{:?}", cluster.cores[0].activations());
    assert_eq!(notes(), ["goodbye of 1", "goodbye of 2"]);
}

#[derive(Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Clock {
    ticks: u64,
}

entity!(Clock, u64, "test.Clock", SavePolicy::OnIdle, [Tick, Begin]);
method!(Tick {} on Clock as &'a mut Clock, u64, |_this, clock| {
    clock.ticks += 1;
    clock.ticks
});
method!(Begin {} on Clock as &'a Clock, u64, |_this, clock| {
    spawn(async { loop { sleep(DAY).await } }).expect("room");
    clock.ticks
});

#[tokio::test]
async fn a_node_whose_objects_have_spawned_loops_stops_when_its_calls_have_ended() {
    let store = epicserver_storage::MemoryStore::new(epicserver_storage::StoreId(1));
    for before in 0..2 {
        let builder = Node::builder().bind::<(Clock,)>().cores(2).wait(Wait::Park).pin(false);
        let node = builder.store(store.clone()).start().expect("a node in memory starts");
        let pool = node.pool();
        for key in 0..4u64 {
            assert_eq!(pool.get::<Clock>(key).call(Begin {}).await, Ok(before));
            assert_eq!(pool.get::<Clock>(key).call(Tick {}).await, Ok(before + 1));
        }
        assert!(node.shutdown(DAY).await, "it stops in order");
    }
}
