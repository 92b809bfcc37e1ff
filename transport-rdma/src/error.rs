//! Why a verbs transport cannot start, in sentences that say what to do.

use std::io;
use std::net::SocketAddr;
use thiserror::Error;

/// Why there is no transport.
#[derive(Debug, Error)]
pub enum StartError {
    /// The library of the system is not there.
    #[error("libibverbs is missing ({0}); install it: apt-get install libibverbs1 ibverbs-providers")]
    NoLibrary(String),
    /// There is no device at all.
    #[error(
        "this machine has no RDMA device; `ibv_devices` lists what there is, and \
         `modprobe rdma_rxe; rdma link add rxe0 type rxe netdev eth0` makes one of an Ethernet card"
    )]
    NoDevice,
    /// There is no device of the name that was asked for.
    #[error("there is no RDMA device `{wanted}`; there are: {present}")]
    NoSuchDevice {
        /// The name from the settings.
        wanted: String,
        /// The names there are.
        present: String,
    },
    /// The device has no port of that number.
    #[error("RDMA device {device} has no port {port}; `ibv_devinfo` lists them, and the first is 1")]
    NoSuchPort {
        /// The device, or the devices.
        device: String,
        /// The number from the settings.
        port: u8,
    },
    /// No port is active, or not the one that was asked for.
    #[error(
        "no port of RDMA device {device} is active; `ibv_devinfo` shows their state, `ip link set DEV up` may mend it"
    )]
    NoActivePort {
        /// The device, or the devices.
        device: String,
    },
    /// The port has no address that packets could be sent from.
    #[error(
        "port {port} of RDMA device {device} has no address; give its network card one: ip address add 10.0.0.1/24 dev DEV"
    )]
    NoAddress {
        /// The device.
        device: String,
        /// The port.
        port: u8,
    },
    /// The index from the settings names no address.
    #[error(
        "port {port} of RDMA device {device} has no address (GID) with index {index}; `ibv_devinfo -v` lists them"
    )]
    NoSuchGid {
        /// The device.
        device: String,
        /// The port.
        port: u8,
        /// The index from the settings.
        index: u8,
    },
    /// The system does not let the process lock enough memory.
    #[error(
        "cannot lock {needed} bytes of memory for the RDMA device, the limit is {limit} bytes; \
         raise it with `ulimit -l unlimited`, or `LimitMEMLOCK=infinity` for a service"
    )]
    LockedMemory {
        /// What one registration wanted, in bytes.
        needed: usize,
        /// The limit of the process in bytes.
        limit: u64,
    },
    /// The listening address of the control connection.
    #[error("cannot listen on {listen} for control connections: {source}")]
    Listen {
        /// The address from the settings.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused what any transport needs.
    #[error("cannot make {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The device refused something.
    #[error("RDMA device {device}: {what} failed: {source}")]
    Device {
        /// The device.
        device: String,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl From<StartError> for io::Error {
    fn from(error: StartError) -> Self {
        let kind = match &error {
            StartError::Listen { source, .. }
            | StartError::System { source, .. }
            | StartError::Device { source, .. } => source.kind(),
            StartError::NoLibrary(_) => io::ErrorKind::Unsupported,
            StartError::LockedMemory { .. } => io::ErrorKind::OutOfMemory,
            _ => io::ErrorKind::NotFound,
        };
        Self::new(kind, error)
    }
}
