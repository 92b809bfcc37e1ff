//! What of `linux/tipc.h` is used here, as the C library has none of it, and the calls with it.
#![expect(unsafe_code, reason = "addresses and options of a family that no crate knows")]

use crate::address::ServiceAddress;
use socket2::{SockAddr, SockAddrStorage};
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

/// `struct sockaddr_tipc`. The three words are a union: of a service, its kind, instance and the node to ask, of a socket its number
/// and node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RawAddress {
    family: u16,
    address_kind: u8,
    scope: i8,
    words: [u32; 3],
}

/// Names one socket of the network, for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketNumber {
    /// The socket's number on its node.
    pub port: u32,
    /// The node's number; 0 while a node is on no network.
    pub node: u32,
}

/// The address to bind, and to connect to, wherever in the network it is.
pub(crate) fn service_address(address: ServiceAddress) -> SockAddr {
    // 0 as node: any.
    let words = [address.service, address.instance, 0];
    raw_to_sock_addr(RawAddress {
        family: libc::AF_TIPC as u16,
        address_kind: SERVICE_ADDRESS,
        scope: CLUSTER_SCOPE,
        words,
    })
}

/// The socket that an address names, if it names one.
pub(crate) fn socket_number(address: &SockAddr) -> Option<SocketNumber> {
    if i32::from(address.family()) != libc::AF_TIPC || (address.len() as usize) < size_of::<RawAddress>() {
        return None;
    }
    // SAFETY: the kernel, or `raw_to_sock_addr`, has written at least that many bytes of an address of this family, and a
    // storage of addresses is aligned for all of them.
    let raw = unsafe { address.as_ptr().cast::<RawAddress>().read() };
    (raw.address_kind == SOCKET_ADDRESS).then(|| SocketNumber { port: raw.words[0], node: raw.words[1] })
}

/// How much the kernel favours this socket's packets where links are congested.
pub(crate) fn set_importance(socket: &impl AsRawFd, importance: u32) -> io::Result<()> {
    let len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the value lives through the call and has the length that is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_TIPC,
            OPTION_IMPORTANCE,
            (&raw const importance).cast(),
            len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn raw_to_sock_addr(raw: RawAddress) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `RawAddress` is an address of C's layout, smaller than any storage of addresses; all bytes of it are
    // initialised, as it has no padding (checked below).
    unsafe {
        *storage.view_as::<RawAddress>() = raw;
        SockAddr::new(storage, size_of::<RawAddress>() as libc::socklen_t)
    }
}

/// The service by which the kernel tells who binds what.
pub(crate) const TOPOLOGY_SERVICE: ServiceAddress = ServiceAddress { service: 1, instance: 1 };
/// Longest packet in bytes that a socket takes and gives.
pub const PACKET_LEN_MAX: usize = 66_000;
/// `struct tipc_subscr` and `struct tipc_event` in bytes.
pub(crate) const SUBSCRIPTION_LEN: usize = 28;
pub(crate) const EVENT_LEN: usize = 48;
/// One event for each socket that binds.
pub(crate) const FILTER_PORTS: u32 = 1;
pub(crate) const WAIT_FOREVER: u32 = u32::MAX;
pub(crate) const EVENT_PUBLISHED: u32 = 1;
pub(crate) const EVENT_WITHDRAWN: u32 = 2;
pub(crate) const EVENT_TIMEOUT: u32 = 3;

const SERVICE_ADDRESS: u8 = 2;
const SOCKET_ADDRESS: u8 = 3;
const CLUSTER_SCOPE: i8 = 2;
const OPTION_IMPORTANCE: libc::c_int = 127;

