//! A store of your own: state goes into a journal of text lines, one for each commit. Run it twice, and it counts on.
//!
//! All that a store has to do is said at [`Store`], and checked by the suite of `epicserver-storage`, which the test at the end runs.
//! This one leaves the rules to the store in memory, and writes down what that has accepted. It is short and not fast, and the journal
//! only grows.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use epicserver::prelude::*;
use epicserver::storage::{
    Batch, BatchName, Committed, Fence, KeyKind, MemoryStore, NodeId, Partition, Record, RecordKeyRef, Store,
    StoreError, StoreId, StoreLimits,
};
use epicserver::{Node, Wait};
use serde::{Deserialize, Serialize};

/// What the journal says, a line each.
#[derive(Serialize, Deserialize)]
enum Line {
    /// The first one: which store this is, as long as it lives.
    Store {
        id: u128,
    },
    Fences(Vec<(u16, u64, Name)>),
    Batch {
        node: Name,
        number: u64,
        saves: Vec<Save>,
    },
}

/// The id of a node, and which of its lives.
type Name = (u64, u32);

#[derive(Serialize, Deserialize)]
struct Save {
    entity: u64,
    kind: u8,
    key: Vec<u8>,
    envelope: Vec<u8>,
}

struct Journal {
    memory: MemoryStore,
    file: File,
    /// Why nobody knows what the file has.
    broken: Option<String>,
}

impl Journal {
    /// Reads the journal, or begins one.
    fn open(path: &Path, limits: StoreLimits) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let text = std::fs::read_to_string(path)?;
        // A line without an end was being written when the machine died: nobody was told that it is saved.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        file.set_len(whole.len() as u64)?;
        let mut lines = whole.lines().enumerate();
        let id = match lines.next().map(|(_, line)| serde_json::from_str(line)).transpose()? {
            Some(Line::Store { id }) => StoreId(id),
            Some(_) => return Err(damaged(1)),
            None => StoreId(fastrand::u128(..)),
        };
        let mut journal = Self { memory: MemoryStore::with_limits(id, limits), file, broken: None };
        if whole.is_empty() {
            journal.write(&Line::Store { id: id.0 })?;
        }
        for (place, line) in lines {
            let again = serde_json::from_str(line).ok().and_then(|line| journal.read(line));
            again.ok_or_else(|| damaged(place + 1))?;
        }
        Ok(journal)
    }

    /// Does again what a line says.
    fn read(&mut self, line: Line) -> Option<()> {
        match line {
            Line::Store { .. } => None,
            Line::Fences(fences) => {
                let fence = |(partition, epoch, holder): &(u16, u64, Name)| {
                    Some(Fence {
                        partition: Partition::new(*partition)?,
                        epoch: *epoch,
                        holder: node(*holder),
                    })
                };
                self.memory.open_fences(&fences.iter().map(fence).collect::<Option<Vec<_>>>()?).ok()
            }
            Line::Batch { node: name, number, saves } => {
                let mut batch = Batch::new(BatchName { node: node(name), number });
                for save in &saves {
                    let key =
                        RecordKeyRef::new(save.entity, KeyKind::from_number(save.kind)?, &save.key).ok()?;
                    batch.push_envelope(key, &save.envelope).ok()?;
                }
                self.memory.commit(&batch).ok().map(drop)
            }
        }
    }

    /// Appends a line, and waits until the disk has it.
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()
    }

    /// As [`write`](Self::write). The memory is ahead of the file if that fails: this store is of no use any more.
    fn keep(&mut self, line: &Line) -> Result<(), StoreError> {
        self.write(line).map_err(|error| {
            self.broken = Some(error.to_string());
            StoreError::SyncFailed { reason: error.to_string() }
        })
    }

    fn memory(&mut self) -> Result<&mut MemoryStore, StoreError> {
        match &self.broken {
            Some(reason) => Err(StoreError::SyncFailed { reason: reason.clone() }),
            None => Ok(&mut self.memory),
        }
    }
}

