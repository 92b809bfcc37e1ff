//! The line between a node's storage thread, which asks and waits, and its cluster thread, which knows the keeper.
//!
//! It has room for one request and one answer: the storage thread does one thing at a time, and what it asks anew takes the
//! place of what it asked before.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::clock::Clock;
use crate::cluster::remote_store::{KeeperLine, Keeping, LineEvent};
use crate::wire::control::store::{StoreAnswer, StoreRequest};

/// Both ends of a line. `wake` is called by the storage thread when it has left a request.
pub(crate) fn store_line(clock: Clock, wake: impl Fn() + Send + Sync + 'static) -> (StorageEnd, ClusterEnd) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::default()),
        changed: Condvar::new(),
        wake: Box::new(wake),
    });
    (StorageEnd { shared: shared.clone(), clock, seen: 0 }, ClusterEnd { shared })
}

/// The storage thread's end.
pub(crate) struct StorageEnd {
    shared: Arc<Shared>,
    clock: Clock,
    /// The last change of keeper that was told.
    seen: u64,
}

/// The cluster thread's end; when it is dropped, whoever waits at the other one waits no more.
pub(crate) struct ClusterEnd {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    keeping: Keeping,
    /// Counts the keepers, and the links to them.
    changes: u64,
    request: Option<(u32, StoreRequest)>,
    answer: Option<(u32, StoreAnswer)>,
    is_closed: bool,
}

impl Shared {
    /// No holder of the lock can leave the state half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeeperLine for StorageEnd {
    fn now(&self) -> u64 {
        self.clock.now()
    }

    fn keeping(&mut self) -> Keeping {
        let state = self.shared.lock();
        self.seen = state.changes;
        state.keeping.clone()
    }

    fn send(&mut self, number: u32, request: StoreRequest) {
        let mut state = self.shared.lock();
        (state.request, state.answer) = (Some((number, request)), None);
        drop(state);
        (self.shared.wake)();
    }

    fn wait(&mut self, until: u64) -> LineEvent {
        let mut state = self.shared.lock();
        loop {
            if let Some((number, answer)) = state.answer.take() {
                return LineEvent::Answer(number, answer);
            }
            if state.is_closed {
                return LineEvent::Closed;
            }
            if state.changes != self.seen {
                self.seen = state.changes;
                return LineEvent::Changed;
            }
            let left = until.saturating_sub(self.clock.now());
            if left == 0 {
                return LineEvent::Late;
            }
            let waited = self.shared.changed.wait_timeout(state, Duration::from_nanos(left));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl ClusterEnd {
    /// The request that is to go to the keeper. Only to be taken while there is a link to it.
    pub(crate) fn poll_request(&mut self) -> Option<(u32, StoreRequest)> {
        self.shared.lock().request.take()
    }

    /// The keeper's answer to the request of this number.
    pub(crate) fn handle_answer(&mut self, number: u32, answer: StoreAnswer) {
        self.shared.lock().answer = Some((number, answer));
        self.shared.changed.notify_one();
    }

    /// Who keeps now; to be said also when there is a new link to the same keeper, so that what was asked is asked again.
    pub(crate) fn handle_keeping(&mut self, keeping: Keeping) {
        let mut state = self.shared.lock();
        state.keeping = keeping;
        state.changes += 1;
        state.request = None;
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl Drop for ClusterEnd {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use epicserver_storage::{MemoryStore, Store, StoreId};

    use super::*;
    use crate::cluster::remote_store::ClusterStore;
    use crate::cluster::shared_store::SharedStore;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the line is between two threads")]
    fn a_thread_that_waits_is_woken_by_answers_changes_and_the_end() {
        let (asked, requests) = crossbeam_channel::bounded(100);
        let (line, mut desk) = store_line(Clock::start(), move || asked.send(()).expect("there is room"));
        let store = StoreId(5);
        let waiting = std::thread::spawn(move || {
            let mut client = ClusterStore::new(line, store).with_patience(u64::MAX);
            let before = client.fences();
            let local = client.fences();
            let (id, after) = (client.store_id(), client.fences());
            (before, local, id, after)
        });
        let limits = MemoryStore::new(store).limits();
        desk.handle_keeping(Keeping::There { store, limits });
        // The first try gets lost with its link; the second is answered.
        requests.recv().expect("the storage thread asks");
        let (first, _) = desk.poll_request().expect("it was woken for that");
        desk.handle_keeping(Keeping::There { store, limits });
        let (second, request) = loop {
            requests.recv().expect("it asks again");
            if let Some(request) = desk.poll_request() {
                break request;
            }
        };
        assert!(second > first && request == StoreRequest::Fences);
        desk.handle_answer(first, StoreAnswer::PartsMissing);
        desk.handle_keeping(Keeping::Here(SharedStore::new(Box::new(MemoryStore::new(store)))));
        desk.handle_answer(second, StoreAnswer::Fences(Vec::new()));
        drop(desk);
        let (before, local, id, after) = waiting.join().expect("it ends");
        assert_eq!((before, local, id), (Ok(Vec::new()), Ok(Vec::new()), store));
        assert_eq!(after, Ok(Vec::new()), "this node keeps, so it asks nobody");
    }
}
