//! The game: barrels that live in memory only, and players that are durable.

use std::time::Duration;

use epicserver::prelude::*;
use epicserver::{Executed, context};

/// Lives in memory only: what hit it is forgotten when its process is killed.
#[entity(name = "game.Barrel", save = never)]
#[derive(Default)]
pub(crate) struct Barrel {
    hits: u32,
}

#[methods]
impl Barrel {
    /// Hits the barrel; gives its hits so far, this one included.
    pub(crate) async fn on_hit(&mut self) -> u32 {
        self.hits += 1;
        self.hits
    }

    /// Forgets its hits: what a lost object would look like.
    pub(crate) async fn lose_all_hits(&mut self) {
        self.hits = 0;
    }
}

/// Durable: whoever was told a score finds it again, whatever is killed.
#[entity(name = "game.Player", key = String, samples = "tests/saved")]
#[derive(Default)]
pub(crate) struct Player {
    score: Field<u64>,
}

/// What came of a level.
#[message]
#[derive(Clone, Debug)]
pub(crate) struct Level {
    /// The player's score when the level began.
    pub(crate) before: u64,
    /// The player's score when it ended.
    pub(crate) after: u64,
    /// One for each barrel, in order.
    pub(crate) shots: Vec<Shot>,
}

/// What came of a shot.
#[message]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shot {
    /// The barrel was hit so many times by now.
    Hit(u32),
    /// The barrel was not hit.
    Missed,
    /// Nobody knows whether it was.
    Unknown,
}

#[methods]
impl Player {
    /// Shoots once at every barrel; each that has three hits counts.
    pub(crate) async fn enter_level(&self, barrels: Vec<Ref<Barrel>>) -> Level {
        let before = self.score.get();
        let mut shots = Vec::with_capacity(barrels.len());
        for barrel in barrels {
            let shot = shoot(&barrel).await;
            if matches!(shot, Shot::Hit(hits) if hits >= HITS_TO_DIE) {
                self.score.update(|score| score + 1);
            }
            shots.push(shot);
        }
        Level { before, after: self.score.get(), shots }
    }

    /// Changes the score, so that an answer says that changes are saved. For a player who does not play.
    pub(crate) async fn witness(&self) {
        self.score.update(|score| score + 1);
    }

    /// The dead barrels so far.
    pub(crate) async fn score(&self) -> u64 {
        self.score.get()
    }
}

/// Tries again while that is certainly safe: a barrel whose process was killed is somewhere else in a moment.
async fn shoot(barrel: &Ref<Barrel>) -> Shot {
    for _ in 0..TRIES {
        match barrel.on_hit().await {
            Ok(hits) => return Shot::Hit(hits),
            Err(error) if error.retry_safe() => context::sleep(PAUSE).await,
            Err(error) if error.executed() == Executed::Unknown => return Shot::Unknown,
            Err(_) => return Shot::Missed,
        }
    }
    Shot::Missed
}

/// Hits that kill a barrel.
pub(crate) const HITS_TO_DIE: u32 = 3;
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);
