//! An argument that cannot leave its thread.

use std::rc::Rc;

use epicserver::prelude::*;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    score: Field<u64>,
}

#[methods]
impl Player {
    async fn rename(&self, name: Rc<String>) {
        self.score.set(name.len() as u64);
    }
}

fn main() {}
