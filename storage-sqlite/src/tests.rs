//! What needs the connection: a full disk, a failed sync, and the length of the log.

use epicserver_storage::{
    Batch, BatchName, Committed, Coordinator, CoordinatorError, Effect, EnvelopeHeader, Fence, NodeId,
    RecordKey, Store, StoreId, View,
};
use tempfile::TempDir;

use crate::database::LOG_PAGES_MAX;
use crate::hold::Held;
use crate::verify::check_whole;
use crate::{OpenError, Opened, SqliteStore, open};

const ALICE: NodeId = NodeId { id: 1, incarnation: 1 };

/// An opened file with one open fence, and its folder.
fn fixture() -> (Opened, TempDir) {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut opened = open(&folder.path().join("file"), StoreId(1)).unwrap();
    let partition = key().as_ref().partition();
    opened.store.open_fences(&[Fence { partition, epoch: 1, holder: ALICE }]).unwrap();
    (opened, folder)
}

fn key() -> RecordKey {
    RecordKey::u64(7, 7)
}

fn batch(number: u64, version: u64, length: usize) -> Batch {
    let key = key();
    let header = EnvelopeHeader { epoch: 1, version, ..EnvelopeHeader::state(key.as_ref()) };
    let mut batch = Batch::new(BatchName { node: ALICE, number });
    // SQLite writes no page that stays as it is.
    batch.push(key.as_ref(), &header, &vec![version as u8; length]).unwrap();
    batch
}

fn pragma(store: &SqliteStore, name: &str, value: i64) {
    store.handle().lock().connection().pragma_update_and_check(None, name, value, |_| Ok(())).unwrap();
}

#[test]
fn a_full_disk_writes_nothing_and_space_mends_it() {
    let (Opened { mut store, .. }, _folder) = fixture();
    store.commit(&batch(1, 1, 10)).unwrap();
    // Smaller than the file means: no page more.
    pragma(&store, "max_page_count", 1);
    let large = batch(2, 2, 1 << 20);
    let error = store.commit(&large).unwrap_err();
    assert_eq!((error.effect(), error.is_retryable()), (Effect::Nothing, true), "{error}");
    let small = batch(1, 1, 10);
    assert_eq!(store.last_committed(ALICE), Ok(Some(small.name())));
    let found = store.load(&[key().as_ref()]).unwrap();
    assert_eq!(found[0].as_ref().unwrap().bytes(), small.saves().next().unwrap().envelope);
    pragma(&store, "max_page_count", i64::from(u32::MAX - 1));
    assert_eq!(store.commit(&large), Ok(Committed::Now));
}

#[test]
fn after_a_failed_sync_nothing_works_and_a_new_process_reads() {
    let (Opened { mut store, mut coordinator, .. }, folder) = fixture();
    store.commit(&batch(1, 1, 10)).unwrap();
    store.handle().lock().fail_sync();
    assert_eq!(store.commit(&batch(2, 2, 10)).unwrap_err().effect(), Effect::StopNode);
    assert_eq!(store.load(&[]).unwrap_err().effect(), Effect::StopNode);
    assert_eq!(store.open_fences(&[]).unwrap_err().effect(), Effect::StopNode);
    assert_eq!(store.fences().unwrap_err().effect(), Effect::StopNode);
    assert_eq!(store.last_committed(ALICE).unwrap_err().effect(), Effect::StopNode);
    assert!(matches!(coordinator.read(), Err(CoordinatorError::Failed { .. })));
    assert!(matches!(coordinator.leases(), Err(CoordinatorError::Failed { .. })));
    assert!(matches!(coordinator.renew_lease(ALICE, 1), Err(CoordinatorError::Failed { .. })));
    let view = View::empty(StoreId(1));
    assert!(matches!(coordinator.compare_and_set(0, view), Err(CoordinatorError::Failed { .. })));
    drop((store, coordinator));

    let mut store = open(&folder.path().join("file"), StoreId(2)).unwrap().store;
    assert_eq!(store.commit(&batch(1, 1, 10)), Ok(Committed::Already));
}

