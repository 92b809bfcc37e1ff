//! What a process knows of its cores and nodes, for those who have only a number: wakers, references outside of entity
//! code, and calls that were carried to another thread.
//!
//! Off the call path: entity code on its own core never comes here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use crate::core::CoreState;
use crate::slot::{NO_CORE, SlotPtr};
use epicserver_sync::inbox::Inbox;

/// Where threads that are not its core leave work for a core.
pub(crate) struct Desk {
    /// Calls from outside; bounded, so that a flood is refused where it comes from.
    pub(crate) jobs: Inbox<Job>,
    /// Notes about slots. Each slot can be in here once as woken and once as abandoned, which bounds it.
    notes: Inbox<Note>,
    /// Wakes the core's thread; set by the driver, absent where the core is stepped by hand.
    ring: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// A number that no other core of this process has or had, but for the one of four billion cores ago.
pub(crate) fn take_core_stamp() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Work for a core.
pub(crate) type Job = Box<dyn FnOnce(&CoreState) + Send>;

/// A note about a slot.
pub(crate) enum Note {
    Woken(SlotPtr),
    Abandoned(SlotPtr),
}

impl Desk {
    fn new() -> Self {
        Self { jobs: Inbox::new(JOBS_MAX), notes: Inbox::new(NOTES_MAX), ring: OnceLock::new() }
    }

    /// Says how the core's thread is woken.
    pub(crate) fn set_ring(&self, ring: Box<dyn Fn() + Send + Sync>) {
        // A desk has one driver; a second setting would be a bug there, and the first one stays right.
        let _ = self.ring.set(ring);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.notes.is_empty()
    }

    /// Leaves a job; gives it back if the desk is full or closed.
    pub(crate) fn leave(&self, job: Job) -> Result<(), Job> {
        self.jobs.push(job)?;
        self.wake();
        Ok(())
    }

    pub(crate) fn take_notes(&self, notes: &mut Vec<Note>) {
        self.notes.drain_into(notes);
    }

    fn note(&self, note: Note) {
        // A closed desk takes no notes: its core has dropped everything that a note could be about.
        let _ = self.notes.push(note);
        self.wake();
    }

    fn wake(&self) {
        if let Some(ring) = self.ring.get() {
            ring();
        }
    }
}

/// A node of this process, as references outside of entity code see it.
pub(crate) struct NodeEntrance {
    pub(crate) desks: Vec<Arc<Desk>>,
}

static CORE_NUMBERS: AtomicU32 = AtomicU32::new(1);
static NODE_NUMBERS: AtomicU32 = AtomicU32::new(1);
static DESKS: RwLock<BTreeMap<u32, Arc<Desk>>> = RwLock::new(BTreeMap::new());
static NODES: Mutex<BTreeMap<u32, Arc<NodeEntrance>>> = Mutex::new(BTreeMap::new());

pub(crate) fn take_core_numbers(cores: u32) -> u32 {
    CORE_NUMBERS.fetch_add(cores, Ordering::Relaxed)
}

pub(crate) fn take_node_number() -> u32 {
    NODE_NUMBERS.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn open_desk(core: u32) -> Arc<Desk> {
    let desk = Arc::new(Desk::new());
    let before = DESKS.write().unwrap_or_else(PoisonError::into_inner).insert(core, desk.clone());
    assert!(before.is_none(), "two cores with the number {core}: take set-ups from `CoreConfig::for_node`");
    desk
}

pub(crate) fn close_desk(core: u32) {
    let desk = DESKS.write().unwrap_or_else(PoisonError::into_inner).remove(&core);
    if let Some(desk) = desk {
        desk.jobs.close();
        desk.notes.close();
        // Whoever left these hears of it by their drop.
        let mut untaken = Vec::new();
        desk.jobs.drain_into(&mut untaken);
    }
}

pub(crate) fn desk(core: u32) -> Option<Arc<Desk>> {
    DESKS.read().unwrap_or_else(PoisonError::into_inner).get(&core).cloned()
}

/// Wakes the task in a slot that this core has, from anywhere; nothing happens if such a wake is under way.
pub(crate) fn wake_from_outside(core: u32, slot: SlotPtr) {
    if core == NO_CORE || slot.woken.swap(true, Ordering::AcqRel) {
        return;
    }
    match desk(core) {
        Some(desk) => desk.note(Note::Woken(slot)),
        None => {
            // Of a core that has ended. Another may have the slot by now, and leave wakes out because of this one.
            slot.woken.swap(false, Ordering::AcqRel);
            let now = slot.home();
            if now != core {
                wake_from_outside(now, slot);
            }
        }
    }
}

pub(crate) fn abandon_from_outside(core: u32, slot: SlotPtr) {
    if let Some(desk) = desk(core) {
        desk.note(Note::Abandoned(slot));
    }
}

pub(crate) fn add_node(number: u32, entrance: Arc<NodeEntrance>) {
    NODES.lock().unwrap_or_else(PoisonError::into_inner).insert(number, entrance);
}

pub(crate) fn remove_node(number: u32) {
    NODES.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
}

pub(crate) fn node(number: u32) -> Option<Arc<NodeEntrance>> {
    NODES.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
}

/// Calls from outside that may wait to be taken by one core.
const JOBS_MAX: usize = 1 << 16;

/// More notes than two for each slot cannot be; this is beyond any core's number of slots.
const NOTES_MAX: usize = 1 << 26;
