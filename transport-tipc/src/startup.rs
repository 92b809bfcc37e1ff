//! What may be missing on a machine, each with the command that mends it.

use crate::address::ServiceAddress;
use crate::sys::{self, SocketNumber};
use socket2::{Domain, Socket, Type};
use std::io;

/// A socket of the family.
///
/// # Errors
/// In words for who runs this machine.
pub(crate) fn socket(kind: Type) -> io::Result<Socket> {
    Socket::new(Domain::from(libc::AF_TIPC), kind, None).map_err(|error| match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => said(io::ErrorKind::Unsupported, NO_MODULE),
        Some(libc::EPERM | libc::EACCES) => said(io::ErrorKind::PermissionDenied, NO_RIGHTS),
        _ => error,
    })
}

/// Why nobody of another machine will be found, if that is so, with what to do.
///
/// # Errors
/// This machine has no TIPC, or we may not use it; in words.
pub fn why_only_here() -> io::Result<Option<&'static str>> {
    let address = socket(Type::SEQPACKET)?.local_addr()?;
    // A node has its number from its first network on.
    Ok(sys::socket_number(&address).is_none_or(|own| own.node == 0).then_some(NO_BEARER))
}

/// Why a service address could not be bound.
pub(crate) fn cannot_bind(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => said(io::ErrorKind::PermissionDenied, NO_RIGHTS),
        _ => error,
    }
}

/// Somebody else serves the address that we were told to.
pub(crate) fn taken(address: ServiceAddress, other: SocketNumber) -> io::Error {
    let SocketNumber { port, node } = other;
    let text = format!(
        "{address} is bound by another socket already, {port} of node {node:x}; end that process (`tipc socket list` there shows it) or \
         give another instance"
    );
    io::Error::new(io::ErrorKind::AddrInUse, text)
}

/// Whether an error of connecting only means that it takes its time.
pub(crate) fn is_under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS) || error.kind() == io::ErrorKind::WouldBlock
}

fn said(kind: io::ErrorKind, text: &str) -> io::Error {
    io::Error::new(kind, text)
}

const NO_MODULE: &str = "this kernel has no TIPC: load it with `modprobe tipc` as root, and for every start with \
    `echo tipc > /etc/modules-load.d/tipc.conf`; a kernel without that module needs another package of it, such as \
    linux-image-amd64 instead of the one for clouds";
const NO_RIGHTS: &str = "this process may not use TIPC: allow AF_TIPC in what confines it, such as \
    `RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_TIPC` in its systemd unit";
const NO_BEARER: &str = "TIPC is on no network here, so only processes of this machine are found: put it on one with \
    `tipc bearer enable media eth device DEVICE` as root";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_tipc_is_told_how_to_get_it() {
        // One that has it gives a socket.
        if let Err(error) = socket(Type::SEQPACKET) {
            assert!(error.to_string().contains("`modprobe tipc`"), "{error}");
        }
    }

    #[test]
    fn a_taken_address_names_who_has_it() {
        let address = ServiceAddress { service: 4711, instance: 7 };
        let text = taken(address, SocketNumber { port: 5, node: 0xabc }).to_string();
        assert!(text.contains("tipc:4711:7") && text.contains("5 of node abc"), "{text}");
    }
}
