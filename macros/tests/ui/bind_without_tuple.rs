//! A single entity is bound as a tuple, too.

use epicserver::prelude::*;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: u64,
}

#[methods]
impl Player {
    async fn score(&self) -> u64 {
        self.score
    }
}

fn main() {
    let _ = Node::builder().bind::<Player>();
}
