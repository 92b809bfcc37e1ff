//! The next owner's part in a planned move: keeps what it is shipped until the view gives it the partition.
//!
//! A shipment is of one move, named by partition, the epoch of the old owner, that owner, and who it is for: a move is given up only when
//! that one is removed, so that no shipment of it can be taken for one of a later move. It is used if, and only if, the partition
//! comes here at the very next epoch; under any other truth it is thrown away, and the objects load from the store.
//!
//! Pure. The other end is `shipping.rs`.

use std::collections::BTreeMap;

use epicserver_storage::{NodeId, Partition, View};

use crate::shipment::{SHIPMENT_LEN_MAX, Shipment};
use crate::wire::control::ControlMessage;
use crate::wire::control::parts::{Collected, Collector, Part};

/// What was shipped to this node and is not used yet.
#[derive(Debug, Default)]
pub struct Arrivals {
    collecting: BTreeMap<Partition, Option<Collector<(NodeId, u64)>>>,
    whole: BTreeMap<Partition, Whole>,
}

#[derive(Debug)]
struct Whole {
    from: NodeId,
    epoch: u64,
    /// Of the last part: it may be sent again.
    part: u32,
    stream: Vec<u8>,
}

impl Arrivals {
    /// Nothing has come yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a part of a shipment; gives the answer to its sender.
    pub fn handle_ship(
        &mut self,
        from: NodeId,
        partition: Partition,
        epoch: u64,
        part: Part,
    ) -> ControlMessage {
        let number = part.number;
        let taken = ControlMessage::ShipTaken { partition, epoch, part: number };
        let has_it = |whole: &Whole| (whole.from, whole.epoch, whole.part) == (from, epoch, number);
        if self.whole.get(&partition).is_some_and(has_it) {
            return taken;
        }
        let refused = ControlMessage::ShipRefused { partition, epoch };
        if self.len() + part.bytes.len() > ARRIVALS_LEN_MAX {
            self.collecting.remove(&partition);
            return refused;
        }
        let place = self.collecting.entry(partition).or_default();
        let collected = Collector::take(place, (from, epoch), part, SHIPMENT_LEN_MAX + STREAM_SLACK);
        if place.is_none() {
            self.collecting.remove(&partition);
        }
        match collected {
            Collected::Taken => taken,
            Collected::Missing => refused,
            Collected::Whole(stream) => {
                self.whole.insert(partition, Whole { from, epoch, part: number, stream });
                taken
            }
        }
    }

    /// Takes out what this view gives to `me`, and throws away what cannot be used any more.
    pub fn take(&mut self, me: NodeId, view: &View) -> Vec<Shipment> {
        self.collecting.retain(|partition, collector| {
            let epoch = collector.as_ref().map_or(0, |collector| collector.name().1);
            view.partition(*partition).epoch <= epoch
        });
        let is_due =
            |partition: &Partition, whole: &mut Whole| view.partition(*partition).epoch > whole.epoch;
        let due: Vec<(Partition, Whole)> = self.whole.extract_if(.., is_due).collect();
        let mine = |(partition, whole): (Partition, Whole)| {
            let state = view.partition(partition);
            let is_mine = state.owner == Some(me) && state.epoch == whole.epoch + 1;
            let shipment = is_mine.then(|| Shipment::parse(partition, state.epoch, &whole.stream))?;
            shipment
                .inspect_err(|error| tracing::error!(%partition, %error, "a shipment cannot be read"))
                .ok()
        };
        due.into_iter().filter_map(mine).collect()
    }

    /// Everything in memory is dropped.
    pub fn clear(&mut self) {
        self.collecting.clear();
        self.whole.clear();
    }

    fn len(&self) -> usize {
        let collecting: usize = self.collecting.values().flatten().map(Collector::len).sum();
        let whole: usize = self.whole.values().map(|whole| whole.stream.len()).sum();
        collecting + whole
    }
}

/// Bytes of shipments that wait for a view, at most; more are refused, and sent again later.
const ARRIVALS_LEN_MAX: usize = 512 << 20;
/// What a stream has beyond keys and envelopes.
const STREAM_SLACK: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use epicserver_storage::{Member, RecordKey, StoreId};

    use super::*;
    use crate::wire::control::parts::SaveStream;

    const ME: NodeId = NodeId { id: 1, incarnation: 1 };
    const OLD: NodeId = NodeId { id: 2, incarnation: 1 };

    fn partition() -> Partition {
        Partition::new(5).expect("a partition")
    }

    fn stream() -> SaveStream {
        let mut stream = SaveStream::default();
        stream.push(RecordKey::u64(1, 1).as_ref(), b"an envelope");
        stream
    }

    fn view(owner: NodeId, epoch: u64) -> View {
        let mut view = View::empty(StoreId(0));
        for node in [ME, OLD] {
            view.put_member(Member { node, address: String::new(), cores: 1, entities: Vec::new() });
        }
        let state = &mut view.partitions[5];
        (state.owner, state.epoch) = (Some(owner), epoch);
        view
    }

    fn shipped() -> Arrivals {
        let mut arrivals = Arrivals::new();
        let taken = ControlMessage::ShipTaken { partition: partition(), epoch: 3, part: 0 };
        // The answer got lost.
        for _ in 0..2 {
            assert_eq!(arrivals.handle_ship(OLD, partition(), 3, stream().part(0)), taken);
        }
        arrivals
    }

    #[test]
    fn a_shipment_is_used_at_the_next_epoch_only() {
        for (owner, epoch, used, kept) in
            [(ME, 4, 1, false), (ME, 5, 0, false), (OLD, 4, 0, false), (OLD, 3, 0, true), (OLD, 2, 0, true)]
        {
            let mut arrivals = shipped();
            let taken = arrivals.take(ME, &view(owner, epoch));
            assert_eq!((taken.len(), arrivals.len() > 0), (used, kept), "{owner} at {epoch}");
            for Shipment { epoch, records, .. } in taken {
                assert_eq!((epoch, records.len()), (4, 1));
            }
        }
    }

    #[test]
    fn a_part_without_those_before_it_is_refused() {
        let mut arrivals = Arrivals::new();
        let part = Part { number: 1, is_last: true, bytes: vec![1] };
        let refused = ControlMessage::ShipRefused { partition: partition(), epoch: 3 };
        assert_eq!(arrivals.handle_ship(OLD, partition(), 3, part), refused);
        assert_eq!(arrivals.take(ME, &view(ME, 4)).len(), 0);
    }

    #[test]
    fn what_is_no_stream_of_records_is_not_used() {
        let mut arrivals = Arrivals::new();
        let part = Part { number: 0, is_last: true, bytes: vec![1, 2, 3] };
        arrivals.handle_ship(OLD, partition(), 3, part);
        assert_eq!(arrivals.take(ME, &view(ME, 4)).len(), 0);
    }

    #[test]
    fn parts_that_wait_for_others_go_with_the_truth_they_were_for() {
        let mut arrivals = Arrivals::new();
        let part = Part { number: 0, is_last: false, bytes: vec![1; 100] };
        arrivals.handle_ship(OLD, partition(), 3, part);
        arrivals.take(ME, &view(OLD, 3));
        assert_eq!(arrivals.len(), 100);
        arrivals.take(ME, &view(OLD, 4));
        assert_eq!(arrivals.len(), 0);
    }
}
