//! The driver: the threads of a node, and the only place that touches clocks, rings, transports and stores.
//!
//! ```text
//!   core thread 0 <==ring==> core thread 1 ..        each steps one `Core`
//!        |    ^                                      actions out, events in
//!        v    |
//!   storage thread (store)   link thread (transport)   edge runtime (tokio)
//!                            or core 0 drives it
//! ```
//! Not here: any decision about objects, calls or batches; those are the core's and the session's. Start at
//! [`core_thread`](core_thread::CoreThread).

pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod control_port;
pub(crate) mod core_thread;
pub(crate) mod edge;
mod engine;
pub(crate) mod links;
pub(crate) mod storage_thread;

pub use cluster::ClusterConfig;
pub use links::LinksConfig;

/// How a core's thread waits when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Never sleeps: the lowest latency, a processor all to itself.
    Spin,
    /// Sleeps at once.
    Park,
    /// Spins for a moment where a processor is to spare, then sleeps.
    Auto,
}

impl std::str::FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "spin" => Ok(Self::Spin),
            "park" => Ok(Self::Park),
            "auto" => Ok(Self::Auto),
            other => Err(format!("wait = {other:?} is not known: use \"spin\", \"park\" or \"auto\"")),
        }
    }
}

/// Which thread drives the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportThreads {
    /// One of its own.
    Dedicated,
    /// That of the node's first core, between its turns: no hand-over between threads, and no thread that takes a processor
    /// from a core.
    Inline,
    /// Inline where a thread of its own would make more threads than there are processors, else dedicated.
    Auto,
}

impl TransportThreads {
    /// Whether a core drives the transport of a node of so many cores.
    pub(crate) fn is_inline(self, cores: usize, processors: usize) -> bool {
        match self {
            Self::Dedicated => false,
            Self::Inline => true,
            Self::Auto => cores + 1 > processors,
        }
    }
}

impl std::str::FromStr for TransportThreads {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dedicated" => Ok(Self::Dedicated),
            "inline" => Ok(Self::Inline),
            "auto" => Ok(Self::Auto),
            other => Err(format!(
                "threads.transport = {other:?} is not known: use \"inline\", \"dedicated\" or \"auto\""
            )),
        }
    }
}
