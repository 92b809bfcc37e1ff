//! An entity that is bound must have methods.

use epicserver::prelude::*;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: u64,
}

struct Door;

fn main() {
    Node::builder().bind::<(Player,)>();
    Node::builder().bind::<(Door,)>();
}
