//! Links: their names, what happens to them, and a table to keep them in.

use crate::frame::Frame;
use crate::header::HeaderError;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Something that happened on a transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link works from here on, and there is room to send.
    LinkUp {
        /// Which one; for an incoming link this is the first time it is heard of.
        link: LinkId,
        /// Who began it.
        direction: Direction,
        /// The other end: for an outgoing link what was given to `connect`; for an incoming one where it came from, which
        /// need not be an address that can be connected to.
        peer: Addr,
    },
    /// A link ended or never came up. Its last event.
    LinkDown {
        /// Which one.
        link: LinkId,
        /// Why.
        reason: DownReason,
    },
    /// One whole frame, with a header that parses.
    Receive {
        /// Where it came from.
        link: LinkId,
        /// The frame; holding it holds a receive buffer.
        frame: Frame,
    },
    /// There is room again on a link whose `send` left frames, or a frame from the
    /// [`bulk_pool`](crate::Transport::bulk_pool) is with the peer.
    Writable {
        /// Which one.
        link: LinkId,
    },
}

impl Event {
    /// The link that this is about.
    #[must_use]
    pub fn link(&self) -> LinkId {
        match *self {
            Self::LinkUp { link, .. }
            | Self::LinkDown { link, .. }
            | Self::Receive { link, .. }
            | Self::Writable { link } => link,
        }
    }
}

/// Who began a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// This side, by `connect`.
    Outgoing,
    /// The peer.
    Incoming,
}

/// Why a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// `close` was called here.
    ClosedHere,
    /// The peer closed it, or its process ended.
    ClosedByPeer,
    /// Nobody serves the address, or who does takes no further link.
    Refused,
    /// It did not come up in time.
    TimedOut,
    /// The peer sent what is not a frame.
    Garbage(HeaderError),
    /// More frames were sent than the receiver had announced room for.
    WindowExceeded,
    /// The operating system reported this.
    Failed(io::ErrorKind),
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClosedHere => f.write_str("closed here"),
            Self::ClosedByPeer => f.write_str("closed by the peer"),
            Self::Refused => f.write_str("connection refused"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Garbage(error) => write!(f, "the peer sent garbage: {error}"),
            Self::WindowExceeded => f.write_str("more frames than the receiver had room for"),
            Self::Failed(kind) => write!(f, "failed: {kind}"),
        }
    }
}

/// Names one link of one transport, for all time: the index is reused, with another generation.
// One number: a struct of two is written in halves and copied as a whole, for which the processor waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u64);

impl LinkId {
    /// Only transports make ids; [`LinkTable`] does it for them.
    #[must_use]
    pub const fn new(index: u32, generation: u32) -> Self {
        Self((index as u64) << 32 | generation as u64)
    }

    /// Small number to index an array of [`Caps::links_max`](crate::Caps::links_max) with.
    #[must_use]
    pub const fn index(self) -> usize {
        (self.0 >> 32) as usize
    }

    /// Which use of the index this is.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.0 as u32
    }

    /// Both numbers in one, to travel through an operating system interface.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// The reverse of [`LinkId::to_u64`].
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkId({}, {})", self.index(), self.generation())
    }
}

/// Where a transport can be reached, in the spelling of that transport.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(Arc<str>);

impl Addr {
    /// An address as its transport spells it, such as `127.0.0.1:7000`. Whether it can be understood shows in `connect`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Addr {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// Links of a transport by id: bounded, reuses indices, never ids.
///
/// ```
/// use epicserver_transport::LinkTable;
/// let mut links = LinkTable::new(1);
/// let first = links.insert("first").expect("room for one");
/// assert_eq!(links.insert("second"), Err("second"));
/// assert_eq!(links.remove(first), Some("first"));
/// let second = links.insert("second").expect("room again");
/// assert_eq!((links.get(first), links.get(second)), (None, Some(&"second")));
/// ```
#[derive(Debug)]
pub struct LinkTable<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    links_max: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> LinkTable<T> {
    /// An empty table for at most `links_max` links.
    #[must_use]
    pub const fn new(links_max: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), links_max }
    }

    /// Adds a link and names it.
    ///
    /// # Errors
    /// The table is full; the value comes back.
    pub fn insert(&mut self, value: T) -> Result<LinkId, T> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < self.links_max => {
                self.slots.push(Slot { generation: 0, value: None });
                self.slots.len() as u32 - 1
            }
            None => return Err(value),
        };
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        Ok(LinkId::new(index, slot.generation))
    }

    /// Takes a link out, for good.
    pub fn remove(&mut self, link: LinkId) -> Option<T> {
        let slot = self.slots.get_mut(link.index())?;
        if slot.generation != link.generation() {
            return None;
        }
        let value = slot.value.take()?;
        // An index that has used up its generations is left out: an id never comes twice.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(link.index() as u32);
        }
        Some(value)
    }

    /// The link, if it is there.
    #[must_use]
    #[inline]
    pub fn get(&self, link: LinkId) -> Option<&T> {
        let slot = self.slots.get(link.index())?;
        if slot.generation == link.generation() { slot.value.as_ref() } else { None }
    }

    /// The link, if it is there, to change.
    #[inline]
    pub fn get_mut(&mut self, link: LinkId) -> Option<&mut T> {
        let slot = self.slots.get_mut(link.index())?;
        if slot.generation == link.generation() { slot.value.as_mut() } else { None }
    }

    /// All links in the order of their indices.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (LinkId, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| {
            let id = LinkId::new(index as u32, slot.generation);
            slot.value.as_mut().map(|value| (id, value))
        })
    }

    /// The ids of all links in the order of their indices.
    pub fn ids(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.value.is_some())
            .map(|(index, slot)| LinkId::new(index as u32, slot.generation))
    }

    /// How many links there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|slot| slot.value.is_some()).count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_removed_links_reach_nothing() {
        let mut links = LinkTable::new(2);
        let a = links.insert('a').expect("room");
        let b = links.insert('b').expect("room");
        assert_eq!(links.remove(a), Some('a'));
        assert_eq!(links.remove(a), None);
        let c = links.insert('c').expect("room");
        assert_eq!(c.index(), a.index());
        assert_eq!(links.get_mut(a), None);
        assert_eq!((links.get(c), links.len()), (Some(&'c'), 2));
        assert_eq!(links.ids().collect::<Vec<_>>(), [c, b]);
        assert_eq!(
            links.iter_mut().map(|(id, value)| (id, *value)).collect::<Vec<_>>(),
            [(c, 'c'), (b, 'b')]
        );
        assert_eq!(links.get(LinkId::new(7, 0)), None);
        assert_eq!(LinkId::from_u64(c.to_u64()), c);
    }
}
