//! Closing sockets without waiting for them.
//!
//! The kernel lets who closes a congested socket wait for up to eight seconds, until the peer has read or is gone. That must not be
//! the thread that all other links wait for.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;
use std::os::fd::AsFd;
use std::sync::{LazyLock, mpsc};

/// Closes a socket: here if that takes no time, else on a thread for such.
pub(crate) fn close(socket: Socket) {
    if takes_packets(&socket) {
        return drop(socket);
    }
    // If that has enough to do it is closed here, when it comes back.
    let _ = CLOSER.try_send(socket);
}

/// Whether the socket takes a packet now. One that does not is congested, and the kernel lets who closes it wait.
pub(crate) fn takes_packets(socket: &impl AsFd) -> bool {
    let mut entry = [PollFd::new(socket, PollFlags::OUT)];
    poll(&mut entry, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}

static CLOSER: LazyLock<mpsc::SyncSender<Socket>> = LazyLock::new(start);

/// One thread for the whole process.
#[expect(
    clippy::disallowed_methods,
    reason = "a driver: to close may block, and nothing else may wait for it"
)]
fn start() -> mpsc::SyncSender<Socket> {
    let (sender, sockets) = mpsc::sync_channel(CLOSING_MAX);
    let body = move || sockets.into_iter().for_each(|socket: Socket| drop(socket));
    // An error drops the receiver with the body, and then nobody sends.
    let _ = std::thread::Builder::new().name("tipc-close".to_owned()).spawn(body);
    sender
}

/// Sockets that wait to be closed: as many as the links of some transports.
const CLOSING_MAX: usize = 1024;
