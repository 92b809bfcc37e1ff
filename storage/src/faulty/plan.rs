//! What goes wrong, and when: explicit by call index, or from a seed.

use std::collections::BTreeMap;

/// Which calls go wrong or are slow. Calls of each verb are counted from 0.
///
/// What is planned for a call by hand goes before what the seed says for it.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    planned: BTreeMap<(Verb, u64), Planned>,
    seeded: Option<(u64, FaultRates)>,
}

impl FaultPlan {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self::default()
    }

    /// Every call draws its fate from the seed, its verb and its index, and from nothing else: the same calls have the same
    /// fates in every run.
    pub fn seeded(seed: u64, rates: FaultRates) -> Self {
        Self { planned: BTreeMap::new(), seeded: Some((seed, rates)) }
    }

    /// Adds a fault for one call.
    #[must_use]
    pub fn fault(mut self, verb: Verb, index: u64, fault: Fault) -> Self {
        self.add_fault(verb, index, fault);
        self
    }

    /// Makes one call slow by this many nanoseconds.
    #[must_use]
    pub fn delay(mut self, verb: Verb, index: u64, delay_ns: u64) -> Self {
        self.add_delay(verb, index, delay_ns);
        self
    }

    pub(super) fn add_fault(&mut self, verb: Verb, index: u64, fault: Fault) {
        self.planned.entry((verb, index)).or_default().fault = Some(fault);
    }

    pub(super) fn add_delay(&mut self, verb: Verb, index: u64, delay_ns: u64) {
        self.planned.entry((verb, index)).or_default().delay_ns = delay_ns;
    }

    /// Delay in nanoseconds and fault of one call.
    pub(super) fn at(&self, verb: Verb, index: u64) -> (u64, Option<Fault>) {
        if let Some(planned) = self.planned.get(&(verb, index)) {
            return (planned.delay_ns, planned.fault);
        }
        self.seeded.map_or((0, None), |(seed, rates)| rates.draw(Draws::of(seed, verb, index), verb))
    }
}

/// A verb of the store, as plans name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// [`crate::Store::load`].
    Load,
    /// [`crate::Store::commit`].
    Commit,
    /// [`crate::Store::open_fences`].
    OpenFences,
    /// [`crate::Store::fences`].
    Fences,
    /// [`crate::Store::last_committed`].
    LastCommitted,
}

impl Verb {
    /// Every verb, in the order of their discriminants.
    pub const ALL: [Self; 5] =
        [Self::Load, Self::Commit, Self::OpenFences, Self::Fences, Self::LastCommitted];
}

/// How a call goes wrong. A fault that makes no sense for a verb acts as [`Fault::Fail`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error before anything was done: [`crate::StoreError::Failed`]. Every verb.
    Fail,
    /// The answer is lost: [`crate::StoreError::Unknown`]. Commits and fences.
    Unknown {
        /// Whether it was done.
        written: bool,
    },
    /// A load finds every record cut to this many bytes. (A commit that runs out of room fails whole.)
    Short {
        /// Bytes that are left of a record.
        length: usize,
    },
    /// A load finds every record with one bit flipped: this one, counted modulo the record's length.
    Flip {
        /// Which bit.
        bit: u64,
    },
    /// The fence is another's: [`crate::StoreError::Refused`], nothing is written. Commits and fences.
    RefuseFence,
    /// The sync failed: [`crate::StoreError::SyncFailed`], by this and every later call. Every verb.
    SyncFailed {
        /// Whether what was to be synced is there all the same.
        written: bool,
    },
}

/// How often calls go wrong in a seeded plan, each in parts of a thousand calls of the verbs that the fault is for. Their sum
/// is at most 1000 per verb; what is beyond never comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// [`Fault::Fail`].
    pub fail_per_mille: u16,
    /// [`Fault::Unknown`], written or not by the seed.
    pub unknown_per_mille: u16,
    /// [`Fault::Short`], of a length by the seed.
    pub short_per_mille: u16,
    /// [`Fault::Flip`], of a bit by the seed.
    pub flip_per_mille: u16,
    /// [`Fault::RefuseFence`].
    pub refuse_fence_per_mille: u16,
    /// [`Fault::SyncFailed`], written or not by the seed.
    pub sync_failed_per_mille: u16,
    /// How often a call is slow.
    pub delay_per_mille: u16,
    /// A slow call takes from 1 to this many nanoseconds. 0: none is slow.
    pub delay_ns_max: u64,
}

impl FaultRates {
    fn draw(self, mut draws: Draws, verb: Verb) -> (u64, Option<Fault>) {
        let slow = draws.below(1000) < u64::from(self.delay_per_mille) && self.delay_ns_max > 0;
        let delay_ns = if slow { 1 + draws.below(self.delay_ns_max) } else { 0 };
        let written = draws.below(2) == 1;
        let (length, bit) = (draws.below(64) as usize, draws.next());
        let (reads, writes) = (verb == Verb::Load, matches!(verb, Verb::Commit | Verb::OpenFences));
        let choices = [
            (self.fail_per_mille, true, Fault::Fail),
            (self.unknown_per_mille, writes, Fault::Unknown { written }),
            (self.short_per_mille, reads, Fault::Short { length }),
            (self.flip_per_mille, reads, Fault::Flip { bit }),
            (self.refuse_fence_per_mille, writes, Fault::RefuseFence),
            (self.sync_failed_per_mille, writes, Fault::SyncFailed { written }),
        ];
        let mut left = draws.below(1000);
        for (per_mille, _, fault) in choices.into_iter().filter(|&(_, applies, _)| applies) {
            match left.checked_sub(u64::from(per_mille)) {
                None => return (delay_ns, Some(fault)),
                Some(rest) => left = rest,
            }
        }
        (delay_ns, None)
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Planned {
    delay_ns: u64,
    fault: Option<Fault>,
}

/// A call that the plan makes slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// The verb called.
    pub verb: Verb,
    /// Which call of it, from 0.
    pub index: u64,
    /// By how many nanoseconds.
    pub delay_ns: u64,
}

/// The draws of one call: splitmix64 from a state that the seed, the verb and the index give.
struct Draws(u64);

impl Draws {
    fn of(seed: u64, verb: Verb, index: u64) -> Self {
        let mut verb_draws = Self(seed ^ (verb as u64) << 56);
        Self(verb_draws.next() ^ index)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// Below a bound above 0; the bias of the remainder does not matter here.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
