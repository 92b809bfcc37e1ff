//! Finding peers on a TIPC network: all that bind the service of the cluster.

use crate::address::ServiceAddress;
use crate::topology::{Bound, Topology, TopologyEvent};
use epicserver_transport::{Addr, Discovery};
use std::collections::BTreeSet;
use std::io;

/// Keeps a list of the sockets that bind one service.
#[derive(Debug)]
pub struct TipcDiscovery {
    service: u32,
    topology: Topology,
    there: There,
}

impl TipcDiscovery {
    /// Looks for that service.
    ///
    /// # Errors
    /// The machine lacks something; in words.
    pub fn new(service: u32) -> io::Result<Self> {
        Ok(Self { service, topology: Topology::watch(service)?, there: There::default() })
    }
}

impl Discovery for TipcDiscovery {
    fn look(&mut self) -> Vec<Addr> {
        loop {
            match self.topology.poll() {
                Ok(Some(event)) => self.there.handle(event),
                Ok(None) => break,
                Err(_) => {
                    // The kernel ends what it cannot tell fast enough. A new watch tells all again.
                    if let Ok(topology) = Topology::watch(self.service) {
                        (self.topology, self.there) = (topology, There::default());
                    }
                    break;
                }
            }
        }
        self.there.addresses().map(Addr::from).collect()
    }
}

/// Who was told of and not withdrawn. Several sockets may bind one address, so that each counts.
#[derive(Debug, Default)]
struct There {
    sockets: BTreeSet<(ServiceAddress, crate::sys::SocketNumber)>,
}

impl There {
    fn handle(&mut self, event: TopologyEvent) {
        let (TopologyEvent::Published(Bound { address, socket })
        | TopologyEvent::Withdrawn(Bound { address, socket })) = event;
        if matches!(event, TopologyEvent::Withdrawn(_)) {
            self.sockets.remove(&(address, socket));
        } else if self.sockets.len() < FOUND_MAX {
            self.sockets.insert((address, socket));
        }
    }

    fn addresses(&self) -> impl Iterator<Item = ServiceAddress> {
        let addresses: BTreeSet<_> = self.sockets.iter().map(|(address, _)| *address).collect();
        addresses.into_iter()
    }
}

/// Far more than a cluster has nodes: anybody on the network may bind the service.
const FOUND_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SocketNumber;

    fn bound(instance: u32, port: u32) -> Bound {
        let address = ServiceAddress { service: 4711, instance };
        Bound { address, socket: SocketNumber { port, node: 1 } }
    }

    fn instances(events: &[TopologyEvent]) -> Vec<u32> {
        let mut there = There::default();
        events.iter().for_each(|event| there.handle(*event));
        there.addresses().map(|address| address.instance).collect()
    }

    #[test]
    fn who_binds_twice_is_there_until_both_are_gone() {
        use TopologyEvent::{Published, Withdrawn};
        let all = [Published(bound(1, 5)), Published(bound(2, 6)), Published(bound(1, 7))];
        assert_eq!(instances(&all), [1, 2]);
        assert_eq!(instances(&[&all[..], &[Withdrawn(bound(1, 5))]].concat()), [1, 2]);
        assert_eq!(instances(&[&all[..], &[Withdrawn(bound(1, 5)), Withdrawn(bound(1, 7))]].concat()), [2]);
    }

    #[test]
    fn a_flood_is_not_remembered() {
        let flood: Vec<_> =
            (0..2 * FOUND_MAX as u32).map(|at| TopologyEvent::Published(bound(at, at))).collect();
        assert_eq!(instances(&flood).len(), FOUND_MAX);
    }
}
