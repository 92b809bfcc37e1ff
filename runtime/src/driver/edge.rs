//! The edge: where tokio futures and blocking work of entities run, away from the cores.

use crate::core::{EdgeFuture, Work};

/// The runtime that a node uses for its edge: the one it was started in, or one of its own.
#[derive(Debug)]
pub(crate) enum Edge {
    Shared(tokio::runtime::Handle),
    Own(Option<tokio::runtime::Runtime>),
}

impl Edge {
    /// The runtime this thread is in, or a small one of our own.
    ///
    /// # Errors
    /// If the threads of a runtime of our own cannot be started.
    pub(crate) fn new() -> std::io::Result<Self> {
        if let Ok(handle) = tokio::runtime::Handle::try_current() {
            return Ok(Self::Shared(handle));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self::Own(Some(runtime)))
    }

    pub(crate) fn handle(&self) -> EdgeHandle {
        match self {
            Self::Shared(handle) => EdgeHandle(Some(handle.clone())),
            Self::Own(runtime) => EdgeHandle(runtime.as_ref().map(|runtime| runtime.handle().clone())),
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Self::Own(runtime) = self
            && let Some(runtime) = runtime.take()
        {
            // Blocking work that still runs must not hold up the end of the node.
            runtime.shutdown_background();
        }
    }
}

/// Starts work on the edge, from any thread.
#[derive(Clone, Debug)]
pub(crate) struct EdgeHandle(Option<tokio::runtime::Handle>);

impl EdgeHandle {
    pub(crate) fn run(&self, work: Work) {
        if let Some(handle) = &self.0 {
            handle.spawn_blocking(|| work.run());
        }
    }

    pub(crate) fn spawn(&self, future: EdgeFuture) {
        if let Some(handle) = &self.0 {
            handle.spawn(future);
        }
    }
}
