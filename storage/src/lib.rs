//! The storage contract of Epic Server: what is below the runtime, and above every store.
//!
//! ```text
//!   runtime: one storage thread per node                       runtime: edge
//!      | Batch of Saves           | keys                          | View, NodeId
//!      v                          v                               v
//!   Store::commit              Store::load                     Coordinator::compare_and_set
//!      name, fences, versions     Records                         epochs never fall
//!      in one transaction         checked by Record::open
//! ```
//!
//! * [`Store`] keeps records, fences and the names of committed batches; [`Coordinator`] keeps the [`View`]: who owns which
//!   partition at which epoch. They are the two independent guards of "one writer per partition and epoch".
//! * [`Machine`] says which process of a machine keeps both, and proves that another one is gone.
//! * [`Envelope`] is what every saved state is wrapped in; damage is found, never served.
//! * [`MemoryStore`], [`MemoryCoordinator`] and [`MemoryMachine`] are the plain implementations, [`FaultyStore`] scripts failures and delays
//!   around any store.
//! * Feature `conformance`: the suites that every implementation runs in its tests. Feature `fuzz`: fuzz functions for the
//!   parsers.
//!
//! What is not here: timing, placement, policies, batching (the runtime's), disks (`storage-*`), and any wire format.
//! Blocking is fine in every verb; nothing here starts threads, reads clocks or draws random numbers.
//!
//! Start reading at [`Store::commit`].
//!
//! # Example
//! A node opens its fence, saves, and is shut out by the next owner:
//!
//! ```
//! use epicserver_storage::{
//!     Batch, BatchName, Committed, Effect, EnvelopeHeader, Fence, MemoryStore, NodeId, RecordKey, Store, StoreId, entity_id,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut store = MemoryStore::new(StoreId(0x5EED));
//! let alice = NodeId { id: 1, incarnation: 1 };
//! let bob = NodeId { id: 2, incarnation: 1 };
//! let key = RecordKey::string(entity_id("game.Player"), "Bob: Slayer of armoured cylinders")?;
//! let partition = key.as_ref().partition();
//!
//! // Alice owns the partition at epoch 1, and saves the first version.
//! store.open_fences(&[Fence { partition, epoch: 1, holder: alice }])?;
//! let header = EnvelopeHeader { epoch: 1, version: 1, schema: 1, ..EnvelopeHeader::state(key.as_ref()) };
//! let mut batch = Batch::new(BatchName { node: alice, number: 1 });
//! batch.push(key.as_ref(), &header, b"score: 10")?;
//! assert_eq!(store.commit(&batch)?, Committed::Now);
//! assert_eq!(store.commit(&batch)?, Committed::Already);
//!
//! // Bob takes over at epoch 2. What Alice saves from now on is refused, whatever she believes.
//! store.open_fences(&[Fence { partition, epoch: 2, holder: bob }])?;
//! batch.clear(BatchName { node: alice, number: 2 });
//! batch.push(key.as_ref(), &EnvelopeHeader { version: 2, ..header }, b"score: 99")?;
//! let error = store.commit(&batch).unwrap_err();
//! assert_eq!(error.effect(), Effect::Nothing);
//!
//! // Bob reads what was acknowledged.
//! let records = store.load(&[key.as_ref()])?;
//! let record = records[0].as_ref().expect("it was saved");
//! let (header, payload) = record.open(key.as_ref())?;
//! assert_eq!((header.version, payload), (1, &b"score: 10"[..]));
//! # Ok(())
//! # }
//! ```

mod aligned;
mod batch;
mod coordinator;
mod envelope;
mod faulty;
mod id;
mod key;
mod lease;
mod machine;
mod memory;
mod store;
mod view;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "fuzz")]
pub mod fuzz;

pub use aligned::AlignedBytes;
pub use batch::{Batch, BatchError, BatchName, Save};
pub use coordinator::{Coordinator, CoordinatorError};
pub use envelope::{
    ENVELOPE_HEADER_LENGTH, Envelope, EnvelopeError, EnvelopeHeader, EnvelopeKind, PAYLOAD_LENGTH_MAX,
    SCHEMA_MAX,
};
pub use faulty::{Delay, Fault, FaultControl, FaultPlan, FaultRates, FaultyStore, Verb};
pub use id::{COUNT_MAX, NodeId, PARTITIONS, Partition, StoreId};
pub use key::{KEY_LENGTH_MAX, KeyError, KeyKind, RecordKey, RecordKeyRef, entity_id};
pub use lease::{LEASE_NS, Lease, RENEW_INTERVAL_NS, TURN_NS_MAX, holder_deadline_ns, takeover_ns};
pub use machine::{KeeperRecord, Kept, Machine, MachineError};
pub use memory::{MemoryCoordinator, MemoryMachine, MemoryStore};
pub use store::{Committed, Effect, Fence, Oversize, Record, Store, StoreError, StoreLimits};
pub use view::{
    BoundEntity, ENTITY_FORMS_MAX, EarlierForm, MEMBER_ENTITIES_MAX, MEMBER_NAME_LENGTH_MAX, MEMBERS_MAX,
    Member, PartitionState, SCHEMAS_MAX, Schema, View, ViewError,
};
