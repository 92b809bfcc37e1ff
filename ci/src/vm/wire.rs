//! The wire that joins guests: what one sends, all others get.
//!
//! Each guest's QEMU connects to a port of its own and sends packets behind their length, four bytes, the highest first.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// A wire with a port for each guest.
#[derive(Debug)]
pub(super) struct Wire {
    ports: Vec<u16>,
}

type Ends = Arc<Mutex<Vec<Option<TcpStream>>>>;

impl Wire {
    /// A wire for so many guests.
    ///
    /// # Errors
    /// This machine has no free port.
    pub(super) fn new(guests: u8) -> Result<Self, String> {
        let ends: Ends = Arc::new(Mutex::new((0..guests).map(|_| None).collect()));
        let ports = (0..usize::from(guests)).map(|index| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            carry_aside(listener, index, Arc::clone(&ends));
            Ok(port)
        });
        let ports =
            ports.collect::<io::Result<_>>().map_err(|error| format!("no wire for the guests: {error}"))?;
        Ok(Self { ports })
    }

    /// Where guest `number`, counted from 1, connects to.
    pub(super) fn port(&self, number: u8) -> u16 {
        self.ports[usize::from(number) - 1]
    }
}

/// Carries what that guest sends.
#[expect(clippy::disallowed_methods, reason = "the task runner is a driver: each guest is heard by itself")]
fn carry_aside(listener: TcpListener, index: usize, ends: Ends) {
    std::thread::spawn(move || {
        // One after the other: a guest that was given up is gone before it is started again.
        while let Ok((from, _)) = listener.accept() {
            // Errors mean that the guest is gone, and then there is nothing to carry.
            let _ = carry(from, index, &ends);
            lock(&ends)[index] = None;
        }
    });
}

/// Carries what comes from one end to the others.
fn carry(mut from: TcpStream, index: usize, ends: &Ends) -> io::Result<()> {
    from.set_nodelay(true)?;
    lock(ends)[index] = Some(from.try_clone()?);
    let mut packet = Vec::new();
    loop {
        read_packet(&mut from, &mut packet)?;
        let mut ends = lock(ends);
        for (_, end) in ends.iter_mut().enumerate().filter(|&(other, _)| other != index) {
            if end.as_mut().is_some_and(|end| end.write_all(&packet).is_err()) {
                *end = None;
            }
        }
    }
}

fn lock(ends: &Ends) -> std::sync::MutexGuard<'_, Vec<Option<TcpStream>>> {
    ends.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the next packet, its length included.
fn read_packet(from: &mut impl Read, packet: &mut Vec<u8>) -> io::Result<()> {
    let mut prefix = [0; 4];
    from.read_exact(&mut prefix)?;
    let len = u32::from_be_bytes(prefix) as usize;
    if len > PACKET_LEN_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    packet.clear();
    packet.extend_from_slice(&prefix);
    packet.resize(prefix.len() + len, 0);
    from.read_exact(&mut packet[prefix.len()..])
}

/// Longest packet with the headers that QEMU may put before it.
const PACKET_LEN_MAX: usize = 68 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(wire: &Wire, number: u8) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, wire.port(number))).expect("the wire listens")
    }

    #[test]
    fn what_one_sends_all_others_get() {
        let wire = Wire::new(3).expect("free ports");
        let mut ends = [1, 2, 3].map(|number| connect(&wire, number));
        // As one that is started again does.
        drop(std::mem::replace(&mut ends[1], connect(&wire, 2)));
        // Nobody knows when the wire has noticed the others, so each says something until all have heard it.
        for sender in 0..3 {
            let packet = [&4u32.to_be_bytes()[..], &[sender as u8; 4]].concat();
            for receiver in (0..3).filter(|&receiver| receiver != sender) {
                let mut heard = Vec::new();
                ends[receiver].set_nonblocking(true).expect("a socket");
                while heard.get(4) != Some(&(sender as u8)) {
                    ends[sender].write_all(&packet).expect("the wire reads");
                    if read_packet(&mut ends[receiver], &mut heard).is_err() {
                        heard.clear();
                        std::thread::yield_now();
                    }
                }
                assert_eq!(heard, packet);
            }
        }
    }

    #[test]
    fn a_length_that_no_packet_has_is_refused() {
        let mut packet = Vec::new();
        let refused = read_packet(&mut &u32::MAX.to_be_bytes()[..], &mut packet);
        assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::InvalidData));
        assert!(packet.is_empty());
    }
}
