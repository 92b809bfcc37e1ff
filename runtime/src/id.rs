//! The names of things: calls, objects, cores. Objects are named by entity and key; these are their short forms.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::key::KeyView;

/// The id of an entity in frames and saved records: a pinned hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId(pub u64);

impl EntityId {
    /// The id of the entity with this name.
    pub const fn of(name: &str) -> Self {
        Self(epicserver_storage::entity_id(name))
    }
}

/// 16 bytes that stand for one object: a pinned hash over entity and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectHash(pub u128);

impl ObjectHash {
    /// The hash of the object with this entity and key.
    pub fn of(entity: EntityId, key: KeyView<'_>) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(&entity.0.to_le_bytes());
        hasher.write(&[key.kind as u8]);
        hasher.write(key.bytes);
        Self(hasher.finish128().as_u128())
    }
}

/// Names one call in the cluster; of two calls the one whose chain started later is greater.
///
/// Milliseconds at the start of the chain's root (44 bits), node (24 bits of its id) and core (12), counter (48).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u128);

impl CallId {
    /// Puts the parts together; each is cut to its bits.
    pub fn new(root_ms: u64, node_and_core: u64, counter: u64) -> Self {
        let root = u128::from(root_ms & ((1 << 44) - 1)) << 84;
        let place = u128::from(node_and_core & ((1 << 36) - 1)) << 48;
        Self(root | place | u128::from(counter & ((1 << 48) - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyKind;

    #[test]
    fn later_roots_are_greater_whoever_made_them() {
        assert!(CallId::new(5, u64::MAX, u64::MAX) < CallId::new(6, 0, 0));
        assert!(CallId::new(5, 1, 9) < CallId::new(5, 2, 0));
    }

    #[test]
    fn objects_differ_by_entity_and_key() {
        let key = |bytes| KeyView { kind: KeyKind::Bytes, bytes };
        let a = ObjectHash::of(EntityId::of("a"), key(b"1"));
        assert_ne!(a, ObjectHash::of(EntityId::of("b"), key(b"1")));
        assert_ne!(a, ObjectHash::of(EntityId::of("a"), key(b"2")));
        assert_eq!(
            EntityId::of("game.Player"),
            EntityId(3_465_279_849_741_462_138),
            "pinned: part of the wire format"
        );
    }
}
