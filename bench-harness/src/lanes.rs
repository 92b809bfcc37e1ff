//! Lanes: callers that call again and again, each with one call under way. What a batch of calls costs is measured here.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use epicserver::{CallError, context};
use hdrhistogram::Histogram;

use crate::allocations;
use crate::ticks::{self, Ticks};

/// What a batch of calls cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) calls: u64,
    pub(crate) took: Duration,
    /// By the thread of the callers.
    pub(crate) allocations: u64,
}

/// The latencies of single calls, in nanoseconds.
pub(crate) type Latencies = Histogram<u64>;

/// An empty histogram that never allocates later.
pub(crate) fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS).expect("bounds of a histogram")
}

/// Callers of the objects `callees`, by `call`.
pub(crate) struct Lanes<R, F> {
    callees: Rc<[R]>,
    call: F,
    lanes: usize,
    /// Where each lane goes on.
    places: Rc<[Cell<usize>]>,
    clock: Ticks,
}

/// What is called gives one type of answer, whichever that is.
impl<R, F, C, T> Lanes<R, F>
where
    R: 'static,
    F: Fn(&R) -> C + Copy + 'static,
    C: Future<Output = Result<T, CallError>>,
{
    /// So many lanes, spread over the callees.
    ///
    /// # Panics
    /// Without callees.
    pub(crate) fn new(callees: Vec<R>, lanes: usize, clock: Ticks, call: F) -> Self {
        assert!(!callees.is_empty(), "nobody to call");
        let places = (0..lanes).map(|lane| Cell::new(lane * callees.len() / lanes)).collect();
        Self { callees: callees.into(), call, lanes, places, clock }
    }

    /// Calls each callee once, so that all are in memory.
    pub(crate) async fn visit_all(&self) -> Result<(), CallError> {
        let visits = Rc::new(Batch::new(self.callees.len() as u64, VISITORS, None));
        for visitor in 0..VISITORS {
            let (callees, call, lane) = (self.callees.clone(), self.call, Lane(visits.clone()));
            context::spawn(async move {
                for callee in callees.iter().skip(visitor).step_by(VISITORS) {
                    if let Err(error) = call(callee).await {
                        return lane.0.fail(error);
                    }
                }
            })?;
        }
        visits.end().await
    }

    /// Makes so many calls and times them as a whole.
    pub(crate) async fn batch(&self, calls: u64) -> Result<Cost, CallError> {
        let batch = self.run(calls, None).await?;
        Ok(batch.cost(calls))
    }

    /// Makes so many calls and records how long each takes. Gives the histogram back.
    pub(crate) async fn clocked(&self, calls: u64, latencies: Latencies) -> Result<Latencies, CallError> {
        let batch = self.run(calls, Some(latencies)).await?;
        Ok(batch.latencies.borrow_mut().take().unwrap_or_else(self::latencies))
    }

    async fn run(&self, calls: u64, latencies: Option<Latencies>) -> Result<Rc<Batch>, CallError> {
        let batch = Rc::new(Batch::new(calls, self.lanes, latencies));
        for lane in 0..self.lanes {
            context::spawn(self.lane(lane, Lane(batch.clone())))?;
        }
        batch.end().await?;
        Ok(batch)
    }

    /// One caller until the calls of the batch are used up.
    fn lane(&self, number: usize, lane: Lane) -> impl Future<Output = ()> + 'static {
        let (callees, call, places, clock) =
            (self.callees.clone(), self.call, self.places.clone(), self.clock);
        async move {
            let batch = &*lane.0;
            let clocked = batch.latencies.borrow().is_some();
            let mut place = places[number].get();
            while batch.take_one() {
                place = if place + 1 == callees.len() { 0 } else { place + 1 };
                let start = if clocked { ticks::ticks() } else { 0 };
                match call(&callees[place]).await {
                    // Somebody looks at it.
                    Ok(value) => _ = black_box(&value),
                    Err(error) => return batch.fail(error),
                }
                if clocked {
                    batch.record(clock.ns_since(start));
                }
            }
            places[number].set(place);
        }
    }
}

/// What the lanes of one batch share.
struct Batch {
    calls: u64,
    left: Cell<u64>,
    lanes: Cell<usize>,
    start: Cell<Option<Instant>>,
    took: Cell<Duration>,
    allocations: Cell<u64>,
    latencies: RefCell<Option<Latencies>>,
    failure: RefCell<Option<CallError>>,
    waiting: RefCell<Option<Waker>>,
}

impl Batch {
    fn new(calls: u64, lanes: usize, latencies: Option<Latencies>) -> Self {
        Self {
            calls,
            left: Cell::new(calls),
            lanes: Cell::new(lanes),
            start: Cell::new(None),
            took: Cell::default(),
            allocations: Cell::new(0),
            latencies: RefCell::new(latencies),
            failure: RefCell::new(None),
            waiting: RefCell::new(None),
        }
    }

    /// Whether there is another call to make. Clock and count start at the first: by then every lane is set up.
    #[inline]
    fn take_one(&self) -> bool {
        let left = self.left.get();
        if left == self.calls {
            self.allocations.set(allocations::of_this_thread());
            self.start.set(Some(ticks::now()));
        }
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    #[inline]
    fn record(&self, ns: u64) {
        if let Some(latencies) = self.latencies.borrow_mut().as_mut() {
            latencies.saturating_record(ns.max(1));
        }
    }

    fn fail(&self, error: CallError) {
        self.left.set(0);
        self.failure.borrow_mut().get_or_insert(error);
    }

    /// Waits until every lane has ended.
    async fn end(&self) -> Result<(), CallError> {
        poll_fn(|context| {
            if self.lanes.get() == 0 {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        self.failure.borrow_mut().take().map_or(Ok(()), Err)
    }

    fn cost(&self, calls: u64) -> Cost {
        Cost { calls, took: self.took.get(), allocations: self.allocations.get() }
    }
}

/// One lane of a batch; it has ended when this is dropped.
struct Lane(Rc<Batch>);

impl Drop for Lane {
    fn drop(&mut self) {
        let batch = &self.0;
        batch.lanes.set(batch.lanes.get() - 1);
        if batch.lanes.get() > 0 {
            return;
        }
        // The last one out.
        if let Some(start) = batch.start.get() {
            batch.took.set(start.elapsed());
            batch.allocations.set(allocations::of_this_thread() - batch.allocations.get());
        }
        if let Some(waker) = batch.waiting.borrow_mut().take() {
            waker.wake();
        }
    }
}

pub(crate) const VISITORS: usize = 64;
const LATENCY_NS_MAX: u64 = 60_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
