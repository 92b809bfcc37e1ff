//! Control frames: what nodes say to each other beyond calls. Membership, planned moves, and the store of the keeper.
//!
//! ```text
//! node -> keeper     Join Renew ReadView Leave Handed, Store(request)
//! keeper -> node     Announce, Joined Refused Renewed Evicted Left, View (asked for, and at every change), StoreAnswer
//! owner -> next      Ship        next -> owner   ShipTaken, ShipRefused
//! who looks -> node  Inspect, FindObject      -> keeper   FindSaved
//! ```
//! The payload of a frame of kind `Control` is one message, and the header's slot is the number of the request: an answer
//! has that of its question, what nobody asked for has 0. A message may get lost with its link, and may come twice: every
//! one of them can be sent again.
//!
//! It is a codec by hand: each message has one spelling, every length has a limit, and what was read is valid. It is not
//! what to do with a message: see `cluster`. Start with [`ControlMessage::parse`].

use std::sync::Arc;

use epicserver_storage::{
    Member, NodeId, PARTITIONS, Partition, RecordKey, StoreId, StoreLimits, View, ViewError,
};
use epicserver_transport::{BufferPool, Frame, FrameHeader, FrameKind};

use crate::cluster::report::{FoundObject, NodeCounters, SavedState};
use crate::membership::Handover;
use crate::node::Stats;
use crate::wire::assembly::assemble_bare;
use bytes::{Reader, Writer};
use parts::{Part, put_part, read_part};
use store::{StoreAnswer, StoreRequest};

mod bytes;
mod inspect;
pub mod parts;
pub mod store;
mod view;

/// What a control frame says.
#[derive(Clone, Debug, PartialEq)]
pub enum ControlMessage {
    /// I am the keeper.
    Announce(Announcement),
    /// Make me a member. Answered by `Joined` or `Refused`.
    Join(Member),
    /// You are a member of this view.
    Joined(Arc<View>),
    /// You are not, and asking again will not help while this holds.
    Refused(String),
    /// I am alive. Answered by `Renewed` or `Evicted`.
    Renew,
    /// Your lease runs anew.
    Renewed {
        /// The version of the current view; a member with an older one reads it.
        view_version: u64,
    },
    /// You are no member, or no more: drop everything and join in a new incarnation.
    Evicted,
    /// The current view.
    View(Arc<View>),
    /// Tell me the current view. Answered by `View`.
    ReadView,
    /// Move my partitions away, then remove me. Answered by `View`, and by `Left` once it is done.
    Leave,
    /// You are no member any more, as you wished.
    Left,
    /// The next owners have acknowledged everything of these partitions. Answered by `View`.
    Handed(Vec<Handover>),
    /// The records of a partition that is handed over, for its next owner. Answered by `ShipTaken` or `ShipRefused`.
    Ship {
        /// Whose records.
        partition: Partition,
        /// The epoch of the owner that ships.
        epoch: u64,
        /// The life of the node that is to have them: another one of it must not use them.
        to: NodeId,
        /// A part of the stream of records.
        part: Part,
    },
    /// The part is kept; the last one: everything is.
    ShipTaken {
        /// Which partition.
        partition: Partition,
        /// The epoch of the owner that ships.
        epoch: u64,
        /// The number of the part.
        part: u32,
    },
    /// The parts before that one are missing: start over.
    ShipRefused {
        /// Which partition.
        partition: Partition,
        /// The epoch of the owner that ships.
        epoch: u64,
    },
    /// A verb of the store, for the keeper.
    Store(StoreRequest),
    /// The keeper's answer to one.
    StoreAnswer(StoreAnswer),
    /// What do you do? Answered by `Inspected`.
    Inspect,
    /// What this node does.
    Inspected {
        /// Counts of its cores.
        stats: Stats,
        /// Counts of its other threads.
        counters: NodeCounters,
    },
    /// How is this object of yours called, and in which partition is it? Answered by `FoundObject`.
    FindObject {
        /// The entity's name.
        entity: String,
        /// The key, as a person writes it.
        key: String,
    },
    /// So and there; or the text is no key of that entity.
    FoundObject(Option<FoundObject>),
    /// What has the store of this object? Answered by the keeper with `FoundSaved`.
    FindSaved(RecordKey),
    /// This.
    FoundSaved(SavedState),
}

/// What the keeper says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Counts the keepers: the highest one is the keeper.
    pub reign: u64,
    /// The store that it holds.
    pub store: StoreId,
    /// What that store takes at most.
    pub limits: StoreLimits,
}

