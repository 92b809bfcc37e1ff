//! Plays the game and checks every score.

use std::time::Duration;

use epicserver::{CallError, Executed, Pool, Ref};
use tokio::task::JoinSet;

use super::game::{Barrel, Player};

/// Who plays against what, and how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    players: u64,
    barrels_each: u64,
    rounds: u64,
    /// Keeps the players of one phase apart from those of another.
    name: &'static str,
}

/// What was called, and how it went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) unknown: u64,
    pub(crate) answers: u64,
    pub(crate) wrong: u64,
}

impl Plan {
    pub(crate) fn new(players: u64, barrels: u64, rounds: u64, name: &'static str) -> Self {
        Self { players, barrels_each: barrels / players, rounds, name }
    }

    fn player(&self, pool: &Pool, number: u64) -> Ref<Player> {
        pool.get::<Player>(&format!("{} player {number}", self.name))
    }

    /// The block of barrels that a player shoots at in a round: in each round each block has one player.
    fn block(&self, pool: &Pool, player: u64, round: u64) -> Vec<Ref<Barrel>> {
        let block = (player + round * BLOCK_STEP) % self.players;
        let first = block * self.barrels_each;
        (first..first + self.barrels_each).map(|key| pool.get::<Barrel>(key)).collect()
    }

    /// What a player has after `rounds` rounds: a barrel counts from its third hit on.
    fn score_after(&self, rounds: u64) -> u64 {
        rounds.saturating_sub(2) * self.barrels_each
    }
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.answers += other.answers;
        self.wrong += other.wrong;
    }

    fn fail(&mut self, error: &CallError) {
        tracing::error!(%error, "a call failed");
        match error.executed() {
            Executed::Unknown => self.unknown += 1,
            Executed::No | Executed::Yes => self.failed += 1,
        }
    }
}

/// Plays all rounds, one after the other, all players of a round at once.
pub(crate) async fn play(pool: &Pool, plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    for round in 0..plan.rounds {
        let mut players = JoinSet::new();
        for number in 0..plan.players {
            let player = plan.player(pool, number);
            let barrels = plan.block(pool, number, round);
            let expected = plan.score_after(round + 1);
            players.spawn(async move { one_level(&player, barrels, expected).await });
        }
        while let Some(result) = players.join_next().await {
            match result {
                Ok(one) => tally.add(&one),
                Err(error) => {
                    tracing::error!(%error, "a player's task ended");
                    tally.failed += 1;
                }
            }
        }
    }
    tally
}

async fn one_level(player: &Ref<Player>, barrels: Vec<Ref<Barrel>>, expected: u64) -> Tally {
    let mut tally = Tally { calls: barrels.len() as u64 + 2, ..Tally::default() };
    if let Err(error) = player.enter_level(barrels).within(BUDGET).await {
        tally.fail(&error);
    }
    match player.score().within(BUDGET).await {
        Ok(score) => {
            tally.answers += 1;
            if score != expected {
                tracing::error!(score, expected, ?player, "a score is wrong");
                tally.wrong += 1;
            }
        }
        Err(error) => tally.fail(&error),
    }
    tally
}

/// Coprime to round numbers of players, so that blocks go to other players in each round.
const BLOCK_STEP: u64 = 7;
const BUDGET: Duration = Duration::from_secs(120);
