//! What every object must say next, kept outside of the cluster from what was acknowledged. Pure.
//!
//! A call whose outcome is unknown may have run or may run yet, so each count is known as a range: what was acknowledged,
//! and how many unknown changes may lie on top. A barrel lives in memory only: one whose process was killed may begin again
//! at zero, once. A player is durable: a score below an acknowledged one is a lost save.

use std::collections::BTreeMap;

use super::game::{HITS_TO_DIE, Level, Shot};

/// The books of a game.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    barrels: Vec<Count>,
    players: Vec<Count>,
    /// Barrels that were on a killed process, and how often they have not been seen to have forgotten anything since. More than
    /// once where nobody looked at a barrel between two kills.
    excused: BTreeMap<usize, u32>,
    pub(crate) findings: Findings,
}

/// What the books say so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Answers that were checked.
    pub(crate) checked: u64,
    /// Answers that no order of the calls explains.
    pub(crate) wrong: u64,
    /// Levels that changed a score and were acknowledged.
    pub(crate) acknowledged_saves: u64,
    /// Players found below an acknowledged score.
    pub(crate) lost_saves: u64,
    /// Barrels that began again at zero after their process was killed.
    pub(crate) forgotten: u64,
    /// Barrels that were on killed processes.
    pub(crate) forgotten_allowed: u64,
    /// Calls whose outcome is unknown.
    pub(crate) unknown: u64,
}

/// A number that grows: acknowledged, and how many more changes there may be.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    acknowledged: u64,
    maybe: u64,
}

impl Count {
    /// Takes what it is said to be now, `grown` of it by this very call; `false` if that cannot be.
    fn see(&mut self, now: u64, grown: u64) -> bool {
        let least = self.acknowledged + grown;
        if now < least || now > least + self.maybe {
            return false;
        }
        self.maybe -= now - least;
        self.acknowledged = now;
        true
    }
}

impl Ledger {
    /// The books of so many barrels and players, all new.
    pub(crate) fn new(barrels: usize, players: usize) -> Self {
        Self {
            barrels: vec![Count::default(); barrels],
            players: vec![Count::default(); players],
            ..Self::default()
        }
    }

    /// How many barrels there are.
    pub(crate) fn barrels(&self) -> usize {
        self.barrels.len()
    }

    /// How many players there are.
    pub(crate) fn players(&self) -> usize {
        self.players.len()
    }

    /// A process was killed that these barrels were on.
    pub(crate) fn killed(&mut self, barrels: impl Iterator<Item = usize>) {
        for barrel in barrels {
            *self.excused.entry(barrel).or_default() += 1;
            self.findings.forgotten_allowed += 1;
        }
    }

    /// Whether this barrel may begin again.
    pub(crate) fn is_excused(&self, barrel: usize) -> bool {
        self.excused.get(&barrel).is_some_and(|excuses| *excuses > 0)
    }

    /// A level was answered.
    pub(crate) fn level(&mut self, player: usize, barrels: &[usize], level: &Level) {
        let counted = level.shots.iter().filter(|shot| counts(shot)).count() as u64;
        for (barrel, shot) in barrels.iter().zip(&level.shots) {
            match shot {
                Shot::Hit(hits) => self.hit(*barrel, u64::from(*hits)),
                Shot::Missed => {}
                Shot::Unknown => self.unknown_hit(*barrel),
            }
        }
        if level.shots.len() != barrels.len() {
            self.wrong(format_args!(
                "player {player} shot {} times, not {}",
                level.shots.len(),
                barrels.len()
            ));
        }
        if level.after < level.before + counted {
            self.wrong(format_args!("player {player} counted {counted} barrels: {level:?}"));
        }
        self.score(player, level.before);
        if let Some(count) = self.players.get_mut(player) {
            let grown = level.after.saturating_sub(level.before);
            // What grew beyond this level's own barrels is of earlier ones whose outcome was unknown.
            count.maybe = count.maybe.saturating_sub(grown.saturating_sub(counted));
            count.acknowledged = level.after;
            self.findings.acknowledged_saves += u64::from(grown > 0);
        }
    }

    /// A level ended with an unknown outcome: any part of it may have happened, or happen yet.
    pub(crate) fn unknown_level(&mut self, player: usize, barrels: &[usize]) {
        self.findings.unknown += 1;
        for barrel in barrels {
            if let Some(count) = self.barrels.get_mut(*barrel) {
                count.maybe += 1;
            }
        }
        if let Some(count) = self.players.get_mut(player) {
            count.maybe += barrels.len() as u64;
        }
    }

    /// A player was asked for the score.
    pub(crate) fn score(&mut self, player: usize, score: u64) {
        self.findings.checked += 1;
        let Some(count) = self.players.get_mut(player) else { return };
        let before = *count;
        if count.see(score, 0) {
            return;
        }
        if score < before.acknowledged {
            self.findings.lost_saves += 1;
            eprintln!("player {player} has {score}, acknowledged were {before:?}: a save was lost");
        } else {
            self.wrong(format_args!("player {player} has {score}, acknowledged were {before:?}"));
        }
        // Each loss counts once.
        if let Some(count) = self.players.get_mut(player) {
            count.acknowledged = score;
        }
    }

