//! The program of the README: players shoot at barrels.

use epicserver::prelude::*;

#[entity(name = "game.Barrel")]
#[derive(Default)]
struct Barrel {
    hits: u32,
}

#[methods]
impl Barrel {
    /// `&mut self`: exclusive. No other call runs on this barrel until it returns, even across awaits.
    async fn on_hit(&mut self) -> bool {
        self.hits += 1;
        self.hits >= 3
    }
}

#[entity(name = "game.Player", key = String)]
#[derive(Default)]
struct Player {
    score: Field<u64>,
}

#[methods]
impl Player {
    /// `&self`: interleaves with other calls at every await, as in asyncio. `Field` is the cell it may change.
    async fn enter_level(&self, barrels: Vec<Ref<Barrel>>) -> Result<(), CallError> {
        for barrel in barrels {
            if barrel.on_hit().await? {
                self.score.update(|score| score + 1);
            }
        }
        Ok(())
    }

    async fn score(&self) -> u64 {
        self.score.get()
    }
}

#[epicserver::main(entities(Player, Barrel))]
async fn main(pool: Pool) -> Result<(), CallError> {
    let barrels: Vec<_> = (0..30).map(|key| pool.get::<Barrel>(key)).collect();
    let bob = pool.get::<Player>("Bob: Slayer of armoured cylinders");
    for _ in 0..3 {
        bob.enter_level(barrels.clone()).await?;
    }
    println!("New high score for player: {}", bob.score().await?);
    Ok(())
}
