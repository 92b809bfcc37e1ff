//! What is made of the device, and is made anew when the device was away: all but the buffers, which users hold.

use super::{COMPLETION_TOKEN, DEVICE_TOKEN};
use crate::channel::SendMemory;
use crate::choice::{Choice, choose};
use crate::error::StartError;
use crate::options::{BULK_LEN, RECEIVE_LEN, RdmaOptions};
use crate::sys::{CompletionQueue, Device, Region, list_devices};
use epicserver_transport::{BufferPool, Epoll, SizeClass};
use std::sync::Arc;

/// The open device, where it reports, and the memory that it knows.
pub(super) struct Hardware {
    pub(super) choice: Choice,
    // Queue and memory before the device: in the order in which they let go.
    pub(super) queue: CompletionQueue,
    pub(super) memory: SendMemory,
    pub(super) device: Arc<Device>,
}

/// The buffers that are sent from.
pub(super) struct Pools {
    pub(super) pool: BufferPool,
    /// For long frames, if there are such.
    pub(super) bulk: Option<BufferPool>,
    /// Where short frames are joined into packets.
    pub(super) joining: BufferPool,
}

/// Opens the device, with the options no larger than it and the system allow, and buffers as they want them.
pub(super) fn begin(
    options: RdmaOptions,
    epoll: &Epoll,
) -> Result<(RdmaOptions, Pools, Hardware), StartError> {
    let options = fit(options)?;
    let pools = Pools::new(&options);
    match Hardware::open(&options, &pools, epoll) {
        Err(StartError::LockedMemory { needed, limit }) if options.bulk_buffers_max > 0 => {
            let options = RdmaOptions { bulk_buffers_max: 0, ..options };
            let pools = Pools::new(&options);
            let hardware = Hardware::open(&options, &pools, epoll)?;
            tracing::warn!(
                needed,
                limit,
                "no memory may be locked for long messages to be read from, so that they go in pieces; raise the limit with \
                 `ulimit -l unlimited`, or `LimitMEMLOCK=infinity` for a service"
            );
            Ok((options, pools, hardware))
        }
        opened => opened.map(|hardware| (options, pools, hardware)),
    }
}

fn fit(mut options: RdmaOptions) -> Result<RdmaOptions, StartError> {
    let device = Device::open(&choose(&options, &list_devices()?)?.device)?;
    if !device.has_windows {
        options.bulk_buffers_max = 0;
    }
    options.receives = options.receives.min(device.requests_max);
    options.sends_max = options.sends_max.min(device.requests_max);
    // A completion queue that overflows takes every link along: there is room for all that can be under way.
    let per_link = options.receives + options.sends_max;
    options.links_max = options.links_max.min(device.completions_max / per_link).max(1);
    Ok(options)
}

impl Hardware {
    /// Opens the device, has the descriptors on which it reports watched, and registers the buffers with it.
    pub(super) fn open(options: &RdmaOptions, pools: &Pools, epoll: &Epoll) -> Result<Self, StartError> {
        let choice = choose(options, &list_devices()?)?;
        let device = Device::open(&choice.device)?;
        let failed = |what| {
            let device = choice.device.clone();
            move |source| StartError::Device { device, what, source }
        };
        let per_link = options.receives + options.sends_max;
        let queue = CompletionQueue::create(&device, options.links_max * per_link)
            .map_err(failed("making a completion queue"))?;
        let memory = pools.register(&device)?;
        let watched = device.set_events_nonblocking();
        let watched = watched.and_then(|()| epoll.add(&queue.event_fd(), COMPLETION_TOKEN));
        watched.and_then(|()| epoll.add(&device.event_fd(), DEVICE_TOKEN)).map_err(failed("watching it"))?;
        tracing::info!(device = %choice.device, port = choice.port.number, gid = ?choice.gid.map(|gid| gid.ip()), "RDMA device open");
        Ok(Self { choice, queue, memory, device })
    }

    /// Takes what is now the best of the device's addresses. If it has none, links that begin fail until it has.
    pub(super) fn choose_again(&mut self, options: &RdmaOptions) {
        let options = RdmaOptions { device: Some(self.device.name.clone()), ..options.clone() };
        match list_devices().and_then(|devices| choose(&options, &devices)) {
            Ok(choice) => self.choice = choice,
            Err(error) => tracing::warn!(%error, "the RDMA device cannot be used at present"),
        }
    }
}

impl Pools {
    fn new(options: &RdmaOptions) -> Self {
        let class = |buffer_len, buffers_max| SizeClass { buffer_len, buffers_max };
        let (short, sends) = (options.send_buffers_max, options.sends_max);
        let bulk = class(BULK_LEN, options.bulk_buffers_max);
        Self {
            bulk: (bulk.buffers_max > 0).then(|| BufferPool::shown(&[bulk])),
            pool: BufferPool::contiguous(&[
                class(SHORT_BUFFER_LEN, short),
                class(PAGE_BUFFER_LEN, short.div_ceil(4)),
                class(RECEIVE_LEN, short.div_ceil(16)),
            ]),
            // Who finds none waits until something is sent.
            joining: BufferPool::contiguous(&[
                class(SHORT_BUFFER_LEN, sends),
                class(RECEIVE_LEN, sends.div_ceil(2)),
            ]),
        }
    }

    fn register(&self, device: &Arc<Device>) -> Result<SendMemory, StartError> {
        let Self { pool, bulk, joining } = self;
        let regions =
            [Arc::new(Region::register(device, pool)?), Arc::new(Region::register(device, joining)?)];
        let shown =
            bulk.as_ref().map(|bulk| Region::register_each(device, bulk).map(Arc::new)).transpose()?;
        Ok(SendMemory { pool: pool.clone(), joining: joining.clone(), regions, shown })
    }
}

/// All memory that the tests' own peers send from.
#[cfg(test)]
pub(super) fn send_memory(device: &Arc<Device>, options: &RdmaOptions) -> Result<SendMemory, StartError> {
    Pools::new(options).register(device)
}

/// Most frames are short; those up to this length share the smaller buffers.
const SHORT_BUFFER_LEN: usize = 1024;
/// A page with what goes before it.
const PAGE_BUFFER_LEN: usize = 4608;