const _: () = assert!(size_of::<RawAddress>() == 16 && align_of::<RawAddress>() == 4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Importance;
    use std::fmt::Write;
    use std::mem::offset_of;
    use std::process::Command;

    /// The numbers of the kernel's own header, by a C program that includes it.
    fn of_the_header(expressions: &[&str]) -> Vec<i64> {
        let folder = tempfile::tempdir().expect("a folder");
        let (source, program) = (folder.path().join("layout.c"), folder.path().join("layout"));
        let mut text = String::from(
            "#include <stddef.h>\n#include <stdio.h>\n#include <linux/tipc.h>\nint main(void) {\n",
        );
        for expression in expressions {
            writeln!(text, "  printf(\"%lld\\n\", (long long)({expression}));").expect("memory");
        }
        text.push_str("  return 0;\n}\n");
        std::fs::write(&source, text).expect("written");
        let compiled = Command::new("cc").arg("-o").args([&program, &source]).output().expect("a C compiler");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let output = Command::new(&program).output().expect("it was compiled");
        let numbers = String::from_utf8(output.stdout).expect("digits");
        numbers.lines().map(|line| line.parse().expect("a number")).collect()
    }

    #[test]
    fn everything_is_as_the_kernel_has_it() {
        let pairs = [
            ("sizeof(struct sockaddr_tipc)", size_of::<RawAddress>() as i64),
            ("offsetof(struct sockaddr_tipc, addrtype)", offset_of!(RawAddress, address_kind) as i64),
            ("offsetof(struct sockaddr_tipc, scope)", offset_of!(RawAddress, scope) as i64),
            ("offsetof(struct sockaddr_tipc, addr.name.name.type)", offset_of!(RawAddress, words) as i64),
            (
                "offsetof(struct sockaddr_tipc, addr.name.name.instance)",
                offset_of!(RawAddress, words) as i64 + 4,
            ),
            ("offsetof(struct sockaddr_tipc, addr.name.domain)", offset_of!(RawAddress, words) as i64 + 8),
            ("offsetof(struct sockaddr_tipc, addr.id.ref)", offset_of!(RawAddress, words) as i64),
            ("offsetof(struct sockaddr_tipc, addr.id.node)", offset_of!(RawAddress, words) as i64 + 4),
            ("AF_TIPC", libc::AF_TIPC.into()),
            ("SOL_TIPC", libc::SOL_TIPC.into()),
            ("TIPC_SERVICE_ADDR", SERVICE_ADDRESS.into()),
            ("TIPC_SOCKET_ADDR", SOCKET_ADDRESS.into()),
            ("TIPC_CLUSTER_SCOPE", CLUSTER_SCOPE.into()),
            ("TIPC_IMPORTANCE", OPTION_IMPORTANCE.into()),
            ("TIPC_LOW_IMPORTANCE", Importance::Low as i64),
            ("TIPC_MEDIUM_IMPORTANCE", Importance::Medium as i64),
            ("TIPC_HIGH_IMPORTANCE", Importance::High as i64),
            ("TIPC_CRITICAL_IMPORTANCE", Importance::Critical as i64),
            ("TIPC_MAX_USER_MSG_SIZE", PACKET_LEN_MAX as i64),
            ("TIPC_TOP_SRV", TOPOLOGY_SERVICE.service.into()),
            ("sizeof(struct tipc_subscr)", SUBSCRIPTION_LEN as i64),
            ("offsetof(struct tipc_subscr, timeout)", 12),
            ("offsetof(struct tipc_subscr, filter)", 16),
            ("sizeof(struct tipc_event)", EVENT_LEN as i64),
            ("offsetof(struct tipc_event, found_lower)", 4),
            ("offsetof(struct tipc_event, port.ref)", 12),
            ("offsetof(struct tipc_event, port.node)", 16),
            ("TIPC_SUB_PORTS", FILTER_PORTS.into()),
            ("(unsigned)TIPC_WAIT_FOREVER", WAIT_FOREVER.into()),
            ("TIPC_PUBLISHED", EVENT_PUBLISHED.into()),
            ("TIPC_WITHDRAWN", EVENT_WITHDRAWN.into()),
            ("TIPC_SUBSCR_TIMEOUT", EVENT_TIMEOUT.into()),
        ];
        let found = of_the_header(&pairs.map(|(expression, _)| expression));
        for ((expression, ours), theirs) in pairs.into_iter().zip(found) {
            assert_eq!(ours, theirs, "{expression}");
        }
    }

    #[test]
    fn a_socket_number_is_read_from_addresses_of_sockets_only() {
        let raw = RawAddress {
            family: libc::AF_TIPC as u16,
            address_kind: SOCKET_ADDRESS,
            scope: 0,
            words: [7, 8, 0],
        };
        assert_eq!(socket_number(&raw_to_sock_addr(raw)), Some(SocketNumber { port: 7, node: 8 }));
        let service = service_address(ServiceAddress { service: 64, instance: 1 });
        assert_eq!(socket_number(&service), None);
        let other = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(socket_number(&other.into()), None);
    }
}
