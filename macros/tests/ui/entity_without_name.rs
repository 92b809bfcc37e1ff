//! Names are what an entity is found and saved under, so there is no default.

use epicserver::prelude::*;

#[entity(key = String)]
#[derive(Default)]
struct Player {
    score: u64,
}

fn main() {}
