//! The workbench of the call path: what calls between objects of one core cost. Nanoseconds are for people to read,
//! allocations are for the machine to check; the published figures come from the benchmarks proper.
//!
//! `cargo test --release --lib -p epicserver-runtime bench_ -- --nocapture --test-threads 1`

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;

use epicserver_storage::NodeId;

use super::by_hand::{entity, method};
use super::harness::{Get, Node, node};
use crate::codec::{Wire, layout};
use crate::core::{Action, Core, CoreConfig, Event};
use crate::entity::{Entities, Entity, Method, RawRef};
use crate::error::CallError;
use crate::routes::Routes;
use crate::saving::{SaveNews, SavePolicy};

#[test]
fn bench_same_core_call() {
    report("same-core call, nothing changed", || measure(SpinGet { calls: calls() }, 1));
}

#[test]
fn bench_durable_call() {
    report("same-core call, a durable object changed", || measure(SpinDeposit { calls: calls() }, 1));
}

#[test]
fn bench_calls_outstanding() {
    report("same-core call, 64 outstanding", || measure(SpinGet { calls: calls() / 64 }, 64));
}

#[test]
fn same_core_calls_allocate_nothing() {
    assert_eq!(measure(SpinGet { calls: 20_000 }, 1).allocations, 0);
    assert_eq!(measure(SpinDeposit { calls: 20_000 }, 1).allocations, 0);
}

/// With a counter that stands still the test above would always pass.
#[test]
fn the_allocator_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1u64)));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

const CALLEES: u64 = 1000;
const WARM_UP_CALLS: u64 = 10 * CALLEES;
const ROUNDS: usize = if cfg!(debug_assertions) { 1 } else { 31 };
/// Turns and deliveries of one pass of a core's thread, as its driver has them.
const TURNS_PER_PASS: u32 = 256;
/// A batch is closed after so many passes.
const PASSES_PER_BATCH: u64 = 20;

/// What some calls cost altogether.
#[derive(Clone, Copy, Debug, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Cost {
    calls: u64,
    took_ns: u64,
    allocations: u64,
}

impl Wire for Cost {
    const LAYOUT: u64 = layout::combine("Cost", &[]);
}

/// Calls of one round; `BENCH_CALLS` asks for another number, to see instructions as the difference of two runs.
fn calls() -> u64 {
    let asked = std::env::var("BENCH_CALLS").ok().and_then(|calls| calls.parse().ok());
    asked.unwrap_or(if cfg!(debug_assertions) { 2_000 } else { 100_000 })
}

/// Minimum and median over the rounds: other processes disturb a mean.
fn report(what: &str, round: impl Fn() -> Cost) {
    let rounds = if std::env::var_os("BENCH_CALLS").is_some() { 1 } else { ROUNDS };
    let mut each: Vec<f64> = Vec::new();
    for _ in 0..rounds {
        let cost = round();
        each.push(cost.took_ns as f64 / cost.calls as f64);
    }
    each.sort_by(f64::total_cmp);
    eprintln!("{what}: minimum {:.1} ns, median {:.1} ns", each[0], each[rounds / 2]);
}

/// Has so many objects spin at the same time.
fn measure<M>(spin: M, spinners: u64) -> Cost
where
    M: Method<Entity = Node, Value = Cost, Output = Result<Cost, CallError>> + Clone,
{
    let mut entities = Vec::new();
    <(Node, Account)>::collect(&mut entities);
    let config = CoreConfig::default().for_node(1).remove(0);
    let routes = Routes::solo(NodeId { id: 1, incarnation: 1 }, 1);
    let mut core = Core::new(0, config, &entities, routes.into());
    let (sender, costs) = std::sync::mpsc::channel();
    for spinner in 0..spinners {
        let (sender, spin) = (sender.clone(), spin.clone());
        let job = move |core: &crate::core::CoreState| {
            let call = node(CALLEES * 2 + spinner).call(spin);
            let task = async move {
                let _ = sender.send(call.await.expect("a cost"));
            };
            core.spawn_loose(task).expect("a free slot");
        };
        assert!(core.desk().leave(Box::new(job)).is_ok());
    }
    drop(sender);
    drive(&mut core);
    costs.into_iter().fold(Cost::default(), |sum, cost| Cost {
        calls: sum.calls + cost.calls,
        took_ns: sum.took_ns.max(cost.took_ns),
        allocations: sum.allocations.max(cost.allocations),
    })
}

/// Steps the core to its end, and plays store and storage thread.
fn drive(core: &mut Core) {
    let mut actions = Vec::new();
    let mut passes = 0;
    core.step(0, Event::Desk, &mut actions);
    while core.is_ready() {
        core.step(0, Event::Turns(TURNS_PER_PASS), &mut actions);
        passes += 1;
        let batch = passes / PASSES_PER_BATCH + 1;
        let news = SaveNews { open: batch, durable: batch - 1, failed: Vec::new() };
        core.step(0, Event::Save(news), &mut actions);
        while let Some(action) = actions.pop() {
            let answer = match action {
                Action::Load(ticket) => Event::Loaded(ticket, Ok(None)),
                Action::HandOver(images) => Event::Recycled(images),
                Action::Passed(_) => continue,
                other => panic!("nobody asked for {other:?}"),
            };
            core.step(0, answer, &mut actions);
        }
    }
}

/// The turns of one spinner: some calls to warm up, then those that count.
async fn spin<M: Method<Output = Result<u64, CallError>>>(message: impl Fn() -> M, calls: u64) -> Cost {
    let callees: Vec<RawRef<M::Entity>> = (0..CALLEES).map(reference).collect();
    let (mut start, mut allocations, mut at) = (now(), 0, 0);
    for call in 0..WARM_UP_CALLS + calls {
        if call == WARM_UP_CALLS {
            (start, allocations) = (now(), ALLOCATIONS.get());
        }
        at = if at + 1 == callees.len() { 0 } else { at + 1 };
        callees[at].call(message()).await.expect("a reply");
    }
    let took_ns = start.elapsed().as_nanos() as u64;
    Cost { calls, took_ns, allocations: ALLOCATIONS.get() - allocations }
}

fn reference<E: Entity>(key: u64) -> RawRef<E> {
    use crate::key::StoredKey;
    let key = key.canonical(crate::entity::Stored::<E>::from_view).expect("a number");
    RawRef::of(key, crate::entity::NodeTag::default())
}

#[expect(clippy::disallowed_methods, reason = "a workbench measures real time")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// An object of 32 bytes that is saved whenever it changes.
#[derive(Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Account {
    balance: u64,
    deposits: u64,
    limits: [u64; 2],
}

entity!(Account, u64, "test.Account", SavePolicy::Durable, [Deposit]);

method!(Deposit { amount: u64 } on Account as &'a mut Account, u64, |this, object| {
    object.balance += this.amount;
    object.deposits += 1;
    object.balance
});
method!(SpinGet { calls: u64 } on Node as &'a Node, Cost, |this, _object| spin(|| Get {}, this.calls).await);
method!(SpinDeposit { calls: u64 } on Node as &'a Node, Cost, |this, _object| {
    spin(|| Deposit { amount: 1 }, this.calls).await
});

/// Counts what the thread allocates.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: everything is passed on to the system's allocator; counting touches a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is the system's as well; so below.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, len) }
    }
}
