//! A type of the user's own that lacks `#[message]`, as argument and as result.

use epicserver::prelude::*;

struct Profile {
    name: String,
}

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: Field<u64>,
}

#[methods]
impl Player {
    async fn rename(&self, profile: Profile) {
        self.score.set(profile.name.len() as u64);
    }

    async fn profile(&self) -> Profile {
        Profile { name: String::new() }
    }
}

fn main() {}