/// Why bytes are no control message, or a message cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Not a control frame at all.
    #[error("not a control frame")]
    NotControl,
    /// A message or a choice in one that this program does not know.
    #[error("no message has the number {0}")]
    Kind(u8),
    /// The bytes end too early.
    #[error("a control message is cut off")]
    Short,
    /// Bytes are left at the end.
    #[error("{0} bytes are left behind a control message")]
    LeftOver(usize),
    /// A length is beyond its limit.
    #[error("a length of {given} in a control message, the limit is {max}")]
    Limit {
        /// The length.
        given: usize,
        /// The limit.
        max: usize,
    },
    /// Something is not what it is to be.
    #[error("{0} in a control message is none")]
    Value(&'static str),
    /// A view that breaks a rule.
    #[error("the view in a control message is none: {0}")]
    View(ViewError),
}

impl ControlMessage {
    /// The frame that says this.
    ///
    /// # Errors
    /// [`ControlError::Limit`] if it is longer than [`CONTROL_LEN_MAX`].
    pub fn frame(&self, pool: Option<&BufferPool>, request: u32) -> Result<Frame, ControlError> {
        let payload = self.encode()?;
        let mut header = FrameHeader::new(FrameKind::Control);
        header.slot = request.into();
        Ok(assemble_bare(pool, header, &payload))
    }

    /// Number of the request and message of a frame.
    ///
    /// # Errors
    /// [`ControlError`] for anything but what [`ControlMessage::frame`] makes.
    pub fn parse(frame: &[u8]) -> Result<(u32, Self), ControlError> {
        let header = FrameHeader::parse_frame(frame).map_err(|_| ControlError::NotControl)?;
        if header.kind() != FrameKind::Control {
            return Err(ControlError::NotControl);
        }
        let payload = FrameHeader::payload_bytes(frame).ok_or(ControlError::NotControl)?;
        Ok((header.slot.get(), Self::decode(payload)?))
    }

    /// The payload of the frame.
    ///
    /// # Errors
    /// As [`ControlMessage::frame`].
    pub fn encode(&self) -> Result<Vec<u8>, ControlError> {
        let mut writer = Writer::default();
        self.put(&mut writer);
        let given = writer.out.len();
        if given > CONTROL_LEN_MAX {
            return Err(ControlError::Limit { given, max: CONTROL_LEN_MAX });
        }
        Ok(writer.out)
    }

    /// Reads the payload of a frame.
    ///
    /// # Errors
    /// As [`ControlMessage::parse`].
    pub fn decode(payload: &[u8]) -> Result<Self, ControlError> {
        if payload.len() > CONTROL_LEN_MAX {
            return Err(ControlError::Limit { given: payload.len(), max: CONTROL_LEN_MAX });
        }
        let mut reader = Reader::new(payload);
        let kind = reader.u8()?;
        let message = match kind {
            0..SHIP => Self::read_membership(kind, &mut reader)?,
            _ => Self::read_rest(kind, &mut reader)?,
        };
        reader.end()?;
        Ok(message)
    }

    fn put(&self, writer: &mut Writer) {
        writer.u8(self.kind());
        match self {
            Self::Announce(announcement) => put_announcement(writer, announcement),
            Self::Join(member) => view::put_member(writer, member),
            Self::Joined(view) | Self::View(view) => view::put_view(writer, view),
            Self::Refused(text) => writer.text(text, TEXT_LEN_MAX),
            Self::Renewed { view_version } => writer.u64(*view_version),
            Self::Renew | Self::Evicted | Self::ReadView | Self::Leave | Self::Left => {}
            Self::Handed(handovers) => writer.list(handovers, |writer, handover| {
                writer.partition(handover.partition);
                writer.u64(handover.epoch);
                writer.node(handover.to);
            }),
            Self::Ship { partition, epoch, to, part } => {
                writer.partition(*partition);
                writer.u64(*epoch);
                writer.node(*to);
                put_part(writer, part);
            }
            Self::ShipTaken { partition, epoch, part } => {
                writer.partition(*partition);
                writer.u64(*epoch);
                writer.u32(*part);
            }
            Self::ShipRefused { partition, epoch } => {
                writer.partition(*partition);
                writer.u64(*epoch);
            }
            Self::Store(request) => store::put_request(writer, request),
            Self::StoreAnswer(answer) => store::put_answer(writer, answer),
            Self::Inspect => {}
            Self::Inspected { stats, counters } => inspect::put_inspected(writer, stats, counters),
            Self::FindObject { entity, key } => {
                writer.text(entity, TEXT_LEN_MAX);
                writer.text(key, TEXT_LEN_MAX);
            }
            Self::FoundObject(found) => writer.option(found.as_ref(), inspect::put_found),
            Self::FindSaved(key) => writer.key(key.as_ref()),
            Self::FoundSaved(saved) => inspect::put_saved(writer, saved),
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Announce(_) => 0,
            Self::Join(_) => 1,
            Self::Joined(_) => 2,
            Self::Refused(_) => 3,
            Self::Renew => 4,
            Self::Renewed { .. } => 5,
            Self::Evicted => 6,
            Self::View(_) => 7,
            Self::ReadView => 8,
            Self::Leave => 9,
            Self::Left => 10,
            Self::Handed(_) => 11,
            Self::Ship { .. } => SHIP,
            Self::ShipTaken { .. } => 13,
            Self::ShipRefused { .. } => 14,
            Self::Store(_) => 15,
            Self::StoreAnswer(_) => 16,
            Self::Inspect => 17,
            Self::Inspected { .. } => 18,
            Self::FindObject { .. } => 19,
            Self::FoundObject(_) => 20,
            Self::FindSaved(_) => 21,
            Self::FoundSaved(_) => 22,
        }
    }

