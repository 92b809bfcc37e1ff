//! An entity that is bound must have methods.

use epicserver::prelude::*;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: u64,
}

struct Door;

fn bind<E: epicserver::Entities>() {}

fn main() {
    bind::<(Player,)>();
    bind::<(Door,)>();
}
