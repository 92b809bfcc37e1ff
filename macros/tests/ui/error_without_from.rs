//! The error of a method must be able to say that the call itself failed.

use epicserver::prelude::*;

#[message(error)]
enum NoLevel {
    NoSuchLevel,
}

#[message]
enum NotAnError {
    Full,
}

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: u64,
}

#[methods]
impl Player {
    async fn enter(&self) -> Result<u64, NotAnError> {
        Ok(self.score)
    }
}

fn main() {}
