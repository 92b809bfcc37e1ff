//! What the nodes of a cluster do for each other beyond calls: the keeper and its store, as logic without threads.
//!
//! ```text
//!  storage thread of a node        cluster thread of a node      links      cluster thread of the keeper
//!  ClusterStore ── KeeperLine ──────> StoreRequest ─────────────────────────> KeeperService ── StoreDesk ── SharedStore
//!       ^                                                                                                       ^
//!       └── while this very node keeps, straight there ─────────────────────────────────────────────────────────┘
//! ```
//! Not here: who is a member and who owns what (`membership`), frames (`wire::control`), links (`fabric`), threads
//! (`driver`). Start at [`keeper::KeeperService`] for the one end and at [`remote_store::ClusterStore`] for the other;
//! [`shipping::Shipping`] and [`arrivals::Arrivals`] are the two ends of a planned move.

pub mod arrivals;
pub mod keeper;
pub mod remote_store;
pub mod report;
pub mod shared_store;
pub mod shipping;
pub mod store_desk;
mod words;
