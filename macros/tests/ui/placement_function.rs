//! `partition_by` is a function from key to key.

use epicserver::prelude::*;

fn first_letter(key: &str) -> char {
    key.chars().next().unwrap_or(' ')
}

#[entity(name = "game.Player", key = String, partition_by = first_letter)]
#[derive(Default)]
struct Player {
    score: u64,
}

fn main() {}
