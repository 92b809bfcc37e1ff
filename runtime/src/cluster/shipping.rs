//! The old owner's part in a planned move: brings the objects of partitions to their next owners.
//!
//! ```text
//!   Drained -> Ship part 0 -> ShipTaken 0 -> Ship part 1 .. -> ShipTaken of the last -> Shipped: the keeper may be told
//!                 |             ShipRefused: from part 0 again, after a while
//!                 `-- no answer: the same part again, after a while
//! ```
//! It goes on until the next owner has everything or the view has the move no more, however long that takes: what is carried
//! is in memory only where an object is never saved. A partition without objects needs no shipment.
//!
//! Pure. The other end is `arrivals.rs`. Start at [`Shipping::handle_drained`].

use std::collections::{BTreeMap, VecDeque};

use epicserver_storage::{NodeId, Partition, View};

use crate::membership::Handover;
use crate::shipment::Drained;
use crate::wire::control::ControlMessage;

/// Shipments that are under way.
#[derive(Debug, Default)]
pub struct Shipping {
    jobs: BTreeMap<Partition, Job>,
    outputs: VecDeque<ShippingOutput>,
}

#[derive(Debug)]
struct Job {
    drained: Drained,
    /// The part that is sent next, or whose answer is waited for.
    part: u32,
    /// When it is sent, again or for the first time; `None`: it waits for its turn.
    due: Option<u64>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum ShippingOutput {
    /// Send this to a node.
    Send(NodeId, ControlMessage),
    /// The next owner has everything.
    Shipped(Handover),
}

impl Shipping {
    /// Nothing is under way.
    pub fn new() -> Self {
        Self::default()
    }

    /// A core has let go of a partition.
    pub fn handle_drained(&mut self, now: u64, drained: Drained) {
        let handover = drained.handover;
        if drained.records.is_empty() {
            self.jobs.remove(&handover.partition);
            self.outputs.push_back(ShippingOutput::Shipped(handover));
            return;
        }
        self.jobs.insert(handover.partition, Job { drained, part: 0, due: None });
        self.send_due(now);
    }

    /// The next owner has this part.
    pub fn handle_taken(&mut self, now: u64, from: NodeId, partition: Partition, epoch: u64, part: u32) {
        let Some(job) = self.job(from, partition, epoch).filter(|job| job.part == part) else { return };
        let handover = job.drained.handover;
        if part + 1 < job.drained.records.part_count() {
            (job.part, job.due) = (part + 1, Some(now));
        } else {
            self.jobs.remove(&partition);
            self.outputs.push_back(ShippingOutput::Shipped(handover));
        }
        self.send_due(now);
    }

    /// The next owner has not what came before this part, or no room.
    pub fn handle_refused(&mut self, now: u64, from: NodeId, partition: Partition, epoch: u64) {
        if let Some(job) = self.job(from, partition, epoch) {
            (job.part, job.due) = (0, Some(now + SEND_AGAIN_NS));
        }
    }

    /// Gives up what this view, as `me` sees it, does not move any more.
    pub fn handle_view(&mut self, now: u64, me: NodeId, view: &View) {
        self.jobs.retain(|_, job| job.drained.handover.ends_move_in(view, me));
        self.send_due(now);
    }

    /// Everything in memory is dropped.
    pub fn clear(&mut self) {
        self.jobs.clear();
        self.outputs.clear();
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: u64) {
        self.send_due(now);
    }

    /// When [`Shipping::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.jobs.values().filter_map(|job| job.due).min()
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<ShippingOutput> {
        self.outputs.pop_front()
    }

    fn job(&mut self, from: NodeId, partition: Partition, epoch: u64) -> Option<&mut Job> {
        let job = self.jobs.get_mut(&partition)?;
        let Handover { epoch: of_job, to, .. } = job.drained.handover;
        (of_job == epoch && to == from).then_some(job)
    }

    /// Sends what is due, and lets others have their turn while there is room for them.
    fn send_due(&mut self, now: u64) {
        let mut room = JOBS_MAX.saturating_sub(self.jobs.values().filter(|job| job.due.is_some()).count());
        for job in self.jobs.values_mut() {
            if job.due.is_none() && room > 0 {
                room -= 1;
                job.due = Some(now);
            }
            if job.due.is_some_and(|due| due <= now) {
                job.due = Some(now + SEND_AGAIN_NS);
                let Handover { partition, epoch, to } = job.drained.handover;
                let part = job.drained.records.part(job.part);
                self.outputs
                    .push_back(ShippingOutput::Send(to, ControlMessage::Ship { partition, epoch, to, part }));
            }
        }
    }
}

/// Partitions that are shipped at one time: bounds the parts that are under way.
const JOBS_MAX: usize = 32;
/// How long an answer is waited for, and how long a refusal keeps.
const SEND_AGAIN_NS: u64 = 200_000_000;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use epicserver_storage::{Member, RecordKey, StoreId};

