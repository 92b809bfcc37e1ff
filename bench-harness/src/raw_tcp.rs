//! The raw baseline of calls between processes: frames of a fixed length go to the other process over one TCP connection and
//! come back, by plain socket calls and nothing else.
//!
//! ```text
//!   caller: fill the window -> one write -> one read -> whole frames are answers -> again
//!   callee: one read -> one write of the same bytes -> again
//! ```
//! What the kernel takes or gives at once is one batch, as it is for our own frames. Both halves run on the threads of the cores, from
//! within entity code, while no call is under way. Start at [`Caller::call`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use epicserver::message;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// So many frames there and back.
#[message]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Echo {
    /// Frames in all.
    pub(crate) calls: u64,
    /// Frames under way at a time.
    pub(crate) outstanding: u32,
    /// Bytes of a frame.
    pub(crate) frame_len: u32,
    /// Whether the threads sleep in the kernel instead of asking it again and again.
    pub(crate) park: bool,
}

impl Echo {
    /// Frames of a payload, which are never empty.
    pub(crate) fn new(calls: u64, outstanding: u32, payload: u32, park: bool) -> Self {
        Self { calls, outstanding, frame_len: payload.max(FRAME_LEN_MIN), park }
    }

    fn bytes(&self) -> u64 {
        self.calls * u64::from(self.frame_len)
    }
}

/// The caller's end of the connection.
pub(crate) struct Caller {
    socket: TcpStream,
    frames: Vec<u8>,
    received: Vec<u8>,
}

impl Caller {
    /// Connects to the port that [`listen`] gave; then the callee may [`accept`].
    pub(crate) fn connect(port: u16) -> io::Result<Self> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        prepare(&socket)?;
        Ok(Self { socket, frames: Vec::new(), received: vec![0; READ_LEN] })
    }

    /// Whether the callee has begun to [`echo`]; to be asked until it has.
    pub(crate) fn is_answered(&self) -> io::Result<bool> {
        let mut ready = [0];
        match recv(&self.socket, &mut ready, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error) => none_if_blocked(error.into()).map(|_| false),
        }
    }

    /// The caller's half. `sent` is told of each frame before it is written, `answered` after all of it has come back; both get the
    /// frame's place in the window.
    pub(crate) fn call(
        &mut self,
        echo: &Echo,
        mut sent: impl FnMut(usize),
        mut answered: impl FnMut(usize),
    ) -> io::Result<()> {
        let frame_len = echo.frame_len as usize;
        let window = u64::from(echo.outstanding).min(echo.calls);
        self.frames.resize(window as usize * frame_len, crate::raw::PAYLOAD);
        let (mut calls_sent, mut calls_answered) = (0, 0);
        let (mut unwritten, mut under_way, mut partial) = (0, 0, 0);
        while calls_answered < echo.calls {
            while calls_sent < echo.calls && calls_sent - calls_answered < window {
                sent((calls_sent % window) as usize);
                calls_sent += 1;
                unwritten += frame_len;
            }
            if unwritten > 0 {
                // Not blocking: the callee may be writing too. It may block only while the callee has nothing to do.
                let written = self.write(unwritten, echo.park && under_way == 0)?;
                (unwritten, under_way) = (unwritten - written, under_way + written);
            }
            let len = read(&self.socket, &mut self.received, echo.park)?;
            (under_way, partial) = (under_way - len, partial + len);
            while partial >= frame_len {
                partial -= frame_len;
                answered((calls_answered % window) as usize);
                calls_answered += 1;
            }
        }
        Ok(())
    }

    fn write(&self, len: usize, wait: bool) -> io::Result<usize> {
        if wait {
            return (&self.socket).write(&self.frames[..len]);
        }
        let sent = send(&self.socket, &self.frames[..len], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        sent.map_err(io::Error::from).or_else(none_if_blocked)
    }
}

/// Opens a port for one caller.
pub(crate) fn listen() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    lock(&CALLEE).listener = Some(listener);
    Ok(port)
}

/// Takes the caller that has connected.
pub(crate) fn accept() -> io::Result<()> {
    let mut callee = lock(&CALLEE);
    let listener = callee.listener.take().ok_or(ErrorKind::NotConnected)?;
    let (socket, _) = listener.accept()?;
    prepare(&socket)?;
    callee.socket = Some(socket);
    Ok(())
}

/// The callee's half: blocks its thread until all frames were sent back.
pub(crate) fn echo(echo: &Echo) -> io::Result<()> {
    let callee = lock(&CALLEE);
    let mut socket = callee.socket.as_ref().ok_or(ErrorKind::NotConnected)?;
    socket.write_all(&READY)?;
    let mut bytes = vec![0; READ_LEN];
    let mut left = echo.bytes();
    while left > 0 {
        let len = read(socket, &mut bytes, echo.park)?;
        if echo.park {
            socket.write_all(&bytes[..len])?;
        } else {
            write_spinning(socket, &bytes[..len])?;
        }
        left = left.saturating_sub(len as u64);
    }
    Ok(())
}

/// Reads what is there, and waits until something is.
fn read(mut socket: &TcpStream, bytes: &mut [u8], park: bool) -> io::Result<usize> {
    for _ in 0..LOOKS_MAX {
        let len = if park {
            socket.read(bytes)?
        } else {
            match recv(socket, &mut *bytes, RecvFlags::DONTWAIT) {
                Ok((_, len)) => len,
                Err(error) => {
                    none_if_blocked(error.into())?;
                    std::hint::spin_loop();
                    continue;
                }
            }
        };
        return if len == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(len) };
    }
    Err(ErrorKind::TimedOut.into())
}

fn write_spinning(socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    for _ in 0..LOOKS_MAX {
        let sent = send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(io::Error::from);
        bytes = &bytes[sent.or_else(none_if_blocked)?..];
        if bytes.is_empty() {
            return Ok(());
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// A socket that has nothing, or no room, is no failure.
fn none_if_blocked(error: io::Error) -> io::Result<usize> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(0),
        _ => Err(error),
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))
}

/// The callee's end of the connection. There is one: one baseline runs at a time.
static CALLEE: Mutex<Callee> = Mutex::new(Callee { listener: None, socket: None });

struct Callee {
    listener: Option<TcpListener>,
    socket: Option<TcpStream>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the callee sends before the first frame.
const READY: [u8; 1] = [1];
const FRAME_LEN_MIN: u32 = 8;
/// The most that one read takes; as much as a read of our own transport.
const READ_LEN: usize = 256 << 10;
/// Looks without success before the other side counts as lost: half a minute of system calls.
const LOOKS_MAX: u32 = 1 << 27;
/// The longest sleep in the kernel; a guard.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way of waiting, with windows that the buffers of the kernel hold and such that they do not. One test, as there is
    /// one callee.
    #[test]
    fn every_frame_comes_back_once() {
        let mut caller = Caller::connect(listen().expect("a free port")).expect("it listens");
        accept().expect("it has connected");
        for park in [false, true] {
            for (calls, outstanding, payload) in [(50, 1, 0), (1_000, 64, 64), (2_000, 1_000, 4096)] {
                let echo = Echo::new(calls, outstanding, payload, park);
                let (mut sent, mut answered) = (0, 0);
                std::thread::scope(|scope| {
                    let callee = scope.spawn(|| super::echo(&echo));
                    while !caller.is_answered().expect("it is connected") {
                        std::thread::yield_now();
                    }
                    caller.call(&echo, |_| sent += 1, |_| answered += 1).expect("no failure");
                    callee.join().expect("no panic").expect("no failure");
                });
                assert_eq!((sent, answered), (calls, calls), "{echo:?}");
            }
        }
    }
}
