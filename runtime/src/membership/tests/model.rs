//! A handful of nodes, a keeper, and a network that is slow, from one seed: nodes die, stop, leave and come, the keeper is lost.
//!
//! The laws: no two nodes serve one partition at one time, whatever they know; a node shows its cores a partition only after it
//! opened that fence; and when the faults end, every partition is served, by the node that the view says.

mod chaos;
mod keeper;
mod process;
mod world;

use world::World;

const SEEDS: u64 = 96;
/// So that the seeds run side by side.
const SHARDS: u64 = 4;

fn run_shard(shard: u64) {
    let mut total = world::Tally::default();
    for seed in (shard..SEEDS).step_by(SHARDS as usize) {
        let mut world = World::new(seed);
        world.run();
        total.add(&world.tally);
    }
    // The seeds do something: else the laws hold for nothing.
    assert!(total.views > SEEDS && total.hand_overs > SEEDS * 100, "{total:?}");
    for (what, count) in [
        ("keepers lost", total.reigns),
        ("evictions", total.evictions),
        ("deaths", total.deaths),
        ("leaves", total.leaves),
        ("new stores", total.stores),
        ("stops", total.stops),
    ] {
        assert!(count > SEEDS / SHARDS / 8, "{what}: {count}, {total:?}");
    }
}

#[test]
fn no_partition_has_two_masters_and_all_are_served_in_the_end_first() {
    run_shard(0);
}

#[test]
fn no_partition_has_two_masters_and_all_are_served_in_the_end_second() {
    run_shard(1);
}

#[test]
fn no_partition_has_two_masters_and_all_are_served_in_the_end_third() {
    run_shard(2);
}

#[test]
fn no_partition_has_two_masters_and_all_are_served_in_the_end_fourth() {
    run_shard(3);
}