impl Store for Journal {
    fn store_id(&self) -> StoreId {
        self.memory.store_id()
    }

    fn limits(&self) -> StoreLimits {
        self.memory.limits()
    }

    fn load(&mut self, keys: &[RecordKeyRef<'_>]) -> Result<Vec<Option<Record>>, StoreError> {
        self.memory()?.load(keys)
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        let committed = self.memory()?.commit(batch)?;
        if committed == Committed::Now {
            let BatchName { node, number } = batch.name();
            let saves = batch.saves().map(|save| Save {
                entity: save.key.entity,
                kind: save.key.kind as u8,
                key: save.key.bytes.to_vec(),
                envelope: save.envelope.to_vec(),
            });
            self.keep(&Line::Batch { node: name(node), number, saves: saves.collect() })?;
        }
        Ok(committed)
    }

    fn open_fences(&mut self, fences: &[Fence]) -> Result<(), StoreError> {
        self.memory()?.open_fences(fences)?;
        let opened = fences.iter().map(|fence| (fence.partition.number(), fence.epoch, name(fence.holder)));
        self.keep(&Line::Fences(opened.collect()))
    }

    fn fences(&mut self) -> Result<Vec<Fence>, StoreError> {
        self.memory()?.fences()
    }

    fn last_committed(&mut self, node: NodeId) -> Result<Option<BatchName>, StoreError> {
        self.memory()?.last_committed(node)
    }
}

fn name(node: NodeId) -> Name {
    (node.id, node.incarnation)
}

fn node((id, incarnation): Name) -> NodeId {
    NodeId { id, incarnation }
}

fn damaged(line: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("line {line} of the journal is damaged"))
}

#[entity(name = "own.Visitors")]
#[derive(Default)]
struct Visitors {
    count: u64,
}

#[methods]
impl Visitors {
    async fn come(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path =
        std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("visitors.journal"), Into::into);
    let store = Journal::open(&path, LIMITS).map_err(|error| format!("{}: {error}", path.display()))?;
    let node = Node::builder().bind::<(Visitors,)>().cores(1).wait(Wait::Park).store(store).start()?;
    println!(
        "visitor number {}, written down in {}",
        node.pool().get::<Visitors>(0).come().await?,
        path.display()
    );
    node.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

const LIMITS: StoreLimits =
    StoreLimits { envelope_length_max: 17 << 20, batch_saves_max: 100_000, batch_length_max: 64 << 20 };

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use epicserver::storage::conformance::{store_reopen_suite, store_suite};

    use super::*;

    const SMALL: StoreLimits =
        StoreLimits { envelope_length_max: 100_000, batch_saves_max: 100, batch_length_max: 200_000 };

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn make(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("own-store-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a temporary folder");
            Self(path)
        }

        /// A journal that nobody has used.
        fn fresh(&self) -> std::path::PathBuf {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            self.0.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            // What is left there harms nobody.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn it_keeps_the_rules_of_stores() {
        let folder = Folder::make("rules");
        store_suite(|| Journal::open(&folder.fresh(), SMALL).expect("a new journal"));
        store_reopen_suite(|| {
            let path = folder.fresh();
            move || Journal::open(&path, SMALL).expect("it can be read again")
        });
    }

    #[test]
    fn a_torn_line_is_cut_off_and_a_damaged_one_is_named() {
        let folder = Folder::make("damage");
        let path = folder.fresh();
        let id = Journal::open(&path, SMALL).expect("a new journal").store_id();
        let whole = std::fs::read_to_string(&path).expect("one line");
        std::fs::write(&path, format!("{whole}{{\"Fences\":[[1,")).expect("a torn line");
        assert_eq!(Journal::open(&path, SMALL).expect("as if it were not there").store_id(), id);
        assert_eq!(std::fs::read_to_string(&path).expect("one line"), whole);
        std::fs::write(&path, format!("{whole}nonsense\n")).expect("a damaged line");
        let error = Journal::open(&path, SMALL).err().expect("nothing is guessed").to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
