//! The game of another version of the program: entities of the same names, whose states and methods look different.

use epicserver::prelude::*;

#[entity(name = "game.Barrel", save = never)]
#[derive(Default)]
pub(crate) struct Barrel {
    hits: u64,
}

#[methods]
impl Barrel {
    async fn on_hit(&mut self, with: String) -> u64 {
        self.hits += with.len() as u64;
        self.hits
    }
}

#[entity(name = "game.Player", key = String)]
#[derive(Default)]
pub(crate) struct Player {
    score: Field<u64>,
    lives: Field<u8>,
}

#[methods]
impl Player {
    /// Another answer than that of the game.
    pub(crate) async fn score(&self) -> (u64, u8) {
        (self.score.get(), self.lives.get())
    }
}
