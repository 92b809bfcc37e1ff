//! Ways to take `self` that would move the object out of its place.

use std::sync::Arc;

use epicserver::prelude::*;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: u64,
}

#[methods]
impl Player {
    async fn finish(self) -> u64 {
        self.score
    }

    async fn share(self: Arc<Self>) -> u64 {
        self.score
    }
}

fn main() {}
