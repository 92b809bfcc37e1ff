//! State that cannot be saved.

use std::rc::Rc;

use epicserver::prelude::*;

struct Level;

#[entity(name = "game.Player")]
#[derive(Default)]
struct Player {
    name: Rc<String>,
    level: Option<Level>,
}

fn main() {}
