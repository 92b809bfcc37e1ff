//! Who is in the cluster and who owns what: four state machines, without IO and without a clock.
//!
//! ```text
//!           the keeper                                              every node, the keeper's too
//!   Join, Leave, Handed ──> Planner ──> next View ──┐        View, answers ──> Member ──> requests to the keeper
//!   Renew, proven deaths ─> KeeperLeases ──> lost ──┤        fences, shipped ──┘   └────> OpenFences, Publish, Lease, Drop
//!   every View ───────────> Damping ──> restless ───┘                    │
//!              compare-and-set, then pushed to all ─────────────────^
//! ```
//! * [`Planner`] makes the next view out of the current one and what happened. It decides who owns what.
//! * [`KeeperLeases`] says whose lease ran out. It decides who is taken for gone.
//! * [`Damping`] says when nodes come and go so often that moves for balance had better wait.
//! * [`Member`] is the life of one node: it looks for a keeper, joins, serves while its lease lasts, leaves or is evicted.
//! * [`able_members`] has the rule about entities that all of them share.
//!
//! *Why no partition has two masters.* The planner gives a partition to another node only after its owner handed it over, or
//! after the keeper took the owner for gone, which is after the owner's lease ended by the owner's own clock (see
//! [`epicserver_storage::holder_deadline_ns`]), or after its death was proven. A member shows a partition to its cores as its own
//! only after the store opened the fence for it; so whoever is wrong about all of that still cannot save.
//!
//! Not here: links, threads, the coordinator, the store, moving of objects. Start at [`Member`].

mod able;
mod action;
mod balance;
mod damping;
mod leases;
mod member;
mod planner;

pub use able::able_members;
pub use action::{FencesOutcome, Handover, KeeperAnswer, KeeperRequest, MemberAction};
pub use damping::{Damping, DampingLimits};
pub use leases::{KeeperLeases, WATCH_GAP_NS_MAX};
pub use member::{Member, Phase};
pub use planner::{JoinError, MOVES_MAX, Planner};

#[cfg(test)]
mod tests;
