//! Blocks in which nothing can be called.

use epicserver::prelude::*;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: u64,
}

#[methods]
impl Player {
    fn score(&self) -> u64 {
        self.score
    }
}

#[methods]
impl Clone for Player {
    fn clone(&self) -> Self {
        Self { score: self.score }
    }
}

#[methods]
struct Door;

fn main() {}
