//! Names of nodes, partitions and stores.
//!
//! Plain values that the contracts share. Not here: how a key gets its partition (`key.rs`), who owns one (`view.rs`).

use std::fmt;

/// How many hash slots a cluster has. Fixed at founding, the same in every cluster.
pub const PARTITIONS: u16 = 4096;

/// The highest epoch and the highest batch number: what a signed 64-bit column holds.
pub const COUNT_MAX: u64 = i64::MAX as u64;

// So that hashes fall evenly.
const _: () = assert!(PARTITIONS.is_power_of_two());

/// The name of one process in one life: a random id, and a count that grows each time the process joins again.
///
/// Ordered by id, then incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// Random, drawn once at process start.
    pub id: u64,
    /// Grows with every join of this process; an evicted node comes back with a higher one.
    pub incarnation: u32,
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}.{}", self.id, self.incarnation)
    }
}

/// One of the [`PARTITIONS`] hash slots: the unit of ownership and of fencing. Always below [`PARTITIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u16);

impl Partition {
    /// The partition with this number, or `None` if there is none.
    pub const fn new(number: u16) -> Option<Self> {
        if number < PARTITIONS { Some(Self(number)) } else { None }
    }

    /// The partition that a key hash falls into: the hash modulo [`PARTITIONS`].
    pub const fn from_hash(hash: u64) -> Self {
        Self((hash % PARTITIONS as u64) as u16)
    }

    /// The number, for the wire and for display.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The place in a table of [`PARTITIONS`] entries; always in range.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Every partition, lowest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Which store this is. A store on disk keeps its id; one in memory gets a random one at construction, so that its
/// loss shows as a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u128);

impl fmt::Display for StoreId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_exactly_the_numbers_below_the_limit() {
        assert_eq!(Partition::new(4095).map(Partition::number), Some(4095));
        assert_eq!(Partition::new(4096), None);
        assert_eq!(Partition::all().count(), 4096);
        assert_eq!(Partition::from_hash(4096 * 7 + 5).number(), 5);
        assert_eq!(Partition::from_hash(u64::MAX).number(), 4095);
    }

    #[test]
    fn a_node_prints_its_incarnation() {
        assert_eq!(NodeId { id: 0xAB, incarnation: 3 }.to_string(), "00000000000000ab.3");
    }
}
