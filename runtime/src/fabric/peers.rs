//! The peers of a node, and which of them somebody may have changed since they were last looked at.
//!
//! A pass over the links looks at those alone: a node with many peers talks to few of them between two passes. Who gets a peer to change it
//! need not say so, [`Peers::get_mut`] takes note.

use std::collections::BTreeMap;

use super::peer::Peer;

/// Peers by their ids.
#[derive(Default)]
pub(super) struct Peers {
    places: BTreeMap<u64, Place>,
    /// Those that may have changed, each once.
    changed: Vec<u64>,
    /// None of the others wants to be called before.
    due: Option<u64>,
}

struct Place {
    peer: Peer,
    is_changed: bool,
}

impl Peers {
    #[inline]
    pub(super) fn get(&self, id: u64) -> Option<&Peer> {
        self.places.get(&id).map(|place| &place.peer)
    }

    /// One to change.
    #[inline]
    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Peer> {
        let place = self.places.get_mut(&id)?;
        if !std::mem::replace(&mut place.is_changed, true) {
            self.changed.push(id);
        }
        Some(&mut place.peer)
    }

    pub(super) fn insert(&mut self, peer: Peer) {
        let id = peer.id;
        self.changed.push(id);
        self.places.insert(id, Place { peer, is_changed: true });
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Peer> {
        self.changed.retain(|changed| *changed != id);
        self.places.remove(&id).map(|place| place.peer)
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.places.keys().copied().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.places.values().map(|place| &place.peer)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Looks at those that may have changed. What `look` leaves is as it is until somebody changes it again.
    #[inline]
    pub(super) fn look_at_changed(&mut self, mut look: impl FnMut(&mut Peer)) {
        for id in self.changed.drain(..) {
            let Some(place) = self.places.get_mut(&id) else { continue };
            place.is_changed = false;
            look(&mut place.peer);
            self.due = self.due.into_iter().chain(place.peer.poll_timeout()).min();
        }
    }

    /// When the next of them wants to be called; it may turn out that it does not yet.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let of_changed = self.changed.iter().filter_map(|id| self.get(*id)?.poll_timeout());
        self.due.into_iter().chain(of_changed).min()
    }

    /// Those that want to be called now.
    pub(super) fn take_due(&mut self, now: u64) -> Vec<u64> {
        let mut due = Vec::new();
        self.due = None;
        for (id, place) in &self.places {
            match place.peer.poll_timeout() {
                Some(at) if at <= now => due.push(*id),
                Some(at) => self.due = Some(self.due.map_or(at, |due| due.min(at))),
                None => {}
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use epicserver_transport::Addr;

    use super::super::dial::Dial;
    use super::super::peer::Standing;
    use super::*;
    use crate::session::{Session, SessionConfig};

    /// A peer that is to be dialled then.
    fn peer(id: u64, dial_at: u64) -> Peer {
        let session = Session::new(SessionConfig::new(id, 8192), None);
        Peer::new(id, Standing::Guest, session, Some(Dial::new(dial_at, Addr::new("there"))), 1)
    }

    fn looked_at(peers: &mut Peers) -> Vec<u64> {
        let mut ids = Vec::new();
        peers.look_at_changed(|peer| ids.push(peer.id));
        ids
    }

    #[test]
    fn peers_that_nobody_touched_are_not_looked_at() {
        let mut peers = Peers::default();
        (1..=3).for_each(|id| peers.insert(peer(id, 0)));
        assert_eq!(looked_at(&mut peers), [1, 2, 3], "new ones");
        assert!(looked_at(&mut peers).is_empty());
        assert!(peers.get_mut(3).is_some() && peers.get_mut(2).is_some() && peers.get_mut(3).is_some());
        assert!(peers.get(1).is_some() && peers.get_mut(4).is_none());
        drop(peers.remove(2));
        assert_eq!(looked_at(&mut peers), [3]);
    }

    #[test]
    fn the_first_that_is_due_counts_looked_at_or_not() {
        let mut peers = Peers::default();
        assert_eq!(peers.poll_timeout(), None);
        peers.insert(peer(1, 70));
        assert_eq!(peers.poll_timeout(), Some(70), "not looked at");
        looked_at(&mut peers);
        peers.insert(peer(2, 50));
        assert_eq!(peers.poll_timeout(), Some(50));
        looked_at(&mut peers);
        assert!(peers.take_due(49).is_empty());
        assert_eq!(peers.poll_timeout(), Some(50));
        assert_eq!(peers.take_due(60), [2]);
        peers.get_mut(2).and_then(|peer| peer.dial.as_mut()).expect("it is there").pause();
        assert_eq!((looked_at(&mut peers), peers.poll_timeout()), (vec![2], Some(70)));
        // One that wants to be called later than it did is found out when it is called.
        peers.get_mut(1).expect("it is there").dial = Some(Dial::new(90, Addr::new("there")));
        looked_at(&mut peers);
        assert_eq!(
            (peers.poll_timeout(), peers.take_due(70), peers.poll_timeout()),
            (Some(70), vec![], Some(90))
        );
    }
}