    fn read_membership(kind: u8, reader: &mut Reader<'_>) -> Result<Self, ControlError> {
        Ok(match kind {
            0 => Self::Announce(read_announcement(reader)?),
            1 => Self::Join(view::read_member(reader)?),
            2 => Self::Joined(Arc::new(view::read_view(reader)?)),
            3 => Self::Refused(reader.text(TEXT_LEN_MAX)?),
            4 => Self::Renew,
            5 => Self::Renewed { view_version: reader.u64()? },
            6 => Self::Evicted,
            7 => Self::View(Arc::new(view::read_view(reader)?)),
            8 => Self::ReadView,
            9 => Self::Leave,
            10 => Self::Left,
            11 => Self::Handed(reader.list(usize::from(PARTITIONS), HANDOVER_LEN, |reader| {
                Ok(Handover { partition: reader.partition()?, epoch: reader.u64()?, to: reader.node()? })
            })?),
            other => return Err(ControlError::Kind(other)),
        })
    }

    fn read_rest(kind: u8, reader: &mut Reader<'_>) -> Result<Self, ControlError> {
        Ok(match kind {
            SHIP => Self::Ship {
                partition: reader.partition()?,
                epoch: reader.u64()?,
                to: reader.node()?,
                part: read_part(reader)?,
            },
            13 => {
                Self::ShipTaken { partition: reader.partition()?, epoch: reader.u64()?, part: reader.u32()? }
            }
            14 => Self::ShipRefused { partition: reader.partition()?, epoch: reader.u64()? },
            15 => Self::Store(store::read_request(reader)?),
            16 => Self::StoreAnswer(store::read_answer(reader)?),
            17 => Self::Inspect,
            18 => inspect::read_inspected(reader)?,
            19 => Self::FindObject { entity: reader.text(TEXT_LEN_MAX)?, key: reader.text(TEXT_LEN_MAX)? },
            20 => Self::FoundObject(reader.option(inspect::read_found)?),
            21 => Self::FindSaved(reader.key()?),
            22 => Self::FoundSaved(inspect::read_saved(reader)?),
            other => return Err(ControlError::Kind(other)),
        })
    }
}

fn put_announcement(writer: &mut Writer, announcement: &Announcement) {
    writer.u64(announcement.reign);
    writer.u128(announcement.store.0);
    writer.size(announcement.limits.envelope_length_max);
    writer.size(announcement.limits.batch_saves_max);
    writer.size(announcement.limits.batch_length_max);
}

fn read_announcement(reader: &mut Reader<'_>) -> Result<Announcement, ControlError> {
    Ok(Announcement {
        reign: reader.u64()?,
        store: StoreId(reader.u128()?),
        limits: StoreLimits {
            envelope_length_max: reader.size()?,
            batch_saves_max: reader.size()?,
            batch_length_max: reader.size()?,
        },
    })
}

/// Bytes of a stream or a record that go in one message, at most.
pub const PART_LEN_MAX: usize = 4 << 20;
/// Longest control message, in bytes: a part, and what is said about it.
pub const CONTROL_LEN_MAX: usize = PART_LEN_MAX + (256 << 10);
/// Longest reason or refusal, in bytes; longer ones are cut.
pub const TEXT_LEN_MAX: usize = 1024;

const SHIP: u8 = 12;
const HANDOVER_LEN: usize = 2 + 8 + 12;
const _: () = assert!(CONTROL_LEN_MAX <= crate::session::PAYLOAD_LEN_MAX as usize);
const _: () = assert!(store::FENCES_MAX * 22 < CONTROL_LEN_MAX - PART_LEN_MAX);

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
