//! Views and member records as bytes and back.
//!
//! Owners are named by their place among the members, so that a view of 4096 partitions takes some 48 KiB. A view that
//! was read keeps every rule that holds for a view by itself.

use epicserver_storage::{
    BoundEntity, ENTITY_FORMS_MAX, EarlierForm, MEMBER_ENTITIES_MAX, MEMBER_NAME_LENGTH_MAX, MEMBERS_MAX,
    Member, NodeId, Partition, PartitionState, SCHEMAS_MAX, Schema, StoreId, View,
};

use super::ControlError;
use super::bytes::{Reader, Writer};

pub(super) fn put_view(writer: &mut Writer, view: &View) {
    writer.u64(view.version);
    writer.u128(view.store.0);
    writer.list(&view.members, put_member);
    writer.list(&view.schemas, |writer, schema| {
        writer.text(&schema.entity, MEMBER_NAME_LENGTH_MAX);
        writer.u32(schema.version);
    });
    for state in view.partitions.iter() {
        writer.u16(place(view, state.owner));
        writer.u16(place(view, state.moving_to));
        writer.u64(state.epoch);
    }
}

pub(super) fn read_view(reader: &mut Reader<'_>) -> Result<View, ControlError> {
    let version = reader.u64()?;
    let mut view = View::empty(StoreId(reader.u128()?));
    view.version = version;
    view.members = reader.list(MEMBERS_MAX, MEMBER_LEN_MIN, read_member)?;
    view.schemas = reader.list(SCHEMAS_MAX, SCHEMA_LEN_MIN, |reader| {
        Ok(Schema { entity: reader.text(MEMBER_NAME_LENGTH_MAX)?, version: reader.u32()? })
    })?;
    for partition in Partition::all() {
        let owner = node_at(&view.members, reader.u16()?)?;
        let moving_to = node_at(&view.members, reader.u16()?)?;
        view.partitions[partition.index()] = PartitionState { owner, epoch: reader.u64()?, moving_to };
    }
    View::empty(view.store).check_successor(&view).map_err(ControlError::View)?;
    Ok(view)
}

pub(super) fn put_member(writer: &mut Writer, member: &Member) {
    writer.node(member.node);
    writer.text(&member.address, MEMBER_NAME_LENGTH_MAX);
    writer.u8(member.cores);
    writer.list(&member.entities, |writer, entity| {
        writer.text(&entity.name, MEMBER_NAME_LENGTH_MAX);
        writer.u64(entity.layout);
        writer.u32(entity.version);
        writer.list(&entity.earlier, |writer, form| {
            writer.u32(form.version);
            writer.u64(form.layout);
        });
    });
}

pub(super) fn read_member(reader: &mut Reader<'_>) -> Result<Member, ControlError> {
    Ok(Member {
        node: reader.node()?,
        address: reader.text(MEMBER_NAME_LENGTH_MAX)?,
        cores: reader.u8()?,
        entities: reader.list(MEMBER_ENTITIES_MAX, ENTITY_LEN_MIN, |reader| {
            Ok(BoundEntity {
                name: reader.text(MEMBER_NAME_LENGTH_MAX)?,
                layout: reader.u64()?,
                version: reader.u32()?,
                earlier: reader.list(ENTITY_FORMS_MAX, FORM_LEN, |reader| {
                    Ok(EarlierForm { version: reader.u32()?, layout: reader.u64()? })
                })?,
            })
        })?,
    })
}

/// Owners are members: every coordinator sees to that.
fn place(view: &View, node: Option<NodeId>) -> u16 {
    let find = |node: NodeId| view.members.binary_search_by_key(&node, |member| member.node).ok();
    node.and_then(find).map_or(NOBODY, |place| place as u16)
}

fn node_at(members: &[Member], place: u16) -> Result<Option<NodeId>, ControlError> {
    match members.get(usize::from(place)) {
        Some(member) => Ok(Some(member.node)),
        None if place == NOBODY => Ok(None),
        None => Err(ControlError::Value("an owner")),
    }
}

const NOBODY: u16 = u16::MAX;
const MEMBER_LEN_MIN: usize = 12 + 4 + 1 + 4;
const ENTITY_LEN_MIN: usize = 4 + 8 + 4 + 4;
const FORM_LEN: usize = 4 + 8;
const SCHEMA_LEN_MIN: usize = 4 + 4;
const _: () = assert!(MEMBERS_MAX < NOBODY as usize);
