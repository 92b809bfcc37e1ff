//! Closing sockets without waiting for them.
//!
//! The kernel lets who closes a congested socket wait for up to eight seconds, until the peer has read or is gone. That must not be
//! the thread that all other links wait for.

use socket2::Socket;
use std::sync::{LazyLock, mpsc};

/// Closes a socket: here if that takes no time, else on a thread for such.
pub(crate) fn close(socket: Socket) {
    if crate::sys::is_writable(&socket) {
        return drop(socket);
    }
    // Without the thread it is closed here, when `send` gives it back.
    let _ = CLOSER.send(socket);
}

static CLOSER: LazyLock<mpsc::Sender<Socket>> = LazyLock::new(start);

/// One thread for the whole process; what waits for it is bounded by the links that may be.
#[expect(
    clippy::disallowed_methods,
    reason = "a driver: to close may block, and nothing else may wait for it"
)]
fn start() -> mpsc::Sender<Socket> {
    let (sender, sockets) = mpsc::channel();
    let body = move || sockets.into_iter().for_each(|socket: Socket| drop(socket));
    // An error drops the receiver with the body, and then nobody sends.
    let _ = std::thread::Builder::new().name("tipc-close".to_owned()).spawn(body);
    sender
}
