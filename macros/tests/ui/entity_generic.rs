//! A name stands for one type.

use epicserver::prelude::*;

#[entity(name = "game.Chest")]
#[derive(Default)]
struct Chest<T> {
    content: Vec<T>,
}

fn main() {}