    fn hit(&mut self, barrel: usize, hits: u64) {
        self.findings.checked += 1;
        let Some(count) = self.barrels.get_mut(barrel) else { return };
        let before = *count;
        if count.see(hits, 1) {
            return;
        }
        // From zero again: whatever is unknown may have come before or after.
        let mut again = Count { acknowledged: 0, maybe: before.maybe };
        let excuses = self.excused.get_mut(&barrel).filter(|excuses| **excuses > 0);
        if let Some(excuses) = excuses
            && again.see(hits, 1)
        {
            *excuses -= 1;
            self.findings.forgotten += 1;
        } else {
            self.wrong(format_args!("barrel {barrel} has {hits} hits, acknowledged were {before:?}"));
            again = Count { acknowledged: hits, maybe: before.maybe };
        }
        self.barrels[barrel] = again;
    }

    fn unknown_hit(&mut self, barrel: usize) {
        self.findings.unknown += 1;
        if let Some(count) = self.barrels.get_mut(barrel) {
            count.maybe += 1;
        }
    }

    fn wrong(&mut self, what: std::fmt::Arguments<'_>) {
        self.findings.wrong += 1;
        eprintln!("{what}");
    }
}

fn counts(shot: &Shot) -> bool {
    matches!(shot, Shot::Hit(hits) if *hits >= HITS_TO_DIE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(before: u64, after: u64, shots: &[Shot]) -> Level {
        Level { before, after, shots: shots.to_vec() }
    }

    /// Plays levels of one player on barrel 0, each a shot and the score after it.
    fn play(ledger: &mut Ledger, levels: &[(u32, u64)]) {
        let mut before = ledger.players[0].acknowledged;
        for (hits, after) in levels {
            ledger.level(0, &[0], &level(before, *after, &[Shot::Hit(*hits)]));
            before = *after;
        }
    }

    #[test]
    fn a_game_without_faults_is_right() {
        let mut ledger = Ledger::new(1, 1);
        play(&mut ledger, &[(1, 0), (2, 0), (3, 1), (4, 2)]);
        ledger.score(0, 2);
        let Findings { checked, wrong, acknowledged_saves, lost_saves, forgotten, .. } = ledger.findings;
        assert_eq!((checked, wrong, acknowledged_saves, lost_saves, forgotten), (9, 0, 2, 0, 0));
    }

    #[test]
    fn a_hit_that_is_counted_twice_or_not_at_all_is_wrong() {
        for (seen, wrong) in [(2, 0), (1, 1), (3, 1)] {
            let mut ledger = Ledger::new(1, 1);
            play(&mut ledger, &[(1, 0)]);
            ledger.level(0, &[0], &level(0, 0, &[Shot::Hit(seen)]));
            assert_eq!(ledger.findings.wrong, wrong + u64::from(seen == 3), "{seen}");
        }
    }

    #[test]
    fn a_barrel_of_a_killed_process_may_forget_once_and_no_other_may() {
        let mut ledger = Ledger::new(2, 1);
        for _ in 0..2 {
            let hits = [0, 1].map(|barrel| ledger.barrels[barrel].acknowledged as u32 + 1);
            ledger.level(0, &[0, 1], &level(0, 0, &hits.map(Shot::Hit)));
        }
        ledger.killed([0].into_iter());
        ledger.level(0, &[0, 1], &level(0, 0, &[Shot::Hit(1), Shot::Hit(1)]));
        let Findings { forgotten, forgotten_allowed, wrong, .. } = ledger.findings;
        assert_eq!((forgotten, forgotten_allowed, wrong), (1, 1, 1));
        ledger.level(0, &[0], &level(0, 0, &[Shot::Hit(1)]));
        assert_eq!((ledger.findings.forgotten, ledger.findings.wrong), (1, 2));
    }

    #[test]
    fn what_is_unknown_may_have_happened_or_happen_later() {
        for seen in [[1, 2], [2, 3], [1, 3]] {
            let mut ledger = Ledger::new(1, 1);
            ledger.unknown_level(0, &[0]);
            for hits in seen {
                let after = u64::from(hits >= HITS_TO_DIE);
                ledger.level(0, &[0], &level(0, after, &[Shot::Hit(hits)]));
            }
            assert_eq!(ledger.findings.wrong, 0, "{seen:?}");
        }
        let mut ledger = Ledger::new(1, 1);
        ledger.unknown_level(0, &[0]);
        ledger.level(0, &[0], &level(0, 1, &[Shot::Hit(3)]));
        assert_eq!(ledger.findings.wrong, 1);
    }

    #[test]
    fn a_score_below_an_acknowledged_one_is_a_lost_save_and_above_is_wrong() {
        let mut ledger = Ledger::new(1, 1);
        play(&mut ledger, &[(1, 0), (2, 0), (3, 1)]);
        ledger.score(0, 0);
        assert_eq!((ledger.findings.lost_saves, ledger.findings.wrong), (1, 0));
        ledger.score(0, 5);
        assert_eq!((ledger.findings.lost_saves, ledger.findings.wrong), (1, 1));
    }
}
