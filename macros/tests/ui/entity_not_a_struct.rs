//! State is a struct.

use epicserver::prelude::*;

#[entity(name = "game.Door")]
enum Door {
    Open,
    Shut,
}

fn main() {}
