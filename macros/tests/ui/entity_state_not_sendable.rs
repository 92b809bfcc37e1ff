//! State that cannot be saved.

use std::collections::HashMap;

use epicserver::prelude::*;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: u64,
    items: HashMap<String, u64>,
}

fn main() {}
