//! The rounds of one case: ours and the baselines in turns, on the same threads.

use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::task::Poll;
use std::time::Duration;

use epicserver::prelude::*;
use epicserver::{CallError, Entity, context};

use crate::allocations;
use crate::callees::{Account, Still, unavailable};
use crate::driver::{Case, Measured, Plan};
use crate::lanes::{Cost, Lanes, Latencies, latencies};
use crate::options::{Placement, Transport};
use crate::raw::{self, Exchange, PAYLOAD, WORDS_MAX};
use crate::raw_line::{Caller, Carrier, Connecting, Echo};
use crate::ticks::{self, Ticks};

/// A plan for arguments of `N` bytes. Those of arguments that are no arrays have any `N`: only baselines within a process use it.
pub(crate) struct Bench<const N: usize> {
    plan: Plan,
    clock: Ticks,
}

impl<const N: usize> Bench<N> {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, clock: Ticks::calibrate() }
    }

    /// Measures the plan's case, with the methods given, and its baselines.
    pub(crate) async fn run<C, D, E, T>(
        &self,
        read: impl Fn(&Ref<Still>) -> C + Copy + 'static,
        deposit: impl Fn(&Ref<Account>) -> D + Copy + 'static,
        echo: impl Fn(&Ref<Still>) -> E + Copy + 'static,
    ) -> Result<Vec<Measured>, CallError>
    where
        C: Future<Output = Result<u64, CallError>>,
        D: Future<Output = Result<u64, CallError>>,
        E: Future<Output = Result<T, CallError>>,
    {
        match self.plan.case {
            Case::Call | Case::CallMillion => self.measure(self.callees::<Still>().await?, read).await,
            Case::CallDurable | Case::CallDurableMillion => {
                self.measure(self.callees::<Account>().await?, deposit).await
            }
            Case::Echo => self.measure(self.callees::<Still>().await?, echo).await,
            Case::EchoVec => {
                let payload = self.plan.payload as usize;
                let echo = move |object: &Ref<Still>| object.echo_vec(vec![PAYLOAD; payload]);
                self.measure(self.callees::<Still>().await?, echo).await
            }
        }
    }

    async fn measure<R, C, T>(
        &self,
        callees: Vec<R>,
        call: impl Fn(&R) -> C + Copy + 'static,
    ) -> Result<Vec<Measured>, CallError>
    where
        R: 'static,
        C: Future<Output = Result<T, CallError>>,
    {
        let lanes = Lanes::new(callees, self.plan.outstanding as usize, self.clock, call);
        lanes.visit_all().await?;
        let mut far = self.far().await?;
        let mut ours = Part::new(&self.plan, self.plan.case.name(), false);
        let mut baselines: Vec<(Baseline, Part)> =
            self.baselines().iter().map(|one| (*one, Part::new(&self.plan, one.name(), true))).collect();
        let budget = Duration::from_nanos(self.plan.time_ns);
        let (mut start, mut rounds, mut is_warm) = (ticks::now(), 0, false);
        loop {
            self.our_round(&lanes, &mut ours, far.as_ref()).await?;
            for (baseline, part) in &mut baselines {
                self.raw_round(*baseline, part, far.as_mut()).await?;
            }
            rounds += 1;
            let is_over = start.elapsed() >= budget;
            if is_warm && (rounds == self.plan.rounds || is_over) {
                break;
            }
            if !is_warm && (rounds == WARM_UP_ROUNDS || is_over) {
                ours.forget();
                baselines.iter_mut().for_each(|(_, part)| part.forget());
                (start, rounds, is_warm) = (ticks::now(), 0, true);
            }
        }
        let parts = std::iter::once(ours).chain(baselines.into_iter().map(|(_, part)| part));
        Ok(parts.map(Part::into_measured).collect())
    }

    async fn our_round<R, F, C, T>(
        &self,
        lanes: &Lanes<R, F>,
        part: &mut Part,
        far: Option<&Far>,
    ) -> Result<(), CallError>
    where
        R: 'static,
        F: Fn(&R) -> C + Copy + 'static,
        C: Future<Output = Result<T, CallError>>,
    {
        let calls = part.calls_of_a_round(self.plan.outstanding);
        let before = allocations_at(far).await?;
        let mut cost = lanes.batch(calls).await?;
        cost.allocations += allocations_at(far).await? - before;
        part.add(cost);
        let clocked = calls.min(CLOCKED_CALLS_MAX);
        part.latencies = Some(lanes.clocked(clocked, part.take_latencies()).await?);
        Ok(())
    }

    async fn raw_round(
        &self,
        baseline: Baseline,
        part: &mut Part,
        far: Option<&mut Far>,
    ) -> Result<(), CallError> {
        let calls = part.calls_of_a_round(self.plan.outstanding);
        let clocked = calls.min(CLOCKED_CALLS_MAX);
        match (baseline, far) {
            (Baseline::Function, _) => {
                let call = |value| std::future::ready(raw::function(value, [PAYLOAD; N]));
                self.raw_calls(part, calls, clocked, call).await;
            }
            (Baseline::BoxFuture, _) => {
                self.raw_calls(part, calls, clocked, raw::boxed_future::<N>).await;
            }
            (Baseline::PingPong | Baseline::Word, Some(far)) => {
                self.exchange(part, baseline, calls, false, &far.object).await?;
                self.exchange(part, baseline, clocked, true, &far.object).await?;
            }
            (Baseline::Tcp | Baseline::Tipc | Baseline::Rdma, Some(Far { object, line: Some(line) })) => {
                self.echo(part, calls, false, object, line).await?;
                self.echo(part, clocked, true, object, line).await?;
            }
            (Baseline::PingPong | Baseline::Word | Baseline::Tcp | Baseline::Tipc | Baseline::Rdma, _) => {}
        }
        Ok(())
    }

    async fn raw_calls<C: Future<Output = u64>>(
        &self,
        part: &mut Part,
        calls: u64,
        clocked: u64,
        call: impl Fn(u64) -> C,
    ) {
        let (before, start) = (allocations::of_this_thread(), ticks::now());
        for value in 0..calls {
            black_box(call(value).await);
        }
        let allocations = allocations::of_this_thread() - before;
        part.add(Cost { calls, took: start.elapsed(), allocations });
        let mut latencies = part.take_latencies();
        for value in 0..clocked {
            let start = ticks::ticks();
            black_box(call(value).await);
            latencies.saturating_record(self.clock.ns_since(start).max(1));
        }
        part.latencies = Some(latencies);
    }

    /// Plays ping-pong with the thread of the other core, which answers from within a method there.
    async fn exchange(
        &self,
        part: &mut Part,
        baseline: Baseline,
        calls: u64,
        clocked: bool,
        far: &Ref<Still>,
    ) -> Result<(), CallError> {
        let payload = if baseline == Baseline::PingPong { self.plan.payload } else { 0 };
        let exchange = Exchange { calls, outstanding: self.plan.outstanding, payload, park: self.plan.park };
        exchange.prepare();
        far.echo(exchange).within(ECHO_BUDGET).send()?;
        while !exchange.is_answered() {
            let_others_run().await;
        }
        let mut sent = [0; WORDS_MAX];
        let mut latencies = part.take_latencies();
        let (before, start) = (allocations::of_this_thread(), ticks::now());
        let outcome = if clocked {
            let sent = std::cell::Cell::from_mut(&mut sent[..]).as_slice_of_cells();
            let answered =
                |place: usize| latencies.saturating_record(self.clock.ns_since(sent[place].get()).max(1));
            exchange.call(|place| sent[place].set(ticks::ticks()), answered)
        } else {
            exchange.call(|_| (), |_| ())
        };
        let cost = Cost { calls, took: start.elapsed(), allocations: allocations::of_this_thread() - before };
        part.latencies = Some(latencies);
        if !clocked {
            part.add(cost);
        }
        outcome.map_err(unavailable)
    }

    /// Sends raw frames to the thread of the other process, which answers from within a method there.
    async fn echo(
        &self,
        part: &mut Part,
        calls: u64,
        clocked: bool,
        far: &Ref<Still>,
        line: &mut Caller,
    ) -> Result<(), CallError> {
        let echo = Echo { calls, park: self.plan.park };
        far.echo_raw(echo).within(ECHO_BUDGET).send()?;
        while !line.is_answered().map_err(unavailable)? {
            let_others_run().await;
            // Those too that are no tasks of this core, such as a thread that drives the links.
            std::thread::yield_now();
        }
        let sent = vec![std::cell::Cell::new(0); self.plan.outstanding as usize];
        let mut latencies = part.take_latencies();
        let (before, start) = (allocations::of_this_thread(), ticks::now());
        let outcome = if clocked {
            let answered =
                |place: usize| latencies.saturating_record(self.clock.ns_since(sent[place].get()).max(1));
            line.call(&echo, |place| sent[place].set(ticks::ticks()), answered)
        } else {
            line.call(&echo, |_| (), |_| ())
        };
        let cost = Cost { calls, took: start.elapsed(), allocations: allocations::of_this_thread() - before };
        part.latencies = Some(latencies);
        if !clocked {
            part.add(cost);
        }
        outcome.map_err(unavailable)
    }

    fn baselines(&self) -> &'static [Baseline] {
        match (self.plan.case, self.plan.placement, self.plan.outstanding) {
            (Case::Call, Placement::SameCore, 1) => &[Baseline::BoxFuture, Baseline::Function],
            (Case::Call, Placement::CrossCore, _) => &[Baseline::PingPong, Baseline::Word],
            (Case::Echo | Case::EchoVec, Placement::CrossProcess, _) => match self.plan.transport {
                Transport::Loopback => &[],
                Transport::Tcp => &[Baseline::Tcp],
                Transport::Tipc => &[Baseline::Tipc],
                Transport::Rdma => &[Baseline::Rdma],
            },
            _ => &[],
        }
    }

    /// The objects to call. They are all on one core, which follows from an object's key alone.
    async fn callees<E: Entity<Key = u64>>(&self) -> Result<Vec<Ref<E>>, CallError> {
        let wanted = self.plan.objects as usize;
        let mut callees = Vec::with_capacity(wanted);
        let mut key = 0;
        while callees.len() < wanted {
            if self.is_callee(key).await? {
                callees.push(context::object::<E>(key));
            }
            key += 1;
        }
        if self.plan.case.is_million() {
            fastrand::Rng::with_seed(SHUFFLE_SEED).shuffle(&mut callees);
        }
        Ok(callees)
    }

    async fn is_callee(&self, key: u64) -> Result<bool, CallError> {
        let placement = self.plan.placement;
        // All are: there is one core.
        let is_sure = placement == Placement::SameCore;
        Ok(is_sure || context::object::<Still>(key).place().await?.is(placement))
    }

    /// The other thread, if there is one.
    async fn far(&self) -> Result<Option<Far>, CallError> {
        if self.plan.placement == Placement::SameCore {
            return Ok(None);
        }
        let mut key = 0;
        while !self.is_callee(key).await? {
            key += 1;
        }
        let object = context::object::<Still>(key);
        let mut line = None;
        if self.plan.placement == Placement::CrossProcess {
            let plan = &self.plan;
            let carrier = Carrier::new(plan.transport, plan.outstanding, plan.payload + plan.raw_extra);
            let connecting = Connecting::begin(object.listen_raw().await?, carrier).map_err(unavailable)?;
            object.accept_raw(carrier).await?;
            line = Some(connecting.finish().map_err(unavailable)?);
        }
        Ok(Some(Far { object, line }))
    }
}

