//! What the two ends of loopback links share: an inbox for each end, a lane for each direction of a link.

use crate::frame::{Frame, FrameBuf};
use crate::header::HeaderError;
use crate::link::{Addr, DownReason, LinkId};
use crate::pool::BufferPool;
use crate::wake::{Signal, Wake};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The receiving side of one transport. Its inbox is bounded by the windows of its links: each link has at most a window
/// of frames and three other deliveries in it.
#[derive(Default)]
pub(super) struct Endpoint {
    inbox: Mutex<Inbox>,
    signal: Arc<Signal>,
    armed: AtomicBool,
}

#[derive(Default)]
struct Inbox {
    deliveries: VecDeque<Delivery>,
    shut: bool,
}

/// One thing that an end tells another.
pub(super) enum Delivery {
    /// Somebody wants a link.
    Connect(ConnectRequest),
    /// The link of that name is up, and `by` calls it `peer_link`.
    Accepted { link: LinkId, by: Arc<Endpoint>, peer_link: LinkId },
    /// One frame.
    Frame { link: LinkId, frame: Frame },
    /// There is room on a lane that was full.
    Writable { link: LinkId },
    /// The link ended.
    Down { link: LinkId, reason: DownReason },
}

/// A wish for a link, with the lanes it shall have.
pub(super) struct ConnectRequest {
    pub(super) from: Arc<Endpoint>,
    pub(super) from_link: LinkId,
    pub(super) from_addr: Addr,
    pub(super) to_connector: Arc<Lane>,
    pub(super) from_connector: Arc<Lane>,
}

impl Endpoint {
    /// Puts a delivery into the inbox; the owner hears of it at the next [`Endpoint::wake_if_armed`]. `false` if the
    /// owner is gone.
    pub(super) fn deliver(&self, delivery: Delivery) -> bool {
        let mut inbox = self.lock();
        if inbox.shut {
            return false;
        }
        inbox.deliveries.push_back(delivery);
        true
    }

    /// As [`Endpoint::deliver`], and the owner hears of it now.
    pub(super) fn deliver_now(&self, delivery: Delivery) -> bool {
        let delivered = self.deliver(delivery);
        self.wake_if_armed();
        delivered
    }

    pub(super) fn wake_if_armed(&self) {
        // Between this and `arm` stands the inbox lock: either arm sees what was delivered, or this sees armed.
        if self.armed.load(Ordering::SeqCst) && self.armed.swap(false, Ordering::SeqCst) {
            self.signal.wake();
        }
    }

    /// Asks to be woken; `false` if there is something in the inbox already.
    pub(super) fn arm(&self) -> bool {
        self.armed.store(true, Ordering::SeqCst);
        self.lock().deliveries.is_empty()
    }

    /// Moves everything from the inbox into `arrived`, which is empty.
    pub(super) fn take_arrived(&self, arrived: &mut VecDeque<Delivery>) {
        std::mem::swap(&mut self.lock().deliveries, arrived);
    }

    /// Takes nothing more, and hands out what nobody heard.
    pub(super) fn shut(&self) -> VecDeque<Delivery> {
        let mut inbox = self.lock();
        inbox.shut = true;
        std::mem::take(&mut inbox.deliveries)
    }

    pub(super) fn signal(&self) -> Arc<Signal> {
        Arc::clone(&self.signal)
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // The queue is whole between any two statements, so a panic elsewhere leaves nothing half done.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivery {
    /// Tells the sender, if it waits for an answer, that nobody will give one.
    pub(super) fn refuse(self) {
        match self {
            Self::Connect(request) => {
                let down = Self::Down { link: request.from_link, reason: DownReason::Refused };
                request.from.deliver_now(down);
            }
            Self::Accepted { by, peer_link, .. } => {
                by.deliver_now(Self::Down { link: peer_link, reason: DownReason::ClosedByPeer });
            }
            Self::Frame { .. } | Self::Writable { .. } | Self::Down { .. } => {}
        }
    }
}

/// One direction of a link.
#[derive(Default)]
pub(super) struct Lane {
    /// Frames sent and not yet polled by the receiver.
    under_way: AtomicUsize,
    /// The sender waits for `under_way` to fall to this; zero if it does not wait.
    resume_at: AtomicUsize,
    /// Strict receivers: buffers that frames are copied into. `None`: frames cross by reference.
    posted: Mutex<Option<VecDeque<FrameBuf>>>,
}

impl Lane {
    /// Makes posted receives of all buffers of the pool.
    pub(super) fn post_from(&self, pool: &BufferPool) {
        let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        let posted = posted.get_or_insert_default();
        while let Some(buffer) = pool.alloc(pool.buffer_len_max()) {
            posted.push_back(buffer);
        }
    }

    /// What the receiver gets for this frame, or why that ends the link.
    pub(super) fn place(&self, frame: &Frame) -> Result<Frame, DownReason> {
        let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        let placed = match posted.as_mut() {
            None => frame.clone(),
            Some(posted) => {
                let mut buffer = posted.pop_front().ok_or(DownReason::WindowExceeded)?;
                let frame_len_max = buffer.capacity();
                let too_long = HeaderError::TooLong { len: frame.len() as u64, frame_len_max };
                buffer.truncate(frame.len());
                buffer.get_mut(..frame.len()).ok_or(DownReason::Garbage(too_long))?.copy_from_slice(frame);
                buffer.freeze()
            }
        };
        self.under_way.fetch_add(1, Ordering::SeqCst);
        Ok(placed)
    }

    /// Whether fewer than `window` frames are under way; if not, [`Lane::take_one`] will say when half of them are gone.
    pub(super) fn has_room(&self, window: usize) -> bool {
        if self.under_way.load(Ordering::SeqCst) < window {
            return true;
        }
        let resume_at = window.div_ceil(2);
        self.resume_at.store(resume_at, Ordering::SeqCst);
        // The receiver may have taken frames before it could see that we wait.
        let resumed = self.under_way.load(Ordering::SeqCst) <= resume_at;
        resumed && self.resume_at.swap(0, Ordering::SeqCst) != 0
    }

    /// One frame has arrived. `true`: tell the sender that there is room.
    pub(super) fn take_one(&self) -> bool {
        let left = self.under_way.fetch_sub(1, Ordering::SeqCst) - 1;
        let resume_at = self.resume_at.load(Ordering::SeqCst);
        resume_at != 0 && left <= resume_at && self.resume_at.swap(0, Ordering::SeqCst) != 0
    }
}
