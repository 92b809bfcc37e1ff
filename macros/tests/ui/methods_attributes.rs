//! Attributes on methods where they mean nothing.

use epicserver::prelude::*;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: u64,
}

#[methods]
impl Player {
    #[method(serial)]
    async fn add(&mut self, points: u64) {
        self.score += points;
    }

    #[method(parallel)]
    async fn score(&self) -> u64 {
        self.score
    }

    #[method(shield)]
    fn plain(&self) -> u64 {
        self.score
    }

    #[on_activate]
    async fn started(&self) {}

    #[on_drop]
    #[method(shield)]
    async fn stopped(&mut self) {}
}

fn main() {}
