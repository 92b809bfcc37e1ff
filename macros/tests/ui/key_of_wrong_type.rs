//! A key that is none, and a key of another entity's type.

use epicserver::prelude::*;

#[entity(name = "game.Player", key = f64)]
#[derive(Default)]
struct Player {
    score: u64,
}

fn main() {}
