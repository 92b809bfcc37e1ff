//! Numbers, texts and lists as bytes and back. Everything little-endian and unaligned; a list is its length and its items.
//!
//! The reader takes nothing on trust: a length is compared with its limit and with the bytes that are there before
//! anything is allocated for it.

use epicserver_storage::{BatchName, Fence, KeyKind, NodeId, Partition, RecordKey, RecordKeyRef};

use super::ControlError;

/// Appends to a buffer.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) out: Vec<u8>,
}

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.raw(&value.to_le_bytes());
    }

    /// Sizes are at most those of a message, or of memory; 64 bits on every machine.
    pub(super) fn size(&mut self, value: usize) {
        self.u64(value as u64);
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A length and that many bytes. Longer ones than a message are cut off by the check of the whole message.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.raw(bytes);
    }

    /// A text, cut at a letter so that it is no longer than `len_max` bytes.
    pub(super) fn text(&mut self, text: &str, len_max: usize) {
        let mut len = text.len().min(len_max);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        self.bytes(&text.as_bytes()[..len]);
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut put: impl FnMut(&mut Self, &T)) {
        self.u32(u32::try_from(items.len()).unwrap_or(u32::MAX));
        items.iter().for_each(|item| put(self, item));
    }

    pub(super) fn option<T>(&mut self, value: Option<&T>, put: impl FnOnce(&mut Self, &T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            put(self, value);
        }
    }

    pub(super) fn node(&mut self, node: NodeId) {
        self.u64(node.id);
        self.u32(node.incarnation);
    }

    pub(super) fn partition(&mut self, partition: Partition) {
        self.u16(partition.number());
    }

    pub(super) fn fence(&mut self, fence: &Fence) {
        self.partition(fence.partition);
        self.u64(fence.epoch);
        self.node(fence.holder);
    }

    pub(super) fn batch_name(&mut self, name: &BatchName) {
        self.node(name.node);
        self.u64(name.number);
    }

    pub(super) fn key(&mut self, key: RecordKeyRef<'_>) {
        self.u64(key.entity);
        self.u8(key.kind as u8);
        self.bytes(key.bytes);
    }
}

/// Takes from the front.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may be left over.
    pub(super) fn end(&self) -> Result<(), ControlError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ControlError::LeftOver(self.rest.len())) }
    }

    pub(super) fn u8(&mut self) -> Result<u8, ControlError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn bool(&mut self) -> Result<bool, ControlError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ControlError::Value("a yes or no")),
        }
    }

    pub(super) fn u16(&mut self) -> Result<u16, ControlError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ControlError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ControlError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, ControlError> {
        self.array().map(u128::from_le_bytes)
    }

    pub(super) fn size(&mut self) -> Result<usize, ControlError> {
        usize::try_from(self.u64()?).map_err(|_| ControlError::Value("a size"))
    }

    pub(super) fn bytes(&mut self, len_max: usize) -> Result<&'a [u8], ControlError> {
        let len = self.length(len_max)?;
        self.raw(len)
    }

    pub(super) fn text(&mut self, len_max: usize) -> Result<String, ControlError> {
        let bytes = self.bytes(len_max)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ControlError::Value("a text"))
    }

    /// Items of at least `item_len_min` bytes each, which bounds how many can be there.
    pub(super) fn list<T>(
        &mut self,
        count_max: usize,
        item_len_min: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, ControlError>,
    ) -> Result<Vec<T>, ControlError> {
        let count = self.length(count_max)?;
        if count.saturating_mul(item_len_min) > self.rest.len() {
            return Err(ControlError::Short);
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, ControlError>,
    ) -> Result<Option<T>, ControlError> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    pub(super) fn node(&mut self) -> Result<NodeId, ControlError> {
        Ok(NodeId { id: self.u64()?, incarnation: self.u32()? })
    }

    pub(super) fn partition(&mut self) -> Result<Partition, ControlError> {
        Partition::new(self.u16()?).ok_or(ControlError::Value("a partition"))
    }

    pub(super) fn fence(&mut self) -> Result<Fence, ControlError> {
        Ok(Fence { partition: self.partition()?, epoch: self.u64()?, holder: self.node()? })
    }

    pub(super) fn batch_name(&mut self) -> Result<BatchName, ControlError> {
        Ok(BatchName { node: self.node()?, number: self.u64()? })
    }

    pub(super) fn key(&mut self) -> Result<RecordKey, ControlError> {
        self.key_ref().map(|key| key.to_owned())
    }

    pub(super) fn key_ref(&mut self) -> Result<RecordKeyRef<'a>, ControlError> {
        let entity = self.u64()?;
        let kind = KeyKind::from_number(self.u8()?).ok_or(ControlError::Value("a kind of key"))?;
        let bytes = self.bytes(epicserver_storage::KEY_LENGTH_MAX)?;
        RecordKeyRef::new(entity, kind, bytes).map_err(|_| ControlError::Value("a key"))
    }

    fn length(&mut self, max: usize) -> Result<usize, ControlError> {
        let length = self.u32()? as usize;
        if length > max { Err(ControlError::Limit { given: length, max }) } else { Ok(length) }
    }

    fn raw(&mut self, len: usize) -> Result<&'a [u8], ControlError> {
        let (front, rest) = self.rest.split_at_checked(len).ok_or(ControlError::Short)?;
        self.rest = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ControlError> {
        let (front, rest) = self.rest.split_first_chunk().ok_or(ControlError::Short)?;
        self.rest = rest;
        Ok(*front)
    }
}
