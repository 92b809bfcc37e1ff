//! Who is there: the topology service of the kernel, which tells of every socket that binds a service address, and of its end.
//!
//! A process that ends is withdrawn at once, a node that is lost within the tolerance of its links. What is told is a hint: the hello of a
//! link proves who it is.

use crate::address::ServiceAddress;
use crate::startup;
use crate::sys::{self, SocketNumber};
use socket2::{Socket, Type};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// One socket that binds a service address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What it binds.
    pub address: ServiceAddress,
    /// Which socket it is: another one of the same address is another process, or the same one started again.
    pub socket: SocketNumber,
}

/// Something that became of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyEvent {
    /// It is bound; those that were bound before come first.
    Published(Bound),
    /// It is bound no more.
    Withdrawn(Bound),
}

/// Watches all instances of one service.
#[derive(Debug)]
pub struct Topology {
    socket: Socket,
}

impl Topology {
    /// Starts to watch.
    ///
    /// # Errors
    /// The machine lacks something; in words.
    pub fn watch(service: u32) -> io::Result<Self> {
        let socket = subscribe(service, 0..=u32::MAX, sys::WAIT_FOREVER)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// The next event, if there is one now.
    ///
    /// # Errors
    /// The service has ended the connection; watch again.
    pub fn poll(&mut self) -> io::Result<Option<TopologyEvent>> {
        loop {
            match read_event(&self.socket) {
                Ok(Told::Event(event)) => return Ok(Some(event)),
                Ok(Told::Timeout | Told::Other) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for Topology {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The sockets that bind a service now.
///
/// # Errors
/// The machine lacks something, or the service does not answer; in words.
pub fn bound_sockets(service: u32, instances: RangeInclusive<u32>) -> io::Result<Vec<Bound>> {
    // The end of a subscription without patience is told behind all that is bound already.
    let socket = subscribe(service, instances, 0)?;
    let mut found = VecDeque::new();
    loop {
        match read_event(&socket)? {
            Told::Event(TopologyEvent::Published(bound)) => found.push_back(bound),
            Told::Event(TopologyEvent::Withdrawn(bound)) => found.retain(|other| *other != bound),
            Told::Timeout => return Ok(found.into()),
            Told::Other => {}
        }
        if found.len() > BOUND_MAX {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "more sockets bind that service than any cluster has",
            ));
        }
    }
}

/// What the service says.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Event(TopologyEvent),
    /// The subscription has ended.
    Timeout,
    /// Nothing that was asked for.
    Other,
}

fn subscribe(service: u32, instances: RangeInclusive<u32>, timeout_ms: u32) -> io::Result<Socket> {
    let socket = startup::socket(Type::SEQPACKET)?;
    socket.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    socket.connect(&sys::service_address(sys::TOPOLOGY_SERVICE))?;
    let words = [service, *instances.start(), *instances.end(), timeout_ms, sys::FILTER_PORTS, 0, 0];
    let subscription: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    debug_assert_eq!(subscription.len(), sys::SUBSCRIPTION_LEN);
    (&socket).write_all(&subscription)?;
    Ok(socket)
}

fn read_event(mut socket: &Socket) -> io::Result<Told> {
    let mut bytes = [0; sys::EVENT_LEN];
    match socket.read(&mut bytes)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        sys::EVENT_LEN => Ok(parse_event(&bytes)),
        _ => Ok(Told::Other),
    }
}

fn parse_event(bytes: &[u8; sys::EVENT_LEN]) -> Told {
    let mut words =
        bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().expect("four bytes")));
    let mut next = || words.next().expect("an event has more words");
    let [kind, lower, upper, port, node, service] = [next(), next(), next(), next(), next(), next()];
    let bound =
        Bound { address: ServiceAddress { service, instance: lower }, socket: SocketNumber { port, node } };
    match kind {
        // Ours bind one instance each; who binds a range is none of ours.
        sys::EVENT_PUBLISHED | sys::EVENT_WITHDRAWN if lower != upper => Told::Other,
        sys::EVENT_PUBLISHED => Told::Event(TopologyEvent::Published(bound)),
        sys::EVENT_WITHDRAWN => Told::Event(TopologyEvent::Withdrawn(bound)),
        sys::EVENT_TIMEOUT => Told::Timeout,
        _ => Told::Other,
    }
}

/// The kernel answers from its own memory.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
const BOUND_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: u32, lower: u32, upper: u32) -> Told {
        let words = [kind, lower, upper, 5, 6, 4711, 0, u32::MAX, sys::WAIT_FOREVER, 1, 0, 0];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        parse_event(&bytes.try_into().expect("as long as an event"))
    }

    #[test]
    fn events_are_read_as_the_kernel_writes_them() {
        let bound = Bound {
            address: ServiceAddress { service: 4711, instance: 7 },
            socket: SocketNumber { port: 5, node: 6 },
        };
        assert_eq!(told(sys::EVENT_PUBLISHED, 7, 7), Told::Event(TopologyEvent::Published(bound)));
        assert_eq!(told(sys::EVENT_WITHDRAWN, 7, 7), Told::Event(TopologyEvent::Withdrawn(bound)));
        assert_eq!(told(sys::EVENT_TIMEOUT, 0, 0), Told::Timeout);
        assert_eq!(told(sys::EVENT_PUBLISHED, 7, 8), Told::Other);
        assert_eq!(told(99, 7, 7), Told::Other);
    }
}
