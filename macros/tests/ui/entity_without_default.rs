//! Nobody creates an object, so it must know how to begin.

use epicserver::prelude::*;

#[entity(name = "game.Player")]
struct Player {
    score: u64,
}

fn main() {}
