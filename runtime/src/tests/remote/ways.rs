//! References that remember the way to an object of another node.

use std::sync::Arc;

use super::world::{Add, Post, World, post};
use crate::entity::RawRef;
use crate::error::CallError;

/// Counts the object up from this node, by a reference that may have been used before.
fn count(world: &mut World, node: usize, reference: &Arc<RawRef<Post>>) -> Result<u64, CallError> {
    let reference = reference.clone();
    world.call(node, async move { reference.call(Add { by: 1 }).await })
}

#[test]
fn a_reference_that_was_used_finds_its_object_wherever_it_moves() {
    let mut world = World::new(3);
    let key = world.key_on(1, 0);
    let reference = Arc::new(post(key));
    assert!(!reference.knows_way());
    for counted in 1..4 {
        assert_eq!(count(&mut world, 0, &reference), Ok(counted));
        assert!(reference.knows_way());
    }
    world.show_move(1, key, 1, 1, 2);
    world.settle();
    world.ship(1, 2, key);
    [2, 1, 0].into_iter().for_each(|node| world.show(node, key, 2, 2));
    // By its owner too, to whom the number in the reference means nothing.
    for (counted, node) in (4..).zip([0, 1, 2, 0, 2]) {
        assert_eq!(count(&mut world, node, &reference), Ok(counted));
    }
    world.end();
}

#[test]
fn a_way_that_is_no_longer_true_is_not_gone() {
    let mut world = World::new(3);
    let (key, other) = (world.key_on(1, 0), world.key_on(1, 1));
    let reference = Arc::new(post(key));
    assert_eq!(count(&mut world, 0, &reference), Ok(1));
    // Node 0 hears of the new owner by a `Moved` only, and of the view later.
    world.show_move(1, key, 1, 1, 2);
    world.settle();
    world.ship(1, 2, key);
    [2, 1].into_iter().for_each(|node| world.show(node, key, 2, 2));
    assert_eq!(count(&mut world, 0, &reference), Ok(2));
    assert_eq!(count(&mut world, 0, &Arc::new(post(other))), Ok(1));
    assert_eq!(count(&mut world, 0, &reference), Ok(3));
    world.show(0, key, 2, 2);
    assert_eq!(count(&mut world, 0, &reference), Ok(4));
    world.end();
}
