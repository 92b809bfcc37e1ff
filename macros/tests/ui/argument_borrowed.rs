//! Arguments and results that borrow, or have no name.

use epicserver::prelude::*;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    name: String,
}

#[methods]
impl Player {
    async fn rename(&mut self, name: &str) {
        self.name = name.into();
    }

    async fn rename_all(&mut self, names: Vec<&String>) {
        self.name = names[0].clone();
    }

    async fn rename_to(&mut self, name: impl Into<String>) {
        self.name = name.into();
    }

    async fn name(&self) -> &str {
        &self.name
    }
}

fn main() {}
