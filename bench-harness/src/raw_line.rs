//! The raw baselines of calls between processes: frames of a fixed length go to the other process and come back, by what
//! carries them and nothing else.
//!
//! ```text
//!   caller: fill the window -> write -> read -> whole frames are answers -> again
//!   callee: read -> write what whole frames there are -> again
//! ```
//! What the carrier takes or gives at once is one batch, as it is for our own frames. Both halves run on the threads of the cores,
//! from within entity code, while no call is under way. A TCP connection of their own tells the two when to begin; over
//! TCP it carries the frames too. Start at [`Caller::call`].

use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use epicserver::message;

use crate::options::Transport;
use crate::raw_rdma::{self, RdmaLine};
use crate::raw_tcp::TcpLine;
use crate::raw_tipc::{self, TipcLine};

/// So many frames there and back.
#[message]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Echo {
    /// Frames in all.
    pub(crate) calls: u64,
    /// Whether the threads sleep in the kernel instead of asking it again and again.
    pub(crate) park: bool,
}

/// What carries the frames.
#[message]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carrier {
    /// Over which transport.
    pub(crate) transport: Transport,
    /// Frames under way at a time.
    pub(crate) outstanding: u32,
    /// Bytes of a frame.
    pub(crate) frame_len: u32,
}

impl Carrier {
    /// For frames of a payload, which are never empty.
    pub(crate) fn new(transport: Transport, outstanding: u32, payload: u32) -> Self {
        Self { transport, outstanding, frame_len: payload.max(FRAME_LEN_MIN) }
    }

    /// The most bytes that can have come when they are looked for.
    fn read_len(&self) -> usize {
        READ_LEN.max(self.outstanding as usize * self.frame_len as usize)
    }
}

/// One end of what carries the frames.
pub(crate) trait Line: Send {
    /// Writes some of the bytes, whole frames; gives how many, which is 0 only if none is taken now. It may sleep if `park`.
    fn write(&mut self, bytes: &[u8], park: bool) -> io::Result<usize>;

    /// Reads what is there; 0 if nothing is. It sleeps until something is if `park`.
    fn read(&mut self, bytes: &mut [u8], park: bool) -> io::Result<usize>;
}

/// The caller's end.
pub(crate) struct Caller {
    control: TcpStream,
    line: Box<dyn Line>,
    carrier: Carrier,
    frames: Vec<u8>,
    received: Vec<u8>,
}

/// The caller's end before the callee has taken it.
pub(crate) struct Connecting {
    control: TcpStream,
    carrier: Carrier,
    beginning: Beginning,
}

/// What a caller has made before the callee has its end.
enum Beginning {
    Tcp,
    Tipc(raw_tipc::Beginning),
    Rdma(Box<raw_rdma::Beginning>),
}

impl Connecting {
    /// Connects to the port that [`listen`] gave; then the callee may [`accept`].
    pub(crate) fn begin(port: u16, carrier: Carrier) -> io::Result<Self> {
        let control = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        prepare(&control)?;
        let beginning = match carrier.transport {
            Transport::Tipc => Beginning::Tipc(raw_tipc::begin(&control)?),
            Transport::Rdma => Beginning::Rdma(Box::new(raw_rdma::begin(&control, &carrier)?)),
            Transport::Loopback | Transport::Tcp => Beginning::Tcp,
        };
        Ok(Self { control, carrier, beginning })
    }

    /// Goes on when the callee has accepted.
    pub(crate) fn finish(self) -> io::Result<Caller> {
        let Self { control, carrier, beginning } = self;
        let line: Box<dyn Line> = match beginning {
            Beginning::Tipc(beginning) => Box::new(TipcLine::finish(&beginning, &carrier)?),
            Beginning::Rdma(beginning) => Box::new(RdmaLine::finish(*beginning, &control, &carrier)?),
            Beginning::Tcp => Box::new(TcpLine::new(&control)?),
        };
        Ok(Caller { control, line, carrier, frames: Vec::new(), received: vec![0; carrier.read_len()] })
    }
}

impl Caller {
    /// Whether the callee has begun to [`echo`]; to be asked until it has.
    pub(crate) fn is_answered(&self) -> io::Result<bool> {
        crate::raw_tcp::look(&self.control)
    }

