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
    Socket::new(Domain::from(libc::AF_TIPC), kind, None).map_err(|error| {
        let protocols = std::fs::read_to_string("/proc/net/protocols").unwrap_or_default();
        no_socket(error, &protocols)
    })
}

/// Why there is no socket, where `protocols` is the kernel's list of those that it knows: what confines a process may make it look as if
/// there were no such family.
fn no_socket(error: io::Error, protocols: &str) -> io::Error {
    let is_known = protocols.lines().any(|line| line.split_whitespace().next() == Some("TIPC"));
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) if !is_known => said(io::ErrorKind::Unsupported, NO_MODULE),
        Some(libc::EAFNOSUPPORT | libc::EPERM | libc::EACCES) => {
            said(io::ErrorKind::PermissionDenied, NO_RIGHTS)
        }
        _ => error,
    }
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
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    /// What a thread is told that asks for a socket where that ends with this error.
    fn told_where_confined(errno: i32) -> io::Error {
        let family =
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::AF_TIPC as u64);
        let rule = SeccompRule::new(vec![family.expect("an argument that there is")]).expect("a condition");
        let architecture = std::env::consts::ARCH.try_into().expect("a processor that the filter knows");
        let filter = SeccompFilter::new(
            [(libc::SYS_socket, vec![rule])].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(errno as u32),
            architecture,
        );
        let program: BpfProgram = filter.expect("a filter").try_into().expect("a short filter");
        std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                seccompiler::apply_filter(&program).expect("a kernel with seccomp");
                socket(Type::SEQPACKET).expect_err("the filter forbids it")
            });
            confined.join().expect("it does not panic")
        })
    }

    #[test]
    fn a_confined_process_is_told_what_to_allow() {
        for errno in [libc::EPERM, libc::EACCES] {
            let error = told_where_confined(errno);
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("`RestrictAddressFamilies="), "{error}");
        }
    }

    /// What a unit of systemd allows is hidden by the error of a family that is not there.
    #[test]
    fn a_hidden_family_is_told_from_one_that_is_not_there() {
        let hidden = || io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        let known = "protocol  size sockets\nTCP 1 2\nTIPC      1536      0\n";
        assert_eq!(no_socket(hidden(), known).to_string(), NO_RIGHTS);
        for unknown in ["protocol  size sockets\nTCP 1 2\n", ""] {
            assert_eq!(no_socket(hidden(), unknown).to_string(), NO_MODULE);
        }
        let other = no_socket(io::Error::from_raw_os_error(libc::EMFILE), known);
        assert_eq!(other.raw_os_error(), Some(libc::EMFILE));
    }

    mod in_guest {
        use super::*;

        #[test]
        fn a_hidden_family_is_one_to_allow() {
            assert_eq!(told_where_confined(libc::EAFNOSUPPORT).to_string(), NO_RIGHTS);
        }

        #[test]
        fn a_machine_alone_is_told_how_to_meet_others() {
            assert_eq!(why_only_here().expect("a kernel with TIPC"), Some(NO_BEARER));
            assert!(NO_BEARER.contains("`tipc bearer enable "));
        }
    }

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
