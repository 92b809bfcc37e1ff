//! The objects that are called. Their bodies do next to nothing, so that what is measured is the call.
//!
//! Up to 1 KiB the argument is an array, passed by value. Longer ones are `Bytes`, which whoever sends so much has: the caller has them once, and
//! who echoes gives back those that came. `echo_vec` takes and gives a `Vec<u8>`, whatever its length; the caller makes one for each call.

use std::fmt::Display;

use epicserver::CallError;
use epicserver::prelude::*;

use crate::allocations;
use crate::driver::Place;
use crate::raw::{self, Exchange};
use crate::raw_line::{self, Carrier, Echo};

/// An object whose methods change nothing. It is durable, as objects are unless said otherwise: the call pays for the gate.
#[entity(name = "bench.Still")]
#[derive(Default)]
pub(crate) struct Still {
    value: u64,
}

#[methods]
impl Still {
    pub(crate) async fn read_0(&self) -> u64 {
        self.value
    }

    pub(crate) async fn read_64(&self, payload: [u8; 64]) -> u64 {
        self.value + u64::from(payload[0])
    }

    pub(crate) async fn read_1024(&self, payload: [u8; 1024]) -> u64 {
        self.value + u64::from(payload[0])
    }

    pub(crate) async fn read_bytes(&self, payload: Bytes) -> u64 {
        self.value + u64::from(payload[0])
    }

    pub(crate) async fn echo_0(&self) {}

    pub(crate) async fn echo_64(&self, payload: [u8; 64]) -> [u8; 64] {
        payload
    }

    pub(crate) async fn echo_1024(&self, payload: [u8; 1024]) -> [u8; 1024] {
        payload
    }

    pub(crate) async fn echo_bytes(&self, payload: Bytes) -> Bytes {
        payload
    }

    pub(crate) async fn echo_vec(&self, payload: Vec<u8>) -> Vec<u8> {
        payload
    }

    /// Where the object lives.
    pub(crate) async fn place(&self) -> Place {
        Place::here()
    }

    /// What the thread of the object's core has allocated so far.
    pub(crate) async fn allocations(&self) -> u64 {
        allocations::of_this_thread()
    }

    /// Answers a raw ping-pong on the thread of the object's core, which does nothing else meanwhile.
    pub(crate) async fn echo(&self, exchange: Exchange) -> Result<(), CallError> {
        raw::echo(&exchange).map_err(unavailable)
    }

    /// Opens a port for a raw baseline.
    pub(crate) async fn listen_raw(&self) -> Result<u16, CallError> {
        raw_line::listen().map_err(unavailable)
    }

    /// Takes the connection that was made to that port.
    pub(crate) async fn accept_raw(&self, carrier: Carrier) -> Result<(), CallError> {
        raw_line::accept(&carrier).map_err(unavailable)
    }

    /// Answers raw frames over that connection on the thread of the object's core, which does nothing else meanwhile.
    pub(crate) async fn echo_raw(&self, echo: Echo) -> Result<(), CallError> {
        raw_line::echo(&echo).map_err(unavailable)
    }
}

/// A baseline that failed, as the error of a call.
pub(crate) fn unavailable(error: impl Display) -> CallError {
    CallError::Unavailable(error.to_string())
}

/// An object of 64 bytes that every call changes and the runtime saves.
#[entity(name = "bench.Account")]
#[derive(Default)]
pub(crate) struct Account {
    balance: u64,
    deposits: u64,
    limits: [u64; 6],
}

#[methods]
impl Account {
    pub(crate) async fn deposit_0(&mut self) -> u64 {
        self.deposit(1)
    }

    pub(crate) async fn deposit_64(&mut self, payload: [u8; 64]) -> u64 {
        self.deposit(payload[0])
    }

    pub(crate) async fn deposit_1024(&mut self, payload: [u8; 1024]) -> u64 {
        self.deposit(payload[0])
    }

    pub(crate) async fn deposit_bytes(&mut self, payload: Bytes) -> u64 {
        self.deposit(payload[0])
    }

    fn deposit(&mut self, amount: u8) -> u64 {
        self.balance += u64::from(amount);
        self.deposits += 1;
        self.limits[0] = self.balance;
        self.balance
    }
}
