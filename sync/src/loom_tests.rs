//! Every interleaving of small programs over the shared structures, explored by loom (`--cfg loom`, release).
//!
//! Two threads run to exhaustion; where three are needed, the number of preemptions is bounded. A lost wake-up shows as a
//! deadlock, since timeouts never pass in the model.

use loom::model::Builder;
use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::batch_clock::{CoreClock, StorageClock, batch_clock};
use crate::inbox::Inbox;
use crate::parker::{Parker, Unparker};
use crate::ring::{Consumer, Producer, ring};
use crate::shim::lock;

fn check_bounded(preemptions_max: usize, program: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions_max);
    builder.check(program);
}

mod rings {
    use super::*;

    /// Counts its drops.
    struct Counted(Arc<AtomicUsize>, u64);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn push_all(producer: &mut Producer<Box<u64>>, values: u64) {
        for value in 0..values {
            let mut message = Box::new(value);
            while let Err(back) = producer.try_push(message) {
                message = back;
                thread::yield_now();
            }
        }
    }

    fn pop_in_order(consumer: &mut Consumer<Box<u64>>, values: u64) {
        for expected in 0..values {
            loop {
                match consumer.try_pop() {
                    Some(value) => break assert_eq!(*value, expected),
                    None => thread::yield_now(),
                }
            }
        }
    }

    #[test]
    fn loom_ring_keeps_order_and_loses_nothing_over_two_laps() {
        check_bounded(3, || {
            let (mut producer, mut consumer) = ring(2);
            let pusher = thread::spawn(move || push_all(&mut producer, 5));
            pop_in_order(&mut consumer, 5);
            assert!(consumer.try_pop().is_none());
            pusher.join().expect("no panic");
        });
    }

    #[test]
    fn loom_ring_of_four_publishes_its_head_lazily() {
        check_bounded(2, || {
            let (mut producer, mut consumer) = ring(4);
            let pusher = thread::spawn(move || push_all(&mut producer, 7));
            pop_in_order(&mut consumer, 7);
            pusher.join().expect("no panic");
        });
    }

    #[test]
    fn loom_ring_drops_every_value_once_whoever_goes_first() {
        loom::model(|| {
            let drops = Arc::new(AtomicUsize::new(0));
            let (mut producer, mut consumer) = ring(2);
            let counted = Arc::clone(&drops);
            let pusher = thread::spawn(move || {
                for value in 0..3 {
                    // Refused or not, each value is dropped somewhere.
                    let _ = producer.try_push(Counted(Arc::clone(&counted), value));
                }
            });
            if let Some(first) = consumer.try_pop() {
                assert_eq!(first.1, 0);
            }
            drop(consumer);
            pusher.join().expect("no panic");
            assert_eq!(drops.load(Ordering::Relaxed), 3);
        });
    }

    #[test]
    fn loom_ring_disconnected_means_nothing_comes_later() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring(2);
            let pusher = thread::spawn(move || producer.try_push(Box::new(1)).expect("empty"));
            if consumer.is_disconnected() {
                assert!(consumer.try_pop().is_some());
            }
            pusher.join().expect("no panic");
        });
    }

    /// Both sides sleep when they cannot go on: the producer on a full ring, the consumer on an empty one.
    #[test]
    fn loom_ring_full_and_empty_sleepers_wake_each_other() {
        const VALUES: u64 = 3;
        check_bounded(2, || {
            let (mut producer, mut consumer) = ring(2);
            let (mut producer_parker, mut consumer_parker) = (Parker::new(), Parker::new());
            let (wake_producer, wake_consumer) = (producer_parker.unparker(), consumer_parker.unparker());
            let pusher = thread::spawn(move || {
                for value in 0..VALUES {
                    let mut message = Box::new(value);
                    while let Err(back) = producer.try_push(message) {
                        message = back;
                        producer_parker.prepare();
                        if producer.want_room() {
                            producer_parker.cancel();
                        } else {
                            producer_parker.park(None);
                        }
                    }
                    wake_consumer.unpark_if_parked();
                }
            });
            let mut expected = 0;
            while expected < VALUES {
                while let Some(value) = consumer.try_pop() {
                    assert_eq!(*value, expected);
                    expected += 1;
                }
                consumer_parker.prepare();
                if consumer.room_wanted() {
                    consumer_parker.cancel();
                    wake_producer.unpark_if_parked();
                } else if expected == VALUES || !consumer.is_empty() {
                    consumer_parker.cancel();
                } else {
                    consumer_parker.park(None);
                }
            }
            pusher.join().expect("no panic");
        });
    }
}

mod parkers {
    use super::*;

    fn sleep_until(parker: &mut Parker, mut is_done: impl FnMut() -> bool) {
        while !is_done() {
            parker.prepare();
            if is_done() {
                parker.cancel();
            } else {
                parker.park(None);
            }
        }
    }

    /// A thread that does something twice, and says so.
    fn producer_of_two(work: &Arc<AtomicU64>, unparker: Unparker) -> thread::JoinHandle<()> {
        let published = Arc::clone(work);
        thread::spawn(move || {
            for batch in 1..=2 {
                published.store(batch, Ordering::Relaxed);
                unparker.unpark_if_parked();
            }
        })
    }

