//! Messages of every kind from a seeded generator, for the tests.

use std::sync::Arc;

use epicserver_storage::{
    BatchName, BoundEntity, Committed, EarlierForm, Fence, Member, NodeId, Oversize, Partition,
    PartitionState, Record, RecordKey, StoreError, StoreId, StoreLimits, View,
};
use fastrand::Rng;

use super::parts::Part;
use super::store::{StoreAnswer, StoreRequest};
use super::{Announcement, ControlMessage};
use crate::cluster::report::{FoundObject, NodeCounters, SavedState};
use crate::membership::Handover;
use crate::node::Stats;
use crate::saving::SavePolicy;

/// How many kinds [`message`] makes.
pub(crate) const KINDS: usize = 23;

pub(crate) fn message(random: &mut Rng) -> ControlMessage {
    match random.usize(..KINDS) {
        0 => ControlMessage::Announce(announcement(random)),
        1 => ControlMessage::Join(member(random, 1)),
        2 => ControlMessage::Joined(Arc::new(view(random))),
        3 => ControlMessage::Refused(text(random)),
        4 => ControlMessage::Renew,
        5 => ControlMessage::Renewed { view_version: random.u64(..) },
        6 => ControlMessage::Evicted,
        7 => ControlMessage::View(Arc::new(view(random))),
        8 => ControlMessage::ReadView,
        9 => ControlMessage::Leave,
        10 => ControlMessage::Left,
        11 => ControlMessage::Handed(list(random, |random| Handover {
            partition: partition(random),
            epoch: random.u64(..),
            to: node(random),
        })),
        12 => ControlMessage::Ship {
            partition: partition(random),
            epoch: random.u64(..),
            to: node(random),
            part: part(random),
        },
        13 => ControlMessage::ShipTaken {
            partition: partition(random),
            epoch: random.u64(..),
            part: random.u32(..),
        },
        14 => ControlMessage::ShipRefused { partition: partition(random), epoch: random.u64(..) },
        15 => ControlMessage::Store(request(random)),
        16 => ControlMessage::StoreAnswer(answer(random)),
        17 => ControlMessage::Inspect,
        18 => ControlMessage::Inspected { stats: stats(random), counters: counters(random) },
        19 => ControlMessage::FindObject { entity: text(random), key: text(random) },
        20 => ControlMessage::FoundObject(random.bool().then(|| found(random))),
        21 => ControlMessage::FindSaved(key(random)),
        _ => ControlMessage::FoundSaved(saved(random)),
    }
}

fn found(random: &mut Rng) -> FoundObject {
    let policies =
        [SavePolicy::Durable, SavePolicy::Behind(random.u64(..)), SavePolicy::OnIdle, SavePolicy::Never];
    FoundObject { partition: partition(random), key: key(random), policy: policies[random.usize(..4)] }
}

fn saved(random: &mut Rng) -> SavedState {
    match random.u8(..4) {
        0 => SavedState::Nothing,
        1 => SavedState::State {
            version: random.u64(..),
            bytes: random.u64(..),
            epoch: random.u64(..),
            saved_at_s: random.u32(..),
        },
        2 => SavedState::Forgotten { version: random.u64(..), saved_at_s: random.u32(..) },
        _ => SavedState::Unreadable(text(random)),
    }
}

fn stats(random: &mut Rng) -> Stats {
    Stats {
        calls: random.u64(..),
        turns: random.u64(..),
        cross_core_calls: random.u64(..),
        remote_calls: random.u64(..),
        images: random.u64(..),
        activations: random.u64(..),
        objects: random.u64(..),
        calls_from_nodes: random.u64(..),
        idle_dropped: random.u64(..),
        budget_dropped: random.u64(..),
        memory_len: random.u64(..),
    }
}

fn counters(random: &mut Rng) -> NodeCounters {
    NodeCounters {
        batches: random.u64(..),
        refused_saves: random.u64(..),
        stray_saves: random.u64(..),
        balance_waits_ms: random.u64(..),
        links: random.u64(..),
        frames_sent: random.u64(..),
        frames_received: random.u64(..),
    }
}

fn announcement(random: &mut Rng) -> Announcement {
    let limits = StoreLimits {
        envelope_length_max: random.usize(..),
        batch_saves_max: random.usize(..),
        batch_length_max: random.usize(..),
    };
    Announcement { reign: random.u64(..), store: StoreId(random.u128(..)), limits }
}