#[test]
fn the_log_is_emptied_before_it_grows_long() {
    let (Opened { mut store, .. }, folder) = fixture();
    let pages = 64;
    for number in 1..=4 * LOG_PAGES_MAX as u64 / pages {
        store.commit(&batch(number, number, pages as usize * 4096)).unwrap();
    }
    let log = folder.path().join("file-wal").metadata().unwrap().len();
    let longest = (LOG_PAGES_MAX as u64 + 2 * pages) * 4200;
    assert!(log > 0 && log <= longest, "the log has {log} bytes, {longest} are allowed");
}

/// Commits so many pages in each batch, until the log was emptied if it can be.
fn commit_much(store: &mut SqliteStore, from: u64) -> u64 {
    let pages = 256;
    let end = from + 2 * LOG_PAGES_MAX as u64 / pages;
    (from..end).for_each(|number| {
        store.commit(&batch(number, number, pages as usize * 4096)).unwrap();
    });
    end
}

#[test]
fn while_somebody_has_the_hold_the_file_rests() {
    let (Opened { mut store, .. }, folder) = fixture();
    let path = folder.path().join("file");
    let next = commit_much(&mut store, 1);
    let held = Held::take(&path).unwrap().expect("the log was begun anew, and nobody has the hold");
    let before = std::fs::read(&path).unwrap();
    let next = commit_much(&mut store, next);
    assert!(std::fs::read(&path).unwrap() == before, "the file rests");
    drop(held);
    commit_much(&mut store, next);
    assert!(std::fs::read(&path).unwrap() != before, "and now it does not");
}

/// The log was emptied, and then nothing was written: the next commit began it anew, over what was there, under the eyes of whoever had
/// the hold.
#[test]
fn a_log_that_is_emptied_is_begun_anew_at_once() {
    let (Opened { mut store, .. }, folder) = fixture();
    let path = folder.path().join("file");
    let head = || std::fs::read(folder.path().join("file-wal")).unwrap()[..32].to_owned();
    let next = commit_much(&mut store, 1);
    store.handle().lock().pretend_long_log();
    let before = head();
    store.commit(&batch(next, 1, 10)).unwrap_err();
    let _held = Held::take(&path).unwrap().expect("nobody has the hold");
    let emptied = head();
    assert_ne!(before, emptied);
    store.commit(&batch(next, next, 10)).unwrap();
    assert_eq!(emptied, head());
}

#[test]
fn a_keeper_that_ends_leaves_its_log_to_who_has_the_hold() {
    let (Opened { mut store, coordinator, .. }, folder) = fixture();
    let path = folder.path().join("file");
    commit_much(&mut store, 1);
    let held = Held::take(&path).unwrap().unwrap();
    drop((store, coordinator));
    assert!(folder.path().join("file-wal").exists());
    drop(held);
    let Opened { mut store, .. } = open(&path, StoreId(2)).unwrap();
    assert!(store.last_committed(ALICE).unwrap().is_some());
    drop(store);
    assert!(!folder.path().join("file-wal").exists());
}

#[test]
fn a_log_that_is_much_too_long_breaks_the_hold() {
    let (Opened { mut store, .. }, folder) = fixture();
    let path = folder.path().join("file");
    let held = Held::take(&path).unwrap().unwrap();
    store.handle().lock().pretend_long_log();
    store.commit(&batch(1, 1, 10)).unwrap();
    assert!(!held.is_whole().unwrap());
    assert!(check_whole(&held, &path).is_err_and(|error| matches!(error, OpenError::Outrun { .. })));
}

#[test]
fn a_panic_in_a_transaction_leaves_nothing() {
    let (Opened { mut store, .. }, _folder) = fixture();
    let handle = store.handle().clone();
    let panicked = std::panic::catch_unwind(|| {
        handle.lock().write(|connection| -> Result<(), crate::error::Trouble<()>> {
            connection.execute("DELETE FROM fences", ()).unwrap();
            panic!("planned");
        })
    });
    assert!(panicked.is_err());
    assert_eq!(store.fences().unwrap().len(), 1);
    assert_eq!(store.commit(&batch(1, 1, 10)), Ok(Committed::Now));
}
