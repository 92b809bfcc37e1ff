//! Random histories against a naive model: laws 1 and 2.
//!
//! Every choice comes from a tape of bytes, so a history can be replayed and shrunk. The model keeps one log of accepted
//! saves and searches it from the end; it shares no code with any store.

use super::fixture::{Wanted, batch, key};
use crate::batch::BatchName;
use crate::envelope::EnvelopeHeader;
use crate::id::{NodeId, Partition};
use crate::key::RecordKey;
use crate::store::{Committed, Fence, Store, StoreError};

/// Plays the history that the tape describes on an empty store and on the model, and compares every answer; after every
/// commit, everything. Gives back how many saves were accepted, so that a caller can tell a history that did nothing.
///
/// # Panics
/// If the store answers otherwise than the model, or if law 1 or 2 is broken.
pub fn run_tape(store: &mut dyn Store, tape: &[u8]) -> usize {
    let mut tape = Tape { bytes: tape.iter() };
    let mut model = Model::default();
    while let Some(choice) = tape.below(10) {
        match choice {
            0 => model.open_fences(store, &mut tape),
            1..=8 => model.commit(store, &mut tape),
            _ => model.repeat(store),
        }
        model.compare(store);
    }
    model.check_laws();
    model.log.len()
}

/// A tape for [`run_tape`] from a seed.
pub fn tape_of_seed(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(byte).take(length).collect()
}

const NODES: [NodeId; 4] = [
    NodeId { id: 1, incarnation: 1 },
    NodeId { id: 2, incarnation: 1 },
    NodeId { id: 3, incarnation: 1 },
    SECOND_INCARNATION,
];
const SECOND_INCARNATION: NodeId = NodeId { id: 1, incarnation: 2 };
const KEYS: u64 = 5;
const MODEL_PARTITIONS: u16 = 3;

#[derive(Default)]
struct Model {
    fences: Vec<Fence>,
    commits: Vec<BatchName>,
    log: Vec<Accepted>,
    last: Option<(BatchName, Vec<Wanted>)>,
}

struct Accepted {
    by: BatchName,
    wanted: Wanted,
}

impl Model {
    /// One or two fences: mostly the next epoch, sometimes an old one or the same for another node.
    fn open_fences(&mut self, store: &mut dyn Store, tape: &mut Tape<'_>) {
        let count = 1 + tape.choose(2);
        let fences: Vec<Fence> = (0..count).map(|_| self.draw_fence(tape)).collect();
        let mut after = self.fences.clone();
        let refused = fences.iter().find_map(|&given| {
            let stored = after.iter().rev().find(|open| open.partition == given.partition).copied();
            let falls = stored.is_some_and(|open| given.epoch < open.epoch);
            let changes_hands =
                stored.is_some_and(|open| given.epoch == open.epoch && given.holder != open.holder);
            if given.epoch == 0 || falls || changes_hands {
                return Some(StoreError::Refused { given, stored });
            }
            after.push(given);
            None
        });
        assert_eq!(store.open_fences(&fences).err(), refused, "opening {fences:?}");
        if refused.is_none() {
            self.fences = after;
        }
    }

    fn draw_fence(&self, tape: &mut Tape<'_>) -> Fence {
        let partition = Partition::from_hash(tape.choose(MODEL_PARTITIONS.into()));
        let epoch = self.fence(partition).map_or(0, |open| open.epoch);
        let epoch = match tape.choose(8) {
            0 => epoch.saturating_sub(1),
            1 => epoch,
            _ => epoch + 1,
        };
        Fence { partition, epoch, holder: draw_node(tape) }
    }

    fn commit(&mut self, store: &mut dyn Store, tape: &mut Tape<'_>) {
        let drawn = Partition::from_hash(tape.choose(MODEL_PARTITIONS.into()));
        let node = match self.fence(drawn) {
            Some(open) if tape.choose(8) != 0 => open.holder,
            _ => draw_node(tape),
        };
        let last = self.last_of(node).filter(|last| last.node == node).map_or(0, |last| last.number);
        let number = match tape.choose(12) {
            0 => last,
            1 => last.saturating_sub(1),
            2 => last + 3,
            _ => last + 1,
        };
        let mut saves = Vec::new();
        for _ in 0..tape.choose(5) {
            let wanted = self.draw_save(node, &saves, tape);
            saves.push(wanted);
        }
        self.commit_as(store, BatchName { node, number }, saves);
    }

    /// The last batch once more, as after a lost answer.
    fn repeat(&mut self, store: &mut dyn Store) {
        if let Some((name, saves)) = self.last.clone() {
            self.commit_as(store, name, saves);
        }
    }

    /// Mostly in a partition that the node holds, mostly the version that follows.
    fn draw_save(&self, node: NodeId, earlier: &[Wanted], tape: &mut Tape<'_>) -> Wanted {
        let number = tape.choose(KEYS);
        let held = partitions()
            .filter(|&partition| self.fence(partition).is_some_and(|open| open.holder == node))
            .collect::<Vec<_>>();
        let partition = match held.get(tape.choose(4) as usize % held.len().max(1)) {
            Some(&partition) if tape.choose(16) != 0 => partition,
            _ => Partition::from_hash(tape.choose(MODEL_PARTITIONS.into())),
        };
        let epoch = self.fence(partition).map_or(0, |open| open.epoch);
        let epoch = match tape.choose(24) {
            0 => epoch.saturating_sub(1),
            1 => epoch + 1,
            _ => epoch,
        };
        let earlier = earlier.iter().rev().find(|wanted| wanted.key == key(number));
        let before = earlier.map_or_else(|| self.version(&key(number)), |wanted| wanted.header.version);
        let version = match tape.choose(24) {
            0 => before,
            1 => before + 2,
            _ => before + 1,
        };
        let key = key(number);
        if tape.choose(6) == 0 {
            let header =
                EnvelopeHeader { partition, epoch, version, ..EnvelopeHeader::tombstone(key.as_ref()) };
            return Wanted { header, payload: Vec::new(), key };
        }
        let header = EnvelopeHeader { partition, epoch, version, ..EnvelopeHeader::state(key.as_ref()) };
        Wanted { header, payload: vec![tape.choose(256) as u8; tape.choose(40) as usize], key }
    }