    /// The caller's half. `sent` is told of each frame before it is written, `answered` after all of it has come back; both get the
    /// frame's place in the window.
    pub(crate) fn call(
        &mut self,
        echo: &Echo,
        mut sent: impl FnMut(usize),
        mut answered: impl FnMut(usize),
    ) -> io::Result<()> {
        let frame_len = self.carrier.frame_len as usize;
        let window = u64::from(self.carrier.outstanding).min(echo.calls);
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
                let written = self.line.write(&self.frames[..unwritten], echo.park && under_way == 0)?;
                (unwritten, under_way) = (unwritten - written, under_way + written);
            }
            let len = read(&mut *self.line, &mut self.received, echo.park)?;
            (under_way, partial) = (under_way - len, partial + len);
            while partial >= frame_len {
                partial -= frame_len;
                answered((calls_answered % window) as usize);
                calls_answered += 1;
            }
        }
        Ok(())
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
pub(crate) fn accept(carrier: &Carrier) -> io::Result<()> {
    let mut callee = lock(&CALLEE);
    let listener = callee.listener.take().ok_or(ErrorKind::NotConnected)?;
    let (control, _) = listener.accept()?;
    prepare(&control)?;
    let line: Box<dyn Line> = match carrier.transport {
        Transport::Rdma => {
            Box::new(RdmaLine::finish(raw_rdma::begin(&control, carrier)?, &control, carrier)?)
        }
        Transport::Tipc => Box::new(TipcLine::connect(&control, carrier)?),
        Transport::Loopback | Transport::Tcp => Box::new(TcpLine::new(&control)?),
    };
    callee.ends = Some(Ends { control, line, carrier: *carrier });
    Ok(())
}

/// The callee's half: blocks its thread until all frames were sent back.
pub(crate) fn echo(echo: &Echo) -> io::Result<()> {
    let mut callee = lock(&CALLEE);
    let Ends { control, line, carrier } = callee.ends.as_mut().ok_or(ErrorKind::NotConnected)?;
    control.write_all(&READY)?;
    let frame_len = carrier.frame_len as usize;
    // Room for one read behind all that can have come, so that every read asks for as much.
    let mut bytes = vec![0; carrier.read_len() + READ_LEN];
    let (mut left, mut come) = (echo.calls, 0);
    while left > 0 {
        come += read(&mut **line, &mut bytes[come..], echo.park)?;
        // Whole frames go back, as a call is answered when all of it is there; what follows them is the beginning of the next.
        let whole = come / frame_len * frame_len;
        write_all(&mut **line, &bytes[..whole], echo.park)?;
        bytes.copy_within(whole..come, 0);
        (left, come) = (left.saturating_sub((whole / frame_len) as u64), come - whole);
    }
    Ok(())
}

/// Reads what is there, and waits until something is.
fn read(line: &mut dyn Line, bytes: &mut [u8], park: bool) -> io::Result<usize> {
    for _ in 0..LOOKS_MAX {
        // Verbs have counted messages instead of copying bytes, and give all that there are.
        match line.read(&mut bytes[..READ_LEN], park)? {
            0 => std::hint::spin_loop(),
            len => return Ok(len),
        }
    }
    Err(ErrorKind::TimedOut.into())
}

fn write_all(line: &mut dyn Line, mut bytes: &[u8], park: bool) -> io::Result<()> {
    for _ in 0..LOOKS_MAX {
        bytes = &bytes[line.write(bytes, park)?..];
        if bytes.is_empty() {
            return Ok(());
        }
    }
    Err(ErrorKind::TimedOut.into())
}

fn prepare(control: &TcpStream) -> io::Result<()> {
    control.set_nodelay(true)?;
    control.set_read_timeout(Some(PATIENCE))?;
    control.set_write_timeout(Some(PATIENCE))
}

/// The callee's end. There is one: one baseline runs at a time.
static CALLEE: Mutex<Callee> = Mutex::new(Callee { listener: None, ends: None });

struct Callee {
    listener: Option<TcpListener>,
    ends: Option<Ends>,
}

struct Ends {
    control: TcpStream,
    line: Box<dyn Line>,
    carrier: Carrier,
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
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