    use super::*;
    use crate::wire::control::PART_LEN_MAX;
    use crate::wire::control::parts::{Part, SaveStream};

    const ME: NodeId = NodeId { id: 1, incarnation: 1 };
    const NEXT: NodeId = NodeId { id: 2, incarnation: 1 };

    fn partition(number: u16) -> Partition {
        Partition::new(number).expect("a partition")
    }

    fn drained(number: u16, len: usize) -> Drained {
        let mut records = SaveStream::default();
        if len > 0 {
            records.push(RecordKey::u64(1, 1).as_ref(), &vec![7; len]);
        }
        let handover = Handover { partition: partition(number), epoch: 3, to: NEXT };
        Drained { handover, records: Arc::new(records) }
    }

    /// The numbers of the parts that are sent now, and of the partitions that are done.
    fn outputs(shipping: &mut Shipping) -> (Vec<u32>, Vec<u16>) {
        let (mut parts, mut done) = (Vec::new(), Vec::new());
        while let Some(output) = shipping.poll_output() {
            match output {
                ShippingOutput::Send(to, ControlMessage::Ship { part: Part { number, .. }, .. }) => {
                    assert_eq!(to, NEXT);
                    parts.push(number);
                }
                ShippingOutput::Shipped(handover) => done.push(handover.partition.number()),
                other => panic!("{other:?}"),
            }
        }
        (parts, done)
    }

    #[test]
    fn parts_go_one_after_the_other_and_again_until_they_are_taken() {
        let mut shipping = Shipping::new();
        shipping.handle_drained(0, drained(5, PART_LEN_MAX + 10));
        assert_eq!(outputs(&mut shipping), (vec![0], vec![]));
        let again = shipping.poll_timeout().expect("it waits for an answer");
        shipping.handle_timeout(again - 1);
        assert_eq!(outputs(&mut shipping), (vec![], vec![]));
        shipping.handle_timeout(again);
        assert_eq!(outputs(&mut shipping), (vec![0], vec![]));
        shipping.handle_taken(again, NEXT, partition(5), 3, 0);
        assert_eq!(outputs(&mut shipping), (vec![1], vec![]));
        // An answer that comes twice, one of another move, and one of somebody else.
        shipping.handle_taken(again, NEXT, partition(5), 3, 0);
        shipping.handle_taken(again, NEXT, partition(5), 2, 1);
        shipping.handle_taken(again, ME, partition(5), 3, 1);
        assert_eq!(outputs(&mut shipping), (vec![], vec![]));
        shipping.handle_taken(again, NEXT, partition(5), 3, 1);
        assert_eq!((outputs(&mut shipping), shipping.poll_timeout()), ((vec![], vec![5]), None));
    }

    #[test]
    fn a_refusal_begins_anew_after_a_while() {
        let mut shipping = Shipping::new();
        shipping.handle_drained(0, drained(5, PART_LEN_MAX + 10));
        shipping.handle_taken(0, NEXT, partition(5), 3, 0);
        assert_eq!(outputs(&mut shipping).0, [0, 1]);
        shipping.handle_refused(1, NEXT, partition(5), 3);
        assert_eq!(outputs(&mut shipping), (vec![], vec![]));
        shipping.handle_timeout(1 + SEND_AGAIN_NS);
        assert_eq!(outputs(&mut shipping).0, [0]);
    }

    #[test]
    fn a_partition_without_objects_is_shipped_at_once() {
        let mut shipping = Shipping::new();
        shipping.handle_drained(0, drained(5, 0));
        assert_eq!(outputs(&mut shipping), (vec![], vec![5]));
    }

    #[test]
    fn so_many_are_under_way_and_the_others_have_their_turn() {
        let mut shipping = Shipping::new();
        let all = JOBS_MAX as u16 + 1;
        (0..all).for_each(|number| shipping.handle_drained(0, drained(number, 10)));
        assert_eq!(outputs(&mut shipping).0.len(), JOBS_MAX);
        shipping.handle_taken(1, NEXT, partition(0), 3, 0);
        assert_eq!(outputs(&mut shipping), (vec![0], vec![0]));
    }

    #[test]
    fn what_the_view_does_not_move_is_given_up() {
        let mut shipping = Shipping::new();
        shipping.handle_drained(0, drained(5, 10));
        outputs(&mut shipping);
        let mut view = View::empty(StoreId(0));
        for node in [ME, NEXT] {
            view.put_member(Member { node, address: String::new(), cores: 1, entities: Vec::new() });
        }
        let state = &mut view.partitions[5];
        (state.owner, state.epoch, state.moving_to) = (Some(ME), 3, Some(NEXT));
        shipping.handle_view(1, ME, &view);
        assert!(shipping.poll_timeout().is_some());
        view.remove_member(NEXT);
        shipping.handle_view(2, ME, &view);
        assert_eq!(shipping.poll_timeout(), None);
    }
}
