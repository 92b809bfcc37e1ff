//! A call with a wrong argument.

use epicserver::prelude::*;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: Field<u64>,
}

#[methods]
impl Player {
    async fn add(&self, points: u64) {
        self.score.update(|score| score + points);
    }
}

async fn play(player: Ref<Player>) {
    player.add("ten").await.unwrap();
    player.add().await.unwrap();
}

fn main() {}