pub(crate) fn view(random: &mut Rng) -> View {
    let mut view = View::empty(StoreId(random.u128(..)));
    view.version = random.u64(..);
    for _ in 0..random.usize(..5) {
        view.raise_schema(&text(random), random.u32(..));
    }
    view.members = (1..=random.u64(..5)).map(|id| member(random, id * 7)).collect();
    for _ in 0..random.usize(..200) {
        let owner = random.choice(&view.members).map(|member| member.node);
        let next = random.choice(&view.members).map(|member| member.node);
        let moving_to = next.filter(|next| owner.is_some() && Some(*next) != owner);
        view.partitions[partition(random).index()] =
            PartitionState { owner, epoch: random.u64(1..1 << 40), moving_to };
    }
    view
}

fn member(random: &mut Rng, id: u64) -> Member {
    let form = |random: &mut Rng| EarlierForm { version: random.u32(..), layout: random.u64(..) };
    let entity = |random: &mut Rng| BoundEntity {
        earlier: list(random, form),
        ..BoundEntity::new(&text(random), random.u32(..), random.u64(..))
    };
    Member {
        node: NodeId { id, incarnation: random.u32(..) },
        address: text(random),
        cores: random.u8(..),
        entities: list(random, entity),
    }
}

fn request(random: &mut Rng) -> StoreRequest {
    match random.u8(..5) {
        0 => StoreRequest::Load { keys: list(random, key), offset: random.u32(..) },
        1 => StoreRequest::Commit { name: batch_name(random), part: part(random) },
        2 => StoreRequest::OpenFences(list(random, fence)),
        3 => StoreRequest::Fences,
        _ => StoreRequest::LastCommitted(node(random)),
    }
}

fn answer(random: &mut Rng) -> StoreAnswer {
    match random.u8(..9) {
        0 => StoreAnswer::Loaded(list(random, |random| {
            random.bool().then(|| Record::new(&list(random, |random| random.u8(..))))
        })),
        1 => StoreAnswer::LoadedPiece {
            total: random.u32(..),
            stamp: random.u64(..),
            bytes: list(random, |random| random.u8(..)),
        },
        2 => StoreAnswer::PartTaken(random.u32(..)),
        3 => StoreAnswer::PartsMissing,
        4 => StoreAnswer::Committed(if random.bool() { Committed::Now } else { Committed::Already }),
        5 => StoreAnswer::FencesOpened,
        6 => StoreAnswer::Fences(list(random, fence)),
        7 => StoreAnswer::LastCommitted(random.bool().then(|| batch_name(random))),
        _ => StoreAnswer::Failed(error(random)),
    }
}

pub(crate) fn error(random: &mut Rng) -> StoreError {
    let oversizes = [Oversize::Envelope, Oversize::BatchSaves, Oversize::BatchLength, Oversize::LoadKeys];
    match random.u8(..7) {
        0 => StoreError::Refused { given: fence(random), stored: random.bool().then(|| fence(random)) },
        1 => StoreError::VersionConflict { key: key(random), stored: random.u64(..), given: random.u64(..) },
        2 => StoreError::OutOfOrder {
            given: batch_name(random),
            committed: random.bool().then(|| batch_name(random)),
        },
        3 => StoreError::TooLarge {
            what: oversizes[random.usize(..oversizes.len())],
            given: random.usize(..),
            limit: random.usize(..),
        },
        4 => StoreError::Failed { reason: text(random) },
        5 => StoreError::Unknown { reason: text(random) },
        _ => StoreError::SyncFailed { reason: text(random) },
    }
}

fn part(random: &mut Rng) -> Part {
    Part { number: random.u32(..), is_last: random.bool(), bytes: list(random, |random| random.u8(..)) }
}

fn key(random: &mut Rng) -> RecordKey {
    let entity = random.u64(..);
    match random.u8(..4) {
        0 => RecordKey::u64(entity, random.u64(..)),
        1 => RecordKey::u128(entity, random.u128(..)),
        2 => RecordKey::string(entity, &text(random)).expect("the text is short"),
        _ => RecordKey::bytes(entity, &list(random, |random| random.u8(..))).expect("the list is short"),
    }
}

fn fence(random: &mut Rng) -> Fence {
    Fence { partition: partition(random), epoch: random.u64(..), holder: node(random) }
}

fn batch_name(random: &mut Rng) -> BatchName {
    BatchName { node: node(random), number: random.u64(..) }
}

fn node(random: &mut Rng) -> NodeId {
    NodeId { id: random.u64(..), incarnation: random.u32(..) }
}

fn partition(random: &mut Rng) -> Partition {
    Partition::from_hash(random.u64(..))
}

fn text(random: &mut Rng) -> String {
    (0..random.usize(..20)).map(|_| random.char(..)).collect()
}

fn list<T>(random: &mut Rng, mut make: impl FnMut(&mut Rng) -> T) -> Vec<T> {
    (0..random.usize(..12)).map(|_| make(random)).collect()
}
