//! Objects that are changed and saved, and the one that calls those of its core.

use std::time::Duration;

use epicserver::prelude::*;
use epicserver::{CallError, Entity, context};

use crate::lanes::Lanes;
use crate::ticks::{self, Ticks};

macro_rules! account {
    ($entity:ident, $name:literal, $($save:tt)+) => {
        /// An object of 64 bytes that every call changes.
        #[entity(name = $name, save = $($save)+)]
        #[derive(Default)]
        pub(crate) struct $entity {
            balance: u64,
            deposits: u64,
            limits: [u64; 6],
        }

        #[methods]
        impl $entity {
            pub(crate) async fn deposit(&mut self, payload: [u8; 64]) -> u64 {
                self.balance += u64::from(payload[0]);
                self.deposits += 1;
                self.limits[0] = self.balance;
                self.balance
            }

            #[allow(dead_code, reason = "not asked of all of them")]
            pub(crate) async fn balance(&self) -> u64 {
                self.balance
            }
        }
    };
}
account!(Durable, "bench.save.Durable", durable);
account!(Behind, "bench.save.Behind", behind("50ms"));
account!(Never, "bench.save.Never", never);

/// An object of the same size whose method changes nothing.
#[entity(name = "bench.save.Bystander", save = never)]
#[derive(Default)]
pub(crate) struct Bystander {
    balance: u64,
    limits: [u64; 7],
}

#[methods]
impl Bystander {
    pub(crate) async fn look(&self, payload: [u8; 64]) -> u64 {
        self.balance + self.limits[0] + u64::from(payload[0])
    }
}

/// Which objects are called.
#[message]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Bystander,
    Never,
    Behind,
}

/// What some calls took.
#[message]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) calls: u64,
    pub(crate) took_ns: u64,
}

/// The object that calls.
#[entity(name = "bench.save.Caller", save = never)]
#[derive(Default)]
pub(crate) struct Caller {}

#[methods]
impl Caller {
    /// Calls one object after the other for so long.
    pub(crate) async fn call_for(&self, which: Which, time_ns: u64) -> Result<Took, CallError> {
        let payload = [1; 64];
        match which {
            Which::Bystander => call_for(beside::<Bystander>(), time_ns, |object| object.look(payload)).await,
            Which::Never => call_for(beside::<Never>(), time_ns, |object| object.deposit(payload)).await,
            Which::Behind => call_for(beside::<Behind>(), time_ns, |object| object.deposit(payload)).await,
        }
    }

    /// Calls so many objects once, each for the first time, many at a time.
    pub(crate) async fn visit_stored(&self, objects: u64) -> Result<Took, CallError> {
        let callees: Vec<_> = (0..objects).map(context::object::<Durable>).collect();
        let lanes = Lanes::new(callees, 1, Ticks::calibrate(), |object: &Ref<Durable>| object.balance());
        let start = ticks::now();
        lanes.visit_all().await?;
        Ok(Took { calls: objects, took_ns: start.elapsed().as_nanos() as u64 })
    }
}

async fn call_for<R, C>(objects: Vec<R>, time_ns: u64, call: impl Fn(&R) -> C) -> Result<Took, CallError>
where
    C: Future<Output = Result<u64, CallError>>,
{
    let (start, time) = (ticks::now(), Duration::from_nanos(time_ns));
    let mut calls = 0;
    while start.elapsed() < time {
        for object in &objects {
            call(object).await?;
        }
        calls += BESIDE;
    }
    Ok(Took { calls, took_ns: start.elapsed().as_nanos() as u64 })
}

fn beside<E: Entity<Key = u64>>() -> Vec<Ref<E>> {
    (0..BESIDE).map(context::object::<E>).collect()
}

/// Objects whose calls do not wait for the disk.
pub(crate) const BESIDE: u64 = 1_000;
