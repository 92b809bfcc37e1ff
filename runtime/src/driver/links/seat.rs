//! The seat in the transport, where a link thread and the only core of a node take turns.
//!
//! ```text
//!   core, idle:    the seat is free?  sleeps in the transport; what comes wakes it, is taken in and runs, without another thread
//!                  the thread has it? says that it wants it, and sleeps in its parker
//!   link thread:   wanted?  wakes the core, stands by: sleeps in its parker, and looks now and then whether the core has come back
//!                  the core is away for a whole nap: drives the links itself, until the seat is wanted
//! ```
//! So a core that is busy keeps nobody from the links for longer than two naps; one that has nothing to do for as long lets the
//! thread sleep without naps, and wakes it when something comes.
//!
//! The seat is a part of the engine, under whose lock it changes hands. Who has it is the only one to sleep in the transport, and nobody
//! polls that meanwhile. While nobody has it the core is awake, and the thread is awake or naps.

use epicserver_sync::parker::Parker;

use super::{Clock, HeldEngine, LentEngine, LinkThread, RingLinks, SLEEP_NS, Sitter, lock};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl RingLinks {
    /// Sleeps in the transport if the seat there is free, else in the parker, which was prepared.
    pub(super) fn sleep(&mut self, parker: &mut Parker, clock: Clock, now: u64, timeout_ns: u64) {
        match self.take_seat(now, timeout_ns) {
            Place::Seat(timeout) => {
                if let Some(sleeper) = self.sleeper.as_mut().filter(|_| parker.commit()) {
                    sleeper.sleep(timeout);
                }
                parker.cancel();
                self.leave_seat(clock.now());
            }
            Place::Nowhere => drop(parker.cancel()),
            Place::Parker => drop(parker.park(Some(timeout_ns))),
        }
    }

    fn take_seat(&mut self, now: u64, timeout_ns: u64) -> Place {
        let Some(lent) = self.lent.as_ref().filter(|_| self.sleeper.is_some()) else { return Place::Parker };
        // While the thread stands by it has the engine for a moment; else it is awake, and looks at the rings before it sleeps.
        let tried =
            (0..LOCK_TRIES).find_map(|_| lent.try_lock().inspect_err(|_| std::thread::yield_now()).ok());
        let Some(mut held) = tried else { return Place::Parker };
        let Some(engine) = held.as_mut() else { return Place::Parker };
        if engine.seat.taken.is_some() {
            engine.seat.wanted = true;
            return Place::Parker;
        }
        if !engine.is_settled() || !engine.may_sleep() {
            engine.attend(now);
            return Place::Nowhere;
        }
        engine.seat.sittings += 1;
        Place::Seat(engine.begin_sleep(now, timeout_ns, Sitter::Core))
    }

    /// Takes in what ended the sleep. The thread is woken if it does not look after this core.
    fn leave_seat(&mut self, now: u64) {
        let Some(lent) = &self.lent else { return };
        let is_watched = lock(lent).as_mut().is_none_or(|engine| {
            engine.attend(now);
            std::mem::replace(&mut engine.seat.watched, true)
        });
        if !is_watched {
            self.unparker.unpark_if_parked();
        }
    }
}

/// Where a core sleeps.
enum Place {
    /// In the transport, for so long at most.
    Seat(Duration),
    Parker,
    /// There is something to do.
    Nowhere,
}

impl LinkThread {
    /// Leaves seat and links to the core, until that is busy, or there is more to do than it does by the way.
    pub(super) fn stand_by<'a>(&mut self, lent: &'a LentEngine, mut held: HeldEngine<'a>) -> HeldEngine<'a> {
        let (mut seen, mut is_told, mut wakes_core) = (None, false, true);
        if let Some(engine) = held.as_mut() {
            engine.seat.taken = None;
        }
        while !self.stop.load(Ordering::Acquire)
            && let Some(engine) = held.as_mut()
        {
            self.parker.prepare();
            let seat = &mut engine.seat;
            seat.wanted = false;
            let is_same = seen.replace(seat.sittings) == Some(seat.sittings);
            let is_core = seat.taken == Some(Sitter::Core);
            seat.watched = !(is_core && is_same);
            let nap_ns = if seat.watched { NAP_NS } else { SLEEP_NS };
            if is_core {
                wakes_core |= !engine.serve(self.clock.now());
            } else if is_same || is_told && engine.is_asked() {
                break;
            }
            drop(held);
            super::wake(&mut self.told);
            if std::mem::take(&mut wakes_core) {
                self.beside.unpark_if_parked();
            }
            is_told = self.parker.park(Some(nap_ns));
            held = lock(lent);
        }
        self.parker.cancel();
        held
    }
}

/// How often the core tries to get the engine, handing the processor on between.
const LOCK_TRIES: usize = 16;
/// How long the link thread sleeps between two looks after the core.
const NAP_NS: u64 = 1_000_000;