    #[test]
    fn loom_parker_loses_no_wake() {
        loom::model(|| {
            let mut parker = Parker::new();
            let work = Arc::new(AtomicU64::new(0));
            let producer = producer_of_two(&work, parker.unparker());
            sleep_until(&mut parker, || work.load(Ordering::Relaxed) == 2);
            producer.join().expect("no panic");
        });
    }

    #[test]
    fn loom_parker_wakes_for_each_of_two_producers() {
        check_bounded(2, || {
            let mut parker = Parker::new();
            let work = [Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false))];
            let producers = work.clone().map(|flag| {
                let unparker = parker.unparker();
                thread::spawn(move || {
                    flag.store(true, Ordering::Relaxed);
                    unparker.unpark_if_parked()
                })
            });
            sleep_until(&mut parker, || work.iter().all(|flag| flag.load(Ordering::Relaxed)));
            for producer in producers {
                producer.join().expect("no panic");
            }
        });
    }

    /// A thread that sleeps in turns here and elsewhere, where a bell is rung that is remembered.
    #[test]
    fn loom_parker_with_a_choice_loses_no_wake() {
        check_bounded(3, || {
            let bell = Arc::new((Mutex::new(false), Condvar::new()));
            let ring = bell.clone();
            let mut parker = Parker::with_either(move || {
                *lock(&ring.0) = true;
                ring.1.notify_one();
            });
            let work = Arc::new(AtomicU64::new(0));
            let producer = producer_of_two(&work, parker.unparker());
            let mut is_away = true;
            while work.load(Ordering::Relaxed) < 2 {
                parker.prepare();
                if work.load(Ordering::Relaxed) == 2 {
                    parker.cancel();
                } else if is_away {
                    if parker.commit() {
                        let mut rung = lock(&bell.0);
                        while !std::mem::take(&mut *rung) {
                            rung = bell.1.wait(rung).expect("no panic");
                        }
                    }
                    parker.cancel();
                } else {
                    parker.park(None);
                }
                is_away = !is_away;
            }
            producer.join().expect("no panic");
        });
    }

    #[test]
    fn loom_parker_unpark_needs_no_other_condition() {
        loom::model(|| {
            let mut parker = Parker::new();
            let unparker = parker.unparker();
            let waker = thread::spawn(move || unparker.unpark());
            loop {
                parker.prepare();
                if parker.park(None) {
                    break;
                }
            }
            waker.join().expect("no panic");
        });
    }

    #[test]
    fn loom_inbox_loses_no_wake_and_no_value() {
        check_bounded(2, || {
            let inbox = Arc::new(Inbox::new(1));
            let mut parker = Parker::new();
            let producers = [1_u64, 2].map(|value| {
                let inbox = Arc::clone(&inbox);
                let unparker = parker.unparker();
                thread::spawn(move || {
                    while inbox.push(value).is_err() {
                        thread::yield_now();
                    }
                    unparker.unpark_if_parked();
                })
            });
            let mut values = Vec::new();
            let mut sum = 0;
            while sum < 3 {
                sleep_until(&mut parker, || !inbox.is_empty());
                inbox.drain_into(&mut values);
                sum += values.drain(..).sum::<u64>();
            }
            assert_eq!(sum, 3);
            for producer in producers {
                producer.join().expect("no panic");
            }
        });
    }

    #[test]
    fn loom_inbox_closed_and_drained_stays_empty() {
        loom::model(|| {
            let inbox = Arc::new(Inbox::new(2));
            let shared = Arc::clone(&inbox);
            let producer = thread::spawn(move || shared.push(1).is_ok());
            inbox.close();
            let mut values = Vec::new();
            inbox.drain_into(&mut values);
            assert_eq!(producer.join().expect("no panic"), !values.is_empty());
            assert!(inbox.is_empty());
        });
    }
}

mod batches {
    use super::*;

    /// What was handed over, and the newest batch that the storage thread took for complete.
    #[derive(Default)]
    struct Ledger {
        closed: u64,
        handed_over: Vec<u64>,
    }

    fn hand_over(ledger: &Mutex<Ledger>, number: u64) {
        let mut ledger = lock(ledger);
        assert!(number > ledger.closed, "a change numbered {number} after {} was closed", ledger.closed);
        ledger.handed_over.push(number);
    }

    /// Closes the open batch, asleep while cores have not passed it. Also shows that no wake-up is lost.
    fn close(storage: &mut StorageClock, parker: &mut Parker, ledger: &Mutex<Ledger>) {
        let number = storage.publish_next() - 1;
        while !storage.all_passed(number) {
            parker.prepare();
            if storage.all_passed(number) {
                parker.cancel();
            } else {
                parker.park(None);
            }
        }
        lock(ledger).closed = number;
    }

    /// A core that wakes, changes something, passes if it sees a newer number and changes again, and sleeps.
    fn work(core: &mut CoreClock, ledger: &Mutex<Ledger>) {
        let woken_under = core.wake();
        hand_over(ledger, woken_under);
        let open = core.observe().open;
        if open > woken_under {
            core.passed(open);
            hand_over(ledger, open);
        }
        core.idle();
    }

