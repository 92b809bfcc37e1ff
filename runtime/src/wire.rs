//! What crosses a link besides payloads: the extension block, the hello and probes, as bytes and back.
//!
//! It is: layouts, checked parsers and writers, and the handshake as a state machine. Control frames are the one payload
//! that is read here, as they are between the nodes themselves. It is not: the frame header and
//! the buffers (`epicserver-transport`), payloads (the codec), or anything that keeps a link's counts (`session`).
//! Nothing here does IO, reads a clock, or panics on foreign bytes.
//!
//! Start with [`extension::Extension`], then [`handshake::Handshake`].

pub mod assembly;
pub mod control;
pub mod extension;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod handshake;
pub mod hello;
pub mod probe;
