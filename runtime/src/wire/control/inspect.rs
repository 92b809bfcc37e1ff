//! What a node tells of itself to people who look.

use super::bytes::{Reader, Writer};
use super::{ControlError, ControlMessage};
use crate::cluster::report::NodeCounters;
use crate::node::Stats;

pub(super) fn put_inspected(writer: &mut Writer, stats: &Stats, counters: &NodeCounters) {
    let Stats { calls, turns, cross_core_calls, remote_calls, images, activations, objects } = *stats;
    let NodeCounters { batches, refused_saves, links, frames_sent, frames_received } = *counters;
    let of_cores = [calls, turns, cross_core_calls, remote_calls, images, activations, objects];
    let of_others = [batches, refused_saves, links, frames_sent, frames_received];
    of_cores.into_iter().chain(of_others).for_each(|count| writer.u64(count));
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
    };
    let counters = NodeCounters {
        batches: reader.u64()?,
        refused_saves: reader.u64()?,
        links: reader.u64()?,
        frames_sent: reader.u64()?,
        frames_received: reader.u64()?,
    };
    Ok(ControlMessage::Inspected { stats, counters })
}
