//! What cannot be a message.

use std::collections::HashMap;

use epicserver::prelude::*;

#[message]
struct Scores {
    of: HashMap<String, u64>,
}

#[message]
struct Name<'a> {
    name: &'a str,
}

#[message]
union Bits {
    whole: u64,
    half: u32,
}

#[message]
enum GameError {
    Call(#[nested] CallError),
}

#[message(wrong)]
struct Empty;

fn main() {}
