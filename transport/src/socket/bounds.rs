//! How much links may take.

/// Bounds on links and their memory, with defaults for nodes of one cluster. Every bound is per link unless its name says
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Longest frame in bytes; a multiple of 16, not longer than a receive block or a packet.
    pub frame_len_max: usize,
    /// Bound on the links of the transport, lingering ones included.
    pub links_max: usize,
    /// Bytes taken and not written, above which no further frame is taken.
    pub outbox_len_max: usize,
    /// Bytes of one receive block, the most that one read gets; not shorter than a packet.
    pub receive_block_len: usize,
    /// Bound on receive blocks. A block is in use while a frame of it is; without one the link is not read.
    pub receive_blocks_per_link_max: usize,
    /// Buffers of each size in the pool for sending, of the transport.
    pub send_buffers_max: usize,
    /// How long a connection may take to come up, in nanoseconds.
    pub connect_timeout_ns: u64,
    /// How long a closed link may take to write what it had taken, in nanoseconds.
    pub linger_ns_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            frame_len_max: 64 << 10,
            links_max: 256,
            outbox_len_max: 1 << 20,
            receive_block_len: 256 << 10,
            receive_blocks_per_link_max: 16,
            send_buffers_max: 8192,
            connect_timeout_ns: 5_000_000_000,
            linger_ns_max: 1_000_000_000,
        }
    }
}
