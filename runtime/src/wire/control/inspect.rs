//! What a node tells of itself to people who look.

use super::bytes::{Reader, Writer};
use super::{ControlError, ControlMessage, TEXT_LEN_MAX};
use crate::cluster::report::{FoundObject, NodeCounters, SavedState};
use crate::node::Stats;
use crate::saving::SavePolicy;

pub(super) fn put_inspected(writer: &mut Writer, stats: &Stats, counters: &NodeCounters) {
    let Stats { calls, turns, cross_core_calls, remote_calls, images, activations, objects, .. } = *stats;
    let Stats { calls_from_nodes, idle_dropped, budget_dropped, memory_len, .. } = *stats;
    let NodeCounters { batches, refused_saves, stray_saves, balance_waits_ms, .. } = *counters;
    let NodeCounters { links, frames_sent, frames_received, .. } = *counters;
    let of_cores = [calls, turns, cross_core_calls, remote_calls, images, activations, objects];
    let of_others =
        [batches, refused_saves, stray_saves, balance_waits_ms, links, frames_sent, frames_received];
    let of_memory = [calls_from_nodes, idle_dropped, budget_dropped, memory_len];
    of_cores.into_iter().chain(of_memory).chain(of_others).for_each(|count| writer.u64(count));
}

pub(super) fn read_inspected(reader: &mut Reader<'_>) -> Result<ControlMessage, ControlError> {
    let stats = Stats {
        calls: reader.u64()?,
        turns: reader.u64()?,
        cross_core_calls: reader.u64()?,
        remote_calls: reader.u64()?,
        images: reader.u64()?,
        activations: reader.u64()?,
        objects: reader.u64()?,
        calls_from_nodes: reader.u64()?,
        idle_dropped: reader.u64()?,
        budget_dropped: reader.u64()?,
        memory_len: reader.u64()?,
    };
    let counters = NodeCounters {
        batches: reader.u64()?,
        refused_saves: reader.u64()?,
        stray_saves: reader.u64()?,
        balance_waits_ms: reader.u64()?,
        links: reader.u64()?,
        frames_sent: reader.u64()?,
        frames_received: reader.u64()?,
    };
    Ok(ControlMessage::Inspected { stats, counters })
}

pub(super) fn put_found(writer: &mut Writer, found: &FoundObject) {
    writer.partition(found.partition);
    writer.key(found.key.as_ref());
    match found.policy {
        SavePolicy::Durable => writer.u8(0),
        SavePolicy::Behind(delay_ms) => {
            writer.u8(1);
            writer.u64(delay_ms);
        }
        SavePolicy::OnIdle => writer.u8(2),
        SavePolicy::Never => writer.u8(3),
    }
}

pub(super) fn read_found(reader: &mut Reader<'_>) -> Result<FoundObject, ControlError> {
    let (partition, key) = (reader.partition()?, reader.key()?);
    let policy = match reader.u8()? {
        0 => SavePolicy::Durable,
        1 => SavePolicy::Behind(reader.u64()?),
        2 => SavePolicy::OnIdle,
        3 => SavePolicy::Never,
        _ => return Err(ControlError::Value("a save policy")),
    };
    Ok(FoundObject { partition, key, policy })
}

pub(super) fn put_saved(writer: &mut Writer, saved: &SavedState) {
    match saved {
        SavedState::Nothing => writer.u8(0),
        SavedState::State { version, bytes, epoch, saved_at_s } => {
            writer.u8(1);
            [version, bytes, epoch].into_iter().for_each(|&count| writer.u64(count));
            writer.u32(*saved_at_s);
        }
        SavedState::Forgotten { version, saved_at_s } => {
            writer.u8(2);
            writer.u64(*version);
            writer.u32(*saved_at_s);
        }
        SavedState::Unreadable(reason) => {
            writer.u8(3);
            writer.text(reason, TEXT_LEN_MAX);
        }
    }
}

pub(super) fn read_saved(reader: &mut Reader<'_>) -> Result<SavedState, ControlError> {
    Ok(match reader.u8()? {
        0 => SavedState::Nothing,
        1 => SavedState::State {
            version: reader.u64()?,
            bytes: reader.u64()?,
            epoch: reader.u64()?,
            saved_at_s: reader.u32()?,
        },
        2 => SavedState::Forgotten { version: reader.u64()?, saved_at_s: reader.u32()? },
        3 => SavedState::Unreadable(reader.text(TEXT_LEN_MAX)?),
        _ => return Err(ControlError::Value("what is saved")),
    })
}
