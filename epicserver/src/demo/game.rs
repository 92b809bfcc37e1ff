//! The game: barrels that die of their third hit, and players that count them.

use epicserver::prelude::*;

#[entity(name = "game.Barrel")]
#[derive(Default)]
pub(crate) struct Barrel {
    hits: u32,
}

#[methods]
impl Barrel {
    /// Whether the barrel is dead.
    pub(crate) async fn on_hit(&mut self) -> bool {
        self.hits += 1;
        self.hits >= 3
    }
}

#[entity(name = "game.Player", key = String)]
#[derive(Default)]
pub(crate) struct Player {
    score: Field<u64>,
}

#[methods]
impl Player {
    /// Shoots once at every barrel.
    pub(crate) async fn enter_level(&self, barrels: Vec<Ref<Barrel>>) -> Result<(), CallError> {
        for barrel in barrels {
            if barrel.on_hit().await? {
                self.score.update(|score| score + 1);
            }
        }
        Ok(())
    }

    /// The dead barrels so far.
    pub(crate) async fn score(&self) -> u64 {
        self.score.get()
    }
}
