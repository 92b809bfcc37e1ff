//! The settings of a verbs transport.

use std::net::{Ipv4Addr, SocketAddr};

/// Settings, with defaults for nodes of one cluster. Every bound is per link unless its name says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaOptions {
    /// Where peers reach the control connection over TCP, which starts a link and whose end is the end of the link; port 0
    /// lets the kernel choose. The device is the one that serves this address, unless [`device`](Self::device) says otherwise.
    pub listen: SocketAddr,
    /// Name of the device as `ibv_devices` prints it; `None` chooses.
    pub device: Option<String>,
    /// Port of the device, from 1; `None` chooses an active one.
    pub port: Option<u8>,
    /// Index into the port's table of addresses (GIDs); `None` chooses.
    pub gid_index: Option<u8>,
    /// Bound on the links of the transport, lingering ones included.
    pub links_max: usize,
    /// Receives posted to the device, of [`RECEIVE_LEN`] bytes each: at least [`RECEIVES_MIN`].
    pub receives: usize,
    /// Sends posted to the device and not known to be done.
    pub sends_max: usize,
    /// Bytes taken and not posted, above which no further frame is taken.
    pub outbox_len_max: usize,
    /// Short buffers in the pool for sending, of the transport; a quarter as many hold a page with what goes before it, and a
    /// sixteenth as many the longest frame that goes in one packet.
    pub send_buffers_max: usize,
    /// Buffers of [`BULK_LEN`] bytes in the pool for sending long frames, of the transport. With none, or on a device that has no windows
    /// of the second kind, there are no long frames, and long messages go in short pieces.
    pub bulk_buffers_max: usize,
    /// Longest packet in bytes that the processor copies into the send queue itself; the device may offer less.
    pub inline_len_max: u32,
    /// The device sends again after 4.096 us times two to the power of this, seven times, before the link is down.
    pub ack_timeout: u8,
    /// How long a link may take to come up, in nanoseconds.
    pub connect_timeout_ns: u64,
    /// How long a closed link may take to deliver what it had taken, in nanoseconds.
    pub linger_ns_max: u64,
}

impl Default for RdmaOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            device: None,
            port: None,
            gid_index: None,
            links_max: 64,
            receives: 32,
            sends_max: 128,
            outbox_len_max: 1 << 20,
            send_buffers_max: 2048,
            bulk_buffers_max: 8,
            inline_len_max: 220,
            ack_timeout: 16,
            connect_timeout_ns: 5_000_000_000,
            linger_ns_max: 1_000_000_000,
        }
    }
}

/// Length in bytes of one posted receive, and so of the longest packet and of the longest frame that goes in one.
pub const RECEIVE_LEN: usize = 16 << 10;

/// Length in bytes of the longest frame, which the peer reads from where it lies.
pub const BULK_LEN: usize = 256 << 10;

/// Fewest receives that a link works with: the reserve for announcements and a few packets beyond.
pub const RECEIVES_MIN: usize = 16;
