//! A game that goes on in the background: every player shoots at its own barrels, level after level, and the books say what
//! must come of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epicserver::cluster::{View, partition_of};
use epicserver::{Call, CallError, Executed, Method, Pool, Ref};
use tokio::task::JoinSet;

use super::game::{Barrel, Player};
use super::ledger::{Findings, Ledger};

/// A game that goes on until it is ended.
pub(crate) struct Game {
    table: Arc<Table>,
    players: JoinSet<()>,
}

/// What all players share.
struct Table {
    ledger: Mutex<Ledger>,
    pool: Pool,
    barrels_each: usize,
    levels: AtomicU64,
    /// Of each player.
    levels_of: Vec<AtomicU64>,
    failed: AtomicU64,
    retried: AtomicU64,
    stop: AtomicBool,
}

/// What came of a game.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// What the books say.
    pub(crate) findings: Findings,
    /// Calls that failed for good though they did not run.
    pub(crate) failed: u64,
    /// Calls that did not run and were made again.
    pub(crate) retried: u64,
}

impl Outcome {
    /// Whether nothing was lost, wrong or failed, and something was there to be lost.
    pub(crate) fn is_good(&self) -> bool {
        let Self { findings, failed, .. } = self;
        findings.wrong == 0
            && findings.lost_saves == 0
            && *failed == 0
            && findings.forgotten <= findings.forgotten_allowed
            && findings.acknowledged_saves > 0
    }
}

impl Game {
    /// Starts a game of so many players, each with so many barrels of its own.
    pub(crate) fn start(pool: Pool, players: usize, barrels_each: usize) -> Self {
        let ledger = Mutex::new(Ledger::new(players * barrels_each, players));
        let table = Arc::new(Table {
            ledger,
            pool,
            barrels_each,
            levels: AtomicU64::new(0),
            levels_of: (0..players).map(|_| AtomicU64::new(0)).collect(),
            failed: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut game = Self { table, players: JoinSet::new() };
        for number in 0..players {
            let table = game.table.clone();
            game.players.spawn(async move { table.play(number).await });
        }
        game
    }

    /// Levels that have ended.
    pub(crate) fn levels(&self) -> u64 {
        self.table.levels.load(Ordering::Relaxed)
    }

    /// Waits until so many more levels have ended. It waits as long as the game takes: the caller knows how long that may be.
    pub(crate) async fn play_on(&self, levels: u64) {
        let target = self.levels() + levels;
        while self.levels() < target {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until every player has ended a level that it began from now on, so that no call is under way that is older. As
    /// [`play_on`](Self::play_on), it waits as long as that takes.
    pub(crate) async fn all_play_on(&self) {
        let levels = |player: &AtomicU64| player.load(Ordering::Relaxed);
        let before: Vec<u64> = self.table.levels_of.iter().map(levels).collect();
        let behind =
            || self.table.levels_of.iter().zip(&before).any(|(player, before)| levels(player) < before + 2);
        while behind() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What is on these nodes, or on its way, may be forgotten, as far as it lives in memory only.
    pub(crate) fn excuse(&self, view: &View, nodes: &BTreeSet<u64>) {
        let mut ledger = self.table.ledger();
        let barrels = ledger.barrels();
        let on_them = |barrel: &usize| {
            let state = view.partition(partition_of::<Barrel>(*barrel as u64));
            state.moving_to.is_some() || state.owner.is_some_and(|owner| nodes.contains(&owner.id))
        };
        ledger.killed((0..barrels).filter(on_them));
    }

    /// Whether this barrel may begin again.
    pub(crate) fn is_excused(&self, barrel: usize) -> bool {
        self.table.ledger().is_excused(barrel)
    }

    /// Ends the game, asks every player for the score once more, and gives what came of it.
    pub(crate) async fn end(mut self) -> Outcome {
        self.table.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.players.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a player's task ended early");
                self.table.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        let players = self.table.ledger().players();
        for number in 0..players {
            let player = self.table.player(number);
            match retrying(&self.table.retried, || player.score()).await {
                Ok(score) => self.table.ledger().score(number, score),
                Err(error) => self.table.fail(&error),
            }
        }
        self.so_far()
    }

    /// What has come of it by now.
    pub(crate) fn so_far(&self) -> Outcome {
        let findings = self.table.ledger().findings;
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Outcome { findings, failed: count(&self.table.failed), retried: count(&self.table.retried) }
    }
}

impl Table {
    async fn play(&self, number: usize) {
        let player = self.player(number);
        let block: Vec<usize> = (number * self.barrels_each..(number + 1) * self.barrels_each).collect();
        let barrels: Vec<Ref<Barrel>> =
            block.iter().map(|barrel| self.pool.get::<Barrel>(*barrel as u64)).collect();
        while !self.stop.load(Ordering::Relaxed) {
            match retrying(&self.retried, || player.enter_level(barrels.clone())).await {
                Ok(level) => self.ledger().level(number, &block, &level),
                Err(error) if error.executed() == Executed::Unknown => {
                    self.ledger().unknown_level(number, &block);
                }
                Err(error) => self.fail(&error),
            }
            self.levels_of[number].fetch_add(1, Ordering::Relaxed);
            self.levels.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn player(&self, number: usize) -> Ref<Player> {
        self.pool.get::<Player>(&player_key(number))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: &CallError) {
        tracing::error!(%error, "a call failed");
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// The key of a player.
pub(crate) fn player_key(number: usize) -> String {
    format!("player {number}")
}

/// Calls again while that is certainly safe, and counts how often.
pub(crate) async fn retrying<M, T>(
    retried: &AtomicU64,
    mut call: impl FnMut() -> Call<M>,
) -> Result<T, CallError>
where
    M: Method<Output = Result<T, CallError>>,
{
    for _ in 0..TRIES {
        match call().within(BUDGET).await {
            Err(error) if error.retry_safe() => {
                retried.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            result => return result,
        }
    }
    call().within(BUDGET).await
}

const LOOK_AGAIN: Duration = Duration::from_millis(20);
const BUDGET: Duration = Duration::from_secs(60);
const TRIES: u32 = 1000;