    fn commit_as(&mut self, store: &mut dyn Store, name: BatchName, saves: Vec<Wanted>) {
        let expected = self.expect(name, &saves);
        let found = store.commit(&batch(name.node, name.number, &saves));
        assert_eq!(found, expected, "batch {name} with {saves:?}");
        if found == Ok(Committed::Now) {
            self.commits.push(name);
            self.log.extend(saves.iter().cloned().map(|wanted| Accepted { by: name, wanted }));
        }
        self.last = Some((name, saves));
    }

    fn expect(&self, name: BatchName, saves: &[Wanted]) -> Result<Committed, StoreError> {
        match self.last_of(name.node) {
            Some(last) if last == name => return Ok(Committed::Already),
            last if name.number == 0 || last.is_some_and(|last| last > name) => {
                return Err(StoreError::OutOfOrder { given: name, committed: last });
            }
            _ => {}
        }
        for Wanted { header, .. } in saves {
            let given = Fence { partition: header.partition, epoch: header.epoch, holder: name.node };
            let stored = self.fence(header.partition);
            if stored != Some(given) {
                return Err(StoreError::Refused { given, stored });
            }
        }
        for (place, Wanted { key, header, .. }) in saves.iter().enumerate() {
            let earlier = saves[..place].iter().filter(|wanted| wanted.key == *key).count() as u64;
            let stored = self.version(key) + earlier;
            if header.version != stored + 1 {
                return Err(StoreError::VersionConflict { key: key.clone(), stored, given: header.version });
            }
        }
        Ok(Committed::Now)
    }

    /// Law 2: exactly the accepted saves are in every later load.
    fn compare(&self, store: &mut dyn Store) {
        let keys: Vec<RecordKey> = (0..KEYS).map(key).collect();
        let refs: Vec<_> = keys.iter().map(RecordKey::as_ref).collect();
        let found = store.load(&refs).expect("a load without faults succeeds");
        for (key, found) in keys.iter().zip(found) {
            let expected = self.last_save(key).map(|accepted| accepted.wanted.envelope());
            assert_eq!(found.map(|record| record.bytes().to_vec()), expected, "record {key}");
        }
        for node in NODES {
            assert_eq!(store.last_committed(node), Ok(self.last_of(node)), "last batch of {node}");
        }
        let open: Vec<Fence> = partitions().filter_map(|partition| self.fence(partition)).collect();
        assert_eq!(store.fences(), Ok(open), "the fences");
    }

    /// Over the whole history: one writer per (partition, epoch), epochs that never fall, versions 1, 2, 3, ...
    fn check_laws(&self) {
        for (place, Accepted { by, wanted }) in self.log.iter().enumerate() {
            let header = wanted.header;
            for earlier in &self.log[..place] {
                let before = earlier.wanted.header;
                if before.partition == header.partition {
                    assert!(before.epoch <= header.epoch, "law 1: epochs never fall");
                    let same_writer = before.epoch != header.epoch || earlier.by.node == by.node;
                    assert!(same_writer, "law 1: one committed writer per partition and epoch");
                }
            }
            let count = self.log[..=place].iter().filter(|other| other.wanted.key == wanted.key).count();
            assert_eq!(header.version, count as u64, "law 2: versions have no gap and no fork");
        }
    }

    fn fence(&self, partition: Partition) -> Option<Fence> {
        self.fences.iter().rev().find(|open| open.partition == partition).copied()
    }

    fn last_of(&self, node: NodeId) -> Option<BatchName> {
        self.commits.iter().rev().find(|name| name.node.id == node.id).copied()
    }

    fn last_save(&self, key: &RecordKey) -> Option<&Accepted> {
        self.log.iter().rev().find(|accepted| accepted.wanted.key == *key)
    }

    fn version(&self, key: &RecordKey) -> u64 {
        self.last_save(key).map_or(0, |accepted| accepted.wanted.header.version)
    }
}

/// Rarely the second incarnation: from its first batch on, the first one comes too late.
fn draw_node(tape: &mut Tape<'_>) -> NodeId {
    match tape.choose(16) {
        0 => SECOND_INCARNATION,
        other => [NODES[0], NODES[1], NODES[2]][other as usize % 3],
    }
}

/// The few partitions that the histories use.
fn partitions() -> impl Iterator<Item = Partition> {
    Partition::all().take(MODEL_PARTITIONS.into())
}

/// Choices, one byte each; past its end every choice is the first.
struct Tape<'a> {
    bytes: std::slice::Iter<'a, u8>,
}

impl Tape<'_> {
    /// `None` at the end.
    fn below(&mut self, bound: u64) -> Option<u64> {
        self.bytes.next().map(|&byte| u64::from(byte) % bound)
    }

    fn choose(&mut self, bound: u64) -> u64 {
        self.below(bound).unwrap_or(0)
    }
}
