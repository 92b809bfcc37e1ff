//! What the network between nodes does to them for a while: some do not hear others, in one direction or both, or hear them late.
//!
//! A trouble has a beginning and an end, both drawn when it is made; several may overlap. It lasts on when the faults have stopped, as a
//! node does that stands still.

use std::collections::BTreeSet;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Network {
    troubles: Vec<Trouble>,
    /// When it is to be looked at again.
    changes_at: Option<u64>,
}

/// Something that is wrong with the network for a while.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) since: u64,
    pub(super) until: u64,
    pub(super) kind: TroubleKind,
}

#[derive(Clone, Debug)]
pub(super) enum TroubleKind {
    /// The second ones do not hear the first ones.
    Silence(BTreeSet<u16>, BTreeSet<u16>),
    /// What comes to this node takes so long at most, in nanoseconds.
    Slow(u16, u64),
}

impl Network {
    pub(super) fn add(&mut self, trouble: Trouble) {
        self.changes_at = Some(self.changes_at.map_or(trouble.since, |at| at.min(trouble.since)));
        self.troubles.push(trouble);
    }

    /// Whether something begins or ends by this time that was not looked at.
    pub(super) fn is_to_change(&self, now: u64) -> bool {
        self.changes_at.is_some_and(|at| at <= now)
    }

    /// Forgets what is over.
    pub(super) fn change(&mut self, now: u64) {
        self.troubles.retain(|trouble| trouble.until > now);
        let times = self.troubles.iter().flat_map(|trouble| [trouble.since, trouble.until]);
        self.changes_at = times.filter(|at| *at > now).min();
    }

    /// Whether anything is wrong, or will be.
    pub(super) fn is_in_trouble(&self) -> bool {
        !self.troubles.is_empty()
    }

    /// When something begins or ends.
    pub(super) fn next_time(&self) -> Option<u64> {
        self.changes_at
    }

    /// Whom a node does not hear.
    pub(super) fn unheard(&self, index: u16, now: u64) -> BTreeSet<u16> {
        let mut unheard = BTreeSet::new();
        for trouble in self.troubles.iter().filter(|trouble| trouble.since <= now) {
            if let TroubleKind::Silence(from, to) = &trouble.kind
                && to.contains(&index)
            {
                unheard.extend(from);
            }
        }
        unheard
    }

    /// How long what comes to a node may take, if it is slower than ever.
    pub(super) fn delay_ns(&self, index: u16, now: u64) -> Option<u64> {
        let slow = self.troubles.iter().filter(|trouble| trouble.since <= now).filter_map(|trouble| {
            let TroubleKind::Slow(node, delay_ns) = trouble.kind else { return None };
            (node == index).then_some(delay_ns)
        });
        slow.max()
    }
}

/// How the nodes of a silence are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Two do not hear each other.
    Pair,
    /// One does not hear another one.
    PairOneWay,
    /// A node and the one that keeps the data do not hear each other.
    Keeper,
    /// One neither hears nor is heard.
    Alone,
    /// One hears nobody.
    Deaf,
    /// Nobody hears one.
    Mute,
    /// Two groups do not hear each other.
    Split,
}

impl Shape {
    pub(super) const ALL: [Self; 7] =
        [Self::Pair, Self::PairOneWay, Self::Keeper, Self::Alone, Self::Deaf, Self::Mute, Self::Split];

    /// As a fault is counted.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pair => "two nodes parted",
            Self::PairOneWay => "two nodes parted one way",
            Self::Keeper => "keeper out of reach",
            Self::Alone => "node cut off",
            Self::Deaf => "node hears nobody",
            Self::Mute => "nobody hears a node",
            Self::Split => "network split",
        }
    }

    /// Who hears whom not, of so many nodes: from the first ones nothing comes to the second ones. `keeper` is never drawn as the other
    /// one of itself.
    pub(super) fn draw(
        self,
        nodes: u16,
        keeper: u16,
        rng: &mut fastrand::Rng,
    ) -> Vec<(BTreeSet<u16>, BTreeSet<u16>)> {
        let one = if self == Self::Keeper { keeper } else { rng.u16(..nodes) };
        let others: Vec<u16> = (0..nodes).filter(|index| *index != one).collect();
        let other = others[rng.usize(..others.len())];
        let (one, other) = (BTreeSet::from([one]), BTreeSet::from([other]));
        let others: BTreeSet<u16> = others.into_iter().collect();
        match self {
            Self::Pair | Self::Keeper => vec![(one.clone(), other.clone()), (other, one)],
            Self::PairOneWay => vec![(one, other)],
            Self::Alone => vec![(one.clone(), others.clone()), (others, one)],
            Self::Deaf => vec![(others, one)],
            Self::Mute => vec![(one, others)],
            Self::Split => {
                let (left, right): (BTreeSet<u16>, BTreeSet<u16>) = (0..nodes).partition(|_| rng.bool());
                vec![(left.clone(), right.clone()), (right, left)]
            }
        }
    }
}
