//! Names that cannot be: one that references use themselves, and two with the same hash.

use epicserver::prelude::*;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: u64,
}

#[methods]
impl Player {
    async fn key(&self) -> u64 {
        self.score
    }
}

#[entity(name = "game.Barrel")]
#[derive(Default)]
struct Barrel {
    hits: u64,
}

#[methods]
impl Barrel {
    async fn give_tower_give_stone(&self) -> u64 {
        self.hits
    }

    async fn open_barrel_close_barrel(&self) -> u64 {
        self.hits
    }
}

fn main() {}
