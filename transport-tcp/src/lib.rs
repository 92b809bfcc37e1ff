//! Epic Server frames over TCP.

mod connection;
mod options;
mod outbox;
mod sys;
mod transport;

pub use options::TcpOptions;
pub use transport::TcpTransport;
