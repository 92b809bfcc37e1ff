//! Epic Server frames over InfiniBand verbs: `RdmaTransport` implements the contract of `epicserver-transport`.
//!
//! A link is a reliable connection of the device: frames are written into memory that the device reads, and arrive in
//! memory that it was given before. Nothing on the path of a frame is a system call of ours, a registration or, in the
//! steady state, an allocation. Credits see to it that the peer always has a receive posted ([`RdmaOptions`] has the
//! bounds); a control connection over TCP starts a link and tells that the peer is gone.
//!
//! The transport itself is behind the feature `rdma`, whose build needs the headers of rdma-core (`libibverbs-dev`,
//! `librdmacm-dev`) and libclang. The library is looked for when a transport is made, not when the program starts.
//!
//! Frames longer than a packet lie in memory of their own, which the peer may read for this one transfer (`bulk`).
//!
//! What is not here: names, encryption (the fabric of RDMA cards is trusted), memory that peers may write.
//! Start reading at `transport`; `channel` makes packets of frames, `credits` counts, `bulk` keeps long frames in order,
//! `greeting` is what the two ends tell each other first, `choice` finds the device, `sys` is all that is unsafe.
//!
//! ```
//! use epicserver_transport_rdma::RdmaOptions;
//! let options = RdmaOptions { listen: "10.0.0.1:7000".parse()?, device: Some("mlx5_0".into()), ..RdmaOptions::default() };
//! assert!(options.receives >= epicserver_transport_rdma::RECEIVES_MIN);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

#[cfg(feature = "rdma")]
mod bulk;
#[cfg(feature = "rdma")]
mod channel;
#[cfg(feature = "rdma")]
mod choice;
#[cfg(feature = "rdma")]
mod credits;
mod error;
#[cfg(feature = "rdma")]
mod greeting;
#[cfg(feature = "rdma")]
mod link;
mod options;
#[cfg(feature = "rdma")]
pub mod raw;
#[cfg(feature = "rdma")]
pub mod star;
#[cfg(feature = "rdma")]
mod sys;
#[cfg(feature = "rdma")]
mod transport;

pub use error::StartError;
pub use options::{BULK_LEN, RECEIVE_LEN, RECEIVES_MIN, RdmaOptions};
#[cfg(feature = "rdma")]
pub use transport::RdmaTransport;
