//! The view as bytes, as the file keeps it.
//!
//! ```text
//!  0 magic "EPVW" | 4 format u32 | 8 crc32 of all that follows, u32
//! 12 version u64 | 20 store u128 | 36 number of members u16
//! 38 each member:      id u64, incarnation u32, cores u8, address, number of entities u16, each: name, layout u64, version u32,
//!                      number of earlier versions u16, each: version u32, layout u64
//!    number of schemas u16, each: entity, version u32
//!    each partition:   owner u16, moving to u16, epoch u64; both as places among the members, 0xFFFF for nobody
//! ```
//! All integers little-endian; a text is its length in bytes as u16, then UTF-8. The whole is about 48 KiB, and is written as a
//! whole: views change rarely.

use epicserver_storage::{
    BoundEntity, ENTITY_FORMS_MAX, EarlierForm, MEMBER_ENTITIES_MAX, MEMBER_NAME_LENGTH_MAX, MEMBERS_MAX,
    Member, NodeId, Partition, PartitionState, SCHEMAS_MAX, Schema, StoreId, View, ViewError,
};

/// Writes a view that a coordinator has checked.
///
/// # Panics
/// If it breaks a rule of [`View::check_successor`].
pub(crate) fn encode(view: &View) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&view.version.to_le_bytes());
    out.extend_from_slice(&view.store.0.to_le_bytes());
    put_count(&mut out, view.members.len());
    for member in &view.members {
        put_member(&mut out, member);
    }
    put_count(&mut out, view.schemas.len());
    for schema in &view.schemas {
        put_text(&mut out, &schema.entity);
        out.extend_from_slice(&schema.version.to_le_bytes());
    }
    for state in view.partitions.iter() {
        out.extend_from_slice(&place(view, state.owner).to_le_bytes());
        out.extend_from_slice(&place(view, state.moving_to).to_le_bytes());
        out.extend_from_slice(&state.epoch.to_le_bytes());
    }
    let checksum = crc32fast::hash(&out[HEAD_LENGTH..]);
    out[HEAD_LENGTH - 4..HEAD_LENGTH].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// Reads a view and checks every byte. Safe on any bytes.
///
/// # Errors
/// Says what is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Result<View, DecodeError> {
    let mut head = Reader { rest: bytes };
    if head.take(4)? != MAGIC {
        return Err(DecodeError::Magic);
    }
    let format = head.u32()?;
    if format != FORMAT {
        return Err(DecodeError::Format { found: format });
    }
    let (stored, computed) = (head.u32()?, crc32fast::hash(head.rest));
    if stored != computed {
        return Err(DecodeError::Checksum { stored, computed });
    }
    let view = decode_body(head)?;
    View::empty(view.store).check_successor(&view)?;
    Ok(view)
}

/// The bytes are not a view.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("the view does not begin with its magic")]
    Magic,
    #[error("the view has format {found}, this program reads format {FORMAT}")]
    Format { found: u32 },
    #[error("the view's checksum is {stored:08x}, its bytes give {computed:08x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("the view is cut off")]
    TooShort,
    #[error("the view has {count} bytes too many")]
    TooLong { count: usize },
    #[error("the view has {given} {what}, the limit is {limit}")]
    TooMany { what: &'static str, given: usize, limit: usize },
    #[error("a text in the view is not UTF-8")]
    NotUtf8,
    #[error("the view names member {place} of {count}")]
    NoMember { place: u16, count: usize },
    #[error(transparent)]
    Rule(#[from] ViewError),
}

fn put_member(out: &mut Vec<u8>, member: &Member) {
    out.extend_from_slice(&member.node.id.to_le_bytes());
    out.extend_from_slice(&member.node.incarnation.to_le_bytes());
    out.push(member.cores);
    put_text(out, &member.address);
    put_count(out, member.entities.len());
    for entity in &member.entities {
        put_text(out, &entity.name);
        out.extend_from_slice(&entity.layout.to_le_bytes());
        out.extend_from_slice(&entity.version.to_le_bytes());
        put_count(out, entity.earlier.len());
        for form in &entity.earlier {
            out.extend_from_slice(&form.version.to_le_bytes());
            out.extend_from_slice(&form.layout.to_le_bytes());
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).expect("the limits of a view are below this");
    out.extend_from_slice(&count.to_le_bytes());
}

fn place(view: &View, node: Option<NodeId>) -> u16 {
    let Some(node) = node else { return NOBODY };
    let place = view.members.binary_search_by_key(&node.id, |member| member.node.id);
    place.expect("owners and the next owners are members") as u16
}

fn decode_body(mut reader: Reader<'_>) -> Result<View, DecodeError> {
    let version = reader.u64()?;
    let mut view = View::empty(StoreId(u128::from_le_bytes(reader.array()?)));
    view.version = version;
    let count = reader.count("members", MEMBERS_MAX)?;
    for _ in 0..count {
        view.members.push(reader.member()?);
    }
    for _ in 0..reader.count("versions of entities", SCHEMAS_MAX)? {
        view.schemas.push(Schema { entity: reader.text()?, version: reader.u32()? });
    }
    for partition in Partition::all() {
        let (owner, moving_to) = (reader.node(&view.members)?, reader.node(&view.members)?);
        view.partitions[partition.index()] = PartitionState { owner, epoch: reader.u64()?, moving_to };
    }
    match reader.rest.len() {
        0 => Ok(view),
        count => Err(DecodeError::TooLong { count }),
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::TooShort)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::TooShort)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn count(&mut self, what: &'static str, limit: usize) -> Result<usize, DecodeError> {
        let given = usize::from(self.u16()?);
        if given > limit { Err(DecodeError::TooMany { what, given, limit }) } else { Ok(given) }
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let length = self.count("bytes in a text", MEMBER_NAME_LENGTH_MAX)?;
        let text = str::from_utf8(self.take(length)?).map_err(|_| DecodeError::NotUtf8)?;
        Ok(text.to_owned())
    }

    fn member(&mut self) -> Result<Member, DecodeError> {
        let node = NodeId { id: self.u64()?, incarnation: self.u32()? };
        let [cores] = self.array()?;
        let address = self.text()?;
        let mut entities = Vec::new();
        for _ in 0..self.count("entities of a member", MEMBER_ENTITIES_MAX)? {
            entities.push(self.entity()?);
        }
        Ok(Member { node, address, cores, entities })
    }

    fn entity(&mut self) -> Result<BoundEntity, DecodeError> {
        let (name, layout, version) = (self.text()?, self.u64()?, self.u32()?);
        let mut earlier = Vec::new();
        for _ in 0..self.count("versions of an entity", ENTITY_FORMS_MAX)? {
            earlier.push(EarlierForm { version: self.u32()?, layout: self.u64()? });
        }
        Ok(BoundEntity { name, layout, version, earlier })
    }

    fn node(&mut self, members: &[Member]) -> Result<Option<NodeId>, DecodeError> {
        let place = self.u16()?;
        if place == NOBODY {
            return Ok(None);
        }
        match members.get(usize::from(place)) {
            Some(member) => Ok(Some(member.node)),
            None => Err(DecodeError::NoMember { place, count: members.len() }),
        }
    }
}

const MAGIC: [u8; 4] = *b"EPVW";
const FORMAT: u32 = 2;
const HEAD_LENGTH: usize = 12;
const NOBODY: u16 = u16::MAX;
const _: () = assert!(MEMBERS_MAX < NOBODY as usize);

#[cfg(test)]
mod tests;
