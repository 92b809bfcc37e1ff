//! Messages have one type each.

use epicserver::prelude::*;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: u64,
}

#[methods]
impl Player {
    async fn show<T: ToString>(&self, value: T) -> String {
        value.to_string()
    }
}

fn main() {}
