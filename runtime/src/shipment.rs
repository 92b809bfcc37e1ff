//! The objects of a partition on their way from one owner to the next, as cores give and take them.
//!
//! Not here: how a core empties a partition (`core/drain.rs`) and fills one (`core/carried.rs`), and how shipments cross
//! (`cluster/shipping.rs`, `cluster/arrivals.rs`).

use std::sync::Arc;

use epicserver_storage::{Partition, Record, RecordKey, RecordKeyRef};

use crate::membership::Handover;
use crate::wire::control::ControlError;
use crate::wire::control::parts::{SaveStream, read_saves};

/// A core has let go of a partition: nothing of it runs there, and what it saved is durable.
#[derive(Clone, Debug)]
pub struct Drained {
    /// Which one, and who is to have it.
    pub handover: Handover,
    /// Its objects.
    pub records: Arc<SaveStream>,
}

/// The objects of a partition, for its new owner.
#[derive(Clone, Debug)]
pub struct Shipment {
    /// Whose they are.
    pub partition: Partition,
    /// The epoch at which they may be used: the one after that of the owner that shipped them.
    pub epoch: u64,
    /// Records that were parsed; what is in the envelopes is still foreign.
    pub records: Vec<(RecordKey, Record)>,
}

impl Shipment {
    /// Reads what another node has shipped.
    ///
    /// # Errors
    /// [`ControlError`] if it is no stream of records.
    pub fn parse(partition: Partition, epoch: u64, stream: &[u8]) -> Result<Self, ControlError> {
        let mut records = Vec::new();
        read_saves(stream, |key: RecordKeyRef<'_>, envelope: &[u8]| {
            records.push((key.to_owned(), Record::new(envelope)));
            Ok::<_, ControlError>(())
        })?;
        Ok(Self { partition, epoch, records })
    }
}

/// The longest shipment of one partition, in bytes; objects beyond that are not shipped, and load from the store.
pub const SHIPMENT_LEN_MAX: usize = 64 << 20;
