//! Callers outside of the node: tasks of the application, each with one call under way.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epicserver::CallError;
use epicserver::prelude::*;

use super::callees::Durable;
use super::{BUDGET, OUTSTANDING};
use crate::driver::Measured;
use crate::lanes::{Latencies, latencies};
use crate::suite::Failure;
use crate::ticks;

/// Callers outside of the node, in tasks of one thread.
pub(crate) struct Application {
    pool: Pool,
    /// The keys of the objects that are called.
    objects: Range<u64>,
    /// How many were called.
    called: u64,
}

impl Application {
    pub(crate) fn new(pool: Pool, objects: Range<u64>) -> Self {
        Self { pool, objects, called: 0 }
    }

    /// Calls each object once.
    pub(crate) async fn call_all(&mut self) -> Result<(), Failure> {
        let (keys, pool) = (Arc::new(AtomicU64::new(self.objects.start)), &self.pool);
        let end = self.objects.end;
        let callers = (0..OUTSTANDING).map(|_| {
            let (keys, pool) = (keys.clone(), pool.clone());
            tokio::spawn(async move {
                loop {
                    let key = keys.fetch_add(1, Ordering::Relaxed);
                    if key >= end {
                        return Ok(());
                    }
                    pool.get::<Durable>(key).deposit([1; 64]).within(BUDGET).await?;
                }
            })
        });
        ended(callers.collect()).await
    }

    /// Calls one object after the other for so long, with so many calls under way.
    pub(crate) async fn call(
        &mut self,
        outstanding: u32,
        time: Duration,
        part: &mut Part,
    ) -> Result<(), Failure> {
        let called = Arc::new(AtomicU64::new(self.called));
        let latencies = Arc::new(Mutex::new(part.take_latencies()));
        let start = ticks::now();
        let callers = (0..outstanding).map(|_| {
            let (called, latencies, pool) = (called.clone(), latencies.clone(), self.pool.clone());
            let (first, objects) = (self.objects.start, self.objects.end - self.objects.start);
            tokio::spawn(async move {
                while start.elapsed() < time {
                    let key = first + called.fetch_add(1, Ordering::Relaxed) % objects;
                    let object = pool.get::<Durable>(key);
                    let sent = ticks::now();
                    object.deposit([1; 64]).within(BUDGET).await?;
                    let took_ns = sent.elapsed().as_nanos() as u64;
                    latencies.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(took_ns);
                }
                Ok(())
            })
        });
        ended(callers.collect()).await?;
        let took = start.elapsed();
        let called = called.load(Ordering::Relaxed);
        part.add(called - self.called, took);
        self.called = called;
        let latencies = Arc::into_inner(latencies).ok_or("a caller is left")?;
        part.latencies = latencies.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(())
    }
}

async fn ended(callers: Vec<tokio::task::JoinHandle<Result<(), CallError>>>) -> Result<(), Failure> {
    for caller in callers {
        caller.await??;
    }
    Ok(())
}

/// One row in the making.
pub(crate) struct Part {
    pub(crate) calls: u64,
    /// Of each round, for each call.
    pub(crate) took_ns: Vec<f64>,
    pub(crate) latencies: Latencies,
}

impl Part {
    pub(crate) fn new() -> Self {
        Self { calls: 0, took_ns: Vec::new(), latencies: latencies() }
    }

    pub(crate) fn add(&mut self, calls: u64, took: Duration) {
        self.calls += calls;
        self.took_ns.push(took.as_nanos() as f64 / calls.max(1) as f64);
    }

    pub(crate) fn take_latencies(&mut self) -> Latencies {
        std::mem::replace(&mut self.latencies, latencies())
    }

    pub(crate) fn mean_ns(&self) -> f64 {
        let mut took_ns = self.took_ns.clone();
        took_ns.sort_by(f64::total_cmp);
        took_ns.get(took_ns.len() / 2).copied().unwrap_or_default()
    }

    pub(crate) fn into_measured(self, case: &str, raw: bool) -> Measured {
        let at = |quantile| self.latencies.value_at_quantile(quantile);
        Measured {
            case: case.to_owned(),
            raw,
            calls: self.calls,
            mean_ns: self.mean_ns(),
            // Not counted: the storage thread takes part.
            allocations: None,
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: self.latencies.max(),
        }
    }
}
