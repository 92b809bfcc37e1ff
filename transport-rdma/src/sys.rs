//! Verbs behind a safe face. This module and those below it are the only ones of this crate with `unsafe` code.
//!
//! Types and the functions that the header defines in place come from `rdma-sys`; what the shared library exports is looked
//! up when the first device is asked for ([`library`]), so that a program with this transport starts on a machine without the
//! library, and says what is missing only if the transport is chosen. Classic verbs only: the extended ones of `rdma-sys`
//! never answer on 64-bit machines, because it compares a marker of the library with the wrong constant.
//!
//! Who keeps memory alive: a [`Region`] the memory it registered, a [`QueuePair`] every buffer that the device may still
//! read or write, and all of them the device. A queue pair is destroyed before it lets go of its buffers.

mod device;
mod library;
mod queue;
mod request;

pub(crate) use device::{
    AsyncEvent, Device, DeviceInfo, GidEntry, PortInfo, Region, RoceVersion, list_devices,
};
pub(crate) use queue::{CompletionQueue, PARTS_MAX, POST_BATCH, QueuePair};
#[cfg(test)]
pub(crate) use request::Hostile;
pub(crate) use request::{
    Completion, CompletionKind, Destination, Done, Memory, Outgoing, QueuePairSizes, Remote,
};
