//! Arguments of `#[entity]` that are not known, or have wrong values.

use epicserver::prelude::*;

#[entity(name = "game.Player", keys = String)]
#[derive(Default)]
struct Player {
    score: u64,
}

#[entity(name = "game.Barrel", save = sometimes)]
#[derive(Default)]
struct Barrel {
    hits: u64,
}

#[entity(name = "game/Door", save = behind("soon"))]
#[derive(Default)]
struct Door {
    open: bool,
}

#[entity(name = "game chest")]
#[derive(Default)]
struct Chest {
    open: bool,
}

#[entity(name = "game.Torch", idle = "soon")]
#[derive(Default)]
struct Torch {
    lit: bool,
}

#[entity(name = "game.Candle", idle = 5)]
#[derive(Default)]
struct Candle {
    lit: bool,
}

fn main() {}
