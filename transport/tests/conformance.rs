//! The conformance suite on the transports of this crate.

use epicserver_transport::conformance::{Fixture, RawPeer, suite};
use epicserver_transport::{
    Addr, FaultPlan, Faulty, LoopbackNetwork, LoopbackOptions, LoopbackRaw, Transport,
};

#[test]
fn loopback() {
    suite(|| Loopback::new(LoopbackOptions::plain()));
}

#[test]
fn strict() {
    suite(|| Loopback::new(LoopbackOptions::strict()));
}

#[test]
fn faulty_loopback() {
    suite(|| FaultyLoopback { inner: Loopback::new(LoopbackOptions::plain()), seed: 1 });
}

#[test]
fn faulty_strict() {
    for seed in 0..3 {
        suite(|| FaultyLoopback { inner: Loopback::new(LoopbackOptions::strict()), seed });
    }
}

struct Loopback {
    network: LoopbackNetwork,
    options: LoopbackOptions,
    made: u32,
}

impl Loopback {
    fn new(options: LoopbackOptions) -> Self {
        Self { network: LoopbackNetwork::new(), options, made: 0 }
    }

    fn bind(&mut self) -> impl Transport + use<> {
        self.made += 1;
        self.network.bind(&format!("node-{}", self.made), self.options.clone()).expect("the name is free")
    }
}

impl Fixture for Loopback {
    fn transport(&mut self) -> Box<dyn Transport> {
        Box::new(self.bind())
    }

    fn vacant_addr(&mut self) -> Addr {
        Addr::new("nobody")
    }

    fn raw_peer(&mut self, addr: &Addr) -> Option<Box<dyn RawPeer>> {
        Some(Box::new(Raw(self.network.connect_raw(addr).expect("somebody is there"))))
    }
}

struct FaultyLoopback {
    inner: Loopback,
    seed: u64,
}

impl Fixture for FaultyLoopback {
    fn transport(&mut self) -> Box<dyn Transport> {
        let plan = FaultPlan::legal(self.seed + u64::from(self.inner.made) * 1000);
        Box::new(Faulty::new(self.inner.bind(), plan))
    }

    fn vacant_addr(&mut self) -> Addr {
        self.inner.vacant_addr()
    }

    fn raw_peer(&mut self, addr: &Addr) -> Option<Box<dyn RawPeer>> {
        self.inner.raw_peer(addr)
    }
}

struct Raw(LoopbackRaw);

impl RawPeer for Raw {
    fn write(&mut self, bytes: &[u8]) -> bool {
        self.0.write(bytes)
    }

    fn is_down(&mut self) -> bool {
        self.0.is_down()
    }
}