/// The thread of the called objects.
struct Far {
    /// One of them, which speaks for it.
    object: Ref<Still>,
    /// In another process: the connection of the raw baseline.
    line: Option<Caller>,
}

async fn allocations_at(far: Option<&Far>) -> Result<u64, CallError> {
    match far {
        Some(far) => far.object.allocations().await,
        None => Ok(0),
    }
}

/// Ends the turn; the core goes on with others and comes back.
async fn let_others_run() {
    let mut again = false;
    poll_fn(|context| {
        if std::mem::replace(&mut again, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What our calls are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Baseline {
    BoxFuture,
    Function,
    PingPong,
    Word,
    Tcp,
    Tipc,
    Rdma,
}

impl Baseline {
    fn name(self) -> &'static str {
        BASELINES[self as usize].0
    }
}

/// The baselines, in the order of [`Baseline`], and what they are.
pub(crate) const BASELINES: [(&str, &str); 7] = [
    ("raw-box-future", "same-core: awaiting an async block behind Box<dyn Future>"),
    ("raw-function", "same-core: a plain call that is not inlined"),
    ("raw-ping-pong", "cross-core: the payload and an atomic word to the other thread, a word back"),
    ("raw-word", "cross-core: an atomic word to the other thread and back, without the payload"),
    ("raw-tcp", "cross-process: the payload to the other process over TCP and back, by plain socket calls"),
    ("raw-tipc", "cross-process: the payload to the other process over TIPC and back, by plain socket calls"),
    (
        "raw-rdma",
        "cross-process: the payload to the other process and back, one SEND of InfiniBand verbs each",
    ),
];

/// One row in the making.
struct Part {
    name: &'static str,
    raw: bool,
    calls: u64,
    /// Of each round, for each call.
    took_ns: Vec<f64>,
    allocations: Vec<f64>,
    latencies: Option<Latencies>,
    ns_per_call: Option<f64>,
    /// What a batch is to take.
    batch_ns: f64,
}

impl Part {
    fn new(plan: &Plan, name: &'static str, raw: bool) -> Self {
        Self {
            batch_ns: plan.batch_ns as f64,
            name,
            raw,
            calls: 0,
            took_ns: Vec::new(),
            allocations: Vec::new(),
            latencies: Some(latencies()),
            ns_per_call: None,
        }
    }

    /// As many calls as fill the time of a batch, by what was learnt so far, and some for each that may be under way.
    fn calls_of_a_round(&self, outstanding: u32) -> u64 {
        let calls = self.ns_per_call.map_or(CALLS_FIRST, |ns| (self.batch_ns / ns) as u64);
        calls.max(u64::from(outstanding) * CALLS_OF_A_LANE).max(CALLS_MIN)
    }

    fn add(&mut self, cost: Cost) {
        let calls = cost.calls as f64;
        let ns = cost.took.as_nanos() as f64 / calls;
        self.calls += cost.calls;
        self.took_ns.push(ns);
        self.allocations.push(cost.allocations as f64 / calls);
        // That of the last batch, so that one which was disturbed spoils one guess and not all.
        self.ns_per_call = Some(ns.max(NS_PER_CALL_MIN));
    }

    fn take_latencies(&mut self) -> Latencies {
        self.latencies.take().unwrap_or_else(latencies)
    }

    /// What was measured so far was to warm up.
    fn forget(&mut self) {
        self.calls = 0;
        self.took_ns.clear();
        self.allocations.clear();
        self.latencies = None;
    }

    fn into_measured(mut self) -> Measured {
        let latencies = self.take_latencies();
        let at = |quantile| latencies.value_at_quantile(quantile);
        Measured {
            case: self.name.to_owned(),
            raw: self.raw,
            calls: self.calls + latencies.len(),
            mean_ns: median(&mut self.took_ns),
            allocations: Some(median(&mut self.allocations)),
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: latencies.max(),
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

const WARM_UP_ROUNDS: u32 = 20;
const CALLS_FIRST: u64 = 100;
const CALLS_MIN: u64 = 16;
const CALLS_OF_A_LANE: u64 = 4;
const CLOCKED_CALLS_MAX: u64 = 5_000;
/// A call takes some time, whatever the clock says.
const NS_PER_CALL_MIN: f64 = 0.1;
const SHUFFLE_SEED: u64 = 20_260_701;
const ECHO_BUDGET: Duration = Duration::from_secs(60);
