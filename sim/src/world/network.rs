//! What the network between nodes does to them for a while: some do not hear others, in one direction or both, or hear them late.
//!
//! A trouble has a beginning and an end, both drawn when it is made; several may overlap. It lasts on when the faults have stopped, as a
//! node does that stands still.

use std::collections::BTreeSet;

use crate::tape::Tape;

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
    pub(super) fn draw(self, nodes: u16, keeper: u16, tape: &Tape) -> Vec<(BTreeSet<u16>, BTreeSet<u16>)> {
        let one = if self == Self::Keeper { keeper } else { tape.u16(..nodes) };
        let others: Vec<u16> = (0..nodes).filter(|index| *index != one).collect();
        let other = others[tape.usize(..others.len())];
        let (one, other) = (BTreeSet::from([one]), BTreeSet::from([other]));
        let others: BTreeSet<u16> = others.into_iter().collect();
        match self {
            Self::Pair | Self::Keeper => vec![(one.clone(), other.clone()), (other, one)],
            Self::PairOneWay => vec![(one, other)],
            Self::Alone => vec![(one.clone(), others.clone()), (others, one)],
            Self::Deaf => vec![(others, one)],
            Self::Mute => vec![(one, others)],
            Self::Split => {
                let (left, right): (BTreeSet<u16>, BTreeSet<u16>) = (0..nodes).partition(|_| tape.bool());
                vec![(left.clone(), right.clone()), (right, left)]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::Edits;

    #[test]
    fn troubles_begin_end_and_overlap() {
        let mut network = Network::default();
        let silence = |to| TroubleKind::Silence(BTreeSet::from([0]), BTreeSet::from([to]));
        network.add(Trouble { since: 10, until: 30, kind: silence(1) });
        network.add(Trouble { since: 20, until: 40, kind: silence(2) });
        network.add(Trouble { since: 20, until: 40, kind: TroubleKind::Slow(1, 7) });
        let mut seen = Vec::new();
        while let Some(at) = network.next_time() {
            assert!(!network.is_to_change(at - 1) && network.is_to_change(at));
            network.change(at);
            let unheard = [0, 1, 2].map(|node| network.unheard(node, at).len());
            seen.push((at, unheard, network.delay_ns(1, at)));
        }
        assert_eq!(
            seen,
            [
                (10, [0, 1, 0], None),
                (20, [0, 1, 1], Some(7)),
                (30, [0, 0, 1], Some(7)),
                (40, [0, 0, 0], None)
            ]
        );
        assert!(!network.is_in_trouble());
    }

    #[test]
    fn who_does_not_hear_whom_is_as_its_name_says() {
        let tape = Tape::new(1, Edits::default());
        for shape in Shape::ALL {
            for _ in 0..20 {
                let silences = shape.draw(4, 0, &tape);
                let pairs: BTreeSet<(u16, u16)> = silences
                    .iter()
                    .flat_map(|(from, to)| {
                        from.iter().flat_map(move |from| to.iter().map(move |to| (*from, *to)))
                    })
                    .collect();
                assert!(pairs.iter().all(|(from, to)| from != to), "{shape:?} {pairs:?}");
                let is_mutual = pairs.iter().all(|(from, to)| pairs.contains(&(*to, *from)));
                let one_way = matches!(shape, Shape::PairOneWay | Shape::Deaf | Shape::Mute);
                assert_eq!(is_mutual, !one_way || pairs.is_empty(), "{shape:?} {pairs:?}");
                let len = match shape {
                    Shape::Pair | Shape::Keeper => 2,
                    Shape::PairOneWay => 1,
                    Shape::Alone => 6,
                    Shape::Deaf | Shape::Mute => 3,
                    Shape::Split => pairs.len(),
                };
                assert_eq!(pairs.len(), len, "{shape:?} {pairs:?}");
                let deaf: BTreeSet<u16> = pairs.iter().map(|(_, to)| *to).collect();
                assert_eq!(shape == Shape::Deaf, deaf.len() == 1 && pairs.len() == 3, "{shape:?} {pairs:?}");
                assert!(shape != Shape::Keeper || pairs.iter().all(|(from, to)| from * to == 0));
            }
        }
    }
}
