//! When to dial a peer or an address: at once, then after pauses that grow.

use epicserver_transport::Addr;

/// When to dial.
#[derive(Debug)]
pub(super) struct Dial {
    addr: Addr,
    /// `None` while a link exists or is being made.
    at: Option<u64>,
    failures: u32,
    /// How much longer than need be it waits, so that the other end dials first.
    patience_ns: u64,
}

impl Dial {
    /// At once.
    pub(super) fn new(now: u64, addr: Addr) -> Self {
        Self { addr, at: Some(now), failures: 0, patience_ns: 0 }
    }

    /// Only when the other end has not done so for a while.
    pub(super) fn second(now: u64, addr: Addr) -> Self {
        Self { at: Some(now + PATIENCE_NS), patience_ns: PATIENCE_NS, ..Self::new(now, addr) }
    }

    pub(super) fn addr(&self) -> &Addr {
        &self.addr
    }

    pub(super) fn is_due(&self, now: u64) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    /// There is a link, or one is being made.
    pub(super) fn pause(&mut self) {
        self.at = None;
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.at
    }

    /// Tries again after a pause that grows, with jitter, so that many nodes do not dial in step.
    pub(super) fn failed(&mut self, now: u64, rng: &mut fastrand::Rng) {
        let pause = (BACK_OFF_NS << self.failures.min(BACK_OFF_DOUBLINGS)).min(BACK_OFF_NS_MAX);
        self.failures += 1;
        self.at = Some(now + self.patience_ns + pause / 2 + rng.u64(..pause / 2));
    }
}

const BACK_OFF_NS: u64 = 20_000_000;
const BACK_OFF_NS_MAX: u64 = 1_000_000_000;
const BACK_OFF_DOUBLINGS: u32 = 6;
const PATIENCE_NS: u64 = 500_000_000;