    #[test]
    fn loom_batch_clock_closes_no_batch_that_still_grows() {
        check_bounded(3, || {
            let ledger = Arc::new(Mutex::new(Ledger::default()));
            let mut parker = Parker::new();
            let (mut storage, mut cores) = batch_clock(1, parker.unparker());
            let mut core = cores.remove(0);
            let shared = Arc::clone(&ledger);
            let worker = thread::spawn(move || {
                work(&mut core, &shared);
                work(&mut core, &shared);
            });
            close(&mut storage, &mut parker, &ledger);
            close(&mut storage, &mut parker, &ledger);
            worker.join().expect("no panic");
        });
    }

    /// The hand-over itself is unordered here, so only the clock can make it visible: what storage sees of a batch when the
    /// batch closes is all there ever is.
    #[test]
    fn loom_batch_clock_close_makes_the_hand_over_visible() {
        check_bounded(3, || {
            let mut parker = Parker::new();
            let (mut storage, mut cores) = batch_clock(1, parker.unparker());
            let mut core = cores.remove(0);
            let changes = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
            let [under_1, under_2] = changes.clone();
            let change = move |number: u64| {
                let counter = if number == 1 { &under_1 } else { &under_2 };
                counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            };
            let worker = thread::spawn(move || {
                let mut open = core.wake();
                change(open);
                open = core.observe().open;
                core.passed(open);
                core.idle();
                open = core.wake();
                change(open);
                core.idle();
            });
            close(&mut storage, &mut parker, &Mutex::new(Ledger::default()));
            let seen = changes[0].load(Ordering::Relaxed);
            worker.join().expect("no panic");
            assert_eq!(seen, changes[0].load(Ordering::Relaxed));
        });
    }

    #[test]
    fn loom_batch_clock_waits_for_each_of_two_cores() {
        check_bounded(2, || {
            let ledger = Arc::new(Mutex::new(Ledger::default()));
            let mut parker = Parker::new();
            let (mut storage, cores) = batch_clock(2, parker.unparker());
            let mut workers = Vec::new();
            for mut core in cores {
                let shared = Arc::clone(&ledger);
                workers.push(thread::spawn(move || work(&mut core, &shared)));
            }
            close(&mut storage, &mut parker, &ledger);
            for worker in workers {
                worker.join().expect("no panic");
            }
            assert!(lock(&ledger).handed_over.len() >= 2);
        });
    }

    /// A core that stays awake and passes: storage sleeps until it does, and never for ever.
    #[test]
    fn loom_batch_clock_wakes_storage_when_an_awake_core_passes() {
        loom::model(|| {
            let ledger = Arc::new(Mutex::new(Ledger::default()));
            let mut parker = Parker::new();
            let (mut storage, mut cores) = batch_clock(1, parker.unparker());
            let mut core = cores.remove(0);
            core.wake();
            let shared = Arc::clone(&ledger);
            let worker = thread::spawn(move || {
                hand_over(&shared, 1);
                let mut open = core.observe().open;
                while open == 1 {
                    thread::yield_now();
                    open = core.observe().open;
                }
                core.passed(open);
                hand_over(&shared, open);
            });
            close(&mut storage, &mut parker, &ledger);
            worker.join().expect("no panic");
        });
    }

    #[test]
    fn loom_batch_clock_shows_the_failure_with_the_next_number() {
        loom::model(|| {
            let (mut storage, mut cores) = batch_clock(1, Parker::new().unparker());
            let mut core = cores.remove(0);
            let worker = thread::spawn(move || {
                core.wake();
                let seen = core.observe();
                if seen.open > 2 {
                    assert_eq!(seen.failure_generation, 1);
                    assert_eq!(core.take_failures(), [1..=2]);
                }
                assert!(
                    seen.durable == 0 || seen.failure_generation == 1,
                    "durable hides no failure below it"
                );
            });
            storage.publish_next();
            assert_eq!(storage.fail(1), 1..=2);
            storage.publish_next();
            storage.set_durable(3);
            worker.join().expect("no panic");
        });
    }

    /// A message numbered 2 reaches a core that still works under 1: looking again, it must see that 2 is open.
    #[test]
    fn loom_batch_clock_number_in_a_message_is_never_ahead_of_the_receiver() {
        check_bounded(3, || {
            let (mut storage, cores) = batch_clock(2, Parker::new().unparker());
            let [mut sender, mut receiver] = <[CoreClock; 2]>::try_from(cores).expect("two");
            let (mut outbound, mut inbound) = ring(2);
            let sending = thread::spawn(move || {
                let number = sender.wake();
                outbound.try_push(number).expect("empty");
            });
            let receiving = thread::spawn(move || {
                receiver.wake();
                if let Some(number) = inbound.try_pop() {
                    assert!(receiver.observe().open >= number);
                    receiver.passed(number);
                }
            });
            storage.publish_next();
            sending.join().expect("no panic");
            receiving.join().expect("no panic");
        });
    }
}
